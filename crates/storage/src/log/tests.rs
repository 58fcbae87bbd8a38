//! The log as a whole, over real files: what was acknowledged is there after every kind of stop.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use kafscale_core::batch::{self, BatchHeader};
use kafscale_core::clock::Clock;
use kafscale_core::ids::{LeaderEpoch, Offset, PartitionId, TopicId};
use kafscale_core::topic_config::TopicConfig;
use kafscale_meta::records::Keyspace;
use kafscale_meta::{EmbeddedStore, MetaStore};
use uuid::Uuid;

use super::partition::Partition;
use super::producers;
use super::watch::Watcher;
use super::{HostedPartition, Log, LogConfig, StoreUrl};
use crate::compute::Requester;
use crate::error::{AppendError, OpenError, ReadError};
use crate::testing::{NOW_MS, Producer, valid_batch};

#[derive(Debug)]
struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

mod compaction;
mod damage;
mod foreign;
mod given_up;
mod identity;
mod objects;
mod scan;

const TOPIC: TopicId = TopicId(Uuid::from_u128(1));

/// A log that can be closed and opened again over the same directory and metadata.
struct Fixture {
    config: LogConfig,
    meta: Arc<dyn MetaStore>,
    clock: Arc<TestClock>,
    partitions: i32,
    topic: Arc<TopicConfig>,
}

impl Fixture {
    fn new(store: StoreUrl) -> Fixture {
        let mut config = LogConfig::new(store, 1, 1);
        config.wal_file_bytes = 64 << 10;
        config.wal_max_bytes = 128 << 10;
        config.wal_burst_bytes = 0;
        config.retention_check_interval = Duration::from_millis(20);
        Fixture {
            config,
            meta: Arc::new(EmbeddedStore::memory()),
            clock: Arc::new(TestClock(AtomicI64::new(NOW_MS))),
            partitions: 3,
            topic: Arc::default(),
        }
    }

    fn file(dir: &Path) -> Fixture {
        Fixture::new(StoreUrl::File(dir.to_owned()))
    }

    fn with_topic(mut self, overrides: &[(&str, &str)]) -> Fixture {
        let map: BTreeMap<_, _> = overrides.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.topic = Arc::new(TopicConfig::resolve(&map, &BTreeMap::new()).unwrap());
        self
    }

    fn hosted(&self) -> Vec<HostedPartition> {
        let partition = |index| HostedPartition {
            topic_name: "orders".into(),
            id: PartitionId { topic: TOPIC, index },
            leader_epoch: LeaderEpoch(0),
            config: self.topic.clone(),
        };
        (0..self.partitions).map(partition).collect()
    }

    /// A log that serves nothing yet.
    async fn try_open(&mut self) -> Result<Log, OpenError> {
        let keys = Keyspace::new("test").unwrap();
        // As a broker's, it is above all that the metadata has counted before.
        let counted = super::identity::last_epoch(&*self.meta, &keys).await.unwrap();
        self.config.incarnation = (self.config.incarnation + 1).max(counted + 1);
        Log::open(self.config.clone(), self.meta.clone(), keys, self.clock.clone()).await
    }

    async fn open_after(&mut self, log: Log) -> Log {
        log.shutdown().await;
        self.open().await
    }

    async fn open(&mut self) -> Log {
        let log = self.try_open().await.unwrap();
        for (id, outcome) in log.acquire(self.hosted()).await {
            assert_eq!(outcome, Ok(()), "{id}");
        }
        log.forget_unclaimed(|id| id.topic == TOPIC);
        log
    }
}

fn partition(log: &Log, index: i32) -> Partition {
    log.partition(PartitionId { topic: TOPIC, index }).unwrap()
}

async fn append(p: &Partition, records: i32, tag: u8) -> Offset {
    append_from(p, records, tag, None).await.unwrap()
}

