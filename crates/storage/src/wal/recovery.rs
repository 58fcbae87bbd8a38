//! Reading a chain of write-ahead files back after a start.
//!
//! The last file may end in an object that is not whole: it is left out ([`super::cut_off`]). Damage anywhere else means
//! that acknowledged records are lost, and is refused with the file and the position. Below the
//! [recovery point](super::recovery_point), batches are not read, as they cannot be torn: their own CRCs tell a reader what a disk
//! has lost since.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering as AtomicOrdering};

use bytes::Bytes;
use kafscale_core::ids::{Offset, PartitionId};

use super::cut_off::CutOff;
use super::file::{self, FILE_HEADER_BYTES, FileHeader, FileHeaderError};
use super::files::{is_aside, is_spare};
use super::object::{self, HEADER_BYTES, HEADER_MAGIC, IndexEntry, ObjectError, ObjectHeader};
use super::recovery_point::RecoveryPoint;
use crate::vectored::read_exact_at;

/// So many files are read at a time.
const READERS: usize = 8;

/// How much is read at a time where objects are small.
const WINDOW_BYTES: u64 = 256 << 10;
const SMALL_OBJECT_BYTES: u64 = 32 << 10;

/// A file with the batches that it holds.
#[derive(Debug)]
pub struct RecoveredFile {
    pub path: PathBuf,
    pub file: Arc<File>,
    pub header: FileHeader,
    /// Where its objects end.
    pub end: u64,
    /// Its batches in order, each with its position in the file.
    pub batches: Vec<(u64, IndexEntry)>,
    /// Those of them that were found not to be as they were written.
    pub damaged: Vec<(u64, IndexEntry)>,
    /// What stands behind its end.
    pub cut_off: Option<CutOff>,
}

#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error("cannot read {path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error(
        "the write-ahead file {path} is damaged at byte {position} ({why}), and acknowledged records follow. \
         Restore the file from a copy; kafscale does not start on a log with a hole"
    )]
    Damaged { path: PathBuf, position: u64, why: String },
    #[error("the write-ahead file {path}: {why}")]
    Header { path: PathBuf, why: FileHeaderError },
    #[error(
        "the write-ahead file {0} is missing: its records are not in any segment yet. Put it back from a copy; kafscale does not start on \
         a log with a hole"
    )]
    Missing(PathBuf),
    /// Only the recovery point still tells of it.
    #[error(
        "the write-ahead file {path} is missing: {} says that the log began with it, and now it begins with {first}. If files were taken away, \
         put them back from a copy. If recovery-point comes from an older copy, nothing is missing: delete it, and start again. Delete it \
         also to give up what is missing: offsets that neither a segment nor a file has are answered with an error then",
        point.display()
    )]
    FirstMissing { path: PathBuf, first: String, point: PathBuf },
    #[error(
        "the newest write-ahead file {path} is missing: {known}. {} says so, which was written when the file was begun and at the last clean \
         stop. Put the file back from a copy. If its records are to be given up, delete recovery-point and make metadata of what is left with \
         `kafscale restore --replace`: the log then ends before them, and consumers may have seen what is gone", point.display()
    )]
    LastMissing { path: PathBuf, point: PathBuf, known: String },
}

/// Who reads a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    Owner,
    Onlooker,
    /// Takes batches for whole whose objects are.
    Passerby,
}

/// Reads every file of a chain directory, oldest first, for one who goes on writing there. Nothing is changed; see
/// [`remove_unfinished`]. A directory that is not there has no files.
pub fn recover(dir: &Path) -> Result<Vec<RecoveredFile>, RecoveryError> {
    read(dir, Reader::Owner)
}

/// The same for one who only looks.
pub fn read_all(dir: &Path) -> Result<Vec<RecoveredFile>, RecoveryError> {
    read(dir, Reader::Onlooker)
}

/// The same, without reading the batches.
pub fn read_indexes(dir: &Path) -> Result<Vec<RecoveredFile>, RecoveryError> {
    read(dir, Reader::Passerby)
}

