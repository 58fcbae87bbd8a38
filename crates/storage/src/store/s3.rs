//! A bucket of S3, or of what speaks its protocol.
//!
//! Requests are not repeated in here: who asks knows better what a failure means, and each request is counted.

use std::fmt;
use std::time::Duration;
use std::{str::FromStr, sync::Arc};

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use super::deletes::Deletes;

/// Where the bucket is, and how to speak to it.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Config {
    pub bucket: String,
    /// Everything is under this; empty for the whole bucket.
    pub prefix: String,
    /// Address of the server, without the bucket; `None` for Amazon's own. With http:// nothing is encrypted on the way.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// The bucket as part of the host's name rather than of the path.
    pub virtual_host: bool,
    pub credentials: Option<S3Credentials>,
    /// More settings, by the names of Amazon's variables (AWS_…), where nothing above says otherwise: other sources of
    /// credentials for example. Names that are not known are ignored.
    pub variables: Vec<(String, String)>,
    pub request_timeout: Duration,
    pub connect_timeout: Duration,
}

impl S3Config {
    /// For messages.
    pub fn describe(&self) -> String {
        let S3Config { bucket, prefix, .. } = self;
        let variable =
            |name: &str| self.variables.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let endpoint = self.endpoint.as_deref();
        let endpoint =
            endpoint.or_else(|| variable("AWS_ENDPOINT_URL_S3")).or_else(|| variable("AWS_ENDPOINT_URL"));
        let slash = if prefix.is_empty() { "" } else { "/" };
        format!("s3://{bucket}{slash}{prefix} at {}", endpoint.unwrap_or("Amazon"))
    }
}

/// A key that does not change.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Credentials {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
}

impl S3Config {
    /// A bucket, with everything else at its default.
    pub fn new(bucket: impl Into<String>) -> S3Config {
        S3Config {
            bucket: bucket.into(),
            prefix: String::new(),
            endpoint: None,
            region: None,
            virtual_host: false,
            credentials: None,
            variables: Vec::new(),
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for S3Config {
    /// Without anything secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Config")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// Builds the client. Nothing is asked of the server yet.
pub fn open(config: &S3Config) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = AmazonS3Builder::new();
    for (name, value) in &config.variables {
        if let Ok(key) = AmazonS3ConfigKey::from_str(&name.to_ascii_lowercase()) {
            builder = builder.with_config(key, value);
        }
    }
    // An address without TLS is only ever one that somebody wrote down.
    let options = ClientOptions::new()
        .with_timeout(config.request_timeout)
        .with_connect_timeout(config.connect_timeout)
        .with_allow_http(true);
    builder = builder
        .with_client_options(options.clone())
        .with_bucket_name(&config.bucket)
        .with_virtual_hosted_style_request(config.virtual_host)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() });
    if let Some(endpoint) = &config.endpoint {
        // This key, because it is stronger than the other one, which a variable may have set.
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    if let Some(credentials) = &config.credentials {
        builder = builder
            .with_access_key_id(&credentials.access_key_id)
            .with_secret_access_key(&credentials.secret_access_key);
        if let Some(token) = &credentials.session_token {
            builder = builder.with_token(token);
        }
    }
    let bucket = Deletes::new(builder.build()?, &options)?;
    if config.prefix.is_empty() {
        return Ok(Arc::new(bucket));
    }
    Ok(Arc::new(PrefixStore::new(bucket, Path::parse(&config.prefix)?)))
}
