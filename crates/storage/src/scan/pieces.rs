//! What a read would touch, without reading any batch: for plans, costs, and answers that statistics can give.

use std::sync::Arc;

use kafscale_core::batch::NO_TIMESTAMP;
use kafscale_core::ids::Offset;

use super::error::Step;
use super::partition::Pinned;
use super::snapshot::{Bounds, Snapshot, pin_all};
use super::tail::TailBatch;
use super::{ScanError, Source};
use crate::log::manifest::StoredSegment;

const ATTEMPTS: usize = 5;

/// What kind of object a piece is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceSource {
    Segment,
    WriteAheadLog,
}

/// The part of one object that a read within some bounds touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub object: Arc<str>,
    pub source: PieceSource,
    /// Of batches that are read, as they are stored.
    pub bytes: u64,
    pub first_offset: i64,
    /// Inclusive.
    pub last_offset: i64,
    /// No record in the whole object's part of the partition has a smaller one. `None` where that is not known.
    pub min_timestamp: Option<i64>,
    /// The largest of the records in the whole object's part of the partition, which may have more records than the piece. Exact where
    /// `records` is given and the log was not cleaned.
    pub max_timestamp: Option<i64>,
    /// How many records with offsets within the bounds there are. `None` where that is not known without reading, and where the bounds
    /// have a time.
    pub records: Option<u64>,
    /// Whether log cleaning has been here: then offsets are missing between the first and the last one.
    pub compacted: bool,
}

impl Snapshot {
    /// What a read of these offsets and times would touch, in the order of offsets, by manifests and the ends of segments only.
    pub async fn pieces(&self, partition: i32, bounds: &Bounds) -> Result<Vec<Piece>, ScanError> {
        let mut pinned = Arc::clone(self.partition(partition).ok_or_else(|| self.no_partition(partition))?);
        let mut attempt = 1;
        loop {
            match pieces(&self.source, &pinned, bounds).await {
                Ok(pieces) => return Ok(pieces),
                Err(Step::Moved(_)) if attempt < ATTEMPTS => attempt += 1,
                Err(Step::Moved(why)) => {
                    let (topic, offset) = (self.topic.name.clone(), pinned.start);
                    return Err(ScanError::Busy { topic, partition, offset, why });
                }
                Err(Step::Failed(error)) => return Err(error),
            }
            let now = pin_all(&self.source, &self.topic, &[partition]).await?.remove(0);
            let (start, end) = (now.start.max(pinned.start), pinned.end);
            pinned = Arc::new(Pinned { start, end, ..now });
        }
    }
}

async fn pieces(source: &Source, pinned: &Pinned, bounds: &Bounds) -> Result<Vec<Piece>, Step> {
    let offsets = pinned.clamp(&bounds.offsets);
    let mut pieces = Vec::new();
    if offsets.is_empty() {
        return Ok(pieces);
    }
    for segment in pinned.segments.iter() {
        let overlaps = segment.last_offset() >= offsets.start && segment.at.base_offset < offsets.end;
        if overlaps && bounds.reach(segment) {
            pieces.extend(of_segment(source, segment, &offsets, bounds).await?);
        }
    }
    for batch in pinned.tail_from(offsets.start).iter().take_while(|b| b.base_offset < offsets.end) {
        if bounds.reach_times(batch.max_timestamp_ms, batch.min_timestamp_ms) {
            add_tail(&mut pieces, batch, &offsets, bounds);
        }
    }
    Ok(pieces)
}

/// A part of a segment, or nothing where its index says that nothing in it is wanted.
async fn of_segment(
    source: &Source,
    segment: &StoredSegment,
    offsets: &std::ops::Range<Offset>,
    bounds: &Bounds,
) -> Result<Option<Piece>, Step> {
    let (base, last) = (segment.at.base_offset, segment.last_offset());
    let is_whole = base >= offsets.start && last < offsets.end;
    let mut piece = Piece {
        object: Arc::clone(&segment.at.path),
        source: PieceSource::Segment,
        bytes: segment.at.size_bytes,
        first_offset: base.max(offsets.start).0,
        last_offset: last.0.min(offsets.end.0 - 1),
        min_timestamp: segment.times.map(|times| times.min_ms),
        max_timestamp: known(segment.max_timestamp_ms),
        records: (!bounds.has_time() && is_whole).then_some(segment.records),
        compacted: segment.compacted,
    };
    if is_whole && !bounds.has_time() {
        return Ok(Some(piece));
    }
    let times = bounds.times_in(segment);
    let (mut at, mut bytes, mut found) = (offsets.start.max(base), 0, None);
    while at < offsets.end {
        let stretch = source.segments.next_stretch(&segment.at, at, offsets.end, times).await;
        let Some(stretch) = stretch.map_err(Step::of_segment)? else { break };
        let (first, _) = found.unwrap_or((stretch.from, stretch.until));
        found = Some((first, stretch.until));
        bytes += stretch.bytes;
        at = stretch.until;
        if at > last {
            break;
        }
    }
    let Some((first, until)) = found else { return Ok(None) };
    (piece.bytes, piece.first_offset, piece.last_offset) = (bytes, first.0, last.0.min(until.0 - 1));
    if !bounds.has_time() {
        let counted = source.segments.count_between(&segment.at, offsets.start, offsets.end).await;
        piece.records = counted.map_err(Step::of_segment)?;
    }
    Ok(Some(piece))
}

fn add_tail(pieces: &mut Vec<Piece>, batch: &TailBatch, offsets: &std::ops::Range<Offset>, bounds: &Bounds) {
    let first_offset = batch.base_offset.max(offsets.start).0;
    let last_offset = batch.last_offset.0.min(offsets.end.0 - 1);
    // A producer's batch has no holes.
    let records = batch.records.min(u64::try_from(last_offset - first_offset + 1).unwrap_or_default());
    let records = (!bounds.has_time() && batch.size_bytes > 0).then_some(records);
    if let Some(piece) = pieces.last_mut().filter(|p| p.object == batch.object) {
        piece.bytes += u64::from(batch.size_bytes);
        piece.last_offset = last_offset;
        piece.max_timestamp = piece.max_timestamp.max(known(batch.max_timestamp_ms));
        piece.records = piece.records.zip(records).map(|(a, b)| a + b);
        return;
    }
    pieces.push(Piece {
        object: Arc::clone(&batch.object),
        source: PieceSource::WriteAheadLog,
        bytes: batch.size_bytes.into(),
        first_offset,
        last_offset,
        min_timestamp: None,
        max_timestamp: known(batch.max_timestamp_ms),
        records,
        compacted: false,
    });
}

fn known(timestamp_ms: i64) -> Option<i64> {
    (timestamp_ms != NO_TIMESTAMP).then_some(timestamp_ms)
}