/// Removes files that were prepared but never used.
pub fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "tmp") && !is_spare(&path) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Whether a batch is in its file as it was written.
pub fn is_sound(file: &File, position: u64, entry: &IndexEntry) -> io::Result<bool> {
    match read_exact_at(file, entry.size_bytes as usize, position) {
        Ok(bytes) => Ok(object::check_batch(&bytes, &IndexEntry { position: 0, ..*entry }).is_ok()),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

fn read(dir: &Path, reader: Reader) -> Result<Vec<RecoveredFile>, RecoveryError> {
    let io_at = |path: &Path| {
        let path = path.to_owned();
        move |error| RecoveryError::Io { path, error }
    };
    let mut paths = Vec::new();
    let listed = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(io_at(dir))?,
    };
    for entry in listed {
        let path = entry.map_err(io_at(dir))?.path();
        match file::file_no(&path) {
            Some(no) => paths.push((no, path)),
            None if is_spare(&path) || is_aside(&path) => {}
            None if path.extension().is_some_and(|e| e == "tmp") => {}
            None if path == RecoveryPoint::path(dir) => {}
            // It is told of when the directory is read to be used.
            None if reader == Reader::Passerby => {}
            None => tracing::warn!(file = %path.display(), "ignored: not a write-ahead file"),
        }
    }
    paths.sort();
    let mut opened = Vec::new();
    for (no, path) in paths {
        let file =
            File::options().read(true).write(reader == Reader::Owner).open(&path).map_err(io_at(&path))?;
        let written_end = written_end(&file).map_err(io_at(&path))?;
        match FileHeader::read(&file).map_err(io_at(&path))? {
            Ok(header) if header.file_no == no => opened.push((path, file, header, written_end)),
            Ok(_) => return Err(RecoveryError::Header { path, why: FileHeaderError::Damaged }),
            Err(why) => return Err(RecoveryError::Header { path, why }),
        }
    }
    let file_no =
        |file: Option<&(PathBuf, File, FileHeader, u64)>| file.map(|(_, _, header, _)| header.file_no);
    check_ends(dir, file_no(opened.first()), file_no(opened.last()))?;
    let is_of = |point: &RecoveryPoint| {
        opened.iter().any(|(_, _, header, _)| (header.file_no, header.salt) == (point.file_no, point.salt))
    };
    let point = RecoveryPoint::read(dir).filter(is_of);
    // Files are freed in order, so that a hole in the numbers is a file that somebody took away.
    for ((path, _, header, _), (_, _, next, _)) in opened.iter().zip(opened.iter().skip(1)) {
        if next.file_no != header.file_no + 1 {
            return Err(RecoveryError::Missing(path.with_file_name(file::file_name(header.file_no + 1))));
        }
    }
    let read_one = |i: usize| {
        let (path, file, header, written_end) = &opened[i];
        let next = opened.get(i + 1).map(|(_, _, header, _)| header);
        // A point behind a file's beginning is that of a clean end.
        let clean_end = point.filter(|p| p.file_no == header.file_no && p.position > FILE_HEADER_BYTES);
        let known_end = match next {
            Some(next) => next.previous.map(|p| p.1),
            None => clean_end.map(|p| p.position),
        };
        let whole_to = point.map_or(0, |point| match header.file_no.cmp(&point.file_no) {
            Ordering::Less => u64::MAX,
            Ordering::Equal => point.position,
            Ordering::Greater => 0,
        });
        let whole_to = if reader == Reader::Passerby { u64::MAX } else { whole_to };
        let bounds = Bounds { known_end, written_end: *written_end, whole_to };
        let scanned = scan(path, file, header, bounds)?;
        let file = Arc::new(file.try_clone().map_err(io_at(path))?);
        let Scanned { end, batches, damaged, cut_off } = scanned;
        Ok(RecoveredFile { path: path.clone(), file, header: *header, end, batches, damaged, cut_off })
    };
    side_by_side(opened.len(), read_one).into_iter().collect()
}

/// The log does not begin and end where files do, but where they were said to: the recovery point names the oldest and the newest one. An older point, which a power
/// cut may bring back, names an older newest one; it is never older than the last time that a file was freed.
fn check_ends(dir: &Path, first: Option<u64>, last: Option<u64>) -> Result<(), RecoveryError> {
    let oldest = RecoveryPoint::read(dir).and_then(|point| point.oldest);
    if let (Some(oldest), Some(first)) = (oldest, first)
        && oldest < first
    {
        let (path, first) = (dir.join(file::file_name(oldest)), file::file_name(first));
        return Err(RecoveryError::FirstMissing { path, first, point: RecoveryPoint::path(dir) });
    }
    let Some(point) = RecoveryPoint::read(dir).filter(|point| last.is_none_or(|last| point.file_no > last))
    else {
        return Ok(());
    };
    let known = match point.position.saturating_sub(FILE_HEADER_BYTES) {
        0 => "how many acknowledged records it held is not known".to_owned(),
        bytes => format!("it held {bytes} bytes of acknowledged records at the last clean stop"),
    };
    let path = dir.join(file::file_name(point.file_no));
    Err(RecoveryError::LastMissing { path, point: RecoveryPoint::path(dir), known })
}

/// Calls `read` with every number below `count`, some at a time, as each waits for the disk most of its time.
fn side_by_side<T: Send>(count: usize, read: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let take = || {
        let i = next.fetch_add(1, AtomicOrdering::Relaxed);
        (i < count).then(|| (i, read(i)))
    };
    let mut done: Vec<(usize, T)> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS.min(count))
            .map(|_| scope.spawn(|| std::iter::from_fn(take).collect::<Vec<_>>()))
            .collect();
        readers.into_iter().flat_map(|reader| reader.join().expect("reading does not panic")).collect()
    });
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, read)| read).collect()
}

