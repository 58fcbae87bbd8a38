//! What readers see beside a broker and without one.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::socket::Socket;
use super::*;
use crate::conformance::Subject;
use crate::etcd::{EtcdOptions, EtcdStore};
use crate::{
    EmbeddedStore, ErrorKind, KeyValue, Lease, LeaseId, Listing, MetaStore, MetaStoreExt, RangePage,
    RangeRequest, Result, Revision, Txn, TxnOutcome, Watch,
};

/// Changes a store, and looks at it over the socket.
#[derive(Debug)]
struct OverSocket {
    store: Arc<EmbeddedStore>,
    reader: EtcdStore,
}

#[async_trait::async_trait]
impl MetaStore for OverSocket {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        self.reader.get(key).await
    }

    async fn range(&self, request: RangeRequest) -> Result<RangePage> {
        self.reader.range(request).await
    }

    async fn range_all(&self, prefix: &str) -> Result<Listing> {
        self.reader.range_all(prefix).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        self.store.txn(txn).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Box<dyn Watch>> {
        self.reader.watch(prefix, from).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease> {
        self.store.lease_grant(ttl).await
    }

    async fn lease_keepalive(&self, lease: LeaseId) -> Result<Instant> {
        self.store.lease_keepalive(lease).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<()> {
        self.store.lease_revoke(lease).await
    }

    async fn close(&self) -> Result<()> {
        self.store.close().await?;
        self.reader.close().await
    }
}

async fn over_socket() -> Subject {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(EmbeddedStore::file(dir.path()).await.unwrap());
    let socket = MetaSocket::serve(dir.path(), store.clone()).unwrap();
    let named = Socket::of(dir.path()).unwrap();
    let reader = EtcdStore::connect_socket(named, &EtcdOptions::default()).await.unwrap();
    let store = Arc::new(OverSocket { store, reader });
    Subject { store, root: "/conformance/".to_owned(), keep: Box::new((dir, socket)) }
}

mod conformance {
    crate::conformance_suite!(super::over_socket);
}

/// A broker's store with its socket.
async fn broker(dir: &Path) -> (Arc<EmbeddedStore>, MetaSocket) {
    let store = Arc::new(EmbeddedStore::file(dir).await.unwrap());
    let socket = MetaSocket::serve(dir, store.clone()).unwrap();
    (store, socket)
}

async fn value(reader: &LocalReader) -> Option<Bytes> {
    reader.get("/a").await.unwrap().map(|kv| kv.value)
}

#[tokio::test]
async fn a_reader_follows_brokers_that_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(LocalReader::open(dir.path()).await.unwrap_err().kind(), ErrorKind::Invalid);
    let (store, socket) = broker(dir.path()).await;
    store.put("/a", "1".into()).await.unwrap();
    let reader = LocalReader::open(dir.path()).await.unwrap();
    assert!(reader.is_served().await);
    assert_eq!(value(&reader).await, Some("1".into()));
    store.put("/a", "2".into()).await.unwrap();
    assert_eq!(value(&reader).await, Some("2".into()), "as new as the last answer");
    let mut watch = reader.watch("/", Revision(0)).await.unwrap();
    store.put("/a", "3".into()).await.unwrap();
    assert_eq!(watch.next().await.unwrap().events.len(), 1);
    drop(watch);
    drop(socket);
    store.close().await.unwrap();
    assert_eq!(value(&reader).await, Some("3".into()));
    assert!(!reader.is_served().await, "the file");
    let (store, _socket) = broker(dir.path()).await;
    store.put("/a", "4".into()).await.unwrap();
    assert_eq!(value(&reader).await, Some("4".into()));
    assert!(reader.is_served().await);
}

#[tokio::test]
async fn a_reader_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, socket) = broker(dir.path()).await;
    store.put("/a", "1".into()).await.unwrap();
    for served in [true, false] {
        let reader = LocalReader::open(dir.path()).await.unwrap();
        assert_eq!(reader.is_served().await, served);
        assert_eq!(reader.put("/a", "2".into()).await.unwrap_err().kind(), ErrorKind::Denied);
        // Nor can anybody else over the socket.
        if served {
            let named = Socket::of(dir.path()).unwrap();
            let raw = EtcdStore::connect_socket(named, &EtcdOptions::default()).await.unwrap();
            assert_eq!(raw.put("/a", "2".into()).await.unwrap_err().kind(), ErrorKind::Unsupported);
            let lease = raw.lease_grant(Duration::from_secs(9)).await;
            assert_eq!(lease.unwrap_err().kind(), ErrorKind::Unsupported);
        }
        assert_eq!(value(&reader).await, Some("1".into()));
        if served {
            // The socket goes, the store stays open: as a killed broker leaves its file.
            store.put("/b", "".into()).await.unwrap();
            socket.task.abort();
            while Socket::of(dir.path()).unwrap().connect().await.is_ok() {
                tokio::task::yield_now().await;
            }
        }
    }
    let names = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&dir.path().join("meta")), ["LOCK", "kafscale.commits", "kafscale.redb"]);
}

