//! Compaction: of a topic with `cleanup.policy=compact`, segments keep only the last record of each key.
//!
//! A partition's segments are a compacted part and, above it, one that is not yet. What is still in the write-ahead log
//! becomes segments first, when Apache Kafka would have rolled its active segment by then (`segment.bytes`, `segment.ms`,
//! `max.compaction.lag.ms`); until then it waits. A pass maps the keys of the second part, as far as memory allows, and filters all segments up to there, oldest
//! first, a few at a time: a tombstone is noted only when everything older is done. A pass that is cut off anywhere
//! leaves a sound log, of which the next pass does the rest. The rules for records are in [`kafscale_core::compaction`].

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafscale_core::batch::{PlacedBatch, batches};
use kafscale_core::compaction::{CompactionError, Filtered, OffsetMap, filter};
use kafscale_core::ids::{Offset, PartitionId};
use kafscale_core::times::Times;
use kafscale_core::topic_config::TopicConfig;
use tokio::time::Instant;

use super::deletion::delete_object;
use super::manifest::StoredSegment;
use super::merging::replace;
use super::partition::PartitionInner;
use super::rewrite::{RewriteError, flush_rolled, leave_the_disk, store_segment};
use super::shared::Shared;
use super::unsettled::settle;
use crate::compute::compute;
use crate::error::ReadError;
use crate::segment::{MERGE_MAX_BYTES, SegmentBuilder, SegmentError};

/// What one pass may take to know keys by: more than a million of them. The others are left to the next pass.
const MAP_MEMORY_BYTES: usize = 64 << 20;

/// How long a round waits in all for appends that need the disk, before it takes some of it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 4 << 20;

/// Runs until the log is shut down.
pub async fn run(shared: Arc<Shared>) {
    // What failed is not read again every few seconds.
    let mut put_off: HashMap<PartitionId, Instant> = HashMap::new();
    loop {
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            () = tokio::time::sleep(shared.config.cleaner_backoff) => {}
        }
        let began = Instant::now();
        put_off.retain(|_, until| *until > began);
        for partition in shared.partitions.compacted() {
            if shared.stopping.is_cancelled() {
                return;
            }
            if put_off.contains_key(&partition.id) {
                continue;
            }
            if let Err(error) = clean(&shared, &partition, began + PATIENCE).await {
                put_off.insert(partition.id, Instant::now() + shared.config.retention_check_interval);
                let (topic, partition) = (&partition.topic_name, partition.id.index);
                tracing::warn!(%topic, partition, %error, "cannot compact; will try again");
            }
        }
    }
}

async fn clean(
    shared: &Shared,
    partition: &PartitionInner,
    patience_ends: Instant,
) -> Result<(), RewriteError> {
    flush_rolled(shared, partition, patience_ends).await?;
    compact(shared, partition, MAP_MEMORY_BYTES).await
}

/// The segments that a pass is about, and how many of them are compacted already.
struct Pass {
    segments: Vec<StoredSegment>,
    clean: usize,
}

/// What there is to do, if it is worth it: by `min.cleanable.dirty.ratio`, `min.compaction.lag.ms` and
/// `max.compaction.lag.ms`.
fn plan(segments: &[StoredSegment], config: &TopicConfig, now_ms: i64) -> Option<Pass> {
    let lags = |s: &&StoredSegment| {
        config.min_compaction_lag_ms == 0
            || s.max_timestamp_ms <= now_ms.saturating_sub(config.min_compaction_lag_ms)
    };
    let ripe = &segments[..segments.iter().take_while(lags).count()];
    let clean = ripe.iter().position(|s| !s.compacted)?;
    let size = |of: &[StoredSegment]| of.iter().map(|s| u128::from(s.at.size_bytes)).sum::<u128>();
    let dirty_enough =
        size(&ripe[clean..]) * 1_000_000 > size(ripe) * u128::from(config.min_cleanable_dirty_ppm);
    // One without a timestamp has no age: the next one tells whether it is time.
    let aged = ripe[clean..].iter().find(|s| !s.compacted && s.max_timestamp_ms >= 0);
    let overdue =
        aged.is_some_and(|s| now_ms.saturating_sub(s.max_timestamp_ms) > config.max_compaction_lag_ms);
    (dirty_enough || overdue).then(|| Pass { segments: ripe.to_vec(), clean })
}