/// What is known of a file before it is read.
struct Bounds {
    /// Where this one ends, as the next file says, or the end of the process that wrote it.
    known_end: Option<u64>,
    /// Damage is searched for up to here only; objects are read wherever they are.
    written_end: u64,
    /// Objects that begin before this are whole.
    whole_to: u64,
}

/// What one file holds: see [`RecoveredFile`].
#[derive(Default)]
struct Scanned {
    end: u64,
    batches: Vec<(u64, IndexEntry)>,
    damaged: Vec<(u64, IndexEntry)>,
    cut_off: Option<CutOff>,
}

/// Reads the objects of one file.
fn scan(path: &Path, file: &File, header: &FileHeader, bounds: Bounds) -> Result<Scanned, RecoveryError> {
    let Bounds { known_end, written_end, whole_to } = bounds;
    let io = |error| RecoveryError::Io { path: path.to_owned(), error };
    let file_bytes = file.metadata().map_err(io)?.len();
    let (mut position, mut seq, mut scanned) = (FILE_HEADER_BYTES, header.first_seq, Scanned::default());
    let mut window = Window { file, file_bytes, from: 0, bytes: Bytes::new(), small: true };
    loop {
        scanned.end = position;
        if known_end == Some(position) {
            return Ok(scanned);
        }
        let read = if position < whole_to { ReadAs::Whole } else { ReadAs::MaybeTorn };
        let mut found = read_object(&mut window, position, (header, seq), read).map_err(io)?;
        // What follows shows that this one was whole once.
        let followed = found.is_err()
            && (known_end.is_some() || find_object(file, position, written_end, header, seq).map_err(io)?);
        let body_at = position + HEADER_BYTES as u64;
        let placed = |entry: IndexEntry| (body_at + entry.position, entry);
        if found.is_err() && followed && matches!(read, ReadAs::MaybeTorn) {
            found = read_object(&mut window, position, (header, seq), ReadAs::Whole).map_err(io)?;
            // Header, index and footer are in order: whoever reads a batch that is not is told.
            for (at, entry) in found.iter().flat_map(|(_, index)| index.iter().copied().map(placed)) {
                if !is_sound(file, at, &entry).map_err(io)? {
                    scanned.damaged.push((at, entry));
                }
            }
        }
        match found {
            Ok((object, index)) => {
                scanned.batches.extend(index.into_iter().map(placed));
                position += object.object_bytes();
                seq += 1;
            }
            Err(why) if followed => {
                let why = why.to_string();
                return Err(RecoveryError::Damaged { path: path.to_owned(), position, why });
            }
            Err(ObjectError::NoMagic) => return Ok(scanned),
            Err(why) => {
                scanned.cut_off = Some(CutOff::read(path.to_owned(), file, position, why).map_err(io)?);
                return Ok(scanned);
            }
        }
    }
}

