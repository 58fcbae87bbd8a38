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
use kafscale_core::times::Times;
use kafscale_core::topic_config::TopicConfig;
use kafscale_meta::Revision;
use parking_lot::{Mutex, RwLock};

use super::flush::{Flush, PendingBatch};
use super::manifest::StoredSegment;
use super::shared::{Loaded, Shared};
use super::watch::{Watcher, Watchers};
use crate::compute::{self, Requester};
use crate::error::{AppendError, ReadError};
use crate::segment::SegmentError;
use crate::wal::chain_id::ChainId;
use crate::wal::files::Place;

/// So many batches are looked at in one go.
const SCAN_BATCHES: usize = 4096;

/// The tail of a partition keeps room for so many batches.
const TAIL_ROOM_KEPT: usize = 1024;

/// A batch above the segments.
#[derive(Debug, Clone)]
pub struct TailBatch {
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub max_timestamp_ms: i64,
    /// `None` where it was replayed: its records were not looked at.
    pub times: Option<Times>,
    pub appended_ms: i64,
    pub size_bytes: u32,
    /// Bytes of the tail before it; the differences count, as batches leave the tail at its front.
    pub starts_at: u64,
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
    /// Records at the end of the log may be lost: what is known is read, and nothing is appended.
    pub held: Option<Held>,
    /// Guards the next write of the partition's record.
    pub revision: Option<Revision>,
    /// It is not known what became of the last write of the partition's record.
    pub unsettled: bool,
    pub(super) watchers: Watchers,
}

/// Why nothing is appended to a partition. Which offsets its last records had only an object knew that is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub chain: ChainId,
    pub seq: u64,
    pub why: String,
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

impl ReadBatches {
    fn of(chunks: Vec<Bytes>) -> ReadBatches {
        let size_bytes = chunks.iter().map(Bytes::len).sum();
        ReadBatches { chunks, size_bytes }
    }
}

/// Where a read finds its records.
enum Plan {
    Nothing,
    Tail(Vec<Source>),
    /// A segment, and the one after it.
    Segment(StoredSegment, Option<StoredSegment>),
    /// No segment holds the records up to this one.
    Hole(Offset),
}

/// A batch of the tail, in memory or to be read back.
#[derive(Debug)]
pub enum Source {
    Memory(Bytes),
    /// Boxed: most are in memory, and those are not to be moved about in the size of this.
    Wal(Box<WalBatch>),
}

/// A batch that is read back, and what it must say.
#[derive(Debug, Clone, Copy)]
pub struct WalBatch {
    pub place: Place,
    pub size_bytes: u32,
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub leader_epoch: Option<LeaderEpoch>,
    pub max_timestamp_ms: i64,
}

impl Source {
    pub fn size_bytes(&self) -> usize {
        match self {
            Source::Memory(bytes) => bytes.len(),
            Source::Wal(batch) => batch.size_bytes as usize,
        }
    }
}

impl TailBatch {
    fn ends_at(&self) -> u64 {
        self.starts_at + u64::from(self.size_bytes)
    }

