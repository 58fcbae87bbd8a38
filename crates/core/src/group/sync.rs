//! SyncGroup: the leader's assignment, its write, and how it reaches the members.

use std::collections::HashMap;

use bytes::Bytes;

use super::event::{Effect, GroupError, PersistError, SyncRequest, Synced};
use super::ids::{Generation, MemberId, Token};
use super::{Group, GroupState, NAMED_MAX, PendingWrite, Turn};

/// The leader's assignment while it is being written.
#[derive(Debug)]
pub(super) struct PendingAssignment {
    generation: Generation,
    by_member: HashMap<MemberId, Bytes>,
}

impl Group {
    pub(super) fn sync(&mut self, token: Token, request: SyncRequest, turn: &mut Turn) {
        if let Err(error) = self.check_sync(&request) {
            return answer_sync(token, Err(error), turn);
        }
        match self.state {
            GroupState::Empty | GroupState::Dead => answer_sync(token, Err(GroupError::UnknownMember), turn),
            GroupState::PreparingRebalance => answer_sync(token, Err(GroupError::RebalanceInProgress), turn),
            GroupState::CompletingRebalance => self.await_assignment(token, request, turn),
            GroupState::Stable => {
                self.settle_sync(&request.member_id);
                let assignment = self.members.get(&request.member_id).map(|m| m.assignment.clone());
                let synced = self.synced(assignment.unwrap_or_default());
                answer_sync(token, Ok(synced), turn);
            }
        }
    }

    fn check_sync(&self, request: &SyncRequest) -> Result<(), GroupError> {
        if self.state == GroupState::Dead {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        self.members.check(&request.member_id, request.instance_id.as_ref())?;
        if request.generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        let differs = |given: &Option<String>, own: &Option<String>| given.is_some() && given != own;
        if differs(&request.protocol_type, &self.protocol_type)
            || differs(&request.protocol_name, &self.protocol_name)
        {
            return Err(GroupError::InconsistentProtocol);
        }
        Ok(())
    }

    fn await_assignment(&mut self, token: Token, request: SyncRequest, turn: &mut Turn) {
        self.settle_sync(&request.member_id);
        let replaced = self.members.update(&request.member_id, |member| member.awaiting_sync.replace(token));
        if let Some(replaced) = replaced.flatten() {
            answer_sync(replaced, Err(GroupError::RebalanceInProgress), turn);
        }
        // A leader that repeats its request while the first is being written must not change the assignment.
        if !self.is_leader(&request.member_id) || self.writes_assignment() {
            return;
        }
        let by_member: HashMap<MemberId, Bytes> =
            request.assignments.into_iter().filter(|(id, _)| self.members.contains(id)).collect();
        let snapshot = self.snapshot_with(&by_member, turn.now_ms);
        let pending = PendingAssignment { generation: self.generation, by_member };
        self.persist(snapshot, PendingWrite::Assignment(pending), turn);
    }

    fn writes_assignment(&self) -> bool {
        let current =
            |w: &PendingWrite| matches!(w, PendingWrite::Assignment(a) if a.generation == self.generation);
        self.pending_writes.values().any(current)
    }

    pub(super) fn assignment_persisted(
        &mut self,
        mut pending: PendingAssignment,
        outcome: Result<(), PersistError>,
        turn: &mut Turn,
    ) {
        // A join may have begun another rebalance meanwhile, which has told the members to come back.
        if self.state != GroupState::CompletingRebalance || self.generation != pending.generation {
            return;
        }
        if let Err(error) = outcome {
            self.fail_syncs(error.as_group_error(), turn);
            return self.rebalance_or_complete("the assignment could not be written", turn);
        }
        self.members.update_all(|member| {
            member.assignment = pending.by_member.remove(&member.id).unwrap_or_default();
        });
        self.transition(GroupState::Stable, turn.now_ms);
        for id in self.members.ids() {
            let waiting = self.members.update(&id, |m| (m.awaiting_sync.take(), m.assignment.clone()));
            let Some((Some(token), assignment)) = waiting else { continue };
            // Its session may have run out while it waited.
            self.restart_session(&id, turn.now_ms);
            answer_sync(token, Ok(self.synced(assignment)), turn);
        }
    }

    /// Takes all assignments back and sends the waiting members away.
    pub(super) fn fail_syncs(&mut self, error: GroupError, turn: &mut Turn) {
        for id in self.members.ids() {
            let waiting = self.members.update(&id, |member| {
                member.assignment = Bytes::new();
                member.awaiting_sync.take()
            });
            if let Some(token) = waiting.flatten() {
                self.restart_session(&id, turn.now_ms);
                answer_sync(token, Err(error), turn);
            }
        }
    }

    /// The rebalance timeout has passed since the joins were answered: whoever has not synced is out.
    pub(super) fn sync_phase_timed_out(&mut self, turn: &mut Turn) {
        let late: Vec<MemberId> = self.members.iter().filter(|m| m.owes_sync).map(|m| m.id.clone()).collect();
        if late.is_empty() || !matches!(self.state, GroupState::CompletingRebalance | GroupState::Stable) {
            return;
        }
        for id in &late {
            self.remove_member(id, turn);
        }
        let names: Vec<&str> = late.iter().take(NAMED_MAX).map(MemberId::as_str).collect();
        let more = late.len() - names.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let reason = format!("members did not sync in time: {}{more}", names.join(", "));
        self.prepare_rebalance(&reason, turn);
    }

    pub(super) fn forgive_syncs(&mut self) {
        self.sync_deadline_ms = None;
        self.members.update_all(|member| member.owes_sync = false);
    }

    fn settle_sync(&mut self, id: &MemberId) {
        self.members.update(id, |member| member.owes_sync = false);
        if self.members.all_synced() {
            self.sync_deadline_ms = None;
        }
    }

    fn synced(&self, assignment: Bytes) -> Synced {
        Synced {
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            assignment,
        }
    }
}

fn answer_sync(token: Token, result: Result<Synced, GroupError>, turn: &mut Turn) {
    turn.effects.push(Effect::ReplySync { token, result });
}
