//! Scans of chains in an object store: of dead brokers and live ones, that grow, move, are freed and collected, over a store that fails.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::scan::{check_same, name_topic, scan, scanner};
use super::*;
use crate::scan::{Bounds, Range, ScanError, Scanner};

async fn of(cluster: &Cluster) -> Scanner {
    name_topic(&*cluster.meta, TOPIC, 3).await;
    scanner(&cluster.config.store, &cluster.meta).await
}

fn owners(log: &Log) -> Vec<Partition> {
    (0..3).map(|index| partition(log, index)).collect()
}

#[tokio::test(start_paused = true)]
async fn chains_of_dead_brokers_and_of_live_ones_are_one_log() {
    for seed in 0..10 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut cluster = Cluster::new();
        if seed % 2 == 0 {
            cluster.config.wal_max_bytes = 20 << 10;
        }
        let mut log = cluster.owner(1, 0).await;
        let scanner = of(&cluster).await;
        for epoch in 1..6 {
            for _ in 0..random.random_range(0..60) {
                let p = partition(&log, random.random_range(0..3));
                append(&p, random.random_range(1..20), epoch as u8).await;
                if random.random_range(0..10) == 0 {
                    tokio::time::sleep(Duration::from_secs(random.random_range(0..30))).await;
                }
            }
            check_same(&scanner, &owners(&log), &mut random).await;
            let next = cluster.broker(1 + epoch % 3).await;
            // Between the two, nobody serves the partitions, and everything is there.
            let ranges = scanner.snapshot("orders").await.unwrap().ranges();
            seal(&next, &log).await;
            assert_eq!(scanner.snapshot("orders").await.unwrap().ranges(), ranges);
            assert_eq!(of(&cluster).await.snapshot("orders").await.unwrap().ranges(), ranges);
            next.acquire(hosted(epoch)).await;
            log = next;
            check_same(&scanner, &owners(&log), &mut random).await;
            if random.random_range(0..2) == 0 {
                log.collect().await.unwrap();
            }
            check_same(&scanner, &owners(&log), &mut random).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_scan_goes_on_when_chains_are_freed_and_collected_under_it() {
    let mut cluster = Cluster::new();
    cluster.config.wal_max_bytes = 64 << 10;
    let log = cluster.owner(1, 0).await;
    for i in 0..40 {
        append(&partition(&log, 0), 10, i).await;
    }
    let scanner = of(&cluster).await;
    let snapshot = scanner.snapshot("orders").await.unwrap();
    assert_eq!(snapshot.ranges()[0], Range { partition: 0, start: 0, end: 400 });
    let second = cluster.broker(2).await;
    seal(&second, &log).await;
    second.acquire(hosted(1)).await;
    for index in 0..3 {
        second.release(PartitionId { topic: TOPIC, index }).await.unwrap();
    }
    while cluster.record(&log).await.is_some() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        second.collect().await.unwrap();
    }
    assert_eq!(scan(&snapshot, 0, Bounds::all()).await.unwrap().len(), 40);
}

#[tokio::test(start_paused = true)]
async fn what_is_above_a_hole_or_a_seal_was_never_there() {
    let mut cluster = Cluster::new();
    let log = cluster.owner(1, 0).await;
    append(&partition(&log, 0), 5, 1).await;
    let gate = Arc::new(Semaphore::new(0));
    let (held, at) = (gate.clone(), chain(&log).object(1));
    cluster.store.rule(move |asked, path| match asked == Asked::Put && *path == at {
        true => Fault::HeldBefore(held.clone()),
        false => Fault::None,
    });
    let mut pending = vec![begin(&partition(&log, 0), 2, 2).unwrap()];
    settle().await;
    pending.push(begin(&partition(&log, 0), 3, 3).unwrap());
    settle().await;
    assert_eq!(cluster.objects(&chain(&log).directory()).await.len(), 2, "objects 0 and 2");
    let scanner = of(&cluster).await;
    assert_eq!(scanner.snapshot("orders").await.unwrap().ranges()[0].end, 5);
    gate.add_permits(10);
    for appended in pending {
        appended.durable.wait().await.unwrap();
    }
    assert_eq!(scanner.snapshot("orders").await.unwrap().ranges()[0].end, 10);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_now_and_then_changes_nothing() {
    let mut cluster = Cluster::new();
    let log = cluster.owner(1, 0).await;
    for i in 0..60 {
        append(&partition(&log, i % 3), 10, i as u8).await;
    }
    let mut random = StdRng::seed_from_u64(7);
    cluster.store.rule(move |asked, _| match (asked, random.random_range(0..4)) {
        (Asked::Get, 0) => Fault::SlowDown,
        (Asked::Get, 1) => Fault::Cut,
        (Asked::List, 0) => Fault::LostRequest,
        _ => Fault::None,
    });
    for _ in 0..5 {
        let scanner = of(&cluster).await;
        let snapshot = scanner.snapshot("orders").await.unwrap();
        for index in 0..3 {
            assert_eq!(scan(&snapshot, index, Bounds::all()).await.unwrap().len(), 20);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_was_taken_away_is_missed() {
    let mut cluster = Cluster::new();
    let log = cluster.owner(1, 0).await;
    for i in 0..40 {
        append(&partition(&log, 0), 10, i).await;
    }
    let scanner = of(&cluster).await;
    let snapshot = scanner.snapshot("orders").await.unwrap();
    let path = chain(&log).object(11);
    let kept = cluster.store.inner.get_opts(&path, Default::default()).await.unwrap().bytes().await.unwrap();
    object_store::ObjectStoreExt::delete(&cluster.store.inner, &path).await.unwrap();
    let error = scan(&snapshot, 0, Bounds::all()).await.unwrap_err();
    assert!(matches!(error, ScanError::Wal(_)), "{error}");
    assert!(error.to_string().contains("00000000000000000011"), "{error}");
    let fresh = of(&cluster).await.snapshot("orders").await.unwrap_err();
    assert!(fresh.to_string().contains("00000000000000000011"), "{fresh}");
    cluster.store.inner.put_opts(&path, kept.into(), Default::default()).await.unwrap();
    assert_eq!(scan(&snapshot, 0, Bounds::all()).await.unwrap().len(), 40);
}
