//! A scan, which has no part in the log, gives what a consumer of the log is given.

use bytes::Bytes;
use futures_util::StreamExt;
use kafscale_core::batch::Codec;
use kafscale_core::records::DECOMPRESSED_MAX_BYTES;
use kafscale_core::times::Times;
use kafscale_meta::records::{PartitionRecord, Record as _, SegmentRecord, TopicRecord};
use kafscale_meta::{MetaStoreExt, Metadata};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::compacting::compact;
use super::super::rewrite::rewrite;
use super::*;
use crate::scan::{Bounds, PieceSource, Range, ScanError, ScanErrorKind, ScanOptions, Scanner, Snapshot};
use crate::testing::{KeyValue, compressed, timed_batch};

/// Says in the metadata that there is a topic.
pub async fn name_topic(meta: &dyn MetaStore, id: TopicId, partitions: i32) {
    let record =
        TopicRecord { topic_id: id.0, partitions, configs: BTreeMap::new(), created_ms: 1, internal: false };
    meta.put(&Keyspace::new("test").unwrap().topic("orders"), record.encode()).await.unwrap();
}

/// A scanner of its own, which has looked at nothing yet.
pub async fn scanner(store: &StoreUrl, meta: &Arc<dyn MetaStore>) -> Scanner {
    let metadata = Metadata::new(Arc::clone(meta), "test").unwrap();
    Scanner::open(store, metadata, ScanOptions { cache_bytes: 8 << 20 }).await.unwrap()
}

pub async fn scan(snapshot: &Snapshot, partition: i32, bounds: Bounds) -> Result<Vec<Bytes>, ScanError> {
    let mut read = std::pin::pin!(snapshot.read(partition, bounds));
    let mut batches = Vec::new();
    while let Some(batch) = read.next().await {
        let batch = batch?;
        assert_eq!(batch.partition, partition);
        assert!(batch.header.crc_matches(&batch.data));
        batches.push(batch.data);
    }
    Ok(batches)
}

/// The batches that a consumer is given.
async fn consume(p: &Partition) -> Vec<Bytes> {
    let (mut at, mut found) = (p.offsets().log_start, Vec::new());
    while at < p.offsets().high_watermark {
        let mut bytes: Bytes = p.read(at, 20_000, true).await.unwrap().chunks.concat().into();
        if bytes.is_empty() {
            break;
        }
        while !bytes.is_empty() {
            let header = BatchHeader::parse(&bytes).unwrap();
            at = header.last_offset().plus(1);
            found.push(bytes.split_to(header.size_bytes));
        }
    }
    found
}

fn header(batch: &Bytes) -> BatchHeader {
    BatchHeader::parse(batch).unwrap()
}

/// Compares everything that a scan says of these partitions with what their owner says.
pub async fn check_same(scanner: &Scanner, owners: &[Partition], random: &mut StdRng) {
    let snapshot = scanner.snapshot("orders").await.unwrap();
    for (p, range) in owners.iter().zip(snapshot.ranges()) {
        let (index, offsets) = (p.inner.id.index, p.offsets());
        let own = Range { partition: index, start: offsets.log_start.0, end: offsets.high_watermark.0 };
        assert_eq!(range, own);
        let consumed = consume(p).await;
        let scanned = scan(&snapshot, index, Bounds::all()).await.unwrap();
        assert!(scanned == consumed, "partition {index}: {} and {}", scanned.len(), consumed.len());
        check_pieces(&snapshot, index, &consumed, Bounds::all()).await;
        // Some stretch of it.
        let from = random.random_range(range.start..=range.end);
        let bounds = Bounds::offsets(from..random.random_range(from..=range.end));
        let inside = |b: &&Bytes| {
            let header = header(b);
            header.last_offset().0 >= bounds.offsets.start && header.base_offset.0 < bounds.offsets.end
        };
        let wanted: Vec<_> = consumed.iter().filter(inside).cloned().collect();
        let wanted = if bounds.offsets.is_empty() { Vec::new() } else { wanted };
        assert!(scan(&snapshot, index, bounds.clone()).await.unwrap() == wanted, "{bounds:?}");
        check_pieces(&snapshot, index, &wanted, bounds).await;
        // From some time on.
        if let Some(batch) = consumed.get(random.random_range(0..consumed.len().max(1))) {
            let min = header(batch).max_timestamp_ms;
            let bounds = Bounds { min_timestamp: Some(min), ..Bounds::all() };
            let late = |b: &&Bytes| header(b).max_timestamp_ms >= min;
            let wanted: Vec<_> = consumed.iter().filter(late).cloned().collect();
            assert!(scan(&snapshot, index, bounds.clone()).await.unwrap() == wanted, "{bounds:?}");
            check_pieces(&snapshot, index, &wanted, bounds).await;
        }
        check_old(&snapshot, index, &consumed, random).await;
    }
}

