//! The log: one write-ahead chain for all partitions, immutable segments, a read cache, retention.
//!
//! Invariant: this is the only crate that names `object_store`.

mod block_cache;
mod buffers;
mod compute;
mod damages;
mod disaster;
mod disk;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod log;
pub mod scan;
mod scrub;
pub mod segment;
pub mod store;
#[cfg(test)]
mod testing;
mod unlinked;
mod unreadable;
mod vectored;
mod wal;

pub use block_cache::CacheStats;
pub use compute::{ComputeEnded, Requester, compute, compute_for};
pub use damages::{Damage, DamageReport};
pub use disaster::error::RestoreError;
pub use disaster::restore::{RestoreOptions, Restored, RestoredTopic, may_restore, restore};
pub use disaster::topic::{CopiedPartition, LostRange, TopicAt, restore_topic};
pub use disk::{DiskSpace, disk_space};
pub use error::{AcquireError, AppendError, OpenError, ReadError, ReleaseError};
pub use log::identity::{IdentityError, set_store};
pub use log::partition::{Appended, Durable, Partition, PartitionOffsets, ReadBatches};
pub use log::stats::{LATENCY_BUCKETS_US, LatencySnapshot, LogStats, StoreRequests};
pub use log::watch::Watcher;
pub use log::{HostedPartition, Log, LogConfig, Looked, StoreUrl};
pub use scrub::{Finding, Harm, Progress, ScrubError, Scrubbed, Watch, scrub};
pub use store::s3::{S3Config, S3Credentials};
pub use store::verify::{ProbeError, probe};
pub use unreadable::UnreadableReport;
pub use wal::recovery::RecoveryError;
