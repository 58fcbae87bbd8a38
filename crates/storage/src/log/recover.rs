//! Opening the log: the store, the directory of a local one, and what its write-ahead files hold.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use kafscale_core::clock::Clock;
use kafscale_meta::MetaStore;
use kafscale_meta::records::{ChainRecord, Keyspace, Record};
use object_store::ObjectStore;

use super::objects::{OwnChain, birth};
use super::pace::Pace;
use super::shared::Shared;
use super::stats::Counters;
use super::unclaimed::Unclaimed;
use super::{LogConfig, StoreUrl};
use crate::error::OpenError;
use crate::segment::{ReadLimits, SegmentReader};
use crate::store::backoff::persist;
use crate::store::counted::Counted;
use crate::store::open_store;
use crate::store::verify::verify;
use crate::wal::chain::{Chain, ChainConfig, LocalChain};
use crate::wal::chain_id::ChainId;
use crate::wal::file::FILE_HEADER_BYTES;
use crate::wal::files::{Place, WalFiles};
use crate::wal::recovery::{self, RecoveredFile};

/// The layout of a data directory; a newer one is refused.
const DIRECTORY_VERSION: u32 = 1;

/// A store that fails just now gets this long to take the mark of this incarnation.
const MARK_PATIENCE: Duration = Duration::from_secs(15);

/// The log, the writer's end of a chain that is not in an object store, and the lock of a directory.
type Opened = (Shared, Option<Chain>, Option<File>);

pub async fn open(
    config: LogConfig,
    meta: Arc<dyn MetaStore>,
    keys: Keyspace,
    clock: Arc<dyn Clock>,
) -> Result<Opened, OpenError> {
    let (lock, mut recovered) = match config.store.clone() {
        StoreUrl::Memory | StoreUrl::S3(_) | StoreUrl::Shared(_) => (None, Vec::new()),
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
    let pace = Arc::new(Pace::default());
    let store = open_store(&config.store, &pace).map_err(|e| OpenError::Store(e.to_string()))?;
    let counters = Counters::default();
    let store: Arc<dyn ObjectStore> = Arc::new(Counted::new(store, Arc::clone(&counters.requests)));
    let own_chain = match config.store.is_shared() {
        true => {
            let unique = format!("{:020}-{:020}", config.node_id, config.incarnation);
            let place = config.store.describe();
            verify(&*store, &unique).await.map_err(|e| OpenError::Store(format!("{place}: {e}")))?;
            let id = ChainId { node_id: config.node_id, incarnation: config.incarnation };
            let mark = || Box::pin(birth::mark(&*store, id)) as BoxFuture<'_, object_store::Result<()>>;
            persist(MARK_PATIENCE, config.incarnation, mark)
                .await
                .map_err(|e| OpenError::Store(format!("{place}: {e}")))?;
            Some(begin_chain(&config, &*meta, &keys).await?)
        }
        false => None,
    };
    let limits = ReadLimits::with_cache_bytes(config.segment_cache_bytes);
    let segments = SegmentReader::new(store.clone(), limits);
    let files = Arc::new(WalFiles::with_room(config.wal_burst_bytes));
    if let StoreUrl::File(dir) = &config.store {
        let dir = wal_dir(dir, config.node_id);
        files.adopt_spares(&dir, config.wal_file_bytes).map_err(io_at(&dir))?;
    }
    let before_unused = take_unused(&files, &mut recovered, config.wal_file_bytes);
    let shared = Shared::new(config, clock, meta, keys, store, segments, files, own_chain, counters, pace);
    let previous = take_over(&shared.files, recovered, &shared.unclaimed).or(before_unused);
    let chain = open_chain(&shared.config, &shared.files, previous)?;
    shared.free_unused();
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

/// The chain of this incarnation, which it registered with.
async fn begin_chain(
    config: &LogConfig,
    meta: &dyn MetaStore,
    keys: &Keyspace,
) -> Result<Arc<OwnChain>, OpenError> {
    let id = ChainId { node_id: config.node_id, incarnation: config.incarnation };
    let key = keys.chain(id.node_id, id.incarnation);
    let failed = |e: kafscale_meta::Error| OpenError::Meta(e.to_string());
    let kv = meta.get(&key).await.map_err(failed)?.ok_or(OpenError::Fenced)?;
    let record = ChainRecord::decode(&key, &kv.value).map_err(failed)?;
    match record.sealed_at {
        Some(_) => Err(OpenError::Fenced),
        None => Ok(OwnChain::new(id, record, kv.mod_revision)),
    }
}

fn open_chain(
    config: &LogConfig,
    files: &Arc<WalFiles>,
    previous: Option<(u64, u64)>,
) -> Result<Option<Chain>, OpenError> {
    let chain_config = ChainConfig {
        node_id: config.node_id,
        incarnation: config.incarnation,
        file_bytes: config.wal_file_bytes,
    };
    match &config.store {
        StoreUrl::S3(_) | StoreUrl::Shared(_) => Ok(None),
        StoreUrl::Memory => Ok(Some(Chain::memory(files.clone(), chain_config))),
        StoreUrl::File(dir) => {
            let dir = wal_dir(dir, config.node_id);
            let mut chain = LocalChain::new(&dir, chain_config, files.clone(), previous);
            chain.open_file()?;
            Ok(Some(chain.into()))
        }
    }
}

/// Makes spares of the files at the end that nothing was appended to. Each start leaves one where no append follows, and
/// without this restarts alone would fill the disk. Gives what came before them.
fn take_unused(files: &WalFiles, recovered: &mut Vec<RecoveredFile>, file_bytes: u64) -> Option<(u64, u64)> {
    let mut before = None;
    while let Some(unused) = recovered.pop_if(|file| file.end == FILE_HEADER_BYTES) {
        before = unused.header.previous;
        files.retire(&unused.path, unused.file, file_bytes);
    }
    before
}

/// Takes the write-ahead files over; their batches wait for the owners of their partitions. Gives the last file and the end of its
/// objects, where the chain goes on.
fn take_over(files: &WalFiles, recovered: Vec<RecoveredFile>, unclaimed: &Unclaimed) -> Option<(u64, u64)> {
    let mut previous = None;
    for RecoveredFile { path, file, header, end, batches } in recovered {
        let size_bytes = file.metadata().map_or(0, |m| m.len());
        files.add_disk(header.file_no, path, file, size_bytes);
        let bytes = batches.iter().map(|(_, entry)| u64::from(entry.size_bytes)).sum();
        files.retain(header.file_no, batches.len() as u64, bytes);
        for (position, entry) in batches {
            unclaimed.add(Place { file_no: header.file_no, position }, entry);
        }
        previous = Some((header.file_no, end));
    }
    previous
}
