//! What `perimeter.toml` says of a database of PostgreSQL.
//!
//! ```toml
//! [collections.clinic]
//! kind = "postgres"
//! host = "db.example"
//! database = "clinic"
//! user = "perimeter"
//! password = { env = "CLINIC_PASSWORD" }
//! schemas = ["public", "lab"]
//! roles = { nurses = "nurse_read", alice = "analyst_read" }
//! session = { "app.user" = "principal" }
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::collection::reach::{
    ANSWER_DEFAULT, CONNECT_DEFAULT, CONNECTIONS_DEFAULT, Limits, REFRESH_DEFAULT, Tls, connections, span,
};
use crate::collection::told::Told;
use crate::secret::SecretSource;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// A name or an address, or the directory of a socket.
    pub host: String,
    #[serde(default = "port")]
    pub port: u16,
    pub database: String,
    /// A role that can only read. `kafscale perimeter check` says when it could do more.
    pub user: String,
    pub password: Option<SecretSource>,
    /// Default: `verify-full`, and `off` on loopback.
    pub tls: Option<Tls>,
    pub tls_ca_file: Option<PathBuf>,
    /// Tables of the first one have their plain names, those of others are `schema.table`. Default:
    /// `public`.
    #[serde(default = "schemas")]
    pub schemas: Vec<String>,
    /// Only these tables, by the names that they have here. Default: all that the role may read.
    pub tables: Option<Vec<String>>,
    /// The role for a principal or for a group. A caller without one is refused, unless there are
    /// none at all.
    #[serde(default)]
    pub roles: BTreeMap<String, String>,
    /// Variables of the session and what of the caller they hold, for row security. Default:
    /// `app.user`, the principal.
    #[serde(default = "session")]
    pub session: BTreeMap<VariableName, Told>,
    /// For a new connection. Default: 5s.
    #[serde(default, deserialize_with = "span")]
    pub connect_timeout: Option<Duration>,
    /// For each answer, which is the server's `statement_timeout` too. Default: 30s.
    #[serde(default, deserialize_with = "span")]
    pub answer_timeout: Option<Duration>,
    /// After which tables are looked up again. Default: 1m.
    #[serde(default, deserialize_with = "span")]
    pub refresh_interval: Option<Duration>,
    /// Connections at the same time. Default: 8.
    #[serde(default, deserialize_with = "connections")]
    pub max_connections: Option<usize>,
}

/// The name of a variable of an application, which has a dot: `app.user`. Without one it would be a
/// setting of the server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VariableName(pub String);

impl<'de> Deserialize<'de> for VariableName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let is_part = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        match name.split('.').count() > 1 && name.split('.').all(is_part) {
            true => Ok(VariableName(name)),
            false => Err(de::Error::custom("a variable of a session is called as in app.user")),
        }
    }
}

fn port() -> u16 {
    5432
}

fn schemas() -> Vec<String> {
    vec!["public".to_owned()]
}

fn session() -> BTreeMap<VariableName, Told> {
    BTreeMap::from([(VariableName("app.user".to_owned()), Told::Principal)])
}

impl PostgresConfig {
    pub fn limits(&self) -> Limits {
        Limits {
            connect: self.connect_timeout.unwrap_or(CONNECT_DEFAULT),
            answer: self.answer_timeout.unwrap_or(ANSWER_DEFAULT),
            refresh: self.refresh_interval.unwrap_or(REFRESH_DEFAULT),
            connections: self.max_connections.unwrap_or(CONNECTIONS_DEFAULT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(more: &str) -> Result<PostgresConfig, String> {
        let text = format!("host = \"h\"\ndatabase = \"d\"\nuser = \"u\"\n{more}");
        basic_toml::from_str(&text).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_have_defaults() {
        let config = parsed("").unwrap();
        assert_eq!((config.port, config.schemas.as_slice()), (5432, &["public".to_owned()][..]));
        assert_eq!(config.session.len(), 1);
        assert_eq!(config.limits().answer, Duration::from_secs(30));
    }

    #[test]
    fn settings_of_the_server_are_no_variables() {
        for name in ["role", "statement_timeout", "App.user", "app.", ".user", "app.us er", "app.user'"] {
            assert!(parsed(&format!("[session]\n\"{name}\" = \"principal\"")).is_err(), "{name}");
        }
        assert!(parsed("[session]\n\"app.user\" = \"claims\"").is_err());
        assert!(parsed("password = \"hunter2\"").is_err_and(|error| !error.contains("hunter2")));
        assert!(parsed("max_connections = 0").is_err() && parsed("answer_timeout = \"0\"").is_err());
    }
}
