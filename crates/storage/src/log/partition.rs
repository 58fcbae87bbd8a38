//! One partition: appending to it and reading from it.
//!
//! Newest to oldest, its records stand in the open object (not visible yet), in the tail (durable in the
//! write-ahead log, most of it also in memory), and in segments. One lock guards the state; it is held for
//! bookkeeping only, never across IO.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use kafscale_core::batch::{BatchHeader, PlacedBatch, TimestampType, ValidBatch};
use kafscale_core::epochs::EpochCache;
use kafscale_core::ids::{LeaderEpoch, Offset, PartitionId, ProducerId};
use kafscale_core::producer::{Admission, ProducerWindows, SeenBatch};
use kafscale_core::records;
use kafscale_core::topic_config::TopicConfig;
use kafscale_meta::Revision;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::flush::{Flush, PendingBatch};
use super::manifest::StoredSegment;
use super::shared::Shared;
use crate::error::{AppendError, ReadError};
use crate::wal::files::Place;

/// A batch above the segments.
#[derive(Debug, Clone)]
pub struct TailBatch {
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub max_timestamp_ms: i64,
    pub appended_ms: i64,
    pub size_bytes: u32,
    /// Where it stands in the write-ahead log; set when it is durable.
    pub place: Place,
    /// The object that brought it, as long as that is in memory.
    pub flush: Weak<Flush>,
    pub slot: u32,
}

/// What changes as a partition is used.
#[derive(Debug, Default)]
pub struct State {
    pub log_start: Offset,
    pub log_end: Offset,
    pub high_watermark: Offset,
    pub epochs: EpochCache,
    pub producers: ProducerWindows,
    pub segments: Vec<StoredSegment>,
    pub segment_bytes: u64,
    pub tail: VecDeque<TailBatch>,
    pub tail_bytes: u64,
    /// How many batches of the tail are durable.
    pub durable: usize,
    pub gone: bool,
    /// Being handed over: appends are refused.
    pub releasing: bool,
    /// Guards the next write of the partition's record.
    pub revision: Option<Revision>,
    /// It is not known what became of the last write of the partition's record.
    pub unsettled: bool,
    pub(super) waiters: Vec<Arc<Notify>>,
}

/// A partition as this broker serves it.
#[derive(Debug)]
pub struct PartitionInner {
    pub id: PartitionId,
    pub topic_name: Arc<str>,
    pub leader_epoch: AtomicI32,
    pub config: RwLock<Arc<TopicConfig>>,
    pub state: Mutex<State>,
    /// Held by whatever rewrites, merges or drops segments: one at a time.
    pub maintenance: tokio::sync::Mutex<()>,
}

impl PartitionInner {
    pub fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.leader_epoch.load(Ordering::Acquire))
    }

    /// The same owner got the partition once more: what it appends from now on is of the higher epoch.
    pub fn raise_leader_epoch(&self, epoch: LeaderEpoch) {
        // Appends read the epoch under the state's lock, so that epochs never go down along the log.
        let _state = self.state.lock();
        self.leader_epoch.fetch_max(epoch.0, Ordering::AcqRel);
    }
}

/// Offsets of a partition at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionOffsets {
    pub log_start: Offset,
    /// Everything below is durable and visible to consumers. As there are no transactions yet, it is the last
    /// stable offset too.
    pub high_watermark: Offset,
    /// The next offset to be given out.
    pub log_end: Offset,
}

/// An append that has its offset but is not durable yet.
#[derive(Debug)]
pub struct Appended {
    pub base_offset: Offset,
    /// The time of the append where the topic has LogAppendTime, else -1.
    pub log_append_time_ms: i64,
    pub log_start_offset: Offset,
    pub durable: Durable,
}

/// Resolves when everything up to an append is durable.
#[derive(Debug)]
pub struct Durable(Option<Arc<Flush>>);

impl Durable {
    /// `Err` when the append failed: it was taken back and may be tried again.
    pub async fn wait(self) -> Result<(), AppendError> {
        match self.0 {
            Some(flush) => flush.wait().await,
            None => Ok(()),
        }
    }
}

/// Whole batches, in order.
#[derive(Debug, Clone, Default)]
pub struct ReadBatches {
    pub chunks: Vec<Bytes>,
    pub size_bytes: usize,
}

/// Where a read finds its records.
enum Plan {
    Nothing,
    Tail(Vec<Source>),
    /// A segment, and the one after it.
    Segment(StoredSegment, Option<StoredSegment>),
}

/// A batch of the tail, in memory or to be read back.
#[derive(Debug)]
pub enum Source {
    Memory(Bytes),
    Wal(Place, u32, Offset),
}

