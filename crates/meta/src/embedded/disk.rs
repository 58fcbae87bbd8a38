//! The file of the embedded store: a redb database with the current value of every key and the revision.
//!
//! `{dir}/meta/kafscale.redb` holds two tables: `meta` with the format version, the revision and an id, and `kv` with
//! `create revision | mod revision | lease | value` per key (integers of 8 bytes, little-endian; no lease is 0).
//! `{dir}/meta/LOCK` is locked while the store is open. A new database is made under another name first, so that a crash
//! leaves either none or a complete one.
//!
//! [`Journal`] stands beside it; [`Tandem`] writes both.
//!
//! redb refuses everything after an IO error until it is opened again; that is [`Disk::reopen`].

mod look;

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend,
    TableDefinition,
};
use uuid::Uuid;

use super::image::{Entry, Image};
use super::journal::{self, Journal, Record};
use super::tandem::{SharedJournal, Tandem};
use crate::{Error, ErrorKind, LeaseId, Result, Revision, files};

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const KV: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("kv");
const FORMAT: &str = "format";
const REVISION: &str = "revision";
/// Random; the journal has the same one. Databases of earlier releases get it when they are opened.
const ID: &str = "id";
/// The version of the layout above that this release reads and writes.
const FORMAT_VERSION: u64 = 1;
const HEADER_BYTES: usize = 24;
/// Reads are served from the image, so redb needs only the pages that commits touch.
const CACHE_BYTES: usize = 32 << 20;

/// Room is made for so many entries at most before they are read.
const EXPECTED_MAX: usize = 1 << 20;

type Entries = BTreeMap<String, Entry>;

/// Opens a file for redb, making it if it does not exist.
type Opener = Box<dyn Fn(&Path) -> Result<Box<dyn StorageBackend>, DatabaseError> + Send>;

#[cfg(test)]
pub(super) use self::look::look_with;
pub(super) use self::look::{Looked, look, read_copy};

/// The open file.
pub(super) struct Disk {
    path: PathBuf,
    opener: Opener,
    /// None while it could not be opened again after a failure.
    db: Option<(Database, Tandem)>,
    /// What the file holds.
    revision: Revision,
    journal: SharedJournal,
    _lock: File,
}

/// Opens or creates the store under a directory. Blocks.
pub(super) fn open(dir: &Path) -> Result<(Disk, Image)> {
    open_with(dir, Box::new(open_file))
}

fn open_file(path: &Path) -> Result<Box<dyn StorageBackend>, DatabaseError> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    Ok(Box::new(FileBackend::new(file)?))
}

/// Checksums are verified at every opening: everything is read then anyway, and without it redb trusts a file that was
/// closed cleanly, so that damage would be served as metadata.
fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

pub(super) fn open_with(dir: &Path, opener: Opener) -> Result<(Disk, Image)> {
    let meta = dir.join("meta");
    fs::create_dir_all(&meta).map_err(|e| io_error(&meta, "cannot create the directory", &e))?;
    let lock = lock(dir, &meta)?;
    let path = file_in(dir);
    let journal = SharedJournal::default();
    let made = match path.exists() {
        true => None,
        false => {
            journal::put_aside(&meta)
                .map_err(|e| io_error(&meta, "cannot rename the journal of commits in", &e))?;
            Some(create(&meta, &path, &opener, &journal)?)
        }
    };
    let has_journal = journal::exists(&meta);
    let (opened, records) = open_journal(&meta)?;
    if made.is_some() || !has_journal {
        sync_directory(&meta)?;
        sync_directory(dir)?;
    }
    *journal.lock() = opened;
    let mut disk = Disk { path, opener, db: None, revision: Revision(0), journal, _lock: lock };
    match made {
        Some((db, tandem)) => {
            tandem.named();
            disk.db = Some((db, tandem));
        }
        None => _ = disk.reopen()?,
    }
    disk.begin(&records, None)
}

/// Where the database of a directory is.
pub(super) fn file_in(dir: &Path) -> PathBuf {
    dir.join("meta").join("kafscale.redb")
}

