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
    EmbeddedStore, Error, ErrorKind, EtcdOptions, MetaStore, MetaStoreExt, MetaUrl, Op, Result, Revision, Txn,
};

fn database(dir: &Path) -> std::path::PathBuf {
    dir.join("meta/kafscale.redb")
}

async fn refused(dir: &Path) -> Error {
    EmbeddedStore::file(dir).await.map(|_| ()).unwrap_err()
}

/// Opens a store after a look at it, as a broker does.
async fn look_and_open(dir: &Path) -> Result<EmbeddedStore> {
    let (copy, held) = EmbeddedStore::look_and_hold(dir).await?;
    let store = held.open().await?;
    let (found, opened) = (copy.range_all("/").await?, store.range_all("/").await?);
    assert_eq!(found.kvs, opened.kvs);
    Ok(store)
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

        let store = look_and_open(dir.path()).await.unwrap();
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
        assert!(error.to_string().contains("Put the directory back from a backup"), "{error}");
    }
    // A flipped byte may be in a page that nothing uses; then everything must be as it was.
    let mut found = 0;
    for at in (0..good.len().min(400_000)).step_by(1777) {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        fs::write(database(dir.path()), &bytes).unwrap();
        match look_and_open(dir.path()).await {
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

/// A fault of the disk, at a place that the last commit wrote to.
fn damage(bytes: &mut [u8], before: &[u8], random: &mut impl FnMut(usize) -> usize) {
    let changed: Vec<usize> =
        (0..bytes.len()).filter(|at| before.get(*at).is_none_or(|old| *old != bytes[*at])).collect();
    let at = changed[random(changed.len())];
    let end = bytes.len().min(at + 1 + random(5000));
    match random(4) {
        0 => bytes[at] ^= 1 << random(8),
        1 => bytes[at..end].fill(0),
        2 => bytes[at..end].iter_mut().for_each(|byte| *byte ^= 0x5a),
        // The write of a page was lost.
        _ => {
            let (from, to) = (at / 4096 * 4096, before.len().min(at / 4096 * 4096 + 4096));
            if from < to {
                bytes[from..to].copy_from_slice(&before[from..to]);
            }
        }
    }
}

#[tokio::test]
async fn damage_after_a_kill_never_rolls_an_answered_commit_back() {
    const FILES: [&str; 2] = ["meta/kafscale.redb", "meta/kafscale.commits"];
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(copy.path().join("meta")).unwrap();
    let mut state = 7u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let store = EmbeddedStore::file(dir.path()).await.unwrap();
    let read = |dir: &Path| FILES.map(|file| fs::read(dir.join(file)).unwrap());
    let (mut before, mut whole, mut refusals, mut rolled_back) = (read(dir.path()), 0, 0, 0);
    for round in 0..40u8 {
        let bytes = if round % 8 == 5 { 150 << 10 } else { 40 };
        store.put(&format!("/{}", round % 7), vec![round; bytes].into()).await.unwrap();
        let listing = store.range_all("/").await.unwrap();
        let now = read(dir.path());
        for attempt in 0..6 {
            let mut copied = now.clone();
            let which = usize::from(attempt == 4);
            damage(&mut copied[which], &before[which], &mut random);
            for (file, bytes) in FILES.iter().zip(&copied) {
                fs::write(copy.path().join(file), bytes).unwrap();
            }
            let has_journal = attempt < 5;
            if !has_journal {
                fs::remove_file(copy.path().join(FILES[1])).unwrap();
            }
            let opened = match attempt % 2 {
                0 => EmbeddedStore::file(copy.path()).await,
                _ => look_and_open(copy.path()).await,
            };
            match opened {
                Ok(opened) if has_journal => {
                    let found = opened.range_all("/").await.unwrap();
                    assert_eq!((found.revision, found.kvs), (listing.revision, listing.kvs.clone()));
                    whole += 1;
                }
                Ok(opened) => {
                    let found = opened.range_all("/").await.unwrap();
                    rolled_back += usize::from(found.revision < listing.revision);
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                    assert!(error.to_string().contains("kafscale restore"), "{error}");
                    refusals += 1;
                }
            }
        }
        before = now;
    }
    assert!(
        rolled_back > 5,
        "without the journal {rolled_back} of 40 go back: these damages are worth the name"
    );
    assert!(whole > 150, "{whole} opened with everything, {refusals} were refused");
}

#[tokio::test]
async fn an_older_database_beside_its_journal_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::file(dir.path()).await.unwrap();
    for i in 0..9 {
        store.put("/k", Bytes::from(vec![i])).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    // The database of an older copy of the directory, beside today's journal: later commits were acknowledged.
    let old = fs::read(database(dir.path())).unwrap();
    let store = EmbeddedStore::file(dir.path()).await.unwrap();
    for i in 0..9 {
        store.put("/k", Bytes::from(vec![i])).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    fs::write(database(dir.path()), old).unwrap();
    let error = refused(dir.path()).await;
    assert!(error.to_string().contains("revision 9, but revision 18 was reached"), "{error}");
    // Metadata that begin anew, as a restore makes them, are not held against the journal of the old ones.
    fs::rename(database(dir.path()), dir.path().join("meta/kept")).unwrap();
    let store = EmbeddedStore::file(dir.path()).await.unwrap();
    assert_eq!(store.range_all("/").await.unwrap().revision, Revision(0));
}

#[tokio::test]
async fn the_journal_of_another_store_is_refused_and_nothing_of_it_is_taken() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let journal = |dir: &Path| dir.join("meta/kafscale.commits");
    for (dir, commits) in [(dir.path(), 3), (other.path(), 5)] {
        let store = EmbeddedStore::file(dir).await.unwrap();
        for i in 0..commits {
            store.put(&format!("/k{i}"), dir.display().to_string().into()).await.unwrap();
        }
        store.close().await.unwrap();
        drop(store);
    }
    let own = fs::read(journal(dir.path())).unwrap();
    fs::copy(journal(other.path()), journal(dir.path())).unwrap();
    let error = refused(dir.path()).await;
    assert!(
        error.kind() == ErrorKind::Corrupt && error.to_string().contains("another metadata store"),
        "{error}"
    );
    // The way out that the message names, and the right journal.
    for journal_again in [None, Some(own)] {
        fs::remove_file(journal(dir.path())).unwrap();
        if let Some(own) = journal_again {
            fs::write(journal(dir.path()), own).unwrap();
        }
        let store = EmbeddedStore::file(dir.path()).await.unwrap();
        assert_eq!(store.range_all("/").await.unwrap().kvs.len(), 3);
        store.close().await.unwrap();
        drop(store);
    }
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