impl Source {
    pub fn size_bytes(&self) -> usize {
        match self {
            Source::Memory(bytes) => bytes.len(),
            Source::Wal(_, size_bytes, _) => *size_bytes as usize,
        }
    }
}

impl TailBatch {
    pub fn source(&self) -> Source {
        match self.flush.upgrade().and_then(|f| f.batch(self.slot)) {
            Some(bytes) => Source::Memory(bytes),
            None => Source::Wal(self.place, self.size_bytes, self.base_offset),
        }
    }
}

impl State {
    /// Takes back every append that is not durable.
    pub fn roll_back(&mut self) {
        for batch in self.tail.drain(self.durable..) {
            self.tail_bytes -= u64::from(batch.size_bytes);
        }
        self.take_back(self.high_watermark);
    }

    /// Makes `end` the log end again, after a batch was placed there that nobody took.
    fn take_back(&mut self, end: Offset) {
        self.log_end = end;
        self.producers.truncate(end);
        self.epochs.truncate_from_end(end);
    }

    /// The next batch of the tail became durable at `place`.
    pub fn make_durable(&mut self, place: Place) {
        let batch = &mut self.tail[self.durable];
        batch.place = place;
        self.high_watermark = batch.last_offset.plus(1);
        self.durable += 1;
    }

    /// Drops `count` batches from the front of the tail, and gives them to be released.
    pub fn drop_front(&mut self, count: usize) -> Vec<TailBatch> {
        assert!(count <= self.durable, "only durable batches leave the tail at its front");
        self.durable -= count;
        let dropped: Vec<_> = self.tail.drain(..count).collect();
        self.tail_bytes -= dropped.iter().map(|b| u64::from(b.size_bytes)).sum::<u64>();
        dropped
    }

    pub fn wake(&mut self) {
        for waiter in self.waiters.drain(..) {
            waiter.notify_one();
        }
    }

    fn offsets(&self) -> PartitionOffsets {
        PartitionOffsets {
            log_start: self.log_start,
            high_watermark: self.high_watermark,
            log_end: self.log_end,
        }
    }

    fn plan(&self, from: Offset, max_bytes: usize, min_one: bool) -> Result<Plan, ReadError> {
        if self.gone {
            return Err(ReadError::Gone);
        }
        if from < self.log_start || from > self.high_watermark {
            let (log_start, high_watermark) = (self.log_start, self.high_watermark);
            return Err(ReadError::OutOfRange { offset: from, log_start, high_watermark });
        }
        let at = self.segments.partition_point(|s| s.last_offset() < from);
        if let Some(segment) = self.segments.get(at) {
            return Ok(Plan::Segment(segment.clone(), self.segments.get(at + 1).cloned()));
        }
        let first = self.tail.partition_point(|b| b.last_offset < from);
        let (mut sources, mut size) = (Vec::new(), 0);
        for batch in self.tail.range(first..self.durable.max(first)) {
            size += batch.size_bytes as usize;
            if size > max_bytes && !(min_one && sources.is_empty()) {
                break;
            }
            sources.push(batch.source());
        }
        Ok(if sources.is_empty() { Plan::Nothing } else { Plan::Tail(sources) })
    }

    /// Places a batch at the end of the log.
    fn place(&mut self, batch: ValidBatch, epoch: LeaderEpoch, now_ms: i64) -> PlacedBatch {
        let placed = batch.place(self.log_end, epoch, now_ms);
        assert!(placed.base_offset == self.log_end && placed.last_offset >= placed.base_offset);
        self.epochs.assign(epoch, placed.base_offset);
        self.log_end = placed.last_offset.plus(1);
        if let Some(s) = placed.sequence {
            let seen = SeenBatch {
                epoch: s.epoch,
                first_sequence: s.first,
                last_sequence: s.last,
                base_offset: placed.base_offset,
                last_offset: placed.last_offset,
                timestamp_ms: now_ms,
            };
            self.producers.record(s.producer_id, seen, self.high_watermark);
        }
        placed
    }
}

/// One partition of the log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Partition {
    pub(super) inner: Arc<PartitionInner>,
    pub(super) log: Arc<Shared>,
}

impl Partition {
    pub fn id(&self) -> PartitionId {
        self.inner.id
    }

    pub fn topic_name(&self) -> &Arc<str> {
        &self.inner.topic_name
    }