async fn append_from(
    p: &Partition,
    records: i32,
    tag: u8,
    producer: Producer,
) -> Result<Offset, AppendError> {
    let appended = p.append(valid_batch(records, 100, tag, p.log.clock.now_ms(), producer))?;
    appended.durable.wait().await?;
    Ok(appended.base_offset)
}

/// Reads everything from `from` on: the offset of every record with the tag of its batch.
async fn read_all(p: &Partition, from: i64) -> Vec<(i64, u8)> {
    let (mut at, mut found) = (Offset(from), Vec::new());
    while at < p.offsets().high_watermark {
        let read = p.read(at, 20_000, true).await.unwrap();
        let bytes = read.chunks.concat();
        for parsed in batch::batches(&bytes) {
            let (position, header): (usize, BatchHeader) = parsed.unwrap();
            assert!(header.crc_matches(&bytes[position..]));
            let tag = bytes[position + header.size_bytes - 2];
            let first = header.base_offset.0.max(at.0);
            found.extend((first..=header.last_offset().0).map(|o| (o, tag)));
            at = header.last_offset().plus(1);
        }
    }
    found
}

/// Reads everything as a consumer does that seeks past each error by one: the records, and the offsets that failed.
async fn read_around(p: &Partition) -> (Vec<(i64, u8)>, Vec<i64>) {
    let (mut at, mut found, mut lost) = (p.offsets().log_start, Vec::new(), Vec::new());
    while at < p.offsets().high_watermark {
        match p.read(at, 20_000, true).await {
            Ok(read) => {
                let bytes = read.chunks.concat();
                for parsed in batch::batches(&bytes) {
                    let (position, header) = parsed.unwrap();
                    assert!(header.crc_matches(&bytes[position..]));
                    let tag = bytes[position + header.size_bytes - 2];
                    let first = header.base_offset.0.max(at.0);
                    found.extend((first..=header.last_offset().0).map(|o| (o, tag)));
                    at = header.last_offset().plus(1);
                }
            }
            Err(ReadError::Corrupt(_)) => {
                lost.push(at.0);
                at = at.plus(1);
            }
            Err(e) => panic!("offset {at}: {e}"),
        }
    }
    (found, lost)
}

fn expected(counts: &[(i32, u8)]) -> Vec<(i64, u8)> {
    let tags = counts.iter().flat_map(|(n, tag)| std::iter::repeat_n(*tag, *n as usize));
    tags.enumerate().map(|(i, tag)| (i as i64, tag)).collect()
}

/// Waits until `condition` holds, driven by the background tasks of the log.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn records_survive_a_restart_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    let mut wrote = Vec::new();
    for round in 0..4u8 {
        let log = fixture.open().await;
        let p = partition(&log, 0);
        for i in 0..5u8 {
            let records = i32::from(i) + 1;
            append(&p, records, round * 10 + i).await;
            wrote.push((records, round * 10 + i));
        }
        assert_eq!(read_all(&p, 0).await, expected(&wrote));
        log.shutdown().await;
    }
}

#[tokio::test]
async fn many_appends_become_segments_and_free_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    let log = fixture.open().await;
    let mut wrote = vec![Vec::new(); 3];
    for i in 0..400 {
        let tag = (i % 251) as u8;
        append(&partition(&log, i % 3), 10, tag).await;
        wrote[(i % 3) as usize].push((10, tag));
    }
    eventually("rewriting", || log.stats().wal_bytes <= 256 << 10 && log.stats().segments_written > 0).await;
    for (index, wrote) in wrote.iter().enumerate() {
        assert_eq!(read_all(&partition(&log, index as i32), 0).await, expected(wrote));
    }
    log.shutdown().await;
    let log = fixture.open().await;
    for (index, wrote) in wrote.iter().enumerate() {
        let p = partition(&log, index as i32);
        assert_eq!(read_all(&p, 7).await, expected(wrote)[7..]);
        assert_eq!(p.offsets().log_end.0, 10 * wrote.len() as i64);
    }
    let files = std::fs::read_dir(dir.path().join("wal/1")).unwrap().count();
    assert!(files < 9, "{files} write-ahead files are left");
}

