//! Segments as a whole: what is written is read, damage is noticed, the store is asked no more than needed.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::{BufMut, BytesMut};
use futures_core::stream::BoxStream;
use kafscale_core::batch::{BatchHeader, PlacedBatch};
use kafscale_core::crc;
use kafscale_core::ids::{LeaderEpoch, TopicId};
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};
use parking_lot::Mutex;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::block_cache::BLOCK_BYTES;
use crate::compute::Requester;

mod cache;
mod damage;
mod vectors;

const NOW: i64 = 1_700_000_000_000;
const PARTITION: PartitionId =
    PartitionId { topic: TopicId(Uuid::from_u128(0x00112233_4455_6677_8899_aabbccddeeff)), index: 7 };

/// A batch with a right CRC: `count` records whose values are `value_bytes` long; timestamps 10 ms apart.
fn batch(base_offset: i64, count: i32, value_bytes: usize, base_timestamp_ms: i64) -> PlacedBatch {
    let mut records = Vec::new();
    for i in 0..count {
        let mut body = vec![0];
        varint(&mut body, i64::from(i) * 10);
        varint(&mut body, i.into());
        varint(&mut body, -1);
        varint(&mut body, value_bytes as i64);
        body.extend((0..value_bytes).map(|b| (base_offset as usize + b * 31 + i as usize) as u8));
        varint(&mut body, 0);
        varint(&mut records, body.len() as i64);
        records.extend(body);
    }
    let mut b = BytesMut::new();
    b.put_i64(base_offset);
    b.put_i32((BatchHeader::SIZE_BYTES - 12 + records.len()) as i32);
    b.put_i32(3);
    b.put_i8(2);
    b.put_u32(0);
    b.put_i16(0);
    b.put_i32(count - 1);
    b.put_i64(base_timestamp_ms);
    b.put_i64(base_timestamp_ms + i64::from(count - 1) * 10);
    b.put_i64(-1);
    b.put_i16(-1);
    b.put_i32(-1);
    b.put_i32(count);
    b.put_slice(&records);
    let crc = crc::crc32c(&b[21..]);
    b[17..21].copy_from_slice(&crc.to_be_bytes());
    PlacedBatch::from_log(b.freeze()).unwrap()
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut v = ((value << 1) ^ (value >> 63)) as u64;
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Batches from (gap before, record count, value size), 1 s apart.
fn batches(shapes: &[(i64, i32, usize)]) -> Vec<PlacedBatch> {
    let mut next = 100;
    let place = |(i, (gap, count, value_bytes)): (usize, &(i64, i32, usize))| {
        let placed = batch(next + gap, *count, *value_bytes, NOW + i as i64 * 1000);
        next = placed.last_offset.0 + 1;
        placed
    };
    shapes.iter().enumerate().map(place).collect()
}

fn build(batches: &[PlacedBatch], index_interval_bytes: usize) -> EncodedSegment {
    let mut builder = SegmentBuilder::new(PARTITION, NOW, index_interval_bytes);
    for b in batches {
        builder.append(b.clone()).unwrap();
    }
    builder.finish().unwrap()
}

/// Counts the requests that reach the store.
#[derive(Debug, Default)]
struct Counting {
    inner: InMemory,
    gets: AtomicUsize,
    /// What its disk cannot read.
    unreadable: Mutex<Vec<Range<u64>>>,
    /// The errno that it says then; EIO unless a test says otherwise.
    errno: AtomicI32,
}

impl Counting {
    fn check(&self, range: &Range<u64>) -> StoreResult<()> {
        let hits = |bad: &Range<u64>| bad.start < range.end && range.start < bad.end;
        match self.unreadable.lock().iter().any(hits) {
            true => {
                let errno = match self.errno.load(Ordering::Relaxed) {
                    0 => rustix::io::Errno::IO.raw_os_error(),
                    errno => errno,
                };
                let source = Box::new(std::io::Error::from_raw_os_error(errno));
                Err(object_store::Error::Generic { store: "local", source })
            }
            false => Ok(()),
        }
    }
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counting")
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> StoreResult<PutResult> {
        self.inner.put_opts(at, payload, options).await
    }
    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }
    async fn get_opts(&self, at: &Path, options: GetOptions) -> StoreResult<GetResult> {
        if let Some(GetRange::Bounded(range)) = &options.range {
            self.check(range)?;
        }
        self.inner.get_opts(at, options).await
    }
    async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> StoreResult<Vec<Bytes>> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        // Lets the other readers of a test arrive while this one waits, as a real store does.
        tokio::task::yield_now().await;
        ranges.iter().try_for_each(|range| self.check(range))?;
        self.inner.get_ranges(at, ranges).await
    }
    fn delete_stream(
        &self,
        at: BoxStream<'static, StoreResult<Path>>,
    ) -> BoxStream<'static, StoreResult<Path>> {
        self.inner.delete_stream(at)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A store with objects in it, and a reader.