fn open_journal(meta: &Path) -> Result<(Option<Journal>, Vec<Record>)> {
    match Journal::open(meta) {
        Ok((journal, records)) => Ok((Some(journal), records)),
        Err(e) => match io_error(meta, "cannot open the journal of commits in", &e) {
            full if full.kind() == ErrorKind::Full => {
                tracing::warn!(error = %full, "until there is room, damage of the newest metadata may go unnoticed");
                Ok((None, Vec::new()))
            }
            error => Err(error),
        },
    }
}

fn lock(dir: &Path, meta: &Path) -> Result<File> {
    let path = meta.join("LOCK");
    let open = File::options().create(true).truncate(false).write(true).open(&path);
    let file = open.map_err(|e| io_error(&path, "cannot open", &e))?;
    try_lock(&file, dir, &path)?;
    Ok(file)
}

fn try_lock(file: &File, dir: &Path, path: &Path) -> Result<()> {
    match files::lock_soon(file) {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(in_use(dir)),
        Err(TryLockError::Error(e)) => Err(io_error(path, "cannot lock", &e)),
    }
}

fn in_use(dir: &Path) -> Error {
    let message = format!(
        "the data directory {} is in use by another kafscale process; stop that one first",
        dir.display()
    );
    Error::new(ErrorKind::InUse, message)
}

/// Fails where another process has the store under a directory open. Nothing is made there.
pub(super) fn check_unused(dir: &Path) -> Result<()> {
    let path = dir.join("meta").join("LOCK");
    match files::open_to_lock(&path) {
        Ok(file) => try_lock(&file, dir, &path),
        // Nobody ever had it open.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(()),
        Err(e) => Err(io_error(&path, "cannot open", &e)),
    }
}

