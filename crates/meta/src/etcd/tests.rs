//! The conformance suite against a real etcd, and what only a server over a network can get wrong.
//!
//! The tests start `etcd` from the PATH, on free ports and in directories of their own. Without it they fail.

mod access;
mod outage;
mod server;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;

use self::server::EtcdServer;
use super::EtcdStore;
use crate::{
    ErrorKind, EtcdOptions, MetaStore, MetaStoreExt, MetaUrl, Op, Revision, Txn, conformance::Subject,
};

/// The store of an address.
async fn connect(url: &str, options: &EtcdOptions) -> crate::Result<EtcdStore> {
    let MetaUrl::Etcd(url) = url.parse().unwrap() else { panic!("{url} is no etcd") };
    EtcdStore::connect(&url, options).await
}

async fn etcd_subject() -> Subject {
    let server = EtcdServer::shared();
    let store = connect(&server.url(), &EtcdOptions::default()).await.unwrap();
    let root = format!("/{}/", uuid::Uuid::new_v4());
    Subject { store: Arc::new(store), root, keep: Box::new(server) }
}

mod conformance {
    crate::conformance_suite!(super::etcd_subject);
}

#[tokio::test]
async fn a_listing_of_large_values_is_read_in_smaller_pages() {
    let s = etcd_subject().await;
    let key = |i: usize| format!("{}{i:03}", s.root);
    let value = Bytes::from(vec![7; 1 << 20]);
    let puts = (0..40).map(|i| {
        let (store, key, value) = (&s.store, key(i), value.clone());
        async move { store.put(&key, value).await.unwrap() }
    });
    join_all(puts).await;
    let listing = s.store.range_all(&s.root).await.unwrap();
    let keys: Vec<_> = listing.kvs.into_iter().map(|kv| (kv.key, kv.value.len())).collect();
    assert_eq!(keys, (0..40).map(|i| (key(i), 1 << 20)).collect::<Vec<_>>());
}

#[tokio::test]
async fn prefixes_keep_installations_apart() {
    let server = EtcdServer::shared();
    let prefix = format!("/{}", uuid::Uuid::new_v4());
    let options = EtcdOptions::default();
    let whole = connect(&server.url(), &options).await.unwrap();
    let a = connect(&format!("{}{prefix}/a", server.url()), &options).await.unwrap();
    let b = connect(&format!("{}{prefix}/b/", server.url()), &options).await.unwrap();
    let mut watch = b.watch("/k", Revision(0)).await.unwrap();
    a.put("/k", Bytes::from_static(b"a")).await.unwrap();
    let of_b = b.put("/k", Bytes::from_static(b"b")).await.unwrap();

    assert_eq!(a.get("/k").await.unwrap().unwrap().value, "a");
    let seen = watch.next().await.unwrap();
    assert_eq!((seen.revision, seen.events[0].key()), (of_b, "/k"));
    let there = whole.range_all(&prefix).await.unwrap().kvs;
    let there: Vec<_> = there.into_iter().map(|kv| kv.key).collect();
    assert_eq!(there, [format!("{prefix}/a/k"), format!("{prefix}/b/k")]);
    assert!(a.txn(Txn::new().and_then(Op::delete_prefix("/"))).await.unwrap().succeeded);
    assert!(b.get("/k").await.unwrap().is_some());
}

#[tokio::test]
async fn a_watch_of_compacted_revisions_says_so() {
    let server = EtcdServer::start().await;
    let store = connect(&server.url(), &EtcdOptions::default()).await.unwrap();
    let first = store.put("/k", Bytes::from_static(b"1")).await.unwrap();
    let last = store.put("/k", Bytes::from_static(b"2")).await.unwrap();
    server::compact(&store, last).await;

    let mut watch = store.watch("/k", first).await.unwrap();
    assert_eq!(watch.next().await.unwrap_err().kind(), ErrorKind::Compacted);
    assert_eq!(watch.next().await.unwrap_err().kind(), ErrorKind::Retry);
    let listing = store.range_all("/k").await.unwrap();
    let mut watch = store.watch("/k", listing.revision.next()).await.unwrap();
    let next = store.put("/k", Bytes::from_static(b"3")).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision, next);
}
