//! What goes into a group and what comes out: requests, replies, effects and errors, in the domain's words.
//!
//! The broker's edge maps these to Kafka messages and error codes.

use bytes::Bytes;
use uuid::Uuid;

use super::ids::{Generation, InstanceId, MemberId, PersistId, Token};
use super::snapshot::GroupSnapshot;

/// Why a group refuses a request. Each has exactly one Kafka error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum GroupError {
    #[error("the coordinator cannot serve the group now")]
    CoordinatorNotAvailable,
    #[error("this broker no longer coordinates the group")]
    NotCoordinator,
    #[error("the coordinator is reading the group, try again")]
    Loading,
    #[error("the group id is not valid")]
    InvalidGroupId,
    #[error("the member id is not known in this group")]
    UnknownMember,
    #[error("the request is of another generation of the group")]
    IllegalGeneration,
    #[error("the group is rebalancing, join again")]
    RebalanceInProgress,
    #[error("the protocol does not agree with that of the group's members")]
    InconsistentProtocol,
    #[error("another member has taken over this group instance id")]
    FencedInstance,
    #[error("join again with the member id that was given")]
    MemberIdRequired,
    #[error("the session timeout is out of the allowed range")]
    InvalidSessionTimeout,
    #[error("the group has as many members as are allowed")]
    MaxSizeReached,
    #[error("the group has members")]
    NonEmpty,
    #[error("there is no such group")]
    NotFound,
    #[error("the group is subscribed to the topic")]
    SubscribedToTopic,
    #[error("the members' metadata and assignments are too large to be kept")]
    TooLarge,
    #[error("the committed offsets would take more than they may")]
    OffsetsTooLarge,
}

/// How a write failed, as far as a group needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PersistError {
    /// The store could not be reached or the outcome is not known; the members shall try again.
    Retry,
    /// Another broker coordinates the group now.
    Fenced,
    /// The snapshot is larger than the store takes.
    TooLarge,
}

impl PersistError {
    pub(super) fn as_group_error(self) -> GroupError {
        match self {
            PersistError::Retry => GroupError::CoordinatorNotAvailable,
            PersistError::Fenced => GroupError::NotCoordinator,
            PersistError::TooLarge => GroupError::TooLarge,
        }
    }
}

/// One of the protocols (assignors) that a member offers, with its opaque metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    pub name: String,
    pub metadata: Bytes,
}

#[derive(Debug, Clone)]
pub struct JoinRequest {
    pub member_id: MemberId,
    pub instance_id: Option<InstanceId>,
    pub client_id: String,
    pub client_host: String,
    /// Becomes the end of a new member id. Chosen at random by the caller.
    pub uuid: Uuid,
    pub session_timeout_ms: i32,
    /// Version 0 has no field for it: the edge gives the session timeout there.
    pub rebalance_timeout_ms: i32,
    pub protocol_type: String,
    /// In the member's order of preference.
    pub protocols: Vec<Protocol>,
    /// Version 4 and above: a dynamic member must come back with the id it was given (KIP-394).
    pub requires_known_member_id: bool,
    /// Version 9 and above: a leader can be told to keep the assignment (KIP-814).
    pub supports_skip_assignment: bool,
    /// Why the client joins (KIP-800); only ever shown to people.
    pub reason: Option<String>,
}

#[derive(Debug, Clone)]
pub struct SyncRequest {
    pub member_id: MemberId,
    pub instance_id: Option<InstanceId>,
    pub generation: Generation,
    /// Version 5 and above; checked when given (KIP-559).
    pub protocol_type: Option<String>,
    pub protocol_name: Option<String>,
    /// Only the leader sends assignments.
    pub assignments: Vec<(MemberId, Bytes)>,
}

/// Who sends a Heartbeat or an OffsetCommit.
#[derive(Debug, Clone)]
pub struct MemberIdentity {
    pub member_id: MemberId,
    pub instance_id: Option<InstanceId>,
    pub generation: Generation,
}

#[derive(Debug, Clone)]
pub struct LeavingMember {
    /// Unknown when an administrator removes a static member by its instance id.
    pub member_id: MemberId,
    pub instance_id: Option<InstanceId>,
    pub reason: Option<String>,
}

#[derive(Debug, Clone)]
pub enum Event {
    Join {
        token: Token,
        request: JoinRequest,
    },
    Sync {
        token: Token,
        request: SyncRequest,
    },
    Heartbeat {
        token: Token,
        identity: MemberIdentity,
    },
    Leave {
        token: Token,
        members: Vec<LeavingMember>,
    },
    /// The outcome of an earlier [`Effect::Persist`], reported in the order of the ids.
    Persisted {
        id: PersistId,
        outcome: Result<(), PersistError>,
    },
    /// A deadline may have passed.
    Tick,
    /// This broker stops coordinating the group, or the group was deleted: answer everyone and be dead.
    Unload,
}

/// A member as the leader sees it, to compute the assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedMember {
    pub member_id: MemberId,
    pub instance_id: Option<InstanceId>,
    pub metadata: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    pub generation: Generation,
    pub protocol_type: Option<String>,
    pub protocol_name: Option<String>,
    pub leader: MemberId,
    /// Only the leader learns who the members are.
    pub members: Vec<JoinedMember>,
    pub skip_assignment: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinReply {
    /// Also set on errors: with [`GroupError::MemberIdRequired`] it is the id to come back with.
    pub member_id: MemberId,
    pub result: Result<Joined, GroupError>,
}

impl JoinReply {
    pub(super) fn error(member_id: MemberId, error: GroupError) -> JoinReply {
        JoinReply { member_id, result: Err(error) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    pub protocol_type: Option<String>,
    pub protocol_name: Option<String>,
    pub assignment: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftMember {
    pub member_id: MemberId,
    pub instance_id: Option<InstanceId>,
    pub result: Result<(), GroupError>,
}

/// What the driver must do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    ReplyJoin {
        token: Token,
        reply: JoinReply,
    },
    ReplySync {
        token: Token,
        result: Result<Synced, GroupError>,
    },
    ReplyHeartbeat {
        token: Token,
        result: Result<(), GroupError>,
    },
    ReplyLeave {
        token: Token,
        result: Result<Vec<LeftMember>, GroupError>,
    },
    /// Write the snapshot and report with [`Event::Persisted`]. A snapshot is the whole group, so a driver that is
    /// still busy with an earlier one may write only the newest, and report its outcome for all that it replaces.
    Persist {
        id: PersistId,
        snapshot: GroupSnapshot,
    },
    /// A rebalance began; for the log.
    RebalanceStarted {
        generation: Generation,
        reason: String,
    },
}
