//! Against a real server, which tests/perimeter/collections starts: what it does, and what
//! `MONITOR` says that it was asked.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use datafusion::prelude::SessionContext;
use futures_util::StreamExt as _;

use super::*;
use crate::collection::conformance::{self, Subject, open, rows};

fn variable(name: &str) -> String {
    std::env::var(format!("KAFSCALE_TEST_REDIS_{name}")).expect("run by tests/perimeter/collections")
}

fn config(prefix: &str, more: &str, table: &str) -> RedisConfig {
    let text = format!(
        "host = \"127.0.0.1\"\nport = {}\n{more}\n[tables.things]\npattern = \"{prefix}:*\"\n{table}",
        variable("PORT")
    );
    basic_toml::from_str(&text).expect("the settings are right")
}

fn collection(prefix: &str, more: &str, table: &str) -> Redis {
    Redis::new("cache", config(prefix, more, table), Path::new("/")).expect("it is open")
}

async fn admin() -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", variable("PORT"))).expect("an address");
    client.get_multiplexed_async_connection().await.expect("the server is there")
}

/// Commands, word by word.
async fn prepared(commands: &[&[&str]]) -> redis::aio::MultiplexedConnection {
    let mut admin = admin().await;
    for words in commands {
        let mut cmd = redis::Cmd::new();
        for word in *words {
            cmd.arg(*word);
        }
        let _: redis::Value =
            cmd.query_async(&mut admin).await.unwrap_or_else(|error| panic!("{words:?}: {error}"));
    }
    admin
}

async fn asked(collection: &Redis, sql: &str) -> Result<Vec<String>, String> {
    let context = SessionContext::new();
    context.register_table("t", open(collection, "things").await.provider).expect("it is registered");
    rows(&context, sql).await
}

const FIELDS: &str = "fields = \"name text, age bigint\"";

fn kinds(prefix: &str) -> Vec<Vec<String>> {
    let commands = [
        vec!["SET", "@:s", "Ä text"],
        vec!["SET", "@:ttl", "a", "EX", "1000"],
        vec!["SET", "@:empty", ""],
        vec!["HSET", "@:h1", "name", "Ann", "age", "7", "more", "x"],
        vec!["HSET", "@:h2", "name", "Bo", "age", "old"],
        vec!["RPUSH", "@:l", "b", "a"],
        vec!["SADD", "@:set", "y", "x"],
        vec!["ZADD", "@:z", "1.5", "m"],
        vec!["XADD", "@:stream", "*", "f", "v"],
        vec!["SET", "other:@", "of another table"],
    ];
    let of = |words: &Vec<&str>| words.iter().map(|word| word.replace('@', prefix)).collect();
    commands.iter().map(of).collect()
}

async fn with_kinds(prefix: &str) -> redis::aio::MultiplexedConnection {
    let commands = kinds(prefix);
    let words: Vec<Vec<&str>> =
        commands.iter().map(|words| words.iter().map(String::as_str).collect()).collect();
    prepared(&words.iter().map(Vec::as_slice).collect::<Vec<_>>()).await
}

#[tokio::test]
async fn it_does_what_every_collection_does() {
    let _admin = with_kinds("conforming").await;
    // The copy that answers are compared with grows older.
    let _admin = prepared(&[&["PERSIST", "conforming:ttl"]]).await;
    let collection = Arc::new(collection("conforming", "", FIELDS));
    conformance::check(Subject { collection, table: "things".to_owned(), expected: Vec::new() }).await;
}

#[tokio::test]
async fn keys_of_every_kind_are_rows() {
    let _admin = with_kinds("kinds").await;
    let collection = collection("kinds", "", FIELDS);
    let found = asked(&collection, "SELECT key, type, value, name, age FROM t").await.unwrap();
    let expected = [
        "kinds:empty|string||NULL|NULL",
        "kinds:h1|hash|{\"age\":\"7\",\"more\":\"x\",\"name\":\"Ann\"}|Ann|7",
        "kinds:h2|hash|{\"age\":\"old\",\"name\":\"Bo\"}|Bo|NULL",
        "kinds:l|list|[\"b\",\"a\"]|NULL|NULL",
        "kinds:set|set|[\"x\",\"y\"]|NULL|NULL",
        "kinds:stream|stream|NULL|NULL|NULL",
        "kinds:s|string|Ä text|NULL|NULL",
        "kinds:ttl|string|a|NULL|NULL",
        "kinds:z|zset|{\"m\":1.5}|NULL|NULL",
    ];
    assert_eq!(found, expected);
    assert_eq!(
        asked(&collection, "SELECT ttl > 900 AND ttl <= 1000 FROM t WHERE ttl IS NOT NULL").await.unwrap(),
        ["true"]
    );
    assert_eq!(asked(&collection, "SELECT count(*) FROM t").await.unwrap(), ["9"]);
    let source = open(&collection, "things").await;
    let context = SessionContext::new();
    context.register_table("t", source.provider).unwrap();
    rows(&context, "SELECT value, age FROM t").await.unwrap();
    let told = (source.provenance.0)();
    assert_eq!((&told["misfits"]["age"], &told["misfits"]["value"]), (&json!(1), &json!(1)), "{told}");
}

