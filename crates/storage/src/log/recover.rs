//! Opening the log: the store, the directory of a local one, and what its write-ahead files hold.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use kafscale_core::clock::Clock;
use kafscale_core::ids::TopicId;
use kafscale_meta::records::{ChainRecord, Keyspace, Record, WalEndRecord};
use kafscale_meta::{MetaStore, files};
use object_store::ObjectStore;
use uuid::Uuid;

use super::identity::{Binding, bind, end_of, note_wal_end, topics};
use super::look::Looked;
use super::objects::{OwnChain, birth};
use super::pace::Pace;
use super::shared::Shared;
use super::stats::Counters;
use super::unclaimed::Unclaimed;
use super::{LogConfig, StoreUrl, other_nodes, rewrite};
use crate::error::OpenError;
use crate::segment::{ReadLimits, SegmentReader};
use crate::store::backoff::persist;
use crate::store::counted::Counted;
use crate::store::open_store;
use crate::store::patient::Patient;
use crate::wal::chain::{Chain, ChainConfig, ChainError, LocalChain};
use crate::wal::chain_id::ChainId;
use crate::wal::file::{FILE_HEADER_BYTES, FileHeader};
use crate::wal::files::{Aside, Place, WalFiles, rename_aside};
use crate::wal::given_up::GivenUp;
use crate::wal::recovery::{self, BEHIND_A_LOSS, RecoveredFile};
use crate::wal::recovery_point::RecoveryPoint;

/// The layout of a data directory; a newer one is refused.
const DIRECTORY_VERSION: u32 = 1;
/// The file that says so is no longer.
const VERSION_BYTES_MAX: u64 = 64;

/// Files that are full of batches that are as small as can be reach the limit of the write-ahead log when there are so many.
const FILES_OF_BATCHES: usize = 4;
const FILE_BATCHES_MIN: usize = 256;

/// A store that fails just now gets this long to take the mark of this incarnation.
const MARK_PATIENCE: Duration = Duration::from_secs(15);

/// The log, the writer's end of a chain that is not in an object store, and the lock of a directory.
type Opened = (Shared, Option<Chain>, Option<File>);

