//! Against a server that is told what to do: what is asked of it, and what becomes of wrong answers.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use datafusion::prelude::SessionContext;
use serde_json::{Value, json};

use super::*;
use crate::collection::conformance::{self, Subject, open, rows};
use crate::collection::test_server::{Answer, Asked, TestServer, json as ok, with_status};

fn opened(url: &str, settings: &str, tables: &str) -> Result<Http, String> {
    let text = format!("url = \"{url}\"\nanswer_timeout = \"5s\"\n{settings}\n{tables}");
    let config: HttpConfig = basic_toml::from_str(&text).map_err(|error| error.to_string())?;
    Http::new("crm", &config, Path::new("/")).map_err(|error| error.to_string())
}

fn collection(server: &TestServer, settings: &str, tables: &str) -> Http {
    let settings = match settings.contains("answer_timeout") {
        true => format!("url = \"{}/api\"\n{settings}\n{tables}", server.url()),
        false => format!("url = \"{}/api\"\nanswer_timeout = \"5s\"\n{settings}\n{tables}", server.url()),
    };
    Http::new("crm", &basic_toml::from_str(&settings).expect("settings"), Path::new("/")).expect("it is open")
}

async fn asked_of(collection: &Http, table: &str, sql: &str) -> Result<Vec<String>, String> {
    let context = SessionContext::new();
    context.register_table("t", open(collection, table).await.provider).expect("it is registered");
    rows(&context, sql).await
}

/// How a scan of the table `t` fails, for the caller and for the operator.
async fn failure(collection: &Http) -> (CollectionError, String) {
    let context = SessionContext::new();
    context.register_table("t", open(collection, "t").await.provider).expect("it is registered");
    let error =
        context.sql("SELECT * FROM t").await.expect("it is planned").collect().await.expect_err("it fails");
    let datafusion::error::DataFusionError::External(error) = error else { panic!("{error:?}") };
    let error = *error.downcast::<CollectionError>().expect("an error of the collection");
    let told = format!("{error} {error:?}");
    (error, told)
}

const PEOPLE: [(i64, Option<&str>, &str, f64); 7] = [
    (1, Some("Ann"), "Ulm", 1.5),
    (2, Some("Bo"), "Aachen", -2.0),
    (3, None, "Ulm", 0.0),
    (4, Some("a%b"), "", 1e9),
    (5, Some("Ähre"), "Köln", 2.5),
    (6, Some("x' OR 1=1 --"), "Ulm", 3.25),
    (7, Some("Zoe"), "a&b=c#d", 7.0),
];

fn person((id, name, city, weight): (i64, Option<&str>, &str, f64)) -> Value {
    json!({ "id": id, "name": name, "address": { "city": city }, "weight": weight, "born": format!("2000-01-{id:02}"), "live": id % 2 == 0 })
}

/// An API as they are: filters, and pages in each of the ways.
fn api(asked: &Asked) -> Answer {
    let path = asked.target.split('?').next().unwrap_or_default();
    let is_wanted = |(id, _, city, _): &(i64, Option<&str>, &str, f64)| {
        asked.parameter("id").is_none_or(|wanted| wanted == id.to_string())
            && asked.parameter("city").is_none_or(|wanted| wanted == *city)
    };
    let all: Vec<Value> = PEOPLE.into_iter().filter(is_wanted).map(person).collect();
    let number = |name: &str| asked.parameter(name).and_then(|text| text.parse().ok()).unwrap_or(0_usize);
    let page = |from: usize| all.iter().skip(from).take(3).cloned().collect::<Vec<_>>();
    let next = number("cursor") + 3;
    let target =
        |next: usize| format!("{path}?cursor={next}&city={}", asked.parameter("city").unwrap_or_default());
    match path.strip_prefix("/api") {
        Some("/whole") => ok(&json!({ "data": { "items": all } }).to_string()),
        Some("/cursor") => {
            let cursor = (next < all.len()).then_some(next);
            ok(&json!({ "data": { "items": page(next - 3) }, "meta": { "next": cursor } }).to_string())
        }
        Some("/link") => {
            let link = (next < all.len()).then(|| target(next).replace("&city=", "&"));
            ok(&json!({ "data": { "items": page(next - 3) }, "next": link }).to_string())
        }
        Some("/header") => {
            let link = format!("link: <{}>; rel=\"next\"\r\n", target(next).replace("&city=", "&"));
            let items = json!({ "data": { "items": page(next - 3) } }).to_string();
            with_status("200 OK", if next < all.len() { &link } else { "" }, &items)
        }
        Some("/offset") => ok(&json!({ "data": { "items": page(number("skip")) } }).to_string()),
        Some("/number") => ok(&json!({ "data": { "items": page(3 * (number("page") - 1)) } }).to_string()),
        Some("/people/7/friends") => ok(&json!({ "data": { "items": page(0) } }).to_string()),
        _ => with_status("404 Not Found", "", "{}"),
    }
}

