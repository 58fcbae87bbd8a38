//! What all partitions share: the buffer in front of the writer, the files, the caches, the store and metadata.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use kafscale_core::batch::BatchHeader;
use kafscale_core::clock::Clock;
use kafscale_core::ids::{Offset, PartitionId};
use kafscale_core::producer::ProducerSnapshot;
use kafscale_meta::records::Keyspace;
use kafscale_meta::{MetaStore, Revision};
use object_store::ObjectStore;
use object_store::path::Path;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::LogConfig;
use super::deletion::Undeleted;
use super::failing::Failing;
use super::flush::{Flush, Limits, WalBuffer};
use super::manifest::{Guard, Manifest, PublishError, StoredSegment};
use super::objects::OwnChain;
use super::pace::Pace;
use super::partition::{PartitionInner, Source, TailBatch, WalBatch};
use super::partitions::Partitions;
use super::producers::NewWindows;
use super::stats::Counters;
use super::unclaimed::Unclaimed;
use crate::compute::Requester;
use crate::damages::{Damage, Damages};
use crate::disaster::snapshot;
use crate::error::ReadError;
use crate::segment::{SegmentError, SegmentRead, SegmentReader};
use crate::wal::files::WalFiles;

/// Recent objects kept in memory for tailing readers, oldest first, up to a budget.
#[derive(Debug, Default)]
struct TailCache {
    flushes: VecDeque<Arc<Flush>>,
    bytes: usize,
}

/// A stop takes no longer, where nobody says how long it may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// When a stop goes on without what a store has not answered.
#[derive(Debug, Clone, Copy)]
pub struct StopBy {
    /// For what was accepted to become durable.
    pub accepted: Instant,
    /// For everything, the seal of the chain included.
    pub all: Instant,
}

#[derive(Debug)]
pub struct Shared {
    pub config: LogConfig,
    pub clock: Arc<dyn Clock>,
    pub meta: Arc<dyn MetaStore>,
    pub keys: Keyspace,
    pub store: Arc<dyn ObjectStore>,
    pub segments: SegmentReader,
    pub buffer: WalBuffer,
    pub files: Arc<WalFiles>,
    /// The chain in an object store; none where it is on a local disk.
    pub chain: Option<Arc<OwnChain>>,
    pub partitions: Partitions,
    /// Recovered batches whose partitions nobody acquired yet.
    pub unclaimed: Unclaimed,
    /// The id that the store and the metadata have in common; `None` in memory.
    pub store_id: Option<String>,
    /// Windows of idempotent producers since all were counted.
    pub new_windows: NewWindows,
    /// Objects whose deletion failed.
    pub undeleted: Undeleted,
    /// What the last snapshot of the metadata said, where this process wrote it.
    pub snapshot: tokio::sync::Mutex<Option<snapshot::Mark>>,
    /// Wakes the rewriter when a write-ahead file was closed.
    pub file_closed: Notify,
    pub stopping: CancellationToken,
    stop_by: OnceLock<StopBy>,
    pub counters: Counters,
    /// What cannot be written to segments.
    pub failing: Failing,
    pub pace: Arc<Pace>,
    tail_cache: Mutex<TailCache>,
    rewrites: AtomicU64,
    /// The write-ahead file that the last object went to.
    pub last_file: AtomicU64,
}

