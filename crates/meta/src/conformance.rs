//! What every backend of [`MetaStore`] has to do, as one suite: `conformance_suite!(make)` makes a test of each case.
//!
//! `make` is an async function that returns a [`Subject`]. Cases use only keys under `root`, so that they can share a
//! server, and real time, since a server's clock cannot be paused.

#![allow(clippy::unwrap_used, reason = "a suite of tests")]

use std::{any::Any, collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    Compare, ErrorKind, Event, HeldLease, LeaseId, LeaseState, MAX_KEY_BYTES, MAX_PAGE_LIMIT, MAX_TXN_BYTES,
    MAX_TXN_OPS, MetaStore, MetaStoreExt, Op, RangeRequest, Revision, Txn, Watch, lost,
};

/// A store under test.
#[derive(Debug)]
pub struct Subject {
    pub store: Arc<dyn MetaStore>,
    /// A prefix that no other test uses, ending in a slash.
    pub root: String,
    /// Kept until the case is over: a directory, a server.
    pub keep: Box<dyn Any + Send + Sync>,
}

/// Makes a test of every case.
#[macro_export]
macro_rules! conformance_suite {
    ($make:path) => {
        $crate::conformance_suite! { @cases $make:
            a_put_sets_revisions
            only_changes_take_a_revision
            every_compare_means_what_it_says
            a_transaction_is_all_or_nothing
            a_prefix_is_deleted_and_nothing_else
            pages_are_in_byte_order_and_complete
            a_listing_is_of_one_revision
            limits_hold_before_anything_is_written
            any_key_and_value_comes_back
            a_watch_sees_everything_in_order
            a_watch_starts_where_it_is_told
            a_list_and_a_watch_miss_nothing
            a_revoked_lease_takes_its_keys
            an_expired_lease_takes_its_keys
            a_lease_that_is_gone_is_fenced
            a_lease_says_until_when_it_surely_holds
            a_held_lease_lives_until_it_is_given_back
            a_counter_loses_no_increment
            one_of_many_creators_wins
            a_closed_store_says_so
        }
    };
    (@cases $make:path: $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let subject = $make().await;
                $crate::conformance::$case(&subject).await;
            }
        )*
    };
}

impl Subject {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.root)
    }

    async fn put(&self, name: &str, value: &'static str) -> Revision {
        self.store.put(&self.key(name), Bytes::from_static(value.as_bytes())).await.unwrap()
    }

    async fn value(&self, name: &str) -> Option<Bytes> {
        self.store.get(&self.key(name)).await.unwrap().map(|kv| kv.value)
    }

    async fn names(&self, prefix: &str) -> Vec<String> {
        let listing = self.store.range_all(&self.key(prefix)).await.unwrap();
        listing.kvs.into_iter().map(|kv| kv.key[self.root.len()..].to_owned()).collect()
    }

    async fn refuses(&self, txn: Txn, kind: ErrorKind) {
        assert_eq!(self.store.txn(txn).await.unwrap_err().kind(), kind);
    }
}

/// The next `count` events; fails rather than waiting for ever.
async fn events(watch: &mut Box<dyn Watch>, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(30), watch.next()).await;
        let batch = next.expect("a change that was made is seen").unwrap();
        assert_eq!(batch.events.last().map(Event::revision), Some(batch.revision));
        events.extend(batch.events);
    }
    events
}

pub async fn a_put_sets_revisions(s: &Subject) {
    assert_eq!(s.store.get(&s.key("k")).await.unwrap(), None);
    let first = s.put("k", "1").await;
    let second = s.put("k", "2").await;
    assert!(second > first);
    let kv = s.store.get(&s.key("k")).await.unwrap().unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.lease), (first, second, None));
    assert_eq!((kv.key, kv.value), (s.key("k"), Bytes::from_static(b"2")));

    s.store.delete(&s.key("k")).await.unwrap();
    assert_eq!(s.value("k").await, None);
    let third = s.put("k", "3").await;
    assert_eq!(s.store.get(&s.key("k")).await.unwrap().unwrap().create_revision, third);
}

