//! Where the schemas of Avro and Protobuf are found: in a registry, in files below a directory, or in a setting; and the file of settings
//! that counts more than those of topics.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use kafscale_core::sql_schema::{Declared, FORMATS, SchemaError, is_file_name};
use kafscale_core::topic_config::{SQL_FORMAT, SQL_SCHEMA};
use kafscale_meta::files::read_small_text;
use kafscale_settings::failure::Failure;
use kafscale_settings::sql::SchemaArgs;
use kafscale_storage::scan::TopicInfo;
use parking_lot::Mutex;
use serde::Deserialize;

use super::layout::ValueFormat;
use super::protobuf::file::Imports;
use super::reader::{Origin, Source, framed, places};
use super::registry::{Registered, Registry};
use super::{avro, protobuf};
use crate::error::SqlError;

const MAX_FILE_BYTES: u64 = 4 << 20;
/// Behind the name of a file of Avro: values have the id of a schema before them.
const FRAMED: &str = "framed";

/// The settings of a topic that say how its values are read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub format: Option<String>,
    pub schema: Option<String>,
}

/// Why a file of settings is none.
#[derive(Debug, thiserror::Error)]
pub enum TopicsFileError {
    #[error("the file {} cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the file {} is no file of topics: {source}", path.display())]
    Form { path: PathBuf, source: Box<basic_toml::Error> },
    #[error("the file {}: the topic {topic} has the format `{format}`, which is none of: {}", path.display(), FORMATS.join(", "))]
    Format { path: PathBuf, topic: String, format: String },
    #[error("the file {}: the topic {topic}: {source}", path.display())]
    Schema { path: PathBuf, topic: String, source: SchemaError },
}

#[derive(Debug, Default)]
pub struct Schemas {
    registry: Option<Arc<Registry>>,
    dir: Option<PathBuf>,
    topics: Option<TopicsFile>,
}

impl Schemas {
    pub fn open(args: &SchemaArgs) -> Result<Schemas, Failure> {
        let registry = args.registry()?.map(|settings| {
            let url = settings.url.clone();
            let failed = |e| Failure::usage(format!("--schema-registry {url}: {e}"));
            Registry::new(settings).map(Arc::new).map_err(failed)
        });
        let topics = args.topics_file.as_deref().map(TopicsFile::load).transpose();
        Ok(Schemas {
            registry: registry.transpose()?,
            dir: args.schema_dir.clone(),
            topics: topics.map_err(|e| Failure::usage(format!("--topics-file: {e}")))?,
        })
    }

    /// What is set for a topic.
    pub fn settings(&self, topic: &TopicInfo) -> Settings {
        let of_file = self.topics.as_ref().and_then(|file| file.of(&topic.name));
        of_file.unwrap_or_else(|| {
            let config = |name: &str| topic.configs.get(name).cloned();
            Settings { format: config(SQL_FORMAT), schema: config(SQL_SCHEMA) }
        })
    }