#[tokio::test]
async fn what_a_killed_broker_left_is_read_without_repairing_it() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, _socket) = broker(dir.path()).await;
    fs::create_dir(copy.path().join("meta")).unwrap();
    let lease = store.lease_grant(Duration::from_secs(600)).await.unwrap().id;
    let leased = Txn::new().and_then(crate::Op::put_leased("/leased", "", lease));
    assert!(store.txn(leased).await.unwrap().succeeded);
    for i in 0..10 {
        let revision = store.put(&format!("/{i}"), Bytes::new()).await.unwrap();
        let mut before = Vec::new();
        for name in ["kafscale.redb", "kafscale.commits"] {
            let to = copy.path().join("meta").join(name);
            fs::copy(dir.path().join("meta").join(name), &to).unwrap();
            before.push((fs::read(&to).unwrap(), to));
        }
        let reader = LocalReader::open(copy.path()).await.unwrap();
        let listing = reader.range_all("/").await.unwrap();
        assert_eq!((listing.kvs.len(), listing.revision), (i + 1, revision), "without what had a lease");
        for (bytes, path) in before {
            assert!(fs::read(&path).unwrap() == bytes, "{} was changed", path.display());
        }
    }
    assert_eq!(fs::read_dir(copy.path().join("meta")).unwrap().count(), 2, "nothing was made");
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, socket) = broker(dir.path()).await;
    for i in 0..200 {
        store.put(&format!("/{i}"), Bytes::from(vec![7; 1000])).await.unwrap();
    }
    drop(socket);
    store.close().await.unwrap();
    drop(store);
    let path = dir.path().join("meta/kafscale.redb");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(1000).position(|window| window == [7; 1000]).unwrap();
    bytes[at] = 8;
    fs::write(&path, bytes).unwrap();
    assert_eq!(LocalReader::open(dir.path()).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn large_listings_come_in_pages_of_one_revision() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _socket) = broker(dir.path()).await;
    for i in 0..60 {
        store.put(&format!("/large/{i:03}"), Bytes::from(vec![1; 100_000])).await.unwrap();
    }
    let reader = Arc::new(LocalReader::open(dir.path()).await.unwrap());
    let writing = tokio::spawn({
        let store = store.clone();
        async move {
            for i in 0..500 {
                store.put("/large/000", Bytes::from(vec![1; i])).await.unwrap();
            }
        }
    });
    while !writing.is_finished() {
        let listing = reader.range_all("/large/").await.unwrap();
        assert_eq!(listing.kvs.len(), 60);
        assert!(listing.kvs.iter().all(|kv| kv.mod_revision <= listing.revision));
    }
    writing.await.unwrap();
}

#[tokio::test]
async fn many_connections_do_not_keep_others_out_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _socket) = broker(dir.path()).await;
    store.put("/a", "1".into()).await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(Socket::of(dir.path()).unwrap().connect().await.unwrap());
    }
    idle.clear();
    let reader = LocalReader::open(dir.path()).await.unwrap();
    assert_eq!(value(&reader).await, Some("1".into()));
}