/// Nothing is missing of what is not newer than some time, whatever else there is.
async fn check_old(snapshot: &Snapshot, index: i32, consumed: &[Bytes], random: &mut StdRng) {
    let Some(batch) = consumed.get(random.random_range(0..consumed.len().max(1))) else { return };
    let max = header(batch).max_timestamp_ms - random.random_range(0..3000);
    let min = random.random_bool(0.5).then(|| max - random.random_range(0..3000));
    let bounds = Bounds { min_timestamp: min, max_timestamp: Some(max), ..Bounds::all() };
    let scanned = scan(snapshot, index, bounds.clone()).await.unwrap();
    let mut rest = consumed.iter();
    assert!(scanned.iter().all(|batch| rest.any(|other| other == batch)), "out of order, or of elsewhere");
    let is_wanted = |batch: &&Bytes| {
        let times = Times::of_batch(&header(batch), batch, DECOMPRESSED_MAX_BYTES).unwrap();
        times.min_ms <= max && min.is_none_or(|min| times.max_ms >= min)
    };
    let wanted: Vec<_> = consumed.iter().filter(is_wanted).cloned().collect();
    assert!(wanted.iter().all(|batch| scanned.contains(batch)), "{bounds:?}: records are missing");
    check_pieces(snapshot, index, &scanned, bounds).await;
}

/// Pieces cover what is read, and count it right where they count.
async fn check_pieces(snapshot: &Snapshot, index: i32, batches: &[Bytes], bounds: Bounds) {
    let pieces = snapshot.pieces(index, &bounds).await.unwrap();
    let bytes: usize = batches.iter().map(Bytes::len).sum();
    assert!(pieces.iter().map(|p| p.bytes).sum::<u64>() >= bytes as u64, "{pieces:?}");
    assert!(pieces.windows(2).all(|w| w[0].last_offset < w[1].first_offset), "{pieces:?}");
    for batch in batches {
        let (first, last) = (header(batch).base_offset.0, header(batch).last_offset().0);
        assert!(pieces.iter().any(|p| p.first_offset <= last && p.last_offset >= first), "{pieces:?}");
    }
    if bounds.min_timestamp.is_some() || bounds.max_timestamp.is_some() {
        assert!(pieces.iter().all(|piece| piece.records.is_none()));
        return;
    }
    let range = snapshot.ranges()[index as usize];
    let (start, end) = (range.start.max(bounds.offsets.start), range.end.min(bounds.offsets.end));
    let records = |batch: &Bytes| {
        let header = header(batch);
        let dense = header.records_count == header.last_offset_delta + 1;
        match (header.base_offset.0 >= start && header.last_offset().0 < end, dense) {
            (true, _) => Some(i64::from(header.records_count)),
            (false, true) => Some(header.last_offset().0.min(end - 1) - header.base_offset.0.max(start) + 1),
            (false, false) => None,
        }
    };
    let counted: Option<u64> = pieces.iter().map(|p| p.records).sum();
    let read: Option<i64> = batches.iter().map(records).sum();
    assert_eq!(counted, read.map(|n| n as u64), "{pieces:?}");
}

