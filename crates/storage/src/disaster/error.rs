//! Why metadata is not rebuilt. Texts are for a person, and say what to do.

use kafscale_meta::Error as MetaError;
use object_store::path::Path;

use super::local::LocalError;
use super::snapshot::SnapshotError;
use crate::log::identity::{IdError, IdentityError};
use crate::log::objects::footers::FootersError;
use crate::segment::SegmentError;
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(
        "the metadata store has this cluster already, with topics or committed offsets. Restoring is for an empty one; with --replace, what is \
         there is lost"
    )]
    Exists,
    #[error("there are live brokers in it ({0}): stop them, or wait until their sessions have run out")]
    LiveBrokers(String),
    #[error("another restore began meanwhile, and goes on")]
    Overtaken,
    #[error("{0}. Restore again; brokers do not start before it has succeeded")]
    CutOff(#[source] MetaError),
    #[error("there is nothing in the store: neither a snapshot nor records")]
    Nothing,
    #[error("{0} was deleted while it was looked at; restore again")]
    Vanished(Path),
    #[error(
        "identity.json says that the store has the id {said}, and no snapshot of the metadata is of it: {left_out}. Either was put here from \
         another store: take it away, and restore again. Without identity.json, its id is taken from the write-ahead files or the snapshots; \
         without snapshots, settings, groups and committed offsets are lost. Nothing was changed"
    )]
    OtherSnapshots { said: String, left_out: String },
    /// Which partitions of a lost object go back, and how far, only that object knows: a person decides.
    #[error(
        "{object} is lost ({why}). It holds acknowledged records of broker {node_id}: put it back from a copy or an earlier version. Without \
         one, --accept-loss restores everything else, and says what is lost"
    )]
    LostObject { object: Path, why: String, node_id: i32 },
    #[error(transparent)]
    Local(#[from] LocalError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Chain(#[from] FootersError),
    /// A chain was not sealed, or not listed.
    #[error("{0}")]
    Seal(String),
    #[error("{object}: {source}")]
    Segment { object: String, source: SegmentError },
    #[error("{object}: {why}")]
    Object { object: String, why: String },
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Meta(#[from] MetaError),
}

impl From<object_store::Error> for RestoreError {
    fn from(error: object_store::Error) -> RestoreError {
        RestoreError::Store(error.into())
    }
}
