//! What `perimeter.toml` says of a Redis server.
//!
//! ```toml
//! [collections.cache]
//! kind = "redis"
//! host = "cache.example"
//! password = { env = "CACHE_PASSWORD" }
//!
//! [collections.cache.tables.sessions]
//! pattern = "session:*"
//! fields = "user text, seen bigint"
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use kafscale_core::sql_schema::{self, SqlColumn};
use serde::{Deserialize, Deserializer, de};

use crate::collection::reach::{ANSWER_DEFAULT, CONNECT_DEFAULT, Tls, span};
use crate::secret::SecretSource;

const KEYS_DEFAULT: usize = 1_000_000;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    pub host: String,
    #[serde(default = "port")]
    pub port: u16,
    /// The number of the database.
    #[serde(default)]
    pub database: i64,
    /// An account that can only read (`+@read -@write`). `kafscale perimeter check` says when it
    /// could do more.
    pub user: Option<String>,
    pub password: Option<SecretSource>,
    /// Default: `verify-full`, and `off` on loopback.
    pub tls: Option<Tls>,
    pub tls_ca_file: Option<PathBuf>,
    /// For a new connection. Default: 5s.
    #[serde(default, deserialize_with = "span")]
    pub connect_timeout: Option<Duration>,
    /// For each answer. Default: 30s.
    #[serde(default, deserialize_with = "span")]
    pub answer_timeout: Option<Duration>,
    /// The most keys that one scan looks at. Default: 1,000,000.
    pub max_keys: Option<usize>,
    pub tables: BTreeMap<String, KeyTable>,
}

/// Keys as a table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyTable {
    /// As `SCAN` takes it, with a single `*` at its end: `session:*`.
    pub pattern: Pattern,
    /// Fields of hashes that are columns, with their types in SQL, as `user text, seen bigint`.
    /// Default: none.
    #[serde(default)]
    pub fields: Fields,
}

/// Keys that begin so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(pub String);

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.strip_suffix('*') {
            Some(prefix) if !prefix.contains(['*', '?', '[', ']', '\\']) => Ok(Pattern(prefix.to_owned())),
            _ => Err(de::Error::custom("a pattern has one `*`, which is its end, as in session:*")),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct Fields(pub Vec<SqlColumn>);

/// Columns of every table.
pub const COLUMNS: [&str; 4] = ["key", "type", "value", "ttl"];

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = sql_schema::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)?;
        match fields.iter().find(|field| COLUMNS.contains(&field.name.as_str())) {
            Some(field) => {
                Err(de::Error::custom(format!("each table has a column {} of its own", field.name)))
            }
            None => Ok(Fields(fields)),
        }
    }
}

fn port() -> u16 {
    6379
}

impl RedisConfig {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_beginning() {
        let of = |pattern: &str| {
            let text = format!("host = \"h\"\n[tables.a]\npattern = '{pattern}'");
            basic_toml::from_str::<RedisConfig>(&text).map(|config| config.tables["a"].pattern.0.clone())
        };
        assert_eq!(of("session:*").unwrap(), "session:");
        assert_eq!(of("*").unwrap(), "");
        for pattern in ["session", "a*b*", "a?*", "[ab]*", "\\**"] {
            assert!(of(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn fields_are_columns_beside_those_of_every_table() {
        let of = |fields: &str| {
            let text = format!("host = \"h\"\n[tables.a]\npattern = \"*\"\nfields = \"{fields}\"");
            basic_toml::from_str::<RedisConfig>(&text).map(|config| config.tables["a"].fields.0.len())
        };
        assert_eq!(of("user text, seen bigint").unwrap(), 2);
        assert!(of("ttl bigint").is_err() && of("seen nonsense").is_err());
    }
}
