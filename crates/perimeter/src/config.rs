//! The file `perimeter.toml`: which collections there are, and how each is reached.
//!
//! ```toml
//! [collections.clinic]
//! kind = "sqlite"
//! path = "clinic.db"
//! ```
//!
//! A collection's name is that of a schema in SQL: lower-case letters, digits and underscores. Relative paths begin at the
//! directory of this file. Each kind declares its own settings, beside what opens it ([`crate::collection`]).
//!
//! Invariant: an unknown key is an error, and no error repeats a value, which may be a secret in the wrong place.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kafscale_meta::files::read_small_text;
use kafscale_sql::postgres::errors::nearest;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::collection::Collection;
use crate::collection::etcd::{Etcd, EtcdConfig};
use crate::collection::files::{Files, FilesConfig};
use crate::collection::http::{Http, HttpConfig};
use crate::collection::mcp::{Mcp, McpConfig};
use crate::collection::mongodb::{Mongo, MongoConfig};
use crate::collection::mysql::{Mysql, MysqlConfig};
use crate::collection::postgres::{Postgres, PostgresConfig};
use crate::collection::redis::{Redis, RedisConfig};
use crate::collection::sqlite::{Sqlite, SqliteConfig};
use crate::collection::topics::{Topics, TopicsConfig};

const MAX_FILE_BYTES: u64 = 4 << 20;
const MAX_NAME_BYTES: usize = 63;
/// Schemas that the engine has itself.
const RESERVED: [&str; 4] = ["information_schema", "kafscale", "pg_catalog", "public"];

/// What the file says.
#[derive(Debug, Clone)]
pub struct Config {
    pub path: PathBuf,
    pub collections: BTreeMap<String, CollectionConfig>,
}

/// A collection, by its kind. To add a kind, add a line here and one in [`CollectionConfig::open`].
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[expect(clippy::large_enum_variant, reason = "there is one for each collection")]
pub enum CollectionConfig {
    Etcd(EtcdConfig),
    Files(FilesConfig),
    Http(HttpConfig),
    Mcp(McpConfig),
    Mongodb(MongoConfig),
    Mysql(MysqlConfig),
    Postgres(PostgresConfig),
    Redis(RedisConfig),
    Sqlite(SqliteConfig),
    Topics(TopicsConfig),
}

/// Why the file cannot be used. Each names it, and the collection.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is no TOML: {source}", path.display())]
    Syntax { path: PathBuf, source: Box<basic_toml::Error> },
    #[error("{}: {why}", path.display())]
    Form { path: PathBuf, why: String },
    #[error("{}: `{name}` is no name for a collection: use a lower-case letter, then letters, digits and underscores, up to {MAX_NAME_BYTES} in all", path.display())]
    Name { path: PathBuf, name: String },
    #[error("{}: a collection cannot be called `{name}`: the query engine has a schema of that name", path.display())]
    Reserved { path: PathBuf, name: String },
    /// `key` is the path of the key below the collection, or empty.
    #[error("{}: collection {collection}{}: {why}", path.display(), at(key))]
    Collection { path: PathBuf, collection: String, key: String, why: String },
    #[error("{}: collection {collection}: {source}", path.display())]
    Settings { path: PathBuf, collection: String, source: SettingsError },
}

/// What a kind says of its settings.
pub type SettingsError = Box<dyn std::error::Error + Send + Sync>;

fn at(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!(", at {key}") }
}

impl Config {
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        Config::parse(path, &read_small_text(path, MAX_FILE_BYTES).map_err(unreadable)?)
    }

    /// `path` is where the text is from.
    pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
        let syntax = |source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) };
        let form = |why| ConfigError::Form { path: path.to_owned(), why };
        let mut tables: Map<String, Value> = basic_toml::from_str(text).map_err(syntax)?;
        let declared = match tables.remove("collections") {
            Some(Value::Object(declared)) => declared,
            Some(_) => return Err(form("`collections` is no table: write [collections.NAME]".to_owned())),
            None => Map::new(),
        };
        if let Some(key) = tables.keys().next() {
            return Err(form(format!("`{key}` is unknown here: what is known is [collections.NAME]")));
        }
        let collection =
            |(name, value): (String, Value)| {
                check_name(path, &name)?;
                let parsed = CollectionConfig::parse(&value).map_err(|(key, why)| {
                    ConfigError::Collection { path: path.to_owned(), collection: name.clone(), key, why }
                })?;
                Ok((name, parsed))
            };
        let collections = declared.into_iter().map(collection).collect::<Result<_, ConfigError>>()?;
        Ok(Config { path: path.to_owned(), collections })
    }

    /// All collections, of which nothing is asked yet.
    pub fn open(&self) -> Result<BTreeMap<String, Arc<dyn Collection>>, ConfigError> {
        let open = |(name, config): (&String, &CollectionConfig)| {
            let opened = config.open(name, self.base()).map_err(|source| ConfigError::Settings {
                path: self.path.clone(),
                collection: name.clone(),
                source,
            })?;
            Ok((name.clone(), opened))
        };
        self.collections.iter().map(open).collect()
    }

    /// Where relative paths begin.
    pub fn base(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        }
    }
}

