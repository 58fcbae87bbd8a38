//! What `perimeter.toml` says of a database of MySQL or MariaDB.
//!
//! ```toml
//! [collections.billing]
//! kind = "mysql"
//! host = "db.example"
//! database = "billing"
//! user = "perimeter"
//! password = { file = "billing.password" }
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

const STATEMENT_DEFAULT: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MysqlConfig {
    pub host: String,
    #[serde(default = "port")]
    pub port: u16,
    pub database: String,
    /// An account that can only read. `kafscale perimeter check` says when it could do more.
    pub user: String,
    pub password: Option<SecretSource>,
    /// Default: `verify-full`, and `off` on loopback.
    pub tls: Option<Tls>,
    pub tls_ca_file: Option<PathBuf>,
    /// Only these tables. Default: all that the account may read.
    pub tables: Option<Vec<String>>,
    /// The role for a principal or for a group. A caller without one is refused, unless there are
    /// none at all.
    #[serde(default)]
    pub roles: BTreeMap<String, String>,
    /// Variables of the session, without `@`, and what of the caller they hold. Default:
    /// `app_user`, the principal.
    #[serde(default = "session")]
    pub session: BTreeMap<VariableName, Told>,
    /// For a new connection. Default: 5s.
    #[serde(default, deserialize_with = "span")]
    pub connect_timeout: Option<Duration>,
    /// For each answer. Default: 30s.
    #[serde(default, deserialize_with = "span")]
    pub answer_timeout: Option<Duration>,
    /// After which the server ends a statement, however fast its rows are taken. Default: 10m.
    #[serde(default, deserialize_with = "span")]
    pub statement_timeout: Option<Duration>,
    /// After which tables are looked up again. Default: 1m.
    #[serde(default, deserialize_with = "span")]
    pub refresh_interval: Option<Duration>,
    /// Connections at the same time; each scan of a table takes one. Default: 8.
    #[serde(default, deserialize_with = "connections")]
    pub max_connections: Option<usize>,
}

/// A user variable's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VariableName(pub String);

impl<'de> Deserialize<'de> for VariableName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        match crate::config::is_identifier(&name) {
            true => Ok(VariableName(name)),
            false => Err(de::Error::custom("a variable of a session is called as in app_user")),
        }
    }
}

fn port() -> u16 {
    3306
}

fn session() -> BTreeMap<VariableName, Told> {
    BTreeMap::from([(VariableName("app_user".to_owned()), Told::Principal)])
}

impl MysqlConfig {
    pub fn limits(&self) -> Limits {
        Limits {
            connect: self.connect_timeout.unwrap_or(CONNECT_DEFAULT),
            answer: self.answer_timeout.unwrap_or(ANSWER_DEFAULT),
            refresh: self.refresh_interval.unwrap_or(REFRESH_DEFAULT),
            connections: self.max_connections.unwrap_or(CONNECTIONS_DEFAULT),
        }
    }

    pub fn statement(&self) -> Duration {
        self.statement_timeout.unwrap_or(STATEMENT_DEFAULT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_names_alone() {
        let parsed = |name: &str| {
            let text =
                format!("host = \"h\"\ndatabase = \"d\"\nuser = \"u\"\n[session]\n\"{name}\" = \"agent\"");
            basic_toml::from_str::<MysqlConfig>(&text).map_err(|error| error.to_string())
        };
        assert_eq!(parsed("app_agent").unwrap().session.len(), 1);
        for name in ["@app", "app.user", "a = 1, @b", "a`", ""] {
            assert!(parsed(name).is_err(), "{name}");
        }
    }
}
