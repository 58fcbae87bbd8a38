//! Against a real server, which tests/perimeter/collections starts: what it does, and what its log
//! says that it was asked.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures_util::StreamExt as _;
use tokio_postgres::{Client, NoTls};

use super::*;
use crate::collection::conformance::{self, Subject, open, rows};

fn variable(name: &str) -> String {
    std::env::var(format!("KAFSCALE_TEST_POSTGRES_{name}")).expect("run by tests/perimeter/collections")
}

/// A superuser.
async fn admin() -> Client {
    let settings = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", variable("PORT"));
    let (client, driver) = tokio_postgres::connect(&settings, NoTls).await.expect("the server is there");
    tokio::spawn(driver);
    client
}

/// A schema of the test's own, and a role that may read there.
async fn prepared(schema: &str, sql: &str) -> Client {
    let admin = admin().await;
    let role = format!(
        "CREATE SCHEMA {schema}; CREATE ROLE {schema}_reader LOGIN; GRANT USAGE ON SCHEMA {schema} TO {schema}_reader; \
         SET search_path = {schema}; {sql}; GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {schema}_reader;"
    );
    admin.batch_execute(&role).await.expect("the schema is made");
    admin
}

fn config(schema: &str, more: &str) -> PostgresConfig {
    let text = format!(
        "host = \"127.0.0.1\"\nport = {}\ndatabase = \"postgres\"\nschemas = [\"{schema}\"]\n{}{more}",
        variable("PORT"),
        if more.contains("user =") { String::new() } else { format!("user = \"{schema}_reader\"\n") },
    );
    basic_toml::from_str(&text).expect("the settings are right")
}

fn collection(schema: &str, more: &str) -> Postgres {
    Postgres::new("clinic", config(schema, more), Path::new("/")).expect("it is open")
}

async fn asked(collection: &Postgres, table: &str, sql: &str) -> Result<Vec<String>, String> {
    let context = SessionContext::new();
    let source = open(collection, table).await;
    context.register_table("t", source.provider).expect("it is registered");
    rows(&context, sql).await
}

/// What the server was asked since then, in the lines that hold `mark`.
fn logged(mark: &str) -> Vec<String> {
    let log = std::fs::read_to_string(variable("LOG")).expect("the server writes a log");
    log.lines().filter(|line| line.contains(mark)).map(str::to_owned).collect()
}