pub async fn only_changes_take_a_revision(s: &Subject) {
    let revision = s.put("k", "1").await;
    let outcome = s.store.compare_and_swap(&s.key("k"), None, Bytes::new()).await.unwrap();
    assert!(!outcome.succeeded);
    let deleted_nothing = s.store.delete(&s.key("absent")).await.unwrap();
    let nothing = s.store.txn(Txn::new()).await.unwrap();
    assert!(nothing.succeeded);
    // Others may write to the same server meanwhile, so only a store of one's own shows it.
    assert!(outcome.revision >= revision && deleted_nothing >= revision && nothing.revision >= revision);
    let kv = s.store.get(&s.key("k")).await.unwrap().unwrap();
    assert_eq!(kv.mod_revision, revision);
    // A put of the same value is a change.
    assert!(s.put("k", "1").await > revision);
}

pub async fn every_compare_means_what_it_says(s: &Subject) {
    let created = s.put("there", "old").await;
    let modified = s.put("there", "new").await;
    let (there, absent) = (s.key("there"), s.key("absent"));
    let cases = [
        (Compare::absent(&absent), true),
        (Compare::absent(&there), false),
        (Compare::mod_revision(&there, modified), true),
        (Compare::mod_revision(&there, created), false),
        (Compare::mod_revision(&absent, modified), false),
        (Compare::mod_revision(&absent, Revision(0)), false),
        (Compare::create_revision(&there, created), true),
        (Compare::create_revision(&there, modified), false),
        (Compare::create_revision(&absent, Revision(0)), false),
        (Compare::value(&there, "new"), true),
        (Compare::value(&there, "old"), false),
        (Compare::value(&absent, ""), false),
    ];
    for (compare, holds) in cases {
        let txn = Txn::new().when(compare.clone()).and_then(Op::put(s.key("out"), "x"));
        assert_eq!(s.store.txn(txn).await.unwrap().succeeded, holds, "{compare:?}");
        assert_eq!(s.value("out").await.is_some(), holds, "{compare:?}");
        s.store.delete(&s.key("out")).await.unwrap();
    }
}

pub async fn a_transaction_is_all_or_nothing(s: &Subject) {
    let a = s.put("a", "1").await;
    let both = |guard: Revision| {
        Txn::new()
            .when(Compare::absent(s.key("b")))
            .when(Compare::mod_revision(s.key("a"), guard))
            .and_then(Op::put(s.key("b"), "b"))
            .and_then(Op::put(s.key("c"), "c"))
            .and_then(Op::delete(s.key("a")))
    };
    let outcome = s.store.txn(both(Revision(a.0 + 1_000_000))).await.unwrap();
    assert!(!outcome.succeeded);
    assert_eq!(s.names("").await, ["a"]);

    let outcome = s.store.txn(both(a)).await.unwrap();
    assert!(outcome.succeeded);
    assert_eq!(s.names("").await, ["b", "c"]);
    for name in ["b", "c"] {
        let kv = s.store.get(&s.key(name)).await.unwrap().unwrap();
        assert_eq!((kv.create_revision, kv.mod_revision), (outcome.revision, outcome.revision));
    }
    // The same again finds its own changes.
    assert!(!s.store.txn(both(a)).await.unwrap().succeeded);
}

pub async fn a_prefix_is_deleted_and_nothing_else(s: &Subject) {
    for name in ["a", "a.", "a/", "a/1", "a/1/x", "a/\u{10ffff}", "a0", "b/1"] {
        s.put(name, "").await;
    }
    let txn = Txn::new().and_then(Op::delete_prefix(s.key("a/"))).and_then(Op::put(s.key("c"), ""));
    assert!(s.store.txn(txn).await.unwrap().succeeded);
    assert_eq!(s.names("").await, ["a", "a.", "a0", "b/1", "c"]);
    // Deleting what is gone already, twice even, is fine.
    let txn = Txn::new().and_then(Op::delete_prefix(s.key("a"))).and_then(Op::delete(s.key("a0")));
    assert!(s.store.txn(txn).await.unwrap().succeeded);
    assert_eq!(s.names("").await, ["b/1", "c"]);
}

