//! A topic as of one moment.

use std::collections::HashSet;
use std::sync::Arc;

use kafscale_core::ids::{Offset, PartitionId};
use serde::{Deserialize, Serialize};

use super::error::Step;
use super::partition::Pinned;
use super::{ScanError, Source, TopicInfo};
use crate::log::load::load_records;
use crate::log::manifest::StoredSegment;
use crate::segment::WantedTimes;

/// Objects and files may be freed while they are looked at; then everything is looked at anew.
const ATTEMPTS: usize = 5;

/// Offsets of a partition, from `start` up to and without `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    pub partition: i32,
    pub start: i64,
    pub end: i64,
}

/// What of a partition is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    pub offsets: std::ops::Range<i64>,
    /// Batches with only earlier records are left out.
    pub min_timestamp: Option<i64>,
    /// Batches with only later records are left out, where that is known without looking into them: by what is known of the timestamps
    /// of a whole segment, and in batches with LogAppendTime.
    pub max_timestamp: Option<i64>,
}

impl Bounds {
    /// Everything.
    pub fn all() -> Bounds {
        Bounds::offsets(0..i64::MAX)
    }

    pub fn offsets(offsets: std::ops::Range<i64>) -> Bounds {
        Bounds { offsets, min_timestamp: None, max_timestamp: None }
    }

    pub(super) fn has_time(&self) -> bool {
        self.min_timestamp.is_some() || self.max_timestamp.is_some()
    }

    /// Whether there may be records with these times in a segment.
    pub(super) fn reach(&self, segment: &StoredSegment) -> bool {
        self.reach_times(segment.max_timestamp_ms, segment.times.map(|times| times.min_ms))
    }

    /// The same of anything with this largest timestamp and, where that is known, this smallest one.
    pub(super) fn reach_times(&self, max_ms: i64, min_ms: Option<i64>) -> bool {
        let is_too_old = self.min_timestamp.is_some_and(|min| max_ms < min);
        let is_too_new = min_ms.zip(self.max_timestamp).is_some_and(|(first, max)| first > max);
        !is_too_old && !is_too_new
    }

    pub(super) fn times_in(&self, segment: &StoredSegment) -> WantedTimes {
        WantedTimes { min_ms: self.min_timestamp, max_ms: self.max_timestamp.zip(segment.times) }
    }
}

/// A topic with what its partitions held at one moment. It costs memory only: nothing in the store is kept for it, so that
/// retention and log cleaning go on, and a scan that meets them says so.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(super) source: Arc<Source>,
    pub(super) topic: Arc<TopicInfo>,
    pub(super) partitions: Vec<Arc<Pinned>>,
}

impl Snapshot {
    pub(super) async fn take(source: Arc<Source>, topic: TopicInfo) -> Result<Snapshot, ScanError> {
        let indexes: Vec<i32> = (0..i32::try_from(topic.partitions).unwrap_or_default()).collect();
        let pinned = pin_all(&source, &topic, &indexes).await?;
        let partitions = pinned.into_iter().map(Arc::new).collect();
        Ok(Snapshot { source, topic: Arc::new(topic), partitions })
    }

    pub fn topic(&self) -> &TopicInfo {
        &self.topic
    }

    /// The offsets of each partition, in the order of their numbers.
    pub fn ranges(&self) -> Vec<Range> {
        self.partitions.iter().map(|p| p.range()).collect()
    }

    /// The same topic as of other ranges, say those of an earlier snapshot. Partitions that are not named are empty. Refused where
    /// records of a range were deleted, or are not there yet.
    pub fn as_of(&self, ranges: &[Range]) -> Result<Snapshot, ScanError> {
        let narrowed = |pinned: &Arc<Pinned>| {
            let wanted = ranges.iter().find(|range| range.partition == pinned.index);
            let (start, end) = wanted.map_or((pinned.end, pinned.end), |r| (Offset(r.start), Offset(r.end)));
            let topic = || self.topic.name.clone();
            let partition = pinned.index;
            if start < pinned.start && start < end {
                return Err(ScanError::Removed {
                    topic: topic(),
                    partition,
                    offset: start,
                    log_start: pinned.start,
                });
            }
            if end > pinned.end {
                return Err(ScanError::BeyondEnd {
                    topic: topic(),
                    partition,
                    offset: end,
                    log_end: pinned.end,
                });
            }
            Ok(Arc::new(Pinned { start, end, ..Pinned::clone(pinned) }))
        };
        if let Some(unknown) = ranges.iter().find(|range| self.partition(range.partition).is_none()) {
            return Err(self.no_partition(unknown.partition));
        }
        let partitions = self.partitions.iter().map(narrowed).collect::<Result<_, _>>()?;
        Ok(Snapshot { partitions, ..self.clone() })
    }

    pub(super) fn partition(&self, index: i32) -> Option<&Arc<Pinned>> {
        usize::try_from(index).ok().and_then(|at| self.partitions.get(at))
    }

    pub(super) fn no_partition(&self, partition: i32) -> ScanError {
        ScanError::NoPartition { topic: self.topic.name.clone(), partition }
    }
}

/// What partitions of a topic hold at this moment.
pub(super) async fn pin_all(
    source: &Source,
    topic: &TopicInfo,
    indexes: &[i32],
) -> Result<Vec<Pinned>, ScanError> {
    let (mut attempt, mut waits) = (1, super::read::waits(topic.topic_id().0.as_u64_pair().0));
    loop {
        match try_pin_all(source, topic, indexes).await {
            Ok(pinned) => return Ok(pinned),
            // A gap may be that of a partition which moves to another broker just now.
            Err(Step::Moved(_) | Step::Failed(ScanError::Gap { .. } | ScanError::Wal(_)))
                if attempt < ATTEMPTS =>
            {
                attempt += 1;
                tokio::time::sleep(waits.pause()).await;
            }
            Err(Step::Failed(error)) => return Err(error),
            Err(Step::Moved(why)) => return Err(ScanError::Wal(why)),
        }
    }
}

async fn try_pin_all(source: &Source, topic: &TopicInfo, indexes: &[i32]) -> Result<Vec<Pinned>, Step> {
    // The write-ahead log before the manifests: what is freed between the two is in a segment.
    let mut above = source.wal.of_topic(&source.metadata, topic.topic_id()).await?;
    let (meta, keys) = (&**source.metadata.store(), source.metadata.keys());
    let id = |index: &i32| PartitionId { topic: topic.topic_id(), index: *index };
    let ids: HashSet<_> = indexes.iter().map(id).collect();
    let mut records = load_records(meta, keys, &ids).await.map_err(ScanError::from)?;
    // A topic that is gone has no manifests, and would look empty.
    let now = source.metadata.load_topic(&topic.name).await.map_err(ScanError::from)?;
    if now.is_none_or(|now| now.record.topic_id != topic.id) {
        return Err(ScanError::TopicGone { topic: topic.name.clone() }.into());
    }
    let mut pinned = Vec::with_capacity(indexes.len());
    for index in indexes {
        let record = records.remove(&id(index)).and_then(|records| records.partition);
        let batches = above.by_partition.remove(index).unwrap_or_default();
        pinned.push(Pinned::of(topic, *index, record, batches, above.given_up.as_ref())?);
    }
    Ok(pinned)
}
