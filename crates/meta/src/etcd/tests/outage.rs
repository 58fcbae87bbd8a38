//! etcd goes away, hangs, and comes back.

use std::{net::TcpListener, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{connect, server::EtcdServer};
use crate::{ErrorKind, EtcdOptions, Event, HeldLease, LeaseState, MetaStore, MetaStoreExt, Revision, Watch};

fn impatient() -> EtcdOptions {
    EtcdOptions { request_timeout: Duration::from_secs(2), ..EtcdOptions::default() }
}

/// Puts until one succeeds, so that the store is known to work again.
async fn put_when_possible(store: &impl MetaStore, key: &str, value: &'static str) -> Revision {
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        match store.put(key, Bytes::from_static(value.as_bytes())).await {
            Ok(revision) => return revision,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
                assert!(Instant::now() < patience, "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn next_events(watch: &mut Box<dyn Watch>, count: usize) -> Vec<(Revision, Bytes)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let batch = tokio::time::timeout(Duration::from_secs(30), watch.next()).await.unwrap().unwrap();
        seen.extend(batch.events.into_iter().map(|event| match event {
            Event::Put(kv) => (kv.mod_revision, kv.value),
            Event::Delete { revision, .. } => (revision, Bytes::new()),
        }));
    }
    seen
}

#[tokio::test]
async fn requests_fail_soon_while_etcd_is_away_and_work_when_it_is_back() {
    let mut server = EtcdServer::start().await;
    let store = connect(&server.url(), &impatient()).await.unwrap();
    let before = store.put("/k", Bytes::from_static(b"before")).await.unwrap();
    server.kill();
    let asked = Instant::now();
    for error in [
        store.get("/k").await.unwrap_err(),
        store.put("/k", Bytes::new()).await.unwrap_err(),
        store.range_all("/k").await.unwrap_err(),
        store.lease_grant(Duration::from_secs(5)).await.unwrap_err(),
        store.watch("/k", Revision(0)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
        assert!(error.to_string().contains(&server.url()), "{error}");
    }
    assert!(asked.elapsed() < Duration::from_secs(10));
    server.restart().await;
    let after = put_when_possible(&store, "/k", "after").await;
    assert!(after > before);
}

#[tokio::test]
async fn a_watch_goes_on_after_a_restart_without_gap_or_repetition() {
    let mut server = EtcdServer::start().await;
    let store = connect(&server.url(), &impatient()).await.unwrap();
    let mut watch = store.watch("/k", Revision(0)).await.unwrap();
    let mut expected = vec![put_when_possible(&store, "/k", "0").await];
    assert_eq!(next_events(&mut watch, 1).await[0].0, expected[0]);
    for _ in 0..2 {
        // What is written right before the end is seen after it.
        expected.push(put_when_possible(&store, "/k", "last words").await);
        server.kill();
        server.restart().await;
        // By somebody else, whose connection is there before the watch is back.
        let other = connect(&server.url(), &impatient()).await.unwrap();
        for _ in 0..50 {
            expected.push(put_when_possible(&other, "/k", "again").await);
        }
    }
    let seen: Vec<_> = next_events(&mut watch, expected.len() - 1).await.into_iter().map(|e| e.0).collect();
    assert_eq!(seen, expected[1..]);
}

#[tokio::test]
async fn a_server_that_hangs_does_not_hang_its_clients() {
    let server = EtcdServer::start().await;
    let store = connect(&server.url(), &impatient()).await.unwrap();
    let mut watch = store.watch("/k", Revision(0)).await.unwrap();
    server.freeze();
    let asked = Instant::now();
    assert_eq!(store.get("/k").await.unwrap_err().kind(), ErrorKind::Retry);
    assert!(asked.elapsed() < Duration::from_secs(4));
    server.wake();
    let revision = put_when_possible(&store, "/k", "1").await;
    // Puts that timed out may have been done as well.
    while next_events(&mut watch, 1).await[0].0 != revision {}
}

#[tokio::test]
async fn members_that_are_dead_or_silent_are_passed_over() {
    let server = EtcdServer::start().await;
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = server.url();
    let live = url.strip_prefix("etcd://").unwrap();
    let url = format!("etcd://{dead},{},{live}", silent.local_addr().unwrap());
    let store = connect(&url, &impatient()).await.unwrap();
    let asked = Instant::now();
    store.put("/k", Bytes::new()).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn an_unreachable_etcd_is_named_at_once() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let asked = Instant::now();
    let error = connect(&format!("etcd://{dead}"), &impatient()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry);
    let text = error.to_string();
    assert!(text.contains(&dead.to_string()) && text.contains("refused"), "{text}");
    assert!(asked.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_lease_is_lost_to_its_holder_before_it_can_have_run_out() {
    let server = EtcdServer::start().await;
    let store = std::sync::Arc::new(connect(&server.url(), &impatient()).await.unwrap());
    let ttl = Duration::from_secs(3);
    let lease = HeldLease::grant(store.clone(), ttl).await.unwrap();
    let mut state = lease.subscribe();
    // Kept alive beyond its time to live.
    let LeaseState::Until(first) = lease.state() else { panic!("held") };
    state.wait_for(|state| state.holds(first + ttl / 3)).await.unwrap();
    assert!(lease.holds());

    server.freeze();
    let stopped = Instant::now();
    lease.lost().await;
    assert!(stopped.elapsed() <= ttl + Duration::from_millis(500), "{:?}", stopped.elapsed());
    assert!(!lease.holds());
    server.wake();
    // For good, even where etcd would still have extended it: it counts anew after a pause.
    assert_eq!(lease.state(), LeaseState::Lost);
}
