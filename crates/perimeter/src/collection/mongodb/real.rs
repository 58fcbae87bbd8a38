//! Against a real server, which tests/perimeter/collections starts: what it does, and what its log
//! says that it was asked.

use std::error::Error as _;
use std::time::{Duration, Instant};

use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc};
use mongodb::{Client, Database};

use super::*;
use crate::collection::conformance::{self, Subject, open, rows};

fn variable(name: &str) -> String {
    std::env::var(format!("KAFSCALE_TEST_MONGODB_{name}")).expect("run by tests/perimeter/collections")
}

/// A database of the test's own, with these documents in its collection `things`.
async fn prepared(database: &str, documents: Vec<Document>) -> Database {
    let client = Client::with_uri_str(format!("mongodb://127.0.0.1:{}", variable("PORT"))).await;
    let database = client.expect("an address").database(database);
    database.collection("things").insert_many(documents).await.expect("they are inserted");
    database
}

fn at(host: &str, port: &str, database: &str, more: &str) -> Mongo {
    let text = format!("hosts = [\"{host}:{port}\"]\ndatabase = \"{database}\"\n{more}");
    let config = basic_toml::from_str(&text).expect("the settings are right");
    Mongo::new("shop", config, Path::new("/")).expect("it is open")
}

fn collection(database: &str, more: &str) -> Mongo {
    at("127.0.0.1", &variable("PORT"), database, more)
}

async fn asked(collection: &Mongo, sql: &str) -> Result<Vec<String>, String> {
    let context = SessionContext::new();
    context.register_table("t", open(collection, "things").await.provider).expect("it is registered");
    rows(&context, sql).await
}

/// The commands with `mark` that the server got, each in one line.
fn logged(mark: &str) -> Vec<String> {
    let log = String::from_utf8_lossy(&std::fs::read(variable("LOG")).expect("the server writes a log"))
        .into_owned();
    let messages = log.split("Request message:\n").skip(1).filter_map(|rest| rest.split("\n\t{").next());
    let in_one_line = |message: &str| {
        let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
        line.replace("{ ", "{").replace(", }", "}").replace("[ ", "[").replace(", ]", "]")
    };
    messages.filter(|message| message.contains(mark)).map(in_one_line).collect()
}

fn id(n: u8) -> ObjectId {
    ObjectId::from_bytes([n; 12])
}

fn bytes(subtype: BinarySubtype, bytes: Vec<u8>) -> Bson {
    Bson::Binary(Binary { subtype, bytes })
}

/// Documents that agree about nothing.
fn kinds() -> Vec<Document> {
    vec![
        doc! {
            "_id": id(1), "text": "a", "whole": 7, "half": 1.5, "live": true, "at": DateTime::from_millis(1_500),
            "mixed": 1, "ref": id(9), "address": { "city": "Bern", "zip": 3000 }, "tags": ["a", "b"],
            "bytes": bytes(BinarySubtype::Generic, vec![0, 255]),
            "uuid": bytes(BinarySubtype::Uuid, vec![0x11; 16]),
        },
        doc! {
            "_id": id(2), "text": "A%", "whole": 9_007_199_254_740_993_i64, "half": 2, "live": false,
            "at": DateTime::from_millis(-1), "mixed": "x", "ref": id(8), "address": { "city": "a%" }, "tags": [],
            "uuid": bytes(BinarySubtype::Uuid, vec![0x22; 16]),
        },
        doc! { "_id": id(3), "text": Bson::Null, "whole": Bson::Null, "half": -0.5, "mixed": Bson::Null },
        doc! {
            "_id": id(4), "text": "ä", "whole": -1, "half": 9_007_199_254_740_993_i64, "live": true,
            "at": DateTime::from_millis(253_402_300_799_999), "mixed": [1], "address": Bson::Null,
        },
        doc! { "_id": id(5), "text": "", "whole": 7, "half": 0.0, "address": { "city": 5 } },
        doc! { "_id": id(6), "text": id(1).to_hex(), "whole": 0, "half": 7, "address": [{ "city": "Bern" }] },
        doc! { "_id": id(7) },
    ]
}

/// What comes after the first thousand, from which columns are inferred, need not fit.
fn strays() -> Vec<Document> {
    let mut all = kinds();
    all.extend((0..1_000).map(|n| doc! { "_id": format!("n{n}"), "whole": 7 }));
    all.extend([
        doc! { "_id": id(20), "text": 7, "whole": "7", "half": "x", "live": 1, "at": "2026-01-01", "address": 1 },
        doc! { "_id": id(21), "text": ["a"], "whole": [7, 8], "half": [1.5], "live": [true], "tags": "a" },
        doc! { "_id": id(22), "text": { "a": 1 }, "whole": 7.5, "half": true, "at": [DateTime::from_millis(1_500)] },
        doc! { "_id": id(23), "whole": 7.0, "half": f64::MAX, "uuid": "x", "bytes": "x" },
    ]);
    all
}

