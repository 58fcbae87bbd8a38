//! Small files that are read while the program runs: settings, secrets, certificates, anchors.
//!
//! Invariant: nothing waits for a file for ever. What is no regular file (a pipe, a terminal) is refused instead of waited for, and
//! [`Apart`] gives up on a disk that does not answer.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Error, ErrorKind, Read as _, Result};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A network disk that is away may not answer at all.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Opens a regular file to read it.
pub fn open_regular(path: &Path) -> Result<File> {
    // Or opening a pipe waits for who writes.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}

/// Opens a file that is there, to lock it: for writing where that is allowed, as a network file system locks for nobody else.
pub fn open_to_lock(path: &Path) -> Result<File> {
    match OpenOptions::new().write(true).open(path) {
        Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            File::open(path)
        }
        opened => opened,
    }
}

/// Locks a file for one user alone. Who is just closing it is waited for, and so is a child that another thread starts: it holds all
/// files that are open until it has become its own program.
pub fn lock_soon(file: &File) -> std::result::Result<(), TryLockError> {
    for _ in 0..20 {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(25)),
            locked_or_failed => return locked_or_failed,
        }
    }
    file.try_lock()
}

/// Reads a regular file of at most `max_bytes`.
pub fn read_small(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it is larger than {max_bytes} bytes")));
    }
    Ok(bytes)
}

/// [`read_small`] for text.
pub fn read_small_text(path: &Path, max_bytes: u64) -> Result<String> {
    String::from_utf8(read_small(path, max_bytes)?).map_err(|e| Error::new(ErrorKind::InvalidData, e))
}

/// Reads a text when a program starts: then a pipe will do, as of a shell's `<(…)`, if somebody writes to it and closes it within
/// [`TIMEOUT`].
pub fn read_text_once(path: &Path) -> Result<String> {
    let (tell, told) = mpsc::channel();
    let path = path.to_owned();
    // One that is left behind ends with the program, which does not start.
    std::thread::Builder::new().name("read-file".into()).spawn(move || {
        _ = tell.send(std::fs::read_to_string(path));
    })?;
    let late = |_| Err(Error::new(ErrorKind::TimedOut, format!("not read within {} s", TIMEOUT.as_secs())));
    told.recv_timeout(TIMEOUT).unwrap_or_else(late)
}

/// Does one thing with files after the other, on threads where waiting hurts nobody.
#[derive(Debug, Default)]
pub struct Apart {
    running: Option<JoinHandle<()>>,
}

impl Apart {
    /// What `work` returns. `None`: it, or what was asked for before, has not ended within [`TIMEOUT`]; what is late is dropped. While
    /// something is late nothing else is begun, so that it holds one thread however often this is called.
    pub async fn run<T: Send + 'static>(&mut self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let done = async {
            if let Some(earlier) = &mut self.running {
                let _ = earlier.await;
            }
            let (tell, told) = oneshot::channel();
            self.running = Some(tokio::task::spawn_blocking(move || {
                let _ = tell.send(work());
            }));
            told.await.ok()
        };
        tokio::time::timeout(TIMEOUT, done).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, mpsc};

    use super::*;

    #[test]
    fn pipes_directories_and_what_is_too_long_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (file, pipe) = (dir.path().join("file"), dir.path().join("pipe"));
        std::fs::write(&file, "four").unwrap();
        assert_eq!(read_small_text(&file, 4).unwrap(), "four");
        assert_eq!(read_small(&file, 3).unwrap_err().kind(), ErrorKind::FileTooLarge);
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        for other in [pipe.as_path(), dir.path(), Path::new("/dev/zero")] {
            let refused = read_small(other, 4).unwrap_err();
            assert!(refused.to_string().contains("not a regular file"), "{}: {refused}", other.display());
        }
        assert_eq!(read_small(&dir.path().join("none"), 4).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_pipe_is_read_once_if_somebody_writes_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        let to = pipe.clone();
        let writer = std::thread::spawn(move || std::fs::write(to, "four").unwrap());
        assert_eq!(read_text_once(&pipe).unwrap(), "four");
        writer.join().unwrap();
        assert_eq!(read_text_once(&pipe).unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn what_hangs_is_given_up_and_holds_one_thread() {
        tokio::time::pause();
        let mut apart = Apart::default();
        let (release, held) = mpsc::channel::<()>();
        // While a thread is busy the clock goes on only by hand.
        let (hung, ()) = tokio::join!(apart.run(move || held.recv()), tokio::time::advance(TIMEOUT * 2));
        assert!(hung.is_none());
        let began = Arc::new(AtomicBool::new(false));
        let begin = Arc::clone(&began);
        let next = apart.run(move || begin.store(true, Ordering::SeqCst));
        let (next, ()) = tokio::join!(next, tokio::time::advance(TIMEOUT * 2));
        assert!(next.is_none() && !began.load(Ordering::SeqCst));
        release.send(()).unwrap();
        assert_eq!(apart.run(|| 2).await, Some(2));
    }
}
