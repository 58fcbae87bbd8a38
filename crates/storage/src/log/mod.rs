//! The log of a broker: every partition that it serves, over one write-ahead chain and a store of segments.
//!
//! A produce goes [`Partition::append`](partition::Partition::append) → [`flush::WalBuffer`] → [`writer`] →
//! [`crate::wal::chain`]. In the background, [`rewrite`] turns what the chain holds into segments and
//! [`retention`] drops what is too old, and [`compacting`] what later records supersede.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::time::Duration;

use kafscale_core::clock::Clock;
use kafscale_core::ids::{LeaderEpoch, PartitionId, TopicId};
use kafscale_core::topic_config::TopicConfig;
use kafscale_meta::MetaStore;
use kafscale_meta::records::Keyspace;
use parking_lot::{Mutex, RwLock};
use tokio::task::JoinSet;

use crate::error::{AcquireError, OpenError, ReleaseError};

mod acquire;
mod compacting;
pub mod flush;
mod load;
pub mod manifest;
mod merging;
pub mod partition;
mod partitions;
mod recover;
mod retention;
mod rewrite;
pub mod shared;
pub mod stats;
mod unclaimed;
mod writer;

#[cfg(test)]
mod tests;

use partition::{Partition, PartitionInner, State};
use shared::Shared;
use stats::LogStats;

/// Where the log lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// A directory of a local disk.
    File(PathBuf),
    /// Nothing is kept. For tests.
    Memory,
}

/// Settings of the log.
#[derive(Debug, Clone)]
pub struct LogConfig {
    pub store: StoreUrl,
    pub node_id: i32,
    /// The epoch of this broker process, from metadata; never reused.
    pub incarnation: u64,
    /// A write-ahead file is closed at this size.
    pub wal_file_bytes: u64,
    /// Rewriting into segments begins when the write-ahead files hold more than this.
    pub wal_max_bytes: u64,
    /// The least time between the beginnings of two writes (`wal.min_interval`); zero on a local disk.
    pub wal_min_interval: Duration,
    /// Budget for recent batches kept in memory.
    pub tail_cache_bytes: usize,
    /// Budget for blocks of segments kept in memory.
    pub segment_cache_bytes: usize,
    /// How often retention is enforced (`log.retention.check.interval.ms`).
    pub retention_check_interval: Duration,
    /// `producer.id.expiration.ms`
    pub producer_expiration: Duration,
}

impl LogConfig {
    /// Defaults for everything but where the log lives and who writes it.
    pub fn new(store: StoreUrl, node_id: i32, incarnation: u64) -> LogConfig {
        LogConfig {
            store,
            node_id,
            incarnation,
            wal_file_bytes: 64 << 20,
            wal_max_bytes: 256 << 20,
            wal_min_interval: Duration::ZERO,
            tail_cache_bytes: 128 << 20,
            segment_cache_bytes: 128 << 20,
            retention_check_interval: Duration::from_secs(30),
            producer_expiration: Duration::from_secs(24 * 3600),
        }
    }
}

/// A partition that this broker is to serve.
#[derive(Debug, Clone)]
pub struct HostedPartition {
    pub topic_name: Arc<str>,
    pub id: PartitionId,
    pub leader_epoch: LeaderEpoch,
    pub config: Arc<TopicConfig>,
}

/// The log of this broker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Log {
    shared: Arc<Shared>,
    running: Arc<Mutex<Running>>,
}

/// Background work, ended by [`Log::shutdown`].
#[derive(Debug)]
struct Running {
    writer: Option<std::thread::JoinHandle<()>>,
    tasks: JoinSet<()>,
    /// Keeps other processes out of the directory.
    lock: Option<std::fs::File>,
}