#[tokio::test]
async fn a_flood_of_producers_costs_those_that_write_elsewhere_nothing() {
    let mut fixture = Fixture::new(StoreUrl::Memory);
    let log = fixture.open().await;
    let (flooded, other) = (partition(&log, 0), partition(&log, 1));
    append_from(&other, 1, 1, Some((1, 0, 0))).await.unwrap();
    append_from(&other, 1, 1, Some((2, 0, 0))).await.unwrap();
    for id in 100..200 {
        append_from(&flooded, 1, 1, Some((id, 0, 0))).await.unwrap();
    }
    append_from(&flooded, 1, 1, Some((3, 0, 0))).await.unwrap();
    let shared = &flooded.log;
    assert_eq!(producers::trim(shared, 103, 90), (103, 103), "there are no more than may be");
    assert_eq!(producers::trim(shared, 100, 10), (103, 10));
    assert_eq!((flooded.producer_count(), other.producer_count()), (8, 2));
    assert_eq!(log.producer_windows(), 10);
    let known = flooded.producers();
    assert!(known.iter().any(|(id, _)| id.0 == 3), "the last one to write is there: {known:?}");
}

#[tokio::test]
async fn tiny_batches_count_with_what_they_take_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    fixture.config.wal_file_bytes = 16 << 10;
    fixture.config.wal_max_bytes = 768 << 10;
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for i in 0..1500u32 {
        append(&p, 1, (i % 251) as u8).await;
    }
    eventually("rewriting", || log.stats().segments_written > 0).await;
    assert!(p.inner.state.lock().tail.len() < 1500);
    log.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_written_to_segments_does_not_gather_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let log = Fixture::file(dir.path()).open().await;
    let p = partition(&log, 0);
    // No directory can be made where a file is.
    let in_the_way = dir.path().join("topics");
    std::fs::write(&in_the_way, "").unwrap();
    let batch = || valid_batch(1, 10_000, 0, NOW_MS, None);
    let mut taken = 0;
    while let Ok(appended) = p.append(batch()) {
        appended.durable.wait().await.unwrap();
        taken += 1;
        assert!(taken < 5000, "nothing ends it: {:?}", log.failing_summary());
    }
    assert!(
        matches!(p.append(batch()), Err(AppendError::Unavailable(why)) if why.contains("cannot be written"))
    );
    assert!(log.health().unwrap_err().contains("segments of 1 partitions cannot be written"));
    assert!(log.stats().segment_write_failures > 0 && log.stats().failing_partitions == 1);
    std::fs::remove_file(&in_the_way).unwrap();
    eventually("it goes on by itself", || log.health().is_ok() && log.failing_summary().is_none()).await;
    p.append(batch()).unwrap().durable.wait().await.unwrap();
    assert_eq!(read_all(&p, 0).await.len(), taken + 1);
    log.shutdown().await;
}

/// The file that is being written is not rewritten: it must not hold all of them.
#[tokio::test]
async fn tiny_batches_are_rewritten_although_their_file_is_not_full() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    fixture.config.wal_file_bytes = 2 << 20;
    fixture.config.wal_max_bytes = 2560 << 10;
    fixture.config.wal_burst_bytes = 0;
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for i in 0..2000u32 {
        append(&p, 1, (i % 251) as u8).await;
    }
    eventually("rewriting", || p.inner.state.lock().tail.len() < 1300).await;
    {
        let state = p.inner.state.lock();
        assert!(state.tail.capacity() <= 4096 && state.tail_bytes < 2 << 20, "{}", state.tail.capacity());
    }
    assert_eq!(read_all(&p, 0).await.len(), 2000);
    log.shutdown().await;
}

