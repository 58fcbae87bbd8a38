//! A stretch of an object's bytes in memory, growing block by block while batches are walked over it.

use bytes::Bytes;
use kafscale_core::batch::BatchHeader;
use kafscale_core::crc;
use kafscale_core::ids::Offset;

use super::format::IndexEntry;
use super::loader::{Loader, SegmentIndex};
use super::{Pieces, SegmentError, SegmentRef};

/// A slice that is smaller than this is copied out of its block, so that it does not keep a whole block alive.
const SHARE_MIN_BYTES: usize = 32 << 10;

/// Where a batch lies in the object.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchAt {
    pub header: BatchHeader,
    pub position: u64,
    pub last_offset: Offset,
}

impl BatchAt {
    pub fn end(&self) -> u64 {
        self.position + self.header.size_bytes as u64
    }
}

pub(super) struct Span<'a> {
    loader: &'a Loader,
    segment: &'a SegmentRef,
    /// Bytes of the object from here on are not batches.
    body_end: u64,
    start: u64,
    end: u64,
    pieces: Pieces,
}

impl<'a> Span<'a> {
    /// An empty span at `start`.
    pub fn new(loader: &'a Loader, segment: &'a SegmentRef, start: u64, body_end: u64) -> Span<'a> {
        Span { loader, segment, body_end, start, end: start, pieces: Vec::new() }
    }

    /// Loads until everything up to `end` is held. `end` is at most the end of the body.
    pub async fn extend_to(&mut self, end: u64) -> Result<(), SegmentError> {
        debug_assert!(end <= self.body_end);
        while self.end < end {
            let (block, block_start) = self.loader.block_at(self.segment, self.end, self.body_end).await?;
            // An object that changed under its readers may have left a block that ends earlier.
            let piece = match (self.end - block_start) as usize {
                from if from < block.len() => block.slice(from..),
                _ => self.loader.fetch_cold(self.segment, self.end..end).await?,
            };
            self.end += piece.len() as u64;
            self.pieces.push(piece);
        }
        Ok(())
    }

    /// Lets go of whole pieces that lie before `position`.
    pub fn release(&mut self, position: u64) {
        let mut released = 0;
        for piece in &self.pieces {
            let piece_end = self.start + piece.len() as u64;
            if piece_end > position {
                break;
            }
            self.start = piece_end;
            released += 1;
        }
        self.pieces.drain(..released);
    }

    /// The slices that make up `from..to`, which must be held.
    fn slices(&self, from: u64, to: u64) -> impl Iterator<Item = Bytes> + '_ {
        debug_assert!(self.start <= from && from <= to && to <= self.end);
        let mut at = self.start;
        self.pieces.iter().filter_map(move |piece| {
            let (piece_start, piece_end) = (at, at + piece.len() as u64);
            at = piece_end;
            let (low, high) = (from.max(piece_start), to.min(piece_end));
            (low < high).then(|| piece.slice((low - piece_start) as usize..(high - piece_start) as usize))
        })
    }

    pub fn crc(&self, crc: u32, from: u64, to: u64) -> u32 {
        self.slices(from, to).fold(crc, |crc, slice| crc::append(crc, &slice))
    }

    /// The bytes `from..to` for a caller who keeps them.
    pub fn share(&self, from: u64, to: u64) -> Pieces {
        let compact = |slice: Bytes| {
            if slice.len() < SHARE_MIN_BYTES { Bytes::copy_from_slice(&slice) } else { slice }
        };
        self.slices(from, to).map(compact).collect()
    }

    /// The bytes `from..to` in one piece, copied only when a block ends between them.
    pub fn contiguous(&self, from: u64, to: u64) -> Bytes {
        let mut slices: Pieces = self.slices(from, to).collect();
        if slices.len() == 1 { slices.remove(0) } else { slices.concat().into() }
    }

    /// The header of the batch at `position`, which must end by `limit` and begin at `expected` or above.
    pub async fn batch_at(
        &mut self,
        position: u64,
        limit: u64,
        expected: Offset,
    ) -> Result<BatchAt, SegmentError> {
        let corrupt = |why: String| SegmentError::corrupt(self.segment, position, why);
        let header_end = position + BatchHeader::SIZE_BYTES as u64;
        if header_end > limit {
            return Err(corrupt("a batch is cut off".into()));
        }
        self.extend_to(header_end).await?;
        let corrupt = |why: String| SegmentError::corrupt(self.segment, position, why);
        let header = BatchHeader::parse_prefix(&self.contiguous(position, header_end))
            .map_err(|e| corrupt(e.to_string()))?;
        if header.size_bytes as u64 > limit - position {
            return Err(corrupt("a batch runs past its group".into()));
        }
        let last = header.base_offset.0.checked_add(header.last_offset_delta.into());
        match last.map(Offset) {
            Some(last_offset)
                if header.last_offset_delta >= 0
                    && header.base_offset >= expected
                    && last_offset <= self.segment.last_offset =>
            {
                Ok(BatchAt { header, position, last_offset })
            }
            Some(_) | None => {
                Err(corrupt(format!("the batch at offset {} is out of order", header.base_offset)))
            }
        }
    }

    /// Loads a group, compares it with its checksum, and finds its batches.
    pub async fn group(&mut self, index: &SegmentIndex, group: usize) -> Result<Vec<BatchAt>, SegmentError> {
        let IndexEntry { base_offset, position, crc, .. } = index.entries[group];
        if index.entries[group].is_lost() {
            return Err(SegmentError::corrupt(self.segment, position, "its batches cannot be found"));
        }
        let end = index.group_end(group);
        self.extend_to(end).await?;
        if self.crc(0, position, end) != crc {
            return Err(SegmentError::corrupt(
                self.segment,
                position,
                format!("the batches from offset {base_offset} do not match their CRC32C"),
            ));
        }
        let mut batches: Vec<BatchAt> = Vec::new();
        let (mut at, mut expected) = (position, base_offset);
        while at < end {
            let batch = self.batch_at(at, end, expected).await?;
            at = batch.end();
            expected = super::after(batch.last_offset);
            batches.push(batch);
        }
        Ok(batches)
    }
}
