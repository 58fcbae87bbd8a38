//! The log of a broker: every partition that it serves, over one write-ahead chain and a store of segments.
//!
//! A produce goes [`Partition::append`](partition::Partition::append) → [`flush::WalBuffer`] → [`writer`] →
//! [`crate::wal::chain`]; in an object store, [`objects`] has the writer and the chain. In the background, [`rewrite`] turns what the chain holds into segments and
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
use object_store::ObjectStore;
use parking_lot::{Mutex, RwLock};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::damages::DamageReport;
use crate::disaster::snapshot;
use crate::error::{AcquireError, AppendError, OpenError, ReleaseError};
use crate::store::s3::S3Config;
use crate::unreadable::UnreadableReport;
use crate::wal::chain::Chain;
use crate::wal::chain_id::ChainId;

mod acquire;
mod compacting;
mod deletion;
mod failing;
pub mod flush;
pub mod identity;
pub mod load;
mod look;
pub mod manifest;
mod merging;
pub mod objects;
mod orphans;
mod other_nodes;
pub mod pace;
pub mod partition;
mod partitions;
mod producers;
mod recover;
mod retention;
mod rewrite;
pub mod shared;
pub mod stats;
pub mod superseded;
mod unclaimed;
mod unsettled;
pub mod watch;
mod writer;

#[cfg(test)]
mod tests;

pub use look::Looked;
pub use recover::{claim, claim_to_look};

use partition::{Partition, PartitionInner, State};
use shared::{Shared, StopBy};
use stats::LogStats;

/// Where the log lives.
#[derive(Debug, Clone)]
pub enum StoreUrl {
    /// A directory of a local disk.
    File(PathBuf),
    /// Nothing is kept. For tests.
    Memory,
    /// A bucket, which several brokers share.
    S3(Box<S3Config>),
    /// Any store that several brokers share. For tests and simulations.
    Shared(Arc<dyn ObjectStore>),
}

impl StoreUrl {
    /// A store in memory that all logs which are opened with a clone of it share. For tests and simulations.
    pub fn shared_memory() -> StoreUrl {
        StoreUrl::Shared(Arc::new(object_store::memory::InMemory::new()))
    }

    /// Whether several brokers may share the store. An incarnation then registers with a record of its chain.
    pub fn is_shared(&self) -> bool {
        matches!(self, StoreUrl::S3(_) | StoreUrl::Shared(_))
    }

    /// For messages.
    pub fn describe(&self) -> String {
        match self {
            StoreUrl::File(dir) => dir.display().to_string(),
            StoreUrl::Memory => "memory".to_owned(),
            StoreUrl::S3(config) => config.describe(),
            StoreUrl::Shared(store) => store.to_string(),
        }
    }
}

/// Settings of the log.
#[derive(Debug, Clone)]
pub struct LogConfig {
    pub store: StoreUrl,
    /// The store's name in the cluster's record, which all brokers must have in common; `None` where that goes without saying.
    pub place: Option<String>,
    pub node_id: i32,
    /// The epoch of this broker process, from metadata; never reused.
    pub incarnation: u64,
    /// A write-ahead file is closed at this size.
    pub wal_file_bytes: u64,
    /// Rewriting into segments begins when the write-ahead files hold more than this.
    pub wal_max_bytes: u64,
    /// On a local disk rewriting waits while appends need the disk, until the write-ahead files hold more than this.
    pub wal_burst_bytes: u64,
    /// The least time between the beginnings of two writes (`wal.min_interval`); zero on a local disk.
    pub wal_min_interval: Duration,
    /// In an object store: so many objects of the chain are under way at a time, 16 at most.
    pub wal_uploads: usize,
    /// In an object store: an object of the chain is sent at this size, whatever the interval.
    pub wal_object_bytes: usize,
    /// In an object store: rewriting into segments begins also when the chain has more objects than this, as each is a request
    /// for who takes it over.
    pub wal_max_objects: usize,
    /// In an object store: appends are refused while more than this waits to become durable.
    pub wal_pending_bytes: usize,
    /// Budget for recent batches kept in memory.
    pub tail_cache_bytes: usize,
    /// Budget for blocks of segments kept in memory.
    pub segment_cache_bytes: usize,
    /// How often retention is enforced (`log.retention.check.interval.ms`).
    pub retention_check_interval: Duration,
    /// How often compacted topics are looked at for something to clean (`log.cleaner.backoff.ms`).
    pub cleaner_backoff: Duration,
    /// `producer.id.expiration.ms`
    pub producer_expiration: Duration,
    /// A segment that no metadata names is deleted after it was seen so for this long.
    pub orphan_quarantine: Duration,
}

