//! Reading the batches of a partition in the order of their offsets.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::stream;
use kafscale_core::backoff::Backoff;
use kafscale_core::batch::BatchHeader;
use kafscale_core::ids::{Offset, PartitionId};

use super::batches::whole_batches;
use super::error::Step;
use super::partition::Pinned;
use super::snapshot::{Bounds, Snapshot, pin_all};
use super::{ScanError, Source, TopicInfo, tail};
use crate::log::manifest::{StoredSegment, directory};
use crate::segment::Stretch;

/// What is asked for at a time.
const PIECE_BYTES: usize = 4 << 20;
const TAIL_BATCHES: usize = 256;

/// So often objects may go away at one offset, before somebody is told that the log is faster.
const ATTEMPTS: u32 = 6;

/// A batch as it is stored.
#[derive(Debug, Clone)]
pub struct ScannedBatch {
    pub partition: i32,
    /// A record batch of version 2, compressed as it was sent, its CRC32C compared. `header` is its beginning, read.
    pub data: Bytes,
    pub header: BatchHeader,
    /// The path of the object or file that it came from.
    pub object: Arc<str>,
}

impl ScannedBatch {
    /// Whether its records are marks of the log itself and no records of a producer.
    pub fn is_control(&self) -> bool {
        self.header.is_control()
    }
}

impl Snapshot {
    /// The batches of a partition that have offsets within the bounds, in the order of offsets. The first and the last one may have
    /// records outside: whoever takes the records apart leaves those out, by the bounds and by the partition's range.
    ///
    /// The stream ends with its first error. Behind damage, which says which offsets it concerns, another read can go on.
    pub fn read(
        &self,
        partition: i32,
        bounds: Bounds,
    ) -> impl Stream<Item = Result<ScannedBatch, ScanError>> + Send + use<> {
        let reading = match self.partition(partition) {
            Some(pinned) => Ok(self.reading(pinned, bounds)),
            None => Err(self.no_partition(partition)),
        };
        stream::try_unfold(Some(reading), |reading| async move {
            let Some(reading) = reading else { return Ok(None) };
            let mut reading = reading?;
            Ok(reading.next().await?.map(|batch| (batch, Some(Ok(reading)))))
        })
    }

    pub(super) fn reading(&self, pinned: &Arc<Pinned>, bounds: Bounds) -> Reading {
        let offsets = pinned.clamp(&bounds.offsets);
        Reading {
            source: Arc::clone(&self.source),
            topic: Arc::clone(&self.topic),
            pinned: Arc::clone(pinned),
            bounds,
            next: offsets.start,
            end: offsets.end,
            ready: VecDeque::new(),
            failures: 0,
            waits: waits(u64::from(pinned.index.unsigned_abs())),
        }
    }
}

/// What waits between two looks at a log that moves.
pub(super) fn waits(seed: u64) -> Backoff {
    Backoff::new(Duration::from_millis(10), Duration::from_millis(500), seed)
}

/// How far a read is.
pub(super) struct Reading {
    source: Arc<Source>,
    topic: Arc<TopicInfo>,
    pinned: Arc<Pinned>,
    bounds: Bounds,
    next: Offset,
    end: Offset,
    ready: VecDeque<ScannedBatch>,
    /// Since something was read.
    failures: u32,
    waits: Backoff,
}

