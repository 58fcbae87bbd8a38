//! Reads segments: batches from an offset on, and records by their timestamps.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use kafscale_core::batch::{BatchHeader, NO_TIMESTAMP};
use kafscale_core::ids::{LeaderEpoch, Offset};
use object_store::ObjectStore;

use super::format::IndexEntry;
use super::loader::{Loader, SegmentIndex};
use super::salvage::{self, Lost, Salvaged};
use super::span::{BatchAt, Span};
use super::statistics::{self, Statistics};
use super::{Header, SegmentError, SegmentRef, format};
use crate::block_cache::{BLOCK_BYTES, CacheStats};
use crate::compute::{self, Requester};
use crate::damages::Damages;
use crate::store::StoreError;
use crate::unreadable::Unreadable;

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

    /// What was found to be damaged, here and by others who share the list.
    pub fn damages(&self) -> &Arc<Damages> {
        &self.loader.damages
    }

    /// Segments that the store does not give at the moment.
    pub fn unreadable(&self) -> &Unreadable {
        &self.loader.unreadable
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
    /// segment, when it has no record at or after `from`. A damaged batch ends the read before it; when it is the first, the
    /// error says which offsets it hides.
    pub async fn read(
        &self,
        segment: &SegmentRef,
        from: Offset,
        max_bytes: usize,
        min_one: bool,
    ) -> Result<SegmentRead, SegmentError> {
        let index = self.loader.index(segment).await?;
        match self.try_read(segment, &index, from, max_bytes, min_one).await {
            // The object was cut off after its index was read: what it has left is found anew, by this reader or by another
            // that met the same.
            Err(error) if error.hides_all_of(segment) && index.footer.is_some() => {
                self.loader.forget_stored_index(segment);
                let index = self.loader.index(segment).await?;
                self.try_read(segment, &index, from, max_bytes, min_one).await
            }
            read => read,
        }
    }

    async fn try_read(
        &self,
        segment: &SegmentRef,
        index: &SegmentIndex,
        from: Offset,
        max_bytes: usize,
        min_one: bool,
    ) -> Result<SegmentRead, SegmentError> {
        let max_bytes = max_bytes.min(READ_MAX_BYTES) as u64;
        let first = index.group_of(from);
        let Some(entry) = index.entries.get(first) else { return Ok(SegmentRead::end_of(segment)) };
        let mut span = Span::new(&self.loader, segment, entry.position, index.body.end);
        self.load_together(segment, index, entry.position, max_bytes);
        let (mut served, mut next) = (None, from);
        let mut full = false;
        for group in first..index.entries.len() {
            let Salvaged { sound, lost } = match self.group(segment, index, group, &mut span).await {
                // What was found is given; the error is for the read that begins behind it.
                Err(_) if served.is_some() => break,
                group => group?,
            };
            let lost = lost.into_iter().find(|lost| lost.last >= from);
            let before = lost.as_ref().map_or(Offset(i64::MAX), |lost| lost.first);
            for batch in sound.iter().filter(|b| b.last_offset >= from && b.last_offset < before) {
                let start = served.map_or(batch.position, |(start, _)| start);
                full = batch.end() - start > max_bytes && !(min_one && served.is_none());
                if full {
                    break;
                }
                served = Some((start, batch.end()));
                next = super::after(batch.last_offset);
            }
            full = full || served.is_some_and(|(start, end)| !room_for_more(end - start, max_bytes));
            if let Some(lost) = lost.filter(|_| !full) {
                if served.is_none() {
                    return Err(lost.error(segment));
                }
                full = true;
            }
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
        // Behind the last batch nothing is left, unless what was there is lost.
        if end == index.body.end && !index.entries.last().is_some_and(IndexEntry::is_lost) {
            next = super::after(segment.last_offset);
        }
        self.note_position(segment, index, start, end);
        Ok(SegmentRead { chunks: span.share(start, end), size_bytes: (end - start) as usize, next })
    }

    /// The first record whose timestamp is at least `target_ms`.
    pub async fn find_timestamp(
        &self,
        requester: Requester,
        segment: &SegmentRef,
        target_ms: i64,
    ) -> Result<Option<(Offset, i64, LeaderEpoch)>, SegmentError> {
        let index = self.loader.index(segment).await?;
        for (group, entry) in index.entries.iter().enumerate() {
            if entry.max_timestamp_ms < target_ms {
                continue;
            }
            let mut span = Span::new(&self.loader, segment, entry.position, index.body.end);
            let Salvaged { sound, lost } = self.group(segment, &index, group, &mut span).await?;
            // One that may have the record is where the caller has to look, and learns that it is damaged.
            let may_have = |lost: &&Lost| lost.max_timestamp_ms.is_none_or(|max| max >= target_ms);
            let lost = lost.iter().find(may_have);
            let before = lost.map_or(Offset(i64::MAX), |lost| lost.first);
            for batch in sound.into_iter().filter(|b| b.last_offset < before) {
                let found = find_in_batch(requester, segment, &span, batch, target_ms).await?;
                if let Some((offset, timestamp_ms)) = found {
                    return Ok(Some((offset, timestamp_ms, batch.header.leader_epoch)));
                }
            }
            if let Some(lost) = lost {
                let timestamp_ms = lost.max_timestamp_ms.unwrap_or(target_ms).max(0);
                return Ok(Some((lost.first, timestamp_ms, LeaderEpoch(-1))));
            }
        }
        Ok(None)
    }

    /// The first record that has the segment's largest timestamp (KIP-734).
    pub async fn max_timestamp(
        &self,
        requester: Requester,
        segment: &SegmentRef,
    ) -> Result<Option<(Offset, i64, LeaderEpoch)>, SegmentError> {
        let index = self.loader.index(segment).await?;
        match index.entries.iter().filter(|e| !e.is_lost()).map(|e| e.max_timestamp_ms).max() {
            Some(max_ms) if max_ms != NO_TIMESTAMP => self.find_timestamp(requester, segment, max_ms).await,
            Some(_) | None => Ok(None),
        }
    }

    /// The batches of a group; of a damaged one those that are healthy.
    async fn group(
        &self,
        segment: &SegmentRef,
        index: &SegmentIndex,
        group: usize,
        span: &mut Span<'_>,
    ) -> Result<Salvaged, SegmentError> {
        match span.group(index, group).await {
            Ok(sound) => Ok(Salvaged { sound, lost: Vec::new() }),
            Err(error) if error.is_corrupt() => {
                let table = match self.statistics(segment).await {
                    Ok(statistics) => statistics.map(|s| s.batches),
                    Err(e) if e.is_corrupt() => None,
                    Err(e) => return Err(e),
                };
                salvage::group(span, segment, index, group, table.as_deref()).await
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn index(&self, segment: &SegmentRef) -> Result<Arc<SegmentIndex>, SegmentError> {
        self.loader.index(segment).await
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
        Header::decode(&bytes).map_err(|e| SegmentError::format(segment, e))
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
    requester: Requester,
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
    match compute::first_at_or_after(requester, header, bytes, target_ms).await {
        Ok(Ok(Some((offset, _)))) if offset < header.base_offset || offset > last_offset => {
            Err(SegmentError::corrupt(segment, position, format!("a record claims offset {offset}")))
        }
        Ok(Ok(found)) => Ok(found),
        Ok(Err(why)) => Err(SegmentError::corrupt(segment, position, why)),
        Err(ended) => {
            let ended = object_store::Error::Generic { store: "compute", source: Box::new(ended) };
            Err(StoreError::from(ended).into())
        }
    }
}
