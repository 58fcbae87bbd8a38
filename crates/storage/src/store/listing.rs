//! The files below a local directory, as objects.
//!
//! A name that no object can have, as it is not UTF-8, is somebody else's: it is left alone and told of, and hides nothing beside it. So
//! is a link that leads back to a directory above it.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs::{self, ReadDir};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};
use object_store::path::Path;
use object_store::{ListResult, ObjectMeta, Result};
use parking_lot::Mutex;

use super::durable::{blocking, io_error};

/// So many files are looked at in one go.
const CHUNK: usize = 1024;
/// So many names are told of.
const TOLD_MAX: usize = 1000;

/// What of a directory is listed as objects.
#[derive(Debug, Default)]
pub struct Lister {
    root: PathBuf,
    told: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Lister {
    pub fn new(root: &FsPath) -> Lister {
        Lister { root: root.to_owned(), told: Arc::default() }
    }

    pub fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let walk = Walk::new(&self.root, prefix, Arc::clone(&self.told));
        stream::try_unfold((walk, VecDeque::new()), async |(mut walk, mut found): (Walk, VecDeque<_>)| {
            if found.is_empty() {
                (walk, found) = blocking(move || {
                    found.extend(walk.by_ref().take(CHUNK));
                    Ok((walk, found))
                })
                .await?;
            }
            found.pop_front().map(|entry| Ok((entry?, (walk, found)))).transpose()
        })
        .boxed()
    }

    pub async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut walk = Walk::new(&self.root, prefix, Arc::clone(&self.told));
        blocking(move || {
            let mut result = ListResult { common_prefixes: Vec::new(), objects: Vec::new() };
            while let Some(entry) = walk.next_entry() {
                match entry? {
                    Entry::Object(object) => result.objects.push(object),
                    Entry::Directory(location, _) => result.common_prefixes.push(location),
                }
            }
            result.common_prefixes.sort();
            Ok(result)
        })
        .await
    }
}

/// What is below a directory and no object, as nothing of kafscale has such a name. Blocks.
pub fn strangers(root: &FsPath, prefix: &Path) -> Result<Vec<PathBuf>> {
    let told = Arc::default();
    let mut walk = Walk::new(root, Some(prefix), Arc::clone(&told));
    walk.try_for_each(|entry| entry.map(drop))?;
    let mut found: Vec<PathBuf> = told.lock().drain().collect();
    found.sort();
    Ok(found)
}

enum Entry {
    Object(ObjectMeta),
    /// With the directories that it and those above it are.
    Directory(Path, Open),
}

/// A directory that is being read.
struct Open {
    location: Path,
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
    entries: ReadDir,
}

/// Goes through a directory and all below it.
struct Walk {
    open: Vec<Open>,
    /// The directories above.
    above: Vec<(u64, u64)>,
    failed: Option<object_store::Error>,
    told: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Walk {
    fn new(root: &FsPath, prefix: Option<&Path>, told: Arc<Mutex<HashSet<PathBuf>>>) -> Walk {
        let location = prefix.cloned().unwrap_or_default();
        let mut path = root.to_owned();
        let mut above = Vec::new();
        for part in location.parts() {
            above.extend(fs::metadata(&path).ok().map(|found| (found.dev(), found.ino())));
            path.push(part.as_ref());
        }
        let (open, failed) = match Open::at(location, &path) {
            Ok(open) => (open.into_iter().collect(), None),
            Err(e) => (Vec::new(), Some(io_error(e, "list", &path))),
        };
        Walk { open, above, failed, told }
    }

    /// The next file or directory of the innermost one that is open.
    fn next_entry(&mut self) -> Option<Result<Entry>> {
        if let Some(failed) = self.failed.take() {
            return Some(Err(failed));
        }
        loop {
            let open = self.open.last_mut()?;
            let entry = match open.entries.next()? {
                Ok(entry) => entry,
                Err(e) => return Some(Err(io_error(e, "list", &open.path))),
            };
            let path = entry.path();
            let Some(location) = child(&open.location, &entry.file_name()) else {
                self.leave_alone(path, "no object can have this name");
                continue;
            };
            match self.look(location, &path) {
                Ok(Some(entry)) => return Some(Ok(entry)),
                Ok(None) => {}
                // It was deleted meanwhile.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Some(Err(io_error(e, "list", &path))),
            }
        }
    }

    fn look(&self, location: Path, path: &FsPath) -> io::Result<Option<Entry>> {
        let metadata = match fs::metadata(path) {
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                self.leave_alone(path.to_owned(), "the link leads to itself");
                return Ok(None);
            }
            found => found?,
        };
        if metadata.is_dir() {
            let id = (metadata.dev(), metadata.ino());
            if self.above.contains(&id) || self.open.iter().any(|open| open.id == id) {
                self.leave_alone(path.to_owned(), "the link leads to a directory above it");
                return Ok(None);
            }
            let open = Open::at(location.clone(), path)?;
            return Ok(open.map(|open| Entry::Directory(location, open)));
        }
        if !metadata.is_file() || is_staged(&location) {
            return Ok(None);
        }
        let (last_modified, size) = (metadata.modified()?.into(), metadata.len());
        Ok(Some(Entry::Object(ObjectMeta { location, last_modified, size, e_tag: None, version: None })))
    }

