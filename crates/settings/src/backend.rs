//! Backend URLs: where the log (`--store`) and the metadata (`--meta`) are kept.
//!
//! A URL names exactly one backend. One that this build does not have is refused by name: falling back to
//! another backend would lose data without a word.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use kafscale_meta::{Credentials, EtcdOptions, MetaUrl, TlsOptions, files};

use crate::failure::Failure;
use crate::units::Span;

pub const ETCD_CONNECT_TIMEOUT: Span = Span::seconds(2);
pub const ETCD_REQUEST_TIMEOUT: Span = Span::seconds(5);

/// What an etcd cluster needs beyond its address.
#[derive(Debug, Args)]
#[command(next_help_heading = "Metadata in etcd")]
pub struct EtcdArgs {
    /// User of etcd, where it has authentication enabled
    #[arg(long, env = "KAFSCALE_ETCD_USERNAME", value_name = "NAME")]
    pub etcd_username: Option<String>,

    /// Password of the etcd user; better in the variable or in a file than in a flag, which others can see
    #[arg(long, env = "KAFSCALE_ETCD_PASSWORD", value_name = "PASSWORD", hide_env_values = true)]
    pub etcd_password: Option<String>,

    /// File with the password of the etcd user
    #[arg(long, env = "KAFSCALE_ETCD_PASSWORD_FILE", value_name = "FILE")]
    pub etcd_password_file: Option<PathBuf>,

    /// For etcds://: PEM file with the authorities that sign etcd's certificates [default: those of the system]
    #[arg(long, env = "KAFSCALE_ETCD_CA_FILE", value_name = "FILE")]
    pub etcd_ca_file: Option<PathBuf>,

    /// For etcds://: PEM file with the certificate that this process shows to etcd
    #[arg(long, env = "KAFSCALE_ETCD_CERT_FILE", value_name = "FILE")]
    pub etcd_cert_file: Option<PathBuf>,

    /// For etcds://: PEM file with the key of that certificate
    #[arg(long, env = "KAFSCALE_ETCD_KEY_FILE", value_name = "FILE")]
    pub etcd_key_file: Option<PathBuf>,

    /// How long connecting to a member of etcd may take
    #[arg(long, env = "KAFSCALE_ETCD_CONNECT_TIMEOUT", value_name = "TIME", default_value_t = ETCD_CONNECT_TIMEOUT)]
    pub etcd_connect_timeout: Span,

    /// How long a request to etcd may take, with all attempts; then it fails, and may be tried again
    #[arg(long, env = "KAFSCALE_ETCD_REQUEST_TIMEOUT", value_name = "TIME", default_value_t = ETCD_REQUEST_TIMEOUT)]
    pub etcd_request_timeout: Span,
}

impl EtcdArgs {
    /// Checks the settings together, and reads the password's file.
    pub fn options(&self) -> Result<EtcdOptions, Failure> {
        let credentials = match (&self.etcd_username, self.password()?) {
            (Some(username), Some(password)) => Some(Credentials { username: username.clone(), password }),
            (None, None) => None,
            (Some(_), None) => {
                return Err(Failure::usage("--etcd-username needs --etcd-password or --etcd-password-file"));
            }
            (None, Some(_)) => return Err(Failure::usage("a password for etcd needs --etcd-username")),
        };
        let identity = match (&self.etcd_cert_file, &self.etcd_key_file) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err(Failure::usage("--etcd-cert-file and --etcd-key-file belong together"));
            }
        };
        let (connect_timeout, request_timeout) = (self.etcd_connect_timeout.0, self.etcd_request_timeout.0);
        if connect_timeout.is_zero() || request_timeout.is_zero() {
            return Err(Failure::usage(
                "--etcd-connect-timeout and --etcd-request-timeout must be more than 0",
            ));
        }
        let tls = TlsOptions { ca_file: self.etcd_ca_file.clone(), identity };
        Ok(EtcdOptions { credentials, tls, connect_timeout, request_timeout })
    }

    fn password(&self) -> Result<Option<String>, Failure> {
        match (&self.etcd_password, &self.etcd_password_file) {
            (Some(_), Some(_)) => {
                Err(Failure::usage("give --etcd-password or --etcd-password-file, and not both"))
            }
            (Some(password), None) => Ok(Some(password.clone())),
            (None, Some(file)) => match files::read_text_once(file) {
                Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
                Err(e) => Err(Failure::usage(format!("the password file {}: {e}", file.display()))),
            },
            (None, None) => Ok(None),
        }
    }
}