    /// How the values of a topic are read. `newest` gives the newest of them, which says more where the registry has no subject. `None`:
    /// nobody knows a schema yet.
    pub async fn source(
        &self,
        topic: &str,
        format: ValueFormat,
        declared: Declared,
        newest: impl AsyncFnOnce() -> Result<Option<Vec<u8>>, SqlError>,
    ) -> Result<Option<Source>, SqlError> {
        let refused = |why: String| SqlError::Schema { topic: topic.to_owned(), why };
        let (subject, message) = match (declared, format) {
            (Declared::Inline(text), _) => return avro_here(&text, false).map(Some).map_err(refused),
            (Declared::File { name, message }, ValueFormat::Avro) => {
                let text = self.file(&name).map_err(refused)?;
                let read = match message.as_deref() {
                    None => avro_here(&text, false),
                    Some(FRAMED) => avro_here(&text, true),
                    Some(other) => Err(format!("there may be #{FRAMED} behind its name, and not #{other}")),
                };
                return read.map(Some).map_err(|why| refused(format!("the file {name}: {why}")));
            }
            (Declared::File { name, message }, _) => {
                let read = self.protobuf_file(&name, message.as_deref());
                return read.map(Some).map_err(|why| refused(format!("the file {name}: {why}")));
            }
            (Declared::Subject { name, message }, _) => (Some(name), message),
            (Declared::Nothing | Declared::Columns(_), _) => (None, None),
        };
        let Some(registry) = &self.registry else {
            return Err(refused(format!(
                "its format is {}: start with --schema-registry, or set {SQL_SCHEMA}, or a topic of --topics-file, to file:NAME",
                format.name()
            )));
        };
        let asked = |e| SqlError::Registry(Arc::new(e));
        let name = subject.clone().unwrap_or_else(|| format!("{topic}-value"));
        let latest = registry.latest(&name).await.map_err(asked)?;
        if latest.is_none() && subject.is_some() {
            return Err(refused(format!("the schema registry {} has no subject {name}", registry.url())));
        }
        let is_settled = latest.is_some() && (format == ValueFormat::Avro || message.is_some());
        let newest = if is_settled { None } else { newest().await? };
        let written = match newest.as_deref().and_then(framed) {
            Some((id, rest)) => Some((registry.by_id(id).await.map_err(asked)?, rest)),
            None => None,
        };
        let origin = Origin::Registry(Arc::clone(registry));
        match (format, latest, written) {
            (_, None, None) => Ok(None),
            (ValueFormat::Avro, Some(found), _) | (ValueFormat::Avro, None, Some((found, _))) => {
                match found {
                    Registered::Avro(table) => Ok(Some(Source::Avro { table, from: origin })),
                    other => Err(refused(other.why_not("Avro"))),
                }
            }
            (_, latest, written) => {
                protobuf_registered(latest, message, written, origin).map(Some).map_err(refused)
            }
        }
    }

    fn file(&self, name: &str) -> Result<String, String> {
        let dir = self.dir.as_ref();
        let dir = dir.ok_or_else(|| format!("its schema is in the file {name}: start with --schema-dir"))?;
        let failed = |e: io::Error| format!("the file {} cannot be read: {e}", dir.join(name).display());
        read_small_text(&dir.join(name), MAX_FILE_BYTES).map_err(failed)
    }

    fn protobuf_file(&self, name: &str, message: Option<&str>) -> Result<Source, String> {
        let text = self.file(name)?;
        let imports = Files(self.dir.clone());
        let file = protobuf::File::compile(name, &text, imports).map_err(|e| e.to_string())?;
        let root = file.message(message).map_err(|e| e.to_string())?;
        let table = Arc::new(protobuf::Table::new(&root));
        Ok(Source::Protobuf { table, file, from: Origin::Here { framed: false } })
    }
}

fn avro_here(text: &str, framed: bool) -> Result<Source, String> {
    let table = avro::Schema::parse(text, &[]).map_err(|e| e.to_string())?;
    Ok(Source::Avro { table: Arc::new(table), from: Origin::Here { framed } })
}

/// The message that is named, or else the one that the newest value is, as the newest schema has it.
fn protobuf_registered(
    latest: Option<Registered>,
    message: Option<String>,
    written: Option<(Registered, &[u8])>,
    origin: Origin,
) -> Result<Source, String> {
    let of_value = match &written {
        Some((Registered::Protobuf(file), rest)) => {
            let mut rest = *rest;
            places(&mut rest).and_then(|places| file.at(&places))
        }
        _ => None,
    };
    let file = match (latest, written) {
        (Some(Registered::Protobuf(file)), _) | (None, Some((Registered::Protobuf(file), _))) => file,
        (Some(other), _) | (None, Some((other, _))) => return Err(other.why_not("Protobuf")),
        (None, None) => return Err("there is no schema".to_owned()),
    };
    let known = of_value.and_then(|message| file.message(Some(message.full_name())).ok());
    let root = match (message, known) {
        (None, Some(known)) => known,
        (message, _) => file.message(message.as_deref()).map_err(|e| e.to_string())?,
    };
    Ok(Source::Protobuf { table: Arc::new(protobuf::Table::new(&root)), file, from: origin })
}

impl Registered {
    fn why_not(&self, wanted: &str) -> String {
        match self {
            Registered::Unknown => "the schema registry does not have its schema".to_owned(),
            Registered::Unusable(why) => format!("its schema cannot be used: {why}"),
            Registered::Avro(_) => format!("its schema is of Avro, and not of {wanted}"),
            Registered::Protobuf(_) => format!("its schema is of Protobuf, and not of {wanted}"),
        }
    }
}