impl LogConfig {
    /// Defaults for everything but where the log lives and who writes it.
    pub fn new(store: StoreUrl, node_id: i32, incarnation: u64) -> LogConfig {
        LogConfig {
            store,
            place: None,
            node_id,
            incarnation,
            wal_file_bytes: 64 << 20,
            wal_max_bytes: 256 << 20,
            wal_burst_bytes: 2 << 30,
            wal_min_interval: Duration::ZERO,
            wal_uploads: 4,
            wal_object_bytes: 8 << 20,
            wal_max_objects: 4096,
            wal_pending_bytes: 256 << 20,
            tail_cache_bytes: 128 << 20,
            segment_cache_bytes: 128 << 20,
            retention_check_interval: Duration::from_secs(30),
            cleaner_backoff: Duration::from_secs(15),
            producer_expiration: Duration::from_secs(24 * 3600),
            orphan_quarantine: Duration::from_secs(24 * 3600),
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
    writer: Option<Writer>,
    tasks: JoinSet<()>,
    /// Keeps other processes out of the directory.
    lock: Option<std::fs::File>,
}

#[derive(Debug)]
enum Writer {
    Thread(std::thread::JoinHandle<()>),
    Task(AbortOnDrop),
}

impl Log {
    /// Whether [`Log::open`] would be refused, because of the directory or because the store and the metadata do not belong together.
    /// Nothing is changed. `meta` may be a copy of the metadata. What was found in a local directory is for [`Log::open_looked`].
    pub async fn look(
        config: &LogConfig,
        meta: &dyn MetaStore,
        keys: &Keyspace,
        clock: &dyn Clock,
    ) -> Result<Option<Looked>, OpenError> {
        look::look(config, meta, keys, clock.now_ms()).await
    }

    /// Opens or creates the log and starts the background work. It serves no partition yet: see [`Log::acquire`]. A store that brokers
    /// share was found fit before: see [`crate::probe`].
    pub async fn open(
        config: LogConfig,
        meta: Arc<dyn MetaStore>,
        keys: Keyspace,
        clock: Arc<dyn Clock>,
    ) -> Result<Log, OpenError> {
        Self::open_looked(config, None, meta, keys, clock).await
    }

    /// The same after a look.
    pub async fn open_looked(
        config: LogConfig,
        looked: Option<Looked>,
        meta: Arc<dyn MetaStore>,
        keys: Keyspace,
        clock: Arc<dyn Clock>,
    ) -> Result<Log, OpenError> {
        let (shared, chain, lock) = recover::open(config, looked, meta, keys, clock).await?;
        let shared = Arc::new(shared);
        let mut tasks = JoinSet::new();
        let writer = match (chain, &shared.chain) {
            (Some(chain), _) => Writer::Thread(spawn_writer(&shared, chain)?),
            (None, Some(chain)) => {
                tasks.spawn(objects::free::run(shared.clone(), chain.clone()));
                tasks.spawn(objects::awaited::run(shared.clone(), chain.clone()));
                Writer::Task(AbortOnDrop(tokio::spawn(objects::writer::run(shared.clone(), chain.clone()))))
            }
            (None, None) => unreachable!("open gives one of the two"),
        };
        tasks.spawn(rewrite::run(shared.clone()));
        tasks.spawn(retention::run(shared.clone()));
        tasks.spawn(compacting::run(shared.clone()));
        tasks.spawn(orphans::run(shared.clone()));
        tasks.spawn(producers::run(shared.clone()));
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
    /// not exist any more let go of their files.
    pub fn forget_unclaimed(&self, exists: impl Fn(PartitionId) -> bool) {
        self.shared.unclaimed.retain(&self.shared.files, &exists);
        self.shared.free_unused();
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
            wal_in_store: self.shared.chain.is_some(),
            wal_pending_bytes: self.shared.buffer.pending_bytes() as u64,
            wal_bytes,
            wal_files: wal_files as u64,
            tail_cache_bytes: self.shared.tail_cache_bytes() as u64,
            segment_write_failures: self.shared.failing.attempts(),
            failing_partitions: self.shared.failing_partitions() as u64,
            ..self.shared.counters.read()
        }
    }

    /// How many idempotent producers are remembered, in each partition for itself.
    pub fn producer_windows(&self) -> usize {
        producers::count(&self.shared)
    }

    /// What was found to be damaged in the store so far.
    pub fn damages(&self) -> DamageReport {
        self.shared.damages().report()
    }

    /// Segments that somebody wanted to read lately and the store does not give.
    pub fn unreadable(&self) -> UnreadableReport {
        self.shared.segments.unreadable().report()
    }

    /// `Err` with the reason while the log takes no writes; readiness depends on it.
    pub fn health(&self) -> Result<(), String> {
        self.shared.buffer.trouble().or_else(|| self.shared.refuses_appends()).map_or(Ok(()), Err)
    }

    /// A line for operators while segments of some partitions cannot be written.
    pub fn failing_summary(&self) -> Option<String> {
        self.shared.failing_summary()
    }

    /// Returns when this broker's chain was found sealed by somebody else, or a lost object is
    /// there again that partitions of it have a hole for: it owns nothing any more, and has to join
    /// anew. Never on a local disk.
    pub async fn fenced(&self) {
        match &self.shared.chain {
            Some(chain) => chain.fenced.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// When the chain was last proven not to be sealed: everything that was visible then was not taken over by anybody. `None`
    /// before the first object, and on a local disk, where the directory's lock is the fence.
    pub fn proved_at(&self) -> Option<Instant> {
        self.shared.chain.as_ref()?.proved_at()
    }

    /// Proves it anew, with an empty object if nothing else is to be written. Gives [`Log::proved_at`].
    pub async fn prove(&self) -> Result<Instant, AppendError> {
        let Some(chain) = &self.shared.chain else { return Ok(Instant::now()) };
        self.shared.buffer.prove()?.wait().await?;
        Ok(chain.proved_at().expect("an object was created"))
    }

    /// For a planned stop, when everything was drained: ends the background work as [`Log::shutdown`] does, and seals this broker's
    /// own chain, so that its partitions can be given away at once (nothing to do on a local disk). Whatever the store does, this and
    /// the shutdown that follows take no longer than `within`.
    pub async fn seal_own(&self, within: Duration) -> Result<(), String> {
        let by = self.shared.stop_within(within);
        self.stop().await;
        let Some(chain) = &self.shared.chain else { return Ok(()) };
        let sealed = objects::seal::seal_own(&self.shared, chain);
        timeout_at(by.all, sealed).await.unwrap_or_else(|_| Err("no answer in time".into()))
    }

    /// Makes sure that an incarnation which is gone can acknowledge nothing any more: its chain is sealed, and its record says so. For
    /// the controller; the error is for a person, and worth another try.
    pub async fn seal(&self, node_id: i32, incarnation: u64) -> Result<(), String> {
        match &self.shared.chain {
            Some(_) => objects::seal::seal(&self.shared, ChainId { node_id, incarnation }).await,
            // The directory's lock, which this process holds, is the fence.
            None => Ok(()),
        }
    }

    /// Frees sealed chains of which the manifests cover everything. For the controller.
    pub async fn collect(&self) -> Result<(), String> {
        if self.shared.chain.is_none() {
            return Ok(());
        }
        if !identity::still_bound(&self.shared).await.map_err(|e| e.to_string())? {
            return Err("the metadata is not what this broker began with; nothing is deleted".into());
        }
        objects::collect::collect(&self.shared).await
    }

    /// Writes a snapshot of the metadata into the store, if anything has changed since the last one: what lost metadata is
    /// restored from. For the controller; `false` in memory, where nothing is kept.
    pub async fn snapshot(&self) -> Result<bool, String> {
        if matches!(self.shared.config.store, StoreUrl::Memory) {
            return Ok(false);
        }
        let mut last = self.shared.snapshot.lock().await;
        let Shared { store, meta, keys, clock, store_id, .. } = &*self.shared;
        let (store_id, now_ms) = (store_id.as_deref(), clock.now_ms());
        *last = Some(
            snapshot::renew(&**store, &**meta, keys, store_id, now_ms, *last)
                .await
                .map_err(|e| e.to_string())?,
        );
        Ok(true)
    }

    /// Refuses new appends, makes the accepted ones durable, and ends the background work. A store that does not answer is not waited
    /// for beyond some seconds: what it was not known to have is not acknowledged.
    pub async fn shutdown(&self) {
        self.stop().await;
        let by = self.shared.stop_by();
        if timeout_at(by.all, self.shared.segments.shutdown()).await.is_err() {
            tracing::warn!("reads of the store are left behind that got no answer");
        }
        drop(self.running.lock().lock.take());
    }

    async fn stop(&self) {
        let by = self.shared.stop_by();
        self.shared.buffer.close();
        self.shared.stopping.cancel();
        let (writer, mut tasks) = {
            let mut running = self.running.lock();
            (running.writer.take(), std::mem::take(&mut running.tasks))
        };
        let ended = async { while tasks.join_next().await.is_some() {} };
        if timeout_at(by.accepted, ended).await.is_err() {
            tracing::warn!("background work of the log got no answer from a store, and is given up");
            tasks.abort_all();
        }
        let joined = match writer {
            Some(Writer::Thread(thread)) => self.join_thread(thread, by).await,
            // It gives up by itself.
            Some(Writer::Task(mut task)) => {
                timeout_at(by.all, &mut task.0).await.is_ok_and(|ended| ended.is_ok())
            }
            None => true,
        };
        if !joined {
            tracing::error!("the writer of the log could not be joined");
        }
    }

    /// A thread that waits for its disk keeps the lock of the directory for as long as it lives.
    async fn join_thread(&self, thread: std::thread::JoinHandle<()>, by: StopBy) -> bool {
        let lock = self.running.lock().lock.take();
        let joining = tokio::task::spawn_blocking(move || (thread.join().is_ok(), lock));
        let Ok(Ok((joined, lock))) = timeout_at(by.accepted, joining).await else { return false };
        self.running.lock().lock = lock;
        let noted = timeout_at(by.all, recover::remember_end(&self.shared)).await;
        let failure = match noted {
            Ok(Ok(())) => return joined,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(error = failure, "the metadata does not know where the write-ahead log ends");
        joined
    }
}

fn spawn_writer(shared: &Arc<Shared>, chain: Chain) -> Result<std::thread::JoinHandle<()>, OpenError> {
    let shared = shared.clone();
    let thread = std::thread::Builder::new().name("wal-writer".into());
    thread
        .spawn(move || writer::run(&shared, chain))
        .map_err(|error| OpenError::Io { path: PathBuf::from("wal-writer thread"), error })
}

/// A log that is dropped without a shutdown writes nothing more.
#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
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
