//! What `perimeter.toml` says of an etcd cluster.
//!
//! ```toml
//! [collections.settings]
//! kind = "etcd"
//! endpoints = ["etcd-0.example:2379", "etcd-1.example:2379"]
//! user = "perimeter"
//! password = { env = "ETCD_PASSWORD" }
//!
//! [collections.settings.tables.flags]
//! prefix = "/flags/"
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::collection::reach::{ANSWER_DEFAULT, CONNECT_DEFAULT, Tls, span};
use crate::secret::SecretSource;

const KEYS_DEFAULT: usize = 1_000_000;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdConfig {
    /// Members of the cluster, each with its port: `etcd.example:2379`.
    #[serde(deserialize_with = "endpoints")]
    pub endpoints: Vec<String>,
    /// A user whose role can only read.
    pub user: Option<String>,
    pub password: Option<SecretSource>,
    /// Default: `verify-full`, and `off` where all members are on loopback.
    pub tls: Option<Tls>,
    pub tls_ca_file: Option<PathBuf>,
    /// The certificate with which the perimeter proves who it is, and its key.
    pub tls_cert_file: Option<PathBuf>,
    pub tls_key_file: Option<PathBuf>,
    /// For a new connection. Default: 5s.
    #[serde(default, deserialize_with = "span")]
    pub connect_timeout: Option<Duration>,
    /// For each answer. Default: 30s.
    #[serde(default, deserialize_with = "span")]
    pub answer_timeout: Option<Duration>,
    /// The most keys that one scan looks at. Default: 1,000,000.
    pub max_keys: Option<usize>,
    pub tables: BTreeMap<String, PrefixTable>,
}

/// Keys that begin alike, as a table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefixTable {
    /// What they begin with. Empty: all keys are meant.
    pub prefix: String,
}

fn endpoints<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let endpoints = Vec::<String>::deserialize(deserializer)?;
    match endpoints.is_empty() {
        true => Err(de::Error::custom("one member is needed at least, as in [\"etcd.example:2379\"]")),
        false => Ok(endpoints),
    }
}

impl EtcdConfig {
    pub fn connect(&self) -> Duration {
        self.connect_timeout.unwrap_or(CONNECT_DEFAULT)
    }

    pub fn answer(&self) -> Duration {
        self.answer_timeout.unwrap_or(ANSWER_DEFAULT)
    }

    pub fn keys_max(&self) -> usize {
        self.max_keys.unwrap_or(KEYS_DEFAULT)
    }
}
