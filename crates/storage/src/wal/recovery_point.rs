//! Up to where the objects of a chain are known to be whole, so that a start need not read them to their last byte.
//!
//! It is written when a file is opened, about all before it, and at a clean end. Nothing depends on it: without one, or with one
//! from earlier, a start reads more.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};
use kafscale_core::crc;

const SIZE_BYTES: usize = 28;

/// Everything before this place was durable before it was written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryPoint {
    pub file_no: u64,
    /// The file's own, so that a point is of no use with another file of this number.
    pub salt: u64,
    pub position: u64,
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
        let crc = crc::crc32c(&out);
        out.put_u32(crc);
        let (path, staged) = (Self::path(dir), dir.join("recovery-point.tmp"));
        std::fs::write(&staged, out)?;
        std::fs::rename(&staged, path)
    }

    /// The point, if there is a sound one.
    pub fn read(dir: &Path) -> Option<RecoveryPoint> {
        let bytes = std::fs::read(Self::path(dir)).ok().filter(|bytes| bytes.len() == SIZE_BYTES)?;
        let mut fields = &bytes[..];
        let point =
            RecoveryPoint { file_no: fields.get_u64(), salt: fields.get_u64(), position: fields.get_u64() };
        (crc::crc32c(&bytes[..SIZE_BYTES - 4]) == fields.get_u32()).then_some(point)
    }
}
