//! Merging: many small adjacent segments of a partition become one, so that a quiet partition does not collect
//! thousands of objects. Size-tiered: a record is moved once per tier, so about four times in its life.

use std::ops::Range;

use kafscale_core::ids::Offset;

use super::manifest::StoredSegment;
use super::partition::PartitionInner;
use super::retention::delete_object;
use super::rewrite::{RewriteError, store_segment};
use super::shared::Shared;
use crate::error::ReadError;
use crate::segment::{MERGE_MAX_BYTES, SegmentBuilder, SegmentRef, merge};

/// So many segments of a tier are merged.
const RUN: usize = 8;

/// Segments of the lowest tier are smaller than this; each tier above is [`RUN`] times as large.
const TIER_BYTES: u64 = 64 << 10;

/// The next run of adjacent segments to merge, given their sizes: the smallest tier first, and never more than
/// `limit` bytes together.
fn next_run(sizes: &[u64], limit: u64) -> Option<Range<usize>> {
    let mut below = TIER_BYTES;
    while below / RUN as u64 <= limit {
        let mut start = 0;
        while start < sizes.len() {
            let small = sizes[start..].iter().take_while(|s| **s < below).count();
            if let Some(end) = fitting(&sizes[start..start + small], limit).map(|n| start + n) {
                return Some(start..end);
            }
            start += small + 1;
        }
        below = below.saturating_mul(RUN as u64);
    }
    None
}

/// How many of the first `sizes` fit in `limit`, if that is a run.
fn fitting(sizes: &[u64], limit: u64) -> Option<usize> {
    let mut total = 0u64;
    let fits = |s: &&u64| {
        total += **s;
        total <= limit
    };
    Some(sizes.iter().take_while(fits).count()).filter(|n| *n >= RUN)
}

/// Merges for as long as there is a run. The caller holds the partition's maintenance lock.
pub async fn merge_small(shared: &Shared, partition: &PartitionInner) -> Result<(), RewriteError> {
    let config = partition.config.read().clone();
    let limit = config.segment_bytes.min(MERGE_MAX_BYTES);
    loop {
        let (run, compacted): (Vec<SegmentRef>, bool) = {
            let state = partition.state.lock();
            let sizes: Vec<_> = state.segments.iter().map(|s| s.at.size_bytes).collect();
            // What is compacted stays apart from what is not, or it would have to be compacted again.
            let clean = state.segments.partition_point(|s| s.compacted);
            let dirty_run = || next_run(&sizes[clean..], limit).map(|r| r.start + clean..r.end + clean);
            let Some(run) = next_run(&sizes[..clean], limit).or_else(dirty_run) else { return Ok(()) };
            // Only neighbours without a hole between them can stand in one segment.
            let run = &state.segments[run];
            let whole = run.windows(2).all(|p| p[1].at.base_offset == p[0].last_offset().plus(1));
            if !whole {
                return Ok(());
            }
            (run.iter().map(|s| s.at.clone()).collect(), run.iter().all(|s| s.compacted))
        };
        let builder = SegmentBuilder::new(partition.id, shared.clock.now_ms(), config.index_interval_bytes);
        let merged = merge(&shared.segments, &run, builder).await?;
        let merged = store_segment(shared, partition, merged).await?;
        let merged = StoredSegment { compacted, ..merged };
        replace(shared, partition, run[0].base_offset, run.len(), vec![merged]).await?;
        for old in run {
            shared.segments.forget(&old);
            delete_object(shared, &old.path).await;
        }
    }
}

/// Publishes segments in the place of `count` others. The caller holds the partition's maintenance lock.
pub async fn replace(
    shared: &Shared,
    partition: &PartitionInner,
    first: Offset,
    count: usize,
    with: Vec<StoredSegment>,
) -> Result<(), RewriteError> {
    let mut manifest = {
        let state = partition.state.lock();
        if state.gone {
            return Err(ReadError::Gone.into());
        }
        state.manifest()
    };
    let at = manifest.segments.partition_point(|s| s.at.base_offset < first);
    manifest.segments.splice(at..at + count, with);
    let revision = shared.publish(&manifest, partition, None).await?;
    let mut state = partition.state.lock();
    state.revision = Some(revision);
    state.segment_bytes = manifest.segments.iter().map(|s| s.at.size_bytes).sum();
    state.segments = manifest.segments;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_small_neighbours_are_merged() {
        let kib = |n: u64| n << 10;
        for (sizes, limit, expect) in [
            (vec![kib(10); 7], kib(1024), None),
            (vec![kib(10); 8], kib(1024), Some(0..8)),
            (vec![kib(10); 20], kib(100), Some(0..10)),
            (vec![kib(900); 8], kib(1024), None),
            ([vec![kib(900)], vec![kib(10); 9]].concat(), kib(1024), Some(1..10)),
            ([vec![kib(300); 8], vec![kib(10); 3]].concat(), kib(64 << 10), Some(0..11)),
            (vec![], kib(1), None),
        ] {
            assert_eq!(next_run(&sizes, limit), expect, "{sizes:?}");
        }
    }
}
