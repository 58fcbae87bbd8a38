//! How an object store is spoken to: `--store s3://bucket/prefix` says where, these settings say how.
//!
//! Amazon's own variables (AWS_…) mean what they mean to other programs, where no setting of kafscale says otherwise. They are read
//! here, as nothing below the binary reads the environment.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kafscale_storage::{S3Config, S3Credentials};

use crate::failure::Failure;
use crate::units::Span;

pub const REQUEST_TIMEOUT: Span = Span::seconds(30);
pub const CONNECT_TIMEOUT: Span = Span::seconds(5);

/// What a bucket needs beyond its name.
#[derive(Debug, Args)]
#[command(next_help_heading = "Log in an object store")]
pub struct S3Args {
    /// Address of the S3 server, http://host:port or https://…, for others than Amazon's; as AWS_ENDPOINT_URL
    #[arg(long, env = "KAFSCALE_S3_ENDPOINT", value_name = "URL")]
    pub s3_endpoint: Option<String>,

    /// Region of the bucket; as AWS_REGION [default: us-east-1]
    #[arg(long, env = "KAFSCALE_S3_REGION", value_name = "REGION")]
    pub s3_region: Option<String>,

    /// Name the bucket in the host (bucket.host) instead of the path (host/bucket): true or false. Amazon takes both, most other servers only the path
    #[arg(long, env = "KAFSCALE_S3_VIRTUAL_HOST", value_name = "BOOL", default_value_t = false)]
    #[arg(action = clap::ArgAction::Set)]
    pub s3_virtual_host: bool,

    /// Id of a static key; as AWS_ACCESS_KEY_ID. Without one: web identity (AWS_WEB_IDENTITY_TOKEN_FILE), the container's role, or the instance's
    #[arg(long, env = "KAFSCALE_S3_ACCESS_KEY_ID", value_name = "ID")]
    pub s3_access_key_id: Option<String>,

    /// Secret of the static key; as AWS_SECRET_ACCESS_KEY. Better in the variable or in a file than in a flag, which others can see
    #[arg(long, env = "KAFSCALE_S3_SECRET_ACCESS_KEY", value_name = "SECRET", hide_env_values = true)]
    pub s3_secret_access_key: Option<String>,

    /// File with the secret of the static key
    #[arg(long, env = "KAFSCALE_S3_SECRET_ACCESS_KEY_FILE", value_name = "FILE")]
    pub s3_secret_access_key_file: Option<PathBuf>,

    /// How long one request to the object store may take; then it is tried again
    #[arg(long, env = "KAFSCALE_S3_REQUEST_TIMEOUT", value_name = "TIME", default_value_t = REQUEST_TIMEOUT)]
    pub s3_request_timeout: Span,

    /// How long connecting to the object store may take
    #[arg(long, env = "KAFSCALE_S3_CONNECT_TIMEOUT", value_name = "TIME", default_value_t = CONNECT_TIMEOUT)]
    pub s3_connect_timeout: Span,
}

impl S3Args {
    /// The settings for a bucket, checked together. `variables` are the process's; only Amazon's are looked at.
    pub fn config(
        &self,
        bucket: &str,
        prefix: &str,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<S3Config, Failure> {
        let timeout = |flag: &str, span: Span| match span.0 {
            Duration::ZERO => Err(Failure::usage(format!("{flag} must be more than 0"))),
            more => Ok(more),
        };
        if let Some(endpoint) = &self.s3_endpoint
            && !endpoint.starts_with("http://")
            && !endpoint.starts_with("https://")
        {
            return Err(Failure::usage(format!(
                "--s3-endpoint `{endpoint}` must begin with http:// or https://"
            )));
        }
        let credentials = match (&self.s3_access_key_id, self.secret()?) {
            (Some(id), Some(secret_access_key)) => {
                Some(S3Credentials { access_key_id: id.clone(), secret_access_key, session_token: None })
            }
            (None, None) => None,
            (Some(_), None) => {
                return Err(Failure::usage(
                    "--s3-access-key-id needs --s3-secret-access-key or --s3-secret-access-key-file",
                ));
            }
            (None, Some(_)) => return Err(Failure::usage("a secret key needs --s3-access-key-id")),
        };
        Ok(S3Config {
            prefix: prefix.to_owned(),
            endpoint: self.s3_endpoint.clone(),
            region: self.s3_region.clone(),
            virtual_host: self.s3_virtual_host,
            credentials,
            variables: variables.filter(|(name, _)| name.starts_with("AWS_")).collect(),
            request_timeout: timeout("--s3-request-timeout", self.s3_request_timeout)?,
            connect_timeout: timeout("--s3-connect-timeout", self.s3_connect_timeout)?,
            ..S3Config::new(bucket)
        })
    }

    fn secret(&self) -> Result<Option<String>, Failure> {
        match (&self.s3_secret_access_key, &self.s3_secret_access_key_file) {
            (Some(_), Some(_)) => Err(Failure::usage(
                "give --s3-secret-access-key or --s3-secret-access-key-file, and not both",
            )),
            (Some(secret), None) => Ok(Some(secret.clone())),
            (None, Some(file)) => match kafscale_meta::files::read_text_once(file) {
                Ok(text) => Ok(Some(text.trim().to_owned())),
                Err(e) => {
                    Err(Failure::usage(format!("the file {} with the secret key: {e}", file.display())))
                }
            },
            (None, None) => Ok(None),
        }
    }
}

/// The variables of this process, for [`S3Args::config`]. Those that are not text are left out.
pub fn process_variables() -> impl Iterator<Item = (String, String)> {
    let text =
        |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os().filter_map(text)
}
