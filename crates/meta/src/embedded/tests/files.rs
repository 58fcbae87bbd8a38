//! The file: durability, what a crash leaves, and data directories that cannot be used.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use redb::{Database, TableDefinition};

use crate::{
    EmbeddedStore, Error, ErrorKind, EtcdOptions, MetaStore, MetaStoreExt, MetaUrl, Op, Revision, Txn,
};

fn database(dir: &Path) -> std::path::PathBuf {
    dir.join("meta/kafscale.redb")
}

async fn refused(dir: &Path) -> Error {
    EmbeddedStore::file(dir).await.map(|_| ()).unwrap_err()
}

#[tokio::test]
async fn what_was_answered_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::file(dir.path()).await.unwrap();
    let created = store.put("/a", Bytes::from_static(b"1")).await.unwrap();
    let modified = store.put("/a", Bytes::from_static(b"2")).await.unwrap();
    store.put("/gone", Bytes::new()).await.unwrap();
    let last = store.delete("/gone").await.unwrap();
    drop(store);

    let store = EmbeddedStore::file(dir.path()).await.unwrap();
    let listing = store.range_all("/").await.unwrap();
    assert_eq!((listing.kvs.len(), listing.revision), (1, last));
    let kv = &listing.kvs[0];
    assert_eq!((kv.create_revision, kv.mod_revision), (created, modified));
    assert_eq!(kv.value, "2");
    // What happened before is not kept for watchers, and revisions go on.
    let mut watch = store.watch("/", Revision(1)).await.unwrap();
    assert_eq!(watch.next().await.unwrap_err().kind(), ErrorKind::Compacted);
    assert_eq!(store.put("/b", Bytes::new()).await.unwrap(), last.next());
}

#[tokio::test]
async fn keys_of_leases_do_not_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::file(dir.path()).await.unwrap();
    let lease = store.lease_grant(Duration::from_secs(600)).await.unwrap().id;
    let txn = Txn::new().and_then(Op::put_leased("/leased", "", lease)).and_then(Op::put("/free", ""));
    let before = store.txn(txn).await.unwrap().revision;
    store.close().await.unwrap();

    for _ in 0..2 {
        let store = EmbeddedStore::file(dir.path()).await.unwrap();
        let listing = store.range_all("/").await.unwrap();
        assert_eq!(listing.revision, before.next());
        assert_eq!(listing.kvs.iter().map(|kv| kv.key.as_str()).collect::<Vec<_>>(), ["/free"]);
    }
}

#[tokio::test]
async fn a_store_that_was_not_closed_opens_again() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = EmbeddedStore::file(dir.path()).await.unwrap();
    fs::create_dir(copy.path().join("meta")).unwrap();
    for i in 0..20 {
        let revision = store.put(&format!("/{i}"), Bytes::new()).await.unwrap();
        // What the disk holds at this moment, without anything that closing would add.
        fs::copy(database(dir.path()), database(copy.path())).unwrap();
        let reopened = EmbeddedStore::file(copy.path()).await.unwrap();
        let listing = reopened.range_all("/").await.unwrap();
        assert_eq!((listing.kvs.len(), listing.revision), (i + 1, revision));
    }
}

