//! The log: one write-ahead chain for all partitions, immutable segments, a read cache, retention.
//!
//! Invariant: this is the only crate that names `object_store`.

mod block_cache;
mod buffers;
mod compute;
mod disaster;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod log;
pub mod segment;
pub mod store;
#[cfg(test)]
mod testing;
mod unlinked;
mod vectored;
mod wal;

pub use block_cache::CacheStats;
pub use compute::compute;
pub use disaster::restore::{RestoreOptions, Restored, RestoredTopic, restore};
pub use disaster::topic::{CopiedPartition, TopicAt, restore_topic};
pub use error::{AcquireError, AppendError, OpenError, ReadError, ReleaseError};
pub use log::partition::{Appended, Durable, Partition, PartitionOffsets, ReadBatches};
pub use log::stats::{LATENCY_BUCKETS_US, LatencySnapshot, LogStats, StoreRequests};
pub use log::{HostedPartition, Log, LogConfig, StoreUrl};
pub use store::s3::{S3Config, S3Credentials};
