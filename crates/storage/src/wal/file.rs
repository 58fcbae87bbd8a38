//! One write-ahead file of a local disk: a header of 4 KiB, then objects one after the other, then zeros or what is
//! left of an earlier use.
//!
//! The header names the file before it and where that one's objects ended, so that a torn tail stays known as a
//! torn tail after the next start. It is written and synced before the file gets its name.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};
use kafscale_core::crc;
use uuid::Uuid;

/// Objects begin here.
pub const FILE_HEADER_BYTES: u64 = 4096;
const MAGIC: [u8; 8] = *b"KAFWFILE";
const VERSION: u16 = 1;
/// The flag [`FileHeader::noted`].
const NOTED: u16 = 1;
const USED_BYTES: usize = 80;
/// Behind those: the id of the store and its CRC, where earlier versions have zeros, which are no CRC of zeros.
const STORE_ID_BYTES: usize = 20;
const READ_BYTES: usize = USED_BYTES + STORE_ID_BYTES;

/// What a file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    pub file_no: u64,
    pub node_id: i32,
    pub incarnation: u64,
    pub salt: u64,
    /// The sequence number of the first object.
    pub first_seq: u64,
    /// The file before this one and the position at which its objects end, if there was one.
    pub previous: Option<(u64, u64)>,
    /// The store that it belongs to. Earlier versions did not say.
    pub store_id: Option<Uuid>,
    /// Whether the metadata had a note of the incarnation before there was this file. Earlier
    /// versions made none.
    pub noted: bool,
}

/// Why a file header cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileHeaderError {
    #[error("it is not a write-ahead file, or its header is damaged")]
    Damaged,
    #[error("it has format version {0}, this program knows {VERSION}: use a newer kafscale")]
    NewerVersion(u16),
}

impl FileHeader {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FILE_HEADER_BYTES as usize);
        out.put_slice(&MAGIC);
        out.put_u16(VERSION);
        out.put_u16(if self.noted { NOTED } else { 0 });
        out.put_i32(self.node_id);
        out.put_u64(self.file_no);
        out.put_u64(self.incarnation);
        out.put_u64(self.salt);
        out.put_u64(self.first_seq);
        let (previous_no, previous_end) = self.previous.unwrap_or((u64::MAX, 0));
        out.put_u64(previous_no);
        out.put_u64(previous_end);
        out.resize(USED_BYTES - 4, 0);
        let crc = crc::crc32c(&out);
        out.put_u32(crc);
        if let Some(id) = self.store_id {
            out.put_slice(id.as_bytes());
            out.put_u32(crc::crc32c(id.as_bytes()));
        }
        out.resize(FILE_HEADER_BYTES as usize, 0);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<FileHeader, FileHeaderError> {
        let used = bytes.get(..USED_BYTES).filter(|b| b[..8] == MAGIC).ok_or(FileHeaderError::Damaged)?;
        let crc = u32::from_be_bytes(used[USED_BYTES - 4..].try_into().expect("four bytes"));
        if crc::crc32c(&used[..USED_BYTES - 4]) != crc {
            return Err(FileHeaderError::Damaged);
        }
        let mut b = &used[8..];
        let version = b.get_u16();
        if version > VERSION {
            return Err(FileHeaderError::NewerVersion(version));
        }
        let noted = b.get_u16() & NOTED != 0;
        let node_id = b.get_i32();
        let (file_no, incarnation, salt, first_seq) = (b.get_u64(), b.get_u64(), b.get_u64(), b.get_u64());
        let previous = Some((b.get_u64(), b.get_u64())).filter(|p| p.0 != u64::MAX);
        let store_id = bytes.get(USED_BYTES..READ_BYTES).and_then(decode_store_id);
        Ok(FileHeader { file_no, node_id, incarnation, salt, first_seq, previous, store_id, noted })
    }

    /// Reads the header of an open file.
    pub fn read(file: &File) -> io::Result<Result<FileHeader, FileHeaderError>> {
        let mut buffer = [0; READ_BYTES];
        match file.read_exact_at(&mut buffer, 0) {
            Ok(()) => Ok(FileHeader::decode(&buffer)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(Err(FileHeaderError::Damaged)),
            Err(e) => Err(e),
        }
    }
}

fn decode_store_id(mut bytes: &[u8]) -> Option<Uuid> {
    let id = Uuid::from_u128(bytes.get_u128());
    (crc::crc32c(id.as_bytes()) == bytes.get_u32()).then_some(id)
}

/// `00000000000000000007.kfw`
pub fn file_name(file_no: u64) -> String {
    format!("{file_no:020}.kfw")
}

/// The number in a file's name.
pub fn file_no(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".kfw")?;
    (name.len() == 20).then(|| name.parse().ok()).flatten()
}

/// Creates a file of `size_bytes` with its blocks reserved.
pub fn create(path: &Path, size_bytes: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    if let Err(e) = reserve(&file, size_bytes) {
        // Give the space back: on a full disk a half-made file would stand in the way of everything else.
        let _ = std::fs::remove_file(path);
        return Err(e);
    }
    Ok(file)
}

fn reserve(file: &File, size_bytes: u64) -> io::Result<()> {
    use rustix::fs::FallocateFlags;
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size_bytes) {
        // Some file systems cannot reserve; the file then grows as it is written.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Writes the header into a prepared file and gives it its name, durably.
pub fn install(prepared: &Path, file: &File, header: &FileHeader, dir: &Path) -> io::Result<PathBuf> {
    file.write_all_at(&header.encode(), 0)?;
    file.sync_all()?;
    let path = dir.join(file_name(header.file_no));
    std::fs::rename(prepared, &path)?;
    File::open(dir)?.sync_all()?;
    Ok(path)
}