/// One pass over a partition, when one is due.
pub async fn compact(
    shared: &Shared,
    partition: &PartitionInner,
    map_memory_bytes: usize,
) -> Result<(), RewriteError> {
    let config = partition.config.read().clone();
    if !config.cleanup_compact {
        return Ok(());
    }
    let now_ms = shared.clock.now_ms();
    let (pass, high_watermark) = {
        let state = partition.state.lock();
        if state.gone {
            return Ok(());
        }
        (plan(&state.segments, &config, now_ms), state.high_watermark)
    };
    let Some(pass) = pass else { return Ok(()) };
    let keys = Arc::new(map_keys(shared, &pass.segments[pass.clean..], map_memory_bytes).await?);
    let rules = Rules { keys, high_watermark, now_ms, delete_retention_ms: config.delete_retention_ms };
    let concerned = pass.segments.partition_point(|s| s.at.base_offset < rules.keys.end());
    let limit = config.segment_bytes.min(MERGE_MAX_BYTES);
    let mut rest = &pass.segments[..concerned];
    while !rest.is_empty() && !shared.stopping.is_cancelled() {
        let damaged = |s: &StoredSegment| shared.damages().is_damaged(&s.at.path);
        let sound = rest.iter().take_while(|s| !damaged(s)).count();
        if sound == 0 {
            // A damaged segment stays as it is: what can be read of it is kept, and nothing of it is copied.
            if !keep_as_it_is(shared, partition, &rest[..1], rules.keys.end()).await? {
                break;
            }
            rest = &rest[1..];
            continue;
        }
        let (group, after) = rest.split_at(fitting(&rest[..sound], limit));
        match compact_group(shared, partition, group, &rules, limit).await {
            Ok(true) => rest = after,
            Ok(false) => break,
            // Noted as damaged by now: the group ends before it.
            Err(RewriteError::Read(ReadError::Corrupt(_))) if group.iter().any(damaged) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Leaves a segment out of a pass. `false` when it is not the partition's any more.
async fn keep_as_it_is(
    shared: &Shared,
    partition: &PartitionInner,
    segment: &[StoredSegment],
    end: Offset,
) -> Result<bool, RewriteError> {
    let _guard = partition.maintenance.lock().await;
    settle(shared, partition).await?;
    let is_named = {
        let state = partition.state.lock();
        !state.gone && state.segments.contains(&segment[0])
    };
    if is_named {
        mark_compacted(shared, partition, segment, end).await?;
    }
    Ok(is_named)
}

/// How many of the first segments, one at least, have `limit` bytes together.
fn fitting(segments: &[StoredSegment], limit: u64) -> usize {
    let mut total = 0u64;
    let fits = |s: &&StoredSegment| {
        total = total.saturating_add(s.at.size_bytes);
        total <= limit
    };
    segments.iter().take_while(fits).count().max(1)
}

/// The last offsets of the keys of these segments, or of the first of them when memory is short.
async fn map_keys(
    shared: &Shared,
    segments: &[StoredSegment],
    memory_bytes: usize,
) -> Result<OffsetMap, RewriteError> {
    let hashers = [RandomState::new(), RandomState::new()];
    let mut map = OffsetMap::new(segments[0].at.base_offset, memory_bytes, hashers);
    for segment in segments {
        let mut pieces = Pieces::of(segment);
        while let Some(piece) = pieces.next_sound(shared).await? {
            let path = segment.at.path.clone();
            let (grown, full) = on_a_thread(move || {
                let full = !add_all(&mut map, &piece, &path);
                (map, full)
            })
            .await?;
            map = grown;
            if full {
                return Ok(map);
            }
        }
        map.cover(segment.last_offset());
    }
    Ok(map)
}

/// `false` when the map is full.
fn add_all(map: &mut OffsetMap, piece: &[u8], object: &str) -> bool {
    for (at, header) in batches(piece).map_while(Result::ok) {
        match map.add(&header, &piece[at..at + header.size_bytes]) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(error) => skip_unreadable(map, object, header.last_offset(), &error),
        }
    }
    true
}

/// A batch whose records cannot be read stays as it is, and supersedes nothing.
fn skip_unreadable(map: &mut OffsetMap, object: &str, last: Offset, error: &CompactionError) {
    tracing::warn!(object, last_offset = %last, %error, "a batch cannot be compacted and is kept");
    map.cover(last);
}

/// What decides of records in one pass.
#[derive(Clone)]
struct Rules {
    keys: Arc<OffsetMap>,
    /// The batch that ends here is never dropped: consumers would wait below the end for ever.
    high_watermark: Offset,
    now_ms: i64,
    delete_retention_ms: i64,
}

impl Rules {
    /// Filters the batches of a piece, of which those from the map's end on are not touched.
    fn filter_all(&self, piece: &Bytes) -> Result<FilteredPiece, RewriteError> {
        let mut kept = FilteredPiece::default();
        for parsed in batches(piece) {
            let (at, header) = parsed?;
            let bytes = piece.slice(at..at + header.size_bytes);
            let filtered = if header.base_offset >= self.keys.end() {
                Filtered::Whole
            } else {
                // What cannot be read was reported when the keys were mapped.
                filter(&self.keys, &header, &bytes, self.now_ms, self.delete_retention_ms)
                    .unwrap_or(Filtered::Whole)
            };
            let is_last = header.last_offset().plus(1) >= self.high_watermark;
            let filtered = if is_last && filtered == Filtered::Nothing { Filtered::Whole } else { filtered };
            kept.changed |= filtered != Filtered::Whole;
            match filtered {
                Filtered::Nothing => {}
                Filtered::Whole => kept.batches.push(PlacedBatch::from_log(bytes)?),
                Filtered::Rewritten(bytes) => kept.batches.push(PlacedBatch::from_log(bytes)?),
            }
        }
        Ok(kept)
    }
}

#[derive(Default)]
struct FilteredPiece {
    batches: Vec<PlacedBatch>,
    changed: bool,
}

/// Filters neighbouring segments and publishes what is left of them in their place. `false` when they are not the
/// partition's any more.
async fn compact_group(
    shared: &Shared,
    partition: &PartitionInner,
    group: &[StoredSegment],
    rules: &Rules,
    limit: u64,
) -> Result<bool, RewriteError> {
    let _guard = partition.maintenance.lock().await;
    settle(shared, partition).await?;
    let first = group[0].at.base_offset;
    {
        let state = partition.state.lock();
        let at = state.segments.partition_point(|s| s.at.base_offset < first);
        if state.gone || state.segments.get(at..at + group.len()) != Some(group) {
            return Ok(false);
        }
    }
    // What is left of the records is no older, and goes back no further.
    let times = Times::of_all(group.iter().map(|s| s.times));
    let mut output = Output { times, ..Output::new(shared, partition, first, limit) };
    let filtered = filter_into(shared, group, rules, &mut output).await;
    let damaged = group.iter().any(|s| shared.damages().is_damaged(&s.at.path));
    let changed = match filtered {
        Ok(changed) if !damaged => changed,
        Ok(_) => {
            output.discard().await;
            return Err(ReadError::Corrupt("a segment's index is damaged".to_owned()).into());
        }
        Err(e) => {
            output.discard().await;
            return Err(e);
        }
    };
    let last = group[group.len() - 1].last_offset();
    // A segment that the map ends in is cut there, or every pass would end there.
    let cut =
        group.iter().any(|s| s.at.base_offset < rules.keys.end() && rules.keys.end() <= s.last_offset());
    if !changed && !cut {
        output.discard().await;
        return mark_compacted(shared, partition, group, rules.keys.end()).await.map(|()| true);
    }
    if let Err(error) = output.close(last, rules.keys.end()).await {
        output.discard().await;
        return Err(error);
    }
    let stored = output.stored;
    replace(shared, partition, first, group.len(), stored).await?;
    for old in group {
        shared.segments.forget(&old.at);
        delete_object(shared, &old.at.path).await;
    }
    Ok(true)
}

/// Whether anything was left out.
async fn filter_into(
    shared: &Shared,
    group: &[StoredSegment],
    rules: &Rules,
    output: &mut Output<'_>,
) -> Result<bool, RewriteError> {
    let mut changed = false;
    for segment in group {
        let mut pieces = Pieces::of(segment);
        while let Some(piece) = pieces.next(shared).await? {
            let rules_of_piece = rules.clone();
            let kept = on_a_thread(move || rules_of_piece.filter_all(&piece)).await??;
            changed |= kept.changed;
            for batch in kept.batches {
                output.append(batch, rules.keys.end()).await?;
            }
        }
    }
    Ok(changed)
}

/// Notes that segments need no compaction up to `end`, where that is news.
async fn mark_compacted(
    shared: &Shared,
    partition: &PartitionInner,
    group: &[StoredSegment],
    end: Offset,
) -> Result<(), RewriteError> {
    let mark =
        |s: &StoredSegment| StoredSegment { compacted: s.compacted || s.last_offset() < end, ..s.clone() };
    let marked: Vec<_> = group.iter().map(mark).collect();
    if marked == group {
        return Ok(());
    }
    replace(shared, partition, group[0].at.base_offset, group.len(), marked).await
}

/// Segments being written in the place of others.
struct Output<'a> {
    shared: &'a Shared,
    partition: &'a PartitionInner,
    limit: u64,
    /// Where the open segment's range begins.
    base: Offset,
    builder: SegmentBuilder,
    /// Of all that is read.
    times: Option<Times>,
    stored: Vec<StoredSegment>,
}

impl<'a> Output<'a> {
    fn new(shared: &'a Shared, partition: &'a PartitionInner, base: Offset, limit: u64) -> Output<'a> {
        let builder = new_builder(shared, partition);
        Output { shared, partition, limit, base, builder, times: None, stored: Vec::new() }
    }

    /// Adds a batch; what is below `mapped` and what is not never share a segment.
    async fn append(&mut self, batch: PlacedBatch, mapped: Offset) -> Result<(), RewriteError> {
        let size_bytes = self.builder.body_bytes() + batch.bytes.len() as u64;
        let full = !self.builder.is_empty() && size_bytes > self.limit;
        let crosses = self.base < mapped && batch.base_offset >= mapped;
        if crosses {
            self.close(Offset(mapped.0 - 1), mapped).await?;
        } else if full {
            self.close(Offset(batch.base_offset.0 - 1), mapped).await?;
        }
        self.builder.append(batch).map_err(RewriteError::from)
    }

    /// Ends the open segment at `last` and begins the next behind it.
    async fn close(&mut self, last: Offset, mapped: Offset) -> Result<(), RewriteError> {
        let next = new_builder(self.shared, self.partition);
        let builder = std::mem::replace(&mut self.builder, next).covering(self.base, last);
        let encoded = builder.finish().expect("it stands for a range");
        let stored = store_segment(self.shared, self.partition, encoded).await?;
        self.stored.push(StoredSegment { compacted: last < mapped, times: self.times, ..stored });
        self.base = last.plus(1);
        Ok(())
    }

    /// Takes back what was stored.
    async fn discard(self) {
        for stored in self.stored {
            delete_object(self.shared, &stored.at.path).await;
        }
    }
}