const KINDS: &str = "
CREATE TYPE mood AS ENUM ('well', 'ill');
CREATE DOMAIN fee AS numeric(12, 2);
CREATE DOMAIN dear AS fee;
CREATE COLLATION anycase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE kinds (
    b boolean, i2 smallint, i4 integer, i8 bigint, o oid, f4 real, f8 double precision,
    n numeric(10, 2), big numeric, d dear, t text, v varchar(20), c char(5), ci text COLLATE anycase,
    m mood, u uuid, j json, jb jsonb, by bytea, da date, ts timestamp, tz timestamptz, ti time,
    iv interval, ip inet, ia integer[], ta text[], r int4range
);
INSERT INTO kinds VALUES
    (true, -1, 7, 9007199254740993, 4294967295, 1.5, -0.0, 12.34, 123456789012345678901234567890.123, 5.5,
     'a', 'Ä', 'ab', 'Same', 'well', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{\"a\": 1}', '{\"a\": [1, null]}', '\\x00ff',
     '2024-02-29', '2024-02-29 12:34:56.789012', '2024-02-29 12:34:56+02', '24:00',
     '1 day 02:03:04', '10.0.0.1/8', '{1,NULL,3}', '{a,\"b c\",NULL}', '[1,5)'),
    (false, 32767, -2147483648, -9223372036854775808, 0, 'NaN', 'NaN', -0.01, 'NaN', 'NaN',
     'A', 'z', '', 'same', 'ill', '00000000-0000-0000-0000-000000000000', '[]', '\"x\"', '',
     'infinity', 'infinity', '-infinity', '00:00', '-1 mons', '::1', '{}', '{}', 'empty'),
    (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
     NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (true, 0, 0, 0, 1, 0, 0.0, 0, 0, 0, '100% a\\b', '_', 'a  ', 'b', 'ill', '00000000-0000-0000-0000-000000000001', '{}', '{}',
     'x', '0044-03-15 BC', '0001-01-01', '9999-12-31 23:59:59.999999+00', '12:00', '0', '10.0.0.2', '{{1,2},{3,4}}', '{x}', '(,)')";

/// Over some columns of `kinds`: each column is asked for in many ways.
async fn conforms(schema: &str, columns: &str) {
    let view = format!("{KINDS}; CREATE VIEW some_kinds AS SELECT {columns} FROM kinds");
    let _admin = prepared(schema, &view).await;
    let collection = Arc::new(collection(schema, ""));
    conformance::check(Subject { collection, table: "some_kinds".to_owned(), expected: Vec::new() }).await;
}

#[tokio::test]
async fn numbers_do_what_every_collection_does() {
    conforms("numbers", "b, i2, i4, i8, o, f4, f8, n, d").await;
}

#[tokio::test]
async fn texts_do_what_every_collection_does() {
    conforms("texts", "t, v, c, ci, m, u, big, iv").await;
}

#[tokio::test]
async fn others_do_what_every_collection_does() {
    conforms("others", "i2, j, jb, by, da, ts, tz, ti, ip, ia, ta, r").await;
}

#[tokio::test]
async fn values_keep_their_meaning() {
    let _admin = prepared("meanings", KINDS).await;
    let collection = collection("meanings", "");
    let of = async |columns: &str| {
        asked(&collection, "kinds", &format!("SELECT {columns} FROM t WHERE i2 = -1")).await
    };
    for (columns, expected) in [
        ("b, i2, i4, i8, o, f4, f8", "true|-1|7|9007199254740993|4294967295|1.5|0.0"),
        ("n, big, d", "12.34|123456789012345678901234567890.123|5.50"),
        ("t, v, c, ci, m", "a|Ä|ab|Same|well"),
        ("u, j, jb, by", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11|{\"a\": 1}|{\"a\": [1, null]}|00ff"),
        ("da, ts, tz", "2024-02-29|2024-02-29T12:34:56.789012|2024-02-29T10:34:56Z"),
        ("ti, iv, ip, r", "23:59:59.999999|P1DT2H3M4S|10.0.0.1/8|[1,5)"),
        ("ia, ta", "[1, NULL, 3]|[a, b c, NULL]"),
    ] {
        assert_eq!(of(columns).await, Ok(vec![expected.to_owned()]), "{columns}");
    }
    let ends = asked(&collection, "kinds", "SELECT da, ts, tz, n, d FROM t WHERE i2 = 32767").await.unwrap();
    assert_eq!(ends, ["9999-12-31|9999-12-31T23:59:59.999999|0001-01-01T00:00:00Z|-0.01|NULL"]);
    let source = open(&collection, "kinds").await;
    let context = SessionContext::new();
    context.register_table("t", source.provider).unwrap();
    rows(&context, "SELECT * FROM t").await.unwrap();
    let told = (source.provenance.0)();
    assert_eq!((&told["misfits"]["d"], &told["misfits"]["ia"]), (&json!(1), &json!(1)), "{told}");
    assert!(told["snapshots"][0]["snapshot"].as_str().is_some_and(|s| s.contains(':')), "{told}");
}

#[tokio::test]
async fn the_server_applies_what_it_can() {
    let _admin = prepared(
        "pushed",
        "CREATE TABLE visits (id int PRIMARY KEY, name text, ward varchar(20), at timestamptz, notes text);
         INSERT INTO visits SELECT i, 'name ' || i, 'ward', now(), repeat('x', 100) FROM generate_series(1, 1000) i",
    )
    .await;
    let collection = collection("pushed", "");
    for (sql, declared) in [
        ("SELECT name FROM t WHERE id = 77", "SELECT \"name\" FROM \"pushed\".\"visits\" WHERE \"id\" = $1"),
        ("SELECT id FROM t LIMIT 3", "SELECT \"id\" FROM \"pushed\".\"visits\" LIMIT 3"),
        ("SELECT count(*) FROM t", "SELECT  FROM \"pushed\".\"visits\""),
        (
            "SELECT id FROM t WHERE (ward IN ('a', 'b', 'c', 'd') OR name > 'name 5') AND at IS NOT NULL LIMIT 2",
            "WHERE (\"ward\" IN ($1, $2, $3, $4) OR \"name\" COLLATE \"C\" > $5) AND \"at\" IS NOT NULL LIMIT 2",
        ),
    ] {
        asked(&collection, "visits", sql).await.unwrap();
        let found = logged("FROM \"pushed\".\"visits\"");
        let last = found.iter().rfind(|line| line.contains("DECLARE")).expect("a cursor was declared");
        assert!(last.ends_with(declared), "{sql}: {last}");
        assert!(last.contains("/* kafscale principal=alice */ DECLARE"), "{last}");
    }
    assert!(logged("parameters: $1 = '77'").len() == 1, "the value was a parameter");
    assert!(logged("name 77").is_empty(), "values of rows are in no statement");
}

#[tokio::test]
async fn one_statement_sees_one_moment() {
    let admin = prepared(
        "moment",
        "CREATE TABLE a (n int); CREATE TABLE b (n int); INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)",
    )
    .await;
    let collection = collection("moment", "");
    let caller = conformance::caller();
    let statement = collection.begin(&caller).await.unwrap().unwrap();
    let context = SessionContext::new();
    for table in ["a", "b"] {
        let source = statement.table(table, &caller).await.unwrap().unwrap();
        context.register_table(table, source.provider).unwrap();
    }
    assert_eq!(rows(&context, "SELECT n FROM a").await.unwrap(), ["1"]);
    admin.batch_execute("UPDATE moment.a SET n = 2; UPDATE moment.b SET n = 2").await.unwrap();
    assert_eq!(rows(&context, "SELECT a.n, b.n, c.n FROM a, b, a AS c").await.unwrap(), ["1|1|1"]);
    assert_eq!(asked(&collection, "b", "SELECT n FROM t").await.unwrap(), ["2"], "another statement");
}

#[tokio::test]
async fn nothing_can_be_written() {
    let admin = prepared(
        "written",
        "CREATE TABLE log (n int);
         CREATE FUNCTION wrote() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS
             'BEGIN INSERT INTO written.log VALUES (1); RETURN 1; END';
         CREATE VIEW sly AS SELECT written.wrote() AS n",
    )
    .await;
    let failed = asked(&collection("written", ""), "sly", "SELECT n FROM t").await.unwrap_err();
    assert!(failed.contains("clinic answered something that cannot be used"), "{failed}");
    let count: i64 = admin.query_one("SELECT count(*) FROM written.log", &[]).await.unwrap().get(0);
    assert_eq!(count, 0);
}

#[tokio::test]
async fn errors_tell_no_values() {
    let _admin = prepared(
        "errors",
        "CREATE TABLE secrets (t text); INSERT INTO secrets VALUES ('hunter2');
         CREATE VIEW broken AS SELECT t::int AS n FROM secrets;
         CREATE FUNCTION told() RETURNS int LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''hunter2''; END';
         CREATE VIEW told AS SELECT errors.told() AS n",
    )
    .await;
    let collection = collection("errors", "");
    for table in ["broken", "told"] {
        let context = SessionContext::new();
        context.register_table("t", open(&collection, table).await.provider).unwrap();
        let error = context.sql("SELECT n FROM t").await.unwrap().collect().await.unwrap_err();
        let (mut chain, mut next) = (format!("{error:?}"), Some(&error as &dyn std::error::Error));
        while let Some(cause) = next {
            chain.push_str(&format!(" {cause}"));
            next = cause.source();
        }
        assert!(chain.contains("clinic") && !chain.contains("hunter2"), "{chain}");
    }
    assert_eq!(
        asked(&collection, "secrets", "SELECT t FROM t").await.unwrap(),
        ["hunter2"],
        "the connection is well"
    );
}

#[tokio::test]
async fn who_calls_is_passed_on() {
    let admin = prepared(
        "callers",
        "CREATE TABLE owned (owner text, n int); INSERT INTO owned VALUES ('alice', 1), ('bob', 2), ('*/ x', 3);
         ALTER TABLE owned ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON owned USING (owner = current_setting('app.user', true));
         CREATE ROLE callers_nurse; GRANT callers_nurse TO callers_reader; GRANT USAGE ON SCHEMA callers TO callers_nurse;
         CREATE TABLE wards (n int); INSERT INTO wards VALUES (1); GRANT SELECT ON wards TO callers_nurse;
         CREATE VIEW me AS SELECT current_user::text AS me; GRANT SELECT ON me TO callers_nurse",
    )
    .await;
    let plain = collection("callers", "");
    let of = async |principal: &str, collection: &Postgres, table: &str| {
        let caller = Caller {
            principal: principal.to_owned(),
            groups: vec!["nurses".to_owned()],
            ..Caller::default()
        };
        let statement = collection.begin(&caller).await.map_err(|e| e.to_string())?.unwrap();
        let source = statement.table(table, &caller).await.map_err(|e| e.to_string())?;
        let context = SessionContext::new();
        context.register_table("t", source.ok_or("no such table")?.provider).unwrap();
        rows(&context, "SELECT * FROM t").await
    };
    assert_eq!(of("alice", &plain, "owned").await.unwrap(), ["alice|1"]);
    assert_eq!(of("bob", &plain, "owned").await.unwrap(), ["bob|2"], "nothing of the one before is left");
    assert_eq!(of("*/ x", &plain, "owned").await.unwrap(), ["*/ x|3"]);
    assert!(of("'; RESET ROLE; --", &plain, "owned").await.unwrap().is_empty());
    assert_eq!(of("a\0b", &plain, "owned").await, Ok(Vec::new()));

    admin.batch_execute("REVOKE SELECT ON ALL TABLES IN SCHEMA callers FROM callers_reader").await.unwrap();
    let mapped = collection("callers", "[roles]\nnurses = \"callers_nurse\"\nroot = \"postgres\"\n");
    assert_eq!(of("alice", &mapped, "me").await.unwrap(), ["callers_nurse"]);
    assert_eq!(of("alice", &mapped, "wards").await.unwrap(), ["1"]);
    assert_eq!(
        of("alice", &mapped, "owned").await,
        Err("no such table".to_owned()),
        "the role may not read it"
    );
    let refused = of("root", &mapped, "me").await.unwrap_err();
    assert!(refused.contains("refuses the perimeter"), "{refused}");
    let strangers = collection("callers", "[roles]\ndoctors = \"callers_nurse\"\n");
    assert!(of("alice", &strangers, "me").await.unwrap_err().contains("refuses the perimeter"));
}

async fn running(admin: &Client, user: &str) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND usename = $1";
    admin.query_one(sql, &[&user]).await.expect("it is counted").get(0)
}

#[tokio::test]
async fn what_nobody_waits_for_is_cancelled() {
    let admin = prepared(
        "slow",
        "CREATE VIEW slow AS SELECT i, pg_sleep(0.05)::text AS s FROM generate_series(1, 100000) i",
    )
    .await;
    let slow = collection("slow", "answer_timeout = \"60s\"\n");
    let context = SessionContext::new();
    context.register_table("t", open(&slow, "slow").await.provider).unwrap();
    let mut stream = context.sql("SELECT * FROM t").await.unwrap().execute_stream().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(700), stream.next()).await.is_err());
    assert_eq!(running(&admin, "slow_reader").await, 1);
    // The table is still held, as in a statement that goes on.
    drop(stream);
    let begun = Instant::now();
    while running(&admin, "slow_reader").await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(5), "it still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let hasty = collection("slow", "answer_timeout = \"300ms\"\n");
    let failed = asked(&hasty, "slow", "SELECT * FROM t").await.unwrap_err();
    assert!(failed.contains("did not answer within 300ms"), "{failed}");
}

