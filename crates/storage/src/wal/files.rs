//! The write-ahead files that still hold batches which no segment holds: reading them, and freeing them in order. In an object store
//! each object counts as a file.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::recovery_point::RecoveryPoint;
use crate::log::flush::Flush;
use crate::log::shared::BatchLost;
use crate::unlinked::free_gradually;
use crate::vectored::read_exact_at;

/// Where a durable batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file_no: u64,
    pub position: u64,
}

/// So many freed files are kept for the next rolls whatever the room. A file that was written before takes writes faster than a new
/// one: its blocks are there, and hold data.
const SPARES_KEPT: usize = 2;

/// Further ones, which a burst leaves, are kept for the next burst for so long, where the disk has room for another burst besides.
const SPARE_LIFE: Duration = Duration::from_secs(300);

const SPARE_EXTENSION: &str = "spare.tmp";
const ASIDE_EXTENSION: &str = "kfw.aside";

#[derive(Debug)]
enum Medium {
    Disk {
        path: PathBuf,
        file: Arc<File>,
        size_bytes: u64,
        when_freed: WhenFreed,
    },
    /// Nothing durable: the batches stay in memory until they are rewritten.
    Memory(Vec<Arc<Flush>>),
    Object(StoredObject),
}

/// What becomes of a file that nothing needs any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WhenFreed {
    Retire,
    /// It is kept under another name, for this reason.
    PutAside(Aside),
}

/// Why a file is kept for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aside {
    /// It may be of another store.
    Nameless,
    Damaged,
}

/// An object of a chain in an object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    pub path: object_store::path::Path,
    pub size_bytes: u64,
    /// Its number, where it is of this process's own chain. An object of another's is for the controller to free.
    pub own_seq: Option<u64>,
    /// Set where nobody knows what was in it: it stands for records that are missing between others.
    pub lost: Option<Lost>,
}

/// What is to be expected of an object that is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// It may be put back.
    Missed,
    /// A person has given its records up.
    GivenUp,
}

#[derive(Debug)]
struct Entry {
    file_no: u64,
    medium: Medium,
    /// Batches in this file that are still read from here.
    live: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Spare {
    path: PathBuf,
    since: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    entries: VecDeque<Entry>,
    /// The last one was freed last.
    spares: VecDeque<Spare>,
    /// The number of the next object.
    next_object_no: u64,
    /// Objects of the own chain below this are not needed any more.
    own_freed: u64,
}

/// The files of the chain, oldest first. The last one is being written.
#[derive(Debug, Default)]
pub struct WalFiles {
    inner: Mutex<Inner>,
    /// The recovery point that was written last, and where.
    point: Mutex<Option<(PathBuf, RecoveryPoint)>>,
    /// What files in use and spares may take together.
    room_bytes: u64,
}

impl WalFiles {
    pub fn with_room(room_bytes: u64) -> WalFiles {
        WalFiles { room_bytes, ..WalFiles::default() }
    }

    pub fn add_disk(&self, file_no: u64, path: PathBuf, file: Arc<File>, size_bytes: u64) {
        let medium = Medium::Disk { path, file, size_bytes, when_freed: WhenFreed::Retire };
        self.inner.lock().entries.push_back(Entry { file_no, medium, live: 0, bytes: 0 });
    }

    pub fn add_memory(&self, file_no: u64) {
        let medium = Medium::Memory(Vec::new());
        self.inner.lock().entries.push_back(Entry { file_no, medium, live: 0, bytes: 0 });
    }

    /// Adds an object, and gives its number among the files.
    pub fn add_object(&self, object: StoredObject) -> u64 {
        let mut inner = self.inner.lock();
        let file_no = inner.next_object_no;
        inner.next_object_no += 1;
        inner.entries.push_back(Entry { file_no, medium: Medium::Object(object), live: 0, bytes: 0 });
        file_no
    }

    /// The object of this number, as long as it is needed.
    pub fn object(&self, file_no: u64) -> Option<StoredObject> {
        match self.inner.lock().entry(file_no) {
            Some(Entry { medium: Medium::Object(object), .. }) => Some(object.clone()),
            Some(_) | None => None,
        }
    }

