//! JoinGroup: who may join, who gets an id first, and which joins start a rebalance.

use super::event::{Effect, GroupError, JoinReply, JoinRequest, Joined, JoinedMember, Protocol};
use super::ids::{MemberId, Token};
use super::members::{MEMBER_BYTES, Member, weight_bytes};
use super::{Group, GroupState, Turn};

const REASON_MAX_BYTES: usize = 255;
/// Protocols of one member. Clients offer a few, and each takes far more memory than it takes in a request.
const PROTOCOLS_MAX: usize = 1000;

/// So much of a client's id is a part of its member's: that must be short enough for every version of every answer.
const CLIENT_ID_MAX_BYTES: usize = 249;

impl Group {
    pub(super) fn join(&mut self, token: Token, mut request: JoinRequest, turn: &mut Turn) {
        let sessions = self.config.min_session_timeout_ms..=self.config.max_session_timeout_ms;
        if !sessions.contains(&request.session_timeout_ms) {
            return refuse(token, request.member_id, GroupError::InvalidSessionTimeout, turn);
        }
        if self.state == GroupState::Dead {
            return refuse(token, request.member_id, GroupError::CoordinatorNotAvailable, turn);
        }
        keep_first_of_each_name(&mut request.protocols);
        if request.protocols.len() > PROTOCOLS_MAX {
            return refuse(token, request.member_id, GroupError::InconsistentProtocol, turn);
        }
        if !self.accepts_member(&request.member_id) {
            self.remove_member(&request.member_id, turn);
            refuse(token, MemberId::unknown(), GroupError::MaxSizeReached, turn);
            return self.maybe_complete_join(turn);
        }
        if !self.supports(&request) {
            return refuse(token, request.member_id, GroupError::InconsistentProtocol, turn);
        }
        if request.member_id.is_unknown() {
            self.join_unknown(token, request, turn);
        } else if self.pending_joins.contains(&request.member_id) {
            self.join_pending(token, request, turn);
        } else {
            self.join_known(token, request, turn);
        }
    }

    /// Whether the group has room. In a rebalance the members that already joined count, so that a group which is too
    /// large sheds those that come last.
    fn accepts_member(&self, id: &MemberId) -> bool {
        let member = self.members.get(id);
        match self.state {
            GroupState::Empty | GroupState::Dead => true,
            GroupState::PreparingRebalance => {
                member.is_some_and(|m| m.awaiting_join.is_some())
                    || self.members.awaiting_join() < self.config.max_size
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                member.is_some() || self.members.len() < self.config.max_size
            }
        }
    }

