//! A local directory as an object store whose puts survive a power cut.
//!
//! The `object_store` crate's local store renames or links a finished file into place, but syncs nothing: after a power
//! cut an object that was put may be empty, short or gone. Here a put writes to a staging file, syncs it, moves it into
//! place and syncs the directory, in this order. So an object is whole whenever its name exists, and its name stays once
//! the put has returned. That is two syncs for a put, and one more for each directory that it creates.
//!
//! A file cannot be moved to another file system, and an operator may have put `topics` on a larger one. What goes there is staged
//! there.
//!
//! Deletes are not synced: an object that was deleted may come back after a power cut. Directories that a delete leaves
//! empty are removed with it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSlice};
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::{Mutex, RwLock};

use super::listing::Lister;
use super::looking::read_ranges;
use crate::buffers::Buffers;
use crate::log::pace::Pace;
use crate::unlinked::free_gradually;
use crate::vectored::write_all_vectored;

/// Files that are not objects yet. Names with `#` and a number are never listed as objects.
const STAGING: &str = ".staging";

/// How often a put creates its directory anew when deletes keep removing it.
const PLACE_ATTEMPTS: usize = 16;

#[derive(Debug)]
pub struct DurableLocal {
    inner: LocalFileSystem,
    lister: Lister,
    staging: Arc<Staging>,
    buffers: Arc<Buffers>,
}

#[derive(Debug)]
struct Staging {
    root: PathBuf,
    directory: PathBuf,
    pace: Arc<Pace>,
    next: AtomicU64,
    /// Top-level directories that are on another file system: a link or a mount. What goes there is staged there.
    elsewhere: Mutex<HashMap<PathBuf, PathBuf>>,
    /// Held for writing while directories are created, until they are durable: who puts an object into a directory that
    /// another put has just created must not return before that directory is sure to stay.
    directories: RwLock<()>,
}

impl std::fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Durable{}", self.inner)
    }
}

pub(super) fn io_error(source: io::Error, action: &'static str, path: &FsPath) -> Error {
    let kind = source.kind();
    let path = path.display().to_string();
    let source = Box::new(Failed { action, path: path.clone(), source });
    match kind {
        ErrorKind::NotFound => Error::NotFound { path, source },
        ErrorKind::AlreadyExists => Error::AlreadyExists { path, source },
        _ => Error::Generic { store: "local", source },
    }
}

/// What was tried, so that an operator knows which file to look at.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}")]
struct Failed {
    action: &'static str,
    path: String,
    source: io::Error,
}

impl DurableLocal {
    /// Opens a directory, which is created when it is missing, and clears away what unfinished puts left in it.
    pub fn open(directory: &FsPath, pace: Arc<Pace>) -> Result<DurableLocal> {
        create_dirs(directory).map_err(|e| io_error(e, "create", directory))?;
        let inner = LocalFileSystem::new_with_prefix(directory)?.with_automatic_cleanup(true);
        let staging = inner.path_to_filesystem(&Path::from(STAGING))?;
        match fs::remove_dir_all(&staging) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(io_error(e, "clear", &staging)),
            Ok(()) | Err(_) => {}
        }
        create_dirs(&staging).map_err(|e| io_error(e, "create", &staging))?;
        let (next, directories) = (AtomicU64::new(0), RwLock::new(()));
        let elsewhere = Mutex::default();
        let staging = Staging {
            root: staging.parent().expect("it is below the root").to_owned(),
            directory: staging,
            pace,
            next,
            elsewhere,
            directories,
        };
        Ok(DurableLocal {
            inner,
            lister: Lister::new(directory),
            staging: Arc::new(staging),
            buffers: Arc::default(),
        })
    }
}

impl Staging {
    fn put(&self, target: &FsPath, payload: &PutPayload, mode: &PutMode) -> Result<()> {
        let top = self.top_of(target);
        let known = top.as_ref().and_then(|top| self.elsewhere.lock().get(top).cloned());
        let put =
            match (self.put_through(known.as_ref().unwrap_or(&self.directory), target, payload, mode), top) {
                (Err((e, _)), Some(top)) if e.kind() == ErrorKind::CrossesDevices && known.is_none() => {
                    let staging = self.stage_below(top).map_err(|(e, path)| io_error(e, "create", &path))?;
                    self.put_through(&staging, target, payload, mode)
                }
                (put, _) => put,
            };
        put.map_err(|(e, path)| io_error(e, if path == target { "create" } else { "write" }, &path))
    }

    fn put_through(
        &self,
        directory: &FsPath,
        target: &FsPath,
        payload: &PutPayload,
        mode: &PutMode,
    ) -> Result<(), (io::Error, PathBuf)> {
        let staged = directory.join(format!("put#{}", self.next.fetch_add(1, Ordering::Relaxed)));
        let placed = write_synced(&staged, payload, &self.pace)
            .map_err(|e| (e, staged.clone()))
            .and_then(|()| self.place(&staged, target, mode).map_err(|e| (e, target.to_owned())));
        // A rename took the staging file away; a link, or a failure, left it.
        if placed.is_err() || matches!(mode, PutMode::Create) {
            let _ = fs::remove_file(&staged);
        }
        placed
    }

