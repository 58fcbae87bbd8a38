//! The classic consumer group protocol as a state machine, after Apache Kafka's `ClassicGroup` and `GroupMetadataManager`.
//!
//! [`Group::step`] takes one event and the time, and says what to do; [`Group::next_deadline_ms`] says when to tick.
//! Nothing here waits, writes or reads a clock. The driver owns one `Group`, answers requests, persists snapshots and
//! reports how that went.
//!
//! Invariants:
//! - the generation never decreases, and every rebalance that completes raises it by one;
//! - a group with members has exactly one leader, and the leader is a member;
//! - every token is answered exactly once;
//! - an assignment is sent to members only after the snapshot that holds it was persisted.
//!
//! Left to others: group ids (the coordinator), committed offsets' storage, Kafka messages and error codes (the edge).
//!
//! Differences from Apache Kafka: a request that another of the same member replaces is answered with
//! `REBALANCE_IN_PROGRESS` where Kafka forgets it; members keep all their protocols over a restart, not just the chosen
//! one; members that were promised an id but never came are limited in number.

mod event;
mod ids;
mod join;
mod leave;
mod members;
pub mod offsets;
mod pending;
mod rebalance;
mod session;
mod slot;
mod snapshot;
mod static_join;
pub mod subscription;
mod sync;
mod view;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use event::{
    Effect, Event, GroupError, JoinReply, JoinRequest, Joined, JoinedMember, LeavingMember, LeftMember,
    MemberIdentity, PersistError, Protocol, SyncRequest, Synced,
};
pub use ids::{Generation, InstanceId, MemberId, PersistId, Token};
pub use slot::slot_of;
pub use snapshot::{GroupSnapshot, MemberSnapshot};
pub use view::{GROUP_TYPE, GroupView, MemberView};

use members::Members;
use pending::PendingJoins;
use rebalance::JoinTimer;
use static_join::StaticRejoin;
use subscription::SubscribedTopics;
use sync::PendingAssignment;