    /// `epochs` are those of the partition.
    pub fn source(&self, epochs: &EpochCache) -> Source {
        match self.flush.upgrade().and_then(|f| f.batch(self.slot)) {
            Some(bytes) => Source::Memory(bytes),
            None => Source::Wal(Box::new(WalBatch {
                place: self.place,
                size_bytes: self.size_bytes,
                base_offset: self.base_offset,
                last_offset: self.last_offset,
                leader_epoch: epochs.epoch_at(self.base_offset),
                max_timestamp_ms: self.max_timestamp_ms,
            })),
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

    /// The last offset in segments.
    fn stored_through(&self) -> Option<Offset> {
        self.segments.last().map(StoredSegment::last_offset)
    }

    /// Where the next batch of the tail starts.
    pub fn tail_end(&self) -> u64 {
        self.tail.back().map_or(0, TailBatch::ends_at)
    }

    /// Durable bytes of the tail from `from` on. Polls ask for it at each append: it must not depend on how many batches there are.
    fn durable_tail_bytes(&self, from: Offset) -> u64 {
        let first = self.tail.partition_point(|b| b.last_offset < from);
        let Some(last) = self.durable.checked_sub(1).filter(|last| first <= *last) else { return 0 };
        self.tail[last].ends_at() - self.tail[first].starts_at
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
        // A burst of small batches leaves room for millions.
        if self.tail.capacity() > TAIL_ROOM_KEPT.max(4 * self.tail.len()) {
            self.tail.shrink_to(TAIL_ROOM_KEPT.max(2 * self.tail.len()));
        }
        self.tail_bytes -= dropped.iter().map(|b| u64::from(b.size_bytes)).sum::<u64>();
        dropped
    }

    pub fn wake(&mut self) {
        self.watchers.wake();
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
            if segment.at.base_offset > from {
                return Ok(Plan::Hole(Offset(segment.at.base_offset.0 - 1)));
            }
            return Ok(Plan::Segment(segment.clone(), self.segments.get(at + 1).cloned()));
        }
        let first = self.tail.partition_point(|b| b.last_offset < from);
        let (mut sources, mut size) = (Vec::new(), 0);
        for batch in self.tail.range(first..self.durable.max(first)) {
            size += batch.size_bytes as usize;
            if size > max_bytes && !(min_one && sources.is_empty()) {
                break;
            }
            sources.push(batch.source(&self.epochs));
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

    /// Why it takes no records, although what is there is read.
    pub fn held(&self) -> Option<String> {
        self.inner.state.lock().held.as_ref().map(|held| held.why.clone())
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
        let tail = usize::try_from(state.durable_tail_bytes(from)).unwrap_or(usize::MAX);
        available.saturating_add(tail)
    }

    /// Wakes `watcher` once with `name`, when the high watermark, the log start or the partition's existence changes next.
    pub fn wake_on_change(&self, watcher: &Arc<Watcher>, name: u32) {
        self.inner.state.lock().watchers.add(watcher, name);
    }

    /// Places a batch and hands it to the write-ahead log. The order of calls is the order of offsets.
    ///
    /// A batch that an idempotent producer sent before is not appended again: it resolves to its first offsets,
    /// when those are durable.
    pub fn append(&self, batch: ValidBatch) -> Result<Appended, AppendError> {
        let now_ms = self.log.clock.now_ms();
        let stamped = self.config().batch_rules.timestamp_type == TimestampType::LogAppendTime;
        if let Some(why) = self.log.refuses_appends() {
            return Err(AppendError::Unavailable(why));
        }
        let mut state = self.inner.state.lock();
        if state.gone || state.releasing {
            return Err(AppendError::Gone);
        }
        if let Some(held) = &state.held {
            return Err(AppendError::Unavailable(held.why.clone()));
        }
        if let Some(sequence) = batch.sequence()
            && let Admission::Duplicate(seen) =
                state.producers.check(&sequence, state.log_end).map_err(AppendError::Sequence)?
        {
            return Ok(duplicate(&state, &seen, stamped));
        }
        let producers = state.producers.len();
        let placed = state.place(batch, self.inner.leader_epoch(), now_ms);
        self.log.new_windows.add(state.producers.len().saturating_sub(producers));
        let mut tail_batch = TailBatch {
            base_offset: placed.base_offset,
            last_offset: placed.last_offset,
            max_timestamp_ms: placed.max_timestamp_ms,
            times: placed.times,
            appended_ms: now_ms,
            size_bytes: placed.bytes.len() as u32,
            starts_at: state.tail_end(),
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

    /// What [`Partition::read`] gives, where that is in memory at the end of the log.
    pub fn read_now(
        &self,
        from: Offset,
        max_bytes: usize,
        min_one: bool,
    ) -> Result<Option<ReadBatches>, ReadError> {
        let plan = self.inner.state.lock().plan(from, max_bytes, min_one)?;
        match plan {
            Plan::Nothing => Ok(Some(ReadBatches::default())),
            Plan::Tail(sources) => Ok(self.log.all_in_memory(sources).ok().map(ReadBatches::of)),
            Plan::Segment(..) | Plan::Hole(_) => Ok(None),
        }
    }

    /// Reads up to `max_bytes` of whole batches, from the one that holds `from` up to the high watermark.
    ///
    /// With `min_one`, the first batch is given even when it is larger (KIP-74). A damaged batch ends the read before it; when it is
    /// the first, the read fails, and one from behind it succeeds.
    pub async fn read(
        &self,
        from: Offset,
        max_bytes: usize,
        min_one: bool,
    ) -> Result<ReadBatches, ReadError> {
        let plan = self.inner.state.lock().plan(from, max_bytes, min_one)?;
        let plan = match plan {
            Plan::Nothing => return Ok(ReadBatches::default()),
            Plan::Tail(sources) => match self.log.all_in_memory(sources) {
                Ok(chunks) => return Ok(ReadBatches::of(chunks)),
                Err(sources) => Plan::Tail(sources),
            },
            stored => stored,
        };
        // In memory of its own: else every fetch would move what only this needs.
        Box::pin(self.read_stored(plan, from, max_bytes, min_one)).await
    }

    /// [`read`](Self::read) of what is not all in memory.
    async fn read_stored(
        &self,
        plan: Plan,
        from: Offset,
        max_bytes: usize,
        min_one: bool,
    ) -> Result<ReadBatches, ReadError> {
        // A segment may be merged or dropped between the plan and the read; then the next plan knows better.
        const ATTEMPTS: usize = 3;
        let (mut plan, mut from, mut attempt) = (plan, from, 1);
        loop {
            let last_attempt = attempt == ATTEMPTS;
            let chunks = match plan {
                Plan::Nothing => return Ok(ReadBatches::default()),
                Plan::Hole(last) => return Err(self.log.damaged_hole(&self.inner, from, last)),
                Plan::Tail(sources) => self.read_tail(sources, last_attempt).await?,
                Plan::Segment(segment, following) => {
                    match self.log.read_segment(&segment, from, max_bytes, min_one).await {
                        // Compaction left nothing from here to the segment's end.
                        Ok(read) if read.size_bytes == 0 && read.next > from => {
                            from = read.next;
                            plan = self.inner.state.lock().plan(from, max_bytes, min_one)?;
                            continue;
                        }
                        Ok(r) => {
                            if let Some(following) = following.filter(|_| is_near_end(&segment, r.next)) {
                                self.log.segments.prepare(&following.at);
                            }
                            Ok(r.chunks)
                        }
                        // One that is there and is not given is in the next plan too.
                        Err(e) if !e.is_corrupt() && !e.is_not_found() => {
                            return Err(ReadError::Unavailable(e.to_string()));
                        }
                        Err(e) => Err(self.segment_error(&segment, e, last_attempt).await),
                    }
                }
            };
            match chunks {
                Ok(chunks) => return Ok(ReadBatches::of(chunks)),
                Err(ReadError::Unavailable(_)) if !last_attempt => attempt += 1,
                Err(e) => return Err(e),
            }
            plan = self.inner.state.lock().plan(from, max_bytes, min_one)?;
        }
    }

    /// Batches of the tail up to the first that is damaged or not given. The inner error is one that the next plan may know better; the
    /// outer one is in the next plan too.
    async fn read_tail(
        &self,
        sources: Vec<Source>,
        last_attempt: bool,
    ) -> Result<Result<Vec<Bytes>, ReadError>, ReadError> {
        let sources = match self.log.all_in_memory(sources) {
            Ok(chunks) => return Ok(Ok(chunks)),
            Err(sources) => sources,
        };
        let mut chunks = Vec::with_capacity(sources.len());
        let loaded = match self.log.load(sources).await {
            Ok(loaded) => loaded,
            Err(error) => return Ok(Err(error)),
        };
        for loaded in loaded {
            match loaded {
                Loaded::Sound(bytes) => chunks.push(bytes),
                Loaded::Missing { why, .. } if !last_attempt => {
                    return Ok(Err(ReadError::Unavailable(why)));
                }
                Loaded::Damaged { .. } | Loaded::Missing { .. } | Loaded::Away { .. }
                    if !chunks.is_empty() =>
                {
                    break;
                }
                Loaded::Away { why } => return Err(ReadError::Unavailable(why)),
                Loaded::Missing { batch, why } if !self.is_lost(&batch).await => {
                    return Err(ReadError::Unavailable(why));
                }
                Loaded::Damaged { batch, why, .. } | Loaded::Missing { batch, why } => {
                    return Err(self.log.damaged(&self.inner, &batch, why));
                }
            }
        }
        Ok(Ok(chunks))
    }

    /// Whether an object of the write-ahead log that is not there is missed.
    async fn is_lost(&self, batch: &WalBatch) -> bool {
        let object = self.log.files.describe(batch.place.file_no);
        self.log.damages().age_of(&object, self.topic_name(), self.id().index, batch.base_offset).is_some()
            || self.is_owner().await
    }

    /// What an error of a segment means for a reader. One that is not there, although the partition names it still, is lost.
    async fn segment_error(
        &self,
        segment: &StoredSegment,
        error: SegmentError,
        last_attempt: bool,
    ) -> ReadError {
        let is_named = || self.inner.state.lock().segments.iter().any(|s| s.at.path == segment.at.path);
        let is_lost = async || self.log.damages().is_damaged(&segment.at.path) || self.is_owner().await;
        if error.is_corrupt() || (last_attempt && error.is_not_found() && is_lost().await && is_named()) {
            return self.log.damaged_segment(segment, error);
        }
        ReadError::Unavailable(error.to_string())
    }

    /// Whether the partition is surely still this broker's: its successor deletes what this one knows.
    async fn is_owner(&self) -> bool {
        if self.log.chain.is_none() {
            return true;
        }
        match self.log.buffer.prove() {
            Ok(proof) => proof.wait().await.is_ok(),
            Err(_) => false,
        }
    }

    /// The first record whose timestamp is at least `target_ms`: its offset, timestamp and epoch. Where it may be in a damaged
    /// batch, the beginning of that: who reads on from there learns of it.
    pub async fn offset_for_timestamp(
        &self,
        requester: Requester,
        target_ms: i64,
    ) -> Result<Option<(Offset, i64, LeaderEpoch)>, ReadError> {
        let _turn = compute::lookup_turn(requester).await;
        loop {
            let (segments, log_start, through) = {
                let state = self.inner.state.lock();
                let in_reach = |s: &&StoredSegment| {
                    s.max_timestamp_ms >= target_ms && s.last_offset() >= state.log_start
                };
                let segments: Vec<_> = state.segments.iter().filter(in_reach).cloned().collect();
                (segments, state.log_start, state.stored_through())
            };
            for segment in segments {
                match self.log.find_in_segment(requester, &segment, target_ms, log_start).await {
                    Ok(Some(found)) => return Ok(Some(self.with_epoch(found))),
                    Ok(None) => {}
                    Err(e) if e.is_corrupt() => {
                        self.log.damaged_segment(&segment, e);
                        let found = (segment.at.base_offset.max(log_start), segment.max_timestamp_ms);
                        return Ok(Some(self.with_epoch(found)));
                    }
                    Err(e) => return Err(ReadError::Unavailable(e.to_string())),
                }
            }
            let in_reach = |b: &TailBatch| b.max_timestamp_ms >= target_ms && b.last_offset >= log_start;
            let tail = self.scan_tail(|batch, epochs| in_reach(batch).then(|| batch.source(epochs))).await;
            if self.inner.state.lock().stored_through() == through {
                return self.find_in_tail(requester, tail, target_ms, log_start).await;
            }
            // Batches went from the tail to a segment meanwhile, and may have been missed.
        }
    }

    async fn find_in_tail(
        &self,
        requester: Requester,
        tail: Option<Source>,
        target_ms: i64,
        log_start: Offset,
    ) -> Result<Option<(Offset, i64, LeaderEpoch)>, ReadError> {
        let Some(source) = tail else { return Ok(None) };
        let found = match self.log.load(vec![source]).await?.pop().expect("one was asked for") {
            Loaded::Sound(bytes) => find_in_batch(requester, bytes, target_ms).await?,
            Loaded::Damaged { batch, why, .. } => {
                self.log.damaged(&self.inner, &batch, why);
                Some((batch.base_offset, batch.max_timestamp_ms))
            }
            Loaded::Missing { why, .. } | Loaded::Away { why } => return Err(ReadError::Unavailable(why)),
        };
        Ok(found.map(|(offset, timestamp_ms)| self.with_epoch((offset.max(log_start), timestamp_ms))))
    }

    /// The record with the largest timestamp (ListOffsets -3, KIP-734).
    pub async fn max_timestamp(
        &self,
        requester: Requester,
    ) -> Result<Option<(Offset, i64, LeaderEpoch)>, ReadError> {
        let mut largest = self.inner.state.lock().segments.iter().map(|s| s.max_timestamp_ms).max();
        self.scan_tail(|batch, _| -> Option<()> {
            largest = largest.max(Some(batch.max_timestamp_ms));
            None
        })
        .await;
        match largest {
            Some(largest) if largest >= 0 => self.offset_for_timestamp(requester, largest).await,
            Some(_) | None => Ok(None),
        }
    }

    /// Looks at the durable batches of the tail, oldest first, until something is found. There may be millions: others have their turns
    /// in between.
    async fn scan_tail<T>(&self, mut look: impl FnMut(&TailBatch, &EpochCache) -> Option<T>) -> Option<T> {
        let mut next = Offset(0);
        loop {
            {
                let state = self.inner.state.lock();
                let first = state.tail.partition_point(|b| b.base_offset < next);
                let end = state.durable.min(first + SCAN_BATCHES).max(first);
                for batch in state.tail.range(first..end) {
                    let found = look(batch, &state.epochs);
                    if found.is_some() {
                        return found;
                    }
                    next = batch.last_offset.plus(1);
                }
                if end >= state.durable {
                    return None;
                }
            }
            tokio::task::yield_now().await;
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
        snapshot.producers.into_iter().filter_map(|(id, batches)| Some((id, *batches.last()?))).collect()
    }

    /// How many producers [`Partition::producers`] gives, or some more.
    pub fn producer_count(&self) -> usize {
        self.inner.state.lock().producers.len()
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
async fn find_in_batch(
    requester: Requester,
    batch: Bytes,
    target_ms: i64,
) -> Result<Option<(Offset, i64)>, ReadError> {
    let header = BatchHeader::parse(&batch).map_err(|e| ReadError::Corrupt(e.to_string()))?;
    let found = compute::first_at_or_after(requester, header, batch, target_ms).await;
    found.map_err(|e| ReadError::Unavailable(e.to_string()))?.map_err(|e| ReadError::Corrupt(e.to_string()))
}