    /// The directory in the root that a file below it is in.
    fn top_of(&self, target: &FsPath) -> Option<PathBuf> {
        let below = target.strip_prefix(&self.root).ok()?;
        let is_below_it = below.components().nth(1).is_some();
        is_below_it.then(|| self.root.join(below.components().next().expect("it has two")))
    }

    /// Stages below this directory from now on, whose file system is another one, and clears away what unfinished puts left there.
    fn stage_below(&self, top: PathBuf) -> Result<PathBuf, (io::Error, PathBuf)> {
        let mut elsewhere = self.elsewhere.lock();
        if let Some(staging) = elsewhere.get(&top) {
            return Ok(staging.clone());
        }
        let staging = top.join(STAGING);
        match fs::remove_dir_all(&staging) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err((e, staging)),
            Ok(()) | Err(_) => {}
        }
        create_dirs(&staging).map_err(|e| (e, staging.clone()))?;
        tracing::info!(directory = ?top, "on a file system of its own: objects are staged there");
        elsewhere.insert(top, staging.clone());
        Ok(staging)
    }

    fn place(&self, staged: &FsPath, target: &FsPath, mode: &PutMode) -> io::Result<()> {
        let parent = target.parent().unwrap_or(target);
        for _ in 0..PLACE_ATTEMPTS {
            match self.move_to(staged, target, mode) {
                // A delete may remove the directory, or one above it, as often as it finds it empty.
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    let _creating = self.directories.write();
                    match create_dirs(parent) {
                        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                        Ok(()) | Err(_) => {}
                    }
                }
                Err(e) => return Err(e),
                Ok(()) => return sync_directory(parent),
            }
        }
        Err(ErrorKind::ResourceBusy.into())
    }

    fn move_to(&self, staged: &FsPath, target: &FsPath, mode: &PutMode) -> io::Result<()> {
        let _using = self.directories.read();
        match mode {
            PutMode::Create => fs::hard_link(staged, target),
            PutMode::Overwrite | PutMode::Update(_) => fs::rename(staged, target),
        }
    }
}

/// Writes a file a stretch at a time, each on the disk before the next: an append, which goes to the same disk, waits for one stretch
/// and not for all of them.
fn write_synced(path: &FsPath, payload: &PutPayload, pace: &Pace) -> io::Result<()> {
    let file = File::options().write(true).create_new(true).open(path)?;
    let mut stretch: Vec<IoSlice<'_>> = Vec::new();
    let (mut stretch_bytes, mut limit) = (0, pace.stretch_bytes());
    let flush = |stretch: &mut Vec<IoSlice<'_>>| {
        let began = Instant::now();
        write_all_vectored(&file, stretch)?;
        file.sync_data()?;
        stretch.clear();
        std::thread::sleep(pace.pause_after(began.elapsed()));
        io::Result::Ok(())
    };
    for mut piece in payload.iter().map(|piece| &piece[..]) {
        while !piece.is_empty() {
            let (now, later) = piece.split_at(piece.len().min(limit - stretch_bytes));
            stretch.push(IoSlice::new(now));
            (piece, stretch_bytes) = (later, stretch_bytes + now.len());
            if stretch_bytes == limit {
                flush(&mut stretch)?;
                (stretch_bytes, limit) = (0, pace.stretch_bytes());
            }
        }
    }
    flush(&mut stretch)
}

fn sync_directory(directory: &FsPath) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Creates a directory and those above it, durably.
fn create_dirs(directory: &FsPath) -> io::Result<()> {
    if directory.as_os_str().is_empty() || directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().unwrap_or(directory);
    create_dirs(parent)?;
    match fs::create_dir(directory) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists && directory.is_dir() => {}
        created => created?,
    }
    sync_directory(if parent.as_os_str().is_empty() { FsPath::new(".") } else { parent })
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if matches!(options.mode, PutMode::Update(_)) || !options.attributes.is_empty() {
            return Err(Error::NotImplemented {
                operation: "`put_opts` with a version or with attributes".into(),
                implementer: self.to_string(),
            });
        }
        let target = self.inner.path_to_filesystem(location)?;
        let staging = Arc::clone(&self.staging);
        blocking(move || staging.put(&target, &payload, &options.mode)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    /// Segments are put whole, so that none is ever seen in parts.
    async fn put_multipart_opts(
        &self,
        _location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "`put_multipart_opts`".into(), implementer: self.to_string() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        read_ranges(&self.inner, &self.buffers, location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let local = self.inner.clone();
        // Opened while it has its name: the space is freed only once that is gone.
        let keep_open = move |location: &Path| {
            let path = local.path_to_filesystem(location);
            if let Some(file) = path.ok().and_then(|path| File::options().write(true).open(path).ok()) {
                free_gradually(Arc::new(file));
            }
        };
        self.inner.delete_stream(locations.inspect_ok(keep_open).boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.lister.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let offset = offset.clone();
        let is_behind = move |object: &ObjectMeta| std::future::ready(object.location > offset);
        self.lister.list(prefix).try_filter(is_behind).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut found = self.lister.list_with_delimiter(prefix).await?;
        found.common_prefixes.retain(|p| p.filename() != Some(STAGING));
        Ok(found)
    }

    /// Nothing copies objects; a copy that is not durable would be a trap.
    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "`copy_opts`".into(), implementer: self.to_string() })
    }
}

#[cfg(test)]
#[path = "durable_tests.rs"]
mod tests;
