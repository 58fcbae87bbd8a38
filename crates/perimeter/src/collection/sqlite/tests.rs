//! SQLite databases of all forms, read as tables.

use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::prelude::SessionContext;
use futures_util::StreamExt as _;
use rusqlite::Connection;
use tempfile::TempDir;

use super::{Sqlite, SqliteConfig};
use crate::collection::conformance::{self, Subject, caller, open, rows};
use crate::collection::{Collection, CollectionError};

const PEOPLE: &str = "
    CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE, height REAL, born DATE, seen DATETIME,
        alive BOOLEAN, photo BLOB, age INT, note, \"Odd \"\"name\" VARCHAR(9));
    INSERT INTO people VALUES
        (1, 'Ann', 1.5, '1980-02-29', '2024-01-01 10:00:00', 1, x'00ff', 44, 'a', 'x'),
        (2, 'ann', 2.0, NULL, NULL, 0, NULL, NULL, 7, NULL),
        (3, 'ANN', NULL, '1990-01-01', '2024-01-01 11:00:00.5', NULL, x'', 'old', 1.5, ''),
        (4, NULL, 0.0, '2000-12-31', NULL, 7, x'01', 30.5, NULL, 'a%'),
        (5, 'Zoë', -1.5, '2000-12-31', NULL, 1, 'text', -3, x'02', '_'),
        (-9007199254740993, '', 1e300, '2000-12-31', NULL, 1, NULL, 9223372036854775807, 'b', 'A');
    UPDATE people SET name = CAST(x'ff41' AS TEXT) WHERE id = 5;
    CREATE VIEW adults AS SELECT id, name, height * 2 AS twice, born FROM people WHERE id > 0;
    CREATE TABLE plain (x INT);
    INSERT INTO plain VALUES (1), (2), (3);
";

struct Database {
    dir: TempDir,
    writer: Connection,
}

impl Database {
    fn new(sql: &str) -> Database {
        let dir = tempfile::tempdir().unwrap();
        let writer = Connection::open(dir.path().join("it's 100%?.db")).unwrap();
        writer.execute_batch(sql).unwrap();
        Database { dir, writer }
    }

    fn sqlite(&self) -> Sqlite {
        let config = SqliteConfig { path: "it's 100%?.db".into(), immutable: false };
        Sqlite::new("clinic", &config, self.dir.path())
    }