    /// Tells once of what is left alone.
    fn leave_alone(&self, path: PathBuf, why: &str) {
        let mut told = self.told.lock();
        if told.len() < TOLD_MAX && !told.contains(&path) {
            tracing::warn!(?path, why, "left alone: it is not of kafscale");
            told.insert(path);
        }
    }
}

impl Iterator for Walk {
    type Item = Result<ObjectMeta>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_entry() {
                Some(Ok(Entry::Object(object))) => return Some(Ok(object)),
                Some(Ok(Entry::Directory(_, open))) => self.open.push(open),
                Some(Err(e)) => return Some(Err(e)),
                None => _ = self.open.pop()?,
            }
        }
    }
}

impl Open {
    /// `None` where there is no such directory.
    fn at(location: Path, path: &FsPath) -> io::Result<Option<Open>> {
        let read = fs::metadata(path).and_then(|found| Ok((found, fs::read_dir(path)?)));
        match read {
            Ok((found, entries)) => {
                let id = (found.dev(), found.ino());
                Ok(Some(Open { location, path: path.to_owned(), id, entries }))
            }
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn child(location: &Path, name: &OsStr) -> Option<Path> {
    let name = name.to_str()?;
    let path = match location.as_ref() {
        "" => Path::parse(name),
        above => Path::parse(format!("{above}/{name}")),
    };
    path.ok()
}

/// Names with `#` and a number are of objects that are being put.
fn is_staged(location: &Path) -> bool {
    let number = location.filename().and_then(|name| name.split_once('#')).map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use futures_util::TryStreamExt;

    use super::*;

    fn put(path: PathBuf) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "123").unwrap();
    }

    async fn listed(lister: &Lister, prefix: Option<&Path>) -> Vec<String> {
        let found: Vec<ObjectMeta> = lister.list(prefix).try_collect().await.unwrap();
        assert!(found.iter().all(|object| object.size == 3));
        let mut names: Vec<_> = found.into_iter().map(|object| object.location.to_string()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn what_no_object_can_be_is_left_alone_and_hides_nothing() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = dir.path();
        for at in ["topics/a/1", "topics/b/c/2", "topics/z/3", "top", "topics/put#7"] {
            put(root.join(at));
        }
        put(other.path().join("4"));
        symlink(other.path(), root.join("topics/linked")).unwrap();
        let strange = root.join("topics").join(OsStr::from_bytes(b"\xff\xfe"));
        put(strange.join("x.kfs"));
        put(root.join("topics/b").join(OsStr::from_bytes(b"\xff.kfs")));
        symlink("..", root.join("topics/loop")).unwrap();
        symlink("self", root.join("topics/self")).unwrap();
        symlink("nowhere", root.join("topics/dangling")).unwrap();
        let lister = Lister::new(root);
        let below = ["topics/a/1", "topics/b/c/2", "topics/linked/4", "topics/z/3"];
        for _ in 0..2 {
            assert_eq!(listed(&lister, Some(&Path::from("topics"))).await, below);
        }
        let all: Vec<&str> = ["top"].into_iter().chain(below).collect();
        assert_eq!(listed(&lister, None).await, all);
        assert_eq!(listed(&lister, Some(&Path::from("topics/b"))).await, ["topics/b/c/2"]);
        for nothing in ["none", "top", "topics/a/1"] {
            assert!(listed(&lister, Some(&Path::from(nothing))).await.is_empty());
        }
        let ListResult { common_prefixes, objects } =
            lister.list_with_delimiter(Some(&Path::from("topics"))).await.unwrap();
        let prefixes: Vec<_> = common_prefixes.iter().map(Path::as_ref).collect();
        assert_eq!(prefixes, ["topics/a", "topics/b", "topics/linked", "topics/z"]);
        assert!(objects.is_empty());
        let found = strangers(root, &Path::from("topics")).unwrap();
        assert!(found.contains(&strange) && found.len() == 4, "{found:?}");
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..CHUNK + 10 {
            put(dir.path().join(format!("d/{i}")));
        }
        let lister = Lister::new(dir.path());
        assert_eq!(listed(&lister, None).await.len(), CHUNK + 10);
        let long = "x".repeat(300);
        let prefix = Path::from(long.as_str());
        assert!(lister.list(Some(&prefix)).try_collect::<Vec<_>>().await.is_err(), "too long a name");
    }
}
