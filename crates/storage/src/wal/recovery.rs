//! Reading a chain of write-ahead files back after a start.
//!
//! The last file may end in an object that is not whole: it is left out ([`super::cut_off`]). Damage anywhere else means
//! that acknowledged records are lost, and is refused with the file and the position, unless a person has [given them up](super::given_up). Below the
//! [recovery point](super::recovery_point), batches are not read, as they cannot be torn: their own CRCs tell a reader what a disk
//! has lost since.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering as AtomicOrdering};

use kafscale_core::ids::{Offset, PartitionId};

use super::cut_off::CutOff;
use super::file::{self, FILE_HEADER_BYTES, FileHeader, FileHeaderError};
use super::files::{is_aside, is_spare};
use super::given_up::{GivenUp, Loss};
use super::object::{self, IndexEntry};
use super::recovery_point::RecoveryPoint;
use super::scan::{self, Bounds, Scanned};
use crate::vectored::read_exact_at;

/// So many files are read at a time.
const READERS: usize = 8;

/// Where the file before ends, for a file that was begun when that one had been given up.
pub const BEHIND_A_LOSS: u64 = 0;

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
    /// The disk does not give it, or something else has its name.
    #[error("the write-ahead file {path} cannot be read: {error}. Put it back from a copy. {WITHOUT_A_COPY}")]
    Unreadable { path: PathBuf, error: io::Error },
    #[error(
        "the write-ahead file {path} is damaged at byte {position} ({why}), and acknowledged records follow. \
         Put the file back from a copy. {WITHOUT_A_COPY}"
    )]
    Damaged { path: PathBuf, position: u64, why: String },
    #[error("the write-ahead file {path}: {why}. Put the file back from a copy. {WITHOUT_A_COPY}")]
    Header { path: PathBuf, why: FileHeaderError },
    #[error(
        "the write-ahead file {path}: it has format version {version}, this program knows an older one: use a newer kafscale"
    )]
    NewerVersion { path: PathBuf, version: u16 },
    #[error(
        "the write-ahead file {} is missing{}: there are files before and behind it, and acknowledged records that are in no segment may have been in it. \
         Put it back from a copy. {WITHOUT_A_COPY}", path.display(), and_others(*others)
    )]
    Missing { path: PathBuf, others: u64 },
    /// Only the recovery point still tells of it.
    #[error(
        "the write-ahead file {path} is missing: {} says that the log began with it, and now it begins with {first}. If files were taken away, \
         put them back from a copy. If recovery-point comes from an older copy, nothing is missing: delete it, and start again. {WITHOUT_A_COPY}",
        point.display()
    )]
    FirstMissing { path: PathBuf, first: String, point: PathBuf },
    #[error(
        "the newest write-ahead file {path} is missing: {known}. {} says so, which was written when the file was begun and at the last clean \
         stop. Put the file back from a copy. {WITHOUT_A_COPY}; the log then ends before what is gone, and consumers may have seen that", point.display()
    )]
    LastMissing { path: PathBuf, point: PathBuf, known: String },
}

/// The way out of a loss.
const WITHOUT_A_COPY: &str =
    "Without one, `kafscale restore --accept-loss` serves everything else, and says what is lost";