    /// Objects of the own chain below this are not needed any more.
    pub fn own_freed(&self) -> u64 {
        self.inner.lock().own_freed
    }

    /// The youngest object of another chain that is still needed.
    pub fn last_taken_over(&self) -> Option<u64> {
        let foreign = |entry: &&Entry| {
            entry.live > 0 && matches!(&entry.medium, Medium::Object(object) if object.own_seq.is_none())
        };
        self.inner.lock().entries.iter().rev().find(foreign).map(|entry| entry.file_no)
    }

    /// Keeps a flush alive for as long as its file, where that is memory.
    pub fn hold(&self, file_no: u64, flush: &Arc<Flush>) {
        let mut inner = self.inner.lock();
        if let Some(Entry { medium: Medium::Memory(held), .. }) = inner.entry(file_no) {
            held.push(flush.clone());
        }
    }

    /// A batch at this place is now read from here.
    pub fn retain(&self, file_no: u64, batches: u64, bytes: u64) {
        if let Some(entry) = self.inner.lock().entry(file_no) {
            entry.live += batches;
            entry.bytes += bytes;
        }
    }

    /// Batches of this file are not needed from here any more.
    pub fn release(&self, file_no: u64, batches: u64) {
        if let Some(entry) = self.inner.lock().entry(file_no) {
            entry.live = entry.live.checked_sub(batches).expect("a batch is released once");
        }
    }

    /// Frees files from the oldest on, as long as nothing in them is needed; the one being written stays.
    pub fn free_unused(&self) {
        let mut freed = Vec::new();
        {
            let mut inner = self.inner.lock();
            while inner.can_free_first() {
                freed.extend(inner.entries.pop_front());
            }
            let own = |entry: &Entry| match &entry.medium {
                Medium::Object(object) => object.own_seq,
                Medium::Disk { .. } | Medium::Memory(_) => None,
            };
            if let Some(seq) = freed.iter().filter_map(own).max() {
                inner.own_freed = seq + 1;
            }
        }
        if freed.iter().any(|entry| matches!(entry.medium, Medium::Disk { .. })) {
            self.move_point();
        }
        for entry in freed {
            match entry.medium {
                Medium::Disk { path, file, size_bytes, when_freed: WhenFreed::Retire } => {
                    self.retire(&path, file, size_bytes);
                }
                Medium::Disk { path, when_freed: WhenFreed::PutAside(why), .. } => put_aside(&path, why),
                Medium::Memory(_) | Medium::Object(_) => {}
            }
        }
    }

    /// Writes a recovery point, with the oldest file that is needed now.
    pub fn note_point(&self, dir: &Path, point: RecoveryPoint) -> io::Result<()> {
        let mut last = self.point.lock();
        let oldest = self.inner.lock().entries.front().map(|first| first.file_no);
        let point = RecoveryPoint { oldest, ..point };
        *last = Some((dir.to_owned(), point));
        point.write(dir)
    }

    /// The recovery point that this process wrote last.
    pub fn point(&self) -> Option<RecoveryPoint> {
        self.point.lock().as_ref().map(|(_, point)| *point)
    }

    /// Files are about to go: nobody may miss them. Where that cannot be written down, no point is better than a wrong one.
    fn move_point(&self) {
        let mut last = self.point.lock();
        let Some((dir, point)) = &mut *last else { return };
        point.oldest = self.inner.lock().entries.front().map(|first| first.file_no);
        if let Err(error) = point.write_durably(dir).or_else(|_| RecoveryPoint::remove(dir)) {
            tracing::warn!(%error, "the recovery point cannot be written; the next start may miss files that were freed");
        }
    }

    /// A file is to be kept under another name when it is freed.
    pub fn put_aside_when_freed(&self, file_no: u64, why: Aside) {
        if let Some(Entry { medium: Medium::Disk { when_freed, .. }, .. }) = self.inner.lock().entry(file_no)
        {
            *when_freed = WhenFreed::PutAside(why);
        }
    }