impl Shared {
    #[allow(clippy::too_many_arguments, reason = "called once, by open, which names each of them")]
    pub fn new(
        config: LogConfig,
        clock: Arc<dyn Clock>,
        meta: Arc<dyn MetaStore>,
        keys: Keyspace,
        store: Arc<dyn ObjectStore>,
        segments: SegmentReader,
        files: Arc<WalFiles>,
        chain: Option<Arc<OwnChain>>,
        counters: Counters,
        pace: Arc<Pace>,
    ) -> Shared {
        let limits = match chain {
            Some(_) => Limits {
                object_bytes: config.wal_object_bytes,
                pending_bytes: config.wal_pending_bytes.max(config.wal_object_bytes),
            },
            None => Limits::NONE,
        };
        Shared {
            config,
            clock,
            meta,
            keys,
            store,
            segments,
            buffer: WalBuffer::new(limits),
            files,
            chain,
            partitions: Partitions::default(),
            unclaimed: Unclaimed::default(),
            store_id: None,
            new_windows: NewWindows::default(),
            undeleted: Undeleted::default(),
            snapshot: tokio::sync::Mutex::default(),
            file_closed: Notify::new(),
            stopping: CancellationToken::new(),
            stop_by: OnceLock::new(),
            counters,
            failing: Failing::default(),
            pace,
            tail_cache: Mutex::default(),
            rewrites: AtomicU64::new(0),
            last_file: AtomicU64::new(0),
        }
    }

    /// Sets how long the stop that begins now may take, unless that was set before.
    pub fn stop_within(&self, within: Duration) -> StopBy {
        let begin = Instant::now();
        *self.stop_by.get_or_init(|| StopBy { accepted: begin + within * 3 / 4, all: begin + within })
    }

    pub fn stop_by(&self) -> StopBy {
        self.stop_within(STOP_TIMEOUT)
    }

    pub fn partition(&self, id: PartitionId) -> Option<Arc<PartitionInner>> {
        self.partitions.get(id)
    }

    pub fn all_partitions(&self) -> Vec<Arc<PartitionInner>> {
        self.partitions.all()
    }

    /// A number for a segment's name that no other process and no earlier segment has.
    pub fn next_rewrite(&self) -> u64 {
        let n = self.rewrites.fetch_add(1, Ordering::Relaxed);
        (self.config.incarnation << 32) | (n & 0xffff_ffff)
    }

    /// Makes `manifest` the partition's record in metadata. Without an answer the partition is unsettled: see [`super::unsettled`].
    pub async fn publish(
        &self,
        manifest: &Manifest,
        partition: &PartitionInner,
        producers: Option<ProducerSnapshot>,
    ) -> Result<Revision, PublishError> {
        let guard = Guard { writer_epoch: self.config.incarnation, chain: self.chain.as_deref() };
        // Before it is sent: who asks for it may go away.
        partition.state.lock().unsettled = true;
        let published = manifest.publish(&*self.meta, &self.keys, partition.id, guard, producers).await;
        match published {
            Ok(_) => partition.state.lock().unsettled = false,
            Err(PublishError::Fenced) => self.fence("the record of its chain says so"),
            Err(PublishError::Conflict | PublishError::Meta(_)) => {}
        }
        published
    }

    /// Somebody else ended this broker's chain: it acknowledges nothing any more.
    pub fn fence(&self, why: &'static str) {
        let Some(chain) = &self.chain else { return };
        // A chain that this process sealed itself is no surprise.
        if chain.is_own_seal() || chain.fenced.is_cancelled() {
            return;
        }
        tracing::error!(why, "this broker was fenced: its partitions belong to others");
        self.end_incarnation(chain);
    }

    /// Ends this incarnation, so that the next one reads a lost object that is there again.
    pub fn begin_anew(&self, found: &Path) {
        let Some(chain) = &self.chain else { return };
        tracing::warn!(object = %found, "a lost object was put back, or given up: this broker joins anew to take over what is there");
        self.end_incarnation(chain);
    }

    fn end_incarnation(&self, chain: &OwnChain) {
        for gathered in self.buffer.fence() {
            gathered.flush.fence();
        }
        chain.fenced.cancel();
    }

    /// Keeps an object in memory for readers, and lets the oldest go when the budget is spent.
    pub fn remember(&self, flush: Arc<Flush>) {
        let mut cache = self.tail_cache.lock();
        cache.bytes += flush.memory_bytes();
        cache.flushes.push_back(flush);
        while cache.bytes > self.config.tail_cache_bytes {
            let Some(oldest) = cache.flushes.pop_front() else { break };
            cache.bytes -= oldest.memory_bytes();
        }
    }