type Object = (ObjectHeader, Vec<IndexEntry>);

#[derive(Clone, Copy)]
enum ReadAs {
    Whole,
    MaybeTorn,
}

/// Reads a file from its front to its end. Small objects are read many at a time; of large ones only what is asked for.
struct Window<'a> {
    file: &'a File,
    file_bytes: u64,
    from: u64,
    bytes: Bytes,
    /// Whether the last object was.
    small: bool,
}

impl Window<'_> {
    fn read(&mut self, position: u64, size_bytes: usize) -> io::Result<&[u8]> {
        let end = position + size_bytes as u64;
        if position < self.from || end > self.from + self.bytes.len() as u64 {
            let ahead = if self.small { WINDOW_BYTES } else { 0 };
            let wanted = ahead.min(self.file_bytes.saturating_sub(position)).max(size_bytes as u64);
            (self.bytes, self.from) = (read_exact_at(self.file, wanted as usize, position)?, position);
        }
        Ok(&self.bytes[(position - self.from) as usize..][..size_bytes])
    }
}

fn read_object(
    window: &mut Window<'_>,
    position: u64,
    (owner, seq): (&FileHeader, u64),
    read: ReadAs,
) -> io::Result<Result<Object, ObjectError>> {
    if position + HEADER_BYTES as u64 > window.file_bytes {
        let left = window.file_bytes.saturating_sub(position) as usize;
        let is_one = left >= HEADER_MAGIC.len() && window.read(position, left)?.starts_with(&HEADER_MAGIC);
        return Ok(Err(if is_one { ObjectError::Damaged("it is cut off") } else { ObjectError::NoMagic }));
    }
    let header = match ObjectHeader::decode(window.read(position, HEADER_BYTES)?) {
        Ok(header) => header,
        Err(e) => return Ok(Err(e)),
    };
    if header.id.salt != owner.salt || header.id.seq != seq {
        return Ok(Err(ObjectError::NoMagic));
    }
    if header.object_bytes() > window.file_bytes - position {
        return Ok(Err(ObjectError::Damaged("it is cut off")));
    }
    window.small = header.object_bytes() < SMALL_OBJECT_BYTES;
    Ok(match read {
        ReadAs::Whole => {
            let before = HEADER_BYTES as u64 + header.body_bytes;
            let tail = window.read(position + before, (header.object_bytes() - before) as usize)?;
            object::decode_tail(&header, tail).map(|index| (header, index))
        }
        ReadAs::MaybeTorn => {
            let object = window.read(position, header.object_bytes() as usize)?;
            object::decode(object)
        }
    })
}

/// Whether a later object of this file begins anywhere after `from`: then what is at `from` is no torn tail,
/// because an object is written only when all before it are durable.
fn find_object(file: &File, from: u64, file_bytes: u64, owner: &FileHeader, seq: u64) -> io::Result<bool> {
    const CHUNK_BYTES: usize = 1 << 20;
    let magic = memchr::memmem::Finder::new(&HEADER_MAGIC);
    let mut buffer = vec![0; CHUNK_BYTES + HEADER_BYTES];
    let mut at = from + 1;
    while at < file_bytes {
        let n = buffer.len().min((file_bytes - at) as usize);
        file.read_exact_at(&mut buffer[..n], at)?;
        for start in magic.find_iter(&buffer[..n]) {
            if let Ok(header) = ObjectHeader::decode(&buffer[start..n])
                && header.id.salt == owner.salt
                && header.id.seq > seq
            {
                return Ok(true);
            }
        }
        at += CHUNK_BYTES as u64;
    }
    Ok(false)
}

