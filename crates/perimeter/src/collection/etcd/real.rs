//! Against a real cluster, which tests/perimeter/collections starts. What is in it is written by
//! `etcdctl`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;

use datafusion::prelude::SessionContext;

use super::*;
use crate::collection::conformance::{self, Subject, caller, open, rows};

fn variable(name: &str) -> String {
    std::env::var(format!("KAFSCALE_TEST_ETCD_{name}")).expect("run by tests/perimeter/collections")
}

/// `etcdctl` with these words.
async fn ctl(words: &[impl AsRef<OsStr>]) -> String {
    let done = tokio::process::Command::new("etcdctl")
        .arg(format!("--endpoints=http://127.0.0.1:{}", variable("PORT")))
        .args(words)
        .env("ETCDCTL_API", "3")
        .output()
        .await
        .expect("etcdctl is there");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

async fn put(key: &str, value: &str) {
    ctl(&["put", "--", key, value]).await;
}

fn collection(prefix: &str, more: &str) -> Etcd {
    let at = if more.contains("endpoints") {
        String::new()
    } else {
        format!("endpoints = [\"127.0.0.1:{}\"]\n", variable("PORT"))
    };
    let text = format!("{at}{more}\n[tables.things]\nprefix = \"{prefix}\"");
    Etcd::new("settings", basic_toml::from_str(&text).expect("settings"), Path::new("/")).expect("it is open")
}

async fn asked(collection: &dyn Collection, sql: &str) -> std::result::Result<Vec<String>, String> {
    let context = SessionContext::new();
    context.register_table("t", open(collection, "things").await.provider).expect("it is registered");
    rows(&context, sql).await
}

#[tokio::test]
async fn it_conforms() {
    for n in 0..60 {
        put(&format!("/conforming/{n:02}"), ["one", "", "a%b", "ä"][n % 4]).await;
    }
    put("/conforming/x' OR 1=1 --", "A").await;
    ctl(&[
        OsStr::new("put"),
        OsStr::from_bytes(b"/conforming/\xff\xfe"),
        OsStr::new("a key that is no text"),
    ])
    .await;
    ctl(&[OsStr::new("put"), OsStr::new("/conforming/bytes"), OsStr::from_bytes(b"\x08\xff")]).await;
    let collection = Arc::new(collection("/conforming/", ""));
    conformance::check(Subject { collection, table: "things".to_owned(), expected: Vec::new() }).await;
}

#[tokio::test]
async fn keys_have_their_columns() {
    put("/columns/a", "1").await;
    put("/columns/a", "2").await;
    let lease = ctl(&["lease", "grant", "1000"]).await;
    let lease = lease.split(' ').nth(1).expect("an id").to_owned();
    ctl(&["put", "--lease", &lease, "/columns/b", "x"]).await;
    put("/columnz/c", "of another table").await;
    let collection = collection("/columns/", "");
    let found = asked(
        &collection,
        "SELECT key, value, version, mod_revision - create_revision > 0, lease IS NULL FROM t",
    )
    .await;
    assert_eq!(found.unwrap(), ["/columns/a|2|2|true|true", "/columns/b|x|1|false|false"]);
    let found = asked(&collection, "SELECT lease FROM t WHERE key = '/columns/b'").await.unwrap();
    assert_eq!(found, [i64::from_str_radix(&lease, 16).unwrap().to_string()]);
    assert_eq!(
        asked(&collection, "SELECT key FROM t WHERE key >= '/columns/b' AND key < '/z'").await.unwrap(),
        ["/columns/b"]
    );
    assert!(asked(&collection, "SELECT key FROM t WHERE key = '/columnz/c'").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_statement_sees_one_revision() {
    put("/moment/a", "before").await;
    let collection = collection("/moment/", "");
    let begun = collection.begin(&caller()).await.unwrap().expect("it has moments");
    put("/moment/a", "after").await;
    put("/moment/b", "after").await;
    let source = begun.table("things", &caller()).await.unwrap().expect("it is there");
    let context = SessionContext::new();
    context.register_table("t", source.provider).unwrap();
    assert_eq!(rows(&context, "SELECT key, value FROM t").await.unwrap(), ["/moment/a|before"]);
    let told = (source.provenance.0)();
    assert!(told["revision"].is_u64() && told["rows_read"] == 1, "{told}");
    assert_eq!(asked(&collection, "SELECT value FROM t").await.unwrap(), ["after", "after"]);
}

/// Alone there: whoever reads another revision at the same time would lose it.
async fn a_revision_that_is_gone_is_told(guarded: &Guarded) {
    let root = async |words: &[&str]| {
        let done = tokio::process::Command::new("etcdctl")
            .arg(format!("--endpoints=http://127.0.0.1:{}", variable("GUARDED_PORT")))
            .arg("--user=root:root")
            .args(words)
            .env("ETCDCTL_API", "3")
            .output()
            .await
            .expect("etcdctl is there");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let mut begun = guarded.collection("/allowed/");
    begun.revision = Some(Revision(1));
    root(&["put", "/allowed/a", "1"]).await;
    let now = begun.now("/allowed/").await.unwrap();
    root(&["compact", &now.0.to_string()]).await;
    let source = begun.table("things", &caller()).await.unwrap().expect("it is there");
    let context = SessionContext::new();
    context.register_table("t", source.provider).unwrap();
    let error = rows(&context, "SELECT key FROM t").await.unwrap_err();
    assert!(error.contains("changed while it was read"), "{error}");
}

#[tokio::test]
async fn many_keys_and_large_values_are_pages() {
    let puts: Vec<String> = (0..2_500).map(|n| format!("put /many/{n:04} {n}")).collect();
    // etcd takes 128 operations at once.
    for batch in puts.chunks(100) {
        let mut child = tokio::process::Command::new("etcdctl")
            .arg(format!("--endpoints=http://127.0.0.1:{}", variable("PORT")))
            .arg("txn")
            .env("ETCDCTL_API", "3")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("etcdctl is there");
        let mut input = child.stdin.take().expect("it takes input");
        let text = format!("\n{}\n\n\n", batch.join("\n"));
        tokio::io::AsyncWriteExt::write_all(&mut input, text.as_bytes()).await.unwrap();
        drop(input);
        assert!(child.wait().await.unwrap().success());
    }
    let many = collection("/many/", "");
    assert_eq!(
        asked(&many, "SELECT count(*), count(DISTINCT key), sum(CAST(value AS bigint)) FROM t")
            .await
            .unwrap(),
        ["2500|2500|3123750"]
    );
    assert_eq!(
        asked(&many, "SELECT count(*) FROM (SELECT key FROM t LIMIT 1007) AS l").await.unwrap(),
        ["1007"]
    );
    let failed = asked(&collection("/many/", "max_keys = 100"), "SELECT key FROM t").await.unwrap_err();
    assert!(failed.contains("cannot be used"), "{failed}");
}

#[tokio::test]
async fn a_role_that_reads_a_part_is_enough_and_reads_no_more() {
    let guarded = Guarded::new();
    let allowed = guarded.collection("/allowed/");
    assert_eq!(asked(&allowed, "SELECT key, value FROM t").await.unwrap(), ["/allowed/a|1"]);
    let lines = allowed.check().await.unwrap();
    assert!(lines[0].contains("as perimeter; 1 tables; only ranges are read"), "{lines:?}");
    let refused = |error: CollectionError| {
        let told = format!("{error:?}");
        assert!(matches!(error, CollectionError::Refused { .. }) && !told.contains("secret"), "{told}");
    };
    refused(guarded.collection("/denied/").check().await.unwrap_err());
    refused(guarded.collection("").check().await.unwrap_err());
    guarded.write("wrong-secret");
    let renewed = guarded.collection("/allowed/");
    refused(renewed.check().await.unwrap_err());
    guarded.write("secret");
    assert_eq!(renewed.check().await.unwrap().len(), 1, "the password is read again");
    a_revision_that_is_gone_is_told(&guarded).await;
}

/// The cluster that asks who somebody is, and the file with the password.
struct Guarded(tempfile::TempDir);

impl Guarded {
    fn new() -> Guarded {
        let guarded = Guarded(tempfile::tempdir().expect("a directory"));
        guarded.write("secret");
        guarded
    }

    fn write(&self, password: &str) {
        let path = self.0.path().join("password");
        std::fs::write(&path, password).expect("it is written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("it is private");
    }

    fn collection(&self, prefix: &str) -> Etcd {
        let more = format!(
            "endpoints = [\"127.0.0.1:{}\"]\nuser = \"perimeter\"\npassword = {{ file = \"{}\" }}",
            variable("GUARDED_PORT"),
            self.0.path().join("password").display()
        );
        collection(prefix, &more)
    }
}

#[tokio::test]
async fn tls_is_verified() {
    put("/tls/a", "1").await;
    let at = |host: &str, more: &str| {
        collection(
            "/tls/",
            &format!("endpoints = [\"{host}:{}\"]\n{more}\nanswer_timeout = \"3s\"", variable("TLS_PORT")),
        )
    };
    let ca = format!("tls_ca_file = \"{}\"", variable("CA"));
    let lines = at("localhost", &ca).check().await.unwrap();
    assert!(lines[0].contains("TLS, verified"), "{lines:?}");
    assert!(at("127.0.0.1", &ca).check().await.is_err(), "the certificate is of localhost alone");
    assert!(
        at("localhost", "tls = \"verify-full\"").check().await.is_err(),
        "an authority that nobody trusts"
    );
    assert!(at("localhost", "tls = \"off\"").check().await.is_err(), "no plain text where TLS is expected");
}
