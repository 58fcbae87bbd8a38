//! Merging: many small adjacent segments of a partition become one, so that a quiet partition does not collect
//! thousands of objects. Size-tiered: a record is moved once per tier, so about four times in its life.
//!
//! Retention drops whole segments. Where it goes by time, a merged segment must not span more of it than a segment may
//! (`segment.ms`), or its first records would be kept for long after their time.

use std::ops::Range;

use kafscale_core::ids::Offset;
use kafscale_core::times::Times;
use kafscale_core::topic_config::TopicConfig;

use super::deletion::delete_object;
use super::manifest::StoredSegment;
use super::partition::PartitionInner;
use super::rewrite::{RewriteError, store_segment};
use super::shared::Shared;
use crate::error::ReadError;
use crate::segment::{MERGE_MAX_BYTES, MergeError, SegmentBuilder, SegmentError, SegmentRef, merge};

/// So many segments of a tier are merged.
const RUN: usize = 8;

/// Segments of the lowest tier are smaller than this; each tier above is [`RUN`] times as large.
const TIER_BYTES: u64 = 64 << 10;

/// Retention by time may keep records longer than asked for by one part of `retention.ms` in so many, even if `segment.ms` is
/// shorter: otherwise a topic with a short one would have segments without number.
const RETENTION_PARTS: i64 = 64;

/// With more segments than this, the time that a merged one spans does not matter: timestamps are what producers say.
const SEGMENTS_MAX: usize = 1000;

/// What a merged segment may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    bytes: u64,
    span_ms: i64,
}

impl Limits {
    fn of(config: &TopicConfig) -> Limits {
        let by_time = config.retention_ms.filter(|_| config.cleanup_delete);
        Limits {
            bytes: config.segment_bytes.min(MERGE_MAX_BYTES),
            span_ms: by_time.map_or(i64::MAX, |keep| config.segment_ms.max(keep / RETENTION_PARTS)),
        }
    }
}

/// What decides of a segment.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    size_bytes: u64,
    /// Its largest timestamp; negative if it has none.
    ends_ms: i64,
}

/// Gives segments without a timestamp, as those that log cleaning has emptied, that of the one before them: where the records of
/// the next one begin must be known, or a merged segment could span any time.
fn tell_times(segments: &mut [Candidate]) {
    let Some(first) = segments.iter().map(|s| s.ends_ms).find(|ms| *ms >= 0) else { return };
    let mut last_ms = first;
    for segment in segments {
        match segment.ends_ms {
            ..0 => segment.ends_ms = last_ms,
            ms => last_ms = ms,
        }
    }
}

/// The next run of adjacent segments to merge: the smallest tier first, and within the limits together.
fn next_run(segments: &[Candidate], limits: Limits) -> Option<Range<usize>> {
    let span_ms = if segments.len() > SEGMENTS_MAX { i64::MAX } else { limits.span_ms };
    let limits = Limits { span_ms, ..limits };
    let mut below = TIER_BYTES;
    while below / RUN as u64 <= limits.bytes {
        let fits = |start: &usize| fitting(segments, *start, below, limits);
        if let Some(start) = (0..segments.len()).find(|start| fits(start) >= RUN) {
            return Some(start..start + fits(&start));
        }
        below = below.saturating_mul(RUN as u64);
    }
    None
}

/// How many segments from `start` on are of a tier and within the limits together.
fn fitting(segments: &[Candidate], start: usize, below: u64, limits: Limits) -> usize {
    // Its records begin where those of the segment before it end.
    let begins_ms = segments[start.saturating_sub(1)].ends_ms;
    let mut total = 0u64;
    let fits = |s: &&Candidate| {
        total = total.saturating_add(s.size_bytes);
        let in_time = begins_ms < 0 || s.ends_ms.saturating_sub(begins_ms) <= limits.span_ms;
        s.size_bytes < below && total <= limits.bytes && in_time
    };
    segments[start..].iter().take_while(fits).count()
}

