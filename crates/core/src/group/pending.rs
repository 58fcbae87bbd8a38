//! Member ids that were given out with MEMBER_ID_REQUIRED (KIP-394) and have not been used yet.

use indexmap::IndexMap;

use super::ids::MemberId;

/// What an id takes besides its text.
const ENTRY_BYTES: usize = 128;

/// Ids in the order in which they were given, each with the time when it is forgotten.
#[derive(Debug, Default)]
pub(super) struct PendingJoins {
    deadlines_ms: IndexMap<MemberId, i64>,
    weight_bytes: usize,
}

impl PendingJoins {
    pub fn len(&self) -> usize {
        self.deadlines_ms.len()
    }

    pub fn is_empty(&self) -> bool {
        self.deadlines_ms.is_empty()
    }

    pub fn contains(&self, id: &MemberId) -> bool {
        self.deadlines_ms.contains_key(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&MemberId, i64)> {
        self.deadlines_ms.iter().map(|(id, at_ms)| (id, *at_ms))
    }

    pub fn insert(&mut self, id: MemberId, deadline_ms: i64) {
        let weight = weight(&id);
        if self.deadlines_ms.insert(id, deadline_ms).is_none() {
            self.weight_bytes += weight;
        }
    }

    pub fn remove(&mut self, id: &MemberId) {
        if self.deadlines_ms.shift_remove(id).is_some() {
            self.weight_bytes -= weight(id);
        }
    }

    /// What the ids take in memory.
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }
}

fn weight(id: &MemberId) -> usize {
    ENTRY_BYTES + id.as_str().len()
}
