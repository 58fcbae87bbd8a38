//! The place below which files are read: a directory, or a prefix in a bucket. It lists, and it reads a stretch of a file.
//!
//! Invariant: nothing outside is opened. A directory is held open, and each path is resolved below it by the kernel
//! (openat2, RESOLVE_BENEATH) every time that it is opened; where there is no such call, no symbolic link is followed at all.
//!
//! Invariant: a file is read as it was listed, or not at all: each reading compares its version.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use kafscale_settings::s3::process_variables;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path as ObjectPath;
use object_store::{ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use serde_json::{Value, json};

use super::pattern::{MAX_PARTS, Pattern, is_hidden};

/// Entries of directories that are looked at for one table.
const MAX_LOOKED_AT: usize = 1_000_000;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why files cannot be read. Paths are below the root.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("the directory {} cannot be opened: {source}", path.display())]
    NoRoot { path: PathBuf, source: io::Error },
    #[error("{path} cannot be read: {source}")]
    Unreadable { path: String, source: io::Error },
    #[error("{path} is not below the root, or is no regular file")]
    Outside { path: String },
    #[error("the bucket: {0}")]
    Store(#[from] object_store::Error),
    #[error("{path} has changed since it was listed")]
    Changed { path: String },
    #[error("the table has more than {most} files")]
    TooMany { most: usize },
    #[error("the table has more than {most} bytes")]
    TooLarge { most: u64 },
    #[error("more than {MAX_LOOKED_AT} entries of directories would have to be looked at")]
    TooWide,
    #[error("{path} is damaged: {why}")]
    Damaged { path: String, why: String },
    #[error("{one} and {other} cannot be one table: {why}")]
    Different { one: String, other: String, why: String },
    #[error("the table has no files")]
    NoFiles,
}

/// A file as it was when it was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Below the root, its parts separated by `/`.
    pub path: String,
    pub bytes: u64,
    pub version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// With its device, so that another file system in its place is another file.
    Inode {
        device: u64,
        inode: u64,
        modified_ns: i128,
    },
    Object {
        etag: Option<String>,
        modified_ms: i64,
    },
}

impl FileEntry {
    /// For the provenance of an answer.
    pub fn told(&self) -> Value {
        let FileEntry { path, bytes, version } = self;
        match version {
            Version::Inode { modified_ns, .. } => {
                let modified_us = i64::try_from(modified_ns / 1_000).unwrap_or(i64::MAX);
                json!({ "path": path, "bytes": bytes, "modified_us": modified_us })
            }
            Version::Object { etag, modified_ms } => {
                json!({ "path": path, "bytes": bytes, "etag": etag, "modified_ms": modified_ms })
            }
        }
    }
}

/// See the file's comment.
#[derive(Debug)]
pub enum Root {
    Directory { held: Arc<OwnedFd>, path: PathBuf },
    Bucket { store: Arc<dyn ObjectStore>, prefix: ObjectPath, told: String },
}

/// How a bucket is reached.
#[derive(Debug, Clone, Default)]
pub struct BucketOptions {
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub virtual_host: bool,
    /// Its id and its secret.
    pub key: Option<(String, crate::secret::Secret)>,
}

