//! Why the log cannot be read without a broker, by what the caller can do about it.

use std::path::PathBuf;
use std::sync::Arc;

use kafscale_core::ids::Offset;

use crate::log::identity::IdentityError;
use crate::segment::SegmentError;
use crate::store::{StoreError, StoreErrorKind};

/// What the caller can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScanErrorKind {
    /// Ask again: a store is away, or the log was rewritten faster than it was read.
    Retry,
    /// There is no such topic or partition.
    NotFound,
    /// What was asked for was there once: retention, DeleteRecords, log cleaning or a topic's deletion took it away.
    Gone,
    /// Stored data is damaged or missing. What stands before and behind it can be asked for by offset.
    Corrupt,
    /// The store and the metadata do not belong together, or permissions are missing: a person has to look.
    Refused,
}

/// Why a scan does not go on.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("there is no topic {0}")]
    NoTopic(String),
    #[error("the topic {topic} has no partition {partition}")]
    NoPartition { topic: String, partition: i32 },
    #[error("the topic {topic} was deleted while it was read")]
    TopicGone { topic: String },
    /// Retention, or DeleteRecords.
    #[error(
        "partition {partition} of {topic} begins at offset {log_start} now: the records from offset {offset} on were deleted"
    )]
    Removed { topic: String, partition: i32, offset: Offset, log_start: Offset },
    #[error("partition {partition} of {topic} ends at offset {log_end}: there is no offset {offset} yet")]
    BeyondEnd { topic: String, partition: i32, offset: Offset, log_end: Offset },
    #[error(
        "the log of partition {partition} of {topic} was cleaned from offset {offset} on while it was read: records of the snapshot were \
         superseded and are gone. Ask again for the present ones"
    )]
    Cleaned { topic: String, partition: i32, offset: Offset },
    #[error(
        "partition {partition} of {topic} ends at offset {log_end}, but the write-ahead log goes on at {found}: records between are missing"
    )]
    Gap { topic: String, partition: i32, log_end: Offset, found: Offset },
    /// The records from `first` to `last` cannot be read.
    #[error("{object} is damaged at byte {position}, which concerns the offsets {first} to {last}: {why}")]
    Damaged { object: Arc<str>, position: u64, first: Offset, last: Offset, why: String },
    /// An object or a file is missing, or is not what it must be.
    #[error("the write-ahead log: {0}")]
    Wal(String),
    #[error("the write-ahead log cannot be listed at the moment: {0}")]
    Unavailable(String),
    #[error(
        "partition {partition} of {topic} at offset {offset}: the log is rewritten faster than it is read; {why}"
    )]
    Busy { topic: String, partition: i32, offset: Offset, why: String },
    #[error("the store {place}: {source}")]
    Store { place: String, source: StoreError },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the metadata: {0}")]
    Meta(#[from] kafscale_meta::Error),
    /// The store and the metadata are those of different clusters.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("a log in memory is for its own process only: give a directory or a bucket")]
    Memory,
}

impl ScanError {
    pub fn kind(&self) -> ScanErrorKind {
        match self {
            ScanError::NoTopic(_) | ScanError::NoPartition { .. } | ScanError::BeyondEnd { .. } => {
                ScanErrorKind::NotFound
            }
            ScanError::TopicGone { .. } | ScanError::Removed { .. } | ScanError::Cleaned { .. } => {
                ScanErrorKind::Gone
            }
            ScanError::Gap { .. } | ScanError::Damaged { .. } | ScanError::Wal(_) => ScanErrorKind::Corrupt,
            ScanError::Busy { .. } | ScanError::Unavailable(_) => ScanErrorKind::Retry,
            ScanError::Store { source, .. } => match source.kind() {
                StoreErrorKind::Retry | StoreErrorKind::NotFound => ScanErrorKind::Retry,
                StoreErrorKind::Exists
                | StoreErrorKind::Full
                | StoreErrorKind::Denied
                | StoreErrorKind::Internal => ScanErrorKind::Refused,
            },
            ScanError::Meta(source) => match source.kind() {
                kafscale_meta::ErrorKind::Retry | kafscale_meta::ErrorKind::Compacted => ScanErrorKind::Retry,
                _ => ScanErrorKind::Refused,
            },
            ScanError::Identity(source) if source.may_pass() => ScanErrorKind::Retry,
            ScanError::Io { .. } | ScanError::Identity(_) | ScanError::Memory => ScanErrorKind::Refused,
        }
    }
}

/// What one step of a scan ran into.
#[derive(Debug)]
pub(super) enum Step {
    /// An object or a file is gone or was used again: what it held stands elsewhere now, as metadata says.
    Moved(String),
    Failed(ScanError),
}

impl From<ScanError> for Step {
    fn from(error: ScanError) -> Step {
        Step::Failed(error)
    }
}

impl Step {
    pub fn of_segment(error: SegmentError) -> Step {
        match error {
            e if e.is_not_found() => Step::Moved(e.to_string()),
            SegmentError::Corrupt { object, position, first, last, why } => {
                Step::Failed(ScanError::Damaged { object, position, first, last, why })
            }
            SegmentError::Store(source) => {
                Step::Failed(ScanError::Store { place: "a segment".to_owned(), source })
            }
        }
    }
}
