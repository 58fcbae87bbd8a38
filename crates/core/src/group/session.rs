//! Sessions: heartbeats, and what the passing of time does to a group.

use super::event::{GroupError, MemberIdentity};
use super::ids::MemberId;
use super::{Group, GroupState, Turn};

/// What a deadline was for.
enum Due {
    Session(MemberId),
    PendingJoin(MemberId),
    JoinPhase,
    SyncPhase,
}

impl Group {
    pub(super) fn heartbeat(&mut self, identity: &MemberIdentity, now_ms: i64) -> Result<(), GroupError> {
        if self.state == GroupState::Dead {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        self.check_identity(identity)?;
        match self.state {
            GroupState::Empty | GroupState::Dead => Err(GroupError::UnknownMember),
            GroupState::PreparingRebalance => {
                self.restart_session(&identity.member_id, now_ms);
                Err(GroupError::RebalanceInProgress)
            }
            // Clients heartbeat as soon as their join is answered, before the assignment is there.
            GroupState::CompletingRebalance | GroupState::Stable => {
                self.restart_session(&identity.member_id, now_ms);
                Ok(())
            }
        }
    }

    pub(super) fn check_identity(&self, identity: &MemberIdentity) -> Result<(), GroupError> {
        self.members.check(&identity.member_id, identity.instance_id.as_ref())?;
        if identity.generation == self.generation { Ok(()) } else { Err(GroupError::IllegalGeneration) }
    }

    pub(super) fn restart_session(&mut self, id: &MemberId, now_ms: i64) {
        self.members.update(id, |member| {
            member.session_deadline_ms = Some(now_ms + i64::from(member.session_timeout_ms));
        });
    }

    /// Acts on every deadline that has passed, the earliest first.
    pub(super) fn tick(&mut self, turn: &mut Turn) {
        while let Some(due) = self.next_due(turn.now_ms) {
            match due {
                Due::Session(id) => self.session_timed_out(&id, turn),
                Due::PendingJoin(id) => {
                    self.pending_joins.remove(&id);
                    if self.state == GroupState::PreparingRebalance && self.all_joined() {
                        self.complete_join(turn);
                    }
                }
                Due::JoinPhase => {
                    if let Some(timer) = self.join_timer.take() {
                        self.join_phase_timed_out(timer, turn);
                    }
                }
                Due::SyncPhase => {
                    self.sync_deadline_ms = None;
                    self.sync_phase_timed_out(turn);
                }
            }
        }
    }

    fn next_due(&self, now_ms: i64) -> Option<Due> {
        let session = self.members.first_deadline().map(|(at_ms, id)| (at_ms, Due::Session(id.clone())));
        let pending = self.pending_joins.first_deadline();
        let pending = pending.map(|(at_ms, id)| (at_ms, Due::PendingJoin(id.clone())));
        let join = self.join_timer.map(|timer| (timer.deadline_ms, Due::JoinPhase));
        let sync = self.sync_deadline_ms.map(|at| (at, Due::SyncPhase));
        let due = [session, pending, join, sync].into_iter().flatten().filter(|(at, _)| *at <= now_ms);
        due.min_by_key(|(at, _)| *at).map(|(_, due)| due)
    }

    fn session_timed_out(&mut self, id: &MemberId, turn: &mut Turn) {
        let is_alive = self.members.update(id, |member| {
            member.session_deadline_ms = None;
            member.satisfies_session()
        });
        if is_alive == Some(false) {
            self.remove_and_rebalance(id, &format!("session of member {id} timed out"), turn);
        }
    }

    fn remove_and_rebalance(&mut self, id: &MemberId, reason: &str, turn: &mut Turn) {
        self.remove_member(id, turn);
        match self.state {
            GroupState::Stable | GroupState::CompletingRebalance => self.rebalance_or_complete(reason, turn),
            GroupState::PreparingRebalance if self.all_joined() => self.complete_join(turn),
            GroupState::PreparingRebalance | GroupState::Empty | GroupState::Dead => {}
        }
    }
}
