//! Against a server made with the official SDK for Python, which tests/perimeter/collections starts.

use std::os::unix::fs::PermissionsExt as _;

use datafusion::prelude::SessionContext;

use super::*;
use crate::collection::conformance::{self, Subject, open, rows};

fn variable(name: &str) -> String {
    std::env::var(format!("KAFSCALE_TEST_MCP_{name}")).expect("run by tests/perimeter/collections")
}

/// Tables without the hashes that somebody would have confirmed.
const TABLES: [(&str, &str); 3] = [
    (
        "search_tickets",
        "rows = \"/result\"\ncolumns = \"id bigint, title text, state text, who text, cost numeric(10,2)\"\n\
         pointers = { who = \"/by/name\" }\nfilters = { state = \"state\" }",
    ),
    (
        "ticket",
        "columns = \"title text, cost double\"\narguments = \"number bigint\"\nfilters = { number = \"id\" }",
    ),
    ("delete_tickets", "rows = \"/result\"\ncolumns = \"id bigint\""),
];

fn opened(tool: &str, hash: &str) -> (Mcp, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("token");
    std::fs::write(&path, "token-of-the-upstream").expect("it is written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("it is private");
    let (_, lines) = TABLES.into_iter().find(|(name, _)| *name == tool).expect("it is there");
    let text = format!(
        "url = \"http://127.0.0.1:{}/mcp\"\nbearer = {{ file = \"token\" }}\n[tables.t]\ntool = \"{tool}\"\n{hash}\n{lines}",
        variable("PORT")
    );
    (
        Mcp::new("tickets", &basic_toml::from_str(&text).expect("settings"), dir.path()).expect("it is open"),
        dir,
    )
}

/// As an operator would: the hash is read from what the check says, and written into the file.
async fn confirmed(tool: &str) -> (Mcp, tempfile::TempDir) {
    let (unconfirmed, _dir) = opened(tool, "");
    let error = unconfirmed.check().await.unwrap_err();
    let CollectionError::Refused { source, .. } = &error else { panic!("{error:?}") };
    let mut told = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(source.as_ref());
    while let Some(error) = cause {
        told = error.to_string();
        cause = error.source();
    }
    let (_, hash) = told.split_once("write ").expect("it says what to write");
    opened(tool, hash)
}

async fn asked(collection: &Mcp, sql: &str) -> Result<Vec<String>, String> {
    let context = SessionContext::new();
    context.register_table("t", open(collection, "t").await.provider).expect("it is registered");
    rows(&context, sql).await
}

#[tokio::test]
async fn it_conforms() {
    let (collection, _dir) = confirmed("search_tickets").await;
    conformance::check(Subject {
        collection: Arc::new(collection),
        table: "t".to_owned(),
        expected: Vec::new(),
    })
    .await;
}

#[tokio::test]
async fn tools_are_called_with_what_the_statement_says() {
    let (collection, _dir) = confirmed("search_tickets").await;
    let found = asked(&collection, "SELECT count(*), sum(cost) FROM t WHERE state = 'done'").await.unwrap();
    assert_eq!(found, ["13|341.25"]);
    let (collection, _dir) = confirmed("ticket").await;
    let found = asked(&collection, "SELECT number, title, cost FROM t WHERE number IN (3, 4)").await.unwrap();
    assert_eq!(found, ["3|Ticket 3|3.75", "4|Ticket 4|5.0"]);
    let failed = asked(&collection, "SELECT title FROM t WHERE number = 4711").await.unwrap_err();
    assert!(failed.contains("cannot be used"), "{failed}");
    let log = std::fs::read_to_string(variable("LOG")).unwrap();
    assert!(
        log.contains(r#"{"tool": "search_tickets", "state": "done"}"#)
            && log.contains(r#"{"tool": "ticket", "id": 4}"#),
        "{log}"
    );
}

#[tokio::test]
async fn only_declared_tools_that_read_are_called() {
    let (collection, _dir) = opened("delete_tickets", "");
    let error = collection.check().await.unwrap_err();
    assert!(matches!(error, CollectionError::Refused { .. }), "{error:?}");
    assert!(asked(&collection, "SELECT id FROM t").await.unwrap_err().contains("refuses the perimeter"));
    let log = std::fs::read_to_string(variable("LOG")).unwrap();
    assert!(!log.contains("delete_tickets") && !log.contains("secret_notes"), "{log}");
}

#[tokio::test]
async fn the_token_is_needed() {
    let (collection, dir) = confirmed("search_tickets").await;
    std::fs::write(dir.path().join("token"), "another").unwrap();
    let error = collection.check().await.unwrap_err();
    assert!(matches!(error, CollectionError::Refused { .. }), "{error:?}");
}
