//! What survives a restart of the coordinator: the members of the last completed generation and their assignments.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::event::Protocol;
use super::ids::{Generation, InstanceId, MemberId};
use super::members::{Member, Members};
use super::{Group, GroupConfig, GroupState, Turn};

/// A whole group as it is written: [`GroupState::Stable`] when it has members, [`GroupState::Empty`] when not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSnapshot {
    pub generation: Generation,
    pub protocol_type: Option<String>,
    pub protocol_name: Option<String>,
    pub leader: Option<MemberId>,
    /// When the group came into its state: offsets of an empty group expire from then on.
    pub state_since_ms: i64,
    pub members: Vec<MemberSnapshot>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSnapshot {
    pub member_id: MemberId,
    pub instance_id: Option<InstanceId>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub protocols: Vec<Protocol>,
    pub assignment: Bytes,
}

impl Group {
    /// The group as it is to be written now, with the assignments that the members have.
    pub fn snapshot(&self) -> GroupSnapshot {
        self.snapshot_of(|member| member.assignment.clone(), self.state_since_ms)
    }

    /// The group as it will be once these assignments hold.
    pub(super) fn snapshot_with(&self, assignments: &HashMap<MemberId, Bytes>, now_ms: i64) -> GroupSnapshot {
        self.snapshot_of(|member| assignments.get(&member.id).cloned().unwrap_or_default(), now_ms)
    }

    fn snapshot_of(&self, assignment: impl Fn(&Member) -> Bytes, state_since_ms: i64) -> GroupSnapshot {
        let member = |m: &Member| MemberSnapshot {
            member_id: m.id.clone(),
            instance_id: m.instance_id.clone(),
            client_id: m.client_id.clone(),
            client_host: m.client_host.clone(),
            session_timeout_ms: m.session_timeout_ms,
            rebalance_timeout_ms: m.rebalance_timeout_ms,
            protocols: m.protocols.clone(),
            assignment: assignment(m),
        };
        GroupSnapshot {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            leader: self.leader.clone(),
            state_since_ms,
            members: self.members.iter().map(member).collect(),
        }
    }

    /// The group after a restart. Every member has a fresh session, so members that were alive go on without a rebalance.
    ///
    /// Members that do not agree on the written protocol cannot have been written by us: the group is then taken to be
    /// empty, and whoever is alive joins again.
    pub fn restore(snapshot: GroupSnapshot, config: GroupConfig, now_ms: i64) -> Group {
        let mut group = Group::new(config, now_ms);
        group.generation = Generation(snapshot.generation.0.max(0));
        group.protocol_type = snapshot.protocol_type.filter(|t| !t.is_empty());
        group.state_since_ms = snapshot.state_since_ms;
        group.members = restored_members(snapshot.members, now_ms);
        let protocol = snapshot.protocol_name;
        if group.members.is_empty() || !group.members.support_any(protocol.as_deref().into_iter()) {
            group.members = Members::default();
            group.subscribed_topics = group.read_subscribed_topics();
            return group;
        }
        group.protocol_name = protocol;
        group.leader = snapshot.leader.filter(|id| group.members.contains(id));
        if group.leader.is_none() {
            group.leader = group.members.iter().next().map(|m| m.id.clone());
        }
        group.state = GroupState::Stable;
        group.previous_state = GroupState::CompletingRebalance;
        group.subscribed_topics = group.read_subscribed_topics();
        if group.members.len() > config.max_size {
            // The limit was lowered. Members may still commit, and learn from their heartbeats that they must rejoin.
            // Nobody waits for anything yet, so that there are no effects to pass on.
            let mut turn = Turn { now_ms, effects: Vec::new() };
            group.prepare_rebalance("the restored group is larger than group.max.size", &mut turn);
        }
        group
    }
}

fn restored_members(snapshots: Vec<MemberSnapshot>, now_ms: i64) -> Members {
    let mut members = Members::default();
    let mut instances = HashSet::new();
    for snapshot in snapshots {
        let taken = snapshot.instance_id.as_ref().is_some_and(|instance| !instances.insert(instance.clone()));
        if taken || members.contains(&snapshot.member_id) {
            continue;
        }
        members.insert(Member {
            id: snapshot.member_id,
            instance_id: snapshot.instance_id,
            client_id: snapshot.client_id,
            client_host: snapshot.client_host,
            session_timeout_ms: snapshot.session_timeout_ms,
            rebalance_timeout_ms: snapshot.rebalance_timeout_ms,
            protocols: snapshot.protocols,
            assignment: snapshot.assignment,
            session_deadline_ms: Some(now_ms + i64::from(snapshot.session_timeout_ms)),
            awaiting_join: None,
            awaiting_sync: None,
            is_new: false,
            owes_sync: false,
        });
    }
    members
}