/// Makes a complete empty database, then gives it its name. It stays open: what was just synced whole need not be opened again.
fn create(meta: &Path, path: &Path, opener: &Opener, journal: &SharedJournal) -> Result<(Database, Tandem)> {
    let unfinished = meta.join("kafscale.redb.new");
    match fs::remove_file(&unfinished) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(io_error(&unfinished, "cannot remove", &e)),
    }
    let made: Result<_, redb::Error> = (|| {
        // All of it is synced at once: nobody opens a file of this name.
        let tandem = Tandem::made(opener(&unfinished)?, &unfinished, Arc::clone(journal))?;
        let db = builder().create_with_backend(tandem.clone())?;
        let txn = db.begin_write()?;
        {
            txn.open_table(KV)?;
            let mut meta = txn.open_table(META)?;
            meta.insert(FORMAT, FORMAT_VERSION)?;
            meta.insert(REVISION, 0)?;
            meta.insert(ID, new_id())?;
        }
        txn.commit()?;
        tandem.sync()?;
        Ok((db, tandem))
    })();
    let made = made.map_err(|e| redb_error(&unfinished, e))?;
    fs::rename(&unfinished, path).map_err(|e| io_error(path, "cannot create", &e))?;
    Ok(made)
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
        let Some((db, _)) = &self.db else {
            return Err(Error::new(ErrorKind::Retry, format!("{} is not open", self.path.display())));
        };
        let prepare = |journal: &mut Journal| journal.prepare_commit(self.revision, revision, changes);
        let noted = self.journal.lock().as_mut().is_none_or(prepare);
        match guarded(&self.path, || write(db, revision, changes)) {
            Ok(()) => {
                self.revision = revision;
                if !noted && let Err(error) = self.note_reached() {
                    tracing::warn!(%error, "until the next commit, damage of the newest metadata may go unnoticed");
                }
                Ok(())
            }
            Err(error) => {
                self.close();
                Err(error)
            }
        }
    }

    #[cfg(test)]
    pub(super) fn journal(&self) -> SharedJournal {
        Arc::clone(&self.journal)
    }

    /// Makes durable what the file holds, and says in the journal what that is: after a commit of unknown outcome, before anything is
    /// answered.
    pub(super) fn note_reached(&mut self) -> Result<()> {
        if let Some(journal) = &mut *self.journal.lock() {
            journal.prepare_reached(self.revision);
        }
        self.sync(Tandem::sync)
    }

    fn sync_opened(&mut self) -> Result<()> {
        self.sync(Tandem::sync_opened)
    }

    fn sync(&mut self, sync: impl Fn(&Tandem) -> io::Result<()>) -> Result<()> {
        let (_, tandem) = self.db.as_ref().expect("what is synced is open");
        sync(tandem).map_err(|e| {
            self.journal.lock().as_mut().map(Journal::forget_ready);
            io_error(&self.path, "cannot sync", &e)
        })
    }

    /// Makes sure that the journal is of this database. One that has no id yet gets one.
    fn identify(&mut self, records: &[Record]) -> Result<()> {
        let (db, _) = self.db.as_ref().expect("identify follows a successful reopen");
        let known = check_same(&self.path, db, records)?;
        let id = match known {
            Some(id) => id,
            None => {
                // A journal that has one: damage took it away from the database.
                let id = records.iter().rev().find_map(|record| record.database).unwrap_or_else(new_id);
                guarded(&self.path, || {
                    let txn = db.begin_write()?;
                    txn.open_table(META)?.insert(ID, id)?;
                    Ok(txn.commit()?)
                })?;
                id
            }
        };
        if let Some(journal) = &mut *self.journal.lock() {
            journal.database = id;
        }
        Ok(())
    }

    /// Brings the file up to the revision that the journal says was reached.
    fn catch_up(&mut self, records: &[Record]) -> Result<()> {
        let from = self.revision;
        match journal::path_from(from, records) {
            Ok(path) => {
                for record in &path {
                    let changes = record.changes.as_ref().expect("a path is of records with changes");
                    self.commit(record.after, changes)?;
                }
                if !path.is_empty() {
                    tracing::warn!(
                        path = %self.path.display(), %from, to = %self.revision,
                        "the metadata store had lost its newest commits; they were brought back from the journal"
                    );
                }
                let said = records.last().map_or(Revision(0), |last| last.after);
                if said < from { self.note_reached() } else { Ok(()) }
            }
            Err(reached) => Err(not_reached(&self.path, from, reached)),
        }
    }

    /// Brings an open store up to date, and reads it, unless it was read before.
    fn begin(mut self, records: &[Record], stored: Option<Stored>) -> Result<(Self, Image)> {
        self.identify(records)?;
        let before = self.revision;
        self.catch_up(records)?;
        let stored = stored.filter(|_| self.revision == before);
        let image = self.load(stored)?;
        self.sync_opened()?;
        Ok((self, image))
    }

    /// Opens the file again after a failure, and returns the revision that it holds: durable when [`Disk::note_reached`] has said so.
    pub(super) fn reopen(&mut self) -> Result<Revision> {
        self.reopen_as(|_| {})
    }

    fn reopen_as(&mut self, prepare: impl Fn(&Tandem)) -> Result<Revision> {
        self.close();
        let (path, opener) = (&self.path, &self.opener);
        let (db, tandem) = guarded(path, || {
            let tandem = Tandem::found(opener(path)?, path, Arc::clone(&self.journal))?;
            prepare(&tandem);
            Ok((builder().create_with_backend(tandem.clone())?, tandem))
        })?;
        tandem.opened();
        self.revision = checked_revision(path, &db)?;
        self.db = Some((db, tandem));
        Ok(self.revision)
    }

    /// Reads everything, unless it was read before, and removes what was bound to a lease: its holder is gone.
    fn load(&mut self, stored: Option<Stored>) -> Result<Image> {
        let (db, _) = self.db.as_ref().expect("load follows a successful reopen");
        let Stored { mut revision, entries, bound } =
            stored.map_or_else(|| Stored::read(&self.path, db), Ok)?;
        if !bound.is_empty() {
            revision = revision.next();
            self.commit(revision, &bound.into_iter().map(|key| (key, None)).collect())?;
        }
        Ok(Image::new(revision, entries))
    }

    /// Releases the file. Never fails: whatever was acknowledged is durable already.
    pub(super) fn close(&mut self) {
        if let Some(journal) = &mut *self.journal.lock() {
            journal.forget_ready();
        }
        if let Some((db, _)) = self.db.take() {
            let closed = guarded(&self.path, || Ok(db.close()?));
            if let Err(error) = closed {
                tracing::debug!(%error, "closing the metadata store");
            }
        }
    }
}