struct Bucket {
    store: Arc<Counting>,
    reader: SegmentReader,
}

impl Bucket {
    fn new(cache_bytes: usize) -> Bucket {
        let store = Arc::new(Counting::default());
        let reader = SegmentReader::new(
            Arc::clone(&store) as Arc<dyn ObjectStore>,
            ReadLimits::with_cache_bytes(cache_bytes),
        );
        Bucket { store, reader }
    }

    async fn put(&self, base: Offset, last: Offset, payload: impl Into<PutPayload>) -> SegmentRef {
        let path = segment_path("t", PARTITION, base, 0);
        let payload = payload.into();
        let size_bytes = payload.content_length() as u64;
        self.store.put(&Path::from(&*path), payload).await.unwrap();
        SegmentRef { path: path.into(), size_bytes, base_offset: base, last_offset: last }
    }

    async fn put_segment(&self, segment: EncodedSegment) -> SegmentRef {
        let stated = segment.size_bytes;
        let put = self.put(segment.base_offset, segment.last_offset, segment).await;
        assert_eq!(put.size_bytes, stated);
        put
    }

    fn gets(&self) -> usize {
        self.store.gets.load(Ordering::Relaxed)
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test)
}

/// What a read must give, from the batches that the segment was made of.
fn expected(
    batches: &[PlacedBatch],
    last: Offset,
    from: Offset,
    max_bytes: usize,
    min_one: bool,
) -> (Vec<u8>, Offset) {
    let mut bytes = Vec::new();
    let mut next = from;
    let mut rest = batches.iter().filter(|b| b.last_offset >= from).peekable();
    if rest.peek().is_none() {
        return (bytes, last.plus(1));
    }
    while let Some(b) =
        rest.next_if(|b| bytes.len() + b.bytes.len() <= max_bytes || (min_one && bytes.is_empty()))
    {
        bytes.extend_from_slice(&b.bytes);
        next = b.last_offset.plus(1);
    }
    if rest.peek().is_none() {
        next = last.plus(1);
    }
    (bytes, next)
}

async fn check_read(
    bucket: &Bucket,
    segment: &SegmentRef,
    batches: &[PlacedBatch],
    from: Offset,
    max_bytes: usize,
    min_one: bool,
) {
    let read = bucket.reader.read(segment, from, max_bytes, min_one).await.unwrap();
    let (bytes, next) = expected(batches, segment.last_offset, from, max_bytes, min_one);
    assert_eq!(read.size_bytes, bytes.len(), "from {from}, {max_bytes} bytes");
    assert!(read.chunks.concat() == bytes, "from {from}, {max_bytes} bytes: other bytes");
    assert_eq!(read.next, next, "from {from}, {max_bytes} bytes");
}