    fn supports(&self, request: &JoinRequest) -> bool {
        if self.state == GroupState::Empty {
            return !request.protocol_type.is_empty() && !request.protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(request.protocol_type.as_str())
            && self.members.support_any(request.protocols.iter().map(|p| p.name.as_str()))
    }

    fn join_unknown(&mut self, token: Token, request: JoinRequest, turn: &mut Turn) {
        if let Some(instance) = request.instance_id.clone() {
            let new_id = MemberId::from(format!("{instance}-{}", request.uuid));
            return match self.members.instance(&instance).cloned() {
                Some(old_id) => self.replace_static(token, request, &old_id, new_id, turn),
                None => self.add_member(token, request, new_id, turn),
            };
        }
        let client_id = &request.client_id[..request.client_id.floor_char_boundary(CLIENT_ID_MAX_BYTES)];
        let new_id = MemberId::from(format!("{client_id}-{}", request.uuid));
        if !request.requires_known_member_id {
            return self.add_member(token, request, new_id, turn);
        }
        if self.pending_joins.len() >= self.config.max_pending_members {
            return refuse(token, MemberId::unknown(), GroupError::MaxSizeReached, turn);
        }
        let deadline_ms = turn.now_ms + i64::from(request.session_timeout_ms);
        self.pending_joins.insert(new_id.clone(), deadline_ms);
        refuse(token, new_id, GroupError::MemberIdRequired, turn);
    }

    fn join_pending(&mut self, token: Token, request: JoinRequest, turn: &mut Turn) {
        if request.instance_id.is_some() {
            // A static member is never told to come back, so this id is not its own.
            return refuse(token, request.member_id, GroupError::UnknownMember, turn);
        }
        let id = request.member_id.clone();
        self.add_member(token, request, id, turn);
    }

    fn join_known(&mut self, token: Token, request: JoinRequest, turn: &mut Turn) {
        let id = request.member_id.clone();
        if let Err(error) = self.members.check(&id, request.instance_id.as_ref()) {
            return refuse(token, id, error, turn);
        }
        let Some(member) = self.members.get(&id) else {
            return refuse(token, id, GroupError::UnknownMember, turn);
        };
        let same_metadata = member.protocols == request.protocols;
        let client_reason = client_reason(&request);
        let state = self.state.name();
        match self.state {
            GroupState::Empty | GroupState::Dead => refuse(token, id, GroupError::UnknownMember, turn),
            GroupState::PreparingRebalance => {
                let reason = format!("member {id} joins during {state}; {client_reason}");
                self.rejoin(token, request, reason, turn);
            }
            // The member did not get the answer to its join: say it again.
            GroupState::CompletingRebalance if same_metadata => self.repeat_join_reply(token, id, true, turn),
            // A leader rejoins to have partitions assigned anew, for example after a topic has grown.
            GroupState::Stable if self.is_leader(&id) => {
                let reason = format!("leader {id} joins again during {state}; {client_reason}");
                self.rejoin(token, request, reason, turn);
            }
            GroupState::Stable if same_metadata => self.repeat_join_reply(token, id, false, turn),
            GroupState::CompletingRebalance | GroupState::Stable => {
                let reason = format!("member {id} changed its metadata during {state}; {client_reason}");
                self.rejoin(token, request, reason, turn);
            }
        }
    }

    fn add_member(&mut self, token: Token, request: JoinRequest, id: MemberId, turn: &mut Turn) {
        let initial =
            self.state == GroupState::PreparingRebalance && self.previous_state == GroupState::Empty;
        if initial {
            self.new_member_added = true;
        }
        let instance = request.instance_id.as_ref().map_or("none", |i| i.as_str());
        let reason = format!("new member {id}, instance {instance}; {}", client_reason(&request));
        if self.members.is_empty() {
            self.protocol_type = Some(request.protocol_type);
        }
        if self.leader.is_none() {
            self.leader = Some(id.clone());
        }
        self.pending_joins.remove(&id);
        self.members.insert(Member {
            id,
            instance_id: request.instance_id,
            client_id: request.client_id,
            client_host: request.client_host,
            session_timeout_ms: request.session_timeout_ms,
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            protocols: request.protocols,
            assignment: Default::default(),
            // A client that loses its connection while it waits comes back as another new member. The old ones must go.
            session_deadline_ms: Some(turn.now_ms + self.config.new_member_join_timeout_ms),
            awaiting_join: Some(token),
            awaiting_sync: None,
            is_new: true,
            owes_sync: false,
        });
        self.rebalance_or_complete(&reason, turn);
    }

    fn rejoin(&mut self, token: Token, request: JoinRequest, reason: String, turn: &mut Turn) {
        self.update_member(token, request, turn);
        self.rebalance_or_complete(&reason, turn);
    }

    /// Takes over what the member says of itself, and parks its join.
    pub(super) fn update_member(&mut self, token: Token, request: JoinRequest, turn: &mut Turn) {
        self.members.set_protocols(&request.member_id, request.protocols);
        let replaced = self.members.update(&request.member_id, |member| {
            member.session_timeout_ms = request.session_timeout_ms;
            member.rebalance_timeout_ms = request.rebalance_timeout_ms;
            member.awaiting_join.replace(token)
        });
        if let Some(replaced) = replaced.flatten() {
            refuse(replaced, request.member_id, GroupError::RebalanceInProgress, turn);
        }
    }

    fn repeat_join_reply(&self, token: Token, id: MemberId, with_members: bool, turn: &mut Turn) {
        let members = if with_members && self.is_leader(&id) { self.joined_members() } else { Vec::new() };
        self.accept_join(token, id, members, turn);
    }

    pub(super) fn accept_join(
        &self,
        token: Token,
        id: MemberId,
        members: Vec<JoinedMember>,
        turn: &mut Turn,
    ) {
        let joined = Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            leader: self.leader.clone().unwrap_or_else(MemberId::unknown),
            members,
            skip_assignment: false,
        };
        turn.effects
            .push(Effect::ReplyJoin { token, reply: JoinReply { member_id: id, result: Ok(joined) } });
    }

    /// The members as the leader gets to see them.
    pub(super) fn joined_members(&self) -> Vec<JoinedMember> {
        let protocol = self.protocol_name.as_deref().unwrap_or_default();
        let joined = |m: &Member| JoinedMember {
            member_id: m.id.clone(),
            instance_id: m.instance_id.clone(),
            metadata: m.metadata(protocol),
        };
        self.members.iter().map(joined).collect()
    }
}

pub(super) fn refuse(token: Token, member_id: MemberId, error: GroupError, turn: &mut Turn) {
    turn.effects.push(Effect::ReplyJoin { token, reply: JoinReply::error(member_id, error) });
}

/// Why a client says that it joins or leaves, as long as KIP-800 lets it be.
pub(super) fn reason_of_client(reason: Option<&str>) -> &str {
    let reason = reason.unwrap_or("not provided");
    &reason[..reason.floor_char_boundary(REASON_MAX_BYTES)]
}

pub(super) fn client_reason(request: &JoinRequest) -> String {
    format!("client reason: {}", reason_of_client(request.reason.as_deref()))
}

impl JoinRequest {
    /// What the member will take in memory, about.
    pub fn weight_bytes(&self) -> usize {
        let instance = self.instance_id.as_ref().map_or(0, |id| id.as_str().len());
        weight_bytes(&self.protocols) + self.client_id.len() + instance + MEMBER_BYTES
    }
}

/// A name counts once however often a member lists it: the votes are counted by name.
fn keep_first_of_each_name(protocols: &mut Vec<Protocol>) {
    let mut seen = std::collections::HashSet::new();
    protocols.retain(|p| seen.insert(p.name.clone()));
}
