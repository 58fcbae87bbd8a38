//! Opening the log: the directory, the manifests, and what the write-ahead files hold above them.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use kafscale_core::clock::Clock;
use kafscale_core::ids::{Offset, PartitionId, TopicId};
use kafscale_core::producer::SeenBatch;
use kafscale_meta::records::{Keyspace, PartitionRecord, ProducersRecord, Record};
use kafscale_meta::{MetaStore, MetaStoreExt, Revision};

use super::manifest::{self, Manifest};
use super::partition::{State, TailBatch};
use super::shared::Shared;
use super::{HostedTopic, LogConfig, StoreUrl, new_partition};
use crate::error::OpenError;
use crate::segment::{ReadLimits, SegmentReader};
use crate::store::open_store;
use crate::wal::chain::{Chain, ChainConfig, LocalChain};
use crate::wal::file::FILE_HEADER_BYTES;
use crate::wal::files::{Place, WalFiles};
use crate::wal::object::IndexEntry;
use crate::wal::recovery::{self, RecoveredFile};

/// The layout of a data directory; a newer one is refused.
const DIRECTORY_VERSION: u32 = 1;

type Opened = (Shared, Chain, Option<File>);

pub async fn open(
    config: LogConfig,
    meta: Arc<dyn MetaStore>,
    keys: Keyspace,
    clock: Arc<dyn Clock>,
    topics: Vec<HostedTopic>,
) -> Result<Opened, OpenError> {
    let (lock, mut recovered) = match config.store.clone() {
        StoreUrl::Memory => (None, Vec::new()),
        StoreUrl::File(dir) => {
            let wal_dir = wal_dir(&dir, config.node_id);
            let opened = tokio::task::spawn_blocking(move || {
                let lock = claim(&dir)?;
                std::fs::create_dir_all(&wal_dir).map_err(io_at(&wal_dir))?;
                Ok::<_, OpenError>((lock, recovery::recover(&wal_dir)?))
            });
            let (lock, recovered) = opened.await.expect("recovery does not panic")?;
            (Some(lock), recovered)
        }
    };
    let store = open_store(&config.store).map_err(|e| OpenError::Store(e.to_string()))?;
    let limits = ReadLimits::with_cache_bytes(config.segment_cache_bytes);
    let segments = SegmentReader::new(store.clone(), limits);
    let files = Arc::new(WalFiles::default());
    let mut states = load_manifests(&*meta, &keys, &topics).await?;
    let before_unused = take_unused(&files, &mut recovered, config.wal_file_bytes);
    let previous = replay(&files, recovered, &mut states)?.or(before_unused);
    let chain = open_chain(&config, &files, previous)?;
    files.free_unused();

    let shared = Shared::new(config, clock, meta, keys, store, segments, files);
    {
        let mut partitions = shared.partitions.write();
        for topic in &topics {
            for index in 0..topic.partitions {
                let id = PartitionId { topic: topic.id, index };
                let state = states.remove(&id).expect("every hosted partition was loaded");
                partitions.insert(id, Arc::new(new_partition(topic, index, state)));
            }
        }
    }
    Ok((shared, chain, lock))
}

fn wal_dir(dir: &Path, node_id: i32) -> PathBuf {
    dir.join("wal").join(node_id.to_string())
}

fn io_at(path: &Path) -> impl FnOnce(std::io::Error) -> OpenError {
    let path = path.to_owned();
    move |error| OpenError::Io { path, error }
}

/// Takes the directory for this process, and checks that it is of a known version.
fn claim(dir: &Path) -> Result<File, OpenError> {
    std::fs::create_dir_all(dir).map_err(io_at(dir))?;
    let lock_path = dir.join("LOCK");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(io_at(&lock_path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Err(OpenError::InUse { path: dir.to_owned() }),
        Err(std::fs::TryLockError::Error(e)) => return Err(io_at(&lock_path)(e)),
    }
    let version_path = dir.join("VERSION");
    match std::fs::read_to_string(&version_path) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(found) if found <= DIRECTORY_VERSION => Ok(lock),
            Ok(found) => {
                Err(OpenError::NewerVersion { path: dir.to_owned(), found, known: DIRECTORY_VERSION })
            }
            Err(e) => Err(io_at(&version_path)(std::io::Error::new(std::io::ErrorKind::InvalidData, e))),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            write_version(&version_path).map_err(io_at(&version_path))?;
            Ok(lock)
        }
        Err(e) => Err(io_at(&version_path)(e)),
    }
}

/// Whole or not at all: a start that is cut off here must not leave an empty file behind.
fn write_version(path: &Path) -> std::io::Result<()> {
    let staged = path.with_extension("tmp");
    std::fs::write(&staged, format!("{DIRECTORY_VERSION}\n"))?;
    File::open(&staged)?.sync_all()?;
    std::fs::rename(&staged, path)
}

fn open_chain(
    config: &LogConfig,
    files: &Arc<WalFiles>,
    previous: Option<(u64, u64)>,
) -> Result<Chain, OpenError> {
    let chain_config = ChainConfig {
        node_id: config.node_id,
        incarnation: config.incarnation,
        file_bytes: config.wal_file_bytes,
    };
    match &config.store {
        StoreUrl::Memory => Ok(Chain::memory(files.clone(), chain_config)),
        StoreUrl::File(dir) => {
            let dir = wal_dir(dir, config.node_id);
            let mut chain = LocalChain::new(&dir, chain_config, files.clone(), previous);
            chain.open_file()?;
            Ok(Chain::Local(chain))
        }
    }
}

