//! The join phase of a rebalance: when it begins, how long it waits, and what happens when it ends.

use super::event::{Effect, GroupError};
use super::ids::{MemberId, Token};
use super::members::Member;
use super::{Group, GroupState, PendingWrite, Turn};

/// When the join phase ends at the latest, or is looked at again.
#[derive(Debug, Clone, Copy)]
pub(super) struct JoinTimer {
    pub deadline_ms: i64,
    /// Only for the first rebalance of an empty group, which waits for more members to come.
    pub initial: Option<InitialDelay>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct InitialDelay {
    delay_ms: i64,
    remaining_ms: i64,
}

impl Group {
    pub(super) fn rebalance_or_complete(&mut self, reason: &str, turn: &mut Turn) {
        if self.can_rebalance() {
            self.prepare_rebalance(reason, turn);
        } else {
            self.maybe_complete_join(turn);
        }
    }

    pub(super) fn prepare_rebalance(&mut self, reason: &str, turn: &mut Turn) {
        if self.state == GroupState::CompletingRebalance {
            self.fail_syncs(GroupError::RebalanceInProgress, turn);
        }
        self.forgive_syncs();
        let initial = self.state == GroupState::Empty;
        self.transition(GroupState::PreparingRebalance, turn.now_ms);
        turn.effects
            .push(Effect::RebalanceStarted { generation: self.generation, reason: reason.to_owned() });
        if initial {
            let delay_ms = self.config.initial_rebalance_delay_ms;
            let remaining_ms = (self.members.rebalance_timeout_ms() - delay_ms).max(0);
            self.new_member_added = false;
            self.start_initial_delay(delay_ms, InitialDelay { delay_ms, remaining_ms }, turn);
        } else if self.all_joined() {
            self.complete_join(turn);
        } else {
            self.wait_for_joins(turn);
        }
    }

    /// Ends the join phase when everyone is there, except in the first rebalance, which always waits out its delay.
    pub(super) fn maybe_complete_join(&mut self, turn: &mut Turn) {
        let waiting =
            self.state == GroupState::PreparingRebalance && self.previous_state != GroupState::Empty;
        if waiting && self.all_joined() {
            self.complete_join(turn);
        }
    }

    pub(super) fn all_joined(&self) -> bool {
        self.pending_joins.is_empty() && self.members.awaiting_join() == self.members.len()
    }

    /// The join timer has run out.
    pub(super) fn join_phase_timed_out(&mut self, timer: JoinTimer, turn: &mut Turn) {
        match timer.initial {
            Some(InitialDelay { delay_ms, remaining_ms }) if self.new_member_added && remaining_ms > 0 => {
                self.new_member_added = false;
                let next_delay_ms = self.config.initial_rebalance_delay_ms.min(remaining_ms);
                let remaining_ms = (remaining_ms - delay_ms).max(0);
                self.start_initial_delay(
                    next_delay_ms,
                    InitialDelay { delay_ms: next_delay_ms, remaining_ms },
                    turn,
                );
            }
            Some(_) | None => self.complete_join(turn),
        }
    }

    fn start_initial_delay(&mut self, delay_ms: i64, initial: InitialDelay, turn: &Turn) {
        self.join_timer = Some(JoinTimer { deadline_ms: turn.now_ms + delay_ms, initial: Some(initial) });
    }

    fn wait_for_joins(&mut self, turn: &Turn) {
        // At least a millisecond: members may ask for no time at all, and a deadline that never passes would spin.
        let timeout_ms = self.members.rebalance_timeout_ms().max(1);
        self.join_timer = Some(JoinTimer { deadline_ms: turn.now_ms + timeout_ms, initial: None });
    }

    /// Ends the join phase: dynamic members that did not come are out, static ones keep their place until their session
    /// ends, and the next generation begins.
    pub(super) fn complete_join(&mut self, turn: &mut Turn) {
        self.join_timer = None;
        let absent = |m: &&Member| m.awaiting_join.is_none() && m.instance_id.is_none();
        let absent: Vec<MemberId> = self.members.iter().filter(absent).map(|m| m.id.clone()).collect();
        for id in &absent {
            self.remove_member(id, turn);
        }
        if self.members.is_empty() {
            return self.become_empty(turn);
        }
        if !self.elect_joined_leader() {
            // Only static members are left and none came: wait until one does or their sessions end.
            return self.wait_for_joins(turn);
        }
        self.generation = self.generation.next();
        self.protocol_name = self.members.select_protocol();
        assert!(self.protocol_name.is_some(), "a member joins only with a protocol that all others support");
        self.subscribed_topics = self.read_subscribed_topics();
        self.transition(GroupState::CompletingRebalance, turn.now_ms);
        for id in self.members.ids() {
            self.answer_join(id, turn);
        }
        self.sync_deadline_ms = Some(turn.now_ms + self.members.rebalance_timeout_ms().max(1));
    }

    fn answer_join(&mut self, id: MemberId, turn: &mut Turn) {
        let members = if self.is_leader(&id) { self.joined_members() } else { Vec::new() };
        let waiting: Option<Option<Token>> = self.members.update(&id, |member| {
            member.is_new = false;
            member.owes_sync = true;
            member.awaiting_join.take()
        });
        self.restart_session(&id, turn.now_ms);
        if let Some(token) = waiting.flatten() {
            self.accept_join(token, id, members, turn);
        }
    }

    fn become_empty(&mut self, turn: &mut Turn) {
        self.generation = self.generation.next();
        self.protocol_name = None;
        self.leader = None;
        self.subscribed_topics = self.read_subscribed_topics();
        self.transition(GroupState::Empty, turn.now_ms);
        let snapshot = self.snapshot();
        self.persist(snapshot, PendingWrite::Emptied, turn);
    }

    /// Keeps the leader if it has joined, else takes the first member that has. False when nobody has.
    fn elect_joined_leader(&mut self) -> bool {
        let joined = |m: &&Member| m.awaiting_join.is_some();
        let keeps = self.leader.as_ref().and_then(|id| self.members.get(id)).filter(joined).is_some();
        if keeps {
            return true;
        }
        let elected = self.members.iter().find(joined).map(|m| m.id.clone());
        match elected {
            Some(id) => {
                self.leader = Some(id);
                true
            }
            None => false,
        }
    }
}
