//! Log compaction: which records of a compacted topic stay, and the batches that hold them. The rules are those of
//! Apache Kafka's `LogCleaner` and of KIP-534 (tombstones stay for `delete.retention.ms` after they were first compacted).
//!
//! A map from key to last offset is made from the part of the log that is not compacted yet; then every batch up to
//! there is filtered by it. Offsets never change: a batch keeps its base offset and its last offset, and the records in
//! it their deltas. What of the log is compacted, when, and where the batches are is not known here.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;

use crate::batch::{BatchHeader, NO_TIMESTAMP};
use crate::compress::{CompressError, Compression};
use crate::ids::Offset;
use crate::record_view::{RecordView, views};
use crate::records::{self, RecordsError};

/// The most that an entry of the map takes, when its table has just grown.
const ENTRY_BYTES: usize = 48;

/// Why a batch cannot be compacted.
#[derive(Debug, thiserror::Error)]
pub enum CompactionError {
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error("the records cannot be compressed again: {0}")]
    Compress(CompressError),
}

/// The last offset of each key in a part of the log.
///
/// Keys are known by 128 bits of keyed hashes: what two keys would have to share is secret, so that none can be made to
/// collide with another.
#[derive(Debug)]
pub struct OffsetMap {
    hashers: [RandomState; 2],
    offsets: HashMap<u128, i64>,
    keys_max: usize,
    end: Offset,
}

impl OffsetMap {
    /// A map for the log from `start` on, of at most about `memory_bytes`. `hashers` must be random.
    pub fn new(start: Offset, memory_bytes: usize, hashers: [RandomState; 2]) -> OffsetMap {
        OffsetMap { hashers, offsets: HashMap::new(), keys_max: memory_bytes / ENTRY_BYTES, end: start }
    }

    /// Everything below this offset is in the map.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Counts everything up to `last` as taken in: there is nothing there, or nothing that can be read.
    pub fn cover(&mut self, last: Offset) {
        self.end = self.end.max(Offset(last.0.saturating_add(1)));
    }

    pub fn keys(&self) -> usize {
        self.offsets.len()
    }

    /// Takes the next batch in. `false`, and nothing is taken, when there might be no room for its keys; an empty map
    /// takes any batch.
    pub fn add(&mut self, header: &BatchHeader, batch: &[u8]) -> Result<bool, CompactionError> {
        let records = usize::try_from(header.records_count).unwrap_or_default();
        if !self.offsets.is_empty() && self.offsets.len() + records > self.keys_max {
            return Ok(false);
        }
        if !header.is_control() {
            let body = records::inflate(header, batch)?;
            for record in views(&body, header.records_count) {
                let record = record?;
                if let Some(key) = record.key {
                    let offset = header.base_offset.0.saturating_add(record.offset_delta);
                    self.offsets.insert(self.digest(key), offset);
                }
            }
        }
        self.cover(header.last_offset());
        Ok(true)
    }

    fn digest(&self, key: &[u8]) -> u128 {
        let [high, low] = [0, 1].map(|i| u128::from(self.hashers[i].hash_one(key)));
        high << 64 | low
    }

    fn is_last(&self, key: &[u8], offset: i64) -> bool {
        self.offsets.get(&self.digest(key)).is_none_or(|last| offset >= *last)
    }
}

/// What becomes of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filtered {
    /// Nothing of it is superseded.
    Whole,
    /// No record stays.
    Nothing,
    /// The batch with the records that stay.
    Rewritten(Bytes),
}

/// Filters a batch of the compacted part of the log, whose records the map knows or knew.
///
/// Control batches stay. Tombstones stay until `delete_retention_ms` after the first pass that saw them, which notes
/// that time in the batch.
pub fn filter(
    map: &OffsetMap,
    header: &BatchHeader,
    batch: &[u8],
    now_ms: i64,
    delete_retention_ms: i64,
) -> Result<Filtered, CompactionError> {
    if header.is_control() {
        return Ok(Filtered::Whole);
    }
    let body = records::inflate(header, batch)?;
    let tombstones_stay = header.delete_horizon_ms().is_none_or(|horizon_ms| now_ms < horizon_ms);
    let (mut kept, mut count, mut tombstones) = (Vec::new(), 0, false);
    for record in views(&body, header.records_count) {
        let record = record?;
        count += 1;
        let offset = header.base_offset.0.saturating_add(record.offset_delta);
        let stays = record.key.is_some_and(|key| map.is_last(key, offset))
            && (record.value.is_some() || tombstones_stay);
        if stays {
            tombstones |= record.value.is_none();
            kept.push(record);
        }
    }
    if kept.is_empty() {
        return Ok(Filtered::Nothing);
    }
    let horizon_ms = (tombstones && header.delete_horizon_ms().is_none())
        .then(|| now_ms.saturating_add(delete_retention_ms));
    if kept.len() == count && horizon_ms.is_none() {
        return Ok(Filtered::Whole);
    }
    rewrite(header, batch, &kept, horizon_ms).map(Filtered::Rewritten)
}

/// The batch with only the records below `end`, where it then ends: for a copy of a log up to there. `None` when it has none.
pub fn keep_below(header: &BatchHeader, batch: &[u8], end: Offset) -> Result<Option<Bytes>, CompactionError> {
    let body = records::inflate(header, batch)?;
    let mut kept = Vec::new();
    for record in views(&body, header.records_count) {
        let record = record?;
        if header.base_offset.0.saturating_add(record.offset_delta) < end.0 {
            kept.push(record);
        }
    }
    if kept.is_empty() {
        return Ok(None);
    }
    let rewritten = rewrite(header, batch, &kept, None)?;
    Ok(Some(header.with_last_offset(&rewritten, end.plus(-1))))
}

/// The batch with only these records. A delete horizon takes the place of the base timestamp (KIP-534).
fn rewrite(
    header: &BatchHeader,
    batch: &[u8],
    kept: &[RecordView<'_>],
    horizon_ms: Option<i64>,
) -> Result<Bytes, CompactionError> {
    let base_timestamp_ms = horizon_ms.unwrap_or(header.base_timestamp_ms);
    let mut body = Vec::new();
    let mut max_timestamp_ms = NO_TIMESTAMP;
    for record in kept {
        let timestamp_ms = header.base_timestamp_ms.wrapping_add(record.timestamp_delta);
        max_timestamp_ms = max_timestamp_ms.max(timestamp_ms);
        record.encode(timestamp_ms.wrapping_sub(base_timestamp_ms), &mut body);
    }
    if header.is_log_append_time() {
        max_timestamp_ms = header.max_timestamp_ms;
    }
    let compression = Compression::default_of(header.codec());
    let body = compression.compress(&body[..], usize::MAX).map_err(CompactionError::Compress)?;
    let count = i32::try_from(kept.len()).expect("no more than the batch had");
    Ok(header.with_records(batch, &body, count, max_timestamp_ms, horizon_ms))
}

#[cfg(test)]
mod tests;
