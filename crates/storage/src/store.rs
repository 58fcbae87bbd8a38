//! Opens the object store, and says in few words what its errors mean.
//!
//! A local directory is given the guarantee that an object store has by itself: what was put is durable when the put
//! returns, and is there whole or not at all (see [`durable`]).

mod durable;

use std::io;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::StoreUrl;
pub use durable::DurableLocal;

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
}

impl From<object_store::Error> for StoreError {
    fn from(source: object_store::Error) -> StoreError {
        StoreError { kind: kind_of(&source), source: Arc::new(source) }
    }
}

fn kind_of(error: &object_store::Error) -> StoreErrorKind {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => StoreErrorKind::NotFound,
        E::AlreadyExists { .. } | E::Precondition { .. } => StoreErrorKind::Exists,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => StoreErrorKind::Denied,
        // Clients of remote stores retry by themselves what is worth it; what then comes out names no cause. The
        // local store's errors have an `io::Error` somewhere below.
        other => io_kind(other).map_or(StoreErrorKind::Internal, kind_of_io),
    }
}

fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
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

/// Opens the store; creates the directory of a local one. The caller holds the directory's lock.
pub fn open_store(url: &StoreUrl) -> Result<Arc<dyn ObjectStore>, StoreError> {
    match url {
        StoreUrl::Memory => Ok(Arc::new(InMemory::new())),
        StoreUrl::File(directory) => Ok(Arc::new(DurableLocal::open(directory)?)),
    }
}
