//! Segments that no metadata names: what is left over is deleted after its quarantine, and nothing else ever is.

use kafscale_meta::records::ControllerRecord;
use object_store::ObjectStoreExt;

use super::*;
use crate::segment::segment_path;

/// Makes this broker the controller.
async fn elect(cluster: &Cluster, log: &Log) {
    let id = chain(log);
    let record = ControllerRecord { node_id: id.node_id, epoch: id.incarnation };
    cluster.meta.put(&Cluster::keys().controller(), record.encode()).await.unwrap();
}

/// Time passes, for clocks too.
async fn pass(cluster: &Cluster, seconds: i64) {
    for _ in 0..seconds {
        cluster.clock.0.fetch_add(1000, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn put(cluster: &Cluster, topic: TopicId, index: i32, incarnation: u64) -> String {
    let id = PartitionId { topic, index };
    let path = segment_path("orders", id, Offset(70_000), (incarnation << 32) | 9);
    cluster.store.inner.put(&Path::from(path.as_str()), "left over".into()).await.unwrap();
    path
}

async fn is_there(cluster: &Cluster, path: &str) -> bool {
    cluster.store.inner.head(&Path::from(path)).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn only_what_nobody_can_publish_any_more_is_deleted_and_only_after_its_quarantine() {
    let mut cluster = Cluster::new();
    cluster.config.orphan_quarantine = Duration::from_secs(40);
    cluster.config.wal_max_bytes = 32 << 10;
    let dead = cluster.owner(1, 0).await;
    let mut wrote = 0;
    for _ in 0..60 {
        append(&partition(&dead, 0), 10, 1).await;
        wrote += 10;
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    let controller = cluster.broker(2).await;
    let live = cluster.broker(3).await;
    elect(&cluster, &controller).await;
    seal(&controller, &dead).await;
    let named = cluster.objects(&Path::from("topics")).await;
    assert!(!named.is_empty());
    let deleted_topic = TopicId(Uuid::from_u128(99));
    let orphan = put(&cluster, TOPIC, 0, chain(&dead).incarnation).await;
    let of_deleted = put(&cluster, deleted_topic, 0, chain(&live).incarnation).await;
    let under_way = put(&cluster, TOPIC, 1, chain(&live).incarnation).await;
    let own = put(&cluster, TOPIC, 1, chain(&controller).incarnation).await;
    let foreign = "topics/orders/notes.txt";
    cluster.store.inner.put(&Path::from(foreign), "mine".into()).await.unwrap();

    pass(&cluster, 35).await;
    let stats = controller.stats();
    assert_eq!((stats.orphans, stats.orphan_bytes, stats.orphans_deleted), (2, 18, 0));
    assert!(is_there(&cluster, &orphan).await && is_there(&cluster, &of_deleted).await);
    // Another controller goes on with the quarantine.
    pass(&cluster, 30).await;
    let stats = controller.stats();
    assert_eq!((stats.orphans_deleted, stats.segments_deleted), (2, 2));
    assert!(!is_there(&cluster, &orphan).await && !is_there(&cluster, &of_deleted).await);
    for kept in named.iter().map(String::as_str).chain([&*under_way, &*own, foreign]) {
        assert!(is_there(&cluster, kept).await, "{kept}");
    }
    // Its writer dies.
    seal(&controller, &live).await;
    pass(&cluster, 70).await;
    assert!(!is_there(&cluster, &under_way).await && is_there(&cluster, &own).await);
    let next = cluster.owner(4, 3).await;
    assert_eq!(read_all(&partition(&next, 0), 0).await.len(), wrote);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_does_not_end_a_quarantine_and_a_restart_does_not_begin_it_anew() {
    let mut cluster = Cluster::new();
    cluster.config.orphan_quarantine = Duration::from_secs(240);
    let controller = cluster.broker(1).await;
    elect(&cluster, &controller).await;
    let orphan = put(&cluster, TopicId(Uuid::from_u128(99)), 0, 1).await;
    pass(&cluster, 30).await;
    cluster.clock.0.fetch_add(7 * 24 * 3600 * 1000, Ordering::Relaxed);
    pass(&cluster, 60).await;
    assert!(is_there(&cluster, &orphan).await);
    controller.shutdown().await;
    let next = cluster.broker(1).await;
    elect(&cluster, &next).await;
    pass(&cluster, 180).await;
    assert!(!is_there(&cluster, &orphan).await, "{:?}", next.stats());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_when_the_metadata_below_a_running_broker_is_not_its_own_any_more() {
    let mut cluster = Cluster::new();
    cluster.config.orphan_quarantine = Duration::from_secs(24);
    cluster.config.wal_max_bytes = 32 << 10;
    let log = cluster.owner(1, 0).await;
    elect(&cluster, &log).await;
    for _ in 0..60 {
        append(&partition(&log, 0), 10, 1).await;
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    let named = cluster.objects(&Path::from("topics")).await;
    assert!(!named.is_empty());
    // Somebody empties the metadata store.
    let all = cluster.meta.range_all(Cluster::keys().root()).await.unwrap();
    for kv in all.kvs {
        cluster.meta.delete(&kv.key).await.unwrap();
    }
    log.drop_topic(TOPIC).await;
    elect(&cluster, &log).await;
    pass(&cluster, 120).await;
    assert!(log.collect().await.is_err());
    assert!(log.snapshot().await.is_err(), "it would push out those that the metadata comes back from");
    assert_eq!(cluster.objects(&Path::from("topics")).await, named);
    assert_eq!(log.stats().segments_deleted, 0);
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_fails_is_not_counted_and_is_tried_again() {
    let mut cluster = Cluster::new();
    cluster.config.wal_max_bytes = 32 << 10;
    let log = cluster.owner(1, 0).await;
    for _ in 0..60 {
        append(&partition(&log, 0), 10, 1).await;
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    cluster.store.rule(|asked, _| if asked == Asked::Delete { Fault::SlowDown } else { Fault::None });
    let before = cluster.objects(&Path::from("topics")).await.len();
    let p = partition(&log, 0);
    log.release(p.id()).await.unwrap();
    assert_eq!(log.acquire(hosted(1)).await[0].1, Ok(()));
    partition(&log, 0).delete_records(Offset(600)).await.unwrap();
    let stats = log.stats();
    assert_eq!(stats.segments_deleted, 0);
    assert!(stats.segment_delete_failures > 0);
    cluster.store.heal();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(log.stats().segments_deleted as usize >= before, "{:?}", log.stats());
    assert!(cluster.objects(&Path::from("topics")).await.is_empty());
}
