//! Rewriting: what the write-ahead files hold becomes segments, so that the files can be freed.
//!
//! It begins when the files hold more than their limit, takes the oldest file first, and takes from each partition
//! in it what makes a segment, also from younger files: few large segments rather than many small ones. It never
//! stands in the way of an append: the chain goes on in new files, and where both use one disk it [waits](super::pace).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use kafscale_core::batch::{BatchHeader, PlacedBatch};
use kafscale_core::ids::Offset;
use kafscale_core::times::Times;
use kafscale_core::topic_config::TopicConfig;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use tokio::time::Instant;

use super::manifest::{Manifest, PublishError, StoredSegment};
use super::merging::merge_small;
use super::pace;
use super::partition::{PartitionInner, State, TailBatch};
use super::shared::{Loaded, Shared};
use super::{LogConfig, StoreUrl};
use crate::compute::times_of_batch;
use crate::damages::Damage;
use crate::error::ReadError;
use crate::segment::{DamagedBatch, EncodedSegment, MergeError, SegmentBuilder, SegmentRef, segment_path};

/// At most this much of a partition is held in memory to make one segment.
const PIECE_BYTES: u64 = 16 << 20;

/// So many partitions are rewritten at a time: their PUTs overlap, and their records share metadata commits.
const CONCURRENT_PARTITIONS: usize = 16;

/// More batches than this in the write-ahead files are rewritten whatever their size: each takes memory.
const TAIL_BATCHES_MAX: u64 = 500_000;
/// What each counts beside its bytes: it takes some 200 bytes in memory, and the allocator keeps more.
const TAIL_BATCH_BYTES: u64 = 512;

/// An object of the write-ahead log that is not there is waited for this long. Then segments are written without its records.
const MISSING_PATIENCE: Duration = Duration::from_secs(600);

/// So many batches count as much as these bytes.
pub fn batches_in(bytes: u64) -> usize {
    usize::try_from(bytes / TAIL_BATCH_BYTES).unwrap_or(usize::MAX)
}

