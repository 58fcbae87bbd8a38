//! The members of a group, and what is counted over them: votes for protocols, static instances, who waits for a join.
//!
//! Invariants: `instances` names exactly the members that have an instance id; `supported` counts, for every protocol
//! name, the members that offer it. Members keep the order in which they came, so that elections do not depend on hashing.

use std::collections::HashMap;

use bytes::Bytes;
use indexmap::IndexMap;

use super::event::{GroupError, Protocol};
use super::ids::{InstanceId, MemberId, Token};

#[derive(Debug, Clone)]
pub(super) struct Member {
    pub id: MemberId,
    pub instance_id: Option<InstanceId>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub protocols: Vec<Protocol>,
    pub assignment: Bytes,
    /// None while a request of the member waits longer than its session: the answer starts the session anew.
    pub session_deadline_ms: Option<i64>,
    pub awaiting_join: Option<Token>,
    pub awaiting_sync: Option<Token>,
    /// Has never had an answer to a join, so nobody can heartbeat for it.
    pub is_new: bool,
    /// Was told to sync in this generation and has not yet.
    pub owes_sync: bool,
}

impl Member {
    /// The member's opaque data for a protocol; empty when it does not offer it.
    pub fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols.iter().find(|p| p.name == protocol).map(|p| p.metadata.clone()).unwrap_or_default()
    }

    fn weight_bytes(&self) -> usize {
        let instance = self.instance_id.as_ref().map_or(0, |id| id.as_str().len());
        let texts = self.id.as_str().len() + instance + self.client_id.len() + self.client_host.len();
        weight_bytes(&self.protocols) + texts + MEMBER_BYTES
    }

    /// A waiting member is alive as far as the coordinator can tell, unless it never had an answer.
    pub fn satisfies_session(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }
}

/// What a member takes besides its texts.
pub(super) const MEMBER_BYTES: usize = 512;

pub(super) fn weight_bytes(protocols: &[Protocol]) -> usize {
    protocols.iter().map(|p| p.name.len() + p.metadata.len()).sum()
}

#[derive(Debug, Default)]
pub(super) struct Members {
    by_id: IndexMap<MemberId, Member>,
    instances: HashMap<InstanceId, MemberId>,
    supported: HashMap<String, usize>,
    weight_bytes: usize,
}

impl Members {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_id.values()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.by_id.values_mut()
    }

    pub fn ids(&self) -> Vec<MemberId> {
        self.by_id.keys().cloned().collect()
    }

    pub fn get(&self, id: &MemberId) -> Option<&Member> {
        self.by_id.get(id)
    }

    pub fn get_mut(&mut self, id: &MemberId) -> Option<&mut Member> {
        self.by_id.get_mut(id)
    }

    pub fn contains(&self, id: &MemberId) -> bool {
        self.by_id.contains_key(id)
    }

    pub fn instance(&self, instance: &InstanceId) -> Option<&MemberId> {
        self.instances.get(instance)
    }

    pub fn insert(&mut self, member: Member) {
        if let Some(instance) = &member.instance_id {
            let earlier = self.instances.insert(instance.clone(), member.id.clone());
            assert!(earlier.is_none(), "a static instance joins once; later joins replace its member");
        }
        self.count_protocols(&member.protocols);
        self.weight_bytes += member.weight_bytes();
        let earlier = self.by_id.insert(member.id.clone(), member);
        assert!(earlier.is_none(), "a member is added once");
    }

    pub fn remove(&mut self, id: &MemberId) -> Option<Member> {
        let member = self.by_id.shift_remove(id)?;
        if let Some(instance) = &member.instance_id {
            self.instances.remove(instance);
        }
        self.discount_protocols(&member.protocols);
        self.weight_bytes -= member.weight_bytes();
        Some(member)
    }

    /// Gives a static member a new member id, in the same place. The old id is unknown from then on.
    pub fn rename(&mut self, old: &MemberId, new: &MemberId) {
        let Some(index) = self.by_id.get_index_of(old) else { return };
        let Some(mut member) = self.by_id.shift_remove(old) else { return };
        self.weight_bytes -= member.weight_bytes();
        member.id = new.clone();
        self.weight_bytes += member.weight_bytes();
        if let Some(instance) = &member.instance_id {
            self.instances.insert(instance.clone(), new.clone());
        }
        self.by_id.shift_insert(index, new.clone(), member);
    }

    pub fn set_protocols(&mut self, id: &MemberId, protocols: Vec<Protocol>) {
        let Some(member) = self.by_id.get_mut(id) else { return };
        self.weight_bytes -= member.weight_bytes();
        let earlier = std::mem::replace(&mut member.protocols, protocols.clone());
        self.weight_bytes += member.weight_bytes();
        self.discount_protocols(&earlier);
        self.count_protocols(&protocols);
    }

    /// Checks that the member exists and, when it is static, that it still holds its instance id.
    pub fn check(&self, id: &MemberId, instance: Option<&InstanceId>) -> Result<(), GroupError> {
        if let Some(instance) = instance {
            match self.instances.get(instance) {
                None => return Err(GroupError::UnknownMember),
                Some(holder) if holder != id => return Err(GroupError::FencedInstance),
                Some(_) => {}
            }
        }
        if self.contains(id) { Ok(()) } else { Err(GroupError::UnknownMember) }
    }

    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    pub fn awaiting_join(&self) -> usize {
        self.iter().filter(|m| m.awaiting_join.is_some()).count()
    }

    pub fn all_synced(&self) -> bool {
        self.iter().all(|m| !m.owes_sync)
    }

    /// The longest that any member wants to be waited for.
    pub fn rebalance_timeout_ms(&self) -> i64 {
        self.iter().map(|m| i64::from(m.rebalance_timeout_ms)).max().unwrap_or(0).max(0)
    }

    /// Whether every member offers at least one of these protocols.
    pub fn support_any<'a>(&self, mut protocols: impl Iterator<Item = &'a str>) -> bool {
        protocols.any(|name| self.all_support(name))
    }

    /// The protocol that all members support and most prefer. A draw goes to what the earlier member prefers.
    pub fn select_protocol(&self) -> Option<String> {
        let mut votes: IndexMap<&str, usize> = IndexMap::new();
        for member in self.iter() {
            let vote = member.protocols.iter().find(|p| self.all_support(&p.name));
            if let Some(protocol) = vote {
                *votes.entry(&protocol.name).or_default() += 1;
            }
        }
        let most = votes.values().copied().max()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| name.to_owned())
    }

    fn all_support(&self, protocol: &str) -> bool {
        self.supported.get(protocol).copied().unwrap_or(0) == self.len()
    }

    fn count_protocols(&mut self, protocols: &[Protocol]) {
        for protocol in protocols {
            *self.supported.entry(protocol.name.clone()).or_default() += 1;
        }
    }

    fn discount_protocols(&mut self, protocols: &[Protocol]) {
        for protocol in protocols {
            if let Some(count) = self.supported.get_mut(&protocol.name) {
                *count -= 1;
                if *count == 0 {
                    self.supported.remove(&protocol.name);
                }
            }
        }
    }
}
