//! The write-ahead files of a local disk, beside a broker that goes on writing, freeing and using them again.
//!
//! What was read of a file is kept, and the next look goes on behind it. A file is known by its salt, which is new with every use; it
//! is compared again after everything was read, so that nothing is taken from another use of the same file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kafscale_core::ids::TopicId;
use parking_lot::Mutex;

use super::ScanError;
use super::error::Step;
use super::tail::{Medium, TailBatch};
use super::wal::Above;
use crate::vectored::read_exact_at;
use crate::wal::file::{self, FILE_HEADER_BYTES, FileHeader, FileHeaderError};
use crate::wal::given_up::{GivenUp, Loss};
use crate::wal::object::IndexEntry;
use crate::wal::recovery::BEHIND_A_LOSS;
use crate::wal::scan::{Progress, ReadOnError, read_on};

/// A file in use, whatever becomes of its name.
#[derive(Debug)]
pub(super) struct OpenFile {
    file: File,
    header: FileHeader,
}

impl OpenFile {
    pub fn read(&self, position: u64, size_bytes: usize) -> io::Result<Bytes> {
        read_exact_at(&self.file, size_bytes, position)
    }

    /// Whether it has not been used again. What was read before this was asked is then of the use that is meant.
    pub fn is_still_that(&self) -> bool {
        matches!(FileHeader::read(&self.file), Ok(Ok(header)) if header.salt == self.header.salt)
    }

    /// Whether it was freed for good; what it held may be gone from it.
    pub fn is_unlinked(&self) -> bool {
        self.file.metadata().is_ok_and(|meta| meta.nlink() == 0)
    }
}

/// What was read of one file.
#[derive(Debug)]
struct Known {
    path: Arc<str>,
    open: Arc<OpenFile>,
    progress: Progress,
    /// Each with its position in the file.
    batches: Vec<(u64, IndexEntry)>,
}

#[derive(Debug)]
pub(super) struct LocalWal {
    dir: PathBuf,
    known: Mutex<HashMap<PathBuf, Known>>,
}

impl LocalWal {
    /// The write-ahead logs below a directory: each node that wrote there has its own.
    pub fn new(dir: PathBuf) -> LocalWal {
        LocalWal { dir, known: Mutex::default() }
    }

