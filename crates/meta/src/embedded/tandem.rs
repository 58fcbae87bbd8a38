//! The database file and the journal beside it, written at the same time and synced as one.
//!
//! A commit of redb is many writes and then a sync. [`Tandem`] stands between redb and its file, and puts the record that the journal
//! has ready into that sync: the pages of the database are on their way to the device while the record is written, and one flush makes
//! the device keep both. So the second copy of a commit costs hardly any time.
//!
//! The two writes have no order. After a crash the journal may be ahead of the database, and then the commit is completed from it, or
//! behind it, and then the commit stands. Neither was answered.
//!
//! While redb opens a file, it changes nothing but the header, and syncs it again and again. The first sync is needed: a process that
//! was killed may have left pages in the page cache only, and later headers vouch for them. All headers after that name the same pages,
//! so that any of them may be the one that a crash leaves: their syncs are left out until [`Tandem::opened`].
//!
//! A file that is only looked at is opened like any other, and what redb writes is held back in memory. [`Tandem::release`] writes it, if
//! the store is to be used after all; otherwise the file stays as it was.

use std::{fs::File, io, ops::Bound, path::Path, sync::Arc};

use parking_lot::Mutex;
use redb::{BackendError, StorageBackend};
use rustix::fs::{Advice, fadvise};

use super::journal::Journal;

/// The journal, which outlives the opened database. Absent only where a full disk has no room for it.
pub(super) type SharedJournal = Arc<Mutex<Option<Journal>>>;

/// Where pages begin.
const HEADER_BYTES_MAX: u64 = 4096;

/// What redb reads and writes. Several have one in common: redb owns one of them.
#[derive(Debug, Clone)]
pub(super) struct Tandem(Arc<Files>);

#[derive(Debug)]
struct Files {
    database: Box<dyn StorageBackend>,
    /// The same file, to start its writes with.
    file: File,
    journal: SharedJournal,
    phase: Mutex<Phase>,
    /// What is not to be in the file yet.
    held: Mutex<Option<Held>>,
}

/// Changes of a file, in their order.
#[derive(Debug, Default)]
struct Held {
    len: Option<u64>,
    writes: Vec<(u64, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Made under a name that nobody opens, and synced when it is complete.
    Made,
    /// Found on the disk, and not synced yet.
    Found,
    /// It has been synced once, as it was found.
    Opening,
    /// Open, but for the last sync of its header.
    Unsynced,
    Open,
}

impl Tandem {
    /// Around a new file that redb is about to fill. There is no journal yet.
    pub(super) fn made(
        database: Box<dyn StorageBackend>,
        path: &Path,
        journal: SharedJournal,
    ) -> io::Result<Self> {
        Self::new(database, path, journal, Phase::Made)
    }

    /// Around a file that redb is about to open.
    pub(super) fn found(
        database: Box<dyn StorageBackend>,
        path: &Path,
        journal: SharedJournal,
    ) -> io::Result<Self> {
        Self::new(database, path, journal, Phase::Found)
    }

    fn new(
        database: Box<dyn StorageBackend>,
        path: &Path,
        journal: SharedJournal,
        phase: Phase,
    ) -> io::Result<Self> {
        let (file, phase, held) = (File::open(path)?, Mutex::new(phase), Mutex::default());
        Ok(Self(Arc::new(Files { database, file, journal, phase, held })))
    }

    /// From now on nothing is written to the file.
    pub(super) fn hold(&self) {
        *self.0.held.lock() = Some(Held::default());
    }

    /// Writes what was held back. The file is as durable as after an opening that held nothing back.
    pub(super) fn release(&self) -> io::Result<()> {
        let Some(Held { len, writes }) = self.0.held.lock().take() else { return Ok(()) };
        let database = &self.0.database;
        // What was found may be in the page cache only, and the header that follows vouches for it.
        database.sync_data()?;
        if let Some(len) = len {
            database.set_len(len)?;
        }
        let (headers, pages): (Vec<_>, Vec<_>) =
            writes.into_iter().partition(|(offset, _)| *offset < HEADER_BYTES_MAX);
        for (offset, bytes) in &pages {
            database.write(*offset, bytes)?;
        }
        if !pages.is_empty() || len.is_some() {
            database.sync_data()?;
        }
        headers.iter().try_for_each(|(offset, bytes)| database.write(*offset, bytes))
    }

    /// The file was synced when it was complete, and has its name now: from here on it is as one that was found and opened.
    pub(super) fn named(&self) {
        *self.0.phase.lock() = Phase::Open;
    }

    /// redb has opened the file: from now on it is synced when redb says so.
    pub(super) fn opened(&self) {
        *self.0.phase.lock() = Phase::Unsynced;
    }

    /// Makes durable what was left out while the file was opened, if no commit has done so.
    pub(super) fn sync_opened(&self) -> io::Result<()> {
        let phase = *self.0.phase.lock();
        if phase == Phase::Unsynced { self.sync() } else { Ok(()) }
    }

    /// Makes the database durable, and the record that the journal has ready.
    pub(super) fn sync(&self) -> io::Result<()> {
        let files = &*self.0;
        if let Some(journal) = &mut *files.journal.lock()
            && journal.has_ready()
        {
            // Starts to write what is dirty, and waits for nothing. It is advice, so that failing does not matter.
            let _ = fadvise(&files.file, 0, None, Advice::DontNeed);
            journal.write_ready()?;
        }
        files.database.sync_data()?;
        let phase = &mut *files.phase.lock();
        *phase = match *phase {
            Phase::Found => Phase::Opening,
            Phase::Unsynced => Phase::Open,
            same => same,
        };
        Ok(())
    }
}

impl StorageBackend for Tandem {
    fn len(&self) -> io::Result<u64> {
        match self.0.held.lock().as_ref().and_then(|held| held.len) {
            Some(len) => Ok(len),
            None => self.0.database.len(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let held = self.0.held.lock();
        let Some(held) = &*held else { return self.0.database.read(offset, out) };
        let there = match held.len {
            Some(_) => usize::try_from(self.0.database.len()?.saturating_sub(offset)).unwrap_or(usize::MAX),
            None => out.len(),
        };
        let (found, new) = out.split_at_mut(there.min(out.len()));
        self.0.database.read(offset, found)?;
        new.fill(0);
        held.writes.iter().for_each(|(at, bytes)| lay_over(offset, out, *at, bytes));
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match &mut *self.0.held.lock() {
            Some(held) => {
                held.len = Some(len);
                Ok(())
            }
            None => self.0.database.set_len(len),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.0.held.lock().is_some() {
            return Ok(());
        }
        let phase = *self.0.phase.lock();
        match phase {
            Phase::Made | Phase::Opening => Ok(()),
            Phase::Found | Phase::Unsynced | Phase::Open => self.sync(),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match &mut *self.0.held.lock() {
            Some(held) => {
                held.writes.push((offset, data.to_vec()));
                Ok(())
            }
            None => self.0.database.write(offset, data),
        }
    }

    fn close(&self) -> io::Result<()> {
        self.0.database.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.database.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.database.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.database.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.database.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.database.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.database.query_lock_range(start, end)
    }
}

/// Puts the part of `bytes`, which stand `at` a place of the file, that was read into `out` from `offset`.
fn lay_over(offset: u64, out: &mut [u8], at: u64, bytes: &[u8]) {
    let (from, to) = (offset.max(at), (offset + out.len() as u64).min(at + bytes.len() as u64));
    if from < to {
        let part = |base: u64| (from - base) as usize..(to - base) as usize;
        out[part(offset)].copy_from_slice(&bytes[part(at)]);
    }
}
