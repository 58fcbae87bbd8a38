//! Against a real API over TLS, which tests/perimeter/collections starts.

use std::os::unix::fs::PermissionsExt as _;

use datafusion::prelude::SessionContext;

use super::*;
use crate::collection::conformance::{self, Subject, open, rows};

fn variable(name: &str) -> String {
    std::env::var(format!("KAFSCALE_TEST_HTTP_{name}")).expect("run by tests/perimeter/collections")
}

const TABLES: &str = "[tables.customers]\npath = \"/customers\"\nrows = \"/data\"\n\
    columns = \"id bigint, name text, city text, since date, active boolean, balance double, tags json\"\n\
    pointers = { city = \"/address/city\" }\nfilters = { id = \"id\", city = \"city\" }\n\
    pages = { by = \"cursor\", at = \"/meta/next\", parameter = \"cursor\" }\n\
    [tables.orders]\npath = \"/customers/{customer}/orders\"\ncolumns = \"id bigint, total text\"\narguments = \"customer bigint\"\n";

struct Opened {
    collection: Http,
    _dir: tempfile::TempDir,
}

fn opened(host: &str, more: &str) -> Opened {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("token");
    std::fs::write(&path, "token-of-the-upstream").expect("it is written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("it is private");
    let text = format!(
        "url = \"https://{host}:{}/api/v2\"\nbearer = {{ file = \"token\" }}\ncaller_headers = {{ X-User = \"principal\" }}\n{more}\n{TABLES}",
        variable("PORT")
    );
    let collection = Http::new("crm", &basic_toml::from_str(&text).expect("settings"), dir.path());
    Opened { collection: collection.expect("it is open"), _dir: dir }
}

fn trusting() -> Opened {
    opened("localhost", &format!("tls_ca_file = \"{}\"", variable("CA")))
}

async fn asked(collection: &Http, table: &str, sql: &str) -> Result<Vec<String>, String> {
    let context = SessionContext::new();
    context.register_table("t", open(collection, table).await.provider).expect("it is registered");
    rows(&context, sql).await
}

#[tokio::test]
async fn it_conforms() {
    let Opened { collection, _dir } = trusting();
    conformance::check(Subject {
        collection: Arc::new(collection),
        table: "customers".to_owned(),
        expected: Vec::new(),
    })
    .await;
}

#[tokio::test]
async fn what_is_asked_is_what_the_statement_is_about() {
    let Opened { collection, _dir } = trusting();
    let found =
        asked(&collection, "customers", "SELECT count(*), sum(balance) FROM t WHERE city = 'a&b=c'").await;
    assert_eq!(found.unwrap(), ["60|-5257.5"]);
    let found =
        asked(&collection, "orders", "SELECT customer, id, total FROM t WHERE customer IN (7, 4711)").await;
    assert_eq!(found.unwrap(), ["7|70|0.50", "7|71|1.50", "7|72|2.50"]);
    let log = std::fs::read_to_string(variable("LOG")).unwrap();
    for expected in [
        r#"{"target": "/api/v2/customers?city=a%26b%3Dc", "user": "alice"}"#,
        r#"{"target": "/api/v2/customers?city=a%26b%3Dc&cursor=50", "user": "alice"}"#,
        r#"{"target": "/api/v2/customers/4711/orders", "user": "alice"}"#,
    ] {
        assert!(log.contains(expected), "{expected} in {log}");
    }
    assert!(!log.contains("POST"));
}

#[tokio::test]
async fn tls_is_verified_and_the_token_is_needed() {
    let Opened { collection, _dir } = trusting();
    let lines = collection.check().await.unwrap();
    assert_eq!(
        lines[..2],
        ["TLS, verified; only GET is sent".to_owned(), "customers: 50 rows in the first answer".to_owned()]
    );
    let unreachable = async |opened: Opened| {
        let error = opened.collection.check().await.unwrap_err();
        assert!(matches!(error, CollectionError::Unreachable { .. }), "{error:?}");
    };
    unreachable(opened("127.0.0.1", &format!("tls_ca_file = \"{}\"", variable("CA")))).await;
    unreachable(opened("localhost", "")).await;
    let Opened { collection, _dir } = trusting();
    std::fs::write(_dir.path().join("token"), "another").unwrap();
    let error = collection.check().await.unwrap_err();
    assert!(matches!(error, CollectionError::Refused { .. }), "{error:?}");
}
