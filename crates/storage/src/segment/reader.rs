//! Reads segments: batches from an offset on, and records by their timestamps.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use kafscale_core::batch::{BatchHeader, NO_TIMESTAMP};
use kafscale_core::ids::{LeaderEpoch, Offset};
use kafscale_core::records;
use object_store::ObjectStore;

use super::loader::{Loader, SegmentIndex};
use super::span::{BatchAt, Span};
use super::statistics::{self, Statistics};
use super::{FormatError, Header, SegmentError, SegmentRef, format};
use crate::block_cache::{BLOCK_BYTES, CacheStats};
use crate::compute::compute;
use crate::store::StoreError;

/// The most that one read gives; a caller who asked for more goes on at [`SegmentRead::next`].
const READ_MAX_BYTES: usize = 64 << 20;

/// How many blocks are loaded at the same time for one who reads in order: enough to keep a disk busy, or to cover the way to an object
/// store and back.
const READ_AHEAD_BLOCKS: u64 = 8;

/// What a reader may use.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimits {
    /// For blocks and indexes together.
    pub cache_bytes: usize,
    /// Requests to the store on behalf of readers that wait.
    pub cold_reads: usize,
    /// Requests to the store that nobody waits for yet.
    pub read_ahead: usize,
}

impl ReadLimits {
    pub fn with_cache_bytes(cache_bytes: usize) -> ReadLimits {
        // What is read ahead must not push out what was read ahead before it.
        let read_ahead = (cache_bytes / 4 / BLOCK_BYTES as usize).clamp(4, 32);
        ReadLimits { cache_bytes, cold_reads: 32, read_ahead }
    }
}

/// Whole batches that follow each other. A chunk may end within a batch, the next one goes on there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRead {
    pub chunks: Vec<Bytes>,
    pub size_bytes: usize,
    /// Where to read on: after the last batch given, or after the segment when that is exhausted.
    pub next: Offset,
}

/// Reads segments through one cache. Cheap to clone.
#[derive(Clone)]
pub struct SegmentReader {
    loader: Arc<Loader>,
}

impl std::fmt::Debug for SegmentReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentReader").field("cache", &self.stats()).finish()
    }
}

impl SegmentReader {
    pub fn new(store: Arc<dyn ObjectStore>, limits: ReadLimits) -> SegmentReader {
        SegmentReader { loader: Arc::new(Loader::new(store, limits)) }
    }

    pub fn stats(&self) -> CacheStats {
        self.loader.blocks.stats()
    }

    /// Frees what is held of a segment that was deleted.
    pub fn forget(&self, segment: &SegmentRef) {
        self.loader.forget(segment);
    }

    /// Ends the reading ahead.
    pub async fn shutdown(&self) {
        self.loader.shutdown().await;
    }

    /// Reads whole batches, up to `max_bytes` of them, from the first that ends at `from` or later.
    ///
    /// With `min_one` that first batch is given whatever its size (KIP-74). Nothing is given, and `next` is after the
    /// segment, when it has no record at or after `from`.
    pub async fn read(
        &self,
        segment: &SegmentRef,
        from: Offset,
        max_bytes: usize,
        min_one: bool,
    ) -> Result<SegmentRead, SegmentError> {
        let max_bytes = max_bytes.min(READ_MAX_BYTES) as u64;
        let index = self.loader.index(segment).await?;
        let first = index.group_of(from);
        let Some(entry) = index.entries.get(first) else { return Ok(SegmentRead::end_of(segment)) };
        let mut span = Span::new(&self.loader, segment, entry.position, index.body.end);
        self.load_together(segment, &index, entry.position, max_bytes);
        let (mut served, mut next) = (None, from);
        let mut full = false;
        for group in first..index.entries.len() {
            for batch in span.group(&index, group).await?.iter().filter(|b| b.last_offset >= from) {
                let start = served.map_or(batch.position, |(start, _)| start);
                full = batch.end() - start > max_bytes && !(min_one && served.is_none());
                if full {
                    break;
                }
                served = Some((start, batch.end()));
                next = super::after(batch.last_offset);
            }
            full = full || served.is_some_and(|(start, end)| !room_for_more(end - start, max_bytes));
            if full {
                break;
            }
            if served.is_none() {
                span.release(index.group_end(group));
            }
        }
        let Some((start, end)) = served else {
            return Ok(if full { SegmentRead::none(from) } else { SegmentRead::end_of(segment) });
        };
        if end == index.body.end {
            next = super::after(segment.last_offset);
        }
        self.note_position(segment, &index, start, end);
        Ok(SegmentRead { chunks: span.share(start, end), size_bytes: (end - start) as usize, next })
    }

    /// The first record whose timestamp is at least `target_ms`.
    pub async fn find_timestamp(
        &self,
        segment: &SegmentRef,
        target_ms: i64,
    ) -> Result<Option<(Offset, i64, LeaderEpoch)>, SegmentError> {
        let index = self.loader.index(segment).await?;
        for (group, entry) in index.entries.iter().enumerate() {
            if entry.max_timestamp_ms < target_ms {
                continue;
            }
            let mut span = Span::new(&self.loader, segment, entry.position, index.body.end);
            for batch in span.group(&index, group).await? {
                if let Some((offset, timestamp_ms)) = find_in_batch(segment, &span, batch, target_ms).await? {
                    return Ok(Some((offset, timestamp_ms, batch.header.leader_epoch)));
                }
            }
        }
        Ok(None)
    }

