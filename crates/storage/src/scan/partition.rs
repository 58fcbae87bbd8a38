//! One partition as of one moment: its segments, and the batches of the write-ahead log behind them.

use std::sync::Arc;

use kafscale_core::batch::NO_TIMESTAMP;
use kafscale_core::ids::{LeaderEpoch, Offset, PartitionId};
use kafscale_meta::Revision;
use kafscale_meta::records::PartitionRecord;

use super::tail::{Medium, TailBatch};
use super::{Range, ScanError, TopicInfo};
use crate::log::manifest::{Manifest, StoredSegment, directory};
use crate::log::superseded::{Written, take_out};

/// What a partition held.
#[derive(Debug, Clone)]
pub(super) struct Pinned {
    pub index: i32,
    pub start: Offset,
    pub end: Offset,
    /// In the order of their offsets, as all lists of these are.
    pub segments: Arc<[StoredSegment]>,
    /// Behind the segments, without a hole.
    pub tail: Arc<[TailBatch]>,
}

impl Pinned {
    /// `above` has the batches of the partition in the write-ahead log, in any order. As recovery does it: what segments have counts from
    /// them, and what follows must follow without a hole, but for what was in an object that a person has given up.
    pub fn of(
        topic: &TopicInfo,
        index: i32,
        record: Option<(PartitionRecord, Revision)>,
        mut above: Vec<TailBatch>,
        given_up: Option<&Arc<str>>,
    ) -> Result<Pinned, ScanError> {
        let id = PartitionId { topic: topic.topic_id(), index };
        let Manifest { log_start, segments, epochs, .. } =
            Manifest::from_records(&directory(&topic.name, id), record, None);
        let mut end = segments.last().map_or(log_start, |s| s.last_offset().plus(1)).max(log_start);
        // In the order of the log.
        take_out(&mut above, epochs.starts(), |batch| Written {
            leader_epoch: batch.leader_epoch,
            base_offset: batch.base_offset,
        });
        let mut tail: Vec<TailBatch> = Vec::with_capacity(above.len());
        for batch in above {
            if batch.last_offset < end {
                continue;
            }
            if batch.base_offset > end {
                let Some(object) = given_up else {
                    let (log_end, found) = (end, batch.base_offset);
                    return Err(ScanError::Gap {
                        topic: topic.name.clone(),
                        partition: index,
                        log_end,
                        found,
                    });
                };
                tail.push(TailBatch::given_up(object, end, Offset(batch.base_offset.0 - 1)));
            }
            end = batch.last_offset.plus(1);
            tail.push(batch);
        }
        Ok(Pinned { index, start: log_start, end, segments: segments.into(), tail: tail.into() })
    }

    pub fn range(&self) -> Range {
        Range { partition: self.index, start: self.start.0, end: self.end.0 }
    }

    /// The wanted offsets that there are.
    pub fn clamp(&self, offsets: &std::ops::Range<i64>) -> std::ops::Range<Offset> {
        let start = self.start.max(Offset(offsets.start));
        start..self.end.min(Offset(offsets.end)).max(start)
    }

    /// The segment in which reading goes on at `from`.
    pub fn segment_at(&self, from: Offset) -> Option<&StoredSegment> {
        self.segments.get(self.segments.partition_point(|s| s.last_offset() < from))
    }

    /// The batches of the tail that reach to `from` or above.
    pub fn tail_from(&self, from: Offset) -> &[TailBatch] {
        &self.tail[self.tail.partition_point(|b| b.last_offset < from)..]
    }

    /// The first offset at or above `from` where log cleaning has taken out records since `self` was pinned, as `now` says.
    pub fn cleaned_in(&self, now: &Pinned, from: Offset) -> Option<Offset> {
        let is_new = |segment: &&StoredSegment| {
            segment.compacted
                && segment.last_offset() >= from
                && segment.at.base_offset < self.end
                && !self.segments.iter().any(|known| known.at.path == segment.at.path)
        };
        now.segments.iter().filter(is_new).find_map(|segment| {
            let (first, last) = (segment.at.base_offset, segment.last_offset());
            let before = self.records_within(first, last);
            (before != Some(segment.records)).then_some(first.max(from))
        })
    }

    /// How many records the offsets have; `None` where that is not known without reading.
    fn records_within(&self, first: Offset, last: Offset) -> Option<u64> {
        let parts = self.segments.iter().map(|s| (s.at.base_offset, s.last_offset(), s.records));
        let parts = parts.chain(self.tail.iter().map(|b| (b.base_offset, b.last_offset, b.records)));
        let mut sum = 0;
        for (base, end, records) in parts.filter(|(base, end, _)| *end >= first && *base <= last) {
            if base < first || end > last {
                return None;
            }
            sum += records;
        }
        Some(sum)
    }
}

impl TailBatch {
    /// Stands for records in an object that was lost.
    fn given_up(object: &Arc<str>, base_offset: Offset, last_offset: Offset) -> TailBatch {
        TailBatch {
            object: Arc::clone(object),
            position: 0,
            size_bytes: 0,
            base_offset,
            last_offset,
            leader_epoch: LeaderEpoch(0),
            max_timestamp_ms: NO_TIMESTAMP,
            min_timestamp_ms: None,
            records: 0,
            medium: Medium::GivenUp,
        }
    }
}
