//! Where queries write what does not fit into memory: a directory of this process alone.
//!
//! The engine removes each file with the step that wrote it. What a process that was killed has left is removed by the next
//! one that writes to the same place: whoever lives holds a lock on its own directory.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

const PREFIX: &str = "kafscale-spilled-";
/// Names that are tried. Each is one that somebody has taken away meanwhile, or left.
const TRIES: u32 = 100;

/// Is removed with all that is in it when it is dropped.
#[derive(Debug)]
pub struct SpillDir {
    path: PathBuf,
    /// Held for as long as the process uses it.
    _lock: File,
}

impl SpillDir {
    /// A new one below `place`, from which those of dead processes are removed.
    pub fn create(place: &Path) -> io::Result<SpillDir> {
        if !place.exists() {
            fs::create_dir(place)?;
        }
        remove_left(place);
        for number in 0..TRIES {
            let path = place.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            // Another process may have taken it for one that was left, before it was locked.
            if let Some(lock) = locked(&path) {
                return Ok(SpillDir { path, _lock: lock });
            }
        }
        Err(io::Error::other(format!("no directory of its own can be made in {}", place.display())))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SpillDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the directory for spilled data stays");
        }
    }
}

/// The lock on a directory that is still there, unless a process holds it.
fn locked(path: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = File::from(open(path, flags, Mode::empty()).ok()?);
    flock(&directory, FlockOperation::NonBlockingLockExclusive).ok()?;
    let (held, there) = (directory.metadata().ok()?, fs::symlink_metadata(path).ok()?);
    ((held.dev(), held.ino()) == (there.dev(), there.ino())).then_some(directory)
}

/// Removes what processes of the same user have left that are gone.
fn remove_left(place: &Path) {
    let Ok(entries) = fs::read_dir(place) else { return };
    let user = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == user);
        if !is_ours {
            continue;
        }
        let path = entry.path();
        if let Some(_lock) = locked(&path)
            && let Err(error) = fs::remove_dir_all(&path)
        {
            tracing::warn!(path = %path.display(), %error, "spilled data of a process that is gone stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_dead_have_left_is_removed_and_what_the_living_use_stays() {
        let place = tempfile::tempdir().unwrap();
        let left = place.path().join(format!("{PREFIX}1-0"));
        fs::create_dir_all(left.join("inner")).unwrap();
        fs::write(left.join("inner/run"), "rows").unwrap();
        fs::create_dir(place.path().join("something-else")).unwrap();
        let one = SpillDir::create(place.path()).unwrap();
        fs::write(one.path().join("run"), "rows").unwrap();
        let other = SpillDir::create(place.path()).unwrap();
        assert!(!left.exists() && one.path().join("run").exists() && other.path().exists());
        let (first, second) = (one.path().to_owned(), other.path().to_owned());
        drop((one, other));
        assert!(!first.exists() && !second.exists());
        assert!(place.path().join("something-else").exists());
        assert!(SpillDir::create(&place.path().join("new")).is_ok());
        assert!(SpillDir::create(&place.path().join("missing/too")).is_err());
    }
}