    /// The first record that has the segment's largest timestamp (KIP-734).
    pub async fn max_timestamp(
        &self,
        segment: &SegmentRef,
    ) -> Result<Option<(Offset, i64, LeaderEpoch)>, SegmentError> {
        let index = self.loader.index(segment).await?;
        match index.entries.iter().map(|e| e.max_timestamp_ms).max() {
            Some(max_ms) if max_ms != NO_TIMESTAMP => self.find_timestamp(segment, max_ms).await,
            Some(_) | None => Ok(None),
        }
    }

    /// A segment's statistics; `None` for version 1, which has none.
    pub async fn statistics(&self, segment: &SegmentRef) -> Result<Option<Statistics>, SegmentError> {
        let index = self.loader.index(segment).await?;
        let Some(footer) = index.footer else { return Ok(None) };
        let bytes =
            self.loader.fetch_cold(segment, footer.statistics_position..footer.index_position).await?;
        let statistics = statistics::decode(&footer, &index.entries, &bytes);
        statistics.map(Some).map_err(|e| SegmentError::format(segment, e))
    }

    /// The header of a version 2 segment: whose records these are.
    pub async fn header(&self, segment: &SegmentRef) -> Result<Header, SegmentError> {
        let end = segment.size_bytes.min(format::HEADER_BYTES);
        let bytes = self.loader.fetch_cold(segment, 0..end).await?;
        let header = Header::decode(&bytes).map_err(|e| SegmentError::format(segment, e))?;
        if header.base_offset != segment.base_offset {
            let why = format!("it begins at offset {}, not {}", header.base_offset, segment.base_offset);
            return Err(SegmentError::format(segment, FormatError { position: 0, why }));
        }
        Ok(header)
    }

    /// Loads the blocks of a long read side by side instead of one after the other.
    fn load_together(&self, segment: &SegmentRef, index: &SegmentIndex, position: u64, max_bytes: u64) {
        let first = position / BLOCK_BYTES;
        let end = (position + max_bytes).min(index.body.end).div_ceil(BLOCK_BYTES);
        self.loader.read_ahead(segment, first + 1..end.min(first + READ_AHEAD_BLOCKS), index.body.end);
    }

    /// Reads ahead of a reader that goes through the segment in order: one block at first, and more the longer it does.
    fn note_position(&self, segment: &SegmentRef, index: &SegmentIndex, start: u64, end: u64) {
        if index.next_position.swap(end, Ordering::Relaxed) != start {
            index.reads_in_order.store(0, Ordering::Relaxed);
            return;
        }
        let reads = index.reads_in_order.fetch_add(1, Ordering::Relaxed);
        let blocks =
            1u64.checked_shl(reads).map_or(READ_AHEAD_BLOCKS, |blocks| blocks.min(READ_AHEAD_BLOCKS));
        let next = end.div_ceil(BLOCK_BYTES);
        self.loader.read_ahead(segment, next..next + blocks, index.body.end);
    }

    /// Begins to load the front of a segment that a reader comes to next.
    pub fn prepare(&self, segment: &SegmentRef) {
        self.loader.prepare(segment, READ_AHEAD_BLOCKS);
    }
}

impl SegmentRead {
    fn none(next: Offset) -> SegmentRead {
        SegmentRead { chunks: Vec::new(), size_bytes: 0, next }
    }

    fn end_of(segment: &SegmentRef) -> SegmentRead {
        SegmentRead::none(super::after(segment.last_offset))
    }
}

fn room_for_more(served: u64, max_bytes: u64) -> bool {
    served + BatchHeader::SIZE_BYTES as u64 <= max_bytes
}

/// Looks into a batch for a timestamp. It may have to be decompressed, which is not for the async threads.
async fn find_in_batch(
    segment: &SegmentRef,
    span: &Span<'_>,
    batch: BatchAt,
    target_ms: i64,
) -> Result<Option<(Offset, i64)>, SegmentError> {
    let BatchAt { header, position, last_offset } = batch;
    if header.max_timestamp_ms < target_ms {
        return Ok(None);
    }
    let bytes = span.contiguous(position, batch.end());
    let found = compute(move || records::first_at_or_after(&header, &bytes, target_ms)).await;
    match found {
        Ok(Ok(Some((offset, _)))) if offset < header.base_offset || offset > last_offset => {
            Err(SegmentError::corrupt(segment, position, format!("a record claims offset {offset}")))
        }
        Ok(Ok(found)) => Ok(found),
        Ok(Err(why)) => Err(SegmentError::corrupt(segment, position, why)),
        // The runtime is going down, or there is a bug that must be seen.
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => Err(StoreError::from(object_store::Error::from(cancelled)).into()),
        },
    }
}
