//! What all partitions share: the buffer in front of the writer, the files, the caches, the store and metadata.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use kafscale_core::batch::BatchHeader;
use kafscale_core::clock::Clock;
use kafscale_core::ids::{Offset, PartitionId, ProducerId};
use kafscale_core::producer::SeenBatch;
use kafscale_meta::records::Keyspace;
use kafscale_meta::{MetaStore, Revision};
use object_store::ObjectStore;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::LogConfig;
use super::flush::{Flush, Limits, WalBuffer};
use super::manifest::{Guard, Manifest, PublishError, StoredSegment};
use super::objects::OwnChain;
use super::pace::Pace;
use super::partition::{PartitionInner, Source, TailBatch};
use super::partitions::Partitions;
use super::retention::Settled;
use super::stats::Counters;
use super::unclaimed::Unclaimed;
use crate::error::ReadError;
use crate::segment::{SegmentError, SegmentRead, SegmentReader};
use crate::wal::files::{Place, WalFiles};

/// Recent objects kept in memory for tailing readers, oldest first, up to a budget.
#[derive(Debug, Default)]
struct TailCache {
    flushes: VecDeque<Arc<Flush>>,
    bytes: usize,
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
    /// Tells the retention task when orphans may be looked for.
    pub settled: Settled,
    /// Wakes the rewriter when a write-ahead file was closed.
    pub file_closed: Notify,
    pub stopping: CancellationToken,
    pub counters: Counters,
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
            settled: Settled::default(),
            file_closed: Notify::new(),
            stopping: CancellationToken::new(),
            counters,
            pace,
            tail_cache: Mutex::default(),
            rewrites: AtomicU64::new(0),
            last_file: AtomicU64::new(0),
        }
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
        producers: Option<Vec<(ProducerId, Vec<SeenBatch>)>>,
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
        for gathered in self.buffer.fence() {
            gathered.flush.fence();
        }
        chain.fenced.cancel();
    }

    /// Keeps an object in memory for readers, and lets the oldest go when the budget is spent.
    pub fn remember(&self, flush: Arc<Flush>) {
        let mut cache = self.tail_cache.lock();
        cache.bytes += flush.size_bytes();
        cache.flushes.push_back(flush);
        while cache.bytes > self.config.tail_cache_bytes {
            let Some(oldest) = cache.flushes.pop_front() else { break };
            cache.bytes -= oldest.size_bytes();
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

    /// The bytes of batches of the tail: most are in memory, the others are read back.
    pub async fn load(&self, sources: Vec<Source>) -> Result<Vec<Bytes>, ReadError> {
        let wanted: Vec<(Place, u32)> = sources.iter().filter_map(Source::wal_place).collect();
        if wanted.is_empty() {
            self.counters.tail_hits.fetch_add(sources.len() as u64, Ordering::Relaxed);
        } else {
            self.counters.tail_misses.fetch_add(wanted.len() as u64, Ordering::Relaxed);
        }
        let mut read = self.read_back(wanted).await?.into_iter();
        let bytes_of = |source| match source {
            Source::Memory(bytes) => Ok(bytes),
            Source::Wal(_, _, base_offset) => {
                check_read_back(read.next().expect("one for each that was wanted"), base_offset)
            }
        };
        sources.into_iter().map(bytes_of).collect()
    }

    /// Batches of the tail that are not in memory any more.
    async fn read_back(&self, wanted: Vec<(Place, u32)>) -> Result<Vec<Bytes>, ReadError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        if self.chain.is_some() {
            return super::objects::read::batches(self, &wanted).await;
        }
        let files = self.files.clone();
        tokio::task::spawn_blocking(move || files.read(&wanted))
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
    ) -> Result<SegmentRead, ReadError> {
        self.segments.read(&segment.at, from, max_bytes, min_one).await.map_err(read_error)
    }

    pub async fn find_in_segment(
        &self,
        segment: &StoredSegment,
        target_ms: i64,
        log_start: Offset,
    ) -> Result<Option<(Offset, i64)>, ReadError> {
        let found = self.segments.find_timestamp(&segment.at, target_ms).await.map_err(read_error)?;
        Ok(found.map(|(offset, timestamp_ms, _)| (offset.max(log_start), timestamp_ms)))
    }
}

impl Source {
    fn wal_place(&self) -> Option<(Place, u32)> {
        match self {
            Source::Memory(_) => None,
            Source::Wal(place, size_bytes, _) => Some((*place, *size_bytes)),
        }
    }
}

/// What was read back must be the batch that was written: the disk may have lost bits since the last start.
fn check_read_back(bytes: Bytes, base_offset: Offset) -> Result<Bytes, ReadError> {
    let damaged = || ReadError::Corrupt(format!("the write-ahead log at offset {base_offset}"));
    let header = BatchHeader::parse(&bytes).map_err(|_| damaged())?;
    let sound = header.base_offset == base_offset && header.crc_matches(&bytes);
    if sound { Ok(bytes) } else { Err(damaged()) }
}

fn read_error(e: SegmentError) -> ReadError {
    match e {
        SegmentError::Corrupt { .. } => ReadError::Corrupt(e.to_string()),
        SegmentError::Store(_) => ReadError::Unavailable(e.to_string()),
    }
}
