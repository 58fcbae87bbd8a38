//! Files below a directory, or below a prefix in a bucket, as tables.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::secret::SecretSource;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesConfig {
    /// A directory, or `s3://bucket/prefix`. Nothing outside of it is read.
    pub root: String,
    /// Tables by their names. Without any, each file and each directory of files is a table of its own.
    #[serde(default)]
    pub tables: BTreeMap<String, FileTable>,
    /// The most files of one table.
    pub max_files: Option<usize>,
    /// The most bytes of one table, as `10GiB`.
    pub max_bytes: Option<String>,
    /// Address of the S3 server, for others than Amazon's.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Name the bucket in the host instead of the path.
    #[serde(default)]
    pub virtual_host: bool,
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<SecretSource>,
}

/// One table of files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileTable {
    /// Below the root, with `*`, `?` and `**`, as `trials/*/year=*/*.parquet`.
    pub path: String,
    /// Default: by the extension.
    pub format: Option<Format>,
    /// Of CSV, a single character. Default: a comma, and a tabulator in `.tsv`.
    pub delimiter: Option<char>,
    /// Whether the first line of CSV names the columns. Default: it does.
    pub header: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Parquet,
    Csv,
    /// One array of objects, or one object.
    Json,
    /// An object on each line.
    Ndjson,
    /// A row for each line.
    Text,
    /// A row for each section.
    Markdown,
}