pub async fn open(
    config: LogConfig,
    looked: Option<Looked>,
    meta: Arc<dyn MetaStore>,
    keys: Keyspace,
    clock: Arc<dyn Clock>,
) -> Result<Opened, OpenError> {
    let (lock, mut recovered, decided) = match (config.store.clone(), looked) {
        (_, Some(Looked { lock, recovered, decided })) => (Some(lock), recovered, Some(decided)),
        (StoreUrl::Memory | StoreUrl::S3(_) | StoreUrl::Shared(_), None) => (None, Vec::new(), None),
        (StoreUrl::File(dir), None) => {
            let wal_dir = wal_dir(&dir, config.node_id);
            let opened = tokio::task::spawn_blocking(move || {
                Ok::<_, OpenError>((claim(&dir)?, recovery::recover(&wal_dir)?))
            });
            let (lock, recovered) = opened.await.expect("recovery does not panic")?;
            (Some(lock), recovered, None)
        }
    };
    let pace = Arc::new(Pace::default());
    let store = open_store(&config.store, &pace).map_err(|e| OpenError::Store(e.to_string()))?;
    let counters = Counters::default();
    let store: Arc<dyn ObjectStore> = Arc::new(Counted::new(store, Arc::clone(&counters.requests)));
    let store = Patient::where_shared(&config.store, store, config.incarnation);
    let place = config.store.describe();
    if let (StoreUrl::File(dir), None) = (&config.store, &decided) {
        other_nodes::check(dir, config.node_id, &*meta, &keys).await?;
    }
    // Before anything else is written to the store.
    let store_id = match &config.store {
        StoreUrl::Memory => None,
        StoreUrl::File(_) | StoreUrl::S3(_) | StoreUrl::Shared(_) => {
            let (config, store, meta, keys) = (&config, &*store, &*meta, &keys);
            let now_ms = clock.now_ms();
            Some(bind(&Binding { config, store, meta, keys, recovered: &recovered, now_ms }, decided).await?)
        }
    };
    if let StoreUrl::File(dir) = &config.store {
        tell_of_damage(&recovered, &*meta, &keys).await.map_err(|e| OpenError::Meta(e.to_string()))?;
        make_ready(&wal_dir(dir, config.node_id))?;
    }
    let own_chain = match config.store.is_shared() {
        true => {
            let id = ChainId { node_id: config.node_id, incarnation: config.incarnation };
            let mark = || Box::pin(birth::mark(&*store, id)) as BoxFuture<'_, object_store::Result<()>>;
            persist(MARK_PATIENCE, config.incarnation, mark)
                .await
                .map_err(|e| OpenError::Busy(format!("{place}: {e}")))?;
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
    if recovered.last().is_some_and(is_unused) {
        forget_unused(&config, &recovered, &*meta, &keys).await?;
    }
    let before_unused = take_unused(&files, &mut recovered, config.wal_file_bytes);
    let mut shared =
        Shared::new(config, clock, meta, keys, store, segments, files, own_chain, counters, pace);
    shared.store_id = store_id;
    let given_up = given_up(&shared.config, recovered.first().map(|file| &file.header))?;
    let previous = take_over(&shared.files, recovered, &shared.unclaimed).or(before_unused);
    let previous = leave_out(&given_up, &shared, previous);
    let chain = open_chain(&shared, previous)?;
    remember_end(&shared).await.map_err(|e| OpenError::Meta(e.to_string()))?;
    shared.free_unused();
    Ok((shared, chain, lock))
}

/// Makes the directory of the write-ahead files, and leaves in it what is to be gone on from.
fn make_ready(dir: &Path) -> Result<(), OpenError> {
    std::fs::create_dir_all(dir).and_then(|()| recovery::remove_unfinished(dir)).map_err(io_at(dir))?;
    put_returned_aside(dir)
}

/// Says what of the write-ahead log is not as it was written, with the names of the topics.
async fn tell_of_damage(
    files: &[RecoveredFile],
    meta: &dyn MetaStore,
    keys: &Keyspace,
) -> Result<(), kafscale_meta::Error> {
    if files.iter().all(|file| file.damaged.is_empty() && file.cut_off.is_none()) {
        return Ok(());
    }
    let topics: HashMap<TopicId, String> =
        topics(meta, keys).await?.into_iter().map(|(name, id)| (id, name)).collect();
    let name = |id: TopicId| topics.get(&id).cloned().unwrap_or_else(|| format!("the deleted topic {id}"));
    for RecoveredFile { path, damaged, cut_off, .. } in files {
        for (position, entry) in damaged {
            tracing::warn!(
                file = %path.display(), position,
                topic = name(entry.partition.topic), partition = entry.partition.index,
                first_offset = entry.base_offset.0, last_offset = entry.last_offset.0,
                "a batch of the write-ahead log is damaged; the others are served"
            );
        }
        if let Some(cut) = cut_off {
            tracing::warn!(
                file = %path.display(), position = cut.position, why = %cut.why,
                records = cut.records(&recovery::ends(files), name), meaning = cut.meaning(),
                "the last write of the write-ahead log is not whole, and is left out"
            );
        }
    }
    Ok(())
}

/// Notes in the metadata how far the write-ahead files reach that are there now: the next start misses what is gone by then.
pub async fn remember_end(shared: &Shared) -> Result<(), kafscale_meta::Error> {
    let Some(RecoveryPoint { file_no, position, .. }) = shared.files.point() else { return Ok(()) };
    let end = Some(WalEndRecord { file_no, position });
    note_wal_end(&*shared.meta, &shared.keys, shared.config.node_id, end).await
}

pub fn wal_dir(dir: &Path, node_id: i32) -> PathBuf {
    dir.join("wal").join(node_id.to_string())
}

fn io_at(path: &Path) -> impl FnOnce(std::io::Error) -> OpenError {
    let path = path.to_owned();
    move |error| OpenError::Io { path, error }
}

/// Takes the directory for this process, and checks that it is of a known version.
pub fn claim(dir: &Path) -> Result<File, OpenError> {
    std::fs::create_dir_all(dir).map_err(io_at(dir))?;
    let lock_path = dir.join("LOCK");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(io_at(&lock_path))?;
    take(&lock, dir)?;
    let version_path = dir.join("VERSION");
    match check_version(dir) {
        Err(OpenError::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
            write_version(&version_path).map_err(io_at(&version_path))?;
        }
        checked => checked?,
    }
    Ok(lock)
}

/// The same for one who only looks, also where nothing can be written. Without a lock file nobody has the directory.
pub fn claim_to_look(dir: &Path) -> Result<Option<File>, OpenError> {
    let lock_path = dir.join("LOCK");
    let lock = match files::open_to_lock(&lock_path) {
        Ok(lock) => Some(lock),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(io_at(&lock_path)(e)),
    };
    lock.as_ref().map_or(Ok(()), |lock| take(lock, dir))?;
    check_version(dir)?;
    Ok(lock)
}

fn take(lock: &File, dir: &Path) -> Result<(), OpenError> {
    match files::lock_soon(lock) {
        Ok(()) => Ok(()),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::InUse { path: dir.to_owned() }),
        Err(std::fs::TryLockError::Error(e)) => Err(io_at(&dir.join("LOCK"))(e)),
    }
}

fn check_version(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join("VERSION");
    let mut text = Vec::new();
    // What is something else may have no end, or not even a beginning.
    if std::fs::metadata(&path).map_err(io_at(&path))?.is_file() {
        let file = File::open(&path).map_err(io_at(&path))?;
        file.take(VERSION_BYTES_MAX).read_to_end(&mut text).map_err(io_at(&path))?;
    }
    match str::from_utf8(&text).ok().and_then(|text| text.trim().parse::<u32>().ok()) {
        Some(1..=DIRECTORY_VERSION) => Ok(()),
        // No program has written it.
        Some(0) | None => Err(OpenError::NoVersion { path, known: DIRECTORY_VERSION }),
        Some(found) => Err(OpenError::NewerVersion { path: dir.to_owned(), found, known: DIRECTORY_VERSION }),
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

fn open_chain(shared: &Shared, previous: Option<(u64, u64)>) -> Result<Option<Chain>, OpenError> {
    let Shared { config, files, .. } = shared;
    let chain_config = ChainConfig {
        node_id: config.node_id,
        incarnation: config.incarnation,
        file_bytes: config.wal_file_bytes,
        file_batches: (rewrite::batches_in(config.wal_max_bytes) / FILES_OF_BATCHES).max(FILE_BATCHES_MIN),
        store_id: shared.store_id.as_ref().and_then(|id| Uuid::parse_str(id).ok()),
    };
    match &config.store {
        StoreUrl::S3(_) | StoreUrl::Shared(_) => Ok(None),
        StoreUrl::Memory => Ok(Some(Chain::memory(files.clone(), chain_config))),
        StoreUrl::File(dir) => {
            let dir = wal_dir(dir, config.node_id);
            let mut chain = LocalChain::new(&dir, chain_config, files.clone(), previous);
            match chain.open_file() {
                // What is there can be read, and deleting makes room: the writer tries again until there is some.
                Err(ChainError::Retry(error)) if is_full(&error) => {
                    let why = format!(
                        "there is no room in {} for a write-ahead file of {} bytes: {error}",
                        dir.display(),
                        config.wal_file_bytes
                    );
                    tracing::error!(why, "the log is read-only until there is room");
                    shared.files.drop_spares();
                    // Nothing has gathered yet.
                    drop(shared.buffer.refuse(why));
                }
                opened => opened?,
            }
            Ok(Some(chain.into()))
        }
    }
}

fn is_unused(file: &RecoveredFile) -> bool {
    file.end == FILE_HEADER_BYTES
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// The recovery point and the metadata name the file that is about to go, and a start that is cut off here must not miss that one.
async fn forget_unused(
    config: &LogConfig,
    recovered: &[RecoveredFile],
    meta: &dyn MetaStore,
    keys: &Keyspace,
) -> Result<(), OpenError> {
    let StoreUrl::File(dir) = &config.store else { return Ok(()) };
    let dir = wal_dir(dir, config.node_id);
    RecoveryPoint::remove(&dir).map_err(io_at(&dir))?;
    let used = recovered.iter().rfind(|file| !is_unused(file)).map(end_of);
    let noted = note_wal_end(meta, keys, config.node_id, used).await;
    noted.map_err(|e| OpenError::Meta(e.to_string()))
}

/// Makes spares of the files at the end that nothing was appended to. Each start leaves one where no append follows, and
/// without this restarts alone would fill the disk. Gives what came before them.
fn take_unused(files: &WalFiles, recovered: &mut Vec<RecoveredFile>, file_bytes: u64) -> Option<(u64, u64)> {
    let mut before = None;
    while let Some(unused) = recovered.pop_if(|file| is_unused(file)) {
        before = unused.header.previous;
        files.retire(&unused.path, unused.file, file_bytes);
    }
    before
}

/// What a person has given up of the write-ahead log that concerns its files from the `oldest` on.
fn given_up(config: &LogConfig, oldest: Option<&FileHeader>) -> Result<GivenUp, OpenError> {
    let StoreUrl::File(dir) = &config.store else { return Ok(GivenUp::default()) };
    let dir = wal_dir(dir, config.node_id);
    let known = GivenUp::read(&dir);
    match oldest {
        // A file that was begun behind a loss knows what it needs.
        Some(FileHeader { file_no, previous: Some((_, BEHIND_A_LOSS)), .. }) => {
            known.prune(&dir, file_no + 1).map_err(io_at(&dir))
        }
        Some(oldest) => known.prune(&dir, oldest.file_no).map_err(io_at(&dir)),
        // New files get numbers behind those that were given up.
        None => Ok(known),
    }
}

/// Keeps for a person what was put back after it had been given up.
fn put_returned_aside(dir: &Path) -> Result<(), OpenError> {
    for path in recovery::returned(dir)? {
        let aside = rename_aside(&path).map_err(io_at(&path))?;
        tracing::warn!(
            file = %path.display(), aside = %aside.display(),
            "put aside: it came back after `kafscale restore --accept-loss` had given it up, and newer records may have its offsets. Its records \
             are not served, and may be nowhere else: keep it as long as anybody may want them"
        );
    }
    Ok(())
}

/// Lets partitions do without what was given up. Gives where the chain goes on: behind it.
fn leave_out(given_up: &GivenUp, shared: &Shared, previous: Option<(u64, u64)>) -> Option<(u64, u64)> {
    for place in given_up.places() {
        tracing::warn!(
            file = shared.files.describe(place.file_no),
            position = place.position,
            "records of the write-ahead log are lost, and were given up; offsets that are missing are answered as damaged"
        );
        shared.files.put_aside_when_freed(place.file_no, Aside::Damaged);
        shared.unclaimed.lose(place);
    }
    previous.max(given_up.last_file().map(|last| (last, BEHIND_A_LOSS)))
}

/// Takes the write-ahead files over; their batches wait for the owners of their partitions. Gives the last file and the end of its
/// objects, where the chain goes on.
fn take_over(files: &WalFiles, recovered: Vec<RecoveredFile>, unclaimed: &Unclaimed) -> Option<(u64, u64)> {
    let mut previous = None;
    for RecoveredFile { path, file, header, end, batches, .. } in recovered {
        let size_bytes = file.metadata().map_or(0, |m| m.len());
        files.add_disk(header.file_no, path, file, size_bytes);
        let bytes = batches.iter().map(|(_, entry)| u64::from(entry.size_bytes)).sum();
        files.retain(header.file_no, batches.len() as u64, bytes);
        if header.store_id.is_none() {
            unclaimed.add_nameless(header.file_no);
        }
        for (position, entry) in batches {
            unclaimed.add(Place { file_no: header.file_no, position }, entry);
        }
        previous = Some((header.file_no, end));
    }
    previous
}