    pub fn config(&self) -> Arc<TopicConfig> {
        self.inner.config.read().clone()
    }

    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.inner.leader_epoch()
    }

    pub fn offsets(&self) -> PartitionOffsets {
        self.inner.state.lock().offsets()
    }

    /// Whether it was handed over, abandoned or deleted since it was looked up.
    pub fn is_gone(&self) -> bool {
        self.inner.state.lock().gone
    }

    /// Bytes in segments and in the tail.
    pub fn size_bytes(&self) -> u64 {
        let state = self.inner.state.lock();
        state.segment_bytes + state.tail_bytes
    }

    /// Durable bytes from `from` on, counted until they are `enough`: what Fetch compares with min.bytes.
    pub fn available_bytes(&self, from: Offset, enough: usize) -> usize {
        let state = self.inner.state.lock();
        let mut available = 0usize;
        let first = state.segments.partition_point(|s| s.last_offset() < from);
        for segment in &state.segments[first..] {
            available = available.saturating_add(segment.at.size_bytes as usize);
            if available >= enough {
                return available;
            }
        }
        let first = state.tail.partition_point(|b| b.last_offset < from);
        for batch in state.tail.range(first..state.durable.max(first)) {
            available += batch.size_bytes as usize;
            if available >= enough {
                break;
            }
        }
        available
    }

    /// Wakes `notify` once, when the high watermark, the log start or the partition's existence changes next.
    pub fn wake_on_change(&self, notify: &Arc<Notify>) {
        let mut state = self.inner.state.lock();
        // A waiter that gave up leaves its entry behind until the next append; here they are swept.
        if state.waiters.len() >= 64 {
            state.waiters.retain(|w| Arc::strong_count(w) > 1);
        }
        if !state.waiters.iter().any(|w| Arc::ptr_eq(w, notify)) {
            state.waiters.push(notify.clone());
        }
    }

    /// Places a batch and hands it to the write-ahead log. The order of calls is the order of offsets.
    ///
    /// A batch that an idempotent producer sent before is not appended again: it resolves to its first offsets,
    /// when those are durable.
    pub fn append(&self, batch: ValidBatch) -> Result<Appended, AppendError> {
        let now_ms = self.log.clock.now_ms();
        let stamped = self.config().batch_rules.timestamp_type == TimestampType::LogAppendTime;
        let mut state = self.inner.state.lock();
        if state.gone || state.releasing {
            return Err(AppendError::Gone);
        }
        if let Some(sequence) = batch.sequence()
            && let Admission::Duplicate(seen) =
                state.producers.check(&sequence).map_err(AppendError::Sequence)?
        {
            return Ok(duplicate(&state, &seen, stamped));
        }
        let placed = state.place(batch, self.inner.leader_epoch(), now_ms);
        let mut tail_batch = TailBatch {
            base_offset: placed.base_offset,
            last_offset: placed.last_offset,
            max_timestamp_ms: placed.max_timestamp_ms,
            appended_ms: now_ms,
            size_bytes: placed.bytes.len() as u32,
            place: Place { file_no: 0, position: 0 },
            flush: Weak::new(),
            slot: 0,
        };
        let base_offset = placed.base_offset;
        let pending = PendingBatch { partition: self.inner.clone(), batch: placed, appended_ms: now_ms };
        match self.log.buffer.push(pending) {
            Ok((flush, slot)) => {
                tail_batch.flush = Arc::downgrade(&flush);
                tail_batch.slot = slot;
                state.tail_bytes += u64::from(tail_batch.size_bytes);
                state.tail.push_back(tail_batch);
                Ok(Appended {
                    base_offset,
                    log_append_time_ms: if stamped { now_ms } else { -1 },
                    log_start_offset: state.log_start,
                    durable: Durable(Some(flush)),
                })
            }
            Err(e) => {
                state.take_back(base_offset);
                Err(e)
            }
        }
    }

    /// Reads up to `max_bytes` of whole batches, from the one that holds `from` up to the high watermark.
    ///
    /// With `min_one`, the first batch is given even when it is larger (KIP-74).
    pub async fn read(
        &self,
        from: Offset,
        max_bytes: usize,
        min_one: bool,
    ) -> Result<ReadBatches, ReadError> {
        // A segment may be merged or dropped between the plan and the read; then the next plan knows better.
        const ATTEMPTS: usize = 3;
        let (mut from, mut attempt) = (from, 1);
        loop {
            let plan = self.inner.state.lock().plan(from, max_bytes, min_one)?;
            let chunks = match plan {
                Plan::Nothing => return Ok(ReadBatches::default()),
                Plan::Tail(sources) => self.log.load(sources).await,
                Plan::Segment(segment, following) => {
                    match self.log.read_segment(&segment, from, max_bytes, min_one).await {
                        // Compaction left nothing from here to the segment's end.
                        Ok(read) if read.size_bytes == 0 && read.next > from => {
                            from = read.next;
                            continue;
                        }
                        read => read.map(|r| {
                            if let Some(following) = following.filter(|_| is_near_end(&segment, r.next)) {
                                self.log.segments.prepare(&following.at);
                            }
                            r.chunks
                        }),
                    }
                }
            };
            match chunks {
                Ok(chunks) => {
                    let size_bytes = chunks.iter().map(Bytes::len).sum();
                    return Ok(ReadBatches { chunks, size_bytes });
                }
                Err(ReadError::Unavailable(_)) if attempt < ATTEMPTS => attempt += 1,
                Err(e) => return Err(e),
            }
        }
    }

    /// The first record whose timestamp is at least `target_ms`: its offset, timestamp and epoch.
    pub async fn offset_for_timestamp(
        &self,
        target_ms: i64,
    ) -> Result<Option<(Offset, i64, LeaderEpoch)>, ReadError> {
        let (segments, tail, log_start) = {
            let state = self.inner.state.lock();
            let in_reach =
                |s: &&StoredSegment| s.max_timestamp_ms >= target_ms && s.last_offset() >= state.log_start;
            let segments: Vec<_> = state.segments.iter().filter(in_reach).cloned().collect();
            let in_reach =
                |b: &&TailBatch| b.max_timestamp_ms >= target_ms && b.last_offset >= state.log_start;
            let tail = state.tail.iter().take(state.durable).find(in_reach).map(TailBatch::source);
            (segments, tail, state.log_start)
        };
        for segment in segments {
            if let Some(found) = self.log.find_in_segment(&segment, target_ms, log_start).await? {
                return Ok(Some(self.with_epoch(found)));
            }
        }
        let Some(source) = tail else { return Ok(None) };
        let found = find_in_batch(&self.log.load(vec![source]).await?[0], target_ms)?;
        Ok(found.map(|(offset, timestamp_ms)| self.with_epoch((offset.max(log_start), timestamp_ms))))
    }

    /// The record with the largest timestamp (ListOffsets -3, KIP-734).
    pub async fn max_timestamp(&self) -> Result<Option<(Offset, i64, LeaderEpoch)>, ReadError> {
        let largest = {
            let state = self.inner.state.lock();
            let segments = state.segments.iter().map(|s| s.max_timestamp_ms);
            segments.chain(state.tail.iter().take(state.durable).map(|b| b.max_timestamp_ms)).max()
        };
        match largest {
            Some(largest) if largest >= 0 => self.offset_for_timestamp(largest).await,
            Some(_) | None => Ok(None),
        }
    }

    /// The epoch of the record at `offset`.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.inner.state.lock().epochs.epoch_at(offset)
    }

    /// Where an epoch ended (OffsetForLeaderEpoch, KIP-101).
    pub fn end_of_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let state = self.inner.state.lock();
        state.epochs.end_of(epoch, self.inner.leader_epoch(), state.high_watermark)
    }

    /// Moves the log start up, durably (DeleteRecords). Gives the new log start.
    pub async fn delete_records(&self, before: Offset) -> Result<Offset, ReadError> {
        super::retention::delete_records(&self.log, &self.inner, before).await
    }

    /// The last batch of every producer (DescribeProducers).
    pub fn producers(&self) -> Vec<(ProducerId, SeenBatch)> {
        let state = self.inner.state.lock();
        let snapshot = state.producers.snapshot(state.high_watermark);
        snapshot.into_iter().filter_map(|(id, batches)| Some((id, *batches.last()?))).collect()
    }

    fn with_epoch(&self, (offset, timestamp_ms): (Offset, i64)) -> (Offset, i64, LeaderEpoch) {
        (offset, timestamp_ms, self.epoch_at(offset).unwrap_or(self.inner.leader_epoch()))
    }
}

