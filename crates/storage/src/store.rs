//! Opens the object store, and says in few words what its errors mean.
//!
//! A local directory is given the guarantee that an object store has by itself: what was put is durable when the put
//! returns, and is there whole or not at all (see [`durable`]).

pub mod backoff;
pub mod counted;
mod deletes;
mod durable;
pub mod listing;
mod looking;
mod memory;
pub mod patient;
pub mod s3;
pub mod verify;

use std::io;
use std::path::Path;
use std::sync::Arc;

use object_store::ObjectStore;

use crate::StoreUrl;
use crate::log::pace::Pace;
pub use durable::DurableLocal;
pub use looking::LookingLocal;

/// What a caller can do about an error of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// Try again, after a while.
    Retry,
    NotFound,
    /// A put that must create found the object there.
    Exists,
    /// The disk or a quota is full: deleting helps, trying again does not.
    Full,
    /// Credentials or permissions are wrong.
    Denied,
    /// Anything else; a person must look at it.
    Internal,
}

/// An error of the object store.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{source}")]
pub struct StoreError {
    kind: StoreErrorKind,
    source: Arc<object_store::Error>,
}

impl StoreError {
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Whether a disk cannot read what it has (EIO).
    pub fn is_bad_sector(&self) -> bool {
        let eio = rustix::io::Errno::IO.raw_os_error();
        io_error(&*self.source).is_some_and(|error| error.raw_os_error() == Some(eio))
    }
}

impl From<object_store::Error> for StoreError {
    fn from(source: object_store::Error) -> StoreError {
        StoreError { kind: kind_of(&source), source: Arc::new(source) }
    }
}

pub(crate) fn kind_of(error: &object_store::Error) -> StoreErrorKind {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => StoreErrorKind::NotFound,
        E::AlreadyExists { .. } | E::Precondition { .. } => StoreErrorKind::Exists,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => StoreErrorKind::Denied,
        // The local store's errors have an `io::Error` somewhere below, those of remote ones an HTTP status or what became
        // of the connection. What cannot be made out may pass; stores without a network fail for good.
        E::Generic { store, .. } if is_local(store) => {
            io_kind(error).map_or(StoreErrorKind::Internal, kind_of_io)
        }
        E::Generic { .. } => match (status_of(error), io_kind(error)) {
            // A certificate that is not trusted, say. Everything else that happens to a connection may pass: it is cut in the middle
            // of an answer, a name is not resolved, a port is closed.
            (None, Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)) => {
                StoreErrorKind::Internal
            }
            (status, _) => kind_of_status(status),
        },
        other => io_kind(other).map_or(StoreErrorKind::Internal, kind_of_io),
    }
}

/// Stores without a network.
fn is_local(store: &str) -> bool {
    matches!(store, "InMemory" | "Memory" | "LocalFileSystem" | "local")
}

/// The HTTP status behind an error. The type that has it is private to object_store; its text is not.
pub fn status_of(error: &object_store::Error) -> Option<u16> {
    let text = error.to_string();
    let (_, after) = text.split_once("status code: ")?;
    after.get(..3)?.parse().ok()
}

fn kind_of_status(status: Option<u16>) -> StoreErrorKind {
    match status {
        None | Some(408 | 409 | 429 | 500..) => StoreErrorKind::Retry,
        Some(401 | 403) => StoreErrorKind::Denied,
        Some(404) => StoreErrorKind::NotFound,
        Some(_) => StoreErrorKind::Internal,
    }
}

fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    io_error(error).map(io::Error::kind)
}

fn io_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        cause = error.source();
    }
    None
}

fn kind_of_io(kind: io::ErrorKind) -> StoreErrorKind {
    use io::ErrorKind as K;
    match kind {
        K::StorageFull | K::QuotaExceeded | K::FileTooLarge => StoreErrorKind::Full,
        K::PermissionDenied | K::ReadOnlyFilesystem => StoreErrorKind::Denied,
        K::Interrupted
        | K::TimedOut
        | K::WouldBlock
        | K::ResourceBusy
        | K::ConnectionRefused
        | K::ConnectionReset
        | K::ConnectionAborted
        | K::BrokenPipe
        | K::NetworkDown
        | K::NetworkUnreachable
        | K::HostUnreachable => StoreErrorKind::Retry,
        _ => StoreErrorKind::Internal,
    }
}

/// A local store for one who only reads: nothing is made there.
pub fn open_to_look(directory: &Path) -> Result<Arc<dyn ObjectStore>, StoreError> {
    Ok(Arc::new(LookingLocal::open(directory)?))
}

/// Opens the store; creates the directory of a local one, which leaves the disk to appends as `pace` says. The caller holds the
/// directory's lock. What comes out fails as the network does: see [`patient`].
pub fn open_store(url: &StoreUrl, pace: &Arc<Pace>) -> Result<Arc<dyn ObjectStore>, StoreError> {
    match url {
        StoreUrl::Memory => Ok(Arc::new(memory::MemoryStore::default())),
        StoreUrl::File(directory) => Ok(Arc::new(DurableLocal::open(directory, Arc::clone(pace))?)),
        StoreUrl::S3(config) => Ok(s3::open(config)?),
        StoreUrl::Shared(store) => Ok(Arc::clone(store)),
    }
}
