//! Topics of a KafScale cluster, read from its store as `kafscale sql` reads them.

use std::path::PathBuf;

use serde::Deserialize;

use crate::secret::SecretSource;

/// The settings are those of `kafscale sql`, and mean the same.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicsConfig {
    /// The directory with the log and the metadata, unless `store` and `meta` say otherwise.
    pub data_dir: Option<PathBuf>,
    pub store: Option<String>,
    pub meta: Option<String>,
    pub cluster_name: Option<String>,
    pub etcd_username: Option<String>,
    pub etcd_password: Option<SecretSource>,
    pub etcd_ca_file: Option<PathBuf>,
    pub etcd_cert_file: Option<PathBuf>,
    pub etcd_key_file: Option<PathBuf>,
    pub s3_endpoint: Option<String>,
    pub s3_region: Option<String>,
    #[serde(default)]
    pub s3_virtual_host: bool,
    pub s3_access_key_id: Option<String>,
    pub s3_secret_access_key: Option<SecretSource>,
    pub topics_file: Option<PathBuf>,
    pub schema_dir: Option<PathBuf>,
    pub schema_registry: Option<String>,
    pub schema_registry_username: Option<String>,
    pub schema_registry_password: Option<SecretSource>,
    pub schema_registry_token: Option<SecretSource>,
    pub schema_registry_ca_file: Option<PathBuf>,
    /// The most bytes of a topic that a statement without a bound on time or offsets reads, as `10GiB`.
    pub scan_limit: Option<String>,
}
