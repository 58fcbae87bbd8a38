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
    Describe(oneshot::Sender<Result<GroupView, GroupError>>),
    Delete(oneshot::Sender<Result<(), GroupError>>),
    /// Look for offsets whose retention is over.
    Expire,
    #[cfg(test)]
    Panic,
}

impl Command {
    /// Answers with an error.
    pub fn refuse(self, error: GroupError) {
        // An asker that is gone needs no answer.
        match self {
            Command::Join(request, reply) => {
                let _ = reply.send(JoinReply { member_id: request.member_id, result: Err(error) });
            }
            Command::Sync(_, reply) => drop(reply.send(Err(error))),
            Command::Heartbeat(_, reply) | Command::Commit { reply, .. } | Command::Delete(reply) => {
                let _ = reply.send(Err(error));
            }
            Command::Leave(_, reply) => drop(reply.send(Err(error))),
            Command::DeleteOffsets { reply, .. } => drop(reply.send(Err(error))),
            Command::Describe(reply) => drop(reply.send(Err(error))),
            Command::Expire => {}
            #[cfg(test)]
            Command::Panic => {}
        }
    }
}

pub(super) type DeletedOffsets = Result<Vec<Result<(), GroupError>>, GroupError>;
