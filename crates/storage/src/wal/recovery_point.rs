//! Up to where the objects of a chain are known to be whole, so that a start need not read them to their last byte.
//!
//! It is written when a file is opened, about all before it, and at a clean end. Without one, or with one from earlier, a start reads
//! more. It also says which files were there: a start misses the newest and the oldest by it. So it is written, durably, before a file is freed.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};
use kafscale_core::crc;

const SIZE_BYTES: usize = 36;
/// Without the oldest file, as earlier versions wrote it.
const SHORT_BYTES: usize = 28;

/// Everything before this place was durable before it was written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryPoint {
    pub file_no: u64,
    /// The file's own, so that a point is of no use with another file of this number.
    pub salt: u64,
    pub position: u64,
    /// The oldest file that was needed.
    pub oldest: Option<u64>,
}

impl RecoveryPoint {
    /// Where the point of a chain directory stands.
    pub fn path(dir: &Path) -> PathBuf {
        dir.join("recovery-point")
    }

    /// Not synced: what a power cut takes away, the next start finds out by reading.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let mut out = Vec::with_capacity(SIZE_BYTES);
        out.put_u64(self.file_no);
        out.put_u64(self.salt);
        out.put_u64(self.position);
        if let Some(oldest) = self.oldest {
            out.put_u64(oldest);
        }
        let crc = crc::crc32c(&out);
        out.put_u32(crc);
        let (path, staged) = (Self::path(dir), dir.join("recovery-point.tmp"));
        std::fs::write(&staged, out)?;
        std::fs::rename(&staged, path)
    }

    /// The same, and synced.
    pub fn write_durably(&self, dir: &Path) -> io::Result<()> {
        self.write(dir)?;
        std::fs::File::open(Self::path(dir))?.sync_all()?;
        std::fs::File::open(dir)?.sync_all()
    }

    /// Takes the point away, durably.
    pub fn remove(dir: &Path) -> io::Result<()> {
        match std::fs::remove_file(Self::path(dir)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => {}
        }
        std::fs::File::open(dir)?.sync_all()
    }

    /// The point, if there is a sound one.
    pub fn read(dir: &Path) -> Option<RecoveryPoint> {
        let known = |bytes: &Vec<u8>| [SIZE_BYTES, SHORT_BYTES].contains(&bytes.len());
        let bytes = std::fs::read(Self::path(dir)).ok().filter(known)?;
        let mut fields = &bytes[..];
        let (file_no, salt, position) = (fields.get_u64(), fields.get_u64(), fields.get_u64());
        let oldest = (bytes.len() == SIZE_BYTES).then(|| fields.get_u64());
        let sound = crc::crc32c(&bytes[..bytes.len() - 4]) == fields.get_u32();
        sound.then_some(RecoveryPoint { file_no, salt, position, oldest })
    }
}