/// Why a partition was not rewritten; the next round tries again.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the segment cannot be built: {0}")]
    Build(#[from] crate::segment::BuildError),
    #[error("a stored batch is unreadable: {0}")]
    Batch(#[from] kafscale_core::batch::HeaderError),
    #[error("the store refused the segment: {0}")]
    Store(#[from] object_store::Error),
    #[error(transparent)]
    Merge(#[from] MergeError),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl RewriteError {
    /// Whether somebody else wrote the partition's record: this broker does not own it any more.
    pub fn is_conflict(&self) -> bool {
        matches!(self, RewriteError::Publish(PublishError::Conflict | PublishError::Fenced))
    }
}

/// After a failure with what was taken over, the next attempt.
const TAKEN_OVER_RETRY: Duration = Duration::from_secs(1);

/// Runs until the log is shut down.
pub async fn run(shared: Arc<Shared>) {
    let mut aged_at = Instant::now();
    loop {
        let pause = match shared.files.last_taken_over() {
            Some(_) => TAKEN_OVER_RETRY.min(shared.config.retention_check_interval),
            None => shared.config.retention_check_interval,
        };
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            () = shared.file_closed.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
        // First of all, so that the chains that it came from can be collected.
        if let Some(last) = shared.files.last_taken_over() {
            rewrite_up_to(&shared, last).await;
        }
        // Objects are closed several times in a second, and this looks at every partition.
        if shared.chain.is_none() || aged_at <= Instant::now() {
            aged_at = Instant::now() + shared.config.retention_check_interval;
            rewrite_aged(&shared).await;
        }
        rewrite_excess(&shared).await;
        shared.files.remove_old_spares();
    }
}

/// Rewrites from the oldest file on when there is more than the limit, and then all that is closed, for as long as appends leave the
/// disk alone: so that its files are there for the next burst, and the next start has little to read. Objects of a store are small: they
/// are rewritten by half of the limit, so that their partitions get few large segments rather than many small ones.
async fn rewrite_excess(shared: &Shared) {
    if !over_limit(shared, 1) {
        return;
    }
    let share = if shared.chain.is_some() { 2 } else { 1 };
    let at_leisure = || uses_one_disk(shared) && !shared.pace.appends_go_on();
    while (over_limit(shared, share) || at_leisure()) && !shared.stopping.is_cancelled() {
        let Some(oldest) = shared.files.oldest_closed() else { return };
        rewrite_up_to(shared, oldest).await;
        if shared.files.oldest_closed() == Some(oldest) {
            return;
        }
    }
}

/// Whether there is more than a share of what may be there.
fn over_limit(shared: &Shared, share: usize) -> bool {
    let (bytes, files) = shared.files.usage();
    let objects = if shared.chain.is_some() { files } else { 0 };
    shared.files.oldest_closed().is_some()
        && (bytes + TAIL_BATCH_BYTES * shared.files.batches() > shared.config.wal_max_bytes / share as u64
            || objects > shared.config.wal_max_objects / share)
}

/// Partitions whose oldest batch waits longer than the topic's `segment.ms`.
async fn rewrite_aged(shared: &Shared) {
    let now_ms = shared.clock.now_ms();
    for partition in shared.all_partitions() {
        let config = partition.config.read().clone();
        let aged = partition.state.lock().is_aged(&config, now_ms);
        if aged {
            rewrite_logged(shared, &partition, u64::MAX).await;
        }
    }
    shared.free_unused();
}

/// Makes segments of what a partition has in the write-ahead log, when Apache Kafka would have rolled its active segment: what is
/// there has `segment.bytes`, or is older than `segment.ms`. Appends that need the disk go first until `until`: on a busy broker
/// it would never come about otherwise.
pub async fn flush_rolled(
    shared: &Shared,
    partition: &PartitionInner,
    until: Instant,
) -> Result<(), RewriteError> {
    let config = partition.config.read().clone();
    let rolled = {
        let state = partition.state.lock();
        state.tail_bytes >= config.segment_bytes || state.is_aged(&config, shared.clock.now_ms())
    };
    if rolled {
        rewrite_with(shared, partition, Haste::MakeWayUntil(until), u64::MAX).await?;
        shared.free_unused();
    }
    Ok(())
}

/// Whether a durable batch is in a file up to this one.
fn begins_by(state: &State, last: u64) -> bool {
    state.durable > 0 && state.tail.front().is_some_and(|b| b.place.file_no <= last)
}

/// Rewrites every partition that has a batch in a file up to this one, so that those files can be freed and written again.
async fn rewrite_up_to(shared: &Shared, last: u64) {
    let concerned = shared.all_partitions().into_iter().filter(|p| begins_by(&p.state.lock(), last));
    let makes_way = uses_one_disk(shared) && shared.pace.appends_go_on();
    let one_at_a_time = tokio::sync::Mutex::new(());
    stream::iter(concerned)
        .take_until(shared.stopping.cancelled())
        .for_each_concurrent(CONCURRENT_PARTITIONS, async |partition| {
            // Many partitions with little in each take long one after the other: not where there is no room for more.
            let turn = makes_way && can_be_put_off(shared);
            let _turn = if turn { Some(one_at_a_time.lock().await) } else { None };
            rewrite_logged(shared, &partition, last).await;
        })
        .await;
    shared.free_unused();
}

async fn rewrite_logged(shared: &Shared, partition: &PartitionInner, last: u64) {
    if let Err(error) = rewrite_with(shared, partition, Haste::MakeWay, last).await {
        if !error.is_conflict() {
            shared.failing.failed(partition.id, error.to_string());
        }
        let (topic, partition) = (&partition.topic_name, partition.id.index);
        tracing::warn!(%topic, partition, %error, "cannot write a segment; will try again");
        // The disk may be full.
        shared.files.drop_spares();
    } else {
        shared.failing.succeeded(partition.id);
    }
}

/// Whether appends go first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Haste {
    /// For as long as there is room for more.
    MakeWay,
    /// The same, but not beyond this time; then what is written is written a little at a time, with pauses.
    MakeWayUntil(Instant),
    Now,
}

/// Moves everything durable of a partition from the write-ahead log into segments.
pub async fn rewrite(shared: &Shared, partition: &PartitionInner) -> Result<(), RewriteError> {
    rewrite_with(shared, partition, Haste::Now, u64::MAX).await
}

/// Makes segments until everything durable in files up to `last` is in one, and what follows it, as far as it fits.
async fn rewrite_with(
    shared: &Shared,
    partition: &PartitionInner,
    haste: Haste,
    last: u64,
) -> Result<(), RewriteError> {
    let _guard = partition.maintenance.lock().await;
    super::unsettled::settle(shared, partition).await?;
    let end = partition.state.lock().high_watermark;
    while begins_by(&partition.state.lock(), last) {
        match haste {
            Haste::MakeWay => make_way(shared, None).await,
            Haste::MakeWayUntil(until) => make_way(shared, Some(until)).await,
            Haste::Now => {}
        }
        let Some(Piece { encoded, times, batches }) = next_piece(shared, partition, end, haste).await? else {
            break;
        };
        shared.pace.rewrote(encoded.size_bytes);
        let segment = StoredSegment { times, ..store_segment(shared, partition, encoded).await? };
        publish(shared, partition, segment, batches).await?;
    }
    // There will be another time.
    if haste != Haste::Now && shared.files.batches() > TAIL_BATCHES_MAX {
        return Ok(());
    }
    merge_small(shared, partition).await
}

/// Waits while appends need the disk, unless more has gathered than may be put off, until a time.
async fn make_way(shared: &Shared, until: Option<Instant>) {
    let one_disk = uses_one_disk(shared);
    let in_time = || until.is_none_or(|until| Instant::now() < until);
    while one_disk
        && shared.pace.is_due()
        && !shared.stopping.is_cancelled()
        && can_be_put_off(shared)
        && in_time()
    {
        let before = shared.pace.busy();
        tokio::time::sleep(pace::WINDOW).await;
        if !pace::is_busy(shared.pace.busy().saturating_sub(before)) {
            shared.pace.go_on();
        }
    }
}

/// After log cleaning used the disk for so long: leaves it to appends, where both use one.
pub async fn leave_the_disk(shared: &Shared, took: Duration) {
    if uses_one_disk(shared) {
        tokio::time::sleep(shared.pace.pause_after(took)).await;
    }
}

fn uses_one_disk(shared: &Shared) -> bool {
    matches!(shared.config.store, StoreUrl::File(_))
}

/// Whether there is room for more that is not rewritten; how much is noted, for whoever writes segments.
fn can_be_put_off(shared: &Shared) -> bool {
    let (bytes, LogConfig { wal_max_bytes, wal_burst_bytes, .. }) = (shared.files.usage().0, &shared.config);
    let batches = shared.files.batches();
    let room = bytes + TAIL_BATCH_BYTES * batches <= *wal_burst_bytes && batches <= TAIL_BATCHES_MAX;
    let above = if room { bytes.saturating_sub(*wal_max_bytes) } else { u64::MAX };
    shared.pace.note_room(above, wal_burst_bytes.saturating_sub(*wal_max_bytes));
    room
}

/// A segment that is built, and the number of its batches.
struct Piece {
    encoded: EncodedSegment,
    times: Option<Times>,
    batches: usize,
}

/// Builds the next segment from the front of the tail, up to `end`.
async fn next_piece(
    shared: &Shared,
    partition: &PartitionInner,
    end: Offset,
    haste: Haste,
) -> Result<Option<Piece>, RewriteError> {
    let config = partition.config.read().clone();
    let limit = config.segment_bytes.min(PIECE_BYTES);
    let sources: Vec<_> = {
        let state = partition.state.lock();
        let mut size = 0;
        let fits = |b: &&TailBatch| {
            size += u64::from(b.size_bytes);
            b.last_offset < end && (size <= limit || size == u64::from(b.size_bytes))
        };
        let source = |batch: &TailBatch| (batch.source(&state.epochs), batch.times);
        state.tail.range(..state.durable).take_while(fits).map(source).collect()
    };
    if sources.is_empty() {
        return Ok(None);
    }
    let mut times = Vec::with_capacity(sources.len());
    let mut builder = SegmentBuilder::new(partition.id, shared.clock.now_ms(), config.index_interval_bytes);
    let makes_way = haste != Haste::Now && uses_one_disk(shared);
    let mut sources = sources.into_iter().peekable();
    while sources.peek().is_some() {
        let stretch_bytes = if makes_way { shared.pace.stretch_bytes() } else { usize::MAX };
        let began = Instant::now();
        let (mut stretch, mut size_bytes) = (Vec::new(), 0);
        while let Some((source, known)) = sources.next_if(|_| size_bytes < stretch_bytes) {
            size_bytes += source.size_bytes();
            stretch.push(source);
            times.push(known);
        }
        let loaded = shared.load(stretch).await?;
        let of_loaded = times.len() - loaded.len();
        for (loaded, times) in loaded.into_iter().zip(&mut times[of_loaded..]) {
            *times = times_of(&loaded, *times).await;
            append_loaded(shared, partition, &mut builder, loaded)?;
        }
        if makes_way {
            tokio::time::sleep(shared.pace.pause_after(began.elapsed())).await;
        }
    }
    let batches = times.len();
    Ok(builder.finish().map(|encoded| Piece { encoded, times: Times::of_all(times), batches }))
}

/// The timestamps of a batch. Of one that was replayed from the log they are not known yet; of a damaged one never.
async fn times_of(loaded: &Loaded, known: Option<Times>) -> Option<Times> {
    let Loaded::Sound(bytes) = loaded else { return None };
    if known.is_some() {
        return known;
    }
    let header = BatchHeader::parse(bytes).ok()?;
    times_of_batch(header, bytes.clone()).await.ok()?.ok()
}

/// Adds a batch of the tail, whatever is left of it: a damaged one must neither hold up the others nor vanish without a trace.
fn append_loaded(
    shared: &Shared,
    partition: &PartitionInner,
    builder: &mut SegmentBuilder,
    loaded: Loaded,
) -> Result<(), RewriteError> {
    let (batch, bytes, why) = match loaded {
        Loaded::Sound(bytes) => return Ok(builder.append(PlacedBatch::from_log(bytes)?)?),
        Loaded::Away { why } => return Err(ReadError::Unavailable(why).into()),
        Loaded::Damaged { batch, bytes, why } => (batch, bytes, why),
        Loaded::Missing { batch, why } => {
            let object = shared.files.describe(batch.place.file_no);
            let (topic, index) = (&partition.topic_name, partition.id.index);
            let known_for = shared.damages().age_of(&object, topic, index, batch.base_offset);
            if known_for.is_none_or(|age| age < MISSING_PATIENCE) {
                // It may come back, as long as nothing is written in its place.
                return Err(shared.damaged(partition, &batch, why).into());
            }
            (batch, Bytes::new(), why)
        }
    };
    shared.damaged(partition, &batch, why);
    let damaged = DamagedBatch {
        base_offset: batch.base_offset,
        last_offset: batch.last_offset,
        max_timestamp_ms: batch.max_timestamp_ms,
        leader_epoch: batch.leader_epoch.unwrap_or(partition.leader_epoch()),
    };
    Ok(builder.append_damaged(&damaged, bytes)?)
}

/// Writes a segment under a name that nothing else has, so that no other process can ever be overwritten.
pub async fn store_segment(
    shared: &Shared,
    partition: &PartitionInner,
    encoded: EncodedSegment,
) -> Result<StoredSegment, RewriteError> {
    let path = segment_path(&partition.topic_name, partition.id, encoded.base_offset, shared.next_rewrite());
    let segment = StoredSegment {
        at: SegmentRef {
            path: Arc::from(path.as_str()),
            size_bytes: encoded.size_bytes,
            base_offset: encoded.base_offset,
            last_offset: encoded.last_offset,
        },
        max_timestamp_ms: encoded.max_timestamp_ms,
        times: None,
        records: encoded.records,
        compacted: false,
    };
    shared.store.put(&Path::from(path), PutPayload::from(encoded)).await?;
    shared.counters.segments_written.fetch_add(1, Ordering::Relaxed);
    Ok(segment)
}

/// Makes a stored segment part of the partition, in metadata first, and takes its batches off the tail.
async fn publish(
    shared: &Shared,
    partition: &PartitionInner,
    segment: StoredSegment,
    count: usize,
) -> Result<(), RewriteError> {
    let (end, path) = (segment.last_offset().plus(1), Arc::clone(&segment.at.path));
    let (mut manifest, producers) = {
        let state = partition.state.lock();
        if state.gone {
            return Err(ReadError::Gone.into());
        }
        (state.manifest(), state.producers.snapshot(end))
    };
    manifest.segments.push(segment.clone());
    let revision = shared.publish(&manifest, partition, Some(producers)).await?;
    let dropped = {
        let mut state = partition.state.lock();
        if state.gone {
            return Err(ReadError::Gone.into());
        }
        state.revision = Some(revision);
        state.segment_bytes += segment.at.size_bytes;
        state.segments.push(segment);
        state.drop_front(count)
    };
    move_damages(shared, partition, &dropped, &path);
    shared.release(&dropped);
    Ok(())
}

/// What is damaged of these batches is so in the segment now.
fn move_damages(shared: &Shared, partition: &PartitionInner, dropped: &[TailBatch], segment: &Arc<str>) {
    if shared.damages().is_empty() {
        return;
    }
    for batch in dropped {
        let file = shared.files.describe(batch.place.file_no);
        let (topic, index) = (&partition.topic_name, partition.id.index);
        if shared.damages().age_of(&file, topic, index, batch.base_offset).is_none() {
            continue;
        }
        shared.damages().forget_at(&file, topic, index, batch.base_offset);
        shared.damages().note(Damage {
            object: Arc::clone(segment),
            position: 0,
            topic: Arc::clone(&partition.topic_name),
            partition: partition.id.index,
            offsets: Some((batch.base_offset, batch.last_offset)),
            why: format!("the batch was damaged in {file} already"),
        });
    }
}

impl State {
    /// Whether the oldest batch in the write-ahead log is older than a segment may become before it is rolled. In a compacted topic
    /// that is also `max.compaction.lag.ms`, as what is to be cleaned by then has to be in a segment.
    fn is_aged(&self, config: &TopicConfig, now_ms: i64) -> bool {
        let compaction_lag_ms = if config.cleanup_compact { config.max_compaction_lag_ms } else { i64::MAX };
        let segment_ms = config.segment_ms.min(compaction_lag_ms);
        self.tail.front().is_some_and(|b| now_ms.saturating_sub(b.appended_ms) > segment_ms)
    }

    /// What the partition's record should say now. Only what is durable counts.
    pub fn manifest(&self) -> Manifest {
        Manifest {
            log_start: self.log_start,
            segments: self.segments.clone(),
            epochs: {
                let mut epochs = self.epochs.clone();
                epochs.truncate_from_end(self.high_watermark);
                epochs
            },
            producers: kafscale_core::producer::ProducerWindows::default(),
            revision: self.revision,
        }
    }
}
