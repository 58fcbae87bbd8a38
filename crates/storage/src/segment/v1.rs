//! Format version 1, as existing buckets hold it: read, never written. See docs/format.md, "Segment version 1".
//!
//! Its sibling `.index` object is not needed and not looked at: the batch headers say the same, and an index that is
//! missing or damaged cannot make records unreadable. The object is walked once, compared with its checksum, and what
//! was found is kept like the index of a version 2 segment.

use std::sync::atomic::{AtomicU32, AtomicU64};

use kafscale_core::ids::Offset;

use super::format::{Fields, IndexEntry, MAGIC};
use super::loader::{Loader, SegmentIndex};
use super::span::Span;
use super::{SegmentError, SegmentRef};

pub(super) const FOOTER_MAGIC: [u8; 4] = *b"END!";
pub(super) const HEADER_BYTES: u64 = 32;
pub(super) const FOOTER_BYTES: u64 = 16;
const GROUP_BYTES: u64 = 16 << 10;

/// Walks a whole version 1 object, of which `tail` is the end.
pub(super) async fn scan(
    loader: &Loader,
    segment: &SegmentRef,
    tail: &[u8],
) -> Result<SegmentIndex, SegmentError> {
    let body = HEADER_BYTES..segment.size_bytes - FOOTER_BYTES;
    let footer: &[u8; FOOTER_BYTES as usize] =
        tail.last_chunk().ok_or_else(|| SegmentError::corrupt(segment, body.end, "it is cut off"))?;
    let mut fields = Fields(footer);
    let (body_crc, last_offset) = (fields.u32(), Offset(fields.i64()));
    let mut span = Span::new(loader, segment, 0, body.end);
    check_header(&mut span, segment).await?;
    if last_offset != segment.last_offset {
        let why = format!("it ends at offset {last_offset}, not {}", segment.last_offset);
        return Err(SegmentError::corrupt(segment, body.end, why));
    }
    let mut entries: Vec<IndexEntry> = Vec::new();
    let (mut at, mut expected, mut crc) = (body.start, segment.base_offset, 0);
    while at < body.end {
        let batch = span.batch_at(at, body.end, expected).await?;
        let end = batch.end();
        span.extend_to(end).await?;
        crc = span.crc(crc, at, end);
        let timestamp = batch.header.max_timestamp_ms;
        match entries.last_mut() {
            Some(group) if at - group.position < GROUP_BYTES => {
                group.max_timestamp_ms = group.max_timestamp_ms.max(timestamp);
                group.crc = span.crc(group.crc, at, end);
            }
            Some(_) | None => entries.push(IndexEntry {
                base_offset: batch.header.base_offset,
                position: at,
                max_timestamp_ms: timestamp,
                crc: span.crc(0, at, end),
                table_position: 0,
            }),
        }
        expected = super::after(batch.last_offset);
        at = end;
        span.release(at);
    }
    if crc != body_crc {
        return Err(SegmentError::corrupt(segment, body.start, "the CRC32C over its batches does not match"));
    }
    let (next_position, reads_in_order) = (AtomicU64::new(body.start), AtomicU32::new(0));
    Ok(SegmentIndex { entries, body, footer: None, next_position, reads_in_order })
}

async fn check_header(span: &mut Span<'_>, segment: &SegmentRef) -> Result<(), SegmentError> {
    span.extend_to(HEADER_BYTES).await?;
    let bytes = span.contiguous(0, HEADER_BYTES);
    let mut fields = Fields(&bytes);
    let (magic, version, _flags, base_offset) =
        (fields.take(), fields.u16(), fields.u16(), Offset(fields.i64()));
    if magic != MAGIC || version != 1 {
        return Err(SegmentError::corrupt(segment, 0, "it does not begin as a segment of version 1 does"));
    }
    if base_offset != segment.base_offset {
        let why = format!("it begins at offset {base_offset}, not {}", segment.base_offset);
        return Err(SegmentError::corrupt(segment, 0, why));
    }
    Ok(())
}
