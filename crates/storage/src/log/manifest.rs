//! What metadata knows of a partition: its log start, its segments, its epochs and its producers. Published by
//! compare-and-swap, so that a process that lost the partition cannot overwrite its successor's record.

use std::sync::Arc;

use kafscale_core::epochs::EpochCache;
use kafscale_core::ids::{LeaderEpoch, Offset, PartitionId, ProducerId};
use kafscale_core::producer::{ProducerSnapshot, ProducerWindows, SeenBatch};
use kafscale_core::times::Times;
use kafscale_meta::records::{
    Keyspace, PartitionRecord, ProducerBatch, ProducerEntry, ProducersRecord, Record, SegmentRecord,
};
use kafscale_meta::{Compare, MetaStore, Op, Revision, Txn};

use super::objects::{Ended, OwnChain};
use crate::segment::{EMPTY_BYTES, SegmentRef};

/// A segment in a partition's manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSegment {
    pub at: SegmentRef,
    pub max_timestamp_ms: i64,
    /// `None` where nobody looked at all of its records.
    pub times: Option<Times>,
    pub records: u64,
    /// Whether records that later ones supersede were taken out already.
    pub compacted: bool,
}

impl StoredSegment {
    pub fn last_offset(&self) -> Offset {
        self.at.last_offset
    }

    /// Whether it stands for a range of offsets of which log cleaning has left no record.
    pub fn is_empty(&self) -> bool {
        // Restored segments of version 1 state no records either, and yet have some.
        self.records == 0 && self.at.size_bytes == EMPTY_BYTES
    }
}

/// The durable description of a partition.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    pub log_start: Offset,
    pub segments: Vec<StoredSegment>,
    pub epochs: EpochCache,
    pub producers: ProducerWindows,
    /// When the record was last written; `None` when there is none yet.
    pub revision: Option<Revision>,
}

/// Why a manifest was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Somebody else wrote the record: this process does not own the partition any more.
    #[error("the partition's record was changed by another broker")]
    Conflict,
    /// This process's chain was sealed: its partitions may belong to others already.
    #[error("this broker's chain was sealed")]
    Fenced,
    #[error(transparent)]
    Meta(#[from] kafscale_meta::Error),
}

/// Who publishes, and the chain that must not be sealed when it happens: a successor reads the manifest after that.
#[derive(Debug, Clone, Copy)]
pub struct Guard<'a> {
    pub writer_epoch: u64,
    pub chain: Option<&'a OwnChain>,
}

/// The directory of a partition's segments in the store.
pub fn directory(topic_name: &str, id: PartitionId) -> String {
    format!("topics/{topic_name}/{}/{}", id.topic, id.index)
}

impl Manifest {
    /// Reads what two records say.
    pub fn from_records(
        directory: &str,
        partition: Option<(PartitionRecord, Revision)>,
        producers: Option<ProducersRecord>,
    ) -> Manifest {
        let (record, revision) = match partition {
            Some((record, revision)) => (record, Some(revision)),
            None => (PartitionRecord::default(), None),
        };
        let starts = record.leader_epochs.iter().map(|(e, o)| (LeaderEpoch(*e), Offset(*o))).collect();
        Manifest {
            log_start: Offset(record.log_start_offset),
            segments: record.segments.into_iter().map(|s| stored_segment(directory, s)).collect(),
            epochs: EpochCache::from_starts(starts),
            producers: ProducerWindows::restore(snapshot_of(producers.unwrap_or_default())),
            revision,
        }
    }