/// With a little in each of many partitions, one after the other takes long: those that are written meanwhile must not gather.
#[tokio::test]
async fn tiny_batches_of_many_partitions_do_not_gather() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    fixture.partitions = 100;
    fixture.config.wal_file_bytes = 1 << 20;
    fixture.config.wal_max_bytes = 2 << 20;
    fixture.config.wal_burst_bytes = 3 << 20;
    let log = fixture.open().await;
    let partitions: Vec<Partition> = (0..100).map(|i| partition(&log, i)).collect();
    let shared = partitions[0].log.clone();
    let (mut most, mut sent) = (0, 0);
    for round in 0..600u32 {
        let mut appended = Vec::new();
        for p in &partitions {
            let batch = valid_batch(1, 10, (round % 251) as u8, NOW_MS, None);
            appended.push(p.append(batch).unwrap());
            sent += 1;
        }
        for append in appended {
            append.durable.wait().await.unwrap();
        }
        most = most.max(shared.files.batches());
    }
    assert!(most < sent / 3, "{most} of {sent}");
    let left: usize = partitions.iter().map(|p| p.inner.state.lock().tail.len()).sum();
    assert!(shared.files.batches() >= left as u64);
    for p in &partitions {
        assert_eq!(read_all(p, 0).await.len(), 600);
    }
    log.shutdown().await;
}

/// What is kept in memory of batches is more than their bytes.
#[tokio::test]
async fn the_cache_counts_what_batches_take_beside_their_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    fixture.config.tail_cache_bytes = 64 << 10;
    fixture.config.wal_max_bytes = 1 << 30;
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for i in 0..1000u32 {
        let batch = valid_batch(1, 10, (i % 251) as u8, NOW_MS, None);
        p.append(batch).unwrap().durable.wait().await.unwrap();
    }
    let kept = p.inner.state.lock().tail.iter().filter(|b| b.flush.upgrade().is_some()).count();
    assert!(log.stats().tail_cache_bytes <= 64 << 10);
    assert!((1..=512).contains(&kept), "{kept} kept");
    log.shutdown().await;
}

#[tokio::test]
async fn small_segments_are_merged_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    fixture.config.wal_file_bytes = 8 << 10;
    fixture.config.wal_max_bytes = 8 << 10;
    let log = fixture.open().await;
    let p = partition(&log, 0);
    let mut wrote = Vec::new();
    for i in 0..400u32 {
        append(&p, 10, (i % 251) as u8).await;
        wrote.push((10, (i % 251) as u8));
        if i % 50 == 0 {
            assert_eq!(read_all(&p, 0).await, expected(&wrote), "while segments are merged");
        }
    }
    eventually("merging", || p.inner.state.lock().segments.len() < 16).await;
    assert!(log.stats().segments_written > 40, "{:?}", log.stats());
    assert_eq!(read_all(&p, 0).await, expected(&wrote));
    log.shutdown().await;
    let log = fixture.open().await;
    let p = partition(&log, 0);
    assert_eq!(read_all(&p, 0).await, expected(&wrote));
    let objects = p.inner.state.lock().segments.len();
    assert_eq!(count_files(&dir.path().join("topics")), objects, "merged objects are deleted");
}

#[tokio::test]
async fn rewriting_waits_while_appends_need_the_disk_but_not_beyond_the_burst() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    fixture.config.wal_burst_bytes = 4 << 20;
    let log = fixture.open().await;
    let p = partition(&log, 0);
    // A write that is under way all the time.
    p.log.pace.write_begins();
    let mut largest = 0;
    while log.stats().segments_written == 0 {
        append(&p, 1000, 1).await;
        p.log.pace.write_begins();
        largest = largest.max(log.stats().wal_bytes);
        assert!(largest < 64 << 20, "nothing was ever rewritten");
    }
    assert!(largest > 4 << 20, "rewritten at {largest} bytes, far below the burst");
    let written = log.stats().segments_written;
    p.log.pace.write_ends();
    eventually("the rest", || log.stats().segments_written > written && log.stats().wal_files <= 3).await;
    log.shutdown().await;
}