/// Where the log is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    File(PathBuf),
    Memory,
    /// A bucket of an object store, and what all names in it begin with; may be empty.
    S3 {
        bucket: String,
        prefix: String,
    },
}

impl StoreUrl {
    /// Whether several brokers may share the store.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::S3 { .. })
    }
}

impl FromStr for StoreUrl {
    type Err = String;

    /// `s3://bucket/prefix`, or `file:///absolute/dir`, `file:relative/dir` or `memory:`, as for the metadata.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(place) = text.strip_prefix("s3://") {
            return bucket_and_prefix(place).ok_or_else(|| {
                format!("`{text}` is no bucket; use s3://bucket or s3://bucket/prefix, of letters, digits, dots, dashes and underscores")
            });
        }
        match text.parse() {
            Ok(MetaUrl::File(path)) => Ok(Self::File(path)),
            Ok(MetaUrl::Memory) => Ok(Self::Memory),
            Ok(MetaUrl::Etcd(_)) | Err(_) => Err(format!(
                "`{text}` is no place for the log; use s3://bucket/prefix, file:///absolute/dir, file:relative/dir or memory:"
            )),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => MetaUrl::File(path.clone()).fmt(f),
            Self::Memory => MetaUrl::Memory.fmt(f),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// Splits `bucket/prefix`. Names are of characters that need no escaping anywhere.
fn bucket_and_prefix(place: &str) -> Option<StoreUrl> {
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let prefix = prefix.trim_end_matches('/');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let name = |part: &str| !part.is_empty() && part.chars().all(plain) && !part.chars().all(|c| c == '.');
    let good = name(bucket) && (prefix.is_empty() || prefix.split('/').all(name));
    good.then(|| StoreUrl::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

/// `etcd://host:port,…` or `etcds://…` from a list of members, as other tools for etcd write it: with or without http:// or https://.
pub fn etcd_members(list: &str) -> Result<MetaUrl, String> {
    let members: Vec<&str> = list.split(',').map(str::trim).collect();
    let tls = members.iter().all(|member| member.starts_with("https://"));
    if !tls && members.iter().any(|member| member.starts_with("https://")) {
        return Err(format!("`{list}`: either all members of etcd are https:// or none"));
    }
    let bare = members.iter().map(|m| m.trim_start_matches("https://").trim_start_matches("http://"));
    let bare: Vec<&str> = bare.map(|member| member.trim_end_matches('/')).collect();
    let url = format!("{}{}", if tls { "etcds://" } else { "etcd://" }, bare.join(","));
    url.parse().map_err(|e: kafscale_meta::Error| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_print_as_they_were_written() {
        for text in ["file:///var/lib/kafscale", "file:data", "memory:"] {
            assert_eq!(text.parse::<StoreUrl>().map(|url| url.to_string()), Ok(text.to_owned()));
            assert_eq!(
                text.parse::<MetaUrl>().map(|url| url.to_string()).map_err(|e| e.to_string()),
                Ok(text.to_owned())
            );
        }
    }

    #[test]
    fn buckets_are_named_with_a_prefix_or_without() {
        let s3 = |bucket: &str, prefix: &str| StoreUrl::S3 { bucket: bucket.into(), prefix: prefix.into() };
        for (text, url) in [
            ("s3://bucket", s3("bucket", "")),
            ("s3://bucket/", s3("bucket", "")),
            ("s3://my-bucket.1/a/b_c/", s3("my-bucket.1", "a/b_c")),
        ] {
            assert_eq!(text.parse(), Ok(url.clone()));
            assert_eq!(url.to_string().parse(), Ok(url));
        }
        for text in ["s3:", "s3://", "s3:///a", "s3://a//b", "s3://a/b c", "s3://a/../b", "s3://ä"] {
            assert!(text.parse::<StoreUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn etcd_members_are_taken_as_other_tools_write_them() {
        for (list, url) in [
            ("a:2379", "etcd://a:2379"),
            ("http://a:2379/, b:2379", "etcd://a:2379,b:2379"),
            ("https://a:2379,https://b:2379", "etcds://a:2379,b:2379"),
        ] {
            assert_eq!(etcd_members(list).map(|url| url.to_string()), Ok(url.to_owned()));
        }
        assert!(etcd_members("https://a:1,b:1").unwrap_err().contains("all members"));
        assert!(etcd_members("a").is_err());
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "/var/lib/kafscale", "file://relative/x", "memory", "memory:x", "http://x"] {
            assert!(text.parse::<StoreUrl>().is_err(), "{text}");
            assert!(text.parse::<MetaUrl>().is_err(), "{text}");
        }
        assert!("etcd://host:2379".parse::<StoreUrl>().is_err());
    }
}