/// A batch with any codec and any times.
fn any_batch(random: &mut StdRng, now_ms: i64) -> kafscale_core::batch::ValidBatch {
    let codec = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd][random.random_range(0..5)];
    let keys: Vec<u8> = (0..random.random_range(1..20)).map(|_| random.random_range(0..12)).collect();
    let value = vec![random.random(); random.random_range(0..600)];
    let value_of = |key: &u8| (!key.is_multiple_of(5)).then_some(&value[..]);
    let pairs: Vec<KeyValue<'_>> =
        keys.iter().map(|k| (Some(std::slice::from_ref(k)), value_of(k))).collect();
    let span_ms = [1, 100, 5000][random.random_range(0..3)];
    let begin_ms = now_ms + random.random_range(-5000..5000);
    let times: Vec<i64> = pairs.iter().map(|_| begin_ms + random.random_range(0..span_ms)).collect();
    compressed(timed_batch(&pairs, &times, None), codec)
}

async fn put(p: &Partition, random: &mut StdRng) {
    let batch = any_batch(random, p.log.clock.now_ms());
    p.append(batch).unwrap().durable.wait().await.unwrap();
}

/// Appends, rewrites, cleans, deletes and restarts at random, and compares after every few steps.
async fn live(seed: u64, policy: &str) {
    let dir = tempfile::tempdir().unwrap();
    let overrides =
        [("cleanup.policy", policy), ("min.cleanable.dirty.ratio", "0"), ("segment.bytes", "6000")];
    let mut fixture = Fixture::file(dir.path()).with_topic(&overrides);
    // Nothing by itself.
    fixture.config.wal_max_bytes = 1 << 30;
    fixture.config.wal_file_bytes = 32 << 10;
    fixture.config.retention_check_interval = Duration::from_secs(3600);
    fixture.config.cleaner_backoff = Duration::from_secs(3600);
    name_topic(&*fixture.meta, TOPIC, 3).await;
    let mut random = StdRng::seed_from_u64(seed);
    let mut log = fixture.open().await;
    let scanner = scanner(&fixture.config.store, &fixture.meta).await;
    for _ in 0..60 {
        let p = partition(&log, random.random_range(0..3));
        match random.random_range(0..20) {
            0..14 => {
                for _ in 0..random.random_range(1..6) {
                    put(&p, &mut random).await;
                }
            }
            14..16 => rewrite(&log.shared, &p.inner).await.unwrap(),
            16..18 if policy == "compact" => compact(&log.shared, &p.inner, 1 << 20).await.map(drop).unwrap(),
            16..18 => {
                let offsets = p.offsets();
                let before = random.random_range(offsets.log_start.0..=offsets.high_watermark.0);
                p.delete_records(Offset(before)).await.unwrap();
            }
            18 => {
                fixture.clock.0.fetch_add(random.random_range(0..10_000), Ordering::Relaxed);
            }
            _ => log = fixture.open_after(log).await,
        }
        let owners: Vec<_> = (0..3).map(|index| partition(&log, index)).collect();
        if random.random_range(0..3) == 0 {
            check_same(&scanner, &owners, &mut random).await;
        }
    }
    let owners: Vec<_> = (0..3).map(|index| partition(&log, index)).collect();
    check_same(&scanner, &owners, &mut random).await;
    // What is on the disk when nobody has it open.
    let ranges = scanner.snapshot("orders").await.unwrap().ranges();
    log.shutdown().await;
    assert_eq!(scanner.snapshot("orders").await.unwrap().ranges(), ranges);
    assert_eq!(
        self::scanner(&fixture.config.store, &fixture.meta).await.snapshot("orders").await.unwrap().ranges(),
        ranges
    );
}

#[tokio::test]
async fn a_scan_is_what_a_consumer_reads() {
    for seed in 0..12 {
        live(seed, "delete").await;
    }
}

#[tokio::test]
async fn a_scan_of_a_compacted_topic_is_what_a_consumer_reads() {
    for seed in 0..12 {
        live(seed, "compact").await;
    }
}

