//! The members of a group, and what is counted over them: votes for protocols, static instances, who waits for a join.
//!
//! Invariants: `instances` names exactly the members that have an instance id; `supported` counts, for every protocol
//! name, the members that offer it; `counts` is what it would be if it were counted anew. Members keep the order in which they came, so
//! that elections do not depend on hashing. No event takes time by the square of the members.

use std::collections::{BTreeMap, BTreeSet, HashMap};

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
/// What a protocol takes besides its name and its metadata, the count of those who offer it included.
const PROTOCOL_BYTES: usize = 256;

pub(super) fn weight_bytes(protocols: &[Protocol]) -> usize {
    protocols.iter().map(|p| p.name.len() + p.metadata.len() + PROTOCOL_BYTES).sum()
}

/// The how-manieth member of its group it was: members keep their order, and one that leaves moves none of the others.
type Arrival = u64;

#[derive(Debug, Default)]
pub(super) struct Members {
    by_arrival: BTreeMap<Arrival, Member>,
    arrivals: HashMap<MemberId, Arrival>,
    next_arrival: Arrival,
    instances: HashMap<InstanceId, MemberId>,
    supported: HashMap<String, usize>,
    weight_bytes: usize,
    counts: Counts,
}

/// What is counted over all members, so that no event has to look at each of them.
#[derive(Debug, Default)]
struct Counts {
    deadlines_ms: BTreeSet<(i64, Arrival)>,
    awaiting_join: usize,
    owing_sync: usize,
}

/// What of a member is counted.
#[derive(Clone, Copy)]
struct Counted {
    session_deadline_ms: Option<i64>,
    awaits_join: bool,
    owes_sync: bool,
}

impl Counted {
    fn of(member: &Member) -> Counted {
        Counted {
            session_deadline_ms: member.session_deadline_ms,
            awaits_join: member.awaiting_join.is_some(),
            owes_sync: member.owes_sync,
        }
    }
}

impl Counts {
    fn add(&mut self, arrival: Arrival, counted: Counted) {
        self.deadlines_ms.extend(counted.session_deadline_ms.map(|at_ms| (at_ms, arrival)));
        self.awaiting_join += usize::from(counted.awaits_join);
        self.owing_sync += usize::from(counted.owes_sync);
    }

    fn take(&mut self, arrival: Arrival, counted: Counted) {
        if let Some(at_ms) = counted.session_deadline_ms {
            self.deadlines_ms.remove(&(at_ms, arrival));
        }
        self.awaiting_join -= usize::from(counted.awaits_join);
        self.owing_sync -= usize::from(counted.owes_sync);
    }
}

impl Members {
    pub fn len(&self) -> usize {
        self.by_arrival.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_arrival.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_arrival.values()
    }

    pub fn ids(&self) -> Vec<MemberId> {
        self.iter().map(|m| m.id.clone()).collect()
    }

    pub fn get(&self, id: &MemberId) -> Option<&Member> {
        self.by_arrival.get(self.arrivals.get(id)?)
    }

    /// Changes a member, but for its id, its instance and its protocols.
    pub fn update<R>(&mut self, id: &MemberId, change: impl FnOnce(&mut Member) -> R) -> Option<R> {
        let arrival = *self.arrivals.get(id)?;
        let member = self.by_arrival.get_mut(&arrival)?;
        self.counts.take(arrival, Counted::of(member));
        let result = change(member);
        self.counts.add(arrival, Counted::of(member));
        Some(result)
    }

    /// Changes all members, as [`Members::update`] does one.
    pub fn update_all(&mut self, mut change: impl FnMut(&mut Member)) {
        for (arrival, member) in &mut self.by_arrival {
            self.counts.take(*arrival, Counted::of(member));
            change(member);
            self.counts.add(*arrival, Counted::of(member));
        }
    }

    pub fn contains(&self, id: &MemberId) -> bool {
        self.arrivals.contains_key(id)
    }

    pub fn instance(&self, instance: &InstanceId) -> Option<&MemberId> {
        self.instances.get(instance)
    }

    /// The member whose session ends first, and when. Of several the one that came first.
    pub fn first_deadline(&self) -> Option<(i64, &MemberId)> {
        let (at_ms, arrival) = self.counts.deadlines_ms.first()?;
        self.by_arrival.get(arrival).map(|member| (*at_ms, &member.id))
    }

    pub fn insert(&mut self, member: Member) {
        if let Some(instance) = &member.instance_id {
            let earlier = self.instances.insert(instance.clone(), member.id.clone());
            assert!(earlier.is_none(), "a static instance joins once; later joins replace its member");
        }
        self.count_protocols(&member.protocols);
        self.weight_bytes += member.weight_bytes();
        let arrival = self.next_arrival;
        self.next_arrival += 1;
        self.counts.add(arrival, Counted::of(&member));
        let earlier = self.arrivals.insert(member.id.clone(), arrival);
        assert!(earlier.is_none(), "a member is added once");
        self.by_arrival.insert(arrival, member);
    }

    pub fn remove(&mut self, id: &MemberId) -> Option<Member> {
        let arrival = self.arrivals.remove(id)?;
        let member = self.by_arrival.remove(&arrival)?;
        self.counts.take(arrival, Counted::of(&member));
        if let Some(instance) = &member.instance_id {
            self.instances.remove(instance);
        }
        self.discount_protocols(&member.protocols);
        self.weight_bytes -= member.weight_bytes();
        Some(member)
    }

    /// Gives a static member a new member id, in the same place. The old id is unknown from then on.
    pub fn rename(&mut self, old: &MemberId, new: &MemberId) {
        let Some(arrival) = self.arrivals.remove(old) else { return };
        let Some(member) = self.by_arrival.get_mut(&arrival) else { return };
        self.weight_bytes -= member.weight_bytes();
        member.id = new.clone();
        self.weight_bytes += member.weight_bytes();
        if let Some(instance) = &member.instance_id {
            self.instances.insert(instance.clone(), new.clone());
        }
        self.arrivals.insert(new.clone(), arrival);
    }

    pub fn set_protocols(&mut self, id: &MemberId, protocols: Vec<Protocol>) {
        let member = self.arrivals.get(id).and_then(|arrival| self.by_arrival.get_mut(arrival));
        let Some(member) = member else { return };
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
        self.counts.awaiting_join
    }

    pub fn all_synced(&self) -> bool {
        self.counts.owing_sync == 0
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