#[tokio::test]
async fn reads_from_the_disk_give_the_same_as_reads_from_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    fixture.config.tail_cache_bytes = 0;
    fixture.config.wal_max_bytes = 1 << 30;
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for tag in 0..50 {
        append(&p, 3, tag).await;
    }
    let wrote: Vec<_> = (0..50).map(|tag| (3, tag)).collect();
    assert_eq!(read_all(&p, 0).await, expected(&wrote));
    assert!(log.stats().tail_misses > 0 && log.stats().tail_hits == 0);
}

#[tokio::test]
async fn concurrent_appends_share_flushes_and_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    let log = fixture.open().await;
    let p = partition(&log, 0);
    let appended: Vec<_> =
        (0..500).map(|i| p.append(valid_batch(1, 10, (i % 250) as u8, NOW_MS, None)).unwrap()).collect();
    for (i, a) in appended.into_iter().enumerate() {
        assert_eq!(a.base_offset, Offset(i as i64));
        a.durable.wait().await.unwrap();
    }
    assert!(log.stats().flush_latency.count < 250, "{:?}", log.stats());
    assert_eq!(read_all(&p, 0).await.len(), 500);
}

#[tokio::test]
async fn duplicates_are_answered_with_their_first_offsets_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for i in 0..300 {
        // Enough for the producer's windows to move into metadata with the segments.
        assert_eq!(append_from(&p, 10, 1, Some((77, 0, i * 10))).await, Ok(Offset(i64::from(i) * 10)));
    }
    eventually("rewriting", || log.stats().segments_written > 0).await;
    log.shutdown().await;
    let log = fixture.open().await;
    let p = partition(&log, 0);
    assert_eq!(append_from(&p, 10, 1, Some((77, 0, 2990))).await, Ok(Offset(2990)));
    assert_eq!(append_from(&p, 10, 1, Some((77, 0, 2950))).await, Ok(Offset(2950)));
    assert_eq!(p.offsets().log_end, Offset(3000));
    assert!(matches!(append_from(&p, 1, 1, Some((77, 0, 5000))).await, Err(AppendError::Sequence(_))));
    assert_eq!(append_from(&p, 1, 1, Some((77, 0, 3000))).await, Ok(Offset(3000)));
}

#[tokio::test]
async fn old_records_are_dropped_by_time_and_their_space_is_freed() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path()).with_topic(&[("retention.ms", "60000")]);
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for _ in 0..300 {
        append(&p, 10, 1).await;
    }
    eventually("rewriting", || log.stats().segments_written > 0).await;
    fixture.clock.0.fetch_add(61_000, Ordering::Relaxed);
    eventually("retention", || p.offsets().log_start == Offset(3000)).await;
    append(&p, 10, 2).await;
    assert_eq!(read_all(&p, 3000).await.len(), 10);
    assert!(matches!(p.read(Offset(5), 100, true).await, Err(ReadError::OutOfRange { .. })));
    eventually("deletion of objects", || count_files(&dir.path().join("topics")) == 0).await;
    log.shutdown().await;
    let log = fixture.open().await;
    assert_eq!(partition(&log, 0).offsets().log_start, Offset(3000));
    assert_eq!(partition(&log, 0).offsets().log_end, Offset(3010));
}

#[tokio::test]
async fn restarts_with_few_appends_do_not_fill_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    let mut wrote = Vec::new();
    for tag in 0..12 {
        let log = fixture.open().await;
        append(&partition(&log, 0), 1, tag).await;
        wrote.push((1, tag));
        eventually("rewriting", || log.stats().wal_bytes <= 128 << 10).await;
        assert_eq!(read_all(&partition(&log, 0), 0).await, expected(&wrote));
        log.shutdown().await;
    }
}

#[tokio::test]
async fn old_records_are_dropped_by_size() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture =
        Fixture::file(dir.path()).with_topic(&[("retention.bytes", "50000"), ("segment.bytes", "20000")]);
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for _ in 0..300 {
        append(&p, 10, 1).await;
    }
    eventually("retention", || p.size_bytes() < 80_000).await;
    assert!(p.size_bytes() >= 50_000);
    assert!(p.offsets().log_start > Offset(0));
}

