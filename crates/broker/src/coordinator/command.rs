//! What the task of a group can be asked.

use kafscale_core::group::{
    GroupError, GroupView, JoinReply, JoinRequest, LeavingMember, LeftMember, MemberIdentity, SyncRequest,
    Synced,
};
use tokio::sync::oneshot;

use super::{NamedPartition, PartitionCommit};

/// A request with the way back. An asker that is gone is not told.
#[derive(Debug)]
pub(super) enum Command {
    Join(Box<JoinRequest>, oneshot::Sender<JoinReply>),
    Sync(Box<SyncRequest>, oneshot::Sender<Result<Synced, GroupError>>),
    Heartbeat(MemberIdentity, oneshot::Sender<Result<(), GroupError>>),
    Leave(Vec<LeavingMember>, oneshot::Sender<Result<Vec<LeftMember>, GroupError>>),
    Commit {
        identity: MemberIdentity,
        commits: Vec<PartitionCommit>,
        reply: oneshot::Sender<Result<(), GroupError>>,
    },
    DeleteOffsets {
        partitions: Vec<NamedPartition>,
        reply: oneshot::Sender<DeletedOffsets>,
    },
    Describe(oneshot::Sender<GroupView>),
    Delete(oneshot::Sender<Result<(), GroupError>>),
    /// Look for offsets whose retention is over.
    Expire,
    #[cfg(test)]
    Panic,
}

pub(super) type DeletedOffsets = Result<Vec<Result<(), GroupError>>, GroupError>;