    /// Blocks.
    pub fn of_topic(&self, topic: TopicId) -> Result<Above, Step> {
        let mut known = self.known.lock();
        let (mut files, mut above) = (Vec::new(), Above::default());
        for node in list(&self.dir)?.into_iter().filter(|path| path.is_dir()) {
            let given_up = GivenUp::read(&node);
            files.extend(read_node(&node, &given_up, &mut known)?);
            if given_up.places().next().is_some() {
                above.given_up = Some(GivenUp::path(&node).display().to_string().into());
            }
        }
        known.retain(|path, _| files.contains(path));
        for known in files.iter().filter_map(|path| known.get(path)) {
            let of_topic = known.batches.iter().filter(|(_, entry)| entry.partition.topic == topic);
            for (position, entry) in of_topic {
                let medium = Medium::File(Arc::clone(&known.open));
                let batch = TailBatch::of(&known.path, *position, entry, medium);
                above.by_partition.entry(entry.partition.index).or_default().push(batch);
            }
        }
        Ok(above)
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, Step> {
    let failed = |source| Step::Failed(ScanError::Io { path: dir.to_owned(), source });
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect(),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(failed(e)),
    }
}

/// Reads what the files of a node hold that was not read before. Gives their paths, oldest first.
fn read_node(
    node: &Path,
    given_up: &GivenUp,
    known: &mut HashMap<PathBuf, Known>,
) -> Result<Vec<PathBuf>, Step> {
    let mut paths: Vec<_> =
        list(node)?.into_iter().filter_map(|path| Some((file::file_no(&path)?, path))).collect();
    // One that was put back after it had been given up is not part of the log.
    paths.retain(|(no, _)| !given_up.has_file(*no));
    paths.sort_unstable();
    for (i, (no, path)) in paths.iter().enumerate() {
        // Files are freed from the oldest on. A hole is a file that somebody took away, or a listing that was overtaken.
        let first = if i > 0 { paths[i - 1].0 + 1 } else { *no };
        if first < *no && !given_up.has(&Loss::Files { first, last: no - 1 }) {
            let missing = node.join(file::file_name(first));
            return Err(ScanError::Wal(format!("{} is missing", missing.display())).into());
        }
        let header = open(path, *no, known)?;
        // It says where the one before it ends.
        if let Some((no, before)) = i.checked_sub(1).map(|i| &paths[i]) {
            let end = header.previous.filter(|(previous, _)| previous == no).map(|(_, end)| end);
            if end != Some(BEHIND_A_LOSS) {
                advance(known, before, given_up, end)?;
            }
        }
    }
    let Some((_, last)) = paths.last() else { return Ok(Vec::new()) };
    advance(known, last, given_up, None)?;
    let known = &known[last];
    // An object can be read before it is on the disk. What a snapshot has must survive a power cut.
    match known.open.file.sync_data() {
        // On a disk that is mounted for reading only nothing is under way.
        Err(e) if !matches!(e.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::InvalidInput) => {
            return Err(ScanError::Io { path: last.clone(), source: e }.into());
        }
        Ok(()) | Err(_) => {}
    }
    if !known.open.is_still_that() {
        return Err(moved(last));
    }
    Ok(paths.into_iter().map(|(_, path)| path).collect())
}

fn moved(path: &Path) -> Step {
    Step::Moved(format!("{} was freed while it was read", path.display()))
}

/// Opens a file that is not known, or that is another one now.
fn open(path: &Path, no: u64, known: &mut HashMap<PathBuf, Known>) -> Result<FileHeader, Step> {
    if let Some(known) = known.get(path)
        && known.open.is_still_that()
        && !known.open.is_unlinked()
    {
        return Ok(known.open.header);
    }
    let failed = |source: io::Error| match source.kind() {
        ErrorKind::NotFound => moved(path),
        _ => Step::Failed(ScanError::Io { path: path.to_owned(), source }),
    };
    let file = File::open(path).map_err(failed)?;
    let header = match FileHeader::read(&file).map_err(failed)? {
        Ok(header) if header.file_no == no => header,
        // It was renamed and used again between the two.
        Ok(_) => return Err(moved(path)),
        Err(why @ (FileHeaderError::Damaged | FileHeaderError::NewerVersion(_))) => {
            return Err(ScanError::Wal(format!("{}: {why}", path.display())).into());
        }
    };
    let entry = Known {
        path: path.display().to_string().into(),
        open: Arc::new(OpenFile { file, header }),
        progress: Progress {
            position: FILE_HEADER_BYTES,
            next_seq: header.first_seq,
            is_looked_through: false,
        },
        batches: Vec::new(),
    };
    known.insert(path.to_owned(), entry);
    Ok(header)
}

/// Reads on in a file, up to the end that is known, or up to the last object that is there.
fn advance(
    known: &mut HashMap<PathBuf, Known>,
    path: &Path,
    given_up: &GivenUp,
    end: Option<u64>,
) -> Result<(), Step> {
    let known = known.get_mut(path).expect("it was opened");
    if end.is_some_and(|end| end == known.progress.position) {
        return Ok(());
    }
    let file_no = known.open.header.file_no;
    let is_given_up = |position| given_up.has(&Loss::Place { file_no, position });
    let read = read_on(&known.open.file, &known.open.header, &mut known.progress, end, is_given_up);
    let found = match read {
        Ok(found) => found,
        // Read from a file that is another one now.
        _ if !known.open.is_still_that() || known.open.is_unlinked() => return Err(moved(path)),
        Err(ReadOnError::Io(source)) => {
            return Err(ScanError::Io { path: path.to_owned(), source }.into());
        }
        Err(ReadOnError::Damaged { position, why }) => {
            let path = path.display();
            return Err(ScanError::Wal(format!(
                "{path} is damaged at byte {position} ({why}), and acknowledged records follow"
            ))
            .into());
        }
    };
    known.batches.extend(found);
    Ok(())
}