/// Whether one who reads on from here soon needs the next segment.
fn is_near_end(segment: &StoredSegment, next: Offset) -> bool {
    let (base, last) = (segment.at.base_offset.0, segment.last_offset().0);
    last - next.0 <= (last - base) / 2
}

fn duplicate(state: &State, seen: &SeenBatch, stamped: bool) -> Appended {
    // Not durable yet: the first append decides. Its flush is alive as long as it is pending.
    let pending = (seen.last_offset >= state.high_watermark).then(|| {
        let at = state.tail.partition_point(|b| b.base_offset < seen.base_offset);
        state.tail.get(at).and_then(|b| b.flush.upgrade())
    });
    Appended {
        base_offset: seen.base_offset,
        log_append_time_ms: if stamped { seen.timestamp_ms } else { -1 },
        log_start_offset: state.log_start,
        durable: Durable(pending.flatten()),
    }
}

/// The first record of a batch at or after a time.
pub(super) fn find_in_batch(batch: &[u8], target_ms: i64) -> Result<Option<(Offset, i64)>, ReadError> {
    let header = BatchHeader::parse(batch).map_err(|e| ReadError::Corrupt(e.to_string()))?;
    records::first_at_or_after(&header, batch, target_ms).map_err(|e| ReadError::Corrupt(e.to_string()))
}