#[tokio::test]
async fn delete_records_is_durable_and_cuts_inside_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for tag in 0..10 {
        append(&p, 10, tag).await;
    }
    assert_eq!(p.delete_records(Offset(25)).await, Ok(Offset(25)));
    assert_eq!(p.delete_records(Offset(7)).await, Ok(Offset(25)));
    assert!(matches!(p.delete_records(Offset(101)).await, Err(ReadError::OutOfRange { .. })));
    log.shutdown().await;
    let log = fixture.open().await;
    let p = partition(&log, 0);
    assert_eq!(p.offsets().log_start, Offset(25));
    assert_eq!(read_all(&p, 25).await.len(), 75);
    assert_eq!(p.delete_records(Offset(100)).await, Ok(Offset(100)));
    log.shutdown().await;
    let log = fixture.open().await;
    let p = partition(&log, 0);
    assert_eq!((p.offsets().log_start, p.offsets().log_end), (Offset(100), Offset(100)));
    assert_eq!(append(&p, 1, 9).await, Offset(100));
}

#[tokio::test]
async fn records_are_found_by_their_timestamps() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for i in 0..300 {
        fixture.clock.0.store(NOW_MS + i * 1000, Ordering::Relaxed);
        append(&p, 10, 1).await;
    }
    eventually("rewriting", || log.stats().segments_written > 0).await;
    let find = async |ms| {
        p.offset_for_timestamp(Requester::Broker, NOW_MS + ms)
            .await
            .unwrap()
            .map(|(o, t, _)| (o.0, t - NOW_MS))
    };
    assert_eq!(find(-1).await, Some((0, 0)));
    assert_eq!(find(1).await, Some((10, 1000)));
    assert_eq!(find(299_000).await, Some((2990, 299_000)));
    assert_eq!(find(299_001).await, None);
    assert_eq!(p.max_timestamp(Requester::Broker).await.unwrap().map(|(o, _, _)| o.0), Some(2990));
}

#[tokio::test]
async fn a_waiting_reader_is_woken_by_the_append_and_by_deletion() {
    let mut fixture = Fixture::new(StoreUrl::Memory);
    let log = fixture.open().await;
    let p = partition(&log, 0);
    let watcher = Arc::new(Watcher::default());
    p.wake_on_change(&watcher, 5);
    append(&p, 1, 1).await;
    assert_eq!(watcher.changed().await, [5]);
    p.wake_on_change(&watcher, 6);
    log.drop_topic(TOPIC).await;
    assert_eq!(watcher.changed().await, [6]);
    assert_eq!(p.read(Offset(0), 1, true).await.unwrap_err(), ReadError::Gone);
    assert_eq!(append_from(&p, 1, 1, None).await, Err(AppendError::Gone));
}

#[tokio::test]
async fn a_deleted_topic_frees_its_space_and_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    let log = fixture.open().await;
    for i in 0..400 {
        append(&partition(&log, i % 3), 10, 1).await;
    }
    eventually("rewriting", || log.stats().segments_written > 0).await;
    log.drop_topic(TOPIC).await;
    assert_eq!(count_files(&dir.path().join("topics")), 0);
    assert_eq!(log.stats().wal_files, 1);
    log.shutdown().await;
}

#[tokio::test]
async fn orphans_on_a_disk_are_removed_and_what_is_no_segment_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    fixture.config.orphan_quarantine = Duration::ZERO;
    let log = fixture.open().await;
    for i in 0..400 {
        append(&partition(&log, i % 3), 10, 1).await;
    }
    eventually("rewriting", || log.stats().segments_written > 0).await;
    log.shutdown().await;
    let orphan = PartitionId { topic: TopicId(Uuid::from_u128(9)), index: 0 };
    let orphan = dir.path().join(crate::segment::segment_path("gone", orphan, Offset(0), 1 << 32));
    let other = orphan.with_file_name("notes.txt");
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, b"left over").unwrap();
    std::fs::write(&other, b"mine").unwrap();
    let log = fixture.open().await;
    eventually("removal", || !orphan.exists()).await;
    assert!(other.exists());
    assert_eq!(read_all(&partition(&log, 0), 0).await.len(), 1340);
    log.shutdown().await;
}