/// Files of the write-ahead log are rewritten, freed and used again all the time, while their records are read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_beside_a_log_that_is_written_misses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::file(dir.path());
    fixture.config.wal_file_bytes = 32 << 10;
    name_topic(&*fixture.meta, TOPIC, 3).await;
    let log = fixture.open().await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|index| {
            let (p, stop) = (partition(&log, index), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut next = 0;
                while !stop.load(Ordering::Relaxed) {
                    // The tag says the offset.
                    assert_eq!(append(&p, 1, (next % 251) as u8).await, Offset(next));
                    next += 1;
                }
            })
        })
        .collect();
    let scanner = scanner(&fixture.config.store, &fixture.meta).await;
    let (mut scans, mut from_wal) = (0, 0);
    let until = std::time::Instant::now() + Duration::from_secs(6);
    while std::time::Instant::now() < until {
        let known: Vec<_> = (0..3).map(|i| partition(&log, i).offsets().high_watermark.0).collect();
        let snapshot = scanner.snapshot("orders").await.unwrap();
        for (range, known) in snapshot.ranges().into_iter().zip(known) {
            assert!(range.end >= known, "{range:?}, and {known} were durable before");
            // The end, which is in the write-ahead log or was a moment ago.
            let from = (range.end - 300).max(0);
            for piece in snapshot.pieces(range.partition, &Bounds::offsets(from..range.end)).await.unwrap() {
                from_wal += u32::from(piece.source == PieceSource::WriteAheadLog);
            }
            tokio::time::sleep(Duration::from_millis(scans % 7)).await;
            let mut expected = from;
            for batch in scan(&snapshot, range.partition, Bounds::offsets(from..range.end)).await.unwrap() {
                assert_eq!(header(&batch).base_offset, Offset(expected));
                assert_eq!(batch[batch.len() - 2], (expected % 251) as u8);
                expected += 1;
            }
            assert_eq!(expected, range.end);
            scans += 1;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let files = std::fs::read_dir(dir.path().join("wal/1"))
        .unwrap()
        .filter_map(|e| crate::wal::file::file_no(&e.unwrap().path()));
    let files = files.max().unwrap();
    assert!(files > 5 && scans > 10 && from_wal > 5, "{files} files, {scans} scans, {from_wal} pieces");
    log.shutdown().await;
}

/// A log of one partition that does nothing by itself, with 30 batches of 10 records.
async fn thirty(dir: &Path) -> (Fixture, Log, Partition) {
    let mut fixture = Fixture::file(dir);
    fixture.partitions = 1;
    fixture.config.wal_max_bytes = 1 << 30;
    fixture.config.retention_check_interval = Duration::from_secs(3600);
    name_topic(&*fixture.meta, TOPIC, 1).await;
    let log = fixture.open().await;
    let p = partition(&log, 0);
    for tag in 0..30 {
        append(&p, 10, tag).await;
    }
    (fixture, log, p)
}

/// Appends 400 batches of ten records, one each second, each up to so much late. Makes segments of them now and then.
async fn put_seconds(log: &Log, p: &Partition, late_ms: i64, rewrites: bool) {
    for second in 0..400 {
        let begin_ms = NOW_MS + second * 1000 - second * 7919 % (late_ms + 1);
        let times: Vec<i64> = (0..10).map(|i| begin_ms + i * 100).collect();
        let batch = timed_batch(&[(None, Some(&[b'v'; 20][..])); 10], &times, None);
        let batch = if second % 3 == 0 { compressed(batch, Codec::Zstd) } else { batch };
        p.append(batch).unwrap().durable.wait().await.unwrap();
        if rewrites && second % 50 == 49 {
            rewrite(&log.shared, &p.inner).await.unwrap();
        }
    }
}

/// How many batches are read for ten seconds in the middle.
async fn read_for_ten_seconds(fixture: &Fixture) -> usize {
    let scanner = scanner(&fixture.config.store, &fixture.meta).await;
    let snapshot = scanner.snapshot("orders").await.unwrap();
    let (min, max) = (NOW_MS + 222_000, NOW_MS + 231_999);
    let bounds = Bounds { min_timestamp: Some(min), max_timestamp: Some(max), ..Bounds::all() };
    let read = scan(&snapshot, 0, bounds.clone()).await.unwrap();
    let wanted = |batch: &&Bytes| {
        let times = Times::of_batch(&header(batch), batch, DECOMPRESSED_MAX_BYTES).unwrap();
        times.min_ms <= max && times.max_ms >= min
    };
    let all = scan(&snapshot, 0, Bounds::all()).await.unwrap();
    assert_eq!(read.iter().filter(wanted).count(), all.iter().filter(wanted).count());
    let pieces = snapshot.pieces(0, &bounds).await.unwrap();
    assert!(pieces.iter().map(|piece| piece.bytes).sum::<u64>() <= read.len() as u64 * 1000, "{pieces:?}");
    read.len()
}

#[tokio::test]
async fn a_reader_of_old_records_stops_behind_them() {
    for (late_ms, most) in [(0, 16), (3000, 24)] {
        for rewrites in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let mut fixture = Fixture::file(dir.path()).with_topic(&[("index.interval.bytes", "0")]);
            fixture.partitions = 1;
            fixture.config.wal_max_bytes = 1 << 30;
            fixture.config.retention_check_interval = Duration::from_secs(3600);
            name_topic(&*fixture.meta, TOPIC, 1).await;
            let log = fixture.open().await;
            // Segments that were merged, or one of batches that were replayed from the log.
            put_seconds(&log, &partition(&log, 0), late_ms, rewrites).await;
            let log = if rewrites { log } else { fixture.open_after(log).await };
            if !rewrites {
                let read = read_for_ten_seconds(&fixture).await;
                assert!(
                    (10..=most).contains(&read),
                    "{read} of 400 batches of the log, up to {late_ms} ms late"
                );
            }
            rewrite(&log.shared, &partition(&log, 0).inner).await.unwrap();
            let segments = partition(&log, 0).inner.state.lock().segments.clone();
            assert!(segments.iter().all(|s| s.times.is_some()), "{segments:?}");
            let read = read_for_ten_seconds(&fixture).await;
            assert!((10..=most).contains(&read), "{read} of 400 batches, up to {late_ms} ms late");
            log.shutdown().await;
        }
    }
}

