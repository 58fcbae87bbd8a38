//! Where an answer goes: standard output, or a file that appears when it is whole.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// See the file's comment.
pub enum Output {
    Standard(BufWriter<io::Stdout>),
    File { file: BufWriter<File>, temporary: Temporary, path: PathBuf },
}

/// A file that is removed unless it gets its name.
pub struct Temporary(Option<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Output {
    pub fn open(path: Option<&Path>) -> io::Result<Output> {
        let Some(path) = path else { return Ok(Output::Standard(BufWriter::new(io::stdout()))) };
        let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        // Beside the file: only within one file system is a new name given at once.
        let mut beside = std::ffi::OsString::from(".");
        beside.push(name);
        beside.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(beside);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        let temporary = Temporary(Some(temporary));
        Ok(Output::File { file: BufWriter::new(file), temporary, path: path.to_owned() })
    }

    /// The answer is whole.
    pub fn finish(self) -> io::Result<()> {
        match self {
            Output::Standard(mut out) => out.flush(),
            Output::File { file, mut temporary, path } => {
                file.into_inner()?.sync_all()?;
                if let Some(from) = &temporary.0 {
                    std::fs::rename(from, path)?;
                }
                temporary.0 = None;
                Ok(())
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Standard(out) => out.write(bytes),
            Output::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Standard(out) => out.flush(),
            Output::File { file, .. } => file.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answer");
        std::fs::write(&path, "before").unwrap();
        let mut dropped = Output::open(Some(&path)).unwrap();
        dropped.write_all(b"half").unwrap();
        drop(dropped);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before");
        let mut whole = Output::open(Some(&path)).unwrap();
        whole.write_all(b"whole").unwrap();
        whole.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