impl Root {
    pub fn directory(path: &Path) -> Result<Root, FileError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let held = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| FileError::NoRoot { path: path.to_owned(), source: e.into() })?;
        Ok(Root::Directory { held: Arc::new(held), path: path.to_owned() })
    }

    /// A bucket and what all paths in it begin with. Nothing is asked of the server yet.
    pub fn bucket(bucket: &str, prefix: &str, options: &BucketOptions) -> Result<Root, FileError> {
        let mut builder = AmazonS3Builder::new();
        for (name, value) in process_variables().filter(|(name, _)| name.starts_with("AWS_")) {
            if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
                builder = builder.with_config(key, value);
            }
        }
        let client = ClientOptions::new().with_timeout(REQUEST_TIMEOUT).with_connect_timeout(CONNECT_TIMEOUT);
        builder = builder
            // An address without TLS is only ever one that somebody wrote down.
            .with_client_options(client.with_allow_http(true))
            .with_bucket_name(bucket)
            .with_virtual_hosted_style_request(options.virtual_host);
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
        }
        if let Some(region) = &options.region {
            builder = builder.with_region(region);
        }
        if let Some((id, secret)) = &options.key {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret.expose());
        }
        let prefix = ObjectPath::parse(prefix).map_err(object_store::Error::from)?;
        let told = format!("s3://{bucket}/{prefix}");
        Ok(Root::Bucket { store: Arc::new(builder.build()?), prefix, told })
    }

    pub fn told(&self) -> String {
        match self {
            Root::Directory { path, .. } => path.display().to_string(),
            Root::Bucket { told, .. } => told.clone(),
        }
    }

    /// The files that match, in the order of their paths.
    pub async fn list(&self, pattern: &Pattern, most: usize) -> Result<Vec<FileEntry>, FileError> {
        let mut found = match self {
            Root::Directory { held, .. } => {
                let (held, pattern) = (Arc::clone(held), pattern.clone());
                let listed = tokio::task::spawn_blocking(move || list_directory(&held, &pattern, most));
                listed.await.map_err(|e| unreadable("", io::Error::other(e)))??
            }
            Root::Bucket { store, prefix, .. } => list_bucket(&**store, prefix, pattern, most).await?,
        };
        found.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(found)
    }

    /// What is directly below the root: files, and directories, which end in `/`.
    pub async fn top(&self, most: usize) -> Result<Vec<String>, FileError> {
        match self {
            Root::Directory { held, .. } => {
                let held = Arc::clone(held);
                let listed = tokio::task::spawn_blocking(move || top_of_directory(&held, most));
                listed.await.map_err(|e| unreadable("", io::Error::other(e)))?
            }
            Root::Bucket { store, prefix, .. } => {
                let listed = store.list_with_delimiter(Some(prefix)).await?;
                let files = listed.objects.iter().filter_map(|found| below(prefix, &found.location));
                let directories = listed.common_prefixes.iter().filter_map(|path| below(prefix, path));
                let all = files.chain(directories.map(|name| name + "/"));
                let mut names: Vec<String> = all.filter(|name| !is_hidden(name)).take(most + 1).collect();
                names.sort();
                if names.len() > most { Err(FileError::TooMany { most }) } else { Ok(names) }
            }
        }
    }

    /// A stretch of a file, which may end before `end` only where the file does.
    pub async fn read(&self, file: &FileEntry, start: u64, end: u64) -> Result<Bytes, FileError> {
        let end = end.min(file.bytes);
        if start >= end {
            return Ok(Bytes::new());
        }
        match self {
            Root::Directory { held, .. } => {
                let (held, file) = (Arc::clone(held), file.clone());
                let read = tokio::task::spawn_blocking(move || read_file(&held, &file, start, end));
                read.await.map_err(|e| unreadable("", io::Error::other(e)))?
            }
            Root::Bucket { store, prefix, .. } => read_object(&**store, prefix, file, start, end).await,
        }
    }
}

fn unreadable(path: &str, source: io::Error) -> FileError {
    FileError::Unreadable { path: path.to_owned(), source }
}