/// The protocol type of ordinary consumers; only their subscriptions can be read here.
pub const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// The broker's `group.*` settings.
#[derive(Debug, Clone, Copy)]
pub struct GroupConfig {
    /// `group.initial.rebalance.delay.ms`
    pub initial_rebalance_delay_ms: i64,
    /// `group.min.session.timeout.ms`
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`
    pub max_session_timeout_ms: i32,
    /// `group.max.size`
    pub max_size: usize,
    /// How long a member may wait for its first join to be answered, having no id to heartbeat with.
    pub new_member_join_timeout_ms: i64,
    /// Member ids that were given out and not used yet. Kafka has no limit; a client that never comes back would grow
    /// the group until the session timeouts.
    pub max_pending_members: usize,
}

impl Default for GroupConfig {
    fn default() -> GroupConfig {
        GroupConfig {
            initial_rebalance_delay_ms: 3_000,
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            max_size: i32::MAX as usize,
            new_member_join_timeout_ms: 5 * 60 * 1_000,
            max_pending_members: 10_000,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GroupState {
    /// No members. Offsets may be committed from outside.
    Empty,
    /// Waits for the members to join.
    PreparingRebalance,
    /// Waits for the leader's assignment, and for its write.
    CompletingRebalance,
    Stable,
    /// Deleted, or another broker's.
    Dead,
}

impl GroupState {
    pub const ALL: [GroupState; 5] = [
        GroupState::Empty,
        GroupState::PreparingRebalance,
        GroupState::CompletingRebalance,
        GroupState::Stable,
        GroupState::Dead,
    ];

    /// The name in DescribeGroups and ListGroups.
    pub fn name(self) -> &'static str {
        match self {
            GroupState::Empty => "Empty",
            GroupState::PreparingRebalance => "PreparingRebalance",
            GroupState::CompletingRebalance => "CompletingRebalance",
            GroupState::Stable => "Stable",
            GroupState::Dead => "Dead",
        }
    }
}

/// A write whose outcome is not known yet, and what hangs on it.
#[derive(Debug)]
enum PendingWrite {
    Assignment(PendingAssignment),
    StaticRejoin(StaticRejoin),
    /// A group that became empty. Nobody waits: should the write be lost, the members of the last written generation
    /// come back and time out.
    Emptied,
}

/// One classic consumer group.
#[derive(Debug)]
pub struct Group {
    config: GroupConfig,
    state: GroupState,
    previous_state: GroupState,
    state_since_ms: i64,
    generation: Generation,
    /// None for a group that only stores offsets.
    protocol_type: Option<String>,
    protocol_name: Option<String>,
    leader: Option<MemberId>,
    members: Members,
    /// Ids given out with MEMBER_ID_REQUIRED, and when each is forgotten.
    pending_joins: PendingJoins,
    join_timer: Option<JoinTimer>,
    /// When members that owe a sync are removed.
    sync_deadline_ms: Option<i64>,
    /// Someone joined since the initial delay was last extended.
    new_member_added: bool,
    /// None when unknown: not a consumer group, or its metadata cannot be read.
    subscribed_topics: Option<SubscribedTopics>,
    pending_writes: BTreeMap<PersistId, PendingWrite>,
    next_persist: PersistId,
}

/// So many members are named in the reason for a rebalance.
const NAMED_MAX: usize = 5;

/// What one step has to work with: the time, and where its effects go.
struct Turn {
    now_ms: i64,
    effects: Vec<Effect>,
}

impl Group {
    /// A group that nobody has joined yet.
    pub fn new(config: GroupConfig, now_ms: i64) -> Group {
        Group {
            config,
            state: GroupState::Empty,
            previous_state: GroupState::Empty,
            state_since_ms: now_ms,
            generation: Generation(0),
            protocol_type: None,
            protocol_name: None,
            leader: None,
            members: Members::default(),
            pending_joins: PendingJoins::default(),
            join_timer: None,
            sync_deadline_ms: None,
            new_member_added: false,
            subscribed_topics: None,
            pending_writes: BTreeMap::new(),
            next_persist: PersistId(0),
        }
    }

    /// Takes one event at a time that never goes backwards, and returns what to do about it.
    pub fn step(&mut self, event: Event, now_ms: i64) -> Vec<Effect> {
        let mut turn = Turn { now_ms, effects: Vec::new() };
        match event {
            Event::Join { token, request } => self.join(token, request, &mut turn),
            Event::Sync { token, request } => self.sync(token, request, &mut turn),
            Event::Heartbeat { token, identity } => {
                let result = self.heartbeat(&identity, now_ms);
                turn.effects.push(Effect::ReplyHeartbeat { token, result });
            }
            Event::Leave { token, members } => self.leave(token, members, &mut turn),
            Event::Persisted { id, outcome } => self.persisted(id, outcome, &mut turn),
            Event::Tick => self.tick(&mut turn),
            Event::Unload => self.unload(&mut turn),
        }
        turn.effects
    }

    /// When to send the next [`Event::Tick`], if nothing else happens before.
    pub fn next_deadline_ms(&self) -> Option<i64> {
        let session = self.members.first_deadline().map(|(at_ms, _)| at_ms);
        let pending = self.pending_joins.first_deadline().map(|(at_ms, _)| at_ms);
        let join = self.join_timer.map(|timer| timer.deadline_ms);
        [session, pending, join, self.sync_deadline_ms].into_iter().flatten().min()
    }

    pub fn state(&self) -> GroupState {
        self.state
    }

    pub fn generation(&self) -> Generation {
        self.generation
    }

    pub fn leader(&self) -> Option<&MemberId> {
        self.leader.as_ref()
    }

    pub fn member_count(&self) -> usize {
        self.members.len()
    }

    /// What members and promised ids take in memory, assignments aside: those fit into one record.
    pub fn weight_bytes(&self) -> usize {
        let topics = self.subscribed_topics.as_ref().map_or(0, SubscribedTopics::weight_bytes);
        self.members.weight_bytes() + self.pending_joins.weight_bytes() + topics
    }

    /// Nothing will happen unless a request comes: the group needs neither a timer nor a task.
    pub fn is_idle(&self) -> bool {
        self.next_deadline_ms().is_none() && self.members.is_empty() && self.pending_writes.is_empty()
    }

    /// Whether the group may be deleted.
    pub fn check_delete(&self) -> Result<(), GroupError> {
        match self.state {
            GroupState::Dead => Err(GroupError::NotFound),
            GroupState::Empty => Ok(()),
            GroupState::PreparingRebalance | GroupState::CompletingRebalance | GroupState::Stable => {
                Err(GroupError::NonEmpty)
            }
        }
    }

    fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL_TYPE)
    }

    fn is_leader(&self, id: &MemberId) -> bool {
        self.leader.as_ref() == Some(id)
    }

    fn transition(&mut self, state: GroupState, now_ms: i64) {
        let allowed = match state {
            GroupState::Empty | GroupState::CompletingRebalance => {
                self.state == GroupState::PreparingRebalance
            }
            GroupState::PreparingRebalance => self.can_rebalance(),
            GroupState::Stable => self.state == GroupState::CompletingRebalance,
            GroupState::Dead => true,
        };
        assert!(allowed, "a group never goes from {:?} to {state:?}", self.state);
        self.previous_state = self.state;
        self.state = state;
        self.state_since_ms = now_ms;
    }

    fn can_rebalance(&self) -> bool {
        matches!(self.state, GroupState::Empty | GroupState::CompletingRebalance | GroupState::Stable)
    }

    fn persist(&mut self, snapshot: GroupSnapshot, pending: PendingWrite, turn: &mut Turn) {
        let id = self.next_persist;
        self.next_persist = PersistId(id.0 + 1);
        self.pending_writes.insert(id, pending);
        turn.effects.push(Effect::Persist { id, snapshot });
    }

    fn persisted(&mut self, id: PersistId, outcome: Result<(), PersistError>, turn: &mut Turn) {
        // Unknown ids are those of before an unload.
        match self.pending_writes.remove(&id) {
            Some(PendingWrite::Assignment(pending)) => self.assignment_persisted(pending, outcome, turn),
            Some(PendingWrite::StaticRejoin(pending)) => self.static_rejoin_persisted(pending, outcome, turn),
            Some(PendingWrite::Emptied) | None => {}
        }
    }

    /// Forgets a member and answers whatever it waits for.
    fn remove_member(&mut self, id: &MemberId, turn: &mut Turn) {
        self.pending_joins.remove(id);
        let Some(member) = self.members.remove(id) else { return };
        if let Some(token) = member.awaiting_join {
            let reply = JoinReply::error(MemberId::unknown(), GroupError::UnknownMember);
            turn.effects.push(Effect::ReplyJoin { token, reply });
        }
        if let Some(token) = member.awaiting_sync {
            turn.effects.push(Effect::ReplySync { token, result: Err(GroupError::UnknownMember) });
        }
        if self.is_leader(id) {
            self.leader = self.members.iter().next().map(|m| m.id.clone());
        }
    }

    fn unload(&mut self, turn: &mut Turn) {
        for id in self.members.ids() {
            let waiting = self.members.update(&id, |m| (m.awaiting_join.take(), m.awaiting_sync.take()));
            let (join, sync) = waiting.unwrap_or_default();
            if let Some(token) = join {
                let reply = JoinReply::error(id, GroupError::NotCoordinator);
                turn.effects.push(Effect::ReplyJoin { token, reply });
            }
            if let Some(token) = sync {
                turn.effects.push(Effect::ReplySync { token, result: Err(GroupError::NotCoordinator) });
            }
        }
        self.members = Members::default();
        self.subscribed_topics = None;
        self.leader = None;
        self.pending_joins = PendingJoins::default();
        self.pending_writes.clear();
        self.join_timer = None;
        self.sync_deadline_ms = None;
        self.transition(GroupState::Dead, turn.now_ms);
    }
}