fn check_name(path: &Path, name: &str) -> Result<(), ConfigError> {
    if RESERVED.contains(&name) {
        return Err(ConfigError::Reserved { path: path.to_owned(), name: name.to_owned() });
    }
    match is_identifier(name) {
        true => Ok(()),
        false => Err(ConfigError::Name { path: path.to_owned(), name: name.to_owned() }),
    }
}

/// Whether SQL takes a name as it is, without quotes.
pub fn is_identifier(name: &str) -> bool {
    let is_first = |byte: &u8| byte.is_ascii_lowercase() || *byte == b'_';
    let is_next = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    name.len() <= MAX_NAME_BYTES && name.as_bytes().first().is_some_and(is_first) && name.bytes().all(is_next)
}

impl CollectionConfig {
    /// `base` is where relative paths begin.
    pub fn open(&self, name: &str, base: &Path) -> Result<Arc<dyn Collection>, SettingsError> {
        Ok(match self {
            CollectionConfig::Etcd(config) => Arc::new(Etcd::new(name, config.clone(), base)?),
            CollectionConfig::Files(config) => Arc::new(Files::new(name, config, base)?),
            CollectionConfig::Http(config) => Arc::new(Http::new(name, config, base)?),
            CollectionConfig::Mcp(config) => Arc::new(Mcp::new(name, config, base)?),
            CollectionConfig::Mongodb(config) => Arc::new(Mongo::new(name, config.clone(), base)?),
            CollectionConfig::Mysql(config) => Arc::new(Mysql::new(name, config.clone(), base)?),
            CollectionConfig::Postgres(config) => Arc::new(Postgres::new(name, config.clone(), base)?),
            CollectionConfig::Redis(config) => Arc::new(Redis::new(name, config.clone(), base)?),
            CollectionConfig::Sqlite(config) => Arc::new(Sqlite::new(name, config, base)),
            CollectionConfig::Topics(config) => Arc::new(Topics::new(name, config, base)?),
        })
    }

    /// The error is the key's path, where it can be told, and what is wrong.
    fn parse(value: &Value) -> Result<CollectionConfig, (String, String)> {
        if !value.is_object() {
            return Err((String::new(), "it is no table: write [collections.NAME]".to_owned()));
        }
        let parsed = CollectionConfig::deserialize(value);
        parsed.map_err(|error| (culprit(value, &error.to_string()).join("."), reworded(&error.to_string())))
    }
}

/// The key that an error is about, which it does not name itself: without that key there is no such error.
fn culprit(whole: &Value, error: &str) -> Vec<String> {
    let mut path: Vec<String> = Vec::new();
    let pointer = |path: &[String]| {
        let escaped = path.iter().map(|key| key.replace('~', "~0").replace('/', "~1"));
        escaped.map(|key| format!("/{key}")).collect::<String>()
    };
    while let Some(Value::Object(table)) = whole.pointer(&pointer(&path)) {
        let is_cause = |key: &&String| {
            let mut without = whole.clone();
            if let Some(Value::Object(table)) = without.pointer_mut(&pointer(&path)) {
                table.remove(*key);
            }
            CollectionConfig::deserialize(&without).err().is_none_or(|other| other.to_string() != error)
        };
        // Without its kind it has another error in any case.
        let keys = table.keys().filter(|key| !path.is_empty() || *key != "kind");
        match keys.clone().find(is_cause) {
            Some(key) => path.push(key.clone()),
            None => break,
        }
    }
    path
}

