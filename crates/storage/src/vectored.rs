//! File IO on buffers as they are: many pieces in one call, and reads into memory that was not zeroed before.

use std::fs::File;
use std::io::{self, IoSlice, Write as _};

use bytes::Bytes;
use rustix::buffer::spare_capacity;

/// Writes all pieces at the file's position.
pub fn write_all_vectored(mut file: &File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut slices, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Reads exactly this much from a place in a file.
pub fn read_exact_at(file: &File, size_bytes: usize, position: u64) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(size_bytes);
    while bytes.len() < size_bytes {
        let at = position + bytes.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    // More may have come than was asked for, where the allocator gave more.
    bytes.truncate(size_bytes);
    Ok(Bytes::from(bytes))
}
