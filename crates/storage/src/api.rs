//! What the broker sees of the log.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use kafscale_core::batch::ValidBatch;
use kafscale_core::clock::Clock;
use kafscale_core::ids::{LeaderEpoch, Offset, PartitionId, ProducerId, TopicId};
use kafscale_core::producer::{SeenBatch, SequenceError};
use kafscale_core::topic_config::TopicConfig;

/// Where the log lives.
#[derive(Debug, Clone)]
pub enum StoreUrl {
    /// A directory of a local disk.
    File(PathBuf),
    /// Nothing is kept. For tests.
    Memory,
}

/// A topic whose partitions this broker serves.
#[derive(Debug, Clone)]
pub struct HostedTopic {
    pub name: Arc<str>,
    pub id: TopicId,
    pub partitions: i32,
    pub leader_epoch: LeaderEpoch,
    pub config: Arc<TopicConfig>,
}

/// Settings of the log.
#[derive(Debug, Clone)]
pub struct LogConfig {
    pub store: StoreUrl,
    /// A write-ahead file is closed at this size.
    pub wal_file_bytes: u64,
    /// Rewriting into segments begins when the write-ahead files hold more than this.
    pub wal_max_bytes: u64,
    /// Budget for recent batches kept in memory, and for blocks of segments.
    pub tail_cache_bytes: usize,
    pub segment_cache_bytes: usize,
    pub retention_check_interval: std::time::Duration,
    /// `producer.id.expiration.ms`
    pub producer_expiration: std::time::Duration,
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
pub struct Durable {}

impl Durable {
    /// `Err` when the append failed: it was taken back and may be tried again.
    pub async fn wait(self) -> Result<(), AppendError> {
        unimplemented!()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    #[error("{0}")]
    Sequence(SequenceError),
    /// The disk is full or failing, nothing was kept; the producer may retry.
    #[error("the log cannot be written at the moment: {0}")]
    Unavailable(String),
    /// The partition was deleted or moved away.
    #[error("the partition is not served here any more")]
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("offset {offset} is outside {log_start} to {log_end}")]
    OutOfRange { offset: Offset, log_start: Offset, log_end: Offset },
    #[error("the log cannot be read at the moment: {0}")]
    Unavailable(String),
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
    #[error("the partition is not served here any more")]
    Gone,
}

/// Offsets of a partition at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionOffsets {
    pub log_start: Offset,
    /// Everything below is durable and visible to consumers; also the last stable offset, as there are no transactions.
    pub high_watermark: Offset,
    /// The next offset to be given out.
    pub log_end: Offset,
}

/// Whole batches, in order; at least one when there is one at the offset and `min_one` was asked for (KIP-74).
#[derive(Debug, Clone, Default)]
pub struct ReadBatches {
    pub chunks: Vec<Bytes>,
    pub size_bytes: usize,
}

/// One partition as served by this broker. Cheap to clone and to look up.
#[derive(Debug, Clone)]
pub struct Partition {}

impl Partition {
    pub fn id(&self) -> PartitionId {
        unimplemented!()
    }
    pub fn topic_name(&self) -> &Arc<str> {
        unimplemented!()
    }
    pub fn config(&self) -> Arc<TopicConfig> {
        unimplemented!()
    }
    pub fn leader_epoch(&self) -> LeaderEpoch {
        unimplemented!()
    }
    pub fn offsets(&self) -> PartitionOffsets {
        unimplemented!()
    }
    /// Bytes in segments and in the write-ahead log.
    pub fn size_bytes(&self) -> u64 {
        unimplemented!()
    }
    /// Durable bytes from `from` to the high watermark, capped at `enough`: what Fetch compares with min.bytes.
    pub fn available_bytes(&self, _from: Offset, _enough: usize) -> usize {
        unimplemented!()
    }
    /// Wakes `notify` once, at the next change of the high watermark, the log start or the partition's existence.
    pub fn wake_on_change(&self, _notify: &Arc<tokio::sync::Notify>) {
        unimplemented!()
    }
    /// Places a batch and hands it to the write-ahead log. Synchronous: the order of calls is the order of offsets.
    /// A duplicate of an idempotent producer resolves to its first offsets, when those are durable.
    pub fn append(&self, _batch: ValidBatch) -> Result<Appended, AppendError> {
        unimplemented!()
    }
    /// Reads up to `max_bytes` of whole batches from `from` (the batch that contains it) up to the high watermark.
    pub async fn read(
        &self,
        _from: Offset,
        _max_bytes: usize,
        _min_one: bool,
    ) -> Result<ReadBatches, ReadError> {
        unimplemented!()
    }
    /// First record with timestamp >= target: (offset, timestamp, leader epoch).
    pub async fn offset_for_timestamp(
        &self,
        _target_ms: i64,
    ) -> Result<Option<(Offset, i64, LeaderEpoch)>, ReadError> {
        unimplemented!()
    }
    /// The record with the largest timestamp (ListOffsets -3, KIP-734).
    pub async fn max_timestamp(&self) -> Result<Option<(Offset, i64, LeaderEpoch)>, ReadError> {
        unimplemented!()
    }
    /// The epoch of the record at the offset, for ListOffsets answers.
    pub fn epoch_at(&self, _offset: Offset) -> Option<LeaderEpoch> {
        unimplemented!()
    }
    /// OffsetForLeaderEpoch (KIP-101).
    pub fn end_of_epoch(&self, _epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        unimplemented!()
    }
    /// DeleteRecords: moves the log start, durably. Gives the new log start.
    pub async fn delete_records(&self, _before: Offset) -> Result<Offset, ReadError> {
        unimplemented!()
    }
    /// DescribeProducers.
    pub fn producers(&self) -> Vec<(ProducerId, SeenBatch)> {
        unimplemented!()
    }
}

/// The log of this broker.
#[derive(Debug, Clone)]
pub struct Log {}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);

impl Log {
    /// Opens or creates the log, recovers it, and starts its background work.
    pub async fn open(
        _config: LogConfig,
        _meta: Arc<dyn std::any::Any + Send + Sync>,
        _clock: Arc<dyn Clock>,
        _topics: Vec<HostedTopic>,
    ) -> Result<Log, OpenError> {
        unimplemented!()
    }
    pub fn partition(&self, _id: PartitionId) -> Option<Partition> {
        unimplemented!()
    }
    /// Begins to serve a topic, or the partitions that it gained.
    pub fn host(&self, _topic: HostedTopic) {
        unimplemented!()
    }
    pub fn set_config(&self, _topic: TopicId, _config: Arc<TopicConfig>) {
        unimplemented!()
    }
    /// Stops to serve a deleted topic and frees its space.
    pub async fn drop_topic(&self, _topic: TopicId) {
        unimplemented!()
    }
    pub fn partitions(&self) -> Vec<Partition> {
        unimplemented!()
    }
    pub fn stats(&self) -> BTreeMap<&'static str, f64> {
        unimplemented!()
    }
    /// `Err` with the reason while the log cannot take writes; /readyz shows it.
    pub fn health(&self) -> Result<(), String> {
        unimplemented!()
    }
    /// Refuses new appends, makes the accepted ones durable and stops the background work.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}