    pub fn tail_cache_bytes(&self) -> usize {
        self.tail_cache.lock().bytes
    }

    /// Frees write-ahead files that nothing needs any more.
    pub fn free_unused(&self) {
        let before = self.files.own_freed();
        self.files.free_unused();
        if let Some(chain) = &self.chain
            && self.files.own_freed() > before
        {
            chain.freed.notify_one();
        }
    }

    /// Gives batches of the tail back to the files that hold them.
    pub fn release(&self, batches: &[TailBatch]) {
        let mut run: Option<(u64, u64)> = None;
        for batch in batches {
            match &mut run {
                Some((file_no, count)) if *file_no == batch.place.file_no => *count += 1,
                Some((file_no, count)) => {
                    self.files.release(*file_no, *count);
                    run = Some((batch.place.file_no, 1));
                }
                None => run = Some((batch.place.file_no, 1)),
            }
        }
        if let Some((file_no, count)) = run {
            self.files.release(file_no, count);
        }
    }

    /// The bytes of batches of the tail where all are in memory; otherwise the sources again.
    pub fn all_in_memory(&self, sources: Vec<Source>) -> Result<Vec<Bytes>, Vec<Source>> {
        if sources.iter().any(|source| matches!(source, Source::Wal(_))) {
            return Err(sources);
        }
        self.counters.tail_hits.fetch_add(sources.len() as u64, Ordering::Relaxed);
        let bytes = |source| match source {
            Source::Memory(bytes) => bytes,
            Source::Wal(_) => unreachable!("none is read back"),
        };
        Ok(sources.into_iter().map(bytes).collect())
    }

    /// The bytes of batches of the tail: most are in memory, the others are read back.
    pub async fn load(&self, sources: Vec<Source>) -> Result<Vec<Loaded>, ReadError> {
        let wanted: Vec<WalBatch> = sources.iter().filter_map(Source::in_wal).collect();
        if wanted.is_empty() {
            self.counters.tail_hits.fetch_add(sources.len() as u64, Ordering::Relaxed);
        } else {
            self.counters.tail_misses.fetch_add(wanted.len() as u64, Ordering::Relaxed);
        }
        let mut read = self.read_back(&wanted).await?.into_iter();
        let loaded = |source| match source {
            Source::Memory(bytes) => Loaded::Sound(bytes),
            Source::Wal(batch) => match read.next().expect("one for each that was wanted") {
                Ok(bytes) => check_read_back(bytes, *batch),
                Err(BatchLost::Missing(why)) => Loaded::Missing { batch: *batch, why },
                Err(BatchLost::CutOff(why)) => Loaded::Damaged { batch: *batch, bytes: Bytes::new(), why },
                Err(BatchLost::Away(why)) => Loaded::Away { why },
            },
        };
        Ok(sources.into_iter().map(loaded).collect())
    }

