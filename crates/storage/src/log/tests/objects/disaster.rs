//! The metadata store is lost, and comes back from the bucket; one topic comes back as it was.

use kafscale_meta::Metadata;
use kafscale_meta::records::{
    AssignmentRecord, BrokerRecord, ClusterRecord, DeletedTopicRecord, IncarnationBaseRecord,
    PartitionAssignment, TopicRecord,
};
use object_store::ObjectStoreExt;

use super::*;
use crate::log::rewrite::rewrite;
use crate::{CopiedPartition, RestoreOptions, Restored, TopicAt, restore, restore_topic};

const WRITE: RestoreOptions =
    RestoreOptions { dry_run: false, replace: false, accept_loss: false, with_deleted: false };
const DRY_RUN: RestoreOptions = RestoreOptions { dry_run: true, ..WRITE };

/// The records that a cluster has beside those of its partitions.
async fn found(cluster: &Cluster) {
    let keys = Cluster::keys();
    let record = ClusterRecord { cluster_id: "c".into(), created_ms: 1, store: None };
    cluster.meta.put(&keys.cluster(), record.encode()).await.unwrap();
    let configs = [("retention.ms".to_owned(), "1234".to_owned())].into();
    let topic = TopicRecord { topic_id: TOPIC.0, partitions: 3, configs, created_ms: 1, internal: false };
    cluster.meta.put(&keys.topic("orders"), topic.encode()).await.unwrap();
    let offset = format!("{}offsets/g/orders/0", keys.root());
    cluster.meta.put(&offset, r#"{"v":1,"offset":7}"#.into()).await.unwrap();
    let partitions = vec![PartitionAssignment::new(1, 1, 5); 3];
    cluster.meta.put(&keys.assignment(TOPIC.0), AssignmentRecord { partitions }.encode()).await.unwrap();
}

/// The metadata store is gone.
async fn lose(cluster: &mut Cluster) {
    cluster.meta.close().await.unwrap();
    cluster.meta = Arc::new(EmbeddedStore::memory());
}

fn metadata(cluster: &Cluster) -> Metadata {
    Metadata::new(cluster.meta.clone(), "test").unwrap()
}

async fn run(cluster: &Cluster, options: RestoreOptions) -> Result<Restored, String> {
    restore(&cluster.config.store, &metadata(cluster), NOW_MS, options).await.map_err(|e| e.to_string())
}

type Wrote = Vec<Vec<(i32, u8)>>;

async fn write(log: &Log, wrote: &mut Wrote, count: i32, tag: u8) {
    for i in 0..count {
        append(&partition(log, i % 3), 10, tag).await;
        wrote[(i % 3) as usize].push((10, tag));
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
}

/// What a new owner serves.
async fn check_served(cluster: &mut Cluster, wrote: &Wrote) {
    cluster.incarnations += 1000;
    let next = cluster.owner(2, 2000).await;
    for (i, wrote) in wrote.iter().enumerate() {
        let p = partition(&next, i as i32);
        assert_eq!(read_all(&p, 0).await, expected(wrote));
        assert_eq!(append(&p, 1, 9).await.0, wrote.len() as i64 * 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_metadata_store_comes_back_from_the_bucket() {
    let mut cluster = Cluster::new();
    cluster.config.wal_max_bytes = 32 << 10;
    let log = cluster.owner(1, 0).await;
    found(&cluster).await;
    let mut wrote = vec![Vec::new(); 3];
    write(&log, &mut wrote, 60, 1).await;
    log.snapshot().await.unwrap();
    let puts = cluster.store.count(Asked::Put, "snapshots/");
    log.snapshot().await.unwrap();
    assert_eq!(cluster.store.count(Asked::Put, "snapshots/"), puts, "nothing has changed");
    // More than the snapshot knows: segments that are new, and what is only in the chain.
    write(&log, &mut wrote, 90, 2).await;
    cluster.store.rule(|asked, path| match asked == Asked::Put && path.as_ref().starts_with("topics/") {
        true => Fault::SlowDown,
        false => Fault::None,
    });
    write(&log, &mut wrote, 9, 3).await;
    cluster.store.heal();

    lose(&mut cluster).await;
    let puts = cluster.store.count(Asked::Put, "");
    let planned = run(&cluster, DRY_RUN).await.unwrap();
    assert_eq!(cluster.store.count(Asked::Put, ""), puts, "a dry run writes nothing to the bucket");
    assert!(
        cluster.meta.range_all(Cluster::keys().root()).await.unwrap().kvs.is_empty(),
        "nor to the metadata"
    );
    let restored = run(&cluster, WRITE).await.unwrap();
    assert_eq!(restored, planned);
    assert_eq!((restored.topics.len(), restored.chains, restored.chains_sealed), (1, 1, 1), "{restored:?}");
    assert_eq!(restored.topics[0].offsets, 1590, "{restored:?}");
    assert!(restored.newer_segments > 0 && restored.topics[0].in_chains >= 90, "{restored:?}");
    assert!(restored.nameless.is_empty() && restored.holes.is_empty(), "{restored:?}");
    assert!(run(&cluster, WRITE).await.unwrap_err().contains("this cluster already"));

    let keys = Cluster::keys();
    let meta = metadata(&cluster);
    let topic = meta.load_topic("orders").await.unwrap().unwrap().record;
    assert_eq!((topic.topic_id, topic.partitions, topic.configs.len()), (TOPIC.0, 3, 1));
    assert!(cluster.meta.get(&format!("{}offsets/g/orders/0", keys.root())).await.unwrap().is_some());
    let assignment = meta.load_assignment(TOPIC.0).await.unwrap().unwrap().record;
    assert_eq!(assignment.partitions, vec![PartitionAssignment::released(1005); 3]);
    let base = meta.load::<IncarnationBaseRecord>(&keys.incarnation_base()).await.unwrap().unwrap();
    assert!(base.record.base > 1, "incarnations go on above those of before");
    // The old broker is alive, and learns it.
    assert_eq!(append_from(&partition(&log, 0), 1, 1, None).await, Err(AppendError::Fenced));
    check_served(&mut cluster, &wrote).await;
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_is_cut_off_is_repeated_and_keeps_brokers_out() {
    let mut cluster = Cluster::new();
    let log = cluster.owner(1, 0).await;
    found(&cluster).await;
    let mut wrote = vec![Vec::new(); 3];
    write(&log, &mut wrote, 9, 1).await;
    log.snapshot().await.unwrap();
    lose(&mut cluster).await;
    // Cut off: only the mark, and a record that is of no use.
    let keys = Cluster::keys();
    cluster.meta.put(&keys.restoring(), "".into()).await.unwrap();
    cluster.meta.put(&keys.topic("half"), "{}".into()).await.unwrap();
    let new = ClusterRecord { cluster_id: "new".into(), created_ms: 1, store: None };
    let refused = metadata(&cluster).found_cluster(&new).await.unwrap_err();
    assert!(refused.to_string().contains("being restored"), "{refused}");
    run(&cluster, WRITE).await.unwrap();
    assert!(cluster.meta.get(&keys.topic("half")).await.unwrap().is_none());
    let founded = metadata(&cluster).found_cluster(&new).await.unwrap();
    assert_eq!(founded.cluster_id, "c");
    check_served(&mut cluster, &wrote).await;
}

#[tokio::test(start_paused = true)]
async fn a_cluster_is_replaced_only_when_told_so_and_without_brokers() {
    let mut cluster = Cluster::new();
    let log = cluster.owner(1, 0).await;
    found(&cluster).await;
    let mut wrote = vec![Vec::new(); 3];
    write(&log, &mut wrote, 9, 1).await;
    log.snapshot().await.unwrap();
    let keys = Cluster::keys();
    let replace = RestoreOptions { replace: true, ..WRITE };
    assert!(run(&cluster, WRITE).await.unwrap_err().contains("--replace"));
    let broker = BrokerRecord {
        host: "h".into(),
        port: 1,
        listeners: Vec::new(),
        rack: None,
        version: "v".into(),
        metrics_address: None,
        epoch: 1,
        started_ms: 1,
    };
    cluster.meta.put(&keys.broker(4), broker.encode()).await.unwrap();
    assert!(run(&cluster, replace).await.unwrap_err().contains("live brokers in it (4)"));
    assert!(cluster.meta.get(&keys.restoring()).await.unwrap().is_none());
    cluster.meta.delete(&keys.broker(4)).await.unwrap();
    cluster.meta.put(&keys.topic("later"), "{}".into()).await.unwrap();
    run(&cluster, replace).await.unwrap();
    assert!(cluster.meta.get(&keys.topic("later")).await.unwrap().is_none(), "it is not in the snapshot");
    check_served(&mut cluster, &wrote).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_restored_cluster_does_not_need_of_old_chains_is_collected() {
    let mut cluster = Cluster::new();
    let log = cluster.owner(1, 0).await;
    found(&cluster).await;
    let mut wrote = vec![Vec::new(); 3];
    write(&log, &mut wrote, 9, 1).await;
    for p in log.partitions() {
        log.release(p.id()).await.unwrap();
    }
    // The chain's record says that everything was freed.
    tokio::time::sleep(Duration::from_secs(20)).await;
    log.snapshot().await.unwrap();
    let id = chain(&log);
    let larger_than_a_seal = async |cluster: &Cluster| {
        let listed: Vec<_> = cluster.store.inner.list(Some(&id.directory())).try_collect().await.unwrap();
        listed.iter().filter(|object| object.size > 96).count()
    };
    assert!(larger_than_a_seal(&cluster).await > 0, "the last ones are never freed by their owner");
    lose(&mut cluster).await;
    let restored = run(&cluster, WRITE).await.unwrap();
    assert_eq!(restored.chains, 0, "{restored:?}");
    cluster.incarnations += 1000;
    let next = cluster.broker(2).await;
    next.collect().await.unwrap();
    assert_eq!(larger_than_a_seal(&cluster).await, 0);
    check_served(&mut cluster, &wrote).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_snapshot_the_records_are_there_all_the_same() {
    let mut cluster = Cluster::new();
    let log = cluster.owner(1, 0).await;
    append(&partition(&log, 2), 5, 1).await;
    lose(&mut cluster).await;
    let restored = run(&cluster, WRITE).await.unwrap();
    assert_eq!(restored.nameless, [format!("restored-{}", TOPIC.0)], "its name was nowhere");
    assert_eq!((restored.topics[0].partitions, restored.snapshot_ms), (3, None));
    let next = cluster.owner(2, 7).await;
    assert_eq!(read_all(&partition(&next, 2), 0).await, expected(&[(5, 1)]));
    let empty = Cluster::new();
    assert!(run(&empty, WRITE).await.unwrap_err().contains("nothing in the store"));
    assert!(empty.meta.range_all(Cluster::keys().root()).await.unwrap().kvs.is_empty(), "brokers may start");
}

#[tokio::test(start_paused = true)]
async fn partitions_that_were_added_after_the_snapshot_are_there() {
    let mut cluster = Cluster::new();
    let log = cluster.owner(1, 0).await;
    found(&cluster).await;
    let keys = Cluster::keys();
    let topic = TopicRecord {
        topic_id: TOPIC.0,
        partitions: 1,
        configs: Default::default(),
        created_ms: 1,
        internal: false,
    };
    cluster.meta.put(&keys.topic("orders"), topic.encode()).await.unwrap();
    log.snapshot().await.unwrap();
    append(&partition(&log, 2), 5, 1).await;
    lose(&mut cluster).await;
    assert_eq!(run(&cluster, WRITE).await.unwrap().topics[0].partitions, 3);
    let next = cluster.owner(2, 7).await;
    assert_eq!(read_all(&partition(&next, 2), 0).await, expected(&[(5, 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_has_written_nothing_is_fenced_too() {
    let mut cluster = Cluster::new();
    let idle = cluster.owner(1, 0).await;
    let busy = cluster.owner(2, 1).await;
    append(&partition(&busy, 0), 5, 1).await;
    lose(&mut cluster).await;
    assert_eq!(run(&cluster, WRITE).await.unwrap().chains_sealed, 2);
    assert_eq!(append_from(&partition(&idle, 1), 1, 1, None).await, Err(AppendError::Fenced));
}

#[tokio::test(start_paused = true)]
async fn what_was_freed_is_not_taken_for_the_end() {
    let mut cluster = Cluster::new();
    cluster.config.wal_max_bytes = 16 << 10;
    let log = cluster.owner(1, 0).await;
    found(&cluster).await;
    log.snapshot().await.unwrap();
    let mut wrote = vec![Vec::new(); 3];
    write(&log, &mut wrote, 300, 1).await;
    let first_seq = cluster.record(&log).await.unwrap().first_seq;
    let kept = cluster.objects(&chain(&log).directory()).await.len() as u64;
    assert!(first_seq > 20 && kept >= 16, "{first_seq} {kept}");
    // Deleting was cut off further down.
    let id = chain(&log);
    let object = cluster.store.inner.get(&id.object(299)).await.unwrap().bytes().await.unwrap();
    ObjectStoreExt::put(&cluster.store.inner, &id.object(3), object.into()).await.unwrap();
    lose(&mut cluster).await;
    run(&cluster, WRITE).await.unwrap();
    assert_eq!(append_from(&partition(&log, 0), 1, 1, None).await, Err(AppendError::Fenced));
    check_served(&mut cluster, &wrote).await;
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_repeats_itself_after_a_restore_is_known() {
    let mut cluster = Cluster::new();
    cluster.config.wal_max_bytes = 16 << 10;
    let log = cluster.owner(1, 0).await;
    found(&cluster).await;
    let sequence = |first| Some((7, 0, first));
    append_from(&partition(&log, 0), 10, 1, sequence(0)).await.unwrap();
    log.snapshot().await.unwrap();
    append_from(&partition(&log, 0), 10, 1, sequence(10)).await.unwrap();
    let mut wrote = vec![Vec::new(); 3];
    write(&log, &mut wrote, 300, 1).await;
    assert!(!cluster.objects(&"topics".into()).await.is_empty());
    lose(&mut cluster).await;
    run(&cluster, WRITE).await.unwrap();
    cluster.incarnations += 1000;
    let next = cluster.owner(2, 2000).await;
    let p = partition(&next, 0);
    assert_eq!(append_from(&p, 10, 1, sequence(10)).await, Ok(Offset(10)), "it was sent again");
    assert_eq!(append_from(&p, 10, 1, sequence(20)).await, Ok(Offset(1020)), "it goes on");
}

#[tokio::test(start_paused = true)]
async fn topics_that_were_deleted_before_the_snapshot_stay_away() {
    let mut cluster = Cluster::new();
    let log = cluster.owner(1, 0).await;
    found(&cluster).await;
    append(&partition(&log, 0), 5, 1).await;
    cluster.meta.delete(&Cluster::keys().topic("orders")).await.unwrap();
    cluster.meta.delete(&Cluster::keys().assignment(TOPIC.0)).await.unwrap();
    cluster.clock.0.fetch_add(3_600_000, std::sync::atomic::Ordering::Relaxed);
    log.snapshot().await.unwrap();
    lose(&mut cluster).await;
    let restored = run(&cluster, WRITE).await.unwrap();
    assert_eq!((restored.topics.len(), restored.deleted_topics.len()), (0, 1), "{restored:?}");
}

/// Clocks do not tell whether a topic that was deleted just before the snapshot was there before it.
#[tokio::test(start_paused = true)]
async fn a_topic_that_was_deleted_just_before_the_snapshot_comes_back_only_when_told_so() {
    let mut cluster = Cluster::new();
    let log = cluster.owner(1, 0).await;
    found(&cluster).await;
    let mut wrote = vec![Vec::new(); 3];
    write(&log, &mut wrote, 30, 1).await;
    let owned = metadata(&cluster);
    let read = owned.load_topic("orders").await.unwrap().unwrap();
    assert!(owned.delete_topic("orders", &read).await.unwrap());
    log.snapshot().await.unwrap();
    lose(&mut cluster).await;
    let expected = [format!("{TOPIC} (orders)")];
    let restored = run(&cluster, WRITE).await.unwrap();
    assert_eq!((restored.topics.len(), &restored.deleted_topics[..]), (0, &expected[..]), "{restored:?}");

    let with_deleted = RestoreOptions { with_deleted: true, replace: true, ..WRITE };
    let restored = run(&cluster, with_deleted).await.unwrap();
    assert_eq!((restored.topics.len(), restored.deleted_topics.len()), (1, 0), "{restored:?}");
    check_served(&mut cluster, &wrote).await;
    // What is served was not deleted.
    let known = metadata(&cluster).store().get(&Cluster::keys().deleted_topic(TOPIC.0)).await.unwrap();
    assert_eq!(known, None);
}

#[tokio::test(start_paused = true)]
async fn only_the_newest_deleted_topics_are_remembered() {
    let mut cluster = Cluster::new();
    let log = cluster.owner(1, 0).await;
    found(&cluster).await;
    let keys = Cluster::keys();
    let record = DeletedTopicRecord { name: "t".into() };
    for i in 0..5000_u128 {
        let key = keys.deleted_topic(uuid::Uuid::from_u128(i));
        cluster.meta.put(&key, record.encode()).await.unwrap();
    }
    log.snapshot().await.unwrap();
    let left = cluster.meta.range_all(&keys.deleted_topics_prefix()).await.unwrap().kvs;
    let ids: Vec<_> = left.iter().filter_map(|kv| keys.parse_deleted_topic(&kv.key)).collect();
    assert_eq!(ids.len(), 4096);
    assert!(ids.iter().all(|id| id.as_u128() >= 5000 - 4096), "the newest stay");
}

/// An object of a dead broker's chain is gone, or so damaged that it says nothing.
#[tokio::test(start_paused = true)]
async fn without_a_lost_object_everything_else_is_restored_when_told_so() {
    for damage in ["missing", "damaged"] {
        let mut cluster = Cluster::new();
        let first = cluster.owner(1, 0).await;
        found(&cluster).await;
        for tag in 0..24 {
            append(&partition(&first, 0), 3, tag).await;
        }
        append(&partition(&first, 1), 3, 7).await;
        first.snapshot().await.unwrap();
        // Below what later objects say was acknowledged.
        let lost = chain(&first).object(20);
        let left = match damage {
            "missing" => {
                cluster.store.inner.delete(&lost).await.unwrap();
                None
            }
            _ => {
                cluster.store.inner.put(&lost, vec![0; 500].into()).await.unwrap();
                Some(500)
            }
        };
        lose(&mut cluster).await;
        let refused = run(&cluster, WRITE).await.unwrap_err();
        assert!(refused.contains(lost.as_ref()) && refused.contains("--accept-loss"), "{refused}");
        let accept = RestoreOptions { accept_loss: true, ..WRITE };
        let restored = run(&cluster, accept).await.unwrap();
        assert_eq!(restored.lost, ["orders, partition 0: offsets 60 to 62"], "{damage}: {restored:?}");
        assert_eq!(restored.may_lack, ["orders, partition 2: from offset 0 on"], "{damage}: {restored:?}");
        assert!(restored.losses.len() == 1 && restored.losses[0].contains(lost.as_ref()), "{restored:?}");
        let size = cluster.store.inner.head(&lost).await.ok().map(|found| found.size);
        assert_eq!(size, left, "what is left of it is kept");

        cluster.incarnations += 1000;
        let next = cluster.owner(2, 2000).await;
        let p = partition(&next, 0);
        assert_eq!(read_all(&p, 63).await.len(), 9, "what is behind it is served");
        for offset in 0..63 {
            let read = p.read(Offset(offset), 1, true).await;
            assert_eq!(matches!(read, Err(ReadError::Corrupt(_))), offset >= 60, "{offset}: {read:?}");
        }
        assert_eq!(append(&p, 1, 9).await, Offset(72));
        assert_eq!(append(&partition(&next, 2), 1, 9).await, Offset(0), "it takes records again");
    }
}

/// An object far below the end is gone, and those below it have records that are in no segment.
#[tokio::test(start_paused = true)]
async fn what_is_below_a_lost_object_is_not_taken_for_freed() {
    for has_snapshot in [true, false] {
        let mut cluster = Cluster::new();
        let first = cluster.owner(1, 0).await;
        found(&cluster).await;
        for tag in 0..5 {
            append(&partition(&first, 0), 3, tag).await;
        }
        for tag in 0..40 {
            append(&partition(&first, 1), 3, tag).await;
        }
        if has_snapshot {
            first.snapshot().await.unwrap();
        }
        let lost = chain(&first).object(4);
        cluster.store.inner.delete(&lost).await.unwrap();
        lose(&mut cluster).await;
        let refused = run(&cluster, WRITE).await.unwrap_err();
        assert!(refused.contains(lost.as_ref()) && refused.contains("--accept-loss"), "{refused}");
        let restored = run(&cluster, RestoreOptions { accept_loss: true, ..WRITE }).await.unwrap();
        assert!(restored.losses.len() == 1 && restored.losses[0].contains(lost.as_ref()), "{restored:?}");
        let told = |line: &String| line.ends_with(", partition 0: from offset 12 on");
        assert!(restored.may_lack.iter().any(told), "{restored:?}");
        assert_eq!(restored.topics[0].offsets, 12 + 120, "{restored:?}");
    }
}

/// A segment is gone with the metadata, and others are below it.
#[tokio::test(start_paused = true)]
async fn what_is_below_a_lost_segment_is_kept() {
    for (named, gone) in [(true, 1), (true, 2), (false, 1)] {
        let what = format!("the snapshot names it: {named}, segment {gone}");
        let mut cluster = Cluster::new();
        let first = cluster.owner(1, 0).await;
        found(&cluster).await;
        if !named {
            first.snapshot().await.unwrap();
        }
        let p = partition(&first, 0);
        for tag in 0..3 {
            append(&p, 10, tag).await;
            rewrite(&first.shared, &p.inner).await.unwrap();
        }
        // Objects of the chain would have the records still.
        let second = cluster.broker(2).await;
        found(&cluster).await;
        seal(&second, &first).await;
        second.collect().await.unwrap();
        if named {
            second.snapshot().await.unwrap();
        }
        let mut segments = cluster.objects(&Path::from(format!("topics/orders/{TOPIC}/0"))).await;
        segments.sort();
        assert_eq!(segments.len(), 3, "{segments:?}");
        cluster.store.inner.delete(&Path::from(segments[gone].as_str())).await.unwrap();
        lose(&mut cluster).await;
        let restored = run(&cluster, WRITE).await.unwrap();
        let lost = gone as i64 * 10..gone as i64 * 10 + 10;
        let told = format!("orders, partition 0: offsets {} to {}", lost.start, lost.end - 1);
        assert_eq!(restored.gaps, [told], "{what}: {restored:?}");
        assert_eq!((restored.topics[0].offsets, &restored.holes[..]), (30, &[][..]), "{what}: {restored:?}");
        cluster.incarnations += 1000;
        let next = cluster.owner(2, 2000).await;
        let p = partition(&next, 0);
        for offset in 0..30 {
            let read = p.read(Offset(offset), 1, true).await;
            let is_lost = matches!(read, Err(ReadError::Corrupt(_)));
            assert_eq!(is_lost, lost.contains(&offset), "{what}: {offset}: {read:?}");
        }
        assert_eq!(append(&p, 1, 9).await, Offset(30), "{what}");
    }
}

fn at(new_name: &str, until_ms: i64) -> TopicAt {
    TopicAt { topic: "orders".into(), until_ms, new_name: new_name.into(), dry_run: false }
}

#[tokio::test(start_paused = true)]
async fn a_topic_comes_back_as_it_was() {
    let mut cluster = Cluster::new();
    cluster.config.wal_max_bytes = 32 << 10;
    let log = cluster.owner(1, 0).await;
    found(&cluster).await;
    let mut before = vec![Vec::new(); 3];
    write(&log, &mut before, 120, 1).await;
    let p = partition(&log, 1);
    let later = async |tag, timestamp_ms| {
        let appended = p.append(valid_batch(10, 100, tag, timestamp_ms, None)).unwrap();
        appended.durable.wait().await.unwrap();
    };
    later(2, NOW_MS + 60_000).await;
    later(3, NOW_MS + 120_000).await;
    let copy = async |wanted: &TopicAt| {
        restore_topic(&cluster.config.store, &metadata(&cluster), NOW_MS, wanted).await
    };
    let planned = copy(&TopicAt { dry_run: true, ..at("copy", NOW_MS + 60_000) }).await.unwrap();
    assert!(metadata(&cluster).load_topic("copy").await.unwrap().is_none());
    assert!(cluster.objects(&"topics/copy".into()).await.is_empty());
    let copied = copy(&at("copy", NOW_MS + 60_000)).await.unwrap();
    assert_eq!(copied, planned);
    let ends: Vec<_> =
        copied.iter().map(|CopiedPartition { log_end, source_end, .. }| (log_end.0, source_end.0)).collect();
    assert_eq!(ends, [(400, 400), (410, 420), (400, 400)]);
    assert!(copy(&at("copy", NOW_MS)).await.unwrap_err().contains("already"));
    assert!(copy(&at("a b", NOW_MS)).await.is_err());
    assert!(
        copy(&TopicAt { topic: "nothing".into(), ..at("b", NOW_MS) }).await.unwrap_err().contains("no topic")
    );
    let topic = metadata(&cluster).load_topic("copy").await.unwrap().unwrap().record;
    assert_eq!(topic.configs["retention.ms"], "-1");
    let hosted = (0..3).map(|index| HostedPartition {
        topic_name: "copy".into(),
        id: PartitionId { topic: TopicId(topic.topic_id), index },
        leader_epoch: LeaderEpoch(9),
        config: Arc::default(),
    });
    let hosted: Vec<_> = hosted.collect();
    assert!(log.acquire(hosted.clone()).await.iter().all(|(_, outcome)| *outcome == Ok(())));
    before[1].push((10, 2));
    for (hosted, before) in hosted.iter().zip(&before) {
        let p = log.partition(hosted.id).unwrap();
        assert_eq!(read_all(&p, 0).await, expected(before));
        assert_eq!(append(&p, 1, 9).await.0, before.len() as i64 * 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_comes_back_without_what_is_damaged() {
    let mut cluster = Cluster::new();
    cluster.config.wal_max_bytes = 32 << 10;
    let log = cluster.owner(1, 0).await;
    found(&cluster).await;
    let mut before = vec![Vec::new(); 3];
    write(&log, &mut before, 120, 1).await;
    let records = cluster.objects(&"topics".into()).await;
    assert!(!records.is_empty(), "there are segments");
    let mut names = records.into_iter().filter(|name| name.contains("/0/")).collect::<Vec<_>>();
    names.sort();
    let p = partition(&log, 0);
    // A batch of the first segment of partition 0, and one that is in the chain still.
    let hurt = async |path: Path, at: usize| {
        let mut bytes = cluster.store.inner.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
        bytes[at] ^= 1;
        cluster.store.inner.put(&path, bytes.into()).await.unwrap();
    };
    hurt(Path::from(&*names[0]), 64 + 100).await;
    let end = p.offsets().log_end;
    append(&p, 10, 7).await;
    append(&p, 10, 8).await;
    let objects = cluster.objects(&chain(&log).directory()).await;
    let object = objects.iter().max().map(|last| Path::from(&**last)).unwrap();
    let (_, seq) = ChainId::parse(&object).unwrap();
    hurt(chain(&log).object(seq - 1), 64 + 96 + 100).await;
    let wanted = at("copy", i64::MAX);
    let copied = restore_topic(&cluster.config.store, &metadata(&cluster), NOW_MS, &wanted).await.unwrap();
    let lost: Vec<_> = copied[0].lost.iter().map(|lost| (lost.first.0, lost.last.0)).collect();
    assert_eq!(lost, [(0, 9), (end.0, end.0 + 9)], "{copied:?}");
    assert_eq!(copied[0].log_end, p.offsets().log_end);
    assert!(copied[1..].iter().all(|copied| copied.lost.is_empty()));
    let topic = metadata(&cluster).load_topic("copy").await.unwrap().unwrap().record;
    let hosted = HostedPartition {
        topic_name: "copy".into(),
        id: PartitionId { topic: TopicId(topic.topic_id), index: 0 },
        leader_epoch: LeaderEpoch(9),
        config: Arc::default(),
    };
    let id = hosted.id;
    assert_eq!(log.acquire(vec![hosted]).await[0].1, Ok(()));
    let copy = log.partition(id).unwrap();
    for offset in [0, end.0 + 5] {
        assert!(matches!(copy.read(Offset(offset), 1, true).await, Err(ReadError::Corrupt(_))), "{offset}");
    }
    assert_eq!(
        read_all(&copy, end.0 + 10).await,
        [(end.0 + 10, 8); 10]
            .into_iter()
            .enumerate()
            .map(|(i, (o, t))| (o + i as i64, t))
            .collect::<Vec<_>>()
    );
    assert!(copy.read(Offset(10), 1, true).await.is_ok());
}
