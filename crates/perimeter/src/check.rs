//! `kafscale perimeter check`: connects to every collection at once, and says what works, what was found, how long it took, and what
//! to do where it does not work.
//!
//! This is for the operator: causes are told with their sources, which callers never see.

use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::collection::{Collection, CollectionError};
use crate::config::{Config, ConfigError};

/// A collection that has not answered by then does not work.
const LONGEST: Duration = Duration::from_secs(30);

/// What was found of one collection.
#[derive(Debug)]
pub struct Row {
    pub collection: String,
    pub kind: &'static str,
    pub took: Duration,
    /// What was found, or why it does not work and what to do.
    pub outcome: Result<Vec<String>, Fault>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub why: String,
    pub what_to_do: &'static str,
}

/// In the order of their names.
pub async fn run(config: &Config) -> Result<Vec<Row>, ConfigError> {
    let collections = config.open()?;
    Ok(join_all(collections.into_iter().map(|(name, collection)| check(name, collection))).await)
}

async fn check(name: String, collection: Arc<dyn Collection>) -> Row {
    let started = Instant::now();
    let outcome = match tokio::time::timeout(LONGEST, collection.check()).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(Fault { why: chain(&error), what_to_do: what_to_do(&error) }),
        Err(_) => {
            let error = CollectionError::TimedOut { collection: name.clone(), limit: LONGEST };
            Err(Fault { why: error.to_string(), what_to_do: what_to_do(&error) })
        }
    };
    Row { collection: name, kind: collection.kind(), took: started.elapsed(), outcome }
}

/// An error and its sources, each once.
fn chain(error: &dyn Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !told.contains(&text) {
            let _ = write!(told, ": {text}");
        }
        source = cause.source();
    }
    told
}

fn what_to_do(error: &CollectionError) -> &'static str {
    match error {
        CollectionError::Unreachable { .. } => {
            "see that the source runs and that its address in the configuration is right"
        }
        CollectionError::TimedOut { .. } => {
            "see whether the source is overloaded, or a firewall drops packets"
        }
        CollectionError::Changed { .. } => "try again; if it goes on, somebody writes into files in place",
        CollectionError::Refused { .. } => "mend the permissions, the path or the secret that is named",
        CollectionError::Question { .. } => "nothing; only some questions are possible",
        CollectionError::Unusable { .. } => {
            "see whether the source is of this kind and undamaged, and within the limits that are named"
        }
    }
}

/// As lines of text. `true`: all collections work.
pub fn print(rows: &[Row]) -> (String, bool) {
    let mut text = String::new();
    for Row { collection, kind, took, outcome } in rows {
        let state = if outcome.is_ok() { "ok    " } else { "FAILED" };
        let _ = writeln!(text, "{state} {collection} ({kind}, {} ms)", took.as_millis());
        match outcome {
            Ok(found) => {
                for line in found {
                    let _ = writeln!(text, "         {line}");
                }
            }
            Err(fault) => {
                let _ = writeln!(text, "         {}", fault.why);
                let _ = writeln!(text, "         What to do: {}.", fault.what_to_do);
            }
        }
    }
    let failed = rows.iter().filter(|row| row.outcome.is_err()).count();
    let _ = match (rows.len(), failed) {
        (0, _) => writeln!(text, "There are no collections. Declare one: [collections.NAME]"),
        (all, 0) => writeln!(text, "All {all} collections work."),
        (all, failed) => writeln!(text, "{failed} of {all} collections do not work."),
    };
    (text, failed == 0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn each_collection_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        rusqlite::Connection::open(dir.path().join("clinic.db"))
            .unwrap()
            .execute_batch("CREATE TABLE people (id INT)")
            .unwrap();
        fs::create_dir(dir.path().join("files")).unwrap();
        fs::write(dir.path().join("files/a.csv"), "id\n1\n").unwrap();
        let path = dir.path().join("perimeter.toml");
        let text = "[collections.clinic]\nkind = \"sqlite\"\npath = \"clinic.db\"\n\
            [collections.gone]\nkind = \"sqlite\"\npath = \"gone.db\"\n\
            [collections.trials]\nkind = \"files\"\nroot = \"files\"\n";
        fs::write(&path, text).unwrap();
        let rows = run(&Config::load(&path).unwrap()).await.unwrap();
        let (text, works) = print(&rows);
        assert!(!works, "{text}");
        for expected in [
            "ok     clinic (sqlite, ",
            "1 tables and 0 views",
            "FAILED gone (sqlite, ",
            "gone.db is not a file",
            "What to do: mend the permissions, the path or the secret that is named.",
            "ok     trials (files, ",
            "a: 1 files",
            "1 of 3 collections do not work.",
        ] {
            assert!(text.contains(expected), "{expected} in:\n{text}");
        }
    }
}
