//! `kafscale perimeter check`: connects to every collection at once, and says what works, what was found, how long it took, and what
//! to do where it does not work. Then it holds the rules beside what there is: names that nothing has, and columns that are hidden
//! from everybody because of what they hold.
//!
//! This is for the operator: causes are told with their sources, which callers never see.

use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};

use crate::caller::Caller;
use crate::catalog::Collections;
use crate::collection::{Collection, CollectionError, find};
use crate::config::{Config, ConfigError};
use crate::rules::{ColumnInfo, Inventory, Rulebook, RulesError};
use crate::shape::TableName;

/// A collection that has not answered by then does not work.
const LONGEST: Duration = Duration::from_secs(30);
/// A collection with more tables is not held beside the rules.
pub const TABLES_MAX: usize = 1_000;
/// Collections that are asked for their tables at once.
const ASKED_AT_ONCE: usize = 4;

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

/// The tables that there are now. What does not work, or not within [`LONGEST`], is away, and so is what has more than `tables_max`.
pub async fn inventory(collections: &Collections, tables_max: usize) -> Inventory {
    // Collected, since a closure over borrowed names is not general enough for a task.
    let mut all = Vec::with_capacity(collections.len());
    for (name, collection) in collections {
        let tables = tables_of(name.clone(), Arc::clone(collection), tables_max);
        all.push(tokio::time::timeout(LONGEST, tables));
    }
    let found: Vec<_> = stream::iter(all).buffered(ASKED_AT_ONCE).collect().await;
    let mut inventory = Inventory::default();
    for (name, tables) in collections.keys().cloned().zip(found) {
        match tables.ok().and_then(Result::ok).flatten() {
            Some(tables) => {
                inventory.open.insert(name);
                inventory.tables.extend(tables);
            }
            None => _ = inventory.away.insert(name),
        }
    }
    inventory
}

type Tables = Vec<(TableName, Vec<ColumnInfo>)>;

/// None: there are too many.
async fn tables_of(
    name: String,
    collection: Arc<dyn Collection>,
    tables_max: usize,
) -> Result<Option<Tables>, CollectionError> {
    let operator = Caller::operator();
    let begun = collection.begin(&operator).await?.unwrap_or(collection);
    let names = begun.tables().await?;
    if names.len() > tables_max {
        return Ok(None);
    }
    let mut tables = Tables::new();
    for table in names {
        if let Some(found) = find(begun.as_ref(), &table, &operator).await? {
            tables.push((TableName::new(name.as_str(), found.name), found.columns));
        }
    }
    Ok(Some(tables))
}

/// What is odd about rules, beside what there is: a line each.
pub fn warnings(book: &Rulebook, inventory: &Inventory) -> Vec<String> {
    let found = book.check(inventory);
    book.warnings().iter().chain(&found).map(ToString::to_string).collect()
}

/// The rules beside what there is, as lines of text. `true`: they can be used.
pub fn print_rules(loaded: &Result<Rulebook, RulesError>, inventory: &Inventory) -> (String, bool) {
    let mut text = String::new();
    let book = match loaded {
        Ok(book) => book,
        Err(RulesError::Unreadable { path, source }) if source.kind() == std::io::ErrorKind::NotFound => {
            let _ = writeln!(
                text,
                "There are no rules yet, and nothing is permitted: {} is not there.",
                path.display()
            );
            return (text, true);
        }
        Err(error) => {
            let _ = writeln!(text, "FAILED rules\n         {error}");
            return (text, false);
        }
    };
    for warning in warnings(book, inventory) {
        let _ = writeln!(text, "warning: {warning}");
    }
    for (table, columns) in book.held_back(inventory) {
        let columns = columns.join(", ");
        let _ = writeln!(
            text,
            "note: {table}: {columns} hidden, as rules are about what is in there; a rule that names the column decides otherwise"
        );
    }
    for name in &inventory.away {
        let _ = writeln!(
            text,
            "note: what rules say of {name} is not checked: not all of its tables can be read"
        );
    }
    (text, true)
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
    async fn rules_are_held_beside_what_there_is() {
        let dir = tempfile::tempdir().unwrap();
        rusqlite::Connection::open(dir.path().join("clinic.db"))
            .unwrap()
            .execute_batch("CREATE TABLE patients (id INT, ssn TEXT)")
            .unwrap();
        let path = dir.path().join("perimeter.toml");
        let text = "[collections.clinic]\nkind = \"sqlite\"\npath = \"clinic.db\"\n\
            [collections.gone]\nkind = \"sqlite\"\npath = \"gone.db\"\n";
        let collections = Config::parse(&path, text).unwrap().open().unwrap();
        let none = inventory(&collections, 0).await;
        assert_eq!((none.tables.len(), none.away.len()), (0, 2));
        let inventory = inventory(&collections, TABLES_MAX).await;
        let (policies, rules) = (dir.path().join("a.cedar"), dir.path().join("rules.toml"));
        let load = || Rulebook::load(&policies, &rules, &|_| Ok(vec![7; 32]));
        let (text, is_well) = print_rules(&load(), &inventory);
        assert!(is_well && text.contains("There are no rules yet"), "{text}");
        fs::write(&policies, "forbid (principal, action, resource in Table::\"clinic.Patients\");").unwrap();
        let owed = "[[obligation]]\nid = \"o\"\ntable = \"clinic.patients\"\ncolumn = \"snn\"\nhide = true\n\
            [[obligation]]\ntable = \"gone.x\"\nhide = true\n";
        fs::write(&rules, owed).unwrap();
        let (text, is_well) = print_rules(&load(), &inventory);
        assert!(is_well, "{text}");
        for expected in [
            "the obligation `o`: there is no column `snn`; did you mean `ssn`?",
            "names Table::\"clinic.Patients\", which is not there; did you mean `clinic.patients`?",
            "note: what rules say of gone is not checked",
        ] {
            assert!(text.contains(expected), "{expected} in:\n{text}");
        }
        assert_eq!(text.matches("warning: ").count(), 2, "{text}");
        fs::write(&rules, "x").unwrap();
        assert!(!print_rules(&load(), &inventory).1);
    }

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