/// The revision of a database of a version that is known.
fn checked_revision(path: &Path, db: &Database) -> Result<Revision> {
    let (format, revision) = guarded(path, || {
        let meta = db.begin_read()?.open_table(META)?;
        let read = |key| Ok::<_, redb::Error>(meta.get(key)?.map(|guard| guard.value()));
        Ok((read(FORMAT)?, read(REVISION)?))
    })?;
    check_format(path, format)?;
    revision.map(Revision).ok_or_else(|| damaged(path, "it has no revision"))
}

fn new_id() -> u64 {
    Uuid::new_v4().as_u64_pair().0
}

/// The id of a database, if it has one. Refuses the journal of another.
fn check_same(path: &Path, db: &Database, records: &[Record]) -> Result<Option<u64>> {
    let id = guarded(path, || Ok(db.begin_read()?.open_table(META)?.get(ID)?.map(|guard| guard.value())))?;
    let foreign = |record: &Record| id.is_some() && record.database.is_some() && record.database != id;
    match records.iter().any(foreign) {
        true => Err(Error::corrupt(format!(
            "the journal kafscale.commits beside {} belongs to another metadata store: one of the two was put here from elsewhere. Put the \
             directory back from one copy; or, if only the journal is the wrong one, move it to another name",
            path.display()
        ))),
        false => Ok(id),
    }
}

/// Everything that a database holds.
struct Stored {
    revision: Revision,
    /// But for those that are bound to a lease. An image shares them until it changes.
    entries: Arc<Entries>,
    /// The keys of those.
    bound: Vec<String>,
}

impl Stored {
    fn read(path: &Path, db: &Database) -> Result<Stored> {
        guarded(path, || read_all(db))
    }
}

fn not_reached(path: &Path, from: Revision, reached: Revision) -> Error {
    damaged(
        path,
        &format!(
            "it is at revision {from}, but revision {reached} was reached, as the journal kafscale.commits beside it says. \
             Later commits are lost, acknowledged offsets of groups perhaps among them"
        ),
    )
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

fn read_all(db: &Database) -> Result<Stored, redb::Error> {
    let txn = db.begin_read()?;
    let revision = Revision(txn.open_table(META)?.get(REVISION)?.map_or(0, |guard| guard.value()));
    let table = txn.open_table(KV)?;
    let count = usize::try_from(table.len()?).unwrap_or(usize::MAX);
    let (mut entries, mut bound) = (Vec::with_capacity(count.min(EXPECTED_MAX)), Vec::new());
    for item in table.iter()? {
        let (key, value) = item?;
        let key = key.value().to_owned();
        let entry = decode_entry(value.value())
            .filter(|entry| entry.mod_revision <= revision && entry.create_revision <= entry.mod_revision)
            .ok_or_else(|| redb::Error::Corrupted(format!("the value of {key} cannot be read")))?;
        match entry.lease {
            Some(_) => bound.push(key),
            None => entries.push((key, entry)),
        }
    }
    Ok(Stored { revision, entries: Arc::new(entries.into_iter().collect()), bound })
}

pub(super) fn encode_entry(entry: &Entry, buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.extend_from_slice(&entry.create_revision.0.to_le_bytes());
    buffer.extend_from_slice(&entry.mod_revision.0.to_le_bytes());
    buffer.extend_from_slice(&entry.lease.map_or(0, |lease| lease.0).to_le_bytes());
    buffer.extend_from_slice(&entry.value);
}

pub(super) fn decode_entry(stored: &[u8]) -> Option<Entry> {
    let (header, value) = stored.split_at_checked(HEADER_BYTES)?;
    let word = |i: usize| Some(u64::from_le_bytes(header[i * 8..i * 8 + 8].try_into().ok()?));
    let lease = word(2)?.cast_signed();
    Some(Entry {
        create_revision: Revision(word(0)?),
        mod_revision: Revision(word(1)?),
        lease: (lease != 0).then_some(LeaseId(lease)),
        value: Bytes::copy_from_slice(value),
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
        "the metadata store {} is damaged: {why}. Put the directory back from a backup; or move this file to another name, keep it, and \
         run `kafscale restore`, which rebuilds the metadata from the records",
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