/// Opens what is at a path below the root.
fn open_below(root: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, FileError> {
    // Or opening a pipe waits for who writes. What is only looked at is not opened.
    let without_waiting = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = flags | OFlags::CLOEXEC;
    let flags = if flags.contains(OFlags::PATH) { flags } else { flags | without_waiting };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let opened =
        rustix::fs::openat2(root, if path.is_empty() { "." } else { path }, flags, Mode::empty(), resolve);
    match opened {
        Ok(opened) => Ok(opened),
        // Kernels and sandboxes without that call.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => open_step_by_step(root, path, flags),
        Err(rustix::io::Errno::XDEV | rustix::io::Errno::LOOP) => {
            Err(FileError::Outside { path: path.to_owned() })
        }
        Err(error) => Err(unreadable(path, error.into())),
    }
}

/// Follows no symbolic link.
fn open_step_by_step(root: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, FileError> {
    let failed = |error: rustix::io::Errno| match error {
        rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR => FileError::Outside { path: path.to_owned() },
        error => unreadable(path, error.into()),
    };
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut at = rustix::fs::openat(root, ".", directory, Mode::empty()).map_err(failed)?;
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    if names.iter().any(|name| matches!(*name, "." | "..")) {
        return Err(FileError::Outside { path: path.to_owned() });
    }
    for (place, name) in names.iter().enumerate() {
        let is_last = place + 1 == names.len();
        let flags = if is_last { flags | OFlags::NOFOLLOW } else { directory };
        at = rustix::fs::openat(&at, *name, flags, Mode::empty()).map_err(failed)?;
    }
    Ok(at)
}

fn entry(path: String, found: &Stat) -> FileEntry {
    let modified_ns = i128::from(found.st_mtime) * 1_000_000_000 + i128::from(found.st_mtime_nsec);
    let version = Version::Inode { device: found.st_dev, inode: found.st_ino, modified_ns };
    FileEntry { path, bytes: u64::try_from(found.st_size).unwrap_or(0), version }
}

fn read_file(root: &OwnedFd, file: &FileEntry, start: u64, end: u64) -> Result<Bytes, FileError> {
    let failed = |error: io::Error| unreadable(&file.path, error);
    let opened = open_below(root, &file.path, OFlags::RDONLY)?;
    let check = |opened: &std::fs::File| {
        let found = rustix::fs::fstat(opened).map_err(|e| failed(e.into()))?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(FileError::Outside { path: file.path.clone() });
        }
        match entry(file.path.clone(), &found) == *file {
            true => Ok(()),
            false => Err(FileError::Changed { path: file.path.clone() }),
        }
    };
    let opened = std::fs::File::from(opened);
    check(&opened)?;
    let length = usize::try_from(end - start).map_err(|e| failed(io::Error::other(e)))?;
    let mut bytes = vec![0; length];
    match opened.read_exact_at(&mut bytes, start) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(FileError::Changed { path: file.path.clone() });
        }
        Err(error) => return Err(failed(error)),
    }
    // It may have been written to meanwhile.
    check(&opened)?;
    Ok(bytes.into())
}

