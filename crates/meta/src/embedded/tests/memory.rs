//! Leases under a paused clock, and the bounds of history.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::{EmbeddedStore, ErrorKind, Event, MetaStore, MetaStoreExt, Op, Revision, Txn};

#[tokio::test(start_paused = true)]
async fn a_lease_ends_exactly_its_ttl_after_the_last_keepalive() {
    let store = EmbeddedStore::memory();
    let start = Instant::now();
    let lease = store.lease_grant(Duration::from_secs(10)).await.unwrap().id;
    let txn = Txn::new().and_then(Op::put_leased("/k", "", lease));
    assert!(store.txn(txn).await.unwrap().succeeded);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(9)).await;
        store.lease_keepalive(lease).await.unwrap();
    }
    let mut watch = store.watch("/k", Revision(0)).await.unwrap();
    let batch = watch.next().await.unwrap();
    assert!(matches!(&batch.events[..], [Event::Delete { key, .. }] if key == "/k"));
    let lived = start.elapsed().as_secs_f64();
    assert!((37.0..37.1).contains(&lived), "{lived}");
    assert_eq!(store.lease_keepalive(lease).await.unwrap_err().kind(), ErrorKind::Fenced);
}

#[tokio::test(start_paused = true)]
async fn a_paused_holder_wakes_up_fenced() {
    let store = EmbeddedStore::memory();
    let lease = store.lease_grant(Duration::from_secs(10)).await.unwrap().id;
    // The clock jumps over the deadline before anything else can run.
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(store.lease_keepalive(lease).await.unwrap_err().kind(), ErrorKind::Fenced);
    let txn = Txn::new().and_then(Op::put_leased("/k", "", lease));
    assert_eq!(store.txn(txn).await.unwrap_err().kind(), ErrorKind::Fenced);
}

#[tokio::test]
async fn a_watcher_too_far_behind_is_told_to_list_again() {
    let store = EmbeddedStore::memory();
    let mut slow = store.watch("/k", Revision(0)).await.unwrap();
    let value = Bytes::from(vec![0; 1 << 20]);
    for _ in 0..20 {
        store.put("/k", value.clone()).await.unwrap();
    }
    assert_eq!(slow.next().await.unwrap_err().kind(), ErrorKind::Compacted);
    let mut from_start = store.watch("/k", Revision(1)).await.unwrap();
    assert_eq!(from_start.next().await.unwrap_err().kind(), ErrorKind::Compacted);

    let listing = store.range_all("/k").await.unwrap();
    let mut again = store.watch("/k", listing.revision.next()).await.unwrap();
    let next = store.put("/k", Bytes::new()).await.unwrap();
    assert_eq!(again.next().await.unwrap().revision, next);
}

#[tokio::test]
async fn a_deletion_larger_than_the_history_compacts_it() {
    let store = EmbeddedStore::memory();
    for i in 0..700 {
        let then = (0..100).map(|j| Op::put(format!("/k/{i}/{j}"), "")).collect();
        assert!(store.txn(Txn { compares: Vec::new(), then }).await.unwrap().succeeded);
    }
    let mut watch = store.watch("/k/", Revision(0)).await.unwrap();
    assert!(store.txn(Txn::new().and_then(Op::delete_prefix("/k/"))).await.unwrap().succeeded);
    assert_eq!(watch.next().await.unwrap_err().kind(), ErrorKind::Compacted);
    assert!(store.range_all("/k/").await.unwrap().kvs.is_empty());
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_watcher_is_woken_by_what_concerns_it_alone_and_never_left_behind() {
    let store = EmbeddedStore::memory();
    let mut watch = store.watch("/watched/", Revision(0)).await.unwrap();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut next = watch.next();
    assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    // More than history is kept of.
    let txn = |i: usize| {
        (0..100).fold(Txn::new(), |txn, k| txn.and_then(Op::put(format!("/other/{k}"), i.to_string())))
    };
    for i in 0..800 {
        assert!(store.txn(txn(i)).await.unwrap().succeeded);
    }
    assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
    let put = store.put("/watched/a", Bytes::from_static(b"1")).await.unwrap();
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    let batch = next.await.unwrap();
    assert_eq!((batch.revision, batch.events.len()), (put, 1));
    // Who does not look at what concerns it is behind some day, and is told.
    store.put("/watched/b", Bytes::new()).await.unwrap();
    for i in 0..800 {
        assert!(store.txn(txn(i)).await.unwrap().succeeded);
    }
    assert_eq!(watch.next().await.unwrap_err().kind(), ErrorKind::Compacted);
}
