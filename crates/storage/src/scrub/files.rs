//! The write-ahead files of a local disk, as a start would read them, but to their last byte.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Finding, Harm, Scrub, ScrubError, chains, display};
use crate::wal::cut_off::CutOff;
use crate::wal::file;
use crate::wal::recovery::{self, RecoveredFile, RecoveryError};

const LOOKS_AGAIN: usize = 3;
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A write-ahead file, and the directory of its node.
pub struct WalFile {
    pub path: PathBuf,
    pub size_bytes: u64,
}

/// All write-ahead files below a directory, by node and number.
pub fn list(dir: &Path) -> io::Result<Vec<WalFile>> {
    let mut files = Vec::new();
    for node in read_dir(dir)? {
        for path in read_dir(&node)? {
            if file::file_no(&path).is_some() {
                let size_bytes = path.metadata()?.len();
                files.push(WalFile { path, size_bytes });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn read_dir(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(e) => Err(e),
    }
}

/// The directories of all nodes. One without a file may miss the one that its recovery point names.
pub fn nodes(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut nodes = read_dir(dir)?;
    nodes.retain(|node| node.is_dir());
    nodes.sort();
    Ok(nodes)
}

pub fn check(scrub: &mut Scrub<'_>, nodes: Vec<PathBuf>, files: Vec<WalFile>) -> Result<(), ScrubError> {
    for WalFile { size_bytes, .. } in &files {
        scrub.object_done(*size_bytes);
    }
    for node in nodes {
        match recovery::salvage(&node) {
            Ok((recovered, losses)) => {
                losses.iter().for_each(|(_, lost)| scrub.found(refused(&node, lost)));
                for file in &recovered {
                    scrub.done.wal_objects += 1;
                    batches(scrub, file)?;
                }
                if let Some(cut) = recovered.iter().find_map(|file| file.cut_off.as_ref())
                    && is_still_cut_off(&node, cut)
                {
                    scrub.found(not_whole(scrub, &recovered, cut));
                }
            }
            Err(RecoveryError::Io { path, error }) => {
                return Err(ScrubError::Io { place: display(&path), source: error });
            }
            Err(e) => scrub.found(refused(&node, &e)),
        }
    }
    Ok(())
}

/// Whether the write is as it was a moment later: a broker that runs may have been about to finish it, or the next.
fn is_still_cut_off(node: &Path, found: &CutOff) -> bool {
    (0..LOOKS_AGAIN).all(|_| {
        std::thread::sleep(LOOK_AGAIN_AFTER);
        let again = recovery::read_indexes(node).unwrap_or_default();
        again.iter().any(|file| file.cut_off.as_ref().is_some_and(|cut| cut.position == found.position))
    })
}

fn not_whole(scrub: &Scrub<'_>, files: &[RecoveredFile], cut: &CutOff) -> Finding {
    let offsets = match &cut.entries[..] {
        [one] => Some((one.base_offset, one.last_offset)),
        _ => None,
    };
    let partition = offsets.and_then(|_| cut.entries.first()).map(|entry| entry.partition);
    let records = cut.records(&recovery::ends(files), |id| scrub.topic(id));
    Finding {
        object: display(&cut.path),
        position: cut.position,
        topic: partition.map(|id| scrub.topic(id.topic)),
        partition: partition.map(|id| id.index),
        offsets,
        why: format!("the last write is not whole ({}): {records}; {}", cut.why, cut.meaning()),
        harm: Harm::Unknown,
    }
}

/// Every batch, with its own CRC.
fn batches(scrub: &mut Scrub<'_>, file: &RecoveredFile) -> Result<(), ScrubError> {
    let place = display(&file.path);
    for (position, entry) in &file.batches {
        scrub.done.batches += 1;
        let sound = recovery::is_sound(&file.file, *position, entry)
            .map_err(|source| ScrubError::Io { place: place.clone(), source })?;
        if !sound {
            let finding = chains::of_batch(scrub, place.clone(), *position, entry);
            scrub.found(finding);
        }
    }
    Ok(())
}

/// A start would be refused like this.
fn refused(node: &Path, error: &RecoveryError) -> Finding {
    let (path, position) = match error {
        RecoveryError::Damaged { path, position, .. } => (path.as_path(), *position),
        RecoveryError::Header { path, .. }
        | RecoveryError::NewerVersion { path, .. }
        | RecoveryError::Unreadable { path, .. }
        | RecoveryError::Missing { path, .. }
        | RecoveryError::FirstMissing { path, .. }
        | RecoveryError::LastMissing { path, .. } => (path.as_path(), 0),
        RecoveryError::Io { .. } => (node, 0),
    };
    Finding {
        object: display(path),
        position,
        topic: None,
        partition: None,
        offsets: None,
        why: error.to_string(),
        harm: Harm::Start,
    }
}
