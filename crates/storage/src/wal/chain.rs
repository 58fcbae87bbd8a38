//! Appending objects to the chain. One writer owns it; every call returns when its object is durable.

use std::fs::File;
use std::io::{self, IoSlice, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::direct::{BLOCK_BYTES, DirectWriter};
use super::file::{self, FILE_HEADER_BYTES, FileHeader};
use super::files::WalFiles;
use super::object::{HEADER_BYTES, IndexEntry, ObjectHeader, ObjectId, encode_tail};
use super::recovery_point::RecoveryPoint;
use crate::vectored::write_all_vectored;

/// Who writes, and how.
#[derive(Debug, Clone)]
pub struct ChainConfig {
    pub node_id: i32,
    pub incarnation: u64,
    /// A file is closed when the next object would make it larger than this; a larger object gets its own file.
    pub file_bytes: u64,
    /// So is one with this many batches: each takes memory, however small it is, until its file is rewritten.
    pub file_batches: usize,
    /// Written into every file.
    pub store_id: Option<Uuid>,
}

/// What became of an object.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Nothing of it counts; the next object takes its place. Worth another try.
    #[error("{0}")]
    Retry(io::Error),
    /// fdatasync failed: what the disk holds is unknown until the process starts again and reads it back.
    #[error("fdatasync failed ({0}); the log takes no writes until kafscale is restarted on a sound disk")]
    Poisoned(io::Error),
}

/// The end of a chain.
#[derive(Debug)]
pub enum Chain {
    Local(Box<LocalChain>),
    /// Nothing is kept; objects get places all the same, so that the rest works alike.
    Memory {
        files: Arc<WalFiles>,
        config: ChainConfig,
        file_no: u64,
        position: u64,
    },
}

/// The chain on a local disk.
#[derive(Debug)]
pub struct LocalChain {
    dir: PathBuf,
    config: ChainConfig,
    files: Arc<WalFiles>,
    current: Option<Current>,
    next_file_no: u64,
    next_seq: u64,
    previous: Option<(u64, u64)>,
    /// None where the file system does not write past the page cache.
    direct: Option<DirectWriter>,
    poisoned: bool,
}

#[derive(Debug)]
struct Current {
    file: Arc<File>,
    /// The same, for writing past the page cache.
    direct: Option<File>,
    header: FileHeader,
    position: u64,
    size_bytes: u64,
    batches: usize,
}

impl Chain {
    pub fn memory(files: Arc<WalFiles>, config: ChainConfig) -> Chain {
        files.add_memory(0);
        Chain::Memory { files, config, file_no: 0, position: 0 }
    }

    /// Makes one object durable. Gives the number of its file and the position of its body.
    pub fn append(&mut self, index: &[IndexEntry], batches: &[Bytes]) -> Result<(u64, u64), ChainError> {
        match self {
            Chain::Local(chain) => chain.append(index, batches),
            Chain::Memory { files, config, file_no, position } => {
                let size: u64 = batches.iter().map(|b| b.len() as u64).sum();
                if *position > 0 && *position + size > config.file_bytes {
                    *file_no += 1;
                    *position = 0;
                    files.add_memory(*file_no);
                }
                let at = *position;
                *position += size;
                Ok((*file_no, at))
            }
        }
    }

    /// Nothing follows: the next start need not read what is there.
    pub fn close(self) {
        if let Chain::Local(chain) = self
            && let Some(current) = &chain.current
        {
            current.note_recovery_point(&chain.dir, &chain.files);
        }
    }

    /// Whether the chain can take objects again after [`ChainError::Retry`].
    pub fn probe(&mut self) -> Result<(), ChainError> {
        self.append(&[], &[]).map(|_| ())
    }
}

impl From<LocalChain> for Chain {
    fn from(chain: LocalChain) -> Chain {
        Chain::Local(Box::new(chain))
    }
}

impl LocalChain {
    /// A chain that goes on after `previous`, the last file found and the end of its objects.
    pub fn new(
        dir: &Path,
        config: ChainConfig,
        files: Arc<WalFiles>,
        previous: Option<(u64, u64)>,
    ) -> LocalChain {
        let file_bytes = config.file_bytes.next_multiple_of(BLOCK_BYTES as u64);
        LocalChain {
            dir: dir.to_owned(),
            config: ChainConfig { file_bytes, ..config },
            files,
            current: None,
            next_file_no: previous.map_or(0, |p| p.0 + 1),
            next_seq: 0,
            previous,
            direct: Some(DirectWriter::default()),
            poisoned: false,
        }
    }

    /// Creates the first file of this incarnation, so that the first append does not wait for it.
    pub fn open_file(&mut self) -> Result<(), ChainError> {
        self.roll(0).map_err(ChainError::Retry)
    }

