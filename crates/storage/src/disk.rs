//! How much room the disk of a directory has.

use std::path::Path;

/// The disk of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// What this process may still write; what is reserved for the system is not in it.
    pub free_bytes: u64,
    pub size_bytes: u64,
}

/// `None` where that cannot be told.
pub fn disk_space(directory: &Path) -> Option<DiskSpace> {
    let disk = rustix::fs::statvfs(directory).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    Some(DiskSpace { free_bytes: bytes(disk.f_bavail), size_bytes: bytes(disk.f_blocks) })
}
