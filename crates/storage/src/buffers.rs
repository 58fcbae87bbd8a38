//! Memory for large reads, which is used again: fresh memory is faulted in page by page, a tenth of what reading a block costs.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::vectored::read_exact_at;

/// What each buffer holds: a block of the cache.
const BUFFER_BYTES: usize = 1 << 20;

/// Smaller reads have memory of their own.
const READ_MIN_BYTES: usize = BUFFER_BYTES / 2;

/// So many buffers that nobody uses are kept.
const FREE_MAX: usize = 16;

type Free = Arc<Mutex<Vec<Vec<u8>>>>;

#[derive(Debug, Default)]
pub struct Buffers {
    free: Free,
}

/// A buffer that goes back to where it came from when its last reader drops it.
struct Lent {
    buffer: Vec<u8>,
    size_bytes: usize,
    free: Free,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.size_bytes]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut free = self.free.lock();
        if free.len() < FREE_MAX {
            free.push(std::mem::take(&mut self.buffer));
        }
    }
}

impl Buffers {
    /// Reads exactly this much from a place in a file.
    pub fn read(&self, file: &File, size_bytes: usize, position: u64) -> io::Result<Bytes> {
        if !(READ_MIN_BYTES..=BUFFER_BYTES).contains(&size_bytes) {
            return read_exact_at(file, size_bytes, position);
        }
        let buffer = self.free.lock().pop().unwrap_or_else(|| vec![0; BUFFER_BYTES]);
        let mut lent = Lent { buffer, size_bytes, free: Arc::clone(&self.free) };
        file.read_exact_at(&mut lent.buffer[..size_bytes], position)?;
        Ok(Bytes::from_owner(lent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_when_nobody_reads_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let written: Vec<u8> = (0..3 << 20).map(|i: usize| (i * 31 % 251) as u8).collect();
        std::fs::write(&path, &written).unwrap();
        let (file, buffers) = (File::open(&path).unwrap(), Buffers::default());
        let read = |size, position| buffers.read(&file, size, position as u64);
        for _ in 0..3 {
            let parts = [(1 << 20, 0), (600_001, 1 << 20), (100, 7), (2 << 20, 5)];
            let all = parts.map(|(size, position)| (read(size, position).unwrap(), position, size));
            for (bytes, position, size) in &all {
                assert_eq!(bytes, &written[*position..position + size]);
            }
            let first = all[0].0.slice(10..20);
            drop(all);
            assert_eq!(buffers.free.lock().len(), 1, "one is still read");
            assert_eq!(first, written[10..20]);
            drop(first);
            assert_eq!(buffers.free.lock().len(), 2);
        }
        assert!(read(1 << 20, (2 << 20) + 1).is_err(), "beyond the end");
        assert_eq!(buffers.free.lock().len(), 2);
    }
}