#[tokio::test]
async fn a_start_drops_no_records_before_the_first_interval_has_passed() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path()).with_topic(&[("retention.ms", "1000")]);
    fixture.config.retention_check_interval = Duration::from_secs(3600);
    let log = fixture.open().await;
    append(&partition(&log, 0), 10, b'a').await;
    log.shutdown().await;
    fixture.clock.0.store(i64::MAX / 2, Ordering::Relaxed);
    let log = fixture.open().await;
    append(&partition(&log, 0), 10, b'b').await;
    assert_eq!(partition(&log, 0).offsets().log_start, Offset::ZERO);
    log.shutdown().await;
}

#[tokio::test]
async fn a_start_without_room_for_a_write_ahead_file_serves_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    let log = fixture.open().await;
    append(&partition(&log, 0), 3, b'a').await;
    log.shutdown().await;
    // More than any file system has.
    let wal_file_bytes = std::mem::replace(&mut fixture.config.wal_file_bytes, 1 << 50);
    let log = fixture.open().await;
    let p = partition(&log, 0);
    assert_eq!(read_all(&p, 0).await, expected(&[(3, b'a')]));
    let why = log.health().unwrap_err();
    assert!(why.contains("no room") && why.contains(dir.path().to_str().unwrap()), "{why}");
    assert!(matches!(append_from(&p, 1, b'b', None).await, Err(AppendError::Unavailable(_))));
    log.shutdown().await;
    fixture.config.wal_file_bytes = wal_file_bytes;
    let log = fixture.open().await;
    log.health().unwrap();
    append(&partition(&log, 0), 1, b'b').await;
    assert_eq!(read_all(&partition(&log, 0), 0).await, expected(&[(3, b'a'), (1, b'b')]));
    log.shutdown().await;
}

#[tokio::test]
async fn a_directory_in_use_or_of_a_newer_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    let log = fixture.open().await;
    assert!(matches!(fixture.try_open().await, Err(OpenError::InUse { .. })));
    log.shutdown().await;
    drop(log);
    let version = dir.path().join("VERSION");
    std::fs::write(&version, "99\n").unwrap();
    assert!(matches!(fixture.try_open().await, Err(OpenError::NewerVersion { found: 99, .. })));
    for damaged in [&b""[..], b"\n", b"0\n", b"-1", b"1 1", b"\xff\xfe\0\x01"] {
        std::fs::write(&version, damaged).unwrap();
        let why = fixture.try_open().await.unwrap_err().to_string();
        let way_out = format!("echo 1 > {}", version.display());
        assert!(why.contains(&way_out), "{damaged:?}: {why}");
    }
    // No end, and no beginning.
    std::fs::File::create(&version).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(fixture.try_open().await, Err(OpenError::NoVersion { .. })));
    std::fs::remove_file(&version).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&version).status().unwrap().success());
    assert!(matches!(fixture.try_open().await, Err(OpenError::NoVersion { .. })));
    std::fs::remove_file(&version).unwrap();
    std::fs::write(&version, " 1 ").unwrap();
    fixture.open().await.shutdown().await;
}

#[tokio::test]
async fn memory_serves_more_than_its_cache() {
    let mut fixture = Fixture::new(StoreUrl::Memory);
    fixture.config.tail_cache_bytes = 0;
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for i in 0..300 {
        append(&p, 10, (i % 200) as u8).await;
    }
    eventually("rewriting", || log.stats().segments_written > 0).await;
    assert_eq!(read_all(&p, 0).await.len(), 3000);
}

