//! The objects of one write-ahead file, read from its front to its end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use rustix::fs::{Advice, fadvise};

use super::cut_off::CutOff;
use super::file::{FILE_HEADER_BYTES, FileHeader};
use super::object::{self, HEADER_BYTES, HEADER_MAGIC, IndexEntry, ObjectError, ObjectHeader};
use super::recovery::is_sound;
use crate::vectored::read_exact_at;

/// How much is read at a time where objects are small.
const WINDOW_BYTES: u64 = 256 << 10;
const SMALL_OBJECT_BYTES: u64 = 32 << 10;

/// Whether the disk cannot read what it has.
pub fn is_bad_sector(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// What is known of a file before it is read.
pub struct Bounds {
    /// Where this one ends, as the next file says, or the end of the process that wrote it.
    pub known_end: Option<u64>,
    /// Damage is searched for up to here only; objects are read wherever they are.
    pub written_end: u64,
    /// Objects that begin before this are whole.
    pub whole_to: u64,
}

/// What one file holds: see [`RecoveredFile`](super::recovery::RecoveredFile).
#[derive(Default)]
pub struct Scanned {
    pub end: u64,
    pub batches: Vec<(u64, IndexEntry)>,
    pub damaged: Vec<(u64, IndexEntry)>,
    pub cut_off: Option<CutOff>,
    /// Where objects are that cannot be read, although others or a known end follow.
    pub lost: Vec<(u64, ObjectError)>,
}

/// Reads the objects of one file.
pub fn objects(path: &Path, file: &File, header: &FileHeader, bounds: &Bounds) -> io::Result<Scanned> {
    let scanned = objects_to_end(path, file, header, bounds)?;
    if bounds.known_end.is_none() {
        // What was read behind the end is in the page cache now, and the next start would search it: see `written_end`.
        let _ = fadvise(file, scanned.end, None, Advice::DontNeed);
    }
    Ok(scanned)
}

fn objects_to_end(path: &Path, file: &File, header: &FileHeader, bounds: &Bounds) -> io::Result<Scanned> {
    let Bounds { known_end, written_end, whole_to } = *bounds;
    let file_bytes = file.metadata()?.len();
    let (mut position, mut seq, mut scanned) = (FILE_HEADER_BYTES, header.first_seq, Scanned::default());
    let mut window = Window { file, file_bytes, from: 0, bytes: Bytes::new(), small: true };
    loop {
        scanned.end = position;
        if known_end == Some(position) {
            return Ok(scanned);
        }
        let read = if position < whole_to { ReadAs::Whole } else { ReadAs::MaybeTorn };
        let mut found = read_object(&mut window, position, (header, seq), read)?;
        // What follows shows that this one was whole once.
        let search_to = known_end.unwrap_or(written_end).min(file_bytes);
        let next = match &found {
            Ok(_) => None,
            Err(_) => find_object(file, position, search_to, header, seq)?,
        };
        let followed = found.is_err() && (known_end.is_some() || next.is_some());
        let body_at = position + HEADER_BYTES as u64;
        let placed = |entry: IndexEntry| (body_at + entry.position, entry);
        if followed && matches!(read, ReadAs::MaybeTorn) {
            found = read_object(&mut window, position, (header, seq), ReadAs::Whole)?;
            // Header, index and footer are in order: whoever reads a batch that is not is told.
            for (at, entry) in found.iter().flat_map(|(_, index)| index.iter().copied().map(placed)) {
                if !is_sound(file, at, &entry)? {
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
                scanned.lost.push((position, why));
                let Some(next) = next else {
                    scanned.end = known_end.unwrap_or(position);
                    return Ok(scanned);
                };
                (position, seq) = next;
            }
            Err(ObjectError::NoMagic) => return Ok(scanned),
            Err(why) => {
                scanned.cut_off = Some(CutOff::read(path.to_owned(), file, position, why)?);
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
            let wanted = ahead.min(self.file_bytes.saturating_sub(position)).max(size_bytes as u64) as usize;
            self.bytes = match read_exact_at(self.file, wanted, position) {
                // What is asked for may be on other sectors.
                Err(e) if is_bad_sector(&e) && wanted > size_bytes => {
                    read_exact_at(self.file, size_bytes, position)?
                }
                read => read?,
            };
            self.from = position;
        }
        Ok(&self.bytes[(position - self.from) as usize..][..size_bytes])
    }
}

/// An object that the disk cannot read is damaged.
fn read_object(
    window: &mut Window<'_>,
    position: u64,
    of: (&FileHeader, u64),
    read: ReadAs,
) -> io::Result<Result<Object, ObjectError>> {
    match try_read_object(window, position, of, read) {
        Err(e) if is_bad_sector(&e) => Ok(Err(ObjectError::Damaged("the disk cannot read it"))),
        read => read,
    }
}

fn try_read_object(
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

/// Where the next object of this file begins after `from`, and its number. Where there is one, what is at `from` is no torn tail,
/// because an object is written only when all before it are durable.
fn find_object(
    file: &File,
    from: u64,
    file_bytes: u64,
    owner: &FileHeader,
    seq: u64,
) -> io::Result<Option<(u64, u64)>> {
    const CHUNK_BYTES: usize = 1 << 20;
    let magic = memchr::memmem::Finder::new(&HEADER_MAGIC);
    let mut buffer = vec![0; CHUNK_BYTES + HEADER_BYTES];
    let mut at = from + 1;
    while at < file_bytes {
        let n = buffer.len().min((file_bytes - at) as usize);
        read_readable(file, &mut buffer[..n], at)?;
        for start in magic.find_iter(&buffer[..n]) {
            if let Ok(header) = ObjectHeader::decode(&buffer[start..n])
                && header.id.salt == owner.salt
                && header.id.seq > seq
            {
                return Ok(Some((at + start as u64, header.id.seq)));
            }
        }
        at += CHUNK_BYTES as u64;
    }
    Ok(None)
}

/// With zeros for sectors that cannot be read.
fn read_readable(file: &File, buffer: &mut [u8], at: u64) -> io::Result<()> {
    const SECTOR_BYTES: usize = 4096;
    match file.read_exact_at(buffer, at) {
        Err(e) if is_bad_sector(&e) => {}
        read => return read,
    }
    for (i, sector) in buffer.chunks_mut(SECTOR_BYTES).enumerate() {
        match file.read_exact_at(sector, at + (i * SECTOR_BYTES) as u64) {
            Err(e) if is_bad_sector(&e) => sector.fill(0),
            read => read?,
        }
    }
    Ok(())
}

/// Where the last part of the file ends that was ever written. A file that was never full is mostly blocks that are
/// reserved only, and searching those would be most of the time of a start. To be asked before the file is read: what
/// was read is in the page cache, and counts as written.
pub fn written_end(file: &File) -> io::Result<u64> {
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
/// compared with all their checksums. What cannot be read and was given up is passed by. After an error, `progress` is where it was.
pub fn read_on(
    file: &File,
    owner: &FileHeader,
    progress: &mut Progress,
    known_end: Option<u64>,
    is_given_up: impl Fn(u64) -> bool,
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
            let followed = known_end.is_some()
                || find_object(file, at.position, search_to, owner, at.next_seq)?.is_some();
            if !followed {
                at.is_looked_through = true;
                break;
            }
            let why = why.clone();
            window = Window { file, file_bytes, from: 0, bytes: Bytes::new(), small: true };
            found = read_object(&mut window, at.position, (owner, at.next_seq), ReadAs::Whole)?;
            if found.is_err() && is_given_up(at.position) {
                let search_to = known_end.unwrap_or(search_to);
                let next = find_object(file, at.position, search_to, owner, at.next_seq)?;
                let Some(next) = next.or(known_end.map(|end| (end, at.next_seq))) else { break };
                (at.position, at.next_seq) = next;
                continue;
            }
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