fn new_builder(shared: &Shared, partition: &PartitionInner) -> SegmentBuilder {
    let index_interval_bytes = partition.config.read().index_interval_bytes;
    SegmentBuilder::new(partition.id, shared.clock.now_ms(), index_interval_bytes)
}

/// A segment's batches, some at a time.
struct Pieces<'a> {
    segment: &'a StoredSegment,
    from: Offset,
}

impl Pieces<'_> {
    fn of(segment: &StoredSegment) -> Pieces<'_> {
        Pieces { segment, from: segment.at.base_offset }
    }

    async fn next(&mut self, shared: &Shared) -> Result<Option<Bytes>, RewriteError> {
        if self.from > self.segment.last_offset() {
            return Ok(None);
        }
        let began = Instant::now();
        let read = shared.read_segment(self.segment, self.from, PIECE_BYTES, true).await;
        let mut read = read.map_err(|e| self.failed(shared, e))?;
        leave_the_disk(shared, began.elapsed()).await;
        self.from = read.next;
        let one = if read.chunks.len() == 1 { read.chunks.pop() } else { None };
        Ok(Some(one.unwrap_or_else(|| read.chunks.concat().into())))
    }

    /// The same, but that it goes past what is damaged.
    async fn next_sound(&mut self, shared: &Shared) -> Result<Option<Bytes>, RewriteError> {
        while self.from <= self.segment.last_offset() {
            match shared.read_segment(self.segment, self.from, PIECE_BYTES, true).await {
                Ok(read) => {
                    self.from = read.next;
                    return Ok(Some(read.chunks.concat().into()));
                }
                Err(e) => match e {
                    SegmentError::Corrupt { last, .. } => {
                        self.from = last.plus(1);
                        shared.damaged_segment(self.segment, e);
                    }
                    SegmentError::Store(_) => return Err(self.failed(shared, e)),
                },
            }
        }
        Ok(None)
    }

    fn failed(&self, shared: &Shared, error: SegmentError) -> RewriteError {
        match error.is_corrupt() {
            true => shared.damaged_segment(self.segment, error).into(),
            false => ReadError::Unavailable(error.to_string()).into(),
        }
    }
}

