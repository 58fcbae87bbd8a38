//! Makes one segment of several small ones that follow each other. Batches are moved as they are.

use kafscale_core::batch::{HeaderError, PlacedBatch};
use kafscale_core::ids::Offset;

use super::{BuildError, EncodedSegment, SegmentBuilder, SegmentError, SegmentReader, SegmentRef};

/// The most that is merged at once: the merged segment is held in memory until it is put.
pub const MERGE_MAX_BYTES: u64 = 64 << 20;

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 4 << 20;

/// Why segments cannot be merged. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    #[error(transparent)]
    Read(#[from] SegmentError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("the segment from offset {found} does not follow the one before, which ends before {expected}")]
    NotAdjacent { expected: Offset, found: Offset },
    #[error("the segments have {0} bytes together, at most {MERGE_MAX_BYTES} are merged")]
    TooLarge(u64),
    #[error("there is nothing to merge")]
    Nothing,
}

/// Reads `segments`, which follow each other without a gap, into `builder`, which is new.
///
/// The result stands for all offsets from the first segment's base to the last one's end, whichever of them still have
/// records. The sizes may add up to [`MERGE_MAX_BYTES`].
pub async fn merge(
    reader: &SegmentReader,
    segments: &[SegmentRef],
    builder: SegmentBuilder,
) -> Result<EncodedSegment, MergeError> {
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
        return Err(MergeError::Nothing);
    };
    for pair in segments.windows(2) {
        let expected = super::after(pair[0].last_offset);
        if pair[1].base_offset != expected {
            return Err(MergeError::NotAdjacent { expected, found: pair[1].base_offset });
        }
    }
    let size_bytes = segments.iter().fold(0u64, |sum, s| sum.saturating_add(s.size_bytes));
    if size_bytes > MERGE_MAX_BYTES {
        return Err(MergeError::TooLarge(size_bytes));
    }
    let mut builder = builder.covering(first.base_offset, last.last_offset);
    for segment in segments {
        append_all(reader, segment, &mut builder).await?;
    }
    builder.finish().ok_or(MergeError::Nothing)
}

async fn append_all(
    reader: &SegmentReader,
    segment: &SegmentRef,
    builder: &mut SegmentBuilder,
) -> Result<(), MergeError> {
    let mut from = segment.base_offset;
    while from <= segment.last_offset {
        let read = reader.read(segment, from, PIECE_BYTES, true).await?;
        let mut bytes = match <[_; 1]>::try_from(read.chunks) {
            Ok([chunk]) => chunk,
            Err(chunks) => chunks.concat().into(),
        };
        while !bytes.is_empty() {
            let batch = PlacedBatch::from_log(bytes.clone()).map_err(|e: HeaderError| BuildError::from(e))?;
            bytes = bytes.split_off(batch.bytes.len());
            builder.append(batch)?;
        }
        from = read.next;
    }
    Ok(())
}
