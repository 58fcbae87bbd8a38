//! The one error of this crate: what the caller can do ([`ErrorKind`]) and a sentence for a person.
//!
//! Errors are cheap to clone because one failed group commit answers many transactions.
//! A compare that does not hold is no error: it is [`crate::TxnOutcome::succeeded`] `== false`.

use std::{fmt, sync::Arc};

/// What the caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Try again later. A write may or may not have happened.
    Retry,
    /// There is no room for the write, and it did not happen. Try again after space was freed.
    Full,
    /// The lease that the request names is gone: whoever held it must register anew.
    Fenced,
    /// A watcher fell too far behind: list again, then watch from the revision of the list.
    Compacted,
    /// The store refuses the credentials or the permission is missing. Retrying does not help.
    Denied,
    /// The request itself is wrong: too large, too many operations, a key twice, a bad address.
    Invalid,
    /// This build has no backend of that kind.
    Unsupported,
    /// What is stored cannot be what was written.
    Corrupt,
    /// What is stored was written by a newer release; upgrade this one.
    NewerVersion,
    /// Another process has the data directory open.
    InUse,
    /// A bug or an unforeseen condition; the message says what is known.
    Internal,
}

impl ErrorKind {
    /// Whether the same request may succeed later without anybody changing it.
    pub fn is_retriable(self) -> bool {
        match self {
            Self::Retry | Self::Full => true,
            Self::Fenced
            | Self::Compacted
            | Self::Denied
            | Self::Invalid
            | Self::Unsupported
            | Self::Corrupt
            | Self::NewerVersion
            | Self::InUse
            | Self::Internal => false,
        }
    }
}

/// An operation on the metadata store failed.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    message: Arc<str>,
}

/// The result of an operation on the metadata store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: Arc::from(message.into()) }
    }

    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
