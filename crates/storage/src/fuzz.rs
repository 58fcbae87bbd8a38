//! What the fuzz targets in fuzz/ call: the parsers of stored bytes, without a log around them. Not for other use.

use std::sync::Arc;

use kafscale_core::batch::PlacedBatch;
use kafscale_core::ids::{Offset, PartitionId, TopicId};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::compute::Requester;
use crate::segment::{self, ReadLimits, SegmentReader, SegmentRef};
use crate::wal::object;

/// Decodes a write-ahead object: as it is, and with checksums that are right, which no fuzzer finds by itself.
pub fn wal_object(bytes: &[u8]) {
    let _ = object::decode(bytes);
    wal_suffix(bytes);
    let mut repaired = bytes.to_vec();
    if object::repair_checksums(&mut repaired).is_some()
        && let Ok((header, entries)) = object::decode(&repaired)
    {
        assert_eq!(entries.len(), header.entries as usize);
        wal_suffix(&repaired);
    }
}

/// Reads the index from the end of an object, as from an object store, in as many steps as it takes.
fn wal_suffix(bytes: &[u8]) {
    let Ok(footer) = object::Footer::decode(bytes) else { return };
    let mut end = &bytes[bytes.len().saturating_sub(64)..];
    while let Ok(object::Suffix::More(needed)) = object::decode_suffix(end, bytes.len() as u64, footer.seq) {
        assert!(needed > end.len() as u64, "a reader would never come to an end");
        let Some(longer) = bytes.len().checked_sub(needed as usize).map(|at| &bytes[at..]) else { return };
        end = longer;
    }
}

/// Reads all that a segment has, as it is and with checksums that are right.
pub fn segment(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("no threads, no drivers");
    runtime.block_on(read_segment(bytes.to_vec()));
    let mut repaired = bytes.to_vec();
    if segment::repair_checksums(&mut repaired).is_some() {
        runtime.block_on(read_segment(repaired));
    }
}

async fn read_segment(bytes: Vec<u8>) {
    let (base_offset, last_offset) = stated_range(&bytes).unwrap_or((Offset::ZERO, Offset::ZERO));
    let size_bytes = bytes.len() as u64;
    let store = Arc::new(InMemory::new());
    store.put(&Path::from("s"), bytes.into()).await.expect("memory takes everything");
    let store = store as Arc<dyn ObjectStore>;
    let reader = SegmentReader::new(store, ReadLimits::with_cache_bytes(4 << 20));
    let segment = SegmentRef { path: "s".into(), size_bytes, base_offset, last_offset };
    let _ = reader.header(&segment).await;
    let _ = reader.statistics(&segment).await;
    if let Ok(Some((offset, ..))) = reader.max_timestamp(Requester::Broker, &segment).await {
        assert!(offset >= base_offset);
    }
    let _ = reader.find_timestamp(Requester::Broker, &segment, 0).await;
    let mut from = base_offset;
    while from <= last_offset {
        let Ok(read) = reader.read(&segment, from, 1000, true).await else { return };
        assert_eq!(read.chunks.iter().map(|c| c.len()).sum::<usize>(), read.size_bytes);
        assert!(read.next > from || from == Offset(i64::MAX), "a reader would never come to an end");
        if from == read.next {
            return;
        }
        from = read.next;
    }
}

/// What metadata would say of the segment, had it been written so.
fn stated_range(bytes: &[u8]) -> Option<(Offset, Offset)> {
    let i64_at = |at: usize| {
        let field = bytes.get(at..at.checked_add(8)?)?;
        Some(Offset(i64::from_be_bytes(field.try_into().ok()?)))
    };
    match bytes.last_chunk()? {
        b"END!" => Some((i64_at(8)?, i64_at(bytes.len() - 12)?)),
        _ => Some((i64_at(28)?, i64_at(bytes.len().checked_sub(24)?)?)),
    }
}

/// A write-ahead object with these batches, for a fuzzer to begin with.
pub fn wal_object_seed(batches: &[PlacedBatch]) -> Vec<u8> {
    let partition = PartitionId { topic: TopicId(uuid::Uuid::nil()), index: 0 };
    let (mut index, mut body) = (Vec::new(), Vec::new());
    for batch in batches {
        index.push(object::IndexEntry::of(partition, batch, body.len() as u64, 0));
        body.extend_from_slice(&batch.bytes);
    }
    let id = object::ObjectId { node_id: 1, incarnation: 1, seq: 0, salt: 0 };
    let entries = u32::try_from(index.len()).expect("a handful of seeds");
    let header = object::ObjectHeader {
        id,
        seal: false,
        body_bytes: body.len() as u64,
        entries,
        has_index_copy: false,
        durable_below: 0,
    };
    [&header.encode()[..], &body, &object::encode_tail(&header, &index)].concat()
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::segment::SegmentBuilder;
    use crate::testing::batch_bytes;

    fn placed() -> Vec<PlacedBatch> {
        (0..4).map(|i| PlacedBatch::from_log(batch_bytes(i * 3, 3, 20)).unwrap()).collect()
    }

    /// Runs a target over a seed with a few bytes changed, most of them to values that lengths and counts trip over.
    fn mutate(seed: &[u8], target: fn(&[u8])) {
        let mut random = StdRng::seed_from_u64(7);
        target(seed);
        for _ in 0..2000 {
            let mut bytes = seed.to_vec();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..bytes.len());
                bytes[at] =
                    *[0, 1, 0x7f, 0x80, 0xff, random.random()].get(random.random_range(0..6)).unwrap();
            }
            if random.random_ratio(1, 8) {
                bytes.truncate(random.random_range(0..bytes.len()));
            }
            target(&bytes);
        }
    }

    #[test]
    fn changed_write_ahead_objects_never_panic() {
        mutate(&wal_object_seed(&placed()), wal_object);
    }

    #[test]
    fn changed_segments_never_panic() {
        let partition = PartitionId { topic: TopicId(uuid::Uuid::nil()), index: 0 };
        let mut builder = SegmentBuilder::new(partition, 0, 0);
        for batch in placed() {
            builder.append(batch).unwrap();
        }
        mutate(&builder.finish().unwrap().payload.concat(), segment);
    }
}