    async fn rows(&self, table: &str, sql: &str) -> Result<Vec<String>, String> {
        let context = SessionContext::new();
        context.register_table("t", open(&self.sqlite(), table).await.provider).unwrap();
        rows(&context, sql).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_views_and_both_journals_conform() {
    for journal in ["DELETE", "WAL"] {
        let database = Database::new(&format!("PRAGMA journal_mode = {journal}; {PEOPLE}"));
        for table in ["people", "adults"] {
            let collection = Arc::new(database.sqlite());
            conformance::check(Subject { collection, table: table.to_owned(), expected: Vec::new() }).await;
        }
    }
    let utf16 = Database::new(&format!("PRAGMA encoding = 'UTF-16'; {PEOPLE}"));
    let collection = Arc::new(utf16.sqlite());
    conformance::check(Subject { collection, table: "people".to_owned(), expected: Vec::new() }).await;
}

#[tokio::test]
async fn values_that_do_not_fit_are_null_and_counted() {
    let database = Database::new(PEOPLE);
    let source = open(&database.sqlite(), "people").await;
    let context = SessionContext::new();
    context.register_table("t", source.provider).unwrap();
    let found = rows(&context, "SELECT id, age, alive FROM t WHERE id > 2").await.unwrap();
    assert_eq!(found, ["3|NULL|NULL", "4|NULL|NULL", "5|-3|true"]);
    let told = (source.provenance.0)();
    assert_eq!(told["misfits"], serde_json::json!({ "age": 2, "alive": 1 }), "{told}");
    assert_eq!(told["rows_read"], 3);
    assert!(told["path"].as_str().unwrap().ends_with("it's 100%?.db"), "{told}");
    assert!(told["schema_version"].is_number() && told["file"]["bytes"].is_number(), "{told}");
}

#[tokio::test]
async fn the_names_of_tables_are_those_of_the_database() {
    let database = Database::new("CREATE TABLE Visits (x); CREATE VIRTUAL TABLE notes USING fts5(body);");
    let sqlite = database.sqlite();
    // Not what the extension keeps for itself.
    assert_eq!(sqlite.tables().await.unwrap(), ["Visits", "notes"]);
    assert_eq!(sqlite.table("Visits", &caller()).await.unwrap().map(|table| table.name).unwrap(), "Visits");
    // SQLite would find it, and rules would be about another name.
    assert!(sqlite.table("visits", &caller()).await.unwrap().is_none());
    assert!(sqlite.table("sqlite_schema", &caller()).await.unwrap().is_none());
    assert!(sqlite.table("notes_content", &caller()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_statement_sees_one_state() {
    let database =
        Database::new("PRAGMA journal_mode = WAL; CREATE TABLE a (x INT); CREATE TABLE b (x INT);");
    let sqlite = database.sqlite();
    let begun = sqlite.begin(&caller()).await.unwrap().unwrap();
    database.writer.execute_batch("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1);").unwrap();
    let context = SessionContext::new();
    for table in ["a", "b"] {
        let source = begun.table(table, &caller()).await.unwrap().unwrap();
        context.register_table(table, source.provider).unwrap();
    }
    assert_eq!(rows(&context, "SELECT count(*) FROM a, b").await.unwrap(), ["0"]);
    database.writer.execute_batch("INSERT INTO b VALUES (2)").unwrap();
    assert_eq!(rows(&context, "SELECT count(*) FROM b").await.unwrap(), ["0"]);
    assert_eq!(database.rows("b", "SELECT count(*) FROM t").await.unwrap(), ["2"]);
}

#[tokio::test]
async fn filters_and_limits_are_pushed_down_as_parameters() {
    let database = Database::new(PEOPLE);
    let context = SessionContext::new();
    context.register_table("t", open(&database.sqlite(), "people").await.provider).unwrap();
    let plan = async |sql: &str| rows(&context, &format!("EXPLAIN {sql}")).await.unwrap().concat();
    let found = plan("SELECT name FROM t WHERE id = 4711 LIMIT 2").await;
    assert!(found.contains("query=SELECT \"name\" FROM main.\"people\" WHERE (typeof(\"id\")"), "{found}");
    assert!(found.contains("LIMIT ?") && !found.contains("FilterExec"), "{found}");
    // Not looked at exactly: the engine looks again, and the limit is its own.
    let found = plan("SELECT name FROM t WHERE name > 'secret' LIMIT 2").await;
    assert!(found.contains("FilterExec") && !found.contains("LIMIT ?"), "{found}");
}

async fn error_of(database: &Database, table: &str) -> String {
    let sqlite = database.sqlite();
    let found = match sqlite.table(table, &caller()).await {
        Ok(found) => found.unwrap(),
        Err(error) => return format!("{error}: {:?}", std::error::Error::source(&error)),
    };
    let context = SessionContext::new();
    context.register_table("t", found.provider).unwrap();
    let frame = context.sql("SELECT * FROM t").await.unwrap();
    let error = frame.collect().await.expect_err("it fails");
    format!("{error}: {error:?}")
}

#[tokio::test]
async fn views_cannot_do_anything_but_read() {
    let database = Database::new(
        "CREATE TABLE t (x INT);
         CREATE VIEW extension AS SELECT load_extension('/tmp/evil.so') AS x;
         CREATE VIEW tokenizer AS SELECT fts3_tokenizer('simple') AS x;
         CREATE VIEW large AS SELECT zeroblob(1000000000) AS x;
         CREATE VIEW larger AS SELECT hex(zeroblob(9000000)) || hex(zeroblob(9000000)) AS x;
         CREATE VIEW settings AS SELECT * FROM pragma_journal_mode('DELETE');",
    );
    for (view, expected) in [
        ("extension", "refuses the perimeter"),
        ("tokenizer", "the perimeter"),
        ("large", "cannot be used"),
        ("larger", "cannot be used"),
        ("settings", "refuses the perimeter"),
    ] {
        let error = error_of(&database, view).await;
        assert!(error.contains("the collection clinic"), "{view}: {error}");
        let is_told = error.contains(expected) || error.contains("cannot be used");
        assert!(is_told, "{view}: {error}");
    }
}

#[tokio::test]
async fn a_cell_that_is_too_large_is_an_error() {
    let database =
        Database::new("CREATE TABLE t (id INT, x BLOB); INSERT INTO t VALUES (1, zeroblob(50000000));");
    let error = error_of(&database, "t").await;
    assert!(error.contains("cannot be used") && error.contains("TooLarge"), "{error}");
    // Without that cell the table can be read.
    assert_eq!(database.rows("t", "SELECT id FROM t").await.unwrap(), ["1"]);
}

#[tokio::test]
async fn what_is_no_database_is_told() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("text"), "SECRET ".repeat(1_000)).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("pipe"), rustix::fs::Mode::RWXU).unwrap();
    for path in ["text", "none", "pipe", "."] {
        let config = SqliteConfig { path: path.into(), immutable: false };
        let error = Sqlite::new("clinic", &config, dir.path()).tables().await.unwrap_err();
        let told = format!("{error} {error:?}");
        assert!(told.contains("the collection clinic") && !told.contains("SECRET"), "{told}");
        let is_expected = matches!(error, CollectionError::Refused { .. } | CollectionError::Unusable { .. });
        assert!(is_expected, "{path}: {told}");
    }
}

#[tokio::test]
async fn a_damaged_database_is_told_without_its_contents() {
    let database = Database::new("CREATE TABLE t (x TEXT);");
    for _ in 0..200 {
        database.writer.execute("INSERT INTO t VALUES (?1)", ["SECRET".repeat(400)]).unwrap();
    }
    let path = database.dir.path().join("it's 100%?.db");
    let mut bytes = std::fs::read(&path).unwrap();
    for page in 3..20 {
        bytes[page * 4096..page * 4096 + 8].fill(0xff);
    }
    std::fs::write(&path, bytes).unwrap();
    let error = error_of(&database, "t").await;
    assert!(error.contains("cannot be used") && !error.contains("SECRET"), "{error}");
}

/// A scan that is dropped ends, though SQLite is in the middle of a step that has no end.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_without_an_end_ends_with_its_scan() {
    let database = Database::new(
        "CREATE TABLE t (x INT); INSERT INTO t VALUES (1);
         CREATE VIEW endless AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
             SELECT CAST(i AS INT) AS x FROM n WHERE i < 0;",
    );
    let sqlite = database.sqlite();
    let begun = sqlite.begin(&caller()).await.unwrap().unwrap();
    let context = SessionContext::new();
    // Looking at the first rows is bounded in time.
    let started = Instant::now();
    let opened = tokio::time::timeout(Duration::from_secs(30), begun.table("endless", &caller())).await;
    let Ok(Ok(Some(endless))) = opened else { panic!("it is opened: {opened:?}") };
    context.register_table("endless", endless.provider).unwrap();
    context.register_table("t", begun.table("t", &caller()).await.unwrap().unwrap().provider).unwrap();
    let frame = context.sql("SELECT * FROM endless").await.unwrap();
    let mut stream = frame.execute_stream().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(300), stream.next()).await.is_err());
    drop(stream);
    // The same connection does other things again.
    let found = tokio::time::timeout(Duration::from_secs(30), rows(&context, "SELECT x FROM t")).await;
    assert_eq!(found.unwrap().unwrap(), ["1"], "after {:?}", started.elapsed());
}