    /// Takes a file that holds nothing: as a spare, or away where there are enough.
    pub fn retire(&self, path: &Path, file: Arc<File>, size_bytes: u64) {
        // A file that a reader still has open must not be written again under it.
        let usable = Arc::strong_count(&file) == 1 && file_is(&file, size_bytes);
        let retired = if usable && self.has_room_for_spare(path, size_bytes) {
            let spare = if is_spare(path) { path.to_owned() } else { path.with_extension(SPARE_EXTENSION) };
            std::fs::rename(path, &spare)
                .map(|()| self.inner.lock().spares.push_back(Spare { path: spare, since: Instant::now() }))
        } else {
            std::fs::remove_file(path).map(|()| free_gradually(file))
        };
        if let Err(error) = retired {
            tracing::warn!(file = %path.display(), %error, "cannot remove a write-ahead file");
        }
    }

    fn has_room_for_spare(&self, path: &Path, size_bytes: u64) -> bool {
        let inner = self.inner.lock();
        let files = inner.entries.len() + inner.spares.len();
        let fits = (files as u64 + 1).saturating_mul(size_bytes) <= self.room_bytes;
        inner.spares.len() < SPARES_KEPT || (fits && free_bytes(path) > self.room_bytes)
    }

    /// Takes over the spares that an earlier process left in a directory.
    pub fn adopt_spares(&self, dir: &Path, size_bytes: u64) -> io::Result<()> {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if is_spare(&path) {
                self.retire(&path, Arc::new(File::options().write(true).open(&path)?), size_bytes);
            }
        }
        Ok(())
    }

    pub fn take_spare(&self) -> Option<PathBuf> {
        let spare = self.inner.lock().spares.pop_back()?;
        Some(spare.path).filter(|path| path.exists())
    }

    /// Removes spares that no roll has taken for long.
    pub fn remove_old_spares(&self) {
        let is_old = |spare: &mut Spare| spare.since.elapsed() > SPARE_LIFE;
        loop {
            let spare = {
                let mut inner = self.inner.lock();
                let more = inner.spares.len() > SPARES_KEPT;
                inner.spares.pop_front_if(|spare| more && is_old(spare))
            };
            let Some(Spare { path, .. }) = spare else { return };
            let file = File::options().write(true).open(&path);
            if let (Ok(file), Ok(())) = (file, std::fs::remove_file(&path)) {
                free_gradually(Arc::new(file));
            }
        }
    }

    /// Gives back the disk space of files kept for reuse: on a full disk they may be all that is left.
    pub fn drop_spares(&self) {
        for spare in std::mem::take(&mut self.inner.lock().spares) {
            let _ = std::fs::remove_file(spare.path);
        }
    }

    /// The oldest file when more than one is in use: the next to be rewritten.
    pub fn oldest_closed(&self) -> Option<u64> {
        let inner = self.inner.lock();
        let closed = inner.entries.len() > 1 || inner.entries.front().is_some_and(Entry::is_object);
        closed.then(|| inner.entries[0].file_no)
    }

    /// The space that all files take, and how many there are. A file of a disk takes all of its space from the start,
    /// however little is in it: a broker that restarts often must not fill the disk with files that are nearly empty.
    pub fn usage(&self) -> (u64, usize) {
        let taken = |entry: &Entry| match &entry.medium {
            Medium::Disk { size_bytes, .. } => *size_bytes,
            Medium::Memory(_) => entry.bytes,
            Medium::Object(object) => object.size_bytes,
        };
        let inner = self.inner.lock();
        (inner.entries.iter().map(taken).sum(), inner.entries.len())
    }

    /// How many batches are read from files.
    pub fn batches(&self) -> u64 {
        self.inner.lock().entries.iter().map(|entry| entry.live).sum()
    }

    /// What a file is called, for messages.
    pub fn describe(&self, file_no: u64) -> String {
        match self.inner.lock().entry(file_no).map(|entry| &entry.medium) {
            Some(Medium::Disk { path, .. }) => path.display().to_string(),
            Some(Medium::Object(object)) => object.path.to_string(),
            Some(Medium::Memory(_)) | None => format!("write-ahead file {file_no}"),
        }
    }

