//! Member ids that were given out with MEMBER_ID_REQUIRED (KIP-394) and have not been used yet.

use std::collections::{BTreeMap, HashMap};

use super::ids::MemberId;

/// What an id takes besides its text.
const ENTRY_BYTES: usize = 256;

/// Ids, each with the time when it is forgotten. Of several that are forgotten at the same time the one that was given first comes first.
#[derive(Debug, Default)]
pub(super) struct PendingJoins {
    deadlines: HashMap<MemberId, Deadline>,
    by_deadline: BTreeMap<Deadline, MemberId>,
    given: u64,
    weight_bytes: usize,
}

/// In milliseconds, and the how-manieth id it was.
type Deadline = (i64, u64);

impl PendingJoins {
    pub fn len(&self) -> usize {
        self.deadlines.len()
    }

    pub fn is_empty(&self) -> bool {
        self.deadlines.is_empty()
    }

    pub fn contains(&self, id: &MemberId) -> bool {
        self.deadlines.contains_key(id)
    }

    /// The id that is forgotten first, and when.
    pub fn first_deadline(&self) -> Option<(i64, &MemberId)> {
        self.by_deadline.first_key_value().map(|((at_ms, _), id)| (*at_ms, id))
    }

    pub fn insert(&mut self, id: MemberId, deadline_ms: i64) {
        self.remove(&id);
        self.weight_bytes += weight(&id);
        let deadline = (deadline_ms, self.given);
        self.given += 1;
        self.by_deadline.insert(deadline, id.clone());
        self.deadlines.insert(id, deadline);
    }

    pub fn remove(&mut self, id: &MemberId) {
        if let Some(deadline) = self.deadlines.remove(id) {
            self.by_deadline.remove(&deadline);
            self.weight_bytes -= weight(id);
        }
    }

    /// What the ids take in memory.
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }
}

fn weight(id: &MemberId) -> usize {
    ENTRY_BYTES + 2 * id.as_str().len()
}
