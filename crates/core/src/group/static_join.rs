//! A static member that comes back without its member id (KIP-345): it takes over the place of the old id.
//!
//! In a stable group this needs no rebalance, only a write of the new id. Until the write is known to have succeeded the
//! join waits; when it failed the old id is put back.

use super::event::{Effect, GroupError, JoinReply, JoinRequest, Joined, PersistError, Protocol};
use super::ids::{Generation, InstanceId, MemberId, Token};
use super::join::client_reason;
use super::{Group, GroupState, PendingWrite, Turn};

/// What must be answered or undone once the write of the new member id is done.
#[derive(Debug)]
pub(super) struct StaticRejoin {
    token: Token,
    instance: InstanceId,
    old_id: MemberId,
    new_id: MemberId,
    old_protocols: Vec<Protocol>,
    old_session_timeout_ms: i32,
    old_rebalance_timeout_ms: i32,
    generation: Generation,
    leader_before: Option<MemberId>,
    supports_skip_assignment: bool,
}

impl Group {
    pub(super) fn replace_static(
        &mut self,
        token: Token,
        mut request: JoinRequest,
        old_id: &MemberId,
        new_id: MemberId,
        turn: &mut Turn,
    ) {
        let leader_before = self.leader.clone();
        self.fence_waiting(old_id, turn);
        let Some(old) = self.members.get(old_id) else { return };
        let pending = StaticRejoin {
            token,
            instance: request.instance_id.clone().unwrap_or_else(|| InstanceId::from("")),
            old_id: old_id.clone(),
            new_id: new_id.clone(),
            old_protocols: old.protocols.clone(),
            old_session_timeout_ms: old.session_timeout_ms,
            old_rebalance_timeout_ms: old.rebalance_timeout_ms,
            generation: self.generation,
            leader_before,
            supports_skip_assignment: request.supports_skip_assignment,
        };
        let reason =
            format!("static member {} came back as {new_id}; {}", pending.instance, client_reason(&request));
        self.rename_member(old_id, &new_id);
        self.restart_session(&new_id, turn.now_ms);
        request.member_id = new_id;
        self.update_member(token, request, turn);
        match self.state {
            GroupState::Stable if self.members.select_protocol() == self.protocol_name => {
                let snapshot = self.snapshot();
                self.persist(snapshot, PendingWrite::StaticRejoin(pending), turn);
            }
            // The leader may be assigning to the old id just now, so the new one would get nothing: start over.
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(&reason, turn),
            GroupState::PreparingRebalance => self.maybe_complete_join(turn),
            GroupState::Empty | GroupState::Dead => unreachable!("such a group has no static members"),
        }
    }

    /// Whoever still waits under the old id is a duplicate instance and must shut down.
    fn fence_waiting(&mut self, old_id: &MemberId, turn: &mut Turn) {
        let waiting = self.members.update(old_id, |old| {
            old.is_new = false;
            (old.awaiting_join.take(), old.awaiting_sync.take())
        });
        let (join, sync) = waiting.unwrap_or_default();
        if let Some(token) = join {
            let reply = JoinReply::error(old_id.clone(), GroupError::FencedInstance);
            turn.effects.push(Effect::ReplyJoin { token, reply });
        }
        if let Some(token) = sync {
            turn.effects.push(Effect::ReplySync { token, result: Err(GroupError::FencedInstance) });
        }
    }

    fn rename_member(&mut self, old_id: &MemberId, new_id: &MemberId) {
        self.members.rename(old_id, new_id);
        if self.is_leader(old_id) {
            self.leader = Some(new_id.clone());
        }
    }

    pub(super) fn static_rejoin_persisted(
        &mut self,
        pending: StaticRejoin,
        outcome: Result<(), PersistError>,
        turn: &mut Turn,
    ) {
        // Someone else may have taken the instance over, or a rebalance may have begun, which will answer the join.
        let still_waits =
            self.members.get(&pending.new_id).is_some_and(|m| m.awaiting_join == Some(pending.token));
        if !still_waits || self.state != GroupState::Stable || self.generation != pending.generation {
            return;
        }
        self.members.update(&pending.new_id, |member| member.awaiting_join = None);
        let reply = match outcome {
            Ok(()) => {
                self.restart_session(&pending.new_id, turn.now_ms);
                self.static_rejoin_reply(&pending)
            }
            Err(error) => {
                self.members.set_protocols(&pending.new_id, pending.old_protocols);
                self.members.update(&pending.new_id, |member| {
                    member.session_timeout_ms = pending.old_session_timeout_ms;
                    member.rebalance_timeout_ms = pending.old_rebalance_timeout_ms;
                });
                self.rename_member(&pending.new_id, &pending.old_id);
                self.restart_session(&pending.old_id, turn.now_ms);
                JoinReply::error(MemberId::unknown(), error.as_group_error())
            }
        };
        turn.effects.push(Effect::ReplyJoin { token: pending.token, reply });
    }

    /// A leader that came back must not assign: in a stable group its assignment would reach nobody. It is told so,
    /// or, when its version has no words for that, told the old leader's id, which is not its own.
    fn static_rejoin_reply(&self, pending: &StaticRejoin) -> JoinReply {
        let skip_assignment = pending.supports_skip_assignment && self.is_leader(&pending.new_id);
        let leader = if pending.supports_skip_assignment {
            self.leader.clone()
        } else {
            pending.leader_before.clone()
        };
        let joined = Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            leader: leader.unwrap_or_else(MemberId::unknown),
            members: if skip_assignment { self.joined_members() } else { Vec::new() },
            skip_assignment,
        };
        JoinReply { member_id: pending.new_id.clone(), result: Ok(joined) }
    }
}