    /// Batches of the tail that are not in memory any more.
    async fn read_back(&self, wanted: &[WalBatch]) -> Result<Vec<Result<Bytes, BatchLost>>, ReadError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let places: Vec<_> = wanted.iter().map(|batch| (batch.place, batch.size_bytes)).collect();
        if self.chain.is_some() {
            return super::objects::read::batches(self, &places).await;
        }
        let files = self.files.clone();
        tokio::task::spawn_blocking(move || files.read(&places))
            .await
            .map_err(|e| ReadError::Unavailable(e.to_string()))?
            .map_err(|e| ReadError::Unavailable(format!("the write-ahead log: {e}")))
    }

    pub async fn read_segment(
        &self,
        segment: &StoredSegment,
        from: Offset,
        max_bytes: usize,
        min_one: bool,
    ) -> Result<SegmentRead, SegmentError> {
        self.segments.read(&segment.at, from, max_bytes, min_one).await
    }

    pub async fn find_in_segment(
        &self,
        requester: Requester,
        segment: &StoredSegment,
        target_ms: i64,
        log_start: Offset,
    ) -> Result<Option<(Offset, i64)>, SegmentError> {
        let found = self.segments.find_timestamp(requester, &segment.at, target_ms).await?;
        Ok(found.map(|(offset, timestamp_ms, _)| (offset.max(log_start), timestamp_ms)))
    }

    pub fn damages(&self) -> &Damages {
        self.segments.damages()
    }

    /// Takes note that a batch of the tail cannot be read. Gives the error for a reader who needs it.
    pub fn damaged(&self, partition: &PartitionInner, batch: &WalBatch, why: String) -> ReadError {
        let error = format!("the write-ahead log at offset {}: {why}", batch.base_offset);
        self.damages().note(Damage {
            object: self.files.describe(batch.place.file_no).into(),
            position: batch.place.position,
            topic: Arc::clone(&partition.topic_name),
            partition: partition.id.index,
            offsets: Some((batch.base_offset, batch.last_offset)),
            why,
        });
        self.damages().read_failed();
        ReadError::Corrupt(error)
    }

    /// The same for offsets that no segment holds.
    pub fn damaged_hole(&self, partition: &PartitionInner, first: Offset, last: Offset) -> ReadError {
        let why = format!("no segment holds offsets {first} to {last}");
        self.damages().note(Damage {
            object: super::manifest::directory(&partition.topic_name, partition.id).into(),
            position: 0,
            topic: Arc::clone(&partition.topic_name),
            partition: partition.id.index,
            offsets: Some((first, last)),
            why: why.clone(),
        });
        self.damages().read_failed();
        ReadError::Corrupt(why)
    }

    /// The same for records of a segment.
    pub fn damaged_segment(&self, segment: &StoredSegment, error: SegmentError) -> ReadError {
        let text = error.to_string();
        let (position, first, last, why) = match error {
            SegmentError::Corrupt { position, first, last, why, .. } => (position, first, last, why),
            SegmentError::Store(e) => (0, segment.at.base_offset, segment.last_offset(), e.to_string()),
        };
        let (topic, partition) = crate::segment::owner_in(&segment.at.path);
        self.damages().note(Damage {
            object: Arc::clone(&segment.at.path),
            position,
            topic: topic.into(),
            partition,
            offsets: Some((first, last)),
            why,
        });
        self.damages().read_failed();
        ReadError::Corrupt(text)
    }
}

/// A batch of the tail as it was found.
#[derive(Debug)]
pub enum Loaded {
    Sound(Bytes),
    /// What is left of it is not what was written.
    Damaged {
        batch: WalBatch,
        bytes: Bytes,
        why: String,
    },
    /// What holds it is not there. It may have been moved since it was looked up; otherwise it is lost.
    Missing {
        batch: WalBatch,
        why: String,
    },
    /// What holds it is not given at the moment.
    Away {
        why: String,
    },
}

/// Why a batch was not read back.
#[derive(Debug)]
pub enum BatchLost {
    Missing(String),
    CutOff(String),
    /// The store does not give it at the moment.
    Away(String),
}

impl Source {
    fn in_wal(&self) -> Option<WalBatch> {
        match self {
            Source::Memory(_) => None,
            Source::Wal(batch) => Some(**batch),
        }
    }
}

/// What was read back must be the batch that was written: the disk may have lost bits since the last start.
fn check_read_back(bytes: Bytes, batch: WalBatch) -> Loaded {
    let header = BatchHeader::parse(&bytes).ok().filter(|header| {
        header.size_bytes == bytes.len()
            && header.base_offset == batch.base_offset
            && header.last_offset() == batch.last_offset
            && batch.leader_epoch.is_none_or(|epoch| epoch == header.leader_epoch)
            && header.crc_matches(&bytes)
    });
    match header {
        Some(_) => Loaded::Sound(bytes),
        None => Loaded::Damaged { batch, bytes, why: "the batch does not match its CRC32C".to_owned() },
    }
}
