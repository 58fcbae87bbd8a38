//! Compaction over a real log: the last record of each key stays, wherever a pass began or ended.

use std::collections::HashMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::compacting::compact;
use super::super::manifest::StoredSegment;
use super::super::retention::enforce;
use super::super::rewrite::rewrite;
use super::*;
use crate::testing::faulty::{Asked, Fault, Faulty};
use crate::testing::{KeyValue, Record, batch_of, records_in};

type Records = Vec<Record>;

const PLENTY: usize = 1 << 20;

/// A compacted topic that does nothing by itself.
fn compacted(store: StoreUrl, overrides: &[(&str, &str)]) -> Fixture {
    let usual =
        [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0"), ("delete.retention.ms", "1000")];
    let mut fixture = Fixture::new(store).with_topic(&[&usual[..], overrides].concat());
    fixture.config.retention_check_interval = Duration::from_secs(3600);
    fixture.config.cleaner_backoff = Duration::from_secs(3600);
    fixture
}

async fn put(p: &Partition, pairs: &[KeyValue<'_>]) {
    let appended = p.append(batch_of(pairs, p.log.clock.now_ms(), None)).unwrap();
    appended.durable.wait().await.unwrap();
}

async fn records(p: &Partition) -> Records {
    let (mut at, mut found) = (p.offsets().log_start, Vec::new());
    while at < p.offsets().high_watermark {
        let bytes = p.read(at, 3000, true).await.unwrap().chunks.concat();
        let last = batch::batches(&bytes).last().expect("a read below the end finds something");
        found.extend(records_in(&bytes));
        at = last.unwrap().1.last_offset().plus(1);
    }
    found
}

fn all_compacted(p: &Partition) -> bool {
    p.inner.state.lock().segments.iter().all(|s| s.compacted)
}

/// Compacts until there is nothing left to do; every pass must get further.
async fn compact_fully(p: &Partition, map_memory_bytes: usize) {
    for _ in 0..200 {
        if all_compacted(p) {
            return;
        }
        compact(&p.log, &p.inner, map_memory_bytes).await.unwrap();
    }
    panic!("compaction does not come to an end");
}

#[tokio::test]
async fn the_last_value_of_each_key_survives_everything() {
    for seed in 0..6 {
        let mut fixture = compacted(StoreUrl::Memory, &[("segment.bytes", "3000")]);
        let log = fixture.open().await;
        let p = partition(&log, 0);
        let mut random = StdRng::seed_from_u64(seed);
        let mut last: HashMap<u8, (i64, Vec<u8>)> = HashMap::new();
        let mut next = 0;
        for round in 0..6 {
            for _ in 0..random.random_range(5..30) {
                let keys: Vec<u8> =
                    (0..random.random_range(1..6)).map(|_| random.random_range(0..40)).collect();
                let value = vec![round; random.random_range(0..100)];
                let pairs: Vec<KeyValue<'_>> =
                    keys.iter().map(|k| (Some(std::slice::from_ref(k)), Some(&value[..]))).collect();
                put(&p, &pairs).await;
                for key in keys {
                    last.insert(key, (next, value.clone()));
                    next += 1;
                }
            }
            rewrite(&p.log, &p.inner).await.unwrap();
            // The smallest map knows the keys of one batch only.
            compact_fully(&p, [0, 500, PLENTY][round as usize % 3]).await;
            let mut expected: Records =
                last.iter().map(|(k, (at, v))| (*at, Some(vec![*k]), Some(v.clone()))).collect();
            expected.sort();
            let found = records(&p).await;
            let live: Records = found.iter().filter(|r| expected.contains(r)).cloned().collect();
            assert_eq!(live, expected, "seed {seed}, round {round}");
            if round % 3 == 2 {
                assert_eq!(found, expected, "seed {seed}, round {round}: something superseded stayed");
            }
        }
        log.shutdown().await;
    }
}

#[tokio::test]
async fn a_segment_that_is_emptied_does_not_end_retention() {
    let overrides =
        [("cleanup.policy", "compact,delete"), ("retention.ms", "10000"), ("segment.bytes", "2000")];
    let mut fixture = compacted(StoreUrl::Memory, &overrides);
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for _ in 0..60 {
        put(&p, &[(Some(b"k"), Some(&[b'v'; 100]))]).await;
    }
    rewrite(&p.log, &p.inner).await.unwrap();
    compact_fully(&p, PLENTY).await;
    let is_emptied = |p: &Partition| p.inner.state.lock().segments.iter().any(StoredSegment::is_empty);
    assert!(is_emptied(&p), "{:?}", p.inner.state.lock().segments);
    assert_eq!(p.offsets().log_start, Offset(0));
    fixture.clock.0.fetch_add(10_001, Ordering::Relaxed);
    enforce(&p.log).await;
    assert_eq!(p.offsets().log_start, p.offsets().high_watermark);
    assert!(p.inner.state.lock().segments.is_empty());
    log.shutdown().await;
}

#[tokio::test]
async fn tombstones_stay_for_their_time() {
    let mut fixture = compacted(StoreUrl::Memory, &[]);
    let log = fixture.open().await;
    let p = partition(&log, 0);
    put(&p, &[(Some(b"a"), Some(b"1")), (Some(b"b"), Some(b"1"))]).await;
    put(&p, &[(Some(b"a"), None)]).await;
    for (wait_ms, offsets) in [(0, vec![1, 2, 3]), (999, vec![1, 2, 4]), (1, vec![1, 5])] {
        fixture.clock.0.fetch_add(wait_ms, Ordering::Relaxed);
        put(&p, &[(Some(b"c"), Some(b"1"))]).await;
        rewrite(&p.log, &p.inner).await.unwrap();
        compact_fully(&p, PLENTY).await;
        let found: Vec<i64> = records(&p).await.into_iter().map(|r| r.0).collect();
        assert_eq!(found, offsets, "after {wait_ms} ms more");
    }
    log.shutdown().await;
}

#[tokio::test]
async fn readers_pass_over_what_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = compacted(StoreUrl::File(dir.path().to_owned()), &[("segment.bytes", "3000")]);
    let mut log = fixture.open().await;
    let mut p = partition(&log, 0);
    for _ in 0..50 {
        put(&p, &[(Some(b"k"), Some(&[b'v'; 100]))]).await;
    }
    rewrite(&p.log, &p.inner).await.unwrap();
    let before = p.size_bytes();
    compact_fully(&p, PLENTY).await;
    assert!(p.size_bytes() < before / 5, "{} of {before} bytes are left", p.size_bytes());
    for restarted in [false, true] {
        for from in [0, 1, 25, 48, 49] {
            let read = p.read(Offset(from), 1, true).await.unwrap();
            assert_eq!(records_in(&read.chunks.concat())[0].0, 49, "from {from}");
        }
        if !restarted {
            log.shutdown().await;
            log = fixture.open().await;
            p = partition(&log, 0);
        }
    }
    assert!(all_compacted(&p));
    assert_eq!(p.offsets().log_start, Offset(0));
    log.shutdown().await;
}

#[tokio::test]
async fn other_topics_are_left_alone() {
    let mut fixture = compacted(StoreUrl::Memory, &[("cleanup.policy", "delete")]);
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for _ in 0..3 {
        put(&p, &[(Some(b"k"), Some(b"v"))]).await;
    }
    rewrite(&p.log, &p.inner).await.unwrap();
    compact(&p.log, &p.inner, PLENTY).await.unwrap();
    assert_eq!(records(&p).await.len(), 3);
    log.shutdown().await;
}

#[tokio::test]
async fn compaction_runs_by_itself() {
    // Each of these rolls the active segment of Apache Kafka.
    for rolls in [("segment.ms", "1"), ("max.compaction.lag.ms", "1"), ("segment.bytes", "2000")] {
        let dir = tempfile::tempdir().unwrap();
        for store in [StoreUrl::Memory, StoreUrl::File(dir.path().to_owned())] {
            let mut fixture = compacted(store, &[rolls]);
            fixture.config.cleaner_backoff = Duration::from_millis(20);
            let log = fixture.open().await;
            let p = partition(&log, 0);
            // In one batch: of several, the cleaner could take some, and leave what is too little for a segment.
            let value = [b'v'; 100];
            put(&p, &[(Some(&b"k"[..]), Some(&value[..])); 30]).await;
            fixture.clock.0.fetch_add(1000, Ordering::Relaxed);
            eventually("compacted", || {
                let state = p.inner.state.lock();
                state.segments.iter().map(|s| s.records).sum::<u64>() == 1 && state.tail.is_empty()
            })
            .await;
            assert_eq!(records(&p).await, [(29, Some(b"k".to_vec()), Some(value.to_vec()))], "{rolls:?}");
            log.shutdown().await;
        }
    }
}

#[tokio::test]
async fn what_is_not_rolled_or_clean_costs_nothing() {
    let mut fixture =
        compacted(StoreUrl::Memory, &[("segment.bytes", "2000"), ("min.cleanable.dirty.ratio", "0.5")]);
    fixture.config.cleaner_backoff = Duration::from_millis(2);
    let log = fixture.open().await;
    let (small, clean) = (partition(&log, 0), partition(&log, 1));
    put(&small, &[(Some(b"k"), Some(b"v"))]).await;
    for key in 0..40u8 {
        put(&clean, &[(Some(&[key]), Some(b"v"))]).await;
    }
    // The last records may be too few for a segment of their own.
    eventually("compacted", || all_compacted(&clean) && !clean.inner.state.lock().segments.is_empty()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let requests = || {
        let stats = log.stats();
        [stats.puts, stats.gets, stats.lists, stats.deletes].map(|of| of.latency.count)
    };
    let before = (requests(), small.inner.state.lock().revision, clean.inner.state.lock().revision);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let after = (requests(), small.inner.state.lock().revision, clean.inner.state.lock().revision);
    assert_eq!(before, after, "puts, gets, lists and deletes; and the revisions of what was published");
    assert_eq!(small.inner.state.lock().tail.len(), 1, "one record was made a segment of its own");
    log.shutdown().await;
}

#[tokio::test]
async fn other_topics_stay_in_the_write_ahead_log() {
    let mut fixture = compacted(StoreUrl::Memory, &[("cleanup.policy", "delete"), ("segment.bytes", "2000")]);
    fixture.config.cleaner_backoff = Duration::from_millis(2);
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for _ in 0..40 {
        put(&p, &[(Some(b"k"), Some(b"v"))]).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(p.inner.state.lock().segments.is_empty(), "retention needs no segments");
    log.shutdown().await;
}

#[tokio::test]
async fn a_pass_that_fails_half_way_leaves_nothing_behind() {
    let store = Faulty::new();
    let mut fixture = compacted(StoreUrl::Shared(store.clone()), &[]);
    let chain = Keyspace::new("test").unwrap().chain(1, fixture.config.incarnation + 1);
    kafscale_meta::MetaStoreExt::put(&*fixture.meta, &chain, r#"{"v":1,"first_seq":0}"#.into())
        .await
        .unwrap();
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for key in (0..40u8).chain([0]) {
        put(&p, &[(Some(&[key]), Some(&[b'v'; 300]))]).await;
    }
    rewrite(&p.log, &p.inner).await.unwrap();
    // What is one segment now will be several.
    let smaller = fixture.with_topic(&[
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0"),
        ("segment.bytes", "3000"),
    ]);
    log.set_config(TOPIC, &smaller.topic);
    let count = async || {
        let segments: Vec<_> = futures_util::TryStreamExt::try_collect(object_store::ObjectStore::list(
            &store.inner,
            Some(&object_store::path::Path::from("topics")),
        ))
        .await
        .unwrap();
        let segments: Vec<object_store::ObjectMeta> = segments;
        segments.len()
    };
    let before = count().await;
    for _ in 0..4 {
        let mut puts = 0;
        store.rule(move |asked, path| {
            let segment = asked == Asked::Put && path.as_ref().starts_with("topics/");
            puts += usize::from(segment);
            if segment && puts > 2 { Fault::SlowDown } else { Fault::None }
        });
        assert!(compact(&p.log, &p.inner, PLENTY).await.is_err());
        assert_eq!(count().await, before);
    }
    store.heal();
    compact_fully(&p, PLENTY).await;
    assert_eq!(count().await, p.inner.state.lock().segments.len());
    assert_eq!(records(&p).await.len(), 40);
    log.shutdown().await;
}