    /// Reads batches back. Blocking. Of a file that is shorter than it was, and of sectors that the disk cannot read, the batches are lost.
    /// An error of all of them: a file is not there any more.
    pub fn read(&self, wanted: &[(Place, u32)]) -> io::Result<Vec<Result<Bytes, BatchLost>>> {
        let mut files: Vec<(u64, Arc<File>)> = Vec::new();
        {
            let mut inner = self.inner.lock();
            for (place, _) in wanted.iter().filter(|(_, size_bytes)| *size_bytes > 0) {
                if files.iter().any(|(no, _)| *no == place.file_no) {
                    continue;
                }
                match inner.entry(place.file_no) {
                    Some(Entry { medium: Medium::Disk { file, .. }, .. }) => {
                        files.push((place.file_no, file.clone()));
                    }
                    Some(_) | None => return Err(io::ErrorKind::NotFound.into()),
                }
            }
        }
        let read_one = |(place, size): &(Place, u32)| {
            // It stands for what is missing between others.
            if *size == 0 {
                return Err(BatchLost::CutOff("it is lost, and was given up".to_owned()));
            }
            let (_, file) = files.iter().find(|(no, _)| *no == place.file_no).expect("collected above");
            match read_exact_at(file, *size as usize, place.position) {
                Ok(bytes) => Ok(bytes),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    Err(BatchLost::CutOff("the file is cut off".to_owned()))
                }
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    Err(BatchLost::Missing(format!("the disk cannot read it: {e}")))
                }
                Err(e) => Err(BatchLost::Away(format!("the write-ahead log: {e}"))),
            }
        };
        Ok(wanted.iter().map(read_one).collect())
    }
}

impl Entry {
    /// An object is never added to: there is no file that is being written.
    fn is_object(&self) -> bool {
        matches!(self.medium, Medium::Object(_))
    }
}

impl Inner {
    fn can_free_first(&self) -> bool {
        let writing = |first: &Entry| self.entries.len() == 1 && !first.is_object();
        self.entries.front().is_some_and(|first| first.live == 0 && !writing(first))
    }

    fn entry(&mut self, file_no: u64) -> Option<&mut Entry> {
        let first = self.entries.front()?.file_no;
        let index = usize::try_from(file_no.checked_sub(first)?).ok()?;
        match self.entries.get(index) {
            Some(entry) if entry.file_no == file_no => self.entries.get_mut(index),
            // Files were lost between.
            Some(_) | None => {
                let index = self.entries.binary_search_by_key(&file_no, |entry| entry.file_no).ok()?;
                self.entries.get_mut(index)
            }
        }
    }
}

fn put_aside(path: &Path, why: Aside) {
    match (rename_aside(path), why) {
        (Ok(aside), Aside::Nameless) => tracing::warn!(
            file = %aside.display(),
            "put aside: it is of an earlier release and has records of topics that the metadata does not know. Remove it if these were deleted"
        ),
        (Ok(aside), Aside::Damaged) => tracing::warn!(
            file = %aside.display(),
            "put aside: it is damaged, and all of its records that can be read are in segments. Remove it if nobody needs the others"
        ),
        (Err(error), _) => {
            tracing::warn!(file = %path.display(), %error, "cannot put a write-ahead file aside")
        }
    }
}

/// Gives a file, or whatever has its name, a name that is not a file's, and that nothing has. Gives that.
pub fn rename_aside(path: &Path) -> io::Result<PathBuf> {
    let mut aside = path.with_extension(ASIDE_EXTENSION);
    let mut count = 1;
    while aside.symlink_metadata().is_ok() {
        aside = path.with_extension(format!("{count}.{ASIDE_EXTENSION}"));
        count += 1;
    }
    std::fs::rename(path, &aside)?;
    Ok(aside)
}

/// Whether a file was put aside.
pub fn is_aside(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.ends_with(ASIDE_EXTENSION))
}

/// Whether a file of this name was kept for reuse.
pub fn is_spare(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('.'));
    name.is_some_and(|(_, extension)| extension == SPARE_EXTENSION)
}

/// What the disk has left; 0 where that cannot be told.
fn free_bytes(path: &Path) -> u64 {
    crate::disk::disk_space(path.parent().unwrap_or(path)).map_or(0, |space| space.free_bytes)
}

/// Only files of the size that the chain uses now are worth keeping.
fn file_is(file: &File, size_bytes: u64) -> bool {
    file.metadata().is_ok_and(|m| m.len() == size_bytes)
}