pub async fn pages_are_in_byte_order_and_complete(s: &Subject) {
    let mut expected = Vec::new();
    for i in 0..300 {
        expected.push(format!("p/{i}"));
    }
    expected.extend(["p/\u{e9}".to_owned(), "p/Z".to_owned(), "p/~".to_owned()]);
    for chunk in expected.chunks(MAX_TXN_OPS) {
        let then = chunk.iter().map(|name| Op::put(s.key(name), "")).collect();
        let outcome = s.store.txn(Txn { compares: Vec::new(), then }).await.unwrap();
        assert!(outcome.succeeded);
    }
    s.put("o", "").await;
    s.put("q", "").await;
    expected.sort_unstable();

    for limit in [1, 7, 303, 100_000] {
        let mut names = Vec::new();
        let mut start_after = None;
        loop {
            let request = RangeRequest { prefix: s.key("p/"), start_after, limit };
            let page = s.store.range(request).await.unwrap();
            assert!(page.kvs.len() <= limit && (!page.more || !page.kvs.is_empty()));
            names.extend(page.kvs.iter().map(|kv| kv.key[s.root.len()..].to_owned()));
            start_after = page.kvs.last().map(|kv| kv.key.clone());
            if !page.more {
                break;
            }
        }
        assert_eq!(names, expected, "limit {limit}");
    }
    for (after, first) in [("a", Some("p/0")), ("p/~", Some("p/\u{e9}")), ("z", None)] {
        let request = RangeRequest { prefix: s.key("p/"), start_after: Some(s.key(after)), limit: 1 };
        let page = s.store.range(request).await.unwrap();
        assert_eq!(page.kvs.first().map(|kv| kv.key.clone()), first.map(|name| s.key(name)), "{after}");
    }
}

pub async fn a_listing_is_of_one_revision(s: &Subject) {
    // More than a page, and a change that touches both ends at once.
    for chunk in (0..MAX_PAGE_LIMIT).collect::<Vec<_>>().chunks(MAX_TXN_OPS) {
        let then = chunk.iter().map(|i| Op::put(s.key(&format!("m/{i}")), "")).collect();
        assert!(s.store.txn(Txn { compares: Vec::new(), then }).await.unwrap().succeeded);
    }
    let write = async |round: u32| {
        let value = Bytes::from(round.to_string());
        let both =
            Txn::new().and_then(Op::put(s.key("a"), value.clone())).and_then(Op::put(s.key("z"), value));
        s.store.txn(both).await.unwrap().revision
    };
    let first = write(0).await;
    let writer = async {
        for round in 1..100 {
            let _ = write(round).await;
        }
    };
    let reader = async {
        for _ in 0..10 {
            let listing = s.store.range_all(&s.root).await.unwrap();
            let (a, z) = (listing.kvs.first().unwrap(), listing.kvs.last().unwrap());
            assert_eq!(listing.kvs.len(), MAX_PAGE_LIMIT + 2);
            assert_eq!((&a.value, a.mod_revision), (&z.value, z.mod_revision));
            assert!(first <= a.mod_revision && a.mod_revision <= listing.revision);
        }
    };
    tokio::join!(writer, reader);
}

