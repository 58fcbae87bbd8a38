//! What can go wrong, by what the caller can do about it.

use kafscale_core::ids::Offset;
use kafscale_core::producer::SequenceError;
use kafscale_core::shell::quoted;

/// Why a batch was not appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    #[error("{0}")]
    Sequence(SequenceError),
    /// The disk is full or failing. Nothing was kept, and the producer may retry.
    #[error("the log cannot be written at the moment: {0}")]
    Unavailable(String),
    /// The partition was deleted, moved away, or is being handed over.
    #[error("the partition is not served here any more")]
    Gone,
    /// Another broker ended this one's chain: it owns nothing any more. Whether the batch counts is for the new owner to say.
    #[error("this broker was fenced: its partitions belong to others now")]
    Fenced,
}

/// Why a partition is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// Worth another try.
    #[error("{0}")]
    Retry(String),
    #[error(
        "the log ends at {log_end}, but the write-ahead log goes on at {found}: records between are missing"
    )]
    Gap { log_end: Offset, found: Offset },
    /// It is read, but takes no records.
    #[error("{0}")]
    Held(String),
}

/// Why a partition was not handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// Worth another try; the partition is served on.
    #[error("{0}")]
    Retry(String),
    /// Somebody else wrote the partition's record or ended this broker's chain: abandon it.
    #[error("the partition belongs to another broker")]
    NotOwner,
}

/// Why records cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("offset {offset} is outside {log_start} to {high_watermark}")]
    OutOfRange { offset: Offset, log_start: Offset, high_watermark: Offset },
    /// Worth another try.
    #[error("the log cannot be read at the moment: {0}")]
    Unavailable(String),
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
    #[error("the partition is not served here any more")]
    Gone,
}

impl OpenError {
    /// Whether waiting may mend it: a store that is shared, or this broker's place in the cluster.
    pub fn may_pass(&self) -> bool {
        match self {
            OpenError::Busy(_) | OpenError::Meta(_) | OpenError::Fenced => true,
            OpenError::Identity(identity) => identity.may_pass(),
            OpenError::InUse { .. }
            | OpenError::OtherNode { .. }
            | OpenError::NewerVersion { .. }
            | OpenError::NoVersion { .. }
            | OpenError::Io { .. }
            | OpenError::Wal(_)
            | OpenError::Chain(_)
            | OpenError::Store(_) => false,
        }
    }
}

/// Why the log does not open; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the data directory {path} is in use by another kafscale process; stop that one first")]
    InUse { path: std::path::PathBuf },
    #[error(
        "the data directory {path} has format version {found}, this program knows {known}: use the newer kafscale \
         that wrote it"
    )]
    NewerVersion { path: std::path::PathBuf, found: u32, known: u32 },
    #[error(
        "{path} does not hold the number of a version, as every data directory does: it was damaged, or is no file of kafscale. \
         Put it back from a copy. Without one: every kafscale until now writes {known}, so `echo {known} > {}` does it, where no other \
         program has used the directory", quoted(&path.display().to_string())
    )]
    NoVersion { path: std::path::PathBuf, known: u32 },
    #[error("cannot open the data directory {path}: {error}")]
    Io { path: std::path::PathBuf, error: std::io::Error },
    #[error(transparent)]
    Wal(#[from] crate::wal::recovery::RecoveryError),
    #[error("the log cannot be written: {0}")]
    Chain(#[from] crate::wal::chain::ChainError),
    #[error("the object store cannot be opened: {0}")]
    Store(String),
    /// A store that brokers share does not do what is asked, or not yet.
    #[error("the object store does not take this broker's mark: {0}")]
    Busy(String),
    #[error("the metadata cannot be read: {0}")]
    Meta(String),
    #[error(
        "the data directory {path} has records of the broker with node id {node} that are in no segment yet, and this one has \
         {node_id}: they would be missing. Start it with --node-id {node}; or, if nobody needs those records, move wal/{node} away"
    )]
    OtherNode { path: std::path::PathBuf, node: i32, node_id: i32 },
    #[error(transparent)]
    Identity(#[from] crate::log::identity::IdentityError),
    /// This incarnation has no chain, or somebody sealed it before it began.
    #[error(
        "this broker's registration was taken for dead before its log was opened; start again to register anew"
    )]
    Fenced,
}