fn and_others(others: u64) -> String {
    if others == 0 { String::new() } else { format!(", and {others} behind it") }
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

/// What is left of a log: everything that can be read, and what is lost and was not given up before, with the reason.
pub type Salvaged = (Vec<RecoveredFile>, Vec<(Loss, RecoveryError)>);

/// Reads on behind whatever is lost. Nothing is changed. Errors are of what may be read another time.
pub fn salvage(dir: &Path) -> Result<Salvaged, RecoveryError> {
    let (files, mut losses) = read_whatever(dir, Reader::Onlooker)?;
    let known = GivenUp::read(dir);
    losses.retain(|(loss, _)| !known.has(loss));
    Ok((files, losses))
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

/// Files that were given up and are there again: put back after the log went on without them. Their offsets may have newer records by now, and
/// nobody reads them. Blocks.
pub fn returned(dir: &Path) -> Result<Vec<PathBuf>, RecoveryError> {
    let (listed, known) = (list(dir, Reader::Passerby)?, GivenUp::read(dir));
    let is_returned = |i: usize| known.has_file(listed[i].0) || is_begun_without(&listed, i);
    Ok((0..listed.len()).filter(|i| is_returned(*i)).map(|i| listed[i].1.clone()).collect())
}

/// Whether the file behind one was begun as if that were not there. It says so when the list of what was given up does not any more.
fn is_begun_without(listed: &[(u64, PathBuf)], i: usize) -> bool {
    let Some((_, next)) = listed.get(i + 1).filter(|(_, path)| path.is_file()) else { return false };
    let header = File::open(next).and_then(|file| FileHeader::read(&file));
    matches!(header, Ok(Ok(FileHeader { previous: Some((no, BEHIND_A_LOSS)), .. })) if no == listed[i].0)
}

/// Whether a batch is in its file as it was written.
pub fn is_sound(file: &File, position: u64, entry: &IndexEntry) -> io::Result<bool> {
    match read_exact_at(file, entry.size_bytes as usize, position) {
        Ok(bytes) => Ok(object::check_batch(&bytes, &IndexEntry { position: 0, ..*entry }).is_ok()),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof || scan::is_bad_sector(&e) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Refuses what is lost and was not given up.
fn read(dir: &Path, reader: Reader) -> Result<Vec<RecoveredFile>, RecoveryError> {
    let (files, losses) = read_whatever(dir, reader)?;
    let known = GivenUp::read(dir);
    match losses.into_iter().find(|(loss, _)| !known.has(loss)) {
        Some((_, refused)) => Err(refused),
        None => Ok(files),
    }
}

/// A file whose header is in order.
struct Opened {
    path: PathBuf,
    file: File,
    header: FileHeader,
    written_end: u64,
}

fn read_whatever(dir: &Path, reader: Reader) -> Result<Salvaged, RecoveryError> {
    let mut listed = list(dir, reader)?;
    let returned = returned(dir)?;
    listed.retain(|(_, path)| !returned.contains(path));
    let (mut opened, mut losses) = (Vec::new(), Vec::new());
    for (no, path) in &listed {
        match open(*no, path, reader) {
            Ok(file) => opened.push(file),
            Err(error) if error.is_loss() => losses.push((Loss::Files { first: *no, last: *no }, error)),
            Err(error) => return Err(error),
        }
    }
    let point = RecoveryPoint::read(dir);
    losses.extend(missing_ends(dir, point.as_ref(), &listed));
    // Files are freed in order, so that a hole in the numbers is a file that somebody took away.
    for ((before, path), (next, _)) in listed.iter().zip(listed.iter().skip(1)) {
        let (first, last) = (before + 1, next - 1);
        if first <= last {
            let path = path.with_file_name(file::file_name(first));
            let missing = RecoveryError::Missing { path, others: last - first };
            losses.push((Loss::Files { first, last }, missing));
        }
    }
    let is_of = |point: &RecoveryPoint| {
        opened.iter().any(|file| (file.header.file_no, file.header.salt) == (point.file_no, point.salt))
    };
    let point = point.filter(is_of);
    let read_one = |i: usize| {
        let bounds = Bounds::of(&opened, i, point, reader);
        scan(&opened[i], bounds)
    };
    let mut files = Vec::with_capacity(opened.len());
    for (scanned, Opened { header, .. }) in side_by_side(opened.len(), read_one).into_iter().zip(&opened) {
        match scanned {
            Ok((file, of_file)) => {
                files.push(file);
                losses.extend(of_file);
            }
            Err(error) if error.is_loss() => {
                losses.push((Loss::Files { first: header.file_no, last: header.file_no }, error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok((files, losses))
}

/// The write-ahead files of a directory, by number.
fn list(dir: &Path, reader: Reader) -> Result<Vec<(u64, PathBuf)>, RecoveryError> {
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
            None if path == RecoveryPoint::path(dir) || path == GivenUp::path(dir) => {}
            // It is told of when the directory is read to be used.
            None if reader == Reader::Passerby => {}
            None => tracing::warn!(file = %path.display(), "ignored: not a write-ahead file"),
        }
    }
    paths.sort();
    Ok(paths)
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> RecoveryError {
    let path = path.to_owned();
    move |error| match is_lost(&error) {
        true => RecoveryError::Unreadable { path: path.clone(), error },
        false => RecoveryError::Io { path: path.clone(), error },
    }
}

/// Whether the disk cannot read it, or it is no file: another time it is the same.
fn is_lost(error: &io::Error) -> bool {
    scan::is_bad_sector(error) || matches!(error.kind(), io::ErrorKind::InvalidInput)
}

fn open(no: u64, path: &Path, reader: Reader) -> Result<Opened, RecoveryError> {
    let failed = io_at(path);
    let is_file = match std::fs::metadata(path) {
        // A link to nothing, or to itself.
        Err(_) if path.is_symlink() => false,
        found => found.map_err(&failed)?.is_file(),
    };
    // Whoever opens a pipe waits for its other end.
    if !is_file {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file")));
    }
    let file = File::options().read(true).write(reader == Reader::Owner).open(path).map_err(&failed)?;
    let written_end = scan::written_end(&file).map_err(&failed)?;
    let path = path.to_owned();
    match FileHeader::read(&file).map_err(failed)? {
        Ok(header) if header.file_no == no => Ok(Opened { path, file, header, written_end }),
        Ok(_) => Err(RecoveryError::Header { path, why: FileHeaderError::Damaged }),
        Err(FileHeaderError::NewerVersion(version)) => Err(RecoveryError::NewerVersion { path, version }),
        Err(why) => Err(RecoveryError::Header { path, why }),
    }
}

impl RecoveryError {
    /// What is lost, without what can be done.
    pub fn what(&self) -> String {
        match self {
            RecoveryError::Io { path, error } | RecoveryError::Unreadable { path, error } => {
                format!("{} cannot be read ({error})", path.display())
            }
            RecoveryError::Damaged { path, position, why } => {
                format!("{} is damaged at byte {position} ({why})", path.display())
            }
            RecoveryError::Header { path, why } => format!("{}: {why}", path.display()),
            RecoveryError::NewerVersion { path, version } => {
                format!("{} has format version {version}", path.display())
            }
            RecoveryError::Missing { path, others } => {
                format!("{} is missing{}", path.display(), and_others(*others))
            }
            RecoveryError::FirstMissing { path, first, .. } => {
                format!("{} is missing, and whatever was between it and {first}", path.display())
            }
            RecoveryError::LastMissing { path, known, .. } => {
                format!("{} is missing; {known}", path.display())
            }
        }
    }

    /// What has the name of a file, and is lost as a whole.
    pub fn unreadable(&self) -> Option<&Path> {
        match self {
            RecoveryError::Unreadable { path, .. } | RecoveryError::Header { path, .. } => Some(path),
            RecoveryError::Io { .. }
            | RecoveryError::Damaged { .. }
            | RecoveryError::NewerVersion { .. }
            | RecoveryError::Missing { .. }
            | RecoveryError::FirstMissing { .. }
            | RecoveryError::LastMissing { .. } => None,
        }
    }

    /// Whether what it tells of is there at no other time either.
    pub fn is_loss(&self) -> bool {
        !matches!(self, RecoveryError::Io { .. } | RecoveryError::NewerVersion { .. })
    }
}

/// The log does not begin and end where files do, but where they were said to: the recovery point names the oldest and the newest one. An older point, which a power
/// cut may bring back, names an older newest one; it is never older than the last time that a file was freed.
fn missing_ends(
    dir: &Path,
    point: Option<&RecoveryPoint>,
    listed: &[(u64, PathBuf)],
) -> Vec<(Loss, RecoveryError)> {
    let Some(point) = point else { return Vec::new() };
    let (first, last) = (listed.first().map(|(no, _)| *no), listed.last().map(|(no, _)| *no));
    let mut missing = Vec::new();
    let at = RecoveryPoint::path(dir);
    if let (Some(oldest), Some(first)) = (point.oldest, first)
        && oldest < first
    {
        let path = dir.join(file::file_name(oldest));
        let error = RecoveryError::FirstMissing { path, first: file::file_name(first), point: at.clone() };
        missing.push((Loss::Files { first: oldest, last: first - 1 }, error));
    }
    if last.is_none_or(|last| point.file_no > last) {
        let known = match point.position.saturating_sub(FILE_HEADER_BYTES) {
            0 => "how many acknowledged records it held is not known".to_owned(),
            bytes => format!("it held {bytes} bytes of acknowledged records at the last clean stop"),
        };
        let first = last.map_or(point.oldest.unwrap_or(point.file_no), |last| last + 1);
        let path = dir.join(file::file_name(point.file_no));
        let loss = Loss::Files { first: first.min(point.file_no), last: point.file_no };
        missing.push((loss, RecoveryError::LastMissing { path, point: at, known }));
    }
    missing
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

impl Bounds {
    fn of(opened: &[Opened], i: usize, point: Option<RecoveryPoint>, reader: Reader) -> Bounds {
        let Opened { header, written_end, .. } = &opened[i];
        // A point behind a file's beginning is that of a clean end.
        let clean_end = point.filter(|p| p.file_no == header.file_no && p.position > FILE_HEADER_BYTES);
        let known_end = match opened.get(i + 1) {
            // That of a file that is lost is not this one's.
            Some(next) => next.header.previous.filter(|(no, _)| *no == header.file_no).map(|(_, end)| end),
            None => clean_end.map(|p| p.position),
        };
        let whole_to = point.map_or(0, |point| match header.file_no.cmp(&point.file_no) {
            Ordering::Less => u64::MAX,
            Ordering::Equal => point.position,
            Ordering::Greater => 0,
        });
        let whole_to = if reader == Reader::Passerby { u64::MAX } else { whole_to };
        Bounds { known_end, written_end: *written_end, whole_to }
    }
}

/// Reads a file, and what is lost of it.
fn scan(
    opened: &Opened,
    bounds: Bounds,
) -> Result<(RecoveredFile, Vec<(Loss, RecoveryError)>), RecoveryError> {
    let Opened { path, file, header, .. } = opened;
    let scanned = scan::objects(path, file, header, &bounds).map_err(io_at(path))?;
    let Scanned { end, batches, damaged, cut_off, lost } = scanned;
    let losses = lost.into_iter().map(|(position, why)| {
        let error = RecoveryError::Damaged { path: path.clone(), position, why: why.to_string() };
        (Loss::Place { file_no: header.file_no, position }, error)
    });
    let file = Arc::new(file.try_clone().map_err(io_at(path))?);
    let recovered =
        RecoveredFile { path: path.clone(), file, header: *header, end, batches, damaged, cut_off };
    Ok((recovered, losses.collect()))
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
