//! Labels of topics that answers were written to: they stick to what is read back, whatever the rules say of its name.
//!
//! They are in a file beside the audit log, which is written before the first record is. Labels are only added: who takes one away
//! says so in the file, while the perimeter is stopped.
//!
//! Invariant: a column of such a topic has all labels of the column of that name that was written; one of another name, as the whole
//! payload, has all labels of the topic, unless it has nothing of the payload.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use kafscale_meta::files::read_small_text;
use parking_lot::RwLock;

use crate::rules::ColumnInfo;

const MAX_BYTES: u64 = 64 << 20;
const TOPICS_MAX: usize = 10_000;
const COLUMNS_MAX: usize = 2_000;
const FILE_MODE: u32 = 0o640;
/// The kind of collections that these are of.
const KIND: &str = "topics";
/// Columns of a topic that have nothing of the payload.
const BESIDE_PAYLOAD: [&str; 6] = ["_topic", "_partition", "_offset", "_ts", "_headers", "_segment"];

/// Labels by column.
pub type ColumnLabels = BTreeMap<String, BTreeSet<String>>;

#[derive(Debug, thiserror::Error)]
pub enum LabelledError {
    #[error("the labels of topics in {} cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} has no labels of topics: {source}", path.display())]
    Form { path: PathBuf, source: serde_json::Error },
    #[error("the labels of topics cannot be written to {}: {source}", path.display())]
    Unwritten { path: PathBuf, source: io::Error },
    #[error("{} has labels of {TOPICS_MAX} topics, or {COLUMNS_MAX} columns of this one, and takes no more", path.display())]
    Full { path: PathBuf },
}

/// See the file's comment.
#[derive(Debug, Default)]
pub struct Labelled {
    /// None: they are forgotten with the process.
    path: Option<PathBuf>,
    topics: RwLock<BTreeMap<String, ColumnLabels>>,
}

impl Labelled {
    /// Reads the file beside an audit log, where there is one.
    pub fn beside(log: &Path) -> Result<Labelled, LabelledError> {
        let mut path = log.as_os_str().to_owned();
        path.push(".labels");
        let path = PathBuf::from(path);
        let topics = match read_small_text(&path, MAX_BYTES) {
            Ok(text) => serde_json::from_str(&text)
                .map_err(|source| LabelledError::Form { path: path.clone(), source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(LabelledError::Unreadable { path, source }),
        };
        Ok(Labelled { path: Some(path), topics: RwLock::new(topics) })
    }

    /// Adds labels of what is about to be written to a topic. They are on disk when this returns.
    pub fn add(&self, topic: &str, columns: &ColumnLabels) -> Result<(), LabelledError> {
        let mut topics = self.topics.write();
        let mut of_topic = topics.get(topic).cloned().unwrap_or_default();
        for (column, labels) in columns {
            of_topic.entry(column.clone()).or_default().extend(labels.iter().cloned());
        }
        if topics.get(topic) == Some(&of_topic) {
            return Ok(());
        }
        let path = self.path.clone().unwrap_or_default();
        if topics.len() >= TOPICS_MAX && !topics.contains_key(topic) || of_topic.len() > COLUMNS_MAX {
            return Err(LabelledError::Full { path });
        }
        let mut all = topics.clone();
        all.insert(topic.to_owned(), of_topic);
        if self.path.is_some() {
            replace(&path, &all).map_err(|source| LabelledError::Unwritten { path, source })?;
        }
        *topics = all;
        Ok(())
    }

    /// Whether answers were written to a table.
    pub fn is_written_to(&self, kind: &str, table: &str) -> bool {
        kind == KIND && self.topics.read().contains_key(table)
    }

    /// The topics to which answers were written.
    pub fn topics(&self) -> Vec<String> {
        self.topics.read().keys().cloned().collect()
    }

    /// Columns of a table with the labels that stick to it.
    pub fn columns(&self, kind: &str, table: &str, mut columns: Vec<ColumnInfo>) -> Vec<ColumnInfo> {
        let topics = self.topics.read();
        let Some(labelled) = topics.get(table).filter(|_| kind == KIND) else { return columns };
        let all: BTreeSet<&String> = labelled.values().flatten().collect();
        for column in &mut columns {
            column.labels = match labelled.get(&column.name) {
                // Whatever a column that was written is called: it is in the payload.
                _ if BESIDE_PAYLOAD.contains(&column.name.as_str()) => Vec::new(),
                Some(labels) => labels.iter().cloned().collect(),
                None => all.iter().map(|label| (*label).clone()).collect(),
            };
        }
        columns
    }
}

fn replace(path: &Path, topics: &BTreeMap<String, ColumnLabels>) -> io::Result<()> {
    let mut new = path.to_owned().into_os_string();
    new.push(".new");
    let options = &mut OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(FILE_MODE).open(&new)?;
    file.write_all(&serde_json::to_vec_pretty(topics)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::*;

    fn labels(of: &Labelled, kind: &str, table: &str) -> Vec<String> {
        let column = |name: &str| ColumnInfo::new(name, DataType::Utf8);
        let columns = of.columns(kind, table, ["n", "ward", "_value", "_ts"].map(column).to_vec());
        columns.into_iter().map(|column| column.labels.join(",")).collect()
    }

    #[test]
    fn labels_stick_across_restarts_and_are_only_added() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.jsonl");
        let of = |column: &str, labels: &[&str]| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            ColumnLabels::from([(column.to_owned(), labels), ("ward".to_owned(), BTreeSet::new())])
        };
        let labelled = Labelled::beside(&log).unwrap();
        labelled.add("out", &of("n", &["pii.name"])).unwrap();
        labelled.add("out", &of("n", &[])).unwrap();
        labelled.add("out", &of("born", &["pii.birth"])).unwrap();
        labelled.add("out", &of("_ts", &["pii.birth"])).unwrap();
        for labelled in [labelled, Labelled::beside(&log).unwrap()] {
            assert_eq!(labels(&labelled, "topics", "out"), ["pii.name", "", "pii.birth,pii.name", ""]);
            assert_eq!(labels(&labelled, "sqlite", "out"), [""; 4]);
            assert!(labelled.is_written_to("topics", "out") && !labelled.is_written_to("sqlite", "out"));
            assert_eq!(labels(&labelled, "topics", "other"), [""; 4]);
        }
        fs::write(dir.path().join("audit.jsonl.labels"), "[").unwrap();
        assert!(matches!(Labelled::beside(&log), Err(LabelledError::Form { .. })));
        let gone = Labelled::beside(&dir.path().join("gone/audit")).unwrap();
        assert!(!gone.is_written_to("topics", "out"));
        assert!(matches!(gone.add("out", &of("n", &["x"])), Err(LabelledError::Unwritten { .. })));
        assert_eq!(labels(&gone, "topics", "out"), [""; 4]);
    }
}