#[tokio::test]
async fn records_that_go_away_while_they_are_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (fixture, log, p) = thirty(dir.path()).await;
    rewrite(&log.shared, &p.inner).await.unwrap();
    append(&p, 10, 30).await;
    let scanner = scanner(&fixture.config.store, &fixture.meta).await;
    let snapshot = scanner.snapshot("orders").await.unwrap();
    p.delete_records(Offset(300)).await.unwrap();
    eventually("the segment is deleted", || log.stats().segments_written == 1).await;
    let segment = p.inner.state.lock().segments.len();
    assert_eq!(segment, 0);
    let error = scan(&snapshot, 0, Bounds::all()).await.unwrap_err();
    assert!(
        matches!(error, ScanError::Removed { partition: 0, offset: Offset(0), log_start: Offset(300), .. }),
        "{error}"
    );
    assert_eq!(error.kind(), ScanErrorKind::Gone);
    // What is left of it can be read, and what was there can not be named any more.
    assert_eq!(scan(&snapshot, 0, Bounds::offsets(300..310)).await.unwrap().len(), 1);
    let now = scanner.snapshot("orders").await.unwrap();
    assert_eq!(now.ranges(), [Range { partition: 0, start: 300, end: 310 }]);
    let error = now.as_of(&snapshot.ranges()).unwrap_err();
    assert!(matches!(error, ScanError::Removed { .. }), "{error}");
    let error = now.as_of(&[Range { partition: 0, start: 300, end: 311 }]).unwrap_err();
    assert!(matches!(error, ScanError::BeyondEnd { .. }), "{error}");
    let narrow = now.as_of(&[Range { partition: 0, start: 304, end: 306 }]).unwrap();
    assert_eq!(narrow.pieces(0, &Bounds::all()).await.unwrap()[0].records, Some(2));
    assert_eq!(scan(&narrow, 0, Bounds::all()).await.unwrap().len(), 1);
    assert!(matches!(scan(&now, 1, Bounds::all()).await, Err(ScanError::NoPartition { .. })));
    log.shutdown().await;
}