const COLUMNS: &str = "rows = \"/data/items\"\n\
    columns = \"id bigint, name text, city text, weight double, born date, live boolean\"\n\
    pointers = { city = \"/address/city\" }\n";

fn table(name: &str, more: &str) -> String {
    format!("[tables.{name}]\npath = \"/{name}\"\n{COLUMNS}{more}\n")
}

#[tokio::test]
async fn an_api_is_a_table_whichever_way_its_pages_go() {
    let server = TestServer::start(api).await;
    let mut tables = table("whole", "filters = { id = \"id\", city = \"city\" }");
    tables += &table(
        "cursor",
        "pages = { by = \"cursor\", at = \"/meta/next\", parameter = \"cursor\" }\nfilters = { city = \"city\" }",
    );
    tables += &table("link", "pages = { by = \"link\", at = \"/next\" }");
    tables += &table("header", "pages = { by = \"link\" }");
    tables +=
        &table("offset", "pages = { by = \"offset\", parameter = \"skip\" }\nfilters = { id = \"id\" }");
    tables += &table("number", "pages = { by = \"number\", parameter = \"page\" }");
    let collection = Arc::new(collection(&server, "", &tables));
    let mut expected = None;
    for name in collection.tables().await.unwrap() {
        let found = asked_of(&collection, &name, "SELECT * FROM t").await.unwrap();
        assert_eq!(found.len(), PEOPLE.len(), "{name}");
        assert_eq!(expected.get_or_insert_with(|| found.clone()), &found, "{name}");
    }
    for name in ["whole", "cursor"] {
        let collection = Arc::clone(&collection) as Arc<dyn Collection>;
        conformance::check(Subject { collection, table: name.to_owned(), expected: Vec::new() }).await;
    }
}

#[tokio::test]
async fn equalities_are_parameters_and_are_evaluated_again() {
    let server = TestServer::start(api).await;
    let with = table(
        "whole",
        "filters = { id = \"id\", city = \"city\", name = \"ignored\" }\nparameters = { v = \"1\" }",
    );
    let collection = collection(&server, "", &with);
    let of = async |sql: &str| {
        let found = asked_of(&collection, "whole", sql).await.unwrap();
        (found, server.asked().into_iter().map(|asked| asked.target).collect::<Vec<_>>())
    };
    let (found, targets) = of("SELECT id FROM t WHERE city = 'Ulm' AND weight > 1").await;
    assert_eq!((found, targets), (vec!["1".into(), "6".into()], vec!["/api/whole?v=1&city=Ulm".to_owned()]));
    let (found, targets) = of("SELECT id FROM t WHERE city = 'a&b=c#d'").await;
    assert_eq!(
        (found, targets),
        (vec!["7".to_owned()], vec!["/api/whole?v=1&city=a%26b%3Dc%23d".to_owned()])
    );
    let (found, targets) = of("SELECT city FROM t WHERE name = 'Bo'").await;
    assert_eq!((found, targets), (vec!["Aachen".to_owned()], vec!["/api/whole?v=1&ignored=Bo".to_owned()]));
    let (found, targets) = of("SELECT id FROM t WHERE id = 1 OR id = 2").await;
    assert_eq!((found, targets), (vec!["1".into(), "2".into()], vec!["/api/whole?v=1".to_owned()]));
    let (found, targets) = of("SELECT id FROM t WHERE id = 1 AND id = 2").await;
    assert_eq!((found.len(), targets.len()), (0, 0), "nothing is both");
}