impl Reading {
    pub async fn next(&mut self) -> Result<Option<ScannedBatch>, ScanError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            if self.next >= self.end {
                return Ok(None);
            }
            match self.fill().await {
                Ok(()) => {
                    self.failures = 0;
                    self.waits.reset();
                }
                Err(Step::Moved(why)) => self.look_again(why).await?,
                Err(Step::Failed(error)) => return Err(error),
            }
        }
    }

    /// Reads on. What it takes is behind `next` afterwards, also where it is nothing that is wanted.
    async fn fill(&mut self) -> Result<(), Step> {
        let pinned = Arc::clone(&self.pinned);
        match pinned.segment_at(self.next) {
            Some(segment) if segment.at.base_offset > self.next => Err(self.hole(segment).into()),
            Some(segment) => self.fill_from_segment(segment).await,
            None => self.fill_from_tail(&pinned).await,
        }
    }

    /// Segments follow each other, also where log cleaning has left nothing in between.
    fn hole(&self, next: &StoredSegment) -> ScanError {
        let (first, last) = (self.next, Offset(next.at.base_offset.0 - 1));
        let id = PartitionId { topic: self.topic.topic_id(), index: self.pinned.index };
        let object = directory(&self.topic.name, id).into();
        let why = format!("no segment holds offsets {first} to {last}");
        ScanError::Damaged { object, position: 0, first, last, why }
    }

    async fn fill_from_segment(&mut self, segment: &StoredSegment) -> Result<(), Step> {
        let behind = segment.last_offset().plus(1);
        if segment.at.base_offset >= self.end || !self.bounds.reach(segment) {
            self.next = behind;
            return Ok(());
        }
        let segments = &self.source.segments;
        let times = self.bounds.times_in(segment);
        let stretch = segments.next_stretch(&segment.at, self.next, self.end, times).await;
        let Some(Stretch { from, until, bytes }) = stretch.map_err(Step::of_segment)? else {
            self.next = behind;
            return Ok(());
        };
        let max_bytes = usize::try_from(bytes).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        if until >= behind
            && max_bytes < PIECE_BYTES
            && behind < self.end
            && let Some(next) = self.pinned.segment_at(behind)
        {
            segments.prepare(&next.at);
        }
        let read = segments.read(&segment.at, from, max_bytes, true).await.map_err(Step::of_segment)?;
        let mut next = read.next.min(until);
        let (batches, damaged) = whole_batches(read, segment);
        // What stands before damage is given first; the next read then begins with it.
        if let Some((first, error)) = damaged {
            if batches.is_empty() {
                return Err(error.into());
            }
            next = next.min(first);
        }
        for (data, header) in batches {
            if header.base_offset < until {
                self.take(data, header, &segment.at.path);
            }
        }
        assert!(next > self.next, "a read gets on");
        self.next = next;
        Ok(())
    }

    async fn fill_from_tail(&mut self, pinned: &Pinned) -> Result<(), Step> {
        let (mut wanted, mut bytes) = (Vec::new(), 0);
        let reaching = pinned.tail_from(self.next).iter().take_while(|batch| batch.base_offset < self.end);
        let mut behind = self.end;
        for batch in reaching {
            if wanted.len() == TAIL_BATCHES || bytes >= PIECE_BYTES {
                behind = batch.base_offset;
                break;
            }
            let is_wanted = self.bounds.reach_times(batch.max_timestamp_ms, batch.min_timestamp_ms);
            if is_wanted || batch.size_bytes == 0 {
                bytes += batch.size_bytes as usize;
                wanted.push(batch.clone());
            }
        }
        let read = tail::read(&self.source.store, &wanted).await;
        for (batch, bytes) in wanted.iter().zip(read) {
            match bytes {
                Ok(bytes) => {
                    let header = BatchHeader::parse(&bytes).expect("it was compared with its index entry");
                    self.take(bytes, header, &batch.object);
                    self.next = batch.last_offset.plus(1);
                }
                // What stands before it is given first.
                Err(_) if !self.ready.is_empty() => {
                    self.next = batch.base_offset.max(self.next);
                    return Ok(());
                }
                Err(step) => {
                    self.next = batch.base_offset.max(self.next);
                    return Err(step);
                }
            }
        }
        self.next = behind;
        Ok(())
    }

    /// Keeps a batch that is within the bounds.
    fn take(&mut self, data: Bytes, header: BatchHeader, object: &Arc<str>) {
        let Bounds { min_timestamp, max_timestamp, .. } = self.bounds;
        let too_old = min_timestamp.is_some_and(|min| header.max_timestamp_ms < min);
        // All of its records have this one timestamp.
        let too_new =
            header.is_log_append_time() && max_timestamp.is_some_and(|max| header.max_timestamp_ms > max);
        let outside = header.last_offset() < self.next || header.base_offset >= self.end;
        if !(too_old || too_new || outside) {
            let (partition, object) = (self.pinned.index, Arc::clone(object));
            self.ready.push_back(ScannedBatch { partition, data, header, object });
        }
    }

    /// An object went away: looks where its records are now.
    async fn look_again(&mut self, why: String) -> Result<(), ScanError> {
        let (topic, partition, offset) = (self.topic.name.clone(), self.pinned.index, self.next);
        self.failures += 1;
        if self.failures == ATTEMPTS {
            return Err(ScanError::Busy { topic, partition, offset, why });
        }
        tracing::debug!(%topic, partition, %offset, why, "the log has moved; reading on by a new manifest");
        tokio::time::sleep(self.waits.pause()).await;
        let now = pin_all(&self.source, &self.topic, &[partition]).await?.remove(0);
        if now.start > offset {
            return Err(ScanError::Removed { topic, partition, offset, log_start: now.start });
        }
        if now.end < self.end {
            return Err(ScanError::BeyondEnd { topic, partition, offset: self.end, log_end: now.end });
        }
        if let Some(offset) = self.pinned.cleaned_in(&now, offset) {
            return Err(ScanError::Cleaned { topic, partition, offset });
        }
        let (start, end) = (self.pinned.start, self.pinned.end);
        self.pinned = Arc::new(Pinned { start, end, ..now });
        Ok(())
    }
}