/// The child of the next test: commits until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_until_killed() {
    let Ok(dir) = std::env::var("KAFSCALE_TEST_COMMIT_IN") else { return };
    let store: Arc<dyn MetaStore> = Arc::new(EmbeddedStore::file(Path::new(&dir)).await.unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            for i in 0.. {
                let txn = Txn::new()
                    .and_then(Op::put(format!("/{task}/a"), i.to_string()))
                    .and_then(Op::put(format!("/{task}/b"), i.to_string()));
                assert!(store.txn(txn).await.unwrap().succeeded);
                println!("\nacked {task} {i}");
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test]
async fn a_killed_process_loses_nothing_that_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut acked = [0u64; 8];
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "embedded::tests::files::commit_until_killed", "--nocapture"])
            .env("KAFSCALE_TEST_COMMIT_IN", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut seen = 0;
        let mut acked_now = [0u64; 8];
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines.map_while(Result::ok) {
            let mut words = line.split(' ');
            if words.next() == Some("acked") && line.ends_with(|c: char| c.is_ascii_digit()) {
                let task: usize = words.next().unwrap().parse().unwrap();
                acked_now[task] = words.next().unwrap().parse().unwrap();
                seen += 1;
                if seen == 50 + round * 37 {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        assert!(seen >= 50 + round * 37, "the child ended by itself");
        for (task, now) in acked_now.iter().enumerate() {
            acked[task] = acked[task].max(*now);
        }

        let store = EmbeddedStore::file(dir.path()).await.unwrap();
        for (task, acked) in acked_now.iter().enumerate() {
            let mut values = Vec::new();
            for key in [format!("/{task}/a"), format!("/{task}/b")] {
                let kv = store.get(&key).await.unwrap();
                values.push(kv.map(|kv| std::str::from_utf8(&kv.value).unwrap().parse::<u64>().unwrap()));
            }
            assert_eq!(values[0], values[1], "a transaction is all or nothing");
            assert!(values[0].unwrap_or(0) >= *acked, "task {task}: {values:?} after {acked} was answered");
        }
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_directory_in_use_is_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::file(dir.path()).await.unwrap();
    let error = refused(dir.path()).await;
    assert_eq!(error.kind(), ErrorKind::InUse);
    let text = error.to_string();
    assert!(text.contains(dir.path().to_str().unwrap()) && text.contains("stop that one"), "{text}");
    drop(store);
    EmbeddedStore::file(dir.path()).await.unwrap();
}

#[tokio::test]
async fn a_newer_format_is_refused_and_both_versions_named() {
    let dir = tempfile::tempdir().unwrap();
    drop(EmbeddedStore::file(dir.path()).await.unwrap());
    let set_format = |format: Option<u64>| {
        let db = Database::open(database(dir.path())).unwrap();
        let txn = db.begin_write().unwrap();
        {
            let mut meta = txn.open_table(TableDefinition::<&str, u64>::new("meta")).unwrap();
            match format {
                Some(format) => meta.insert("format", format).unwrap(),
                None => meta.remove("format").unwrap(),
            };
        }
        txn.commit().unwrap();
    };
    set_format(Some(7));
    let error = refused(dir.path()).await;
    assert_eq!(error.kind(), ErrorKind::NewerVersion);
    let text = error.to_string();
    assert!(
        text.contains("version 7") && text.contains("up to 1") && text.contains("run a release"),
        "{text}"
    );
    for format in [Some(0), None] {
        set_format(format);
        assert_eq!(refused(dir.path()).await.kind(), ErrorKind::Corrupt);
    }
    set_format(Some(1));
    EmbeddedStore::file(dir.path()).await.unwrap();
}

#[tokio::test]
async fn a_damaged_file_is_an_error_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::file(dir.path()).await.unwrap();
    for i in 0..200 {
        store.put(&format!("/{i}"), Bytes::from(vec![7; 500])).await.unwrap();
    }
    store.close().await.unwrap();
    let good = fs::read(database(dir.path())).unwrap();

    let mut damaged: Vec<Vec<u8>> = vec![Vec::new(), b"not a database".to_vec(), vec![0; good.len()]];
    damaged.extend([9, 100, 320, 4096, good.len() / 2].map(|len| good[..len].to_vec()));
    for bytes in &damaged[1..] {
        fs::write(database(dir.path()), bytes).unwrap();
        let error = refused(dir.path()).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{} bytes: {error}", bytes.len());
        assert!(error.to_string().contains("Restore the directory from a backup"), "{error}");
    }
    // A flipped byte may be in a page that nothing uses; then everything must be as it was.
    let mut found = 0;
    for at in (0..good.len().min(400_000)).step_by(1777) {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        fs::write(database(dir.path()), &bytes).unwrap();
        match EmbeddedStore::file(dir.path()).await {
            Ok(store) => {
                let listing = store.range_all("/").await.unwrap();
                assert!(listing.kvs.iter().all(|kv| kv.value == vec![7; 500]), "the byte at {at}");
                assert_eq!(listing.kvs.len(), 200, "the byte at {at}");
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "the byte at {at}: {error}");
                found += 1;
            }
        }
    }
    assert!(found > 20, "only {found} of the damages were noticed");
    fs::write(database(dir.path()), &good).unwrap();
    let store = EmbeddedStore::file(dir.path()).await.unwrap();
    assert_eq!(store.range_all("/").await.unwrap().kvs.len(), 200);
}

#[tokio::test]
async fn a_creation_that_was_cut_short_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("meta")).unwrap();
    fs::write(dir.path().join("meta/kafscale.redb.new"), [0; 5000]).unwrap();
    let store = EmbeddedStore::file(dir.path()).await.unwrap();
    store.put("/k", Bytes::new()).await.unwrap();
    assert!(!dir.path().join("meta/kafscale.redb.new").exists());
}

#[tokio::test]
async fn a_path_that_is_no_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = refused(&path).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[tokio::test]
async fn an_address_opens_its_backend() {
    let dir = tempfile::tempdir().unwrap();
    let file: MetaUrl = format!("file://{}/a/b", dir.path().display()).parse().unwrap();
    let none = EtcdOptions::default();
    let store = crate::open(&file, &none).await.unwrap();
    store.put("/k", Bytes::new()).await.unwrap();
    assert!(database(&dir.path().join("a/b")).exists());
    crate::open(&MetaUrl::Memory, &none).await.unwrap().put("/k", Bytes::new()).await.unwrap();
}