/// What `.proto` files import from the directory.
struct Files(Option<PathBuf>);

impl Imports for Files {
    fn text(&self, name: &str) -> Option<String> {
        let path = self.0.as_ref()?.join(name);
        if !is_file_name(name) || !path.exists() {
            return None;
        }
        read_small_text(&path, MAX_FILE_BYTES).ok()
    }
}

/// A file of settings: `[topics.NAME]`, each with a format and a schema. It is read again when it has changed.
#[derive(Debug)]
struct TopicsFile {
    path: PathBuf,
    known: Mutex<(Option<SystemTime>, HashMap<String, Settings>)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Topics {
    #[serde(default)]
    topics: HashMap<String, Settings>,
}

impl TopicsFile {
    fn load(path: &Path) -> Result<TopicsFile, TopicsFileError> {
        let known = (modified(path), TopicsFile::read(path)?);
        Ok(TopicsFile { path: path.to_owned(), known: Mutex::new(known) })
    }

    fn of(&self, topic: &str) -> Option<Settings> {
        let mut known = self.known.lock();
        let modified = modified(&self.path);
        if modified != known.0 {
            match TopicsFile::read(&self.path) {
                Ok(read) => *known = (modified, read),
                Err(error) => tracing::warn!(%error, "the settings of topics are those of before"),
            }
        }
        known.1.get(topic).cloned()
    }

    fn read(path: &Path) -> Result<HashMap<String, Settings>, TopicsFileError> {
        let owned = || path.to_owned();
        let unreadable = |source| TopicsFileError::Unreadable { path: owned(), source };
        let text = read_small_text(path, MAX_FILE_BYTES).map_err(unreadable)?;
        let form = |source| TopicsFileError::Form { path: owned(), source: Box::new(source) };
        let Topics { topics } = basic_toml::from_str(&text).map_err(form)?;
        for (topic, Settings { format, schema }) in &topics {
            if let Some(format) = format.as_ref().filter(|format| !FORMATS.contains(&format.as_str())) {
                return Err(TopicsFileError::Format {
                    path: owned(),
                    topic: topic.clone(),
                    format: format.clone(),
                });
            }
            let declared = Declared::parse(schema.as_deref().unwrap_or_default());
            let checked = declared.and_then(|declared| declared.check(format.as_deref()));
            checked.map_err(|source| TopicsFileError::Schema {
                path: owned(),
                topic: topic.clone(),
                source,
            })?;
        }
        Ok(topics)
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<TopicsFile, TopicsFileError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("topics.toml");
        std::fs::write(&path, text).unwrap();
        TopicsFile::load(&path)
    }

    #[test]
    fn settings_are_those_of_the_file() {
        let file =
            load("[topics.orders]\nformat = \"avro\"\n[topics.\"a.b\"]\nschema = \"id int\"\n").unwrap();
        let read = TopicsFile::read(&file.path);
        assert!(matches!(read, Err(TopicsFileError::Unreadable { .. })), "its directory is gone");
        assert_eq!(file.of("orders").unwrap().format.as_deref(), Some("avro"), "those of before");
        assert_eq!(file.of("a.b").unwrap().schema.as_deref(), Some("id int"));
        assert_eq!(file.of("other"), None);
    }

    #[test]
    fn a_file_with_mistakes_is_refused() {
        for (text, why) in [
            ("[topics.orders]\nformat = \"xml\"", "`xml`, which is none of"),
            ("[topics.orders]\nforma = \"avro\"", "forma"),
            ("[topic.orders]\nformat = \"avro\"", "topic"),
            ("[topics.orders]\nformat = \"json\"\nschema = \"file:a.avsc\"", "has a list of columns"),
            ("[topics.orders]\nschema = \"file:../a\"", "names no file"),
            ("[topics", "is no file of topics"),
        ] {
            let refused = load(text).unwrap_err().to_string();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }

    #[test]
    fn imports_stay_below_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::write(dir.path().join("secret.proto"), "no").unwrap();
        std::fs::write(dir.path().join("in/a.proto"), "yes").unwrap();
        let files = Files(Some(dir.path().join("in")));
        assert_eq!(files.text("a.proto").as_deref(), Some("yes"));
        for name in ["../secret.proto", "/etc/passwd", "in/../../secret.proto", ""] {
            assert_eq!(files.text(name), None, "{name}");
        }
    }
}