impl Log {
    /// Opens or creates the log and starts the background work. It serves no partition yet: see [`Log::acquire`].
    pub async fn open(
        config: LogConfig,
        meta: Arc<dyn MetaStore>,
        keys: Keyspace,
        clock: Arc<dyn Clock>,
    ) -> Result<Log, OpenError> {
        let (shared, chain, lock) = recover::open(config, meta, keys, clock).await?;
        let shared = Arc::new(shared);
        let writer = {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name("wal-writer".into());
            thread
                .spawn(move || writer::run(&shared, chain))
                .map_err(|error| OpenError::Io { path: PathBuf::from("wal-writer thread"), error })?
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(rewrite::run(shared.clone()));
        tasks.spawn(retention::run(shared.clone()));
        tasks.spawn(compacting::run(shared.clone()));
        let running = Running { writer: Some(writer), tasks, lock };
        Ok(Log { shared, running: Arc::new(Mutex::new(running)) })
    }

    pub fn partition(&self, id: PartitionId) -> Option<Partition> {
        let inner = self.shared.partition(id)?;
        Some(Partition { inner, log: self.shared.clone() })
    }

    pub fn partitions(&self) -> Vec<Partition> {
        let partition = |inner| Partition { inner, log: self.shared.clone() };
        self.shared.all_partitions().into_iter().map(partition).collect()
    }

    /// Begins to serve partitions that were assigned to this broker: their manifests, and what the write-ahead log holds above
    /// them. Each succeeds or fails for itself. One that is served already only gets the higher leader epoch.
    pub async fn acquire(
        &self,
        partitions: Vec<HostedPartition>,
    ) -> Vec<(PartitionId, Result<(), AcquireError>)> {
        acquire::acquire(&self.shared, partitions).await
    }

    /// Hands a partition over: refuses appends, makes the accepted ones durable, rewrites them, publishes, and stops to serve. When
    /// it fails, the partition is served on.
    pub async fn release(&self, id: PartitionId) -> Result<(), ReleaseError> {
        acquire::release(&self.shared, id).await
    }

    /// Stops to serve partitions that belong to somebody else. Writes nothing.
    pub fn abandon(&self, ids: &[PartitionId]) {
        acquire::abandon(&self.shared, ids);
    }

    /// To be called once after everything that is assigned to this broker was acquired: recovered batches of partitions that do
    /// not exist any more let go of their files, and orphaned objects are looked for.
    pub fn forget_unclaimed(&self, exists: impl Fn(PartitionId) -> bool + Send + Sync + 'static) {
        self.shared.unclaimed.retain(&self.shared.files, &exists);
        self.shared.files.free_unused();
        self.shared.settled.set(Box::new(exists));
    }

    /// Makes a topic's partitions obey another configuration from now on.
    pub fn set_config(&self, topic: TopicId, config: &Arc<TopicConfig>) {
        for partition in self.shared.partitions.of_topic(topic) {
            *partition.config.write() = config.clone();
        }
    }

    /// Stops to serve a topic that was deleted from metadata, and frees its space.
    pub async fn drop_topic(&self, topic: TopicId) {
        retention::drop_topic(&self.shared, topic).await;
    }

    pub fn stats(&self) -> LogStats {
        let (wal_bytes, wal_files) = self.shared.files.usage();
        LogStats {
            wal_bytes,
            wal_files: wal_files as u64,
            tail_cache_bytes: self.shared.tail_cache_bytes() as u64,
            ..self.shared.counters.read()
        }
    }

    /// `Err` with the reason while the log takes no writes; readiness depends on it.
    pub fn health(&self) -> Result<(), String> {
        self.shared.buffer.refusing().map_or(Ok(()), Err)
    }

    /// Refuses new appends, makes the accepted ones durable, and ends the background work.
    pub async fn shutdown(&self) {
        self.shared.buffer.close();
        self.shared.stopping.cancel();
        let (writer, mut tasks) = {
            let mut running = self.running.lock();
            (running.writer.take(), std::mem::take(&mut running.tasks))
        };
        while tasks.join_next().await.is_some() {}
        if let Some(writer) = writer
            && tokio::task::spawn_blocking(move || writer.join()).await.is_err()
        {
            tracing::error!("the writer of the log could not be joined");
        }
        self.shared.segments.shutdown().await;
        drop(self.running.lock().lock.take());
    }
}

fn new_partition(hosted: &HostedPartition, state: State) -> PartitionInner {
    PartitionInner {
        id: hosted.id,
        topic_name: hosted.topic_name.clone(),
        leader_epoch: AtomicI32::new(hosted.leader_epoch.0),
        config: RwLock::new(hosted.config.clone()),
        state: Mutex::new(state),
        maintenance: tokio::sync::Mutex::new(()),
    }
}
