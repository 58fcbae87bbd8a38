//! Taking what was read of a segment apart into batches.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use kafscale_core::batch::{BatchHeader, HeaderError};
use kafscale_core::ids::Offset;

use super::ScanError;
use crate::log::manifest::StoredSegment;
use crate::segment::SegmentRead;

/// Batches, and what is wrong with the one behind them.
pub(super) type Whole = (Vec<(Bytes, BatchHeader)>, Option<(Offset, ScanError)>);

/// The batches of a read, each in one piece.
pub(super) fn whole_batches(read: SegmentRead, segment: &StoredSegment) -> Whole {
    let mut batches = Vec::new();
    let mut chunks: VecDeque<Bytes> = read.chunks.into();
    while let Some(mut rest) = chunks.pop_front() {
        while !rest.is_empty() {
            let header = match BatchHeader::parse_prefix(&rest) {
                Ok(header) if header.size_bytes <= rest.len() => header,
                // It goes on in the next chunk.
                Ok(_) | Err(HeaderError::Truncated { .. }) if !chunks.is_empty() => {
                    rest = joined(&rest, &mut chunks);
                    continue;
                }
                Ok(_) | Err(_) => return (batches, Some(damaged(segment, &rest, "a batch is cut off"))),
            };
            let data = rest.split_to(header.size_bytes);
            if !header.crc_matches(&data) {
                // The group's checksum was right: this one was wrong before the segment was written.
                let why = "the batch does not match its CRC32C, although its group does";
                return (batches, Some(damaged(segment, &data, why)));
            }
            batches.push((data, header));
        }
    }
    (batches, None)
}

/// A batch that goes on in the next chunk: as much as it needs of that one is put behind it.
fn joined(rest: &Bytes, chunks: &mut VecDeque<Bytes>) -> Bytes {
    let size = BatchHeader::parse_prefix(rest).map_or(BatchHeader::SIZE_BYTES, |header| header.size_bytes);
    let mut next = chunks.pop_front().unwrap_or_default();
    let needed = next.split_to(size.saturating_sub(rest.len()).min(next.len()));
    if !next.is_empty() {
        chunks.push_front(next);
    }
    [&rest[..], &needed[..]].concat().into()
}

fn damaged(segment: &StoredSegment, batch: &[u8], why: &str) -> (Offset, ScanError) {
    let header = BatchHeader::parse_prefix(batch).ok();
    let first = header.map_or(segment.at.base_offset, |h| h.base_offset);
    let last = header.map_or(segment.last_offset(), |h| h.last_offset());
    let object = Arc::clone(&segment.at.path);
    (first, ScanError::Damaged { object, position: 0, first, last, why: why.to_owned() })
}