/// The state of every hosted partition as its manifest has it.
async fn load_manifests(
    meta: &dyn MetaStore,
    keys: &Keyspace,
    topics: &[HostedTopic],
) -> Result<HashMap<PartitionId, State>, OpenError> {
    let failed = |e: kafscale_meta::Error| OpenError::Metadata(e.to_string());
    let mut partitions: HashMap<PartitionId, (PartitionRecord, Revision)> = HashMap::new();
    for kv in meta.range_all(&keys.partitions_prefix()).await.map_err(failed)?.kvs {
        if let Some((topic, index)) = keys.parse_partition(&kv.key) {
            let record = PartitionRecord::decode(&kv.key, &kv.value).map_err(failed)?;
            partitions.insert(PartitionId { topic: TopicId(topic), index }, (record, kv.mod_revision));
        }
    }
    let mut producers: HashMap<PartitionId, ProducersRecord> = HashMap::new();
    for kv in meta.range_all(&keys.producers_prefix()).await.map_err(failed)?.kvs {
        if let Some((topic, index)) = keys.parse_producers(&kv.key) {
            let record = ProducersRecord::decode(&kv.key, &kv.value).map_err(failed)?;
            producers.insert(PartitionId { topic: TopicId(topic), index }, record);
        }
    }
    let mut states = HashMap::new();
    for topic in topics {
        for index in 0..topic.partitions {
            let id = PartitionId { topic: topic.id, index };
            let directory = manifest::directory(&topic.name, id);
            let manifest = Manifest::from_records(&directory, partitions.remove(&id), producers.remove(&id));
            states.insert(id, State::from_manifest(manifest));
        }
    }
    Ok(states)
}

/// Makes spares of the files at the end that nothing was appended to. Each start leaves one where no append follows, and
/// without this restarts alone would fill the disk. Gives what came before them.
fn take_unused(files: &WalFiles, recovered: &mut Vec<RecoveredFile>, file_bytes: u64) -> Option<(u64, u64)> {
    let mut before = None;
    while let Some(unused) = recovered.pop_if(|file| file.end == FILE_HEADER_BYTES) {
        before = unused.header.previous;
        files.recycle(&unused.path, &unused.file, file_bytes);
    }
    before
}

/// Puts the batches of the write-ahead files on top of the manifests. Gives the last file and the end of its
/// objects, where the chain goes on.
fn replay(
    files: &WalFiles,
    recovered: Vec<RecoveredFile>,
    states: &mut HashMap<PartitionId, State>,
) -> Result<Option<(u64, u64)>, OpenError> {
    let mut previous = None;
    for RecoveredFile { path, file, header, end, batches } in recovered {
        let size_bytes = file.metadata().map_or(0, |m| m.len());
        files.add_disk(header.file_no, path, file, size_bytes);
        let (mut live, mut bytes) = (0, 0);
        for (position, entry) in batches {
            // Batches of deleted topics stay in the file until it is freed.
            let Some(state) = states.get_mut(&entry.partition) else { continue };
            if state.replay(&entry, Place { file_no: header.file_no, position })? {
                live += 1;
                bytes += u64::from(entry.size_bytes);
            }
        }
        files.retain(header.file_no, live, bytes);
        previous = Some((header.file_no, end));
    }
    Ok(previous)
}

impl State {
    fn from_manifest(manifest: Manifest) -> State {
        let end = manifest.segments.last().map_or(Offset::ZERO, |s| s.last_offset().plus(1));
        let end = end.max(manifest.log_start);
        State {
            log_start: manifest.log_start,
            log_end: end,
            high_watermark: end,
            epochs: manifest.epochs,
            producers: manifest.producers,
            segment_bytes: manifest.segments.iter().map(|s| s.at.size_bytes).sum(),
            segments: manifest.segments,
            revision: manifest.revision,
            ..State::default()
        }
    }

    /// Adds a batch from a write-ahead file; `false` when the manifest covers it already.
    fn replay(&mut self, entry: &IndexEntry, place: Place) -> Result<bool, OpenError> {
        if entry.last_offset < self.log_end {
            return Ok(false);
        }
        if entry.base_offset > self.log_end {
            let (partition, log_end) = (entry.partition.to_string(), self.log_end);
            return Err(OpenError::Gap { partition, log_end, found: entry.base_offset });
        }
        self.epochs.assign(entry.leader_epoch, entry.base_offset);
        self.log_end = entry.last_offset.plus(1);
        self.high_watermark = self.log_end;
        if let Some(s) = entry.sequence {
            let seen = SeenBatch {
                epoch: s.epoch,
                first_sequence: s.first,
                last_sequence: s.last,
                base_offset: entry.base_offset,
                last_offset: entry.last_offset,
                timestamp_ms: entry.appended_ms,
            };
            self.producers.record(s.producer_id, seen, self.high_watermark);
        }
        self.tail_bytes += u64::from(entry.size_bytes);
        self.tail.push_back(TailBatch {
            base_offset: entry.base_offset,
            last_offset: entry.last_offset,
            max_timestamp_ms: entry.max_timestamp_ms,
            appended_ms: entry.appended_ms,
            size_bytes: entry.size_bytes,
            place,
            flush: Weak::new(),
            slot: 0,
        });
        self.durable = self.tail.len();
        Ok(true)
    }
}