/// Where the last part of the file ends that was ever written. A file that was never full is mostly blocks that are
/// reserved only, and searching those would be most of the time of a start. To be asked before the file is read: what
/// was read is in the page cache, and counts as written.
fn written_end(file: &File) -> io::Result<u64> {
    use rustix::fs::{SeekFrom, seek};
    let (file_bytes, mut end) = (file.metadata()?.len(), 0);
    loop {
        let part = seek(file, SeekFrom::Data(end)).and_then(|from| seek(file, SeekFrom::Hole(from)));
        match part {
            Ok(part_end) if part_end > end => end = part_end,
            Err(rustix::io::Errno::NXIO) => return Ok(end),
            // A file system that cannot tell has data everywhere.
            Ok(_) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => return Ok(file_bytes),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Where the partitions of a log end.
pub fn ends(files: &[RecoveredFile]) -> HashMap<PartitionId, Offset> {
    let mut ends = HashMap::new();
    for (_, entry) in files.iter().flat_map(|file| &file.batches) {
        let end = ends.entry(entry.partition).or_insert(Offset::ZERO);
        *end = entry.last_offset.plus(1).max(*end);
    }
    ends
}

/// How far a file was read by one who comes back to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Where the next object is to begin.
    pub position: u64,
    pub next_seq: u64,
    /// Whether nothing was found behind the end when it was first reached.
    pub is_looked_through: bool,
}

/// Why an onlooker does not read on.
#[derive(Debug)]
pub enum ReadOnError {
    Io(io::Error),
    Damaged { position: u64, why: ObjectError },
}

impl From<io::Error> for ReadOnError {
    fn from(error: io::Error) -> ReadOnError {
        ReadOnError::Io(error)
    }
}

/// The end of a file was looked through before: what has been added since begins not far behind it.
const LOOKED_AT_BYTES: u64 = 4 << 20;

/// Reads the objects from where `progress` stands, up to `known_end`, or up to the last one that is whole. The file may be written at the
/// same time; nothing is changed in it. Objects up to a known end are taken by their headers, indexes and footers, others are
/// compared with all their checksums. After an error, `progress` is where it was.
pub fn read_on(
    file: &File,
    owner: &FileHeader,
    progress: &mut Progress,
    known_end: Option<u64>,
) -> Result<Vec<(u64, IndexEntry)>, ReadOnError> {
    let file_bytes = file.metadata()?.len();
    let mut window = Window { file, file_bytes, from: 0, bytes: Bytes::new(), small: true };
    let (mut at, mut batches) = (*progress, Vec::new());
    let read_as = if known_end.is_some() { ReadAs::Whole } else { ReadAs::MaybeTorn };
    while known_end != Some(at.position) {
        let mut found = read_object(&mut window, at.position, (owner, at.next_seq), read_as)?;
        if let Err(why) = &found {
            // Objects are written one at a time: a later one shows that this one is there, by now.
            let search_to = if at.is_looked_through {
                file_bytes.min(at.position + LOOKED_AT_BYTES)
            } else {
                written_end(file)?
            };
            let followed =
                known_end.is_some() || find_object(file, at.position, search_to, owner, at.next_seq)?;
            if !followed {
                at.is_looked_through = true;
                break;
            }
            let why = why.clone();
            window = Window { file, file_bytes, from: 0, bytes: Bytes::new(), small: true };
            found = read_object(&mut window, at.position, (owner, at.next_seq), ReadAs::Whole)?;
            if found.is_err() {
                return Err(ReadOnError::Damaged { position: at.position, why });
            }
        }
        let Ok((object, index)) = found else { break };
        let body_at = at.position + HEADER_BYTES as u64;
        batches.extend(index.into_iter().map(|entry| (body_at + entry.position, entry)));
        at.position += object.object_bytes();
        at.next_seq += 1;
    }
    *progress = at;
    Ok(batches)
}
