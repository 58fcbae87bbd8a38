//! Against a real server, which tests/perimeter/collections starts: what it does, and what its log
//! says that it was asked.

use std::error::Error as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures_util::StreamExt as _;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder};

use super::*;
use crate::collection::conformance::{self, Subject, open, rows};

fn variable(name: &str) -> String {
    std::env::var(format!("KAFSCALE_TEST_MARIADB_{name}")).expect("run by tests/perimeter/collections")
}

async fn admin() -> Conn {
    let port = variable("PORT").parse().expect("a port");
    let options = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(port)
        .user(Some("admin"))
        .prefer_socket(false);
    Conn::new(options).await.expect("the server is there")
}

/// A database of the test's own, and an account that may read it.
async fn prepared(database: &str, statements: &[&str]) -> Conn {
    let mut admin = admin().await;
    let account = format!("'{database}_reader'@'%'");
    let mut all = vec![
        format!("CREATE DATABASE {database} CHARACTER SET utf8mb4"),
        format!("USE {database}"),
        "SET SESSION sql_mode = 'ALLOW_INVALID_DATES'".to_owned(),
        format!("CREATE USER {account}"),
        // Views that call functions are listed for those who may execute them.
        format!("GRANT SELECT, EXECUTE ON {database}.* TO {account}"),
    ];
    all.extend(statements.iter().map(|statement| (*statement).to_owned()));
    for statement in all {
        admin.query_drop(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    admin
}

fn config(database: &str, more: &str) -> MysqlConfig {
    let user =
        if more.contains("user =") { String::new() } else { format!("user = \"{database}_reader\"\n") };
    let port = variable("PORT");
    let text = format!("host = \"127.0.0.1\"\nport = {port}\ndatabase = \"{database}\"\n{user}{more}");
    basic_toml::from_str(&text).expect("the settings are right")
}

fn collection(database: &str, more: &str) -> Mysql {
    Mysql::new("billing", config(database, more), Path::new("/")).expect("it is open")
}

async fn asked(collection: &Mysql, table: &str, sql: &str) -> Result<Vec<String>, String> {
    let context = SessionContext::new();
    context.register_table("t", open(collection, table).await.provider).expect("it is registered");
    rows(&context, sql).await
}

/// The statements with `mark` that the server executed.
fn logged(mark: &str) -> Vec<String> {
    let log = String::from_utf8_lossy(&std::fs::read(variable("LOG")).expect("the server writes a log"))
        .into_owned();
    let found = log.lines().filter(|line| line.contains("Execute") && line.contains(mark));
    found.map(str::to_owned).collect()
}

const KINDS: [&str; 2] = [
    "CREATE TABLE kinds (
        i1 tinyint, u1 tinyint unsigned, i4 int, u4 int unsigned, i8 bigint, u8 bigint unsigned, y year,
        f float, d double, n decimal(10, 2), big decimal(60, 5), t text, v varchar(20), c char(5),
        lt varchar(20) CHARACTER SET latin1 COLLATE latin1_swedish_ci, vb varbinary(10), bi bit(12), e enum('paid', 'due'),
        s set('a', 'b'), j json, da date, dt datetime(6), ts timestamp(6) NULL DEFAULT NULL, ti time(3), `odd ``name` int
    )",
    "INSERT INTO kinds VALUES
        (-1, 255, 7, 4294967295, 9007199254740993, 18446744073709551615, 2024, 1.5, 2.25, 12.34, 1234567890123456789012345678901234567890.5,
         'a', 'Ä', 'ab', 'straße', x'00ff', b'101010101010', 'paid', 'a,b', '{\"a\": 1}', '2024-02-29', '2024-02-29 12:34:56.789012',
         '2024-02-29 12:34:56.5', '-12:00:01', 1),
        (127, 0, -2147483648, 0, -9223372036854775808, 0, 1901, -0.0, -0.0, -0.01, -1, 'A', 'a', '', 'Strasse', '', b'0', 'due', '', '[]',
         '0000-00-00', '0000-00-00 00:00:00', '0000-00-00 00:00:00', '838:59:59', 2),
        (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
         NULL, NULL, NULL, NULL, NULL),
        (0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 'a ', 'ä', 'AB', 'x', 'a', b'1', 'paid', 'b', '\"x\"', '2024-00-00', '1000-01-01 00:00:00',
         '1970-01-01 00:00:01', '00:00:00', 3),
        (5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, '100% a\\\\b', '_', 'a\\\\', '%', '%', b'101', 'due', 'a', '5', '9999-12-31', '9999-12-31 23:59:59.999999',
         '2038-01-19 03:14:07', '12:00:00', 4)",
];

/// Over some columns of `kinds`: each column is asked for in many ways.
async fn conforms(database: &str, columns: &str) {
    let view = format!("CREATE VIEW some_kinds AS SELECT {columns} FROM kinds");
    let _admin = prepared(database, &[KINDS[0], KINDS[1], &view]).await;
    let collection = Arc::new(collection(database, ""));
    conformance::check(Subject { collection, table: "some_kinds".to_owned(), expected: Vec::new() }).await;
}

#[tokio::test]
async fn numbers_do_what_every_collection_does() {
    conforms("numbers", "i1, u1, i4, u4, i8, u8, y, f, d, n").await;
}

#[tokio::test]
async fn texts_do_what_every_collection_does() {
    conforms("texts", "t, v, c, lt, e, s, big, j").await;
}

#[tokio::test]
async fn others_do_what_every_collection_does() {
    conforms("others", "i1, vb, bi, da, dt, ts, ti, `odd ``name`").await;
}

#[tokio::test]
async fn values_keep_their_meaning() {
    let _admin = prepared("meanings", &KINDS).await;
    let collection = collection("meanings", "");
    let of = async |columns: &str| {
        asked(&collection, "kinds", &format!("SELECT {columns} FROM t WHERE i1 = -1")).await
    };
    for (columns, expected) in [
        ("i1, u1, i4, u4, i8, u8, y", "-1|255|7|4294967295|9007199254740993|18446744073709551615|2024"),
        ("f, d, n, big", "1.5|2.25|12.34|1234567890123456789012345678901234567890.50000"),
        ("t, v, c, lt, vb, bi", "a|Ä|ab|straße|00ff|2730"),
        ("e, s, j, \"odd `name\"", "paid|a,b|{\"a\": 1}|1"),
        ("da, dt, ts, ti", "2024-02-29|2024-02-29T12:34:56.789012|2024-02-29T12:34:56.500Z|-12:00:01.000"),
    ] {
        assert_eq!(of(columns).await, Ok(vec![expected.to_owned()]), "{columns}");
    }
    let zero = asked(&collection, "kinds", "SELECT da, dt, ts FROM t WHERE i1 = 127").await.unwrap();
    assert_eq!(zero, ["NULL|NULL|NULL"]);
    let source = open(&collection, "kinds").await;
    let context = SessionContext::new();
    context.register_table("t", source.provider).unwrap();
    rows(&context, "SELECT da FROM t").await.unwrap();
    let told = (source.provenance.0)();
    assert_eq!(told["misfits"]["da"], json!(2), "{told}");
    assert!(told["snapshots"][0]["time"].as_str().is_some_and(|time| time.ends_with("+00")), "{told}");
}

#[tokio::test]
async fn the_server_applies_what_it_can() {
    let _admin = prepared(
        "pushed",
        &[
            "CREATE TABLE bills (id int PRIMARY KEY, name varchar(50), paid decimal(10, 2))",
            "INSERT INTO bills SELECT seq, CONCAT('name ', seq), seq FROM seq_1_to_1000",
        ],
    )
    .await;
    let collection = collection("pushed", "");
    for (sql, executed) in [
        ("SELECT name FROM t WHERE id = 77", "SELECT `name` FROM `pushed`.`bills` WHERE `id` = 77"),
        ("SELECT id FROM t LIMIT 3", "SELECT `id` FROM `pushed`.`bills` LIMIT 3"),
        ("SELECT count(*) FROM t", "SELECT 1 FROM `pushed`.`bills`"),
        (
            "SELECT id FROM t WHERE name = 'name 5' LIMIT 1",
            "WHERE (`name` = 'name 5' AND CAST(CONVERT(`name` USING utf8mb4) AS BINARY) = 'name 5') LIMIT 1",
        ),
        ("SELECT id FROM t WHERE paid > 999.5", "WHERE `paid` > CAST('999.50' AS DECIMAL(10, 2))"),
    ] {
        asked(&collection, "bills", sql).await.unwrap();
        let found = logged("FROM `pushed`.`bills`");
        let last = found.last().expect("it was executed");
        assert!(last.trim_end().ends_with(executed), "{sql}: {last}");
        assert!(last.contains("/* kafscale principal=alice */ SELECT"), "{last}");
    }
}

#[tokio::test]
async fn nothing_can_be_written() {
    let mut admin = prepared("written", &["CREATE TABLE log (n int)"]).await;
    let all_powerful = collection("written", "user = \"admin\"\n");
    for statement in
        ["INSERT INTO written.log VALUES (1)", "DELETE FROM written.log", "DROP TABLE written.log"]
    {
        let mut link = all_powerful.server.begin(&Beginning::default()).await.unwrap();
        let refused = link.rows::<i64>(statement, vec![]).await;
        assert!(refused.is_err(), "{statement}");
    }
    assert_eq!(admin.query_first::<i64, _>("SELECT count(*) FROM written.log").await.unwrap(), Some(0));
}

#[tokio::test]
async fn errors_tell_no_values() {
    let _admin = prepared(
        "errors",
        &["CREATE TABLE secrets (t text)",
          "INSERT INTO secrets VALUES ('hunter2')",
          "CREATE FUNCTION told(t text) RETURNS int DETERMINISTIC BEGIN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = t; RETURN 1; END",
          "CREATE VIEW told AS SELECT told(t) AS n FROM secrets"],
    )
    .await;
    let collection = collection("errors", "");
    let context = SessionContext::new();
    context.register_table("t", open(&collection, "told").await.provider).unwrap();
    let error = context.sql("SELECT n FROM t").await.unwrap().collect().await.unwrap_err();
    let (mut chain, mut next) = (format!("{error:?}"), Some(&error as &dyn std::error::Error));
    while let Some(cause) = next {
        chain.push_str(&format!(" {cause}"));
        next = cause.source();
    }
    assert!(chain.contains("billing") && !chain.contains("hunter2"), "{chain}");
    assert_eq!(asked(&collection, "secrets", "SELECT t FROM t").await.unwrap(), ["hunter2"]);
}

#[tokio::test]
async fn who_calls_is_passed_on() {
    let mut admin = prepared(
        "callers",
        &["CREATE TABLE owned (owner varchar(50), n int)",
          "INSERT INTO owned VALUES ('alice', 1), ('bob', 2), ('*/ x', 3)",
          "CREATE FUNCTION me() RETURNS varchar(50) CHARACTER SET utf8mb4 DETERMINISTIC READS SQL DATA RETURN @app_user",
          "CREATE VIEW own AS SELECT * FROM owned WHERE owner = me()",
          "CREATE TABLE wards (n int)", "INSERT INTO wards VALUES (1)",
          "CREATE ROLE callers_nurse", "GRANT SELECT ON callers.wards TO callers_nurse",
          "CREATE USER 'callers_login'@'%'", "GRANT callers_nurse TO 'callers_login'@'%'"],
    )
    .await;
    let of = async |principal: &str, collection: &Mysql, table: &str| {
        let caller = Caller {
            principal: principal.to_owned(),
            groups: vec!["nurses".to_owned()],
            ..Caller::default()
        };
        let source = collection.table(table, &caller).await.map_err(|e| e.to_string())?;
        let context = SessionContext::new();
        context.register_table("t", source.ok_or("no such table")?.provider).unwrap();
        rows(&context, "SELECT * FROM t").await
    };
    let plain = collection("callers", "max_connections = 1\n");
    assert_eq!(of("alice", &plain, "own").await.unwrap(), ["alice|1"]);
    assert_eq!(of("bob", &plain, "own").await.unwrap(), ["bob|2"], "nothing of the one before is left");
    assert_eq!(of("*/ x", &plain, "own").await.unwrap(), ["*/ x|3"]);
    assert!(of("x'; SET @app_user = 'bob", &plain, "own").await.unwrap().is_empty());
    let mapped = collection(
        "callers",
        "user = \"callers_login\"\n[roles]\nnurses = \"callers_nurse\"\nroot = \"admin\"\n",
    );
    assert_eq!(of("alice", &mapped, "wards").await.unwrap(), ["1"]);
    assert_eq!(
        of("alice", &mapped, "owned").await,
        Err("no such table".to_owned()),
        "the role may not read it"
    );
    assert!(of("root", &mapped, "wards").await.unwrap_err().contains("refuses the perimeter"));
    let strangers = collection("callers", "[roles]\ndoctors = \"callers_nurse\"\n");
    assert!(of("alice", &strangers, "wards").await.unwrap_err().contains("refuses the perimeter"));
    admin.query_drop("DROP ROLE callers_nurse").await.unwrap();
}

async fn running(admin: &mut Conn, user: &str) -> i64 {
    let sql = format!(
        "SELECT count(*) FROM information_schema.PROCESSLIST WHERE USER = '{user}' AND COMMAND <> 'Sleep'"
    );
    admin.query_first(sql).await.expect("it is counted").expect("a number")
}

#[tokio::test]
async fn what_nobody_waits_for_is_killed() {
    let mut admin =
        prepared("slow", &["CREATE VIEW slow AS SELECT seq, SLEEP(0.05) AS s, REPEAT('x', 100) AS x FROM mysql.seq_1_to_100000"]).await;
    let slow = collection("slow", "answer_timeout = \"60s\"\n");
    let context = SessionContext::new();
    context.register_table("t", open(&slow, "slow").await.provider).unwrap();
    let mut stream = context.sql("SELECT * FROM t").await.unwrap().execute_stream().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(900), stream.next()).await.is_err());
    assert_eq!(running(&mut admin, "slow_reader").await, 1);
    drop(stream);
    let begun = Instant::now();
    while running(&mut admin, "slow_reader").await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(5), "it still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let hasty = collection("slow", "statement_timeout = \"300ms\"\n");
    let failed = asked(&hasty, "slow", "SELECT * FROM t").await.unwrap_err();
    assert!(failed.contains("did not answer within 300ms"), "{failed}");
}