#[tokio::test]
async fn connections_and_memory_are_bounded() {
    let admin = prepared(
        "bounded",
        "CREATE TABLE wide AS SELECT i, repeat(md5(i::text), 3000) AS w FROM generate_series(1, 60) i",
    )
    .await;
    let two = collection("bounded", "max_connections = 2\n");
    let all = futures_util::future::join_all(
        (0..12).map(|_| asked(&two, "wide", "SELECT count(*), sum(length(w)) FROM t")),
    );
    for found in all.await {
        assert_eq!(found, Ok(vec!["60|5760000".to_owned()]));
    }
    let count: i64 = admin
        .query_one("SELECT count(*) FROM pg_stat_activity WHERE usename = 'bounded_reader'", &[])
        .await
        .unwrap()
        .get(0);
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
    let _admin = prepared("verified", "CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await;
    let of = async |host: &str, more: &str| {
        let mut config = config("verified", more);
        config.host = host.to_owned();
        let postgres = Postgres::new("clinic", config, Path::new("/")).expect("it is open");
        postgres.check().await
    };
    let ca = variable("CA");
    let lines = of("localhost", &format!("tls_ca_file = \"{ca}\"\n")).await.unwrap();
    assert!(lines[0].contains("TLS, verified"), "{lines:?}");
    let plain = of("localhost", "").await.unwrap();
    assert!(plain[0].contains("no TLS"), "{plain:?}");
    for (host, more) in [
        // The certificate is of another name, or of nobody who is trusted.
        ("127.0.0.1", format!("tls_ca_file = \"{ca}\"\n")),
        ("localhost", "tls = \"verify-full\"\n".to_owned()),
    ] {
        let error = of(host, &more).await.unwrap_err();
        let source = error.source().map(ToString::to_string).unwrap_or_default();
        assert!(source.contains("certificate"), "{host}: {source}");
    }
}

#[tokio::test]
async fn a_check_says_what_the_role_could_do() {
    let _admin = prepared("checked", "CREATE TABLE t (n int)").await;
    let lines = collection("checked", "").check().await.unwrap();
    assert!(lines[0].contains("PostgreSQL 15") && lines[0].contains("read only: on"), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("warning")), "{lines:?}");
    let lines = collection("checked", "user = \"postgres\"\n").check().await.unwrap();
    for part in ["superuser", "could write to", "pg_write_server_files"] {
        assert!(
            lines.iter().any(|line| line.contains("warning") && line.contains(part)),
            "{part}: {lines:?}"
        );
    }
}

#[tokio::test]
async fn passwords_are_read_again_when_they_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let admin = prepared("secrets", "CREATE TABLE t (n int)").await;
    admin
        .batch_execute(
            "CREATE ROLE secretive LOGIN PASSWORD 'first'; GRANT USAGE ON SCHEMA secrets TO secretive",
        )
        .await
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("password");
    let write = |text: &str| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("wrong");
    let more = format!(
        "user = \"secretive\"\nmax_connections = 1\npassword = {{ file = \"{}\" }}\n",
        path.display()
    );
    let collection = collection("secrets", &more);
    let error = collection.check().await.unwrap_err();
    assert!(matches!(error, CollectionError::Refused { .. }), "{error:?}");
    assert!(!format!("{error:?}").contains("wrong"), "{error:?}");
    write("first");
    assert!(!collection.check().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let mut config = config("nowhere", "connect_timeout = \"2s\"\n");
    config.port = 1;
    let postgres = Postgres::new("clinic", config, Path::new("/")).unwrap();
    let error = postgres.tables().await.unwrap_err();
    assert!(matches!(error, CollectionError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("cannot be reached now"), "{error}");
}