    /// Writes the record. Gives the revision to guard the next write with.
    ///
    /// A guard that does not hold may be this process's own doing: an earlier write whose answer was lost. The
    /// record then carries `writer_epoch`, and what this process knows now is newer than what it wrote.
    pub async fn publish(
        &self,
        meta: &dyn MetaStore,
        keys: &Keyspace,
        id: PartitionId,
        Guard { writer_epoch, chain }: Guard<'_>,
        producers: Option<ProducerSnapshot>,
    ) -> Result<Revision, PublishError> {
        let key = keys.partition(id.topic.0, id.index);
        let mut ops = vec![Op::put(&key, self.record(writer_epoch).encode())];
        if let Some(producers) = producers {
            let key = keys.producers(id.topic.0, id.index);
            ops.push(Op::put(key, producers_record(producers).encode()));
        }
        let mut expected = self.revision;
        loop {
            let guard = match expected {
                Some(revision) => Compare::mod_revision(&key, revision),
                None => Compare::absent(&key),
            };
            let mut txn = ops.iter().cloned().fold(Txn::new().when(guard), Txn::and_then);
            let unsealed = chain.map(|chain| chain.guard(keys));
            txn.compares.extend(unsealed.clone());
            let outcome = meta.txn(txn).await?;
            if outcome.succeeded {
                return Ok(outcome.revision);
            }
            if let Some(chain) = chain {
                match chain.refresh(meta, keys).await? {
                    Err(Ended) => return Err(PublishError::Fenced),
                    // This process changed its chain's record meanwhile.
                    Ok(()) if unsealed != Some(chain.guard(keys)) => continue,
                    Ok(()) => {}
                }
            }
            let Some(current) = meta.get(&key).await? else { return Err(PublishError::Conflict) };
            let writer = PartitionRecord::decode(&key, &current.value)?.writer_epoch;
            if writer != writer_epoch || expected == Some(current.mod_revision) {
                return Err(PublishError::Conflict);
            }
            expected = Some(current.mod_revision);
        }
    }

    fn record(&self, writer_epoch: u64) -> PartitionRecord {
        PartitionRecord {
            writer_epoch,
            log_start_offset: self.log_start.0,
            leader_epochs: self.epochs.starts().iter().map(|(e, o)| (e.0, o.0)).collect(),
            segments: self.segments.iter().map(segment_record).collect(),
        }
    }
}

fn stored_segment(directory: &str, record: SegmentRecord) -> StoredSegment {
    StoredSegment {
        at: SegmentRef {
            path: Arc::from(format!("{directory}/{}", record.object)),
            size_bytes: record.size_bytes,
            base_offset: Offset(record.base_offset),
            last_offset: Offset(record.last_offset),
        },
        max_timestamp_ms: record.max_timestamp_ms,
        times: record.min_timestamp_ms.zip(record.disorder_ms).map(|(min_ms, disorder_ms)| Times {
            min_ms,
            max_ms: record.max_timestamp_ms,
            disorder_ms,
        }),
        records: record.records,
        compacted: record.compacted,
    }
}

fn segment_record(segment: &StoredSegment) -> SegmentRecord {
    let path = &segment.at.path;
    SegmentRecord {
        base_offset: segment.at.base_offset.0,
        last_offset: segment.at.last_offset.0,
        size_bytes: segment.at.size_bytes,
        max_timestamp_ms: segment.max_timestamp_ms,
        min_timestamp_ms: segment.times.map(|times| times.min_ms),
        disorder_ms: segment.times.map(|times| times.disorder_ms),
        records: segment.records,
        compacted: segment.compacted,
        object: path.rsplit('/').next().unwrap_or(path).to_owned(),
    }
}

fn snapshot_of(record: ProducersRecord) -> ProducerSnapshot {
    ProducerSnapshot {
        producers: record.producers.into_iter().map(windows).collect(),
        lost_below: record.lost_below.map(Offset),
    }
}

pub fn producers_record(snapshot: ProducerSnapshot) -> ProducersRecord {
    ProducersRecord {
        producers: snapshot.producers.into_iter().map(producer_entry).collect(),
        lost_below: snapshot.lost_below.map(|offset| offset.0),
    }
}

fn windows(entry: ProducerEntry) -> (ProducerId, Vec<SeenBatch>) {
    let seen = |b: &ProducerBatch| SeenBatch {
        epoch: entry.epoch,
        first_sequence: b.first_seq,
        last_sequence: b.last_seq,
        base_offset: Offset(b.base_offset),
        last_offset: Offset(b.last_offset),
        timestamp_ms: b.timestamp_ms,
    };
    (ProducerId(entry.producer_id), entry.batches.iter().map(seen).collect())
}

/// Batches of earlier epochs of the producer are left out: they can never be asked for again.
fn producer_entry((id, batches): (ProducerId, Vec<SeenBatch>)) -> ProducerEntry {
    let last = batches.last().expect("a snapshot has no empty windows");
    let (epoch, last_timestamp_ms) = (last.epoch, last.timestamp_ms);
    let batch = |b: &SeenBatch| ProducerBatch {
        first_seq: b.first_sequence,
        last_seq: b.last_sequence,
        base_offset: b.base_offset.0,
        last_offset: b.last_offset.0,
        timestamp_ms: b.timestamp_ms,
    };
    let batches = batches.iter().filter(|b| b.epoch == epoch).map(batch).collect();
    ProducerEntry { producer_id: id.0, epoch, last_timestamp_ms, batches }
}