/// Names in a directory, and whether each is known to be a directory.
fn names(root: &OwnedFd, directory: &str, most: usize) -> Result<Vec<(String, FileType)>, FileError> {
    let failed = |error: rustix::io::Errno| unreadable(directory, error.into());
    let opened = open_below(root, directory, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut names = Vec::new();
    for found in Dir::read_from(opened.as_fd()).map_err(failed)? {
        let found = found.map_err(failed)?;
        // Names that are no text cannot be written in a pattern or a statement.
        let Ok(name) = found.file_name().to_str() else { continue };
        if name == "." || name == ".." {
            continue;
        }
        if names.len() >= most {
            return Err(FileError::TooWide);
        }
        names.push((name.to_owned(), found.file_type()));
    }
    Ok(names)
}

fn list_directory(root: &OwnedFd, pattern: &Pattern, most: usize) -> Result<Vec<FileEntry>, FileError> {
    let mut found = Vec::new();
    let mut directories = vec![pattern.fixed_directory()];
    let mut looked_at = 0;
    while let Some(directory) = directories.pop() {
        let names = match names(root, &directory, MAX_LOOKED_AT - looked_at) {
            Ok(names) => names,
            // It is gone, or never was.
            Err(FileError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        looked_at += names.len();
        for (name, kind) in names {
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            let may_be_directory = matches!(kind, FileType::Directory | FileType::Unknown);
            if may_be_directory && path.split('/').count() < MAX_PARTS && pattern.may_be_below(&path) {
                directories.push(path.clone());
            }
            if kind != FileType::Directory && pattern.matches(&path) {
                found.extend(stat_below(root, path)?);
            }
            if found.len() > most {
                return Err(FileError::TooMany { most });
            }
        }
    }
    Ok(found)
}

/// None: it is no regular file, or not below the root.
fn stat_below(root: &OwnedFd, path: String) -> Result<Option<FileEntry>, FileError> {
    match open_below(root, &path, OFlags::PATH) {
        Ok(opened) => {
            let found = rustix::fs::statat(&opened, "", AtFlags::EMPTY_PATH)
                .map_err(|e| unreadable(&path, e.into()))?;
            let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
            Ok(is_file.then(|| entry(path, &found)))
        }
        Err(FileError::Outside { path }) => {
            tracing::warn!(path, "a symbolic link leads out of the collection's root: it is not read");
            Ok(None)
        }
        Err(FileError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn top_of_directory(root: &OwnedFd, most: usize) -> Result<Vec<String>, FileError> {
    let mut top = Vec::new();
    for (name, kind) in names(root, "", MAX_LOOKED_AT)? {
        if is_hidden(&name) {
            continue;
        }
        match kind {
            FileType::Directory => top.push(name + "/"),
            _ => top.extend(stat_below(root, name)?.map(|found| found.path)),
        }
        if top.len() > most {
            return Err(FileError::TooMany { most });
        }
    }
    top.sort();
    Ok(top)
}

fn below(prefix: &ObjectPath, path: &ObjectPath) -> Option<String> {
    let parts: Vec<_> = path.prefix_match(prefix)?.map(|part| part.as_ref().to_owned()).collect();
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn object_entry(prefix: &ObjectPath, found: &ObjectMeta) -> Option<FileEntry> {
    let path = below(prefix, &found.location)?;
    let version =
        Version::Object { etag: found.e_tag.clone(), modified_ms: found.last_modified.timestamp_millis() };
    Some(FileEntry { path, bytes: found.size, version })
}

/// Servers without entity tags have the size and the time. Headers tell whole seconds; some servers, such as
/// MinIO, list parts of a second too.
fn is_as_listed(read: &FileEntry, listed: &FileEntry) -> bool {
    let same_version = match (&read.version, &listed.version) {
        (Version::Object { etag: Some(read), .. }, Version::Object { etag: Some(listed), .. }) => {
            read == listed
        }
        (Version::Object { modified_ms: read, .. }, Version::Object { modified_ms: listed, .. }) => {
            read.div_euclid(1_000) == listed.div_euclid(1_000)
        }
        (Version::Inode { .. }, _) | (_, Version::Inode { .. }) => false,
    };
    same_version && read.path == listed.path && read.bytes == listed.bytes
}

async fn list_bucket(
    store: &dyn ObjectStore,
    prefix: &ObjectPath,
    pattern: &Pattern,
    most: usize,
) -> Result<Vec<FileEntry>, FileError> {
    let fixed = pattern.fixed_directory();
    let place =
        fixed.split('/').filter(|part| !part.is_empty()).fold(prefix.clone(), |at, part| at.join(part));
    let mut listed = store.list(Some(&place));
    let (mut found, mut looked_at) = (Vec::new(), 0);
    while let Some(object) = listed.next().await {
        looked_at += 1;
        if looked_at > MAX_LOOKED_AT {
            return Err(FileError::TooWide);
        }
        found.extend(object_entry(prefix, &object?).filter(|entry| pattern.matches(&entry.path)));
        if found.len() > most {
            return Err(FileError::TooMany { most });
        }
    }
    Ok(found)
}

async fn read_object(
    store: &dyn ObjectStore,
    prefix: &ObjectPath,
    file: &FileEntry,
    start: u64,
    end: u64,
) -> Result<Bytes, FileError> {
    let changed = || FileError::Changed { path: file.path.clone() };
    let place = file.path.split('/').fold(prefix.clone(), |at, part| at.join(part));
    let etag = match &file.version {
        Version::Object { etag, .. } => etag.clone(),
        Version::Inode { .. } => None,
    };
    let options =
        GetOptions { if_match: etag, range: Some(GetRange::Bounded(start..end)), ..GetOptions::default() };
    let answer = match store.get_opts(&place, options).await {
        Ok(answer) => answer,
        Err(object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. }) => {
            return Err(changed());
        }
        Err(error) => return Err(error.into()),
    };
    if object_entry(prefix, &answer.meta).is_none_or(|read| !is_as_listed(&read, file)) {
        return Err(changed());
    }
    let bytes = answer.bytes().await?;
    if bytes.len() as u64 == end - start { Ok(bytes) } else { Err(changed()) }
}
