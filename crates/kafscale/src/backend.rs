//! Backend URLs: where the log (`--store`) and the metadata (`--meta`) are kept.
//!
//! A URL names exactly one backend. One that this build does not have is refused by name: falling back to
//! another backend would lose data without a word.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use kafscale_meta::MetaUrl;

/// Where the log is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    File(PathBuf),
    Memory,
}

impl FromStr for StoreUrl {
    type Err = String;

    /// `file:///absolute/dir`, `file:relative/dir` or `memory:`, as for the metadata.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("s3:") {
            return Err("S3 storage is not in this build yet; use file:///absolute/dir".into());
        }
        match text.parse() {
            Ok(MetaUrl::File(path)) => Ok(Self::File(path)),
            Ok(MetaUrl::Memory) => Ok(Self::Memory),
            Ok(MetaUrl::Etcd(_)) | Err(_) => Err(format!(
                "`{text}` is no place for the log; use file:///absolute/dir, file:relative/dir or memory:"
            )),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => MetaUrl::File(path.clone()).fmt(f),
            Self::Memory => MetaUrl::Memory.fmt(f),
        }
    }
}

/// The metadata backends that this build has.
pub fn parse_meta(text: &str) -> Result<MetaUrl, String> {
    match text.parse() {
        Ok(MetaUrl::Etcd(_)) => {
            Err("etcd metadata is not in this build yet; use file:///absolute/dir".into())
        }
        Ok(url @ (MetaUrl::File(_) | MetaUrl::Memory)) => Ok(url),
        Err(e) => Err(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_print_as_they_were_written() {
        for text in ["file:///var/lib/kafscale", "file:data", "memory:"] {
            assert_eq!(text.parse::<StoreUrl>().map(|url| url.to_string()), Ok(text.to_owned()));
            assert_eq!(parse_meta(text).map(|url| url.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn backends_of_later_builds_are_refused_by_name() {
        let store = "s3://bucket/prefix".parse::<StoreUrl>().unwrap_err();
        assert!(store.contains("S3 storage is not in this build"), "{store}");
        let meta = parse_meta("etcd://host:2379").unwrap_err();
        assert!(meta.contains("etcd metadata is not in this build"), "{meta}");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "/var/lib/kafscale", "file://relative/x", "memory", "memory:x", "http://x"] {
            assert!(text.parse::<StoreUrl>().is_err(), "{text}");
            assert!(parse_meta(text).is_err(), "{text}");
        }
        assert!("etcd://host:2379".parse::<StoreUrl>().is_err());
    }
}