#[tokio::test]
async fn connections_and_memory_are_bounded() {
    let mut admin = prepared(
        "bounded",
        &["CREATE TABLE wide AS SELECT seq AS i, REPEAT(MD5(seq), 3000) AS w FROM seq_1_to_60"],
    )
    .await;
    let two = collection("bounded", "max_connections = 2\n");
    let all = futures_util::future::join_all(
        (0..8).map(|_| asked(&two, "wide", "SELECT count(*), sum(length(w)) FROM t")),
    );
    for found in all.await {
        assert_eq!(found, Ok(vec!["60|5760000".to_owned()]));
    }
    let count: i64 = admin
        .query_first("SELECT count(*) FROM information_schema.PROCESSLIST WHERE USER = 'bounded_reader'")
        .await
        .unwrap()
        .unwrap();
    assert!(count <= 2, "{count} connections");
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(1 << 20)))
        .build_arc()
        .unwrap();
    let context = SessionContext::new_with_config_rt(SessionConfig::new(), runtime);
    context.register_table("t", open(&two, "wide").await.provider).unwrap();
    let failed = rows(&context, "SELECT w FROM t").await.unwrap_err();
    assert!(failed.contains("Resources exhausted"), "{failed}");
    assert_eq!(asked(&two, "wide", "SELECT count(*) FROM t").await.unwrap(), ["60"], "others go on");
}