#[tokio::test]
async fn arguments_are_given_and_lead_nowhere_else() {
    let server = TestServer::start(api).await;
    let tables = table("friends", "arguments = \"person text\"")
        .replace("path = \"/friends\"", "path = \"/people/{person}/friends\"");
    let collection = collection(&server, "", &tables);
    let of = async |sql: &str| asked_of(&collection, "friends", sql).await;
    assert_eq!(of("SELECT id, person FROM t WHERE person = '7'").await.unwrap(), ["1|7", "2|7", "3|7"]);
    assert_eq!(
        of("SELECT count(*) FROM t WHERE person IN ('7', '8')").await.unwrap(),
        ["3"],
        "8 is not there"
    );
    server.asked();
    let error = of("SELECT id FROM t").await.unwrap_err();
    assert!(error.contains("person = …"), "{error}");
    for value in ["", ".", "..", "7/../../secrets", "..%2f..", "7\\x", "7?x=y", "7#x", "7;x", "a\nb"] {
        let error = of(&format!("SELECT id FROM t WHERE person = '{value}'")).await.unwrap_err();
        assert!(error.contains("a value of person cannot be asked for"), "{value}: {error}");
    }
    assert!(server.asked().is_empty(), "nothing was sent");
    assert!(of("SELECT id FROM t WHERE person = 'ä & b'").await.unwrap().is_empty());
    assert_eq!(server.asked()[0].target, "/api/people/%C3%A4%20&%20b/friends");
}

const T: &str = "[tables.t]\npath = \"/t\"\ncolumns = \"id bigint, name text\"\n";