/// What the server is asked while `ask` runs.
async fn monitored(mark: &str, ask: impl Future<Output = ()>) -> Vec<String> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", variable("PORT"))).expect("an address");
    let monitor = client.get_async_monitor().await.expect("it is monitored");
    let mut lines = std::pin::pin!(monitor.into_on_message::<String>());
    ask.await;
    let mut found = Vec::new();
    while let Ok(Some(line)) = tokio::time::timeout(Duration::from_millis(300), lines.next()).await {
        if line.contains(mark) {
            found.push(line.split_once("] ").map_or_else(String::new, |(_, command)| command.to_owned()));
        }
    }
    found
}

#[tokio::test]
async fn named_keys_are_looked_up_and_prefixes_narrow_the_scan() {
    let _admin = with_kinds("narrow").await;
    let collection = collection("narrow", "", FIELDS);
    let of = async |sql: &str| {
        monitored("narrow", async { asked(&collection, sql).await.map(drop).unwrap() }).await
    };
    let named = of("SELECT value FROM t WHERE key = 'narrow:s'").await;
    assert_eq!(named[0], "\"TYPE\" \"narrow:s\"", "{named:?}");
    assert!(!named.iter().any(|command| command.contains("SCAN")), "{named:?}");
    let prefix = of("SELECT key FROM t WHERE key LIKE 'narrow:h%'").await;
    assert!(prefix[0].contains("\"MATCH\" \"narrow:h*\""), "{prefix:?}");
    assert!(
        !prefix.iter().any(|command| command.contains("GETRANGE") || command.contains("HGETALL")),
        "{prefix:?}"
    );
    let of_another = monitored("other:narrow", async {
        assert!(
            asked(&collection, "SELECT value FROM t WHERE key = 'other:narrow'").await.unwrap().is_empty()
        );
    });
    assert!(of_another.await.is_empty(), "keys of other tables are not even asked for");
}

#[tokio::test]
async fn an_account_that_can_only_read_is_enough() {
    let _admin = with_kinds("readers").await;
    let _admin = prepared(&[&[
        "ACL",
        "SETUSER",
        "reader",
        "on",
        ">secret",
        "~*",
        "+@read",
        "+info",
        "-@write",
        "+acl|whoami",
    ]])
    .await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("password");
    std::fs::write(&path, "secret").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let more = format!("user = \"reader\"\npassword = {{ file = \"{}\" }}", path.display());
    let reader = collection("readers", &more, FIELDS);
    assert_eq!(asked(&reader, "SELECT count(value) FROM t").await.unwrap(), ["8"]);
    let lines = reader.check().await.unwrap();
    assert!(lines[0].starts_with("Redis 7") && lines.len() == 1, "{lines:?}");
    let lines = collection("readers", "", "").check().await.unwrap();
    assert!(lines.iter().any(|line| line.contains("warning: default could write")), "{lines:?}");
    std::fs::write(&path, "wrong").unwrap();
    let error = collection("readers", &more, "").check().await.unwrap_err();
    assert!(matches!(error, CollectionError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_too_large_is_not_fetched() {
    let mut admin = admin().await;
    let large = "x".repeat((1 << 20) + 1);
    let _: redis::Value = redis::cmd("SET").arg("large:a").arg(large).query_async(&mut admin).await.unwrap();
    let mut push = redis::cmd("RPUSH");
    push.arg("large:b").arg((0..1_001).collect::<Vec<_>>());
    let _: redis::Value = push.query_async(&mut admin).await.unwrap();
    let mut fill = redis::pipe();
    for i in 0..3_000 {
        fill.cmd("SET").arg(format!("many:{i}")).arg(i);
    }
    let _: Vec<redis::Value> = fill.query_async(&mut admin).await.unwrap();
    assert_eq!(
        asked(&collection("large", "", ""), "SELECT key, value FROM t").await.unwrap(),
        ["large:a|NULL", "large:b|NULL"]
    );
    assert_eq!(
        asked(&collection("many", "", ""), "SELECT count(DISTINCT value) FROM t").await.unwrap(),
        ["3000"]
    );
    assert_eq!(
        asked(&collection("many", "", ""), "SELECT count(*) FROM (SELECT key FROM t LIMIT 7) AS l")
            .await
            .unwrap(),
        ["7"]
    );
    let failed = asked(&collection("many", "max_keys = 100", ""), "SELECT key FROM t").await.unwrap_err();
    assert!(failed.contains("cannot be used"), "{failed}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let mut config = config("nowhere", "connect_timeout = \"2s\"", "");
    config.port = 1;
    let error = Redis::new("cache", config, Path::new("/")).unwrap().check().await.unwrap_err();
    assert!(matches!(error, CollectionError::Unreachable { .. }), "{error:?}");
}