async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ReadError> {
    compute(work).await.map_err(|e| ReadError::Unavailable(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::SegmentRef;

    /// Segments of (size, timestamp, compacted), of ten offsets each.
    fn segments(of: &[(u64, i64, bool)]) -> Vec<StoredSegment> {
        let segment = |(i, (size_bytes, max_timestamp_ms, compacted)): (usize, &(u64, i64, bool))| {
            let base = i as i64 * 10;
            let (base_offset, last_offset) = (Offset(base), Offset(base + 9));
            let at = SegmentRef { path: "x".into(), size_bytes: *size_bytes, base_offset, last_offset };
            let (max_timestamp_ms, compacted) = (*max_timestamp_ms, *compacted);
            StoredSegment { at, max_timestamp_ms, times: None, records: 1, compacted }
        };
        of.iter().enumerate().map(segment).collect()
    }

    #[test]
    fn a_pass_is_made_when_it_is_worth_it() {
        let config = |ratio: f64, min_lag: i64, max_lag: i64| TopicConfig {
            min_cleanable_dirty_ppm: (ratio * 1e6) as u32,
            min_compaction_lag_ms: min_lag,
            max_compaction_lag_ms: max_lag,
            ..TopicConfig::default()
        };
        let never = i64::MAX;
        let half = [(100, 10, true), (100, 20, false)];
        for (what, of, config, expect) in [
            ("nothing", &[][..], config(0.0, 0, never), None),
            ("all clean", &[(100, 10, true)], config(0.0, 0, never), None),
            ("all dirty", &[(100, 10, false)], config(0.5, 0, never), Some((1, 0))),
            ("not dirty enough", &half, config(0.5, 0, never), None),
            ("dirty enough", &half, config(0.49, 0, never), Some((2, 1))),
            ("overdue", &half, config(1.0, 0, 70), Some((2, 1))),
            ("not overdue", &half, config(1.0, 0, 80), None),
            (
                "overdue, behind one without a time",
                &[(9, 9, true), (1, -1, false), (1, 20, false)],
                config(1.0, 0, 70),
                Some((3, 1)),
            ),
            (
                "not overdue, though one has no time",
                &[(9, 9, true), (1, -1, false), (1, 20, false)],
                config(1.0, 0, 80),
                None,
            ),
            ("too young", &half, config(0.1, 81, never), None),
            ("old enough", &half, config(0.1, 80, never), Some((2, 1))),
            ("clean above dirty", &[(1, 1, false), (1, 1, true)], config(0.1, 0, never), Some((2, 0))),
        ] {
            let pass = plan(&segments(of), &config, 100).map(|p| (p.segments.len(), p.clean));
            assert_eq!(pass, expect, "{what}");
        }
    }
}