#[tokio::test]
async fn broken_and_hostile_answers_are_bounded_and_told() {
    type Give = fn() -> Answer;
    let cases: [(&str, &str, Give); 16] = [
        ("unusable", "more than 65536 bytes", || {
            Answer::Endless(b"HTTP/1.1 200 OK\r\n\r\n[".to_vec(), b"{\"id\":1},".repeat(500), Duration::ZERO)
        }),
        ("unusable", "more than 65536 bytes", || ok(&format!("[{{\"name\":\"{}\"}}]", "x".repeat(10 << 20)))),
        ("unreachable", "cannot be spoken to", || {
            Answer::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n[{\"id\":1}]".to_vec())
        }),
        ("unreachable", "cannot be spoken to", || {
            Answer::Bytes(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\n[{\"id\":1}]".to_vec())
        }),
        ("unreachable", "cannot be spoken to", || Answer::Bytes(Vec::new())),
        ("unreachable", "cannot be spoken to", || Answer::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())),
        ("unreachable", "cannot be spoken to", || {
            Answer::Bytes(format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n[]", "y".repeat(4 << 20)).into_bytes())
        }),
        ("timed out", "did not answer within", || {
            Answer::Endless(b"HTTP/1.1 200 OK\r\n\r\n[".to_vec(), b" ".to_vec(), Duration::from_millis(20))
        }),
        ("timed out", "did not answer within", || {
            Answer::Endless(Vec::new(), Vec::new(), Duration::from_millis(20))
        }),
        ("unusable", "is no JSON", || ok("[{\"id\":1},{\"id\":")),
        ("unusable", "is no JSON", || {
            Answer::Bytes(
                b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{\x01".to_vec(),
            )
        }),
        ("unusable", "64 deep", || ok(&"[".repeat(60_000))),
        ("unusable", "no rows", || ok("\"Ann Miller\"")),
        ("refused", "401", || with_status("401 Unauthorized", "", "{\"error\":\"Ann Miller\"}")),
        ("unreachable", "503", || with_status("503 Busy", "", "Ann Miller")),
        ("unusable", "is not followed", || {
            with_status("302 Found", "location: http://127.0.0.2:9/Ann\r\n", "")
        }),
    ];
    for (kind, told, give) in cases {
        let server = TestServer::start(move |_| give()).await;
        let settings = "max_bytes = \"64KiB\"\nanswer_timeout = \"2s\"";
        let started = std::time::Instant::now();
        let (error, all) = failure(&collection(&server, settings, T)).await;
        let found = match &error {
            CollectionError::Unreachable { .. } => "unreachable",
            CollectionError::TimedOut { .. } => "timed out",
            CollectionError::Refused { .. } => "refused",
            CollectionError::Unusable { .. } => "unusable",
            CollectionError::Changed { .. } | CollectionError::Question { .. } => "another",
        };
        let mut chain = String::new();
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            let _ = write!(chain, "{error}: ");
            cause = error.source();
        }
        assert_eq!(found, kind, "{told}: {all}");
        assert!(chain.contains(told), "{told} in {chain}");
        assert!(!all.contains("Ann") && !chain.contains("Ann"), "{all}");
        assert!(started.elapsed() < Duration::from_secs(10), "{told}");
    }
}

#[tokio::test]
async fn wrong_values_are_null_and_counted() {
    let long = "x".repeat(10 << 20);
    let body = format!(
        r#"[{{"id":1,"name":"a","name":"b"}},{{"id":99999999999999999999999,"name":null}},{{"id":"7","name":["c"]}},{{"id":2,"name":"{long}"}},5]"#
    );
    let server = TestServer::start(move |_| ok(&body)).await;
    let source = open(&collection(&server, "", T), "t").await;
    let context = SessionContext::new();
    context.register_table("t", source.provider).unwrap();
    assert_eq!(
        rows(&context, "SELECT * FROM t").await.unwrap(),
        ["1|b", "2|NULL", "NULL|NULL", "NULL|NULL", "NULL|[\"c\"]"]
    );
    let told = (source.provenance.0)();
    assert_eq!(
        (&told["misfits"], &told["rows_read"], &told["questions"]),
        (&json!({"id": 3, "name": 2}), &json!(5), &json!(1))
    );
}

#[tokio::test]
async fn pages_lead_to_no_other_place_and_end() {
    let other = TestServer::start(api).await;
    let elsewhere = format!("http://127.0.0.1:{}/api/t", other.port);
    let count = Arc::new(AtomicUsize::new(0));
    for (next, told) in [
        (elsewhere.as_str(), "leads to another host"),
        ("//127.0.0.2/api/t", "leads to another host"),
        ("/other/t", "outside of"),
        ("../../t", "outside of"),
        ("https://127.0.0.1/api/t", "leads to another host"),
        ("file:///etc/passwd", "leads to another host"),
        ("/api/t", "leads to itself"),
        ("?again=COUNT", "more pages than 5"),
    ] {
        let (next, counted) = (next.to_owned(), Arc::clone(&count));
        let server = TestServer::start(move |_| {
            let next = next.replace("COUNT", &counted.fetch_add(1, Ordering::Relaxed).to_string());
            ok(&json!({ "d": [{ "id": 1 }], "next": next }).to_string())
        })
        .await;
        let table = format!("{T}rows = \"/d\"\nmax_pages = 5\npages = {{ by = \"link\", at = \"/next\" }}");
        let (error, all) = failure(&collection(&server, "", &table)).await;
        let CollectionError::Unusable { source, .. } = &error else { panic!("{all}") };
        assert!(source.to_string().contains(told), "{told} in {source}");
        assert!(server.asked().len() <= 5);
    }
    assert!(other.asked().is_empty(), "nothing was asked of the other place");
}

#[tokio::test]
async fn more_pages_than_allowed_are_an_error_only_where_they_are_needed() {
    let server = TestServer::start(|_| ok("[{\"id\":1},{\"id\":1}]")).await;
    let table = format!("{T}max_pages = 3\npages = {{ by = \"offset\", parameter = \"o\" }}");
    let collection = collection(&server, "", &table);
    assert_eq!(asked_of(&collection, "t", "SELECT id FROM t LIMIT 5").await.unwrap().len(), 5);
    assert!(asked_of(&collection, "t", "SELECT id FROM t").await.unwrap_err().contains("cannot be used"));
}

#[tokio::test]
async fn secrets_are_sent_renewed_and_never_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let write = |text: &str| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    };
    write("first-hunter2");
    let server = TestServer::start(|asked| match asked.header("authorization") {
        Some("Bearer second-hunter2") => ok("[{\"id\":1}]"),
        _ => with_status("401 Unauthorized", "", "first-hunter2"),
    })
    .await;
    let settings = format!(
        "bearer = {{ file = \"{0}\" }}\nheaders = {{ X-Api-Key = {{ file = \"{0}\" }}, X-Version = \"2\" }}\ncaller_headers = {{ X-User = \"principal\" }}",
        path.display()
    );
    let collection = collection(&server, &settings, T);
    let (error, all) = failure(&collection).await;
    assert!(matches!(error, CollectionError::Refused { .. }) && !all.contains("hunter2"), "{all}");
    assert!(!format!("{collection:?}").contains("hunter2"));
    let asked = server.asked();
    let sent = |name: &str| asked[0].header(name);
    assert_eq!(asked.len(), 1, "an old secret is not tried twice");
    assert_eq!(
        (sent("x-api-key"), sent("x-version"), sent("x-user")),
        (Some("first-hunter2"), Some("2"), Some("alice"))
    );
    assert_eq!((asked[0].method.as_str(), sent("accept")), ("GET", Some("application/json")));
    write("second-hunter2");
    assert_eq!(asked_of(&collection, "t", "SELECT id FROM t").await.unwrap(), ["1"]);
    write("third\nhunter2");
    let refused = failure(&self::collection(&server, &settings, T)).await;
    assert!(
        matches!(refused.0, CollectionError::Refused { .. }) && !refused.1.contains("hunter2"),
        "{}",
        refused.1
    );
}

#[tokio::test]
async fn who_asks_at_the_same_time_waits_and_who_leaves_is_forgotten() {
    let server = TestServer::start(|_| Answer::Endless(Vec::new(), Vec::new(), Duration::from_secs(1))).await;
    let collection = Arc::new(collection(&server, "max_connections = 1\nanswer_timeout = \"20s\"", T));
    for _ in 0..3 {
        let left =
            tokio::time::timeout(Duration::from_secs(1), asked_of(&collection, "t", "SELECT * FROM t")).await;
        assert!(left.is_err());
    }
    assert_eq!(server.asked().len(), 3, "each had the place of the one before it");
}

#[tokio::test]
async fn a_check_says_what_is_where() {
    let server = TestServer::start(api).await;
    let tables = table("whole", "")
        + &table("friends", "arguments = \"person text\"")
        + &table("number", "pages = { by = \"number\", parameter = \"page\" }");
    let lines = collection(&server, "", &tables).check().await.unwrap();
    let expected = [
        "no TLS; only GET is sent",
        "friends: not tried, it is asked for each person",
        "number: 3 rows in the first answer",
        "whole: 7 rows in the first answer",
    ];
    assert_eq!(lines, expected);
    let wrong = table("whole", "").replace("born date", "bornn date");
    let lines = collection(&server, "", &wrong).check().await.unwrap();
    assert!(lines[2].starts_with("warning: whole: without a value in any row: bornn"), "{lines:?}");
    let error = collection(&server, "", &table("gone", "")).check().await.unwrap_err();
    assert!(
        matches!(&error, CollectionError::Unusable { source, .. } if source.to_string().contains("gone")),
        "{error:?}"
    );
}

#[test]
fn settings_are_checked() {
    let of = |table: &str| {
        opened("http://localhost", "", &format!("[tables.t]\n{table}")).map(|_| ()).unwrap_err()
    };
    for (table, why) in [
        ("path = \"t\"\ncolumns = \"id int\"", "tables.t.path: a path begins with a slash"),
        ("path = \"/t/../x\"\ncolumns = \"id int\"", "tables.t.path"),
        ("path = \"/t?x=y\"\ncolumns = \"id int\"", "tables.t.path"),
        ("path = \"/t/{owner}\"\ncolumns = \"id int\"", "arguments = \"owner text\""),
        ("path = \"/t/{id}\"\ncolumns = \"id int\"", "{id} is no argument"),
        ("path = \"/t\"", "there are no columns"),
        (
            "path = \"/t\"\ncolumns = \"id int\"\nfilters = { id = \"a\" }\nparameters = { a = \"1\" }",
            "the parameter a is there twice",
        ),
        ("path = \"/t\"\ncolumns = \"id int\"\nmethod = \"POST\"", "unknown field `method`"),
        (
            "path = \"/t\"\ncolumns = \"id int\"\nparameters = { api_key = \"hunter2\" }",
            "api_key looks like a secret",
        ),
    ] {
        let error = of(table);
        assert!(error.contains(why) && !error.contains("hunter2"), "{table}: {error}");
    }
    let error = opened("http://localhost", "openapi = \"nowhere.json\"", "[tables.t]\npath = \"/t\"")
        .map(|_| ())
        .unwrap_err();
    assert!(error.contains("nowhere.json cannot be read"), "{error}");
}
