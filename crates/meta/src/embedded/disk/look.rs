//! Looking at a store without changing anything under its directory: to open it afterwards, or from a copy.

use std::{fs, io, path::Path, sync::Arc};

use redb::StorageBackend as _;
use redb::backends::InMemoryBackend;

use super::{
    Disk, Opener, SharedJournal, Stored, Tandem, builder, check_same, checked_revision, file_in, guarded,
    io_error, not_reached, open_file, open_journal, sync_directory, try_lock,
};
use crate::embedded::image::Image;
use crate::embedded::journal::{self, Record};
use crate::{Result, Revision, files};

/// A store that was opened to be looked at: its file is as it was, and nobody else can open it.
pub(in crate::embedded) struct Looked {
    disk: Disk,
    stored: Stored,
}

/// Opens a store without changing anything, and gives what it holds too. `None` where nobody has ever opened one: to keep others away
/// takes a file to lock.
pub(in crate::embedded) fn look(dir: &Path) -> Result<Option<(Looked, Image)>> {
    look_with(dir, Box::new(open_file))
}

pub(in crate::embedded) fn look_with(dir: &Path, opener: Opener) -> Result<Option<(Looked, Image)>> {
    let (meta, path) = (dir.join("meta"), file_in(dir));
    let lock_path = meta.join("LOCK");
    let lock = match files::open_to_lock(&lock_path) {
        Ok(lock) if path.exists() => lock,
        Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Err(io_error(&lock_path, "cannot open", &e));
        }
        Ok(_) | Err(_) => return Ok(None),
    };
    try_lock(&lock, dir, &lock_path)?;
    let records = journal::read(&meta).map_err(|e| io_error(&meta, "cannot read the journal of", &e))?;
    let journal = SharedJournal::default();
    let mut disk = Disk { path, opener, db: None, revision: Revision(0), journal, _lock: lock };
    disk.reopen_as(Tandem::hold)?;
    let (db, _) = disk.db.as_ref().expect("it was opened just now");
    check_same(&disk.path, db, &records)?;
    let stored = Stored::read(&disk.path, db)?;
    let image = image_of(&disk.path, &stored, &records)?;
    Ok(Some((Looked { disk, stored }, image)))
}

/// What a store holds when it has been opened: with the commits that only its journal has, and without what was bound to leases, whose
/// holders are gone.
fn image_of(path: &Path, stored: &Stored, records: &[Record]) -> Result<Image> {
    let (mut revision, mut entries) = (stored.revision, Arc::clone(&stored.entries));
    let not_reached = |reached| not_reached(path, stored.revision, reached);
    for record in journal::path_from(stored.revision, records).map_err(not_reached)? {
        let entries = Arc::make_mut(&mut entries);
        for (key, change) in record.changes.as_ref().expect("a path is of records with changes") {
            match change {
                Some(entry) if entry.lease.is_none() => drop(entries.insert(key.clone(), entry.clone())),
                Some(_) | None => drop(entries.remove(key)),
            }
        }
        revision = record.after;
    }
    Ok(Image::new(revision, entries))
}

impl Looked {
    /// Uses the store.
    pub(in crate::embedded) fn open(self) -> Result<(Disk, Image)> {
        let Self { disk, stored } = self;
        let meta = disk.path.parent().expect("the file is in a directory").to_owned();
        let has_journal = journal::exists(&meta);
        let (journal, records) = open_journal(&meta)?;
        if !has_journal {
            sync_directory(&meta)?;
        }
        *disk.journal.lock() = journal;
        let (_, tandem) = disk.db.as_ref().expect("a store that was looked at is open");
        tandem.release().map_err(|e| io_error(&disk.path, "cannot write", &e))?;
        disk.begin(&records, Some(stored))
    }
}

/// Reads the store under a directory without changing anything there: from a copy in memory, in which redb puts right what a killed
/// process has left behind. The caller makes sure that nobody writes meanwhile; a copy that is torn is found to be damaged.
pub(in crate::embedded) fn read_copy(dir: &Path) -> Result<Image> {
    let (meta, path) = (dir.join("meta"), file_in(dir));
    let bytes = fs::read(&path).map_err(|e| io_error(&path, "cannot read", &e))?;
    let records = journal::read(&meta).map_err(|e| io_error(&meta, "cannot read the journal of", &e))?;
    let db = guarded(&path, || {
        let backend = InMemoryBackend::new();
        backend.set_len(bytes.len() as u64)?;
        backend.write(0, &bytes)?;
        Ok(builder().create_with_backend(backend)?)
    })?;
    drop(bytes);
    checked_revision(&path, &db)?;
    check_same(&path, &db, &records)?;
    image_of(&path, &Stored::read(&path, &db)?, &records)
}
