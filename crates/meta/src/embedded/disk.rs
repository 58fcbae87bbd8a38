//! The file of the embedded store: a redb database with the current value of every key and the revision.
//!
//! `{dir}/meta/kafscale.redb` holds two tables: `meta` with the format version and the revision, and `kv` with
//! `create revision | mod revision | lease | value` per key (integers of 8 bytes, little-endian; no lease is 0).
//! `{dir}/meta/LOCK` is locked while the store is open. A new database is made under another name first, so that a crash
//! leaves either none or a complete one.
//!
//! redb refuses everything after an IO error until it is opened again; that is [`Disk::reopen`].

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::image::{Entry, Image};
use crate::{Error, ErrorKind, LeaseId, Result, Revision};

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const KV: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("kv");
const FORMAT: &str = "format";
const REVISION: &str = "revision";
/// The version of the layout above that this release reads and writes.
const FORMAT_VERSION: u64 = 1;
const HEADER_BYTES: usize = 24;
/// Reads are served from the image, so redb needs only the pages that commits touch.
const CACHE_BYTES: usize = 32 << 20;

/// Opens a database file, making it if it does not exist.
type Opener = Box<dyn Fn(&Path) -> Result<Database, redb::DatabaseError> + Send>;

/// The open file.
pub(super) struct Disk {
    path: PathBuf,
    opener: Opener,
    /// None while it could not be opened again after a failure.
    db: Option<Database>,
    _lock: File,
}

/// Opens or creates the store under a directory. Blocks.
pub(super) fn open(dir: &Path) -> Result<(Disk, Image)> {
    open_with(dir, Box::new(|path| builder().create(path)))
}

/// Checksums are verified at every opening: everything is read then anyway, and without it redb trusts a file that was
/// closed cleanly, so that damage would be served as metadata.
pub(super) fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

pub(super) fn open_with(dir: &Path, opener: Opener) -> Result<(Disk, Image)> {
    let meta = dir.join("meta");
    fs::create_dir_all(&meta).map_err(|e| io_error(&meta, "cannot create the directory", &e))?;
    let lock = lock(dir, &meta)?;
    let path = meta.join("kafscale.redb");
    if !path.exists() {
        create(&meta, &path, &opener)?;
        sync_directory(dir)?;
    }
    let mut disk = Disk { path, opener, db: None, _lock: lock };
    disk.reopen()?;
    let image = disk.load()?;
    Ok((disk, image))
}

fn lock(dir: &Path, meta: &Path) -> Result<File> {
    let path = meta.join("LOCK");
    let open = File::options().create(true).truncate(false).write(true).open(&path);
    let file = open.map_err(|e| io_error(&path, "cannot open", &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(in_use(dir)),
        Err(TryLockError::Error(e)) => Err(io_error(&path, "cannot lock", &e)),
    }
}

fn in_use(dir: &Path) -> Error {
    let message = format!(
        "the metadata in {} is in use by another process: stop that one, or give this one a directory of its own",
        dir.display()
    );
    Error::new(ErrorKind::InUse, message)
}

/// Makes a complete empty database, then gives it its name.
fn create(meta: &Path, path: &Path, opener: &Opener) -> Result<()> {
    let unfinished = meta.join("kafscale.redb.new");
    match fs::remove_file(&unfinished) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(io_error(&unfinished, "cannot remove", &e)),
    }
    let made: Result<(), redb::Error> = (|| {
        let db = opener(&unfinished)?;
        let txn = db.begin_write()?;
        {
            txn.open_table(KV)?;
            let mut meta = txn.open_table(META)?;
            meta.insert(FORMAT, FORMAT_VERSION)?;
            meta.insert(REVISION, 0)?;
        }
        txn.commit()?;
        db.close()?;
        Ok(())
    })();
    made.map_err(|e| redb_error(&unfinished, e))?;
    fs::rename(&unfinished, path).map_err(|e| io_error(path, "cannot create", &e))?;
    sync_directory(meta)
}

fn sync_directory(dir: &Path) -> Result<()> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|e| io_error(dir, "cannot sync the directory", &e))
}

impl Disk {
    /// Makes changes durable, all or none. After an error nothing else is possible before [`Disk::reopen`], which tells
    /// whether the changes happened.
    pub(super) fn commit(
        &mut self,
        revision: Revision,
        changes: &BTreeMap<String, Option<Entry>>,
    ) -> Result<()> {
        let Some(db) = &self.db else {
            return Err(Error::new(ErrorKind::Retry, format!("{} is not open", self.path.display())));
        };
        let done = guarded(&self.path, || write(db, revision, changes));
        if done.is_err() {
            self.close();
        }
        done
    }

    /// Opens the file again after a failure, and returns the revision that is durable.
    pub(super) fn reopen(&mut self) -> Result<Revision> {
        self.close();
        let (path, opener) = (&self.path, &self.opener);
        let db = guarded(path, || Ok(opener(path)?))?;
        let (format, revision) = guarded(path, || {
            let meta = db.begin_read()?.open_table(META)?;
            let read = |key| Ok::<_, redb::Error>(meta.get(key)?.map(|guard| guard.value()));
            Ok((read(FORMAT)?, read(REVISION)?))
        })?;
        check_format(path, format)?;
        let revision = revision.ok_or_else(|| damaged(path, "it has no revision"))?;
        self.db = Some(db);
        Ok(Revision(revision))
    }