    fn append(&mut self, index: &[IndexEntry], batches: &[Bytes]) -> Result<(u64, u64), ChainError> {
        if self.poisoned {
            let error = io::Error::other("an earlier fdatasync failed");
            return Err(ChainError::Poisoned(error));
        }
        let body_bytes = batches.iter().map(|b| b.len() as u64).sum();
        let id = ObjectId {
            node_id: self.config.node_id,
            incarnation: self.config.incarnation,
            seq: self.next_seq,
            salt: 0,
        };
        let entries = index.len() as u32;
        // The chain is one file after the other: what is before an object is there.
        let mut header =
            ObjectHeader { id, seal: false, body_bytes, entries, has_index_copy: false, durable_below: 0 };
        let object_bytes = header.object_bytes();
        let file_batches = self.config.file_batches;
        let fits = |c: &Current| {
            let has_room =
                c.position + object_bytes <= c.size_bytes && c.batches + index.len() <= file_batches;
            c.position == FILE_HEADER_BYTES || has_room
        };
        if !self.current.as_ref().is_some_and(fits) {
            self.roll(object_bytes).map_err(ChainError::Retry)?;
        }
        let current = self.current.as_mut().expect("a file was just opened");
        header.id.salt = current.header.salt;
        let (front, tail) = (header.encode(), encode_tail(&header, index));
        let written = match (&mut self.direct, &current.direct) {
            (Some(writer), Some(file)) => {
                let pieces: Vec<&[u8]> = std::iter::once(&front[..])
                    .chain(batches.iter().map(|batch| &batch[..]))
                    .chain([&tail[..]])
                    .collect();
                Some(writer.append(file, current.position, &pieces))
            }
            (_, _) => None,
        };
        match written {
            // Every write is durable in itself, and none is in the page cache: after a failure the place can be written again.
            Some(Err(error)) if error.kind() != io::ErrorKind::InvalidInput => {
                return Err(ChainError::Retry(error));
            }
            Some(Ok(())) => {}
            // A file system may find out at the first write only that it cannot.
            Some(Err(_)) | None => {
                (self.direct, current.direct) = (None, None);
                current.write(&front, batches, &tail).map_err(ChainError::Retry)?;
                if let Err(e) = current.file.sync_data() {
                    self.poisoned = true;
                    return Err(ChainError::Poisoned(e));
                }
            }
        }
        let body_at = current.position + HEADER_BYTES as u64;
        current.position += object_bytes;
        current.batches += index.len();
        self.next_seq += 1;
        Ok((current.header.file_no, body_at))
    }

    /// Closes the current file and opens the next: a recycled one if there is one.
    fn roll(&mut self, object_bytes: u64) -> io::Result<()> {
        let needed = (object_bytes + FILE_HEADER_BYTES).next_multiple_of(BLOCK_BYTES as u64);
        let size_bytes = self.config.file_bytes.max(needed);
        let spare = (size_bytes == self.config.file_bytes).then(|| self.files.take_spare()).flatten();
        let prepared = match &spare {
            Some(path) => path.clone(),
            None => self.dir.join("next.tmp"),
        };
        let file = match &spare {
            Some(path) => File::options().read(true).write(true).open(path)?,
            None => file::create(&prepared, size_bytes)?,
        };
        if let Some(closed) = &self.current {
            self.previous = Some((closed.header.file_no, closed.position));
        }
        let header = FileHeader {
            file_no: self.next_file_no,
            node_id: self.config.node_id,
            incarnation: self.config.incarnation,
            salt: rand::random(),
            first_seq: self.next_seq,
            previous: self.previous,
            store_id: self.config.store_id,
            noted: true,
        };
        let path = file::install(&prepared, &file, &header, &self.dir)?;
        let direct = self.direct.as_mut().and_then(|writer| {
            writer.begin();
            DirectWriter::open(&path).ok()
        });
        let file = Arc::new(file);
        self.files.add_disk(header.file_no, path, file.clone(), size_bytes);
        let current = Current { file, direct, header, position: FILE_HEADER_BYTES, size_bytes, batches: 0 };
        current.note_recovery_point(&self.dir, &self.files);
        self.current = Some(current);
        self.next_file_no += 1;
        Ok(())
    }
}

impl Current {
    fn note_recovery_point(&self, dir: &Path, files: &WalFiles) {
        let FileHeader { file_no, salt, .. } = self.header;
        let point = RecoveryPoint { file_no, salt, position: self.position, oldest: None };
        if let Err(error) = files.note_point(dir, point) {
            tracing::debug!(%error, "no recovery point; the next start reads more");
        }
    }

    fn write(&self, front: &[u8], batches: &[Bytes], tail: &[u8]) -> io::Result<()> {
        // Few small batches are cheaper copied into one buffer than named to the kernel one by one.
        const COPY_BELOW_BYTES: usize = 4096;
        let body_bytes: usize = batches.iter().map(Bytes::len).sum();
        if body_bytes < COPY_BELOW_BYTES {
            let mut whole = Vec::with_capacity(front.len() + body_bytes + tail.len());
            whole.extend_from_slice(front);
            batches.iter().for_each(|b| whole.extend_from_slice(b));
            whole.extend_from_slice(tail);
            return self.file.write_all_at(&whole, self.position);
        }
        let mut file = &*self.file;
        file.seek(SeekFrom::Start(self.position))?;
        let mut slices = Vec::with_capacity(batches.len() + 2);
        slices.push(IoSlice::new(front));
        slices.extend(batches.iter().map(|b| IoSlice::new(b)));
        slices.push(IoSlice::new(tail));
        write_all_vectored(file, &mut slices)
    }
}