fn any_shapes() -> impl Strategy<Value = Vec<(i64, i32, usize)>> {
    let size = prop_oneof![4 => 0usize..200, 2 => 200usize..20_000, 1 => 300_000usize..1_300_000];
    let gap = prop_oneof![5 => Just(0i64), 1 => 1i64..50];
    prop::collection::vec((gap, 1i32..5, size), 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn every_offset_and_size_reads_as_it_was_written(
        shapes in any_shapes(), interval in 0usize..20_000, cache_bytes in 0usize..8_000_000,
    ) {
        run(async {
            let batches = batches(&shapes);
            let bucket = Bucket::new(cache_bytes);
            let segment = bucket.put_segment(build(&batches, interval)).await;
            let total: usize = batches.iter().map(|b| b.bytes.len()).sum();
            for from in segment.base_offset.0 - 2..=segment.last_offset.0 + 2 {
                for max_bytes in [0, 1, 100, 5000, BLOCK_BYTES as usize, total - 1, total, usize::MAX] {
                    for min_one in [false, true] {
                        check_read(&bucket, &segment, &batches, Offset(from), max_bytes, min_one).await;
                    }
                }
            }
        });
    }

    #[test]
    fn the_table_lists_every_batch(shapes in any_shapes(), interval in 0usize..20_000) {
        run(async {
            let batches = batches(&shapes);
            let bucket = Bucket::new(1 << 20);
            let segment = bucket.put_segment(build(&batches, interval)).await;
            let statistics = bucket.reader.statistics(&segment).await.unwrap().unwrap();
            let table = &statistics.batches;
            assert_eq!(statistics.min_timestamp_ms, NOW);
            assert_eq!(table.len(), batches.len());
            let mut position = 64;
            for (entry, batch) in table.iter().zip(&batches) {
                let header = BatchHeader::parse(&batch.bytes).unwrap();
                let same = BatchEntry {
                    base_offset: batch.base_offset,
                    last_offset: batch.last_offset,
                    position,
                    size_bytes: batch.bytes.len() as u32,
                    max_timestamp_ms: batch.max_timestamp_ms,
                    records_count: batch.records_count as u32,
                    leader_epoch: LeaderEpoch(3),
                    crc: header.crc,
                };
                assert_eq!(*entry, same);
                position += batch.bytes.len() as u64;
            }
        });
    }
}

#[test]
fn a_record_is_found_by_its_timestamp() {
    run(async {
        let batches = batches(&[(0, 5, 100); 40]);
        let bucket = Bucket::new(1 << 20);
        let segment = bucket.put_segment(build(&batches, 1024)).await;
        for (target, found) in [
            (0, Some((100, NOW))),
            (NOW, Some((100, NOW))),
            (NOW + 11, Some((102, NOW + 20))),
            (NOW + 41, Some((105, NOW + 1000))),
            (NOW + 39_040, Some((299, NOW + 39_040))),
            (NOW + 39_041, None),
        ] {
            let found = found.map(|(offset, at): (i64, i64)| (Offset(offset), at, LeaderEpoch(3)));
            assert_eq!(
                bucket.reader.find_timestamp(Requester::Broker, &segment, target).await.unwrap(),
                found,
                "{target}"
            );
        }
        let latest = bucket.reader.max_timestamp(Requester::Broker, &segment).await.unwrap();
        assert_eq!(latest, Some((Offset(299), NOW + 39_040, LeaderEpoch(3))));
    });
}

#[test]
fn the_largest_timestamp_need_not_be_the_last() {
    run(async {
        let batches = [batch(0, 1, 10, NOW), batch(1, 3, 10, NOW + 500), batch(4, 1, 10, NOW + 100)];
        let bucket = Bucket::new(1 << 20);
        let encoded = build(&batches, 0);
        assert_eq!(
            (encoded.min_timestamp_ms, encoded.max_timestamp_ms, encoded.records),
            (NOW, NOW + 520, 5)
        );
        let segment = bucket.put_segment(encoded).await;
        let latest = bucket.reader.max_timestamp(Requester::Broker, &segment).await.unwrap();
        assert_eq!(latest, Some((Offset(3), NOW + 520, LeaderEpoch(3))));
    });
}

#[test]
fn records_without_timestamps_are_never_found() {
    run(async {
        let bucket = Bucket::new(1 << 20);
        let segment = bucket.put_segment(build(&[batch(0, 1, 10, -1)], 0)).await;
        assert_eq!(bucket.reader.max_timestamp(Requester::Broker, &segment).await.unwrap(), None);
        assert_eq!(bucket.reader.find_timestamp(Requester::Broker, &segment, 0).await.unwrap(), None);
    });
}

#[test]
fn backward_and_overlapping_offsets_are_refused() {
    let mut builder = SegmentBuilder::new(PARTITION, NOW, 4096);
    builder.append(batch(10, 5, 1, NOW)).unwrap();
    for base in [0, 9, 10, 14] {
        let error = builder.append(batch(base, 1, 1, NOW)).unwrap_err();
        assert!(matches!(error, BuildError::OutOfOrder { .. }), "{base}");
    }
    builder.append(batch(20, 1, 1, NOW)).unwrap();
    let mut covering = SegmentBuilder::new(PARTITION, NOW, 4096).covering(Offset(5), Offset(9));
    for base in [4, 9] {
        assert!(covering.append(batch(base, 2, 1, NOW)).is_err(), "{base}");
    }
    covering.append(batch(8, 2, 1, NOW)).unwrap();
    assert!(SegmentBuilder::new(PARTITION, NOW, 4096).finish().is_none());
}

#[test]
fn a_segment_may_stand_for_offsets_that_are_gone() {
    run(async {
        let bucket = Bucket::new(1 << 20);
        let empty = SegmentBuilder::new(PARTITION, NOW, 4096).covering(Offset(5), Offset(9));
        let empty = bucket.put_segment(empty.finish().unwrap()).await;
        let read = bucket.reader.read(&empty, Offset(6), 100, true).await.unwrap();
        assert_eq!((read.size_bytes, read.next), (0, Offset(10)));
        let nothing = Statistics { records: 0, min_timestamp_ms: -1, max_timestamp_ms: -1, batches: vec![] };
        assert_eq!(bucket.reader.statistics(&empty).await.unwrap(), Some(nothing));
        assert_eq!(bucket.reader.max_timestamp(Requester::Broker, &empty).await.unwrap(), None);

        let mut wide = SegmentBuilder::new(PARTITION, NOW, 4096).covering(Offset(10), Offset(99));
        wide.append(batch(20, 2, 1, NOW)).unwrap();
        let wide = bucket.put_segment(wide.finish().unwrap()).await;
        let read = bucket.reader.read(&wide, Offset(10), 1000, true).await.unwrap();
        assert_eq!(read.next, Offset(100));
        assert_eq!(bucket.reader.header(&wide).await.unwrap().base_offset, Offset(10));
        let read = bucket.reader.read(&wide, Offset(22), 1000, true).await.unwrap();
        assert_eq!((read.size_bytes, read.next), (0, Offset(100)));
    });
}

#[test]
fn a_large_segment_has_a_small_index() {
    let batches: Vec<_> = (0..70_000).map(|i| batch(i, 1, 1000, NOW)).collect();
    let encoded = build(&batches, 0);
    let around = encoded.size_bytes - batches.iter().map(|b| b.bytes.len() as u64).sum::<u64>();
    assert!(around < 70_000 * 16 + 65_537 * 32 + 128, "{around}");
}

#[test]
fn merging_keeps_every_batch() {
    run(async {
        let batches = batches(&[(0, 3, 500); 60]);
        let bucket = Bucket::new(1 << 20);
        let mut segments = Vec::new();
        for part in batches.chunks(7) {
            segments.push(bucket.put_segment(build(part, 4096)).await);
        }
        let builder = || SegmentBuilder::new(PARTITION, NOW, 4096);
        let merged = merge(&bucket.reader, &segments, builder()).await.unwrap();
        assert_eq!((merged.base_offset, merged.last_offset, merged.records), (Offset(100), Offset(279), 180));
        assert_eq!(merged.payload.concat(), build(&batches, 4096).payload.concat());

        let apart = merge(&bucket.reader, &[segments[0].clone(), segments[2].clone()], builder()).await;
        assert!(matches!(apart, Err(MergeError::NotAdjacent { .. })));
        assert!(matches!(merge(&bucket.reader, &[], builder()).await, Err(MergeError::Nothing)));
        segments[1].size_bytes = MERGE_MAX_BYTES;
        assert!(matches!(merge(&bucket.reader, &segments, builder()).await, Err(MergeError::TooLarge(_))));
    });
}

#[test]
fn paths_sort_by_offset() {
    let path = |base, rewrite| segment_path("orders", PARTITION, Offset(base), rewrite);
    assert_eq!(
        path(42, 0),
        "topics/orders/00112233-4455-6677-8899-aabbccddeeff/7/segment-00000000000000000042.kfs"
    );
    assert_eq!(
        path(42, 3),
        "topics/orders/00112233-4455-6677-8899-aabbccddeeff/7/segment-00000000000000000042-3.kfs"
    );
    assert!(path(9, 1) < path(10, 0));
}
