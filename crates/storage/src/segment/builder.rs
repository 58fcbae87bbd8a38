//! Writes a segment: batches go in as they are and come out as the middle of the object, uncopied.

use std::ops::Range;

use bytes::Bytes;
use kafscale_core::batch::{BatchHeader, HeaderError, NO_TIMESTAMP, PlacedBatch};
use kafscale_core::crc;
use kafscale_core::ids::{LeaderEpoch, Offset, PartitionId};
use object_store::PutPayload;

use super::format::{FOOTER_BYTES, Footer, HEADER_BYTES, Header, INDEX_ENTRY_BYTES, IndexEntry};
use super::statistics::{self, BatchEntry};

/// Bounds the index that a reader must hold: groups grow beyond the asked interval in a large segment.
const INDEX_MAX_ENTRIES: u64 = 1 << 16;
/// A denser index costs more than the bytes that it saves from being read.
const INDEX_INTERVAL_MIN_BYTES: u64 = 1 << 10;
/// The largest body: `segment.bytes` cannot ask for more, and positions in the table fit in 32 bits.
const BODY_MAX_BYTES: u64 = 2 << 30;

/// Below it reading the bytes takes less time than to work out what their CRC makes of the one before.
const CONCAT_MIN_BYTES: usize = 4 << 10;

/// Why a batch cannot be added to a segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    #[error("the bytes are not a batch: {0}")]
    Batch(#[from] HeaderError),
    #[error("batch {base} to {last} does not come after offset {after}")]
    OutOfOrder { base: Offset, last: Offset, after: Offset },
    #[error("the segment would be larger than {BODY_MAX_BYTES} bytes")]
    TooLarge,
}

/// Collects the batches of one segment. Gaps between offsets are allowed, as compaction leaves them.
#[derive(Debug)]
pub struct SegmentBuilder {
    partition: PartitionId,
    created_ms: i64,
    index_interval_bytes: usize,
    /// The offsets that the segment stands for, where they are more than its batches have.
    covers: Option<(Offset, Offset)>,
    batches: Vec<Bytes>,
    entries: Vec<BatchEntry>,
    /// Which of the batches are damaged, in rising order.
    damaged: Vec<usize>,
    body_bytes: u64,
    min_timestamp_ms: i64,
    max_timestamp_ms: i64,
    records: u64,
}

/// What is known of a batch that is damaged.
#[derive(Debug, Clone, Copy)]
pub struct DamagedBatch {
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub max_timestamp_ms: i64,
    pub leader_epoch: LeaderEpoch,
}

/// A finished segment. The pieces of the payload are the object when they are written one after the other.
#[derive(Debug, Clone)]
pub struct EncodedSegment {
    pub payload: Vec<Bytes>,
    pub size_bytes: u64,
    pub base_offset: Offset,
    pub last_offset: Offset,
    /// The smallest timestamp that a batch begins with; -1 when none has any.
    pub min_timestamp_ms: i64,
    /// The largest timestamp; -1 when no record has any.
    pub max_timestamp_ms: i64,
    pub records: u64,
}

impl From<EncodedSegment> for PutPayload {
    fn from(segment: EncodedSegment) -> PutPayload {
        segment.payload.into_iter().collect()
    }
}

impl SegmentBuilder {
    /// `index_interval_bytes` is the topic's `index.interval.bytes`.
    pub fn new(partition: PartitionId, created_ms: i64, index_interval_bytes: usize) -> SegmentBuilder {
        SegmentBuilder {
            partition,
            created_ms,
            index_interval_bytes,
            covers: None,
            batches: Vec::new(),
            entries: Vec::new(),
            damaged: Vec::new(),
            body_bytes: 0,
            min_timestamp_ms: NO_TIMESTAMP,
            max_timestamp_ms: NO_TIMESTAMP,
            records: 0,
        }
    }