pub async fn limits_hold_before_anything_is_written(s: &Subject) {
    let puts = |count: usize| {
        let then = (0..count).map(|i| Op::put(s.key(&format!("many/{i}")), "")).collect();
        Txn { compares: Vec::new(), then }
    };
    s.refuses(puts(MAX_TXN_OPS + 1), ErrorKind::Invalid).await;
    let compares = (0..=MAX_TXN_OPS).map(|i| Compare::absent(s.key(&i.to_string()))).collect();
    s.refuses(Txn { compares, then: Vec::new() }, ErrorKind::Invalid).await;

    let big = Bytes::from(vec![b'x'; MAX_TXN_BYTES - MAX_KEY_BYTES]);
    let one_big = Txn::new().and_then(Op::put(s.key("big"), big.clone()));
    let two_big = one_big.clone().and_then(Op::put(s.key("big2"), vec![b'x'; MAX_KEY_BYTES]));
    s.refuses(two_big, ErrorKind::Invalid).await;
    for key in [String::new(), "x".repeat(MAX_KEY_BYTES + 1)] {
        s.refuses(Txn::new().and_then(Op::put(&key, "")), ErrorKind::Invalid).await;
        s.refuses(Txn::new().and_then(Op::delete_prefix(&key)), ErrorKind::Invalid).await;
        assert_eq!(s.store.get(&key).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(s.store.range_all(&key).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    let twice = |op: Op| Txn::new().and_then(Op::put(s.key("d/1"), "")).and_then(op);
    s.refuses(twice(Op::put(s.key("d/1"), "")), ErrorKind::Invalid).await;
    s.refuses(twice(Op::delete(s.key("d/1"))), ErrorKind::Invalid).await;
    s.refuses(twice(Op::delete_prefix(s.key("d/"))), ErrorKind::Invalid).await;
    assert_eq!(s.names("").await, [""; 0]);

    assert!(s.store.txn(puts(MAX_TXN_OPS)).await.unwrap().succeeded);
    assert!(s.store.txn(one_big).await.unwrap().succeeded);
    assert_eq!(s.value("big").await, Some(big));
    assert_eq!(s.names("many/").await.len(), MAX_TXN_OPS);
}

pub async fn any_key_and_value_comes_back(s: &Subject) {
    let long = "k".repeat(MAX_KEY_BYTES - s.root.len());
    let names = ["\0", "/", "//", "..", "%2F", " ", "\n", "\u{e9}\u{10ffff}", "a\0b", long.as_str()];
    let values = [Bytes::new(), Bytes::from_static(b"\0\xff\xfe"), Bytes::from(vec![0xaa; 100_000])];
    let mut expected = BTreeMap::new();
    for (i, name) in names.iter().enumerate() {
        let value = values[i % values.len()].clone();
        s.store.put(&s.key(name), value.clone()).await.unwrap();
        expected.insert(s.key(name), value);
    }
    for (key, value) in &expected {
        assert_eq!(s.store.get(key).await.unwrap().map(|kv| kv.value).as_ref(), Some(value), "{key:?}");
    }
    let listed: BTreeMap<_, _> =
        s.store.range_all(&s.root).await.unwrap().kvs.into_iter().map(|kv| (kv.key, kv.value)).collect();
    assert_eq!(listed, expected);
}

pub async fn a_watch_sees_everything_in_order(s: &Subject) {
    let mut watch = s.store.watch(&s.key("w/"), Revision(0)).await.unwrap();
    s.put("v", "").await;
    let created = s.put("w/a", "1").await;
    s.put("w", "").await;
    let both = Txn::new().and_then(Op::put(s.key("w/b"), "2")).and_then(Op::put(s.key("w/a"), "2"));
    let both = s.store.txn(both).await.unwrap().revision;
    let cleared = Txn::new().and_then(Op::delete_prefix(s.root.clone()));
    let cleared = s.store.txn(cleared).await.unwrap().revision;

    let seen = events(&mut watch, 5).await;
    let brief: Vec<_> = seen
        .iter()
        .map(|event| match event {
            Event::Put(kv) => (kv.key.clone(), Some((kv.value.clone(), kv.create_revision)), kv.mod_revision),
            Event::Delete { key, revision } => (key.clone(), None, *revision),
        })
        .collect();
    let put = |name: &str, value: &'static str, create, revision| {
        (s.key(name), Some((Bytes::from_static(value.as_bytes()), create)), revision)
    };
    assert_eq!(brief[0], put("w/a", "1", created, created));
    // Within one revision the order is the backend's.
    let mut middle = brief[1..3].to_vec();
    middle.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(middle, [put("w/a", "2", created, both), put("w/b", "2", both, both)]);
    let mut last = brief[3..].to_vec();
    last.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(last, [(s.key("w/a"), None, cleared), (s.key("w/b"), None, cleared)]);
}

pub async fn a_watch_starts_where_it_is_told(s: &Subject) {
    let mut revisions = Vec::new();
    for _ in 0..5 {
        revisions.push(s.put("k", "").await);
    }
    for start in 0..5 {
        let mut watch = s.store.watch(&s.root, revisions[start]).await.unwrap();
        let seen = events(&mut watch, 5 - start).await;
        assert_eq!(seen.iter().map(Event::revision).collect::<Vec<_>>(), revisions[start..]);
    }
    let mut watch = s.store.watch(&s.root, revisions[4].next()).await.unwrap();
    let nothing_yet = tokio::time::timeout(Duration::from_millis(20), watch.next()).await;
    assert!(nothing_yet.is_err());
    // The cancelled wait has lost nothing.
    let later = s.put("k", "later").await;
    assert_eq!(events(&mut watch, 1).await[0].revision(), later);
}

pub async fn a_list_and_a_watch_miss_nothing(s: &Subject) {
    let writer = {
        let (store, root) = (Arc::clone(&s.store), s.root.clone());
        tokio::spawn(async move {
            for i in 0..200u32 {
                let key = format!("{root}{}", i * 7 % 50);
                if i % 3 == 2 {
                    store.delete(&key).await.unwrap();
                } else {
                    store.put(&key, Bytes::from(i.to_string())).await.unwrap();
                }
            }
            store.put(&format!("{root}end"), Bytes::new()).await.unwrap()
        })
    };
    let listing = s.store.range_all(&s.root).await.unwrap();
    let mut watch = s.store.watch(&s.root, listing.revision.next()).await.unwrap();
    let mut replica: BTreeMap<_, _> = listing.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect();
    let mut last = listing.revision;
    while !replica.contains_key(&s.key("end")) {
        for event in events(&mut watch, 1).await {
            assert!(event.revision() >= last);
            last = event.revision();
            match event {
                Event::Put(kv) => replica.insert(kv.key, kv.value),
                Event::Delete { key, .. } => replica.remove(&key),
            };
        }
    }
    assert_eq!(writer.await.unwrap(), last);
    let truth = s.store.range_all(&s.root).await.unwrap().kvs;
    assert_eq!(replica, truth.into_iter().map(|kv| (kv.key, kv.value)).collect());
}

pub async fn a_revoked_lease_takes_its_keys(s: &Subject) {
    let lease = s.store.lease_grant(Duration::from_secs(600)).await.unwrap().id;
    let other = s.store.lease_grant(Duration::from_secs(600)).await.unwrap().id;
    let put = |name: &str, lease| Op::put_leased(s.key(name), "", lease);
    for op in [put("a", lease), put("b", lease), put("c", lease), put("d", lease), put("e", other)] {
        s.store.txn(Txn::new().and_then(op)).await.unwrap().succeeded.then_some(()).unwrap();
    }
    assert_eq!(s.store.get(&s.key("a")).await.unwrap().unwrap().lease, Some(lease));
    // A later put decides which lease a key has.
    s.put("b", "free").await;
    assert!(s.store.txn(Txn::new().and_then(put("c", other))).await.unwrap().succeeded);
    let mut watch = s.store.watch(&s.root, Revision(0)).await.unwrap();
    s.put("f", "").await;
    s.store.lease_revoke(lease).await.unwrap();
    assert_eq!(s.names("").await, ["b", "c", "e", "f"]);

    let seen = events(&mut watch, 3).await;
    assert!(seen[1..].iter().all(|event| matches!(event, Event::Delete { .. })));
    assert_eq!(seen[1].revision(), seen[2].revision());
    s.store.lease_revoke(other).await.unwrap();
    assert_eq!(s.names("").await, ["b", "f"]);
    s.store.lease_revoke(other).await.unwrap();
}

pub async fn an_expired_lease_takes_its_keys(s: &Subject) {
    let mut watch = s.store.watch(&s.root, Revision(0)).await.unwrap();
    let short = s.store.lease_grant(Duration::from_secs(3)).await.unwrap().id;
    let long = s.store.lease_grant(Duration::from_secs(600)).await.unwrap().id;
    let txn = Txn::new()
        .and_then(Op::put_leased(s.key("a"), "", short))
        .and_then(Op::put_leased(s.key("b"), "", long))
        .and_then(Op::put(s.key("c"), ""));
    assert!(s.store.txn(txn).await.unwrap().succeeded);
    s.store.lease_keepalive(short).await.unwrap();
    let seen = events(&mut watch, 4).await;
    assert!(matches!(&seen[3], Event::Delete { key, .. } if *key == s.key("a")));
    assert_eq!(s.names("").await, ["b", "c"]);
    assert_eq!(s.store.lease_keepalive(short).await.unwrap_err().kind(), ErrorKind::Fenced);
    s.store.lease_keepalive(long).await.unwrap();
}

pub async fn a_lease_that_is_gone_is_fenced(s: &Subject) {
    let lease = s.store.lease_grant(Duration::from_secs(600)).await.unwrap().id;
    s.store.lease_revoke(lease).await.unwrap();
    for gone in [lease, LeaseId(i64::MAX)] {
        assert_eq!(s.store.lease_keepalive(gone).await.unwrap_err().kind(), ErrorKind::Fenced);
        let txn = Txn::new().and_then(Op::put(s.key("x"), "")).and_then(Op::put_leased(s.key("y"), "", gone));
        s.refuses(txn, ErrorKind::Fenced).await;
    }
    assert_eq!(s.names("").await, [""; 0]);
    for ttl in [Duration::ZERO, Duration::MAX] {
        assert_eq!(s.store.lease_grant(ttl).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

pub async fn a_lease_says_until_when_it_surely_holds(s: &Subject) {
    let ttl = Duration::from_secs(600);
    let asked = Instant::now();
    let lease = s.store.lease_grant(ttl).await.unwrap();
    assert!(asked + ttl <= lease.valid_until && lease.valid_until <= Instant::now() + ttl);
    let asked = Instant::now();
    let extended = s.store.lease_keepalive(lease.id).await.unwrap();
    assert!(asked + ttl <= extended && extended <= Instant::now() + ttl);
    assert!(extended > lease.valid_until);
}

pub async fn a_held_lease_lives_until_it_is_given_back(s: &Subject) {
    let held = HeldLease::grant(Arc::clone(&s.store), Duration::from_secs(2)).await.unwrap();
    let put = Txn::new().and_then(Op::put_leased(s.key("k"), "", held.id()));
    assert!(s.store.txn(put).await.unwrap().succeeded);
    let LeaseState::Until(first) = held.state() else { panic!("it was just granted") };
    let mut state = held.subscribe();
    let extended = state.wait_for(|state| state.holds(first + Duration::from_secs(2)));
    let extended = tokio::time::timeout(Duration::from_secs(30), extended).await;
    assert!(extended.expect("it is extended").is_ok());
    assert!(held.holds() && s.value("k").await.is_some());

    held.revoke().await.unwrap();
    assert_eq!(s.value("k").await, None);
    // Whoever watched the state learns that it is over.
    lost(&mut state).await;

    let held = HeldLease::grant(Arc::clone(&s.store), Duration::from_secs(2)).await.unwrap();
    s.store.lease_revoke(held.id()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), held.lost()).await.expect("its holder is told");
    assert!(!held.holds());
}

pub async fn a_counter_loses_no_increment(s: &Subject) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (store, key) = (Arc::clone(&s.store), s.key("counter"));
        tasks.spawn(async move {
            loop {
                let kv = store.get(&key).await.unwrap();
                let count: u32 =
                    kv.as_ref().map_or(0, |kv| std::str::from_utf8(&kv.value).unwrap().parse().unwrap());
                let expected = kv.map(|kv| kv.mod_revision);
                let next = Bytes::from((count + 1).to_string());
                if store.compare_and_swap(&key, expected, next).await.unwrap().succeeded {
                    break;
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(s.value("counter").await.unwrap(), "50");
}

pub async fn one_of_many_creators_wins(s: &Subject) {
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..50 {
        let (store, key) = (Arc::clone(&s.store), s.key("office"));
        tasks.spawn(async move {
            let won = store.put_if_absent(&key, Bytes::from(i.to_string())).await.unwrap().succeeded;
            won.then_some(i)
        });
    }
    let winners: Vec<u32> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(s.value("office").await.unwrap(), winners[0].to_string());
}

pub async fn a_closed_store_says_so(s: &Subject) {
    let mut watch = s.store.watch(&s.root, Revision(0)).await.unwrap();
    s.store.close().await.unwrap();
    s.store.close().await.unwrap();
    s.refuses(Txn::new().and_then(Op::put(s.key("k"), "")), ErrorKind::Retry).await;
    assert_eq!(s.store.get(&s.key("k")).await.unwrap_err().kind(), ErrorKind::Retry);
    assert_eq!(watch.next().await.unwrap_err().kind(), ErrorKind::Retry);
}
