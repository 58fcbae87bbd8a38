//! What can go wrong, by what the caller can do about it.

use kafscale_core::ids::Offset;
use kafscale_core::producer::SequenceError;

/// Why a batch was not appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    #[error("{0}")]
    Sequence(SequenceError),
    /// The disk is full or failing. Nothing was kept, and the producer may retry.
    #[error("the log cannot be written at the moment: {0}")]
    Unavailable(String),
    /// The partition was deleted or moved away.
    #[error("the partition is not served here any more")]
    Gone,
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

/// Why the log does not open; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the data directory {path} is in use by another kafscale process; stop that one or choose another --data-dir"
    )]
    InUse { path: std::path::PathBuf },
    #[error(
        "the data directory {path} has format version {found}, this program knows {known}: use the newer kafscale \
         that wrote it"
    )]
    NewerVersion { path: std::path::PathBuf, found: u32, known: u32 },
    #[error("cannot open the data directory {path}: {error}")]
    Io { path: std::path::PathBuf, error: std::io::Error },
    #[error(transparent)]
    Wal(#[from] crate::wal::recovery::RecoveryError),
    #[error(
        "partition {partition}: the log ends at {log_end}, but the write-ahead log goes on at {found}: records between are missing"
    )]
    Gap { partition: String, log_end: Offset, found: Offset },
    #[error("the log cannot be written: {0}")]
    Chain(#[from] crate::wal::chain::ChainError),
    #[error("metadata cannot be read: {0}")]
    Metadata(String),
    #[error("the object store cannot be opened: {0}")]
    Store(String),
}