#[tokio::test]
async fn certificates_are_verified() {
    let _admin = prepared("verified", &["CREATE TABLE t (n int)"]).await;
    let of = async |host: &str, more: &str| {
        let mut config = config("verified", more);
        config.host = host.to_owned();
        Mysql::new("billing", config, Path::new("/")).expect("it is open").check().await
    };
    let ca = variable("CA");
    let lines = of("localhost", &format!("tls_ca_file = \"{ca}\"\n")).await.unwrap();
    assert!(lines[0].contains("TLS, verified"), "{lines:?}");
    for (host, more) in [
        ("127.0.0.1", format!("tls_ca_file = \"{ca}\"\n")),
        ("localhost", "tls = \"verify-full\"\n".to_owned()),
    ] {
        let error = of(host, &more).await.unwrap_err();
        let source = error.source().map(ToString::to_string).unwrap_or_default();
        assert!(source.contains("certificate"), "{host}: {source}");
    }
}

#[tokio::test]
async fn a_check_says_what_the_account_could_do() {
    let _admin = prepared("checked", &["CREATE TABLE t (n int)"]).await;
    let lines = collection("checked", "").check().await.unwrap();
    assert!(lines[0].contains("MariaDB 10.11"), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("warning")), "{lines:?}");
    let lines = collection("checked", "user = \"admin\"\n").check().await.unwrap();
    assert!(
        lines.iter().any(|line| line.contains("warning") && line.contains("ALL PRIVILEGES")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let mut config = config("nowhere", "connect_timeout = \"2s\"\n");
    config.port = 1;
    let error = Mysql::new("billing", config, Path::new("/")).unwrap().tables().await.unwrap_err();
    assert!(matches!(error, CollectionError::Unreachable { .. }), "{error:?}");
}
