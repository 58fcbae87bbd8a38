//! What rewriting and readers do with a segment's bytes: `cargo bench -p kafscale-storage`. Times, throughput and allocations.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on stops, as a test does")]

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use divan::counter::BytesCount;
use divan::{AllocProfiler, Bencher};
use kafscale_core::batch::PlacedBatch;
use kafscale_core::crc;
use kafscale_core::ids::{Offset, PartitionId, TopicId};
use kafscale_storage::segment::{EncodedSegment, ReadLimits, SegmentBuilder, SegmentReader, SegmentRef};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

/// The bytes of each batch; a segment has 16 MiB.
const BATCHES: [usize; 3] = [200, 64 << 10, 1 << 20];
const SEGMENT_BYTES: usize = 16 << 20;

fn main() {
    divan::main();
}

/// A batch of one record, as the log has it.
fn batch(base: i64, size_bytes: usize) -> Bytes {
    let mut checked = BytesMut::new();
    checked.put_i16(0);
    checked.put_i32(0);
    checked.put_i64(1);
    checked.put_i64(1);
    checked.put_i64(-1);
    checked.put_i16(-1);
    checked.put_i32(-1);
    checked.put_i32(1);
    checked.resize(size_bytes - 21, 7);
    let mut batch = BytesMut::new();
    batch.put_i64(base);
    batch.put_i32(9 + checked.len() as i32);
    batch.put_i32(0);
    batch.put_u8(2);
    batch.put_u32(crc::crc32c(&checked));
    batch.put_slice(&checked);
    batch.freeze()
}

fn placed(size_bytes: usize) -> Vec<PlacedBatch> {
    let count = (SEGMENT_BYTES / size_bytes) as i64;
    (0..count).map(|base| PlacedBatch::from_log(batch(base, size_bytes)).unwrap()).collect()
}

fn partition() -> PartitionId {
    PartitionId { topic: TopicId(uuid::Uuid::nil()), index: 0 }
}

fn encode(batches: Vec<PlacedBatch>) -> EncodedSegment {
    let mut builder = SegmentBuilder::new(partition(), 1, 4096);
    for batch in batches {
        builder.append(batch).unwrap();
    }
    builder.finish().unwrap()
}

#[divan::bench(args = BATCHES)]
fn build(bencher: Bencher<'_, '_>, size_bytes: usize) {
    let batches = placed(size_bytes);
    bencher.counter(BytesCount::from(SEGMENT_BYTES)).with_inputs(|| batches.clone()).bench_values(encode);
}

/// From memory, in pieces of 1 MiB, checksums compared.
#[divan::bench(args = BATCHES)]
fn read(bencher: Bencher<'_, '_>, size_bytes: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = Arc::new(InMemory::new());
    let segment = encode(placed(size_bytes));
    let at = SegmentRef {
        path: Arc::from("segment"),
        size_bytes: segment.size_bytes,
        base_offset: segment.base_offset,
        last_offset: segment.last_offset,
    };
    runtime.block_on(store.put(&Path::from("segment"), PutPayload::from(segment))).unwrap();
    let reader = SegmentReader::new(store, ReadLimits::with_cache_bytes(64 << 20));
    bencher.counter(BytesCount::from(SEGMENT_BYTES)).bench_local(|| {
        runtime.block_on(async {
            let mut from = Offset(0);
            while from <= at.last_offset {
                from = reader.read(&at, from, 1 << 20, true).await.unwrap().next;
            }
        });
    });
}