#[tokio::test]
async fn a_batch_larger_than_the_limit_is_given_only_when_asked_for() {
    let mut fixture = Fixture::new(StoreUrl::Memory);
    let log = fixture.open().await;
    let p = partition(&log, 0);
    append(&p, 10, 1).await;
    append(&p, 10, 2).await;
    assert_eq!(p.read(Offset(0), 10, false).await.unwrap().size_bytes, 0);
    let one = p.read(Offset(0), 10, true).await.unwrap();
    assert_eq!(one.chunks.len(), 1);
    assert_eq!(p.read(Offset(20), 10, true).await.unwrap().size_bytes, 0);
    assert_eq!(p.available_bytes(Offset(0), usize::MAX), 2 * one.size_bytes);
    assert_eq!(p.available_bytes(Offset(20), 1), 0);
}

fn count_files(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.flatten().map(|e| if e.path().is_dir() { count_files(&e.path()) } else { 1 }).sum()
}

#[tokio::test]
async fn restarts_without_appends_take_no_space() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    let log = fixture.open().await;
    append(&partition(&log, 0), 3, 1).await;
    log.shutdown().await;
    for _ in 0..5 {
        fixture.open().await.shutdown().await;
    }
    let names = std::fs::read_dir(dir.path().join("wal/1")).unwrap();
    let files = names.filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|e| e == "kfw")).count();
    assert_eq!(files, 2, "the file with records, and the one that is open");
    let log = fixture.open().await;
    append(&partition(&log, 0), 2, 2).await;
    assert_eq!(read_all(&partition(&log, 0), 0).await, expected(&[(3, 1), (2, 2)]));
    log.shutdown().await;
    let log = fixture.open().await;
    assert_eq!(read_all(&partition(&log, 0), 0).await, expected(&[(3, 1), (2, 2)]));
    log.shutdown().await;
}

#[tokio::test]
async fn what_nobody_claims_is_kept_until_it_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    let log = fixture.open().await;
    for i in 0..60 {
        append(&partition(&log, i % 2), 10, 1).await;
    }
    log.shutdown().await;
    drop(log);
    let log = fixture.try_open().await.unwrap();
    let files = log.stats().wal_files;
    assert!(files > 1 && log.partitions().is_empty());
    let mine: Vec<_> = fixture.hosted().into_iter().filter(|p| p.id.index == 0).collect();
    assert_eq!(log.acquire(mine.clone()).await[0].1, Ok(()));
    assert_eq!(read_all(&partition(&log, 0), 0).await.len(), 300);
    assert_eq!(log.release(mine[0].id).await, Ok(()));
    assert_eq!(log.stats().wal_files, files, "the other partition still needs them");
    log.forget_unclaimed(|id| id.index == 0);
    assert_eq!(log.stats().wal_files, 1);
    assert_eq!(log.acquire(mine).await[0].1, Ok(()));
    assert_eq!(read_all(&partition(&log, 0), 0).await.len(), 300);
}

#[tokio::test]
async fn a_released_partition_goes_on_elsewhere_with_its_producers() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for i in 0..20 {
        append_from(&p, 10, 1, Some((7, 0, i * 10))).await.unwrap();
    }
    assert_eq!(log.release(p.id()).await, Ok(()));
    assert!(log.partition(p.id()).is_none());
    assert_eq!(append_from(&p, 1, 1, None).await, Err(AppendError::Gone));
    let mut again = fixture.hosted();
    again.truncate(1);
    again[0].leader_epoch = LeaderEpoch(5);
    assert_eq!(log.acquire(again).await[0].1, Ok(()));
    let p = partition(&log, 0);
    assert_eq!((p.leader_epoch(), p.offsets().log_end), (LeaderEpoch(5), Offset(200)));
    assert!(p.inner.state.lock().tail.is_empty(), "nothing of the write-ahead log is needed");
    assert_eq!(append_from(&p, 10, 1, Some((7, 0, 190))).await, Ok(Offset(190)));
    assert_eq!(append_from(&p, 1, 1, Some((7, 0, 200))).await, Ok(Offset(200)));
    assert_eq!(p.epoch_at(Offset(200)), Some(LeaderEpoch(5)));
}
