//! Files without a name, whose space is given back a little at a time.
//!
//! A file system that is mounted with `discard` tells the disk of every block that is freed, in the journal's commit: 64 MiB hold up
//! every sync, and so every append, for 50 ms. A large file is therefore kept open when its name goes, and is then cut shorter by a
//! stretch that takes a millisecond.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// What is freed at a time. Smaller files are not worth the trouble.
const STRETCH_BYTES: u64 = 1 << 20;

/// Freeing a stretch is followed by a pause so many times as long.
const PAUSE_TIMES: u32 = 3;

/// Whoever has the file open still may read it for so long.
const GRACE: Duration = Duration::from_secs(5);

/// More files than this are freed at once by the kernel, when they are closed.
const WAITING_MAX: usize = 128;

struct Waiting {
    file: Arc<File>,
    since: Instant,
}

/// None where there cannot be a thread: then each file is freed when it is closed.
static FREEING: LazyLock<Option<SyncSender<Waiting>>> = LazyLock::new(|| {
    let (sender, receiver) = sync_channel(WAITING_MAX);
    let thread = std::thread::Builder::new().name("free-space".into()).spawn(move || free(&receiver));
    thread.ok().map(|_| sender)
});

/// Gives back the space of a file that has lost its name. One that still has a name loses nothing.
pub fn free_gradually(file: Arc<File>) {
    let is_large = file.metadata().is_ok_and(|meta| meta.len() > STRETCH_BYTES);
    if let Some(freeing) = FREEING.as_ref().filter(|_| is_large) {
        let _ = freeing.try_send(Waiting { file, since: Instant::now() });
    }
}

fn free(waiting: &Receiver<Waiting>) {
    for Waiting { file, since } in waiting {
        std::thread::sleep(GRACE.saturating_sub(since.elapsed()));
        if let Err(error) = shorten(&file) {
            tracing::debug!(%error, "a deleted file is freed at once");
        }
    }
}

fn shorten(file: &File) -> io::Result<()> {
    let meta = file.metadata()?;
    let mut len = if meta.nlink() == 0 { meta.len() } else { 0 };
    while len > 0 {
        len = len.saturating_sub(STRETCH_BYTES);
        let began = Instant::now();
        file.set_len(len)?;
        // Waits for the commit: freed stretches must not gather in one.
        file.sync_all()?;
        std::thread::sleep(began.elapsed() * PAUSE_TIMES);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn only_a_file_without_a_name_is_shortened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        let mut file = File::create_new(&path).unwrap();
        file.write_all(&vec![7; 3 << 20]).unwrap();
        shorten(&file).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3 << 20);
        std::fs::remove_file(&path).unwrap();
        shorten(&file).unwrap();
        assert_eq!(file.metadata().unwrap().blocks(), 0);
    }
}
