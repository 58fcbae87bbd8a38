//! Which broker serves what: the controller's decision, for partitions and for the slots of group coordinators alike (ADR 0007).
//!
//! Pure and deterministic: the same input gives the same placement, whoever computes it. Owns the rules of who may be given a slot and
//! how the load is spread; who is alive, who is certainly gone, and when to move for balance is told by the caller.
//!
//! Invariant: a slot is taken from its owner only when the owner is certainly gone; from a live one it is asked for.
//! Invariant: every new owner gets a leader epoch one higher than the last.

mod loads;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use loads::Loads;

use crate::ids::{LeaderEpoch, NodeId};

/// One start of one broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation {
    pub node_id: NodeId,
    /// The metadata revision at which it registered; never used twice.
    pub epoch: u64,
}

impl Incarnation {
    /// For [`Backoff`](crate::backoff::Backoff): brokers that lose the same store at the same moment wait for different times.
    pub fn seed(self) -> u64 {
        u64::from(self.node_id.0.unsigned_abs()) << 40 ^ self.epoch
    }
}

/// A partition, or a coordinator slot: whatever has one owner at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slot {
    pub owner: Option<Incarnation>,
    pub leader_epoch: LeaderEpoch,
    /// Whether the owner is asked to let it go.
    pub release: bool,
}

impl Slot {
    /// The same slot under its next owner.
    fn given_to(self, owner: Incarnation) -> Slot {
        let leader_epoch = LeaderEpoch(self.leader_epoch.0.saturating_add(1));
        Slot { owner: Some(owner), leader_epoch, release: false }
    }
}

/// Who may own slots, and who does not any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// The registered incarnation of each live broker.
    pub live: BTreeMap<NodeId, u64>,
    /// Incarnations that can acknowledge nothing any more: not registered, and their chains sealed. Who is neither here nor live
    /// keeps what it has.
    pub gone: BTreeSet<Incarnation>,
}

impl Members {
    pub fn is_live(&self, incarnation: Incarnation) -> bool {
        self.live.get(&incarnation.node_id) == Some(&incarnation.epoch)
    }
}

/// A slot that gets another owner, or whose owner is asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Which group of the input, and which slot of the group.
    pub group: usize,
    pub index: usize,
    /// What the slot becomes.
    pub slot: Slot,
}

/// What to change, and how even the load is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// In the order of the input; at most one for a slot.
    pub changes: Vec<Change>,
    /// The difference between the most and the least loaded broker, once `changes` are done and what is asked for has moved.
    pub spread: usize,
    /// Slots whose owners are asked to let them go, those of `changes` included.
    pub releasing: usize,
}

/// Finds an owner for each slot that has none, and asks for slots of the most loaded brokers until the load is even or
/// `releasing_max` slots are on their way. A group is what should be spread by itself as well: the partitions of a topic.
pub fn place(groups: &[&[Slot]], members: &Members, releasing_max: usize) -> Placement {
    let mut loads = Loads::new(members.live.iter().map(|(&node_id, &epoch)| Incarnation { node_id, epoch }));
    let mut of_groups: Vec<Loads> = Vec::with_capacity(groups.len());
    for group in groups {
        // What is asked for counts for nobody yet: it is about to go.
        of_groups.push(loads.add_group(group.iter().filter(|slot| !slot.release)));
    }
    let mut placement = Placement::default();
    if loads.is_empty() {
        return placement;
    }
    for (g, group) in groups.iter().enumerate() {
        for (index, slot) in group.iter().enumerate() {
            if slot.owner.is_none_or(|owner| members.gone.contains(&owner) && !members.is_live(owner)) {
                let owner = loads.give_to_least(&mut of_groups[g]);
                placement.changes.push(Change { group: g, index, slot: slot.given_to(owner) });
            }
        }
    }
    for (g, group) in groups.iter().enumerate() {
        for _ in group.iter().filter(|slot| slot.release && slot.owner.is_some_and(|o| members.is_live(o))) {
            loads.give_to_least(&mut of_groups[g]);
            placement.releasing += 1;
        }
    }
    even_out(groups, (&mut loads, &mut of_groups), releasing_max, &mut placement);
    placement.spread = loads.spread();
    placement
}

/// Asks the most loaded brokers for what the least loaded ones are to have.
fn even_out(
    groups: &[&[Slot]],
    (loads, of_groups): (&mut Loads, &mut [Loads]),
    releasing_max: usize,
    placement: &mut Placement,
) {
    let mut held: BTreeMap<Incarnation, Vec<(usize, usize)>> = BTreeMap::new();
    if loads.spread() > 1 && placement.releasing < releasing_max {
        for (g, group) in groups.iter().enumerate() {
            for (index, slot) in group.iter().enumerate() {
                if let Some(owner) = slot.owner.filter(|_| !slot.release) {
                    held.entry(owner).or_default().push((g, index));
                }
            }
        }
    }
    while loads.spread() > 1 && placement.releasing < releasing_max {
        let (most, least) = loads.extremes();
        // From the group that is spread least evenly between the two; of equal ones the first.
        let candidates = held.get(&loads.broker(most)).map_or(&[][..], Vec::as_slice).iter().enumerate();
        let lean =
            |&(g, _): &(usize, usize)| of_groups[g].load(most) as i64 - of_groups[g].load(least) as i64;
        let Some((at, _)) = candidates.min_by_key(|(_, slot)| std::cmp::Reverse(lean(slot))) else {
            // What is too much was given away in this very placement: it moves when its new owner has it.
            break;
        };
        let slots = held.get_mut(&loads.broker(most)).expect("it was found there");
        let (group, index) = slots.swap_remove(at);
        loads.shift(most, least);
        of_groups[group].shift(most, least);
        placement.releasing += 1;
        placement.changes.push(Change { group, index, slot: Slot { release: true, ..groups[group][index] } });
    }
    placement.changes.sort_unstable_by_key(|change| (change.group, change.index));
}
