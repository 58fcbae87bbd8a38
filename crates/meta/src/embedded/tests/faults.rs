//! A disk that fails: full, failing to sync, failing until it is replaced.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use redb::{StorageBackend, backends::FileBackend};

use crate::{EmbeddedStore, ErrorKind, MetaStore, MetaStoreExt, Result, Revision, embedded::disk};

/// What goes wrong, from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Every write fails: no space.
    Full,
    /// The first sync fails although everything reached the disk; after that all is well.
    SyncOnce,
    /// Everything fails, reads as well.
    Dead,
}

#[derive(Clone, Debug, Default)]
struct Faults(Arc<AtomicU8>);

impl Faults {
    fn set(&self, fault: Fault) {
        self.0.store(fault as u8, Ordering::SeqCst);
    }

    fn is(&self, fault: Fault) -> bool {
        self.0.load(Ordering::SeqCst) == fault as u8
    }

    fn write(&self) -> io::Result<()> {
        if self.is(Fault::Full) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.read()
    }

    fn read(&self) -> io::Result<()> {
        if self.is(Fault::Dead) {
            return Err(io::Error::other("the disk is gone"));
        }
        Ok(())
    }
}

#[derive(Debug)]
struct FaultyFile {
    inner: FileBackend,
    faults: Faults,
}

impl StorageBackend for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.faults.read()?;
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.faults.read()?;
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.faults.write()?;
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.faults.write()?;
        self.inner.sync_data()?;
        if self.faults.is(Fault::SyncOnce) {
            self.faults.set(Fault::None);
            return Err(io::Error::other("the sync failed"));
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.faults.write()?;
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}

fn open(dir: &Path, faults: &Faults) -> Result<EmbeddedStore> {
    let faults = faults.clone();
    let opener = move |path: &Path| {
        faults.read()?;
        let file = std::fs::File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let inner = FileBackend::new(file)?;
        Ok(Box::new(FaultyFile { inner, faults: faults.clone() }) as Box<dyn StorageBackend>)
    };
    let (disk, image) = disk::open_with(dir, Box::new(opener))?;
    EmbeddedStore::with_disk(disk, image)
}

/// Tries until it works again, as a client does.
async fn put_until_it_works(store: &EmbeddedStore, key: &str) -> Revision {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        match store.put(key, Bytes::new()).await {
            Ok(revision) => return revision,
            Err(error) => {
                assert!(error.kind().is_retriable(), "{error}");
                assert!(tokio::time::Instant::now() < deadline, "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

#[tokio::test]
async fn a_full_disk_fails_its_commit_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let store = open(dir.path(), &faults).unwrap();
    let before = store.put("/before", Bytes::new()).await.unwrap();

    faults.set(Fault::Full);
    for _ in 0..3 {
        let error = store.put("/lost", Bytes::from(vec![1; 100_000])).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Full | ErrorKind::Retry), "{error}");
        assert!(error.to_string().contains("no storage space"), "{error}");
        // What is durable is still served.
        assert!(store.get("/before").await.unwrap().is_some());
        assert!(store.get("/lost").await.unwrap().is_none());
    }
    faults.set(Fault::None);
    let after = put_until_it_works(&store, "/after").await;
    assert_eq!(after, before.next());
    drop(store);
    let store = open(dir.path(), &faults).unwrap();
    let keys: Vec<_> = store.range_all("/").await.unwrap().kvs.into_iter().map(|kv| kv.key).collect();
    assert_eq!(keys, ["/after", "/before"]);
}

#[tokio::test]
async fn a_commit_of_unknown_outcome_is_settled_before_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let store = open(dir.path(), &faults).unwrap();
    for i in 0..10 {
        let key = format!("/{i}");
        faults.set(Fault::SyncOnce);
        let answer = store.put(&key, Bytes::new()).await;
        let there = store.get(&key).await.unwrap();
        match answer {
            Ok(revision) => assert_eq!(there.unwrap().mod_revision, revision),
            Err(error) => {
                assert!(error.kind().is_retriable(), "{error}");
                assert!(there.is_none());
            }
        }
        put_until_it_works(&store, &key).await;
    }
    let expected = store.range_all("/").await.unwrap();
    drop(store);
    let reopened = open(dir.path(), &faults).unwrap().range_all("/").await.unwrap();
    assert_eq!((reopened.kvs, reopened.revision), (expected.kvs, expected.revision));
}

#[tokio::test]
async fn a_disk_that_comes_back_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let store = open(dir.path(), &faults).unwrap();
    let mut watch = store.watch("/", Revision(0)).await.unwrap();
    faults.set(Fault::Dead);
    for _ in 0..3 {
        assert_eq!(store.put("/k", Bytes::new()).await.unwrap_err().kind(), ErrorKind::Retry);
    }
    assert!(store.get("/k").await.unwrap().is_none());
    faults.set(Fault::None);
    let revision = put_until_it_works(&store, "/k").await;
    assert_eq!(watch.next().await.unwrap().revision, Revision(1));
    assert!(revision >= Revision(1));
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_commit_whose_record_cannot_be_written_is_not_answered_before_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, image) = disk::open(dir.path()).unwrap();
    let journal = disk.journal();
    let to = |path: &Path| std::fs::File::options().write(true).open(path).unwrap();
    let store = EmbeddedStore::with_disk(disk, image).unwrap();
    let before = store.put("/before", Bytes::new()).await.unwrap();
    journal.lock().as_mut().unwrap().write_to(to(Path::new("/dev/full")));
    for _ in 0..2 {
        assert!(store.put("/k", Bytes::new()).await.unwrap_err().kind().is_retriable());
        assert!(store.get("/k").await.unwrap().is_none(), "nobody may know of it yet");
    }
    journal.lock().as_mut().unwrap().write_to(to(&dir.path().join("meta/kafscale.commits")));
    let revision = put_until_it_works(&store, "/k").await;
    assert!(revision > before);
    drop(store);
    let records = super::super::journal::read(&dir.path().join("meta")).unwrap();
    assert_eq!(records.last().unwrap().after, revision);
}
