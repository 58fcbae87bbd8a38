//! How many slots each live broker has, of one group or of all, and who is the least loaded.

use super::{Incarnation, Slot};
use crate::ids::LeaderEpoch;

/// The number of slots of each live broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loads {
    /// By node id.
    brokers: Vec<Incarnation>,
    counts: Vec<usize>,
}

impl Loads {
    /// Brokers without any slots.
    pub fn new(live: impl IntoIterator<Item = Incarnation>) -> Loads {
        let mut brokers: Vec<Incarnation> = live.into_iter().collect();
        brokers.sort_unstable();
        let counts = vec![0; brokers.len()];
        Loads { brokers, counts }
    }

    /// Counts the slots of one more group. Returns its own loads.
    pub fn add_group<'a>(&mut self, slots: impl IntoIterator<Item = &'a Slot>) -> Loads {
        let mut group = Loads { brokers: self.brokers.clone(), counts: vec![0; self.counts.len()] };
        for owner in slots.into_iter().filter_map(|slot| slot.owner) {
            if let Ok(at) = self.brokers.binary_search(&owner) {
                self.counts[at] += 1;
                group.counts[at] += 1;
            }
        }
        group
    }

    /// Owners for `count` new slots of a group, whose present slots are counted in `group` and here. In their first epoch; without
    /// an owner while no broker is alive.
    pub fn place_new(&mut self, group: &mut Loads, count: usize) -> Vec<Slot> {
        let mut owner = |loads: &mut Loads| (!loads.is_empty()).then(|| loads.give_to_least(group));
        (0..count)
            .map(|_| Slot { owner: owner(self), leader_epoch: LeaderEpoch(0), release: false })
            .collect()
    }

    pub fn is_empty(&self) -> bool {
        self.brokers.is_empty()
    }

    /// Adds a slot to the broker with the fewest; of several, to the one with the fewest of the group.
    pub(super) fn give_to_least(&mut self, group: &mut Loads) -> Incarnation {
        let at = (0..self.counts.len())
            .min_by_key(|&at| (self.counts[at], group.counts[at]))
            .expect("the caller looked that there are brokers");
        self.counts[at] += 1;
        group.counts[at] += 1;
        self.brokers[at]
    }

    pub(super) fn broker(&self, at: usize) -> Incarnation {
        self.brokers[at]
    }

    pub(super) fn load(&self, at: usize) -> usize {
        self.counts[at]
    }

    pub(super) fn shift(&mut self, from: usize, to: usize) {
        self.counts[from] -= 1;
        self.counts[to] += 1;
    }

    /// The most and the least loaded broker. There must be brokers.
    pub(super) fn extremes(&self) -> (usize, usize) {
        let least = (0..self.counts.len()).min_by_key(|&at| self.counts[at]);
        let most = (0..self.counts.len()).min_by_key(|&at| std::cmp::Reverse(self.counts[at]));
        most.zip(least).expect("the caller looked that there are brokers")
    }

    /// The difference between the most and the least loaded broker.
    pub fn spread(&self) -> usize {
        let most = self.counts.iter().max().copied().unwrap_or(0);
        most - self.counts.iter().min().copied().unwrap_or(0)
    }
}