    /// Reads everything, after removing what was bound to a lease: its holder is gone.
    fn load(&mut self) -> Result<Image> {
        let path = self.path.clone();
        let db = self.db.as_ref().expect("load follows a successful reopen");
        let (revision, stored) = guarded(&path, || read_all(db))?;
        let mut entries = BTreeMap::new();
        let mut leftover = BTreeMap::new();
        for (key, value) in stored {
            let entry = decode_entry(&value)
                .filter(|entry| entry.mod_revision <= revision && entry.create_revision <= entry.mod_revision)
                .ok_or_else(|| damaged(&path, &format!("the value of {key} cannot be read")))?;
            if entry.lease.is_some() {
                leftover.insert(key, None);
            } else {
                entries.insert(key, entry);
            }
        }
        let mut revision = revision;
        if !leftover.is_empty() {
            revision = revision.next();
            self.commit(revision, &leftover)?;
        }
        Ok(Image::new(revision, entries))
    }

    /// Releases the file. Never fails: whatever was acknowledged is durable already.
    pub(super) fn close(&mut self) {
        if let Some(db) = self.db.take() {
            let closed = guarded(&self.path, || Ok(db.close()?));
            if let Err(error) = closed {
                tracing::debug!(%error, "closing the metadata store");
            }
        }
    }
}

fn write(
    db: &Database,
    revision: Revision,
    changes: &BTreeMap<String, Option<Entry>>,
) -> Result<(), redb::Error> {
    let txn = db.begin_write()?;
    {
        let mut kv = txn.open_table(KV)?;
        let mut buffer = Vec::new();
        for (key, change) in changes {
            match change {
                Some(entry) => {
                    encode_entry(entry, &mut buffer);
                    kv.insert(key.as_str(), buffer.as_slice())?;
                }
                None => {
                    kv.remove(key.as_str())?;
                }
            }
        }
        txn.open_table(META)?.insert(REVISION, revision.0)?;
    }
    txn.commit()?;
    Ok(())
}

type Stored = Vec<(String, Bytes)>;

fn read_all(db: &Database) -> Result<(Revision, Stored), redb::Error> {
    let txn = db.begin_read()?;
    let revision = txn.open_table(META)?.get(REVISION)?.map_or(0, |guard| guard.value());
    let mut stored = Vec::new();
    for item in txn.open_table(KV)?.iter()? {
        let (key, value) = item?;
        stored.push((key.value().to_owned(), Bytes::copy_from_slice(value.value())));
    }
    Ok((Revision(revision), stored))
}

fn encode_entry(entry: &Entry, buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.extend_from_slice(&entry.create_revision.0.to_le_bytes());
    buffer.extend_from_slice(&entry.mod_revision.0.to_le_bytes());
    buffer.extend_from_slice(&entry.lease.map_or(0, |lease| lease.0).to_le_bytes());
    buffer.extend_from_slice(&entry.value);
}

fn decode_entry(stored: &Bytes) -> Option<Entry> {
    let word = |i: usize| Some(u64::from_le_bytes(stored.get(i * 8..i * 8 + 8)?.try_into().ok()?));
    let lease = word(2)?.cast_signed();
    Some(Entry {
        create_revision: Revision(word(0)?),
        mod_revision: Revision(word(1)?),
        lease: (lease != 0).then_some(LeaseId(lease)),
        value: stored.slice(HEADER_BYTES..),
    })
}

fn check_format(path: &Path, format: Option<u64>) -> Result<()> {
    match format {
        Some(FORMAT_VERSION) => Ok(()),
        Some(newer) if newer > FORMAT_VERSION => Err(Error::new(
            ErrorKind::NewerVersion,
            format!(
                "{} has format version {newer}, but this release knows only versions up to {FORMAT_VERSION}: run a \
                 release at least as new as the one that wrote it, or choose another directory",
                path.display()
            ),
        )),
        Some(unknown) => Err(damaged(path, &format!("it has the unknown format version {unknown}"))),
        None => Err(damaged(path, "it has no format version")),
    }
}

/// Runs something of redb's. A damaged file can make redb panic; that is an error of the file, not of this process.
fn guarded<T>(path: &Path, run: impl FnOnce() -> Result<T, redb::Error>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|e| redb_error(path, e)),
        Err(_) => Err(damaged(path, "reading it failed unexpectedly")),
    }
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::corrupt(format!(
        "the metadata store {} is damaged: {why}. Restore the directory from a backup, or move it away to start empty",
        path.display()
    ))
}

fn redb_error(path: &Path, error: redb::Error) -> Error {
    match error {
        redb::Error::Io(e) if e.kind() == io::ErrorKind::InvalidData => damaged(path, &e.to_string()),
        redb::Error::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => damaged(path, "it is cut short"),
        redb::Error::Io(e) => io_error(path, "cannot use the metadata store", &e),
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
            in_use(path.parent().and_then(Path::parent).unwrap_or(path))
        }
        redb::Error::UpgradeRequired(version) => Error::new(
            ErrorKind::NewerVersion,
            format!(
                "{} has version {version} of redb's file format, which this release does not read",
                path.display()
            ),
        ),
        redb::Error::Corrupted(why) => damaged(path, &why),
        error @ (redb::Error::RepairAborted
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableIsNotMultimap(_)
        | redb::Error::TableDoesNotExist(_)
        | redb::Error::TypeDefinitionChanged { .. }) => damaged(path, &error.to_string()),
        error => Error::new(ErrorKind::Retry, format!("{}: {error}", path.display())),
    }
}

fn io_error(path: &Path, what: &str, error: &io::Error) -> Error {
    use io::ErrorKind as Io;
    let kind = match error.kind() {
        Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => ErrorKind::Full,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Denied,
        Io::NotADirectory | Io::IsADirectory | Io::InvalidFilename | Io::AlreadyExists => ErrorKind::Invalid,
        _ => ErrorKind::Retry,
    };
    Error::new(kind, format!("{what}: {}: {error}", path.display()))
}