    /// Lets the segment stand for `base..=last` although its first and last batches may be gone.
    #[must_use]
    pub fn covering(mut self, base: Offset, last: Offset) -> SegmentBuilder {
        let inside = |b: &BatchEntry| b.base_offset >= base && b.last_offset <= last;
        assert!(self.entries.first().is_none_or(inside) && self.entries.last().is_none_or(inside));
        self.covers = Some((base, last));
        self
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The size of the batches so far; what is around them adds about half a percent.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// Adds the next batch, whose checksum was verified when it was produced or read.
    pub fn append(&mut self, batch: PlacedBatch) -> Result<(), BuildError> {
        let header = BatchHeader::parse(&batch.bytes)?;
        let (base, last) = (header.base_offset, header.last_offset());
        let after = match (self.entries.last(), self.covers) {
            (Some(entry), _) => entry.last_offset,
            (None, Some((first, _))) => Offset(first.0.saturating_sub(1)),
            (None, None) => Offset(-1),
        };
        let beyond = self.covers.is_some_and(|(_, end)| last > end);
        if base <= after || last < base || beyond {
            return Err(BuildError::OutOfOrder { base, last, after });
        }
        let size_bytes = header.size_bytes as u64;
        if self.body_bytes + size_bytes > BODY_MAX_BYTES {
            return Err(BuildError::TooLarge);
        }
        self.entries.push(BatchEntry {
            base_offset: base,
            last_offset: last,
            position: HEADER_BYTES + self.body_bytes,
            size_bytes: u32::try_from(size_bytes).expect("below the largest body"),
            max_timestamp_ms: header.max_timestamp_ms,
            records_count: u32::try_from(header.records_count).unwrap_or_default(),
            leader_epoch: header.leader_epoch,
            crc: header.crc,
        });
        self.note_timestamps(&header);
        self.records += u64::try_from(header.records_count).unwrap_or_default();
        self.body_bytes += size_bytes;
        self.batches.push(batch.bytes.slice(..header.size_bytes));
        Ok(())
    }

    /// Keeps what is left of a damaged batch in its place, for a person who may make something of it. It is a group of its own, whose checksum never
    /// matches: a reader learns which offsets are lost, and reads all others.
    pub fn append_damaged(&mut self, batch: &DamagedBatch, bytes: Bytes) -> Result<(), BuildError> {
        let after = self.entries.last().map_or(Offset(-1), |entry| entry.last_offset);
        if batch.base_offset <= after || batch.last_offset < batch.base_offset {
            return Err(BuildError::OutOfOrder { base: batch.base_offset, last: batch.last_offset, after });
        }
        // Where nothing is left, something must stand for it.
        let bytes = if bytes.is_empty() { Bytes::from_static(&[0; BatchHeader::SIZE_BYTES]) } else { bytes };
        let size_bytes = bytes.len() as u64;
        if self.body_bytes + size_bytes > BODY_MAX_BYTES {
            return Err(BuildError::TooLarge);
        }
        let crc =
            bytes.get(BatchHeader::CRC).and_then(|crc| crc.try_into().ok()).map_or(0, u32::from_be_bytes);
        self.damaged.push(self.entries.len());
        self.entries.push(BatchEntry {
            base_offset: batch.base_offset,
            last_offset: batch.last_offset,
            position: HEADER_BYTES + self.body_bytes,
            size_bytes: u32::try_from(size_bytes).expect("below the largest body"),
            max_timestamp_ms: batch.max_timestamp_ms,
            records_count: 0,
            leader_epoch: batch.leader_epoch,
            crc,
        });
        self.max_timestamp_ms = self.max_timestamp_ms.max(batch.max_timestamp_ms);
        self.body_bytes += size_bytes;
        self.batches.push(bytes);
        Ok(())
    }

    fn is_damaged(&self, at: usize) -> bool {
        self.damaged.binary_search(&at).is_ok()
    }

    fn note_timestamps(&mut self, header: &BatchHeader) {
        let has_first = !header.is_log_append_time() && header.delete_horizon_ms().is_none();
        let first = if has_first { header.base_timestamp_ms } else { header.max_timestamp_ms };
        if self.min_timestamp_ms == NO_TIMESTAMP || (first != NO_TIMESTAMP && first < self.min_timestamp_ms) {
            self.min_timestamp_ms = first;
        }
        self.max_timestamp_ms = self.max_timestamp_ms.max(header.max_timestamp_ms);
    }

    /// Ends the segment; `None` when it stands for no offsets at all.
    pub fn finish(self) -> Option<EncodedSegment> {
        let ends = self.entries.first().zip(self.entries.last());
        let (base_offset, last_offset) =
            self.covers.or_else(|| ends.map(|(first, last)| (first.base_offset, last.last_offset)))?;
        let (statistics, index) = self.encode_index();
        let statistics_position = HEADER_BYTES + self.body_bytes;
        let index_position = statistics_position + statistics.len() as u64;
        let size_bytes = index_position + index.len() as u64 + FOOTER_BYTES;
        let footer = Footer {
            statistics_position,
            statistics_bytes: u32::try_from(statistics.len()).expect("bounded by the body"),
            statistics_crc: crc::crc32c(&statistics),
            index_position,
            index_bytes: u32::try_from(index.len()).expect("bounded by its entries"),
            index_crc: crc::crc32c(&index),
            size_bytes,
            last_offset,
            body_crc: self.crc_of(0..self.batches.len()),
        };
        let header = Header { partition: self.partition, base_offset, created_ms: self.created_ms };
        let tail = [statistics, index, footer.encode()].concat();
        let mut payload = Vec::with_capacity(self.batches.len() + 2);
        payload.push(Bytes::from(header.encode()));
        payload.extend(self.batches);
        payload.push(Bytes::from(tail));
        Some(EncodedSegment {
            payload,
            size_bytes,
            base_offset,
            last_offset,
            min_timestamp_ms: self.min_timestamp_ms,
            max_timestamp_ms: self.max_timestamp_ms,
            records: self.records,
        })
    }

    /// The CRC of some batches one after the other. Of a large batch only the front is read: the rest has the CRC that its header
    /// states, which was verified when the batch came in. A byte that has changed since is found by whoever reads the segment.
    fn crc_of(&self, batches: Range<usize>) -> u32 {
        batches.fold(0, |crc, at| {
            let bytes = &self.batches[at];
            if bytes.len() < CONCAT_MIN_BYTES || self.is_damaged(at) {
                return crc::append(crc, bytes);
            }
            let (front, rest) = bytes.split_at(BatchHeader::CRC.end);
            let rest_bytes = u32::try_from(rest.len()).expect("below the largest body");
            crc::concat(crc::append(crc, front), self.entries[at].crc, rest_bytes)
        })
    }

    /// The statistics and the index, encoded.
    fn encode_index(&self) -> (Vec<u8>, Vec<u8>) {
        let interval = (self.index_interval_bytes as u64)
            .max(INDEX_INTERVAL_MIN_BYTES)
            .max(self.body_bytes.div_ceil(INDEX_MAX_ENTRIES));
        let count = u32::try_from(self.entries.len()).expect("a batch has more bytes than one");
        let mut statistics =
            statistics::encode_summary(self.records, count, self.min_timestamp_ms, self.max_timestamp_ms);
        let mut index = Vec::new();
        let mut from = 0;
        while from < self.entries.len() {
            let end = self.entries[from].position + interval;
            let len = self.entries[from..].partition_point(|b| b.position < end);
            let damaged = self.damaged.iter().find(|at| **at >= from).map_or(len, |at| at - from);
            // One alone, or all before it.
            let len = len.min(damaged.max(1));
            let group = &self.entries[from..from + len];
            let max_timestamp_ms = group.iter().map(|b| b.max_timestamp_ms).max().unwrap_or(NO_TIMESTAMP);
            let entry = IndexEntry {
                base_offset: group[0].base_offset,
                position: group[0].position,
                max_timestamp_ms,
                crc: if damaged == 0 { !self.crc_of(from..from + 1) } else { self.crc_of(from..from + len) },
                table_position: u32::try_from(statistics.len()).expect("bounded by the body"),
            };
            entry.encode(&mut index);
            statistics::encode_group(group, max_timestamp_ms, &mut statistics);
            from += len;
        }
        debug_assert!(index.len() as u64 <= (INDEX_MAX_ENTRIES + 1) * INDEX_ENTRY_BYTES);
        (statistics, index)
    }
}