/// An error of serde without the value, and with the name that was perhaps meant.
fn reworded(error: &str) -> String {
    let without_value = ["invalid type: ", "invalid value: ", "invalid length: "].iter().find_map(|start| {
        let (found, expected) = error.strip_prefix(start)?.rsplit_once(", expected ")?;
        let found = found.split([' ', '`', '"']).next().unwrap_or("value");
        Some(format!("found {found}, expected {expected}"))
    });
    if let Some(told) = without_value {
        return told;
    }
    let mut names = error.split('`').skip(1).step_by(2);
    match names.next().and_then(|given| nearest(given, names)) {
        Some(near) => format!("{error}; perhaps you meant `{near}`"),
        None => error.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        Config::parse(Path::new("/etc/perimeter.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn collections_are_read_by_kind() {
        let text = "[collections.clinic]\nkind = \"sqlite\"\npath = \"clinic.db\"\n\
            [collections.trials]\nkind = \"files\"\nroot = \"trials\"\n\
            [collections.trials.tables.results]\npath = \"*/year=*/*.parquet\"\n";
        let config = Config::parse(Path::new("/etc/perimeter.toml"), text).unwrap();
        assert_eq!(config.collections.keys().collect::<Vec<_>>(), ["clinic", "trials"]);
        assert!(matches!(config.collections["clinic"], CollectionConfig::Sqlite(_)));
        assert_eq!(config.base(), Path::new("/etc"));
        assert!(Config::parse(Path::new("perimeter.toml"), "").unwrap().collections.is_empty());
    }

    /// Those of the documents that show them.
    #[test]
    fn examples_are_right() {
        let mut kinds = std::collections::BTreeSet::new();
        for document in ["collections.md", "perimeter-collections.md"] {
            let path = Path::new("../../docs").join(document);
            let text = std::fs::read_to_string(&path).unwrap();
            for block in text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
                let config = Config::parse(&path, block).unwrap_or_else(|error| panic!("{error}: {block}"));
                for (name, collection) in &config.collections {
                    // Nothing is connected to, but authorities are read.
                    if let CollectionConfig::Mongodb(_) = collection {
                        collection.open(name, config.base()).unwrap();
                    }
                    let kind = format!("{collection:?}");
                    kinds.insert(kind.split('(').next().unwrap_or_default().to_owned());
                }
            }
        }
        assert_eq!(kinds.len(), 10, "each kind has an example: {kinds:?}");
    }

    #[test]
    fn errors_name_the_file_the_collection_and_the_key() {
        let of = |lines: &str| told(&format!("[collections.clinic]\n{lines}"));
        for (error, parts) in [
            (
                of("kind = \"sqlite\"\npth = \"a\"\npath = \"b\""),
                vec!["at pth", "`pth`", "perhaps you meant `path`"],
            ),
            (of("kind = \"sqlit\"\npath = \"b\""), vec!["`sqlit`", "perhaps you meant `sqlite`"]),
            (of("path = \"b\""), vec!["missing field `kind`"]),
            (of("kind = \"sqlite\""), vec!["missing field `path`"]),
            (of("kind = \"sqlite\"\npath = 20222"), vec!["at path", "found integer"]),
            (
                of(
                    "kind = \"files\"\nroot = \"b\"\n[collections.clinic.tables.a]\npath = \"x\"\nfromat = \"csv\"",
                ),
                vec!["at tables.a.fromat", "perhaps you meant `format`"],
            ),
            (
                of("kind = \"files\"\nroot = \"b\"\n[collections.clinic.tables.a]\nformat = \"csv\""),
                vec!["at tables.a", "missing field `path`"],
            ),
        ] {
            for part in ["/etc/perimeter.toml", "collection clinic"].iter().chain(&parts) {
                assert!(error.contains(part), "{part} in {error}");
            }
            assert!(!error.contains("20222"), "{error}");
        }
    }

    #[test]
    fn names_are_identifiers_of_sql() {
        for name in ["Clinic", "1a", "\"a-b\"", "\"\"", "ä", &"a".repeat(64)] {
            let error = told(&format!("[collections.{name}]\nkind = \"sqlite\"\npath = \"b\""));
            assert!(error.contains("perimeter.toml"), "{name}: {error}");
        }
        assert!(is_identifier("a_1") && is_identifier("_a") && !is_identifier("A"));
        assert!(
            told("[collections.public]\nkind = \"sqlite\"\npath = \"b\"").contains("a schema of that name")
        );
        assert!(told("[colections.a]\nkind = \"sqlite\"").contains("`colections` is unknown"));
        assert!(told("collections = 5").contains("no table"));
        assert!(told("[collections.a\n").contains("is no TOML"));
    }
}