const DECLARED: &str = "[tables.orders]
collection = \"things\"
columns = \"id text, city text, zip int, whole bigint, half double, live boolean, at timestamp, day date, tags json, ref text, uuid text\"
fields = { id = \"_id\", city = \"address.city\", zip = \"address.zip\", day = \"at\" }
";

#[tokio::test]
async fn inferred_columns_do_what_every_collection_does() {
    prepared("inferred", kinds()).await;
    let collection = Arc::new(collection("inferred", ""));
    conformance::check(Subject { collection, table: "things".to_owned(), expected: Vec::new() }).await;
}

#[tokio::test]
async fn declared_columns_do_what_every_collection_does() {
    prepared("declared", kinds()).await;
    let collection = Arc::new(collection("declared", DECLARED));
    conformance::check(Subject { collection, table: "orders".to_owned(), expected: Vec::new() }).await;
}

#[tokio::test]
async fn values_keep_their_meaning() {
    prepared("meanings", kinds()).await;
    let collection = collection("meanings", "");
    let of = async |columns: &str, n: u8| {
        let sql = format!("SELECT {columns} FROM t WHERE _id = '{}'", id(n).to_hex());
        asked(&collection, &sql).await.unwrap()
    };
    for (columns, n, expected) in [
        ("text, whole, half, live, at", 1, "a|7|1.5|true|1970-01-01T00:00:01.500Z"),
        ("ref, address, tags", 1, r#"090909090909090909090909|{"city":"Bern","zip":3000}|["a","b"]"#),
        ("bytes, uuid", 1, "00ff|11111111-1111-1111-1111-111111111111"),
        (
            "text, whole, half, live, at, mixed",
            2,
            "A%|9007199254740993|2.0|false|1969-12-31T23:59:59.999Z|\"x\"",
        ),
        ("text, whole, mixed, at", 3, "NULL|NULL|NULL|NULL"),
        ("at, mixed", 4, "9999-12-31T23:59:59.999Z|[1]"),
        ("text, whole, half", 7, "NULL|NULL|NULL"),
    ] {
        assert_eq!(of(columns, n).await, [expected], "{columns}");
    }
    let both =
        "SELECT _id FROM t WHERE text = '010101010101010101010101' OR _id = '010101010101010101010101'";
    assert_eq!(asked(&collection, both).await.unwrap(), [id(1).to_hex(), id(6).to_hex()]);
}

#[tokio::test]
async fn what_does_not_fit_is_null_and_counted() {
    prepared("strays", strays()).await;
    let collection = collection("strays", "");
    let context = SessionContext::new();
    let source = open(&collection, "things").await;
    context.register_table("t", source.provider).unwrap();
    let sql = "SELECT _id, text, whole, half, live, at, tags, uuid, bytes FROM t WHERE _id >= '141414' AND _id < '18'";
    let found = rows(&context, sql).await.unwrap();
    let expected = [
        format!("{}|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL", id(20).to_hex()),
        format!("{}|NULL|NULL|NULL|NULL|NULL|\"a\"|NULL|NULL", id(21).to_hex()),
        format!("{}|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL", id(22).to_hex()),
        format!("{}|NULL|7|1.7976931348623157e308|NULL|NULL|NULL|x|NULL", id(23).to_hex()),
    ];
    assert_eq!(found, expected);
    let told = (source.provenance.0)();
    assert_eq!(told["columns"], json!("inferred from the first 1000 documents"), "{told}");
    let misfits = json!({ "text": 3, "whole": 3, "half": 3, "live": 2, "at": 2, "bytes": 1 });
    assert_eq!((&told["misfits"], &told["rows_read"]), (&misfits, &json!(1_011)), "{told}");
    // A filter that the server applies finds what the engine would have found without it.
    for (filter, rows) in [
        ("whole = 7", 1_003),
        ("whole >= 7 AND whole <= 8", 1_003),
        ("half = 1.5", 1),
        ("half > 1e300", 1),
        ("live", 2),
        ("text = 'a'", 1),
        ("text IS NOT NULL", 5),
        ("address IS NOT NULL", 5),
    ] {
        let count = format!("SELECT count(*) FROM t WHERE {filter}");
        assert_eq!(asked(&collection, &count).await.unwrap(), [rows.to_string()], "{filter}");
    }
}

#[tokio::test]
async fn the_server_applies_what_it_can() {
    let documents =
        (0..1_000).map(|n| doc! { "_id": n, "name": format!("name {n}"), "in": { "a": n, "b": 1 } });
    prepared("pushed", documents.collect()).await;
    let table = "[tables.things]\ncolumns = \"id bigint, name text, a bigint, rest json\"\nfields = { id = \"_id\", a = \"in.a\", rest = \"in\" }\n";
    let collection = collection("pushed", table);
    for (sql, parts) in [
        (
            "SELECT name FROM t WHERE id = 77",
            vec![
                "\"projection\": {\"_id\": 1, \"name\": 1}",
                "\"filter\": {\"$and\": [{\"_id\": {\"$in\": [int64(77)]}}]}",
            ],
        ),
        (
            "SELECT a FROM t WHERE a > 990 AND name IN ('name 5', 'name 6', 'name 7', 'name 999')",
            vec![
                "\"projection\": {\"in.a\": 1, \"name\": 1, \"_id\": 0}",
                "{\"in.a\": {\"$gt\": int64(990)}}",
                "{\"name\": {\"$in\": [\"name 5\", \"name 6\", \"name 7\", \"name 999\"]}}",
            ],
        ),
        (
            "SELECT a, rest FROM t LIMIT 3",
            vec!["\"projection\": {\"in\": 1, \"_id\": 0}", "\"limit\": int64(3)", "\"filter\": {}"],
        ),
        ("SELECT count(*) FROM t", vec!["\"projection\": {\"_id\": 1}"]),
        ("SELECT id FROM t WHERE name LIKE 'name 9%'", vec!["\"filter\": {}"]),
    ] {
        asked(&collection, sql).await.unwrap();
        let found = logged("\"$db\": \"pushed\"");
        let last =
            found.iter().rfind(|command| command.contains("\"find\": \"things\"")).expect("it was asked");
        for part in parts {
            assert!(last.contains(part), "{sql}: {part} in {last}");
        }
        for part in
            ["\"comment\": \"kafscale principal=alice\"", "\"level\": \"majority\"", "\"maxTimeMS\": 600000"]
        {
            assert!(last.contains(part), "{sql}: {part} in {last}");
        }
    }
}

#[tokio::test]
async fn only_find_is_ever_sent() {
    prepared("sent", kinds()).await;
    let before = logged("\"$db\": \"sent\"").len();
    let collection = collection("sent", "");
    assert_eq!(collection.tables().await.unwrap(), ["things"]);
    assert!(!collection.check().await.unwrap().is_empty());
    asked(&collection, "SELECT * FROM t").await.unwrap();
    let caller = Caller { principal: "\" } $where /* */".into(), ..Caller::default() };
    let source = collection.table("things", &caller).await.unwrap().unwrap();
    let context = SessionContext::new();
    context.register_table("t", source.provider).unwrap();
    rows(&context, "SELECT text FROM t WHERE text = '$where' OR text = '{\"$gt\": \"\"}'").await.unwrap();
    let sent = logged("\"$db\": \"sent\"");
    let allowed = ["find", "listCollections", "buildInfo", "connectionStatus", "getMore", "killCursors"];
    for command in &sent[before..] {
        let name = command.split("\"Document\": {\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        assert!(allowed.contains(&name), "{command}");
    }
    let last = sent.last().unwrap();
    assert!(
        last.contains("\"comment\": \"kafscale principal=%22%20%7D%20%24where%20%2F%2A%20%2A%2F\""),
        "{last}"
    );
    assert!(last.contains("{\"text\": {\"$in\": [\"$where\"]}}"), "{last}");
}

#[tokio::test]
async fn what_nobody_waits_for_is_closed() {
    prepared("dropped", (0..5_000).map(|n| doc! { "_id": n, "text": "x".repeat(100) }).collect()).await;
    let collection = collection("dropped", "");
    let context = SessionContext::new();
    context.register_table("t", open(&collection, "things").await.provider).unwrap();
    let mut stream = context.sql("SELECT * FROM t").await.unwrap().execute_stream().await.unwrap();
    assert!(stream.next().await.unwrap().unwrap().num_rows() > 0);
    let kills = || logged("\"$db\": \"dropped\"").iter().filter(|c| c.contains("\"killCursors\"")).count();
    assert_eq!(kills(), 0);
    std::thread::spawn(move || drop(stream)).join().expect("it is dropped anywhere");
    let begun = Instant::now();
    while kills() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(5), "the cursor is still open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(asked(&collection, "SELECT count(*) FROM t").await.unwrap(), ["5000"]);
}

#[tokio::test]
async fn connections_and_memory_are_bounded() {
    prepared("bounded", (0..60).map(|n| doc! { "_id": n, "w": "x".repeat(3_000) }).collect()).await;
    let two = collection("bounded", "max_connections = 2\n");
    let all =
        futures_util::future::join_all((0..8).map(|_| asked(&two, "SELECT count(*), sum(length(w)) FROM t")));
    for found in all.await {
        assert_eq!(found, Ok(vec!["60|180000".to_owned()]));
    }
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(1 << 17)))
        .build_arc()
        .unwrap();
    let context = SessionContext::new_with_config_rt(SessionConfig::new(), runtime);
    context.register_table("t", open(&two, "things").await.provider).unwrap();
    let failed = rows(&context, "SELECT w FROM t").await.unwrap_err();
    assert!(failed.contains("Resources exhausted"), "{failed}");
    assert_eq!(asked(&two, "SELECT count(*) FROM t").await.unwrap(), ["60"], "others go on");
}

#[tokio::test]
async fn passwords_are_read_again_when_they_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("password");
    let write = |password: &str| {
        std::fs::write(&path, password).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    };
    write("wrong-hunter2");
    let more = format!("user = \"perimeter\"\npassword = {{ file = \"{}\" }}", path.display());
    let guarded = at("127.0.0.1", &variable("GUARDED_PORT"), "admin", &more);
    let error = guarded.check().await.unwrap_err();
    assert!(matches!(error, CollectionError::Refused { .. }), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("hunter2"), "{error:?}");
    write("secret");
    // The server takes the password, and then asks for one step more than the driver goes.
    let is_let_in = || {
        let log = std::fs::read(variable("GUARDED_LOG")).expect("the server writes a log");
        String::from_utf8_lossy(&log).contains("\"step_valid\":true,\"username\":\"perimeter\"")
    };
    assert!(!is_let_in());
    let error = guarded.check().await.unwrap_err();
    assert!(matches!(error, CollectionError::Refused { .. }) && is_let_in(), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("secret"), "{error:?}");
    let nobody = at("127.0.0.1", &variable("GUARDED_PORT"), "admin", "");
    let error = nobody.tables().await.unwrap_err();
    assert!(matches!(error, CollectionError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn certificates_are_verified() {
    let of = async |host: &str, more: &str| {
        let more = format!("connect_timeout = \"2s\"\n{more}");
        at(host, &variable("TLS_PORT"), "verified", &more).check().await
    };
    let ca = format!("tls_ca_file = \"{}\"", variable("CA"));
    let lines = of("localhost", &ca).await.unwrap();
    assert!(lines[0].contains("TLS, verified"), "{lines:?}");
    for (host, more) in [("127.0.0.1", ca.as_str()), ("localhost", "tls = \"verify-full\"")] {
        let error = of(host, more).await.unwrap_err();
        assert!(matches!(error, CollectionError::Unreachable { .. }), "{error:?}");
        let source = error.source().map(ToString::to_string).unwrap_or_default();
        assert!(source.contains("certificate"), "{host}: {source}");
        assert!(!error.to_string().contains(host), "{error}");
    }
    assert!(of("localhost", "tls = \"off\"").await.is_err(), "no plain text where TLS is expected");
}

#[tokio::test]
async fn a_check_says_what_is_nowhere() {
    prepared("checked", kinds()).await;
    let table = "[tables.things]\ncolumns = \"text text, gone text, city text\"\nfields = { city = \"address.city\" }\n\
                 [tables.nothing]\ncolumns = \"a text\"\n[tables.guessed]\ncollection = \"things\"\n";
    let lines = collection("checked", table).check().await.unwrap();
    assert!(lines[0].starts_with("MongoDB 7") && lines[0].contains("no TLS, as nobody"), "{lines:?}");
    for line in [
        "warning: there is no user, and the server lets anybody in; use one that can only read",
        "guessed: 12 columns, inferred from 7 documents",
        "warning: nothing: there are no documents in nothing",
        "warning: things: in none of 7 documents: gone",
    ] {
        assert!(lines.iter().any(|found| found == line), "{line} in {lines:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let nowhere = at("127.0.0.1", "1", "nowhere", "connect_timeout = \"1s\"\n");
    let error = nowhere.tables().await.unwrap_err();
    assert!(matches!(error, CollectionError::Unreachable { .. }), "{error:?}");
    assert!(!error.to_string().contains("127.0.0.1"), "{error}");
}
