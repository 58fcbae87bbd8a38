//! What `perimeter.toml` says of a database of MongoDB.
//!
//! ```toml
//! [collections.shop]
//! kind = "mongodb"
//! hosts = ["mongo-0.example:27017", "mongo-1.example:27017"]
//! replica_set = "rs0"
//! database = "shop"
//! user = "perimeter"
//! password = { env = "SHOP_PASSWORD" }
//!
//! [collections.shop.tables.orders]
//! columns = "id text, city text, total double"
//! fields = { id = "_id", city = "address.city" }
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::fields::FieldPath;
use crate::collection::declared::ColumnList;
use crate::collection::reach::{
    ANSWER_DEFAULT, CONNECT_DEFAULT, CONNECTIONS_DEFAULT, Limits, REFRESH_DEFAULT, Tls, connections, span,
};
use crate::secret::SecretSource;

const STATEMENT_DEFAULT: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MongoConfig {
    /// Members, each with its port: `mongo.example:27017`.
    pub hosts: Vec<String>,
    /// With it, the members that the set itself names are asked too.
    pub replica_set: Option<String>,
    /// Which members are asked. Default: `primary`.
    #[serde(default)]
    pub read_preference: Preference,
    pub database: String,
    /// A user whose role can only read. `kafscale perimeter check` says when it could do more.
    pub user: Option<String>,
    pub password: Option<SecretSource>,
    /// The database that knows the user. Default: `admin`.
    pub auth_database: Option<String>,
    /// Default: `verify-full`, and `off` where all hosts are on loopback.
    pub tls: Option<Tls>,
    /// Default: the authorities that Mozilla trusts.
    pub tls_ca_file: Option<PathBuf>,
    /// For a new connection, and for a member that can be asked. Default: 5s.
    #[serde(default, deserialize_with = "span")]
    pub connect_timeout: Option<Duration>,
    /// For each answer. Default: 30s.
    #[serde(default, deserialize_with = "span")]
    pub answer_timeout: Option<Duration>,
    /// After which the server ends a scan (`maxTimeMS`). Default: 10m.
    #[serde(default, deserialize_with = "span")]
    pub statement_timeout: Option<Duration>,
    /// After which collections are listed and columns are inferred again. Default: 1m.
    #[serde(default, deserialize_with = "span")]
    pub refresh_interval: Option<Duration>,
    /// Connections at the same time, to each member. Default: 8.
    #[serde(default, deserialize_with = "connections")]
    pub max_connections: Option<usize>,
    /// Default: all collections of the database, with columns that are inferred.
    #[serde(default)]
    pub tables: BTreeMap<String, MongoTable>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MongoTable {
    /// The collection's name there. Default: that of the table.
    pub collection: Option<String>,
    /// Columns with their types in SQL, as `id text, total double`. Default: inferred.
    #[serde(default)]
    pub columns: ColumnList,
    /// The field of a column, as `address.city`. Default: the one of its name.
    #[serde(default)]
    pub fields: BTreeMap<String, Field>,
}

/// Which members of a replica set are asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preference {
    #[default]
    Primary,
    PrimaryPreferred,
    Secondary,
    SecondaryPreferred,
    Nearest,
}

/// A path of fields within each other.
#[derive(Debug, Clone)]
pub struct Field(pub FieldPath);

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = FieldPath::parse(&String::deserialize(deserializer)?);
        let bad = "a field is written as in address.city, and none of its parts begins with a dollar sign";
        path.map(Field).ok_or_else(|| de::Error::custom(bad))
    }
}

impl MongoConfig {
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
    fn fields_are_paths() {
        let of = |field: &str| {
            let text = format!(
                "hosts = []\ndatabase = \"d\"\n[tables.a]\ncolumns = \"b text\"\nfields = {{ b = '{field}' }}"
            );
            basic_toml::from_str::<MongoConfig>(&text).map(drop)
        };
        for field in ["_id", "address.city", "a.0.b"] {
            assert!(of(field).is_ok(), "{field}");
        }
        for field in ["", "a..b", ".a", "$where", "a.$b"] {
            assert!(of(field).is_err(), "{field}");
        }
    }
}