#[tokio::test]
async fn records_that_move_while_they_are_read_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let (fixture, log, p) = thirty(dir.path()).await;
    let scanner = scanner(&fixture.config.store, &fixture.meta).await;
    let snapshot = scanner.snapshot("orders").await.unwrap();
    let mut read = std::pin::pin!(snapshot.read(0, Bounds::offsets(0..300)));
    let first = read.next().await.unwrap().unwrap();
    assert!(first.object.ends_with(".kfw"), "{}", first.object);
    // All of the write-ahead log becomes a segment, twice, and other records take its place.
    for tag in 30..60 {
        rewrite(&log.shared, &p.inner).await.unwrap();
        append(&p, 10, tag).await;
    }
    let mut count = 1;
    while let Some(batch) = read.next().await {
        assert_eq!(batch.unwrap().header.base_offset, Offset(count * 10));
        count += 1;
    }
    assert_eq!(count, 30);
    let again = scan(&snapshot, 0, Bounds::all()).await.unwrap();
    assert_eq!(again.len(), 30, "the snapshot is what it was");
    log.shutdown().await;
}

#[tokio::test]
async fn a_cleaned_log_is_said_to_be_cleaned() {
    let dir = tempfile::tempdir().unwrap();
    let overrides = [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0")];
    let mut fixture = Fixture::file(dir.path()).with_topic(&overrides);
    fixture.partitions = 1;
    (fixture.config.wal_max_bytes, fixture.config.cleaner_backoff) = (1 << 30, Duration::from_secs(3600));
    fixture.config.retention_check_interval = Duration::from_secs(3600);
    name_topic(&*fixture.meta, TOPIC, 1).await;
    let log = fixture.open().await;
    let p = partition(&log, 0);
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..20 {
        put(&p, &mut random).await;
    }
    rewrite(&log.shared, &p.inner).await.unwrap();
    put(&p, &mut random).await;
    rewrite(&log.shared, &p.inner).await.unwrap();
    let scanner = scanner(&fixture.config.store, &fixture.meta).await;
    let snapshot = scanner.snapshot("orders").await.unwrap();
    compact(&log.shared, &p.inner, 1 << 20).await.unwrap();
    let error = scan(&snapshot, 0, Bounds::all()).await.unwrap_err();
    assert!(matches!(error, ScanError::Cleaned { partition: 0, .. }), "{error}");
    check_same(&scanner, &[p], &mut random).await;
    log.shutdown().await;
}

#[tokio::test]
async fn damage_is_named_and_what_is_around_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for in_segment in [false, true] {
        let dir = dir.path().join(in_segment.to_string());
        let (fixture, log, p) = thirty(&dir).await;
        if in_segment {
            rewrite(&log.shared, &p.inner).await.unwrap();
        }
        log.shutdown().await;
        let (extension, under) = if in_segment { ("kfs", "topics") } else { ("kfw", "wal") };
        let file = super::damage::files(&dir.join(under), extension).remove(0);
        let mut bytes = std::fs::read(&file).unwrap();
        let at = bytes.windows(60).position(|window| window == [17; 60]).unwrap();
        bytes[at + 5] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let scanner = scanner(&fixture.config.store, &fixture.meta).await;
        let snapshot = scanner.snapshot("orders").await.unwrap();
        let mut read = std::pin::pin!(snapshot.read(0, Bounds::all()));
        for expected in 0..17 {
            assert_eq!(read.next().await.unwrap().unwrap().header.base_offset, Offset(expected * 10));
        }
        let error = read.next().await.unwrap().unwrap_err();
        let ScanError::Damaged { object, first, last, .. } = &error else { panic!("{error}") };
        assert_eq!((*first, *last), (Offset(170), Offset(179)));
        assert!(file.ends_with(&**object) || file.display().to_string() == **object, "{object}");
        assert!(read.next().await.is_none());
        assert_eq!(scan(&snapshot, 0, Bounds::offsets(180..300)).await.unwrap().len(), 12);
    }
}