/// Merges for as long as there is a run. The caller holds the partition's maintenance lock.
pub async fn merge_small(shared: &Shared, partition: &PartitionInner) -> Result<(), RewriteError> {
    let config = partition.config.read().clone();
    let limits = Limits::of(&config);
    loop {
        let (run, compacted, times): (Vec<SegmentRef>, bool, Option<Times>) = {
            let state = partition.state.lock();
            // A damaged one stays as it is: no run has room for it.
            let candidate = |s: &StoredSegment| Candidate {
                size_bytes: match shared.damages().is_damaged(&s.at.path) {
                    true => u64::MAX,
                    false => s.at.size_bytes,
                },
                ends_ms: s.max_timestamp_ms,
            };
            let mut candidates: Vec<_> = state.segments.iter().map(candidate).collect();
            tell_times(&mut candidates);
            // What is compacted stays apart from what is not, or it would have to be compacted again.
            let clean = state.segments.partition_point(|s| s.compacted);
            let dirty_run = || next_run(&candidates[clean..], limits).map(|r| r.start + clean..r.end + clean);
            let Some(run) = next_run(&candidates[..clean], limits).or_else(dirty_run) else { return Ok(()) };
            // Only neighbours without a hole between them can stand in one segment.
            let run = &state.segments[run];
            let whole = run.windows(2).all(|p| p[1].at.base_offset == p[0].last_offset().plus(1));
            if !whole {
                return Ok(());
            }
            let times = Times::of_all(run.iter().map(|s| s.times));
            (run.iter().map(|s| s.at.clone()).collect(), run.iter().all(|s| s.compacted), times)
        };
        let builder = SegmentBuilder::new(partition.id, shared.clock.now_ms(), config.index_interval_bytes);
        let merged = match merge(&shared.segments, &run, builder).await {
            Ok(merged) => merged,
            Err(MergeError::Read(error)) if note_damage(shared, partition, &run, &error) => continue,
            Err(error) => return Err(error.into()),
        };
        // One whose index is damaged was read, and yet its batches are not moved: what proves them is less than a sound index.
        if run.iter().any(|s| shared.damages().is_damaged(&s.path)) {
            continue;
        }
        let merged = store_segment(shared, partition, merged).await?;
        let merged = StoredSegment { compacted, times, ..merged };
        replace(shared, partition, run[0].base_offset, run.len(), vec![merged]).await?;
        for old in run {
            shared.segments.forget(&old);
            delete_object(shared, &old.path).await;
        }
    }
}

/// Takes note of a segment that cannot be read as a whole; `false` when it is for another reason, or not noted. The caller holds the partition's
/// maintenance lock, so that a segment that is not there was not moved.
pub fn note_damage(
    shared: &Shared,
    partition: &PartitionInner,
    among: &[SegmentRef],
    error: &SegmentError,
) -> bool {
    let segments = partition.state.lock().segments.clone();
    let damaged = among.iter().find(|s| error.is_about(s));
    let Some(damaged) = damaged.and_then(|d| segments.iter().find(|s| s.at.path == d.path)) else {
        return false;
    };
    shared.damaged_segment(damaged, error.clone());
    shared.damages().is_damaged(&damaged.at.path)
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
            let limits = Limits { bytes: limit, span_ms: 0 };
            assert_eq!(next_run(&at_one_time(&sizes), limits), expect, "{sizes:?}");
        }
    }

    fn at_one_time(sizes: &[u64]) -> Vec<Candidate> {
        sizes.iter().map(|size_bytes| Candidate { size_bytes: *size_bytes, ends_ms: 5 }).collect()
    }

    #[test]
    fn a_merged_segment_spans_no_more_time_than_a_segment_may() {
        let ending = |ends: &[i64]| -> Vec<Candidate> {
            ends.iter().map(|ends_ms| Candidate { size_bytes: 10, ends_ms: *ends_ms }).collect()
        };
        let tens: Vec<i64> = (1..=20).map(|n| n * 10).collect();
        for (ends, span_ms, expect) in [
            (&tens[..], i64::MAX, Some(0..20)),
            (&tens, 70, Some(0..8)),
            (&tens, 69, None),
            // The second begins where the first ends.
            (&tens[1..], 70, Some(0..8)),
            (&[0, 100, 101, 102, 103, 104, 105, 106, 107, 108], 10, Some(2..10)),
            (&[-1; 9], 0, Some(0..9)),
            // What is behind an empty one begins where that before it ends.
            (&[0, -1, 100, 200, 300, 400, 500, 600, 700, 800], 10, None),
            (&[-1, 100, 200, 300, 400, 500, 600, 700, 800], 10, None),
            (&[5, -1, -1, 6, -1, -1, -1, 7], 10, Some(0..8)),
        ] {
            let limits = Limits { bytes: 1 << 20, span_ms };
            let mut candidates = ending(ends);
            tell_times(&mut candidates);
            assert_eq!(next_run(&candidates, limits), expect, "{ends:?} within {span_ms} ms");
        }
        let many: Vec<i64> = (0..1001).map(|n| n * 10).collect();
        let limits = Limits { bytes: 1 << 20, span_ms: 5 };
        assert_eq!(next_run(&ending(&many), limits), Some(0..1001), "too many to let them be");
    }

    #[test]
    fn only_retention_by_time_bounds_what_a_segment_spans() {
        let config = |cleanup_delete, retention_ms, segment_ms| TopicConfig {
            cleanup_delete,
            retention_ms,
            segment_ms,
            ..TopicConfig::default()
        };
        for (config, span_ms) in [
            (config(true, Some(64_000), 10), 1000),
            (config(true, Some(64_000), 2000), 2000),
            (config(true, None, 10), i64::MAX),
            (config(false, Some(64_000), 10), i64::MAX),
        ] {
            assert_eq!(Limits::of(&config).span_ms, span_ms, "{config:?}");
        }
    }
}
