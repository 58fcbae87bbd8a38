//! Segments: immutable objects, each a stretch of one partition's batches with an index over them.
//!
//! docs/format.md specifies both versions to the byte. Version 2 is written and read, version 1 is only read.
//! [`SegmentBuilder`] writes, [`SegmentReader`] reads, [`merge`](merge::merge) makes one segment of several.
//! Which segments a partition has is not known here: the caller's [`SegmentRef`] names them.
//!
//! Invariants: an object is never changed once it is written. Every byte that a reader serves was compared with a
//! checksum after it left the store. Stored bytes are not trusted: every length is checked against the object's size,
//! and what is allocated is bounded by that size.

mod builder;
mod format;
mod loader;
mod matching;
mod merge;
mod reader;
mod repair;
mod salvage;
mod span;
mod statistics;
mod v1;

use std::sync::Arc;

use bytes::Bytes;
use kafscale_core::ids::{Offset, PartitionId, TopicId};
use object_store::path::Path;

use crate::store::{StoreError, StoreErrorKind};

pub use builder::{BuildError, DamagedBatch, EncodedSegment, SegmentBuilder};
pub use format::{EMPTY_BYTES, FormatError, Header};
pub use matching::{Stretch, WantedTimes};
pub use merge::{MERGE_MAX_BYTES, MergeError, merge};
pub use reader::{ReadLimits, SegmentRead, SegmentReader};
pub(crate) use repair::repair_checksums;
pub use statistics::{BatchEntry, Statistics};

/// A segment as the partition's record names it. Its version is found in the object itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRef {
    pub path: Arc<str>,
    pub size_bytes: u64,
    pub base_offset: Offset,
    pub last_offset: Offset,
}

/// The last offset of a segment of `size_bytes`, from its last 64 bytes.
pub fn last_offset(end: &[u8], size_bytes: u64) -> Result<Offset, String> {
    if let Some(stated) = end.strip_suffix(b"END!").and_then(|rest| rest.last_chunk()) {
        return Ok(Offset(i64::from_be_bytes(*stated)));
    }
    let footer = end.last_chunk().ok_or("it is too short for a segment")?;
    format::Footer::decode(footer, size_bytes).map(|footer| footer.last_offset).map_err(|e| e.to_string())
}

/// Where a segment is kept: `topics/{topic}/{topic_id}/{partition}/segment-{base_offset:020}-{rewrite}.kfs`.
///
/// The log gives each segment a `rewrite` number of its own: one that replaces others has the base offset of an object that
/// readers may still be using, and no process may ever overwrite what another wrote. 0 is left out of the name.
pub fn segment_path(topic: &str, id: PartitionId, base_offset: Offset, rewrite: u64) -> String {
    let PartitionId { topic: topic_id, index } = id;
    let rewrite = if rewrite == 0 { String::new() } else { format!("-{rewrite}") };
    format!("topics/{topic}/{topic_id}/{index}/segment-{base_offset:020}{rewrite}.kfs")
}

/// Why a segment cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SegmentError {
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The records from `first` to `last` cannot be read.
    #[error("{object} is damaged at byte {position}: {why}")]
    Corrupt { object: Arc<str>, position: u64, first: Offset, last: Offset, why: String },
}

impl SegmentError {
    /// Whether the object is gone: it was deleted after its name was looked up.
    pub fn is_not_found(&self) -> bool {
        matches!(self, SegmentError::Store(e) if e.kind() == StoreErrorKind::NotFound)
    }

    pub fn is_corrupt(&self) -> bool {
        matches!(self, SegmentError::Corrupt { .. })
    }

    /// Whether it says that this segment is damaged or gone.
    pub(crate) fn is_about(&self, segment: &SegmentRef) -> bool {
        match self {
            SegmentError::Corrupt { object, .. } => *object == segment.path,
            SegmentError::Store(e) => {
                e.kind() == StoreErrorKind::NotFound && e.to_string().contains(&*segment.path)
            }
        }
    }

    fn hides_all_of(&self, segment: &SegmentRef) -> bool {
        matches!(self, SegmentError::Corrupt { first, last, .. }
            if (*first, *last) == (segment.base_offset, segment.last_offset))
    }

    /// Damage that concerns all records of a segment, as far as is known.
    fn corrupt(segment: &SegmentRef, position: u64, why: impl std::fmt::Display) -> SegmentError {
        SegmentError::Corrupt {
            object: Arc::clone(&segment.path),
            position,
            first: segment.base_offset,
            last: segment.last_offset,
            why: why.to_string(),
        }
    }

    fn format(segment: &SegmentRef, error: FormatError) -> SegmentError {
        SegmentError::corrupt(segment, error.position, error.why)
    }
}

impl SegmentRef {
    /// Whether the object that has this header is the one that the path names: files that were exchanged are sound in themselves, and
    /// hold the records of others.
    fn check_owner(&self, header: &Header) -> Result<(), SegmentError> {
        let Header { partition, base_offset, .. } = *header;
        if let Some(named) = partition_in(&self.path).filter(|named| *named != partition) {
            let PartitionId { topic, index } = partition;
            let why =
                format!("it is a segment of partition {index} of the topic with id {topic}, not of {named}");
            return Err(SegmentError::corrupt(self, 0, why));
        }
        if base_offset != self.base_offset {
            let why = format!("it begins at offset {base_offset}, not {}", self.base_offset);
            return Err(SegmentError::corrupt(self, 0, why));
        }
        Ok(())
    }

    fn location(&self) -> Result<Path, SegmentError> {
        Path::parse(&*self.path)
            .map_err(|e| SegmentError::Store(StoreError::from(object_store::Error::from(e))))
    }
}

/// The topic's name and the partition's number in a segment's path, of either version.
pub(crate) fn owner_in(path: &str) -> (&str, i32) {
    let mut parts = path.split('/');
    let topic = parts.nth(1).unwrap_or_default();
    let partition = parts.rev().nth(1).and_then(|p| p.parse().ok()).unwrap_or(-1);
    (topic, partition)
}

/// The partition that a segment's path names. `None` for paths without a topic id.
fn partition_in(path: &str) -> Option<PartitionId> {
    let mut parts = path.rsplit('/').skip(1);
    let (index, topic) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(PartitionId { topic: TopicId(topic), index })
}

/// The offset after `offset`; stored bytes may claim the very last one.
fn after(offset: Offset) -> Offset {
    Offset(offset.0.saturating_add(1))
}

/// Bytes that follow each other, in several pieces.
type Pieces = Vec<Bytes>;

#[cfg(test)]
mod tests;