#[tokio::test]
async fn a_topic_that_was_made_again_has_only_its_own_records() {
    let dir = tempfile::tempdir().unwrap();
    let (fixture, log, p) = thirty(dir.path()).await;
    rewrite(&log.shared, &p.inner).await.unwrap();
    let scanner = scanner(&fixture.config.store, &fixture.meta).await;
    let before = scanner.snapshot("orders").await.unwrap();
    let again = TopicId(Uuid::from_u128(2));
    name_topic(&*fixture.meta, again, 1).await;
    log.drop_topic(TOPIC).await;
    let mut hosted = fixture.hosted();
    hosted[0].id.topic = again;
    assert_eq!(log.acquire(hosted.clone()).await[0].1, Ok(()));
    let p = log.partition(hosted[0].id).unwrap();
    assert_eq!(
        scanner.snapshot("orders").await.unwrap().ranges()[0].end,
        0,
        "the old ones are in the files still"
    );
    append(&p, 3, 99).await;
    check_same(&scanner, &[p], &mut StdRng::seed_from_u64(0)).await;
    assert_eq!(scanner.topics().await.unwrap()[0].id, again.0);
    let error = scan(&before, 0, Bounds::all()).await.unwrap_err();
    assert!(matches!(error, ScanError::TopicGone { .. }), "{error}");
    log.shutdown().await;
}

#[tokio::test]
async fn segments_of_version_1_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let (fixture, log, p) = thirty(dir.path()).await;
    rewrite(&log.shared, &p.inner).await.unwrap();
    log.shutdown().await;
    let bytes = std::fs::read("../../docs/test-vectors/v1.kfs").unwrap();
    let directory = dir.path().join(crate::log::manifest::directory("orders", p.inner.id));
    std::fs::write(directory.join("old.kfs"), &bytes).unwrap();
    let segment = SegmentRecord {
        base_offset: 1000,
        last_offset: 1012,
        size_bytes: bytes.len() as u64,
        max_timestamp_ms: NOW_MS + 1000,
        min_timestamp_ms: None,
        disorder_ms: None,
        records: 7,
        object: "old.kfs".into(),
        compacted: false,
    };
    let record = PartitionRecord { log_start_offset: 1000, segments: vec![segment], ..Default::default() };
    let key = Keyspace::new("test").unwrap().partition(TOPIC.0, 0);
    fixture.meta.put(&key, record.encode()).await.unwrap();
    let scanner = scanner(&fixture.config.store, &fixture.meta).await;
    let snapshot = scanner.snapshot("orders").await.unwrap();
    assert_eq!(snapshot.ranges(), [Range { partition: 0, start: 1000, end: 1013 }]);
    let bases = |batches: Vec<Bytes>| batches.iter().map(|b| header(b).base_offset.0).collect::<Vec<_>>();
    assert_eq!(bases(scan(&snapshot, 0, Bounds::all()).await.unwrap()), [1000, 1003, 1010, 1012]);
    assert_eq!(bases(scan(&snapshot, 0, Bounds::offsets(1005..1011)).await.unwrap()), [1010]);
    let pieces = snapshot.pieces(0, &Bounds::offsets(1005..1011)).await.unwrap();
    assert_eq!((pieces.len(), pieces[0].records), (1, None), "version 1 has no statistics");
}

#[tokio::test]
async fn nothing_is_scanned_with_the_metadata_of_another_store() {
    let dir = tempfile::tempdir().unwrap();
    let (fixture, log, _p) = thirty(&dir.path().join("a")).await;
    let (other, other_log, _p) = thirty(&dir.path().join("b")).await;
    let metadata = Metadata::new(Arc::clone(&other.meta), "test").unwrap();
    let error =
        Scanner::open(&fixture.config.store, metadata.clone(), ScanOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ScanErrorKind::Refused);
    let error = Scanner::open(&StoreUrl::Memory, metadata, ScanOptions::default()).await.unwrap_err();
    assert!(matches!(error, ScanError::Memory));
    log.shutdown().await;
    other_log.shutdown().await;
}
