//! Puts changes of many groups, in order, into as few transactions as the store's limits allow.
//!
//! Each transaction is guarded by the records of the slots that its groups belong to.

use std::collections::HashMap;
use std::sync::Arc;

use kafscale_core::group::GroupSnapshot;
use kafscale_core::group::offsets::CommittedOffset;
use kafscale_core::ids::TopicId;
use kafscale_meta::records::{Keyspace, OffsetKey};
use kafscale_meta::{Compare, MAX_TXN_BYTES, MAX_TXN_OPS, Op, Revision, Txn};

use super::record;
use super::tenure::Tenure;
use super::writer::Write;

/// The guards of all slots that there are take no more than this.
const GUARD_BYTES_MAX: usize = 16 << 10;

#[derive(Debug)]
pub(super) enum Change {
    PutOffset {
        topic: Arc<str>,
        partition: i32,
        committed: CommittedOffset,
    },
    RemoveOffset {
        topic: Arc<str>,
        partition: i32,
        /// Only an offset of this topic, and not of another one of the same name.
        of: Option<TopicId>,
    },
    PutGroup(GroupSnapshot),
    /// The group with all its offsets.
    RemoveGroup,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub ops: Vec<Op>,
    pub change: Change,
}

impl Entry {
    pub fn new(keys: &Keyspace, group: &str, change: Change) -> Entry {
        let offset_key = |topic: &Arc<str>, partition: i32| {
            keys.offset(&OffsetKey { group: group.to_owned(), topic: topic.to_string(), partition })
        };
        let ops = match &change {
            Change::PutOffset { topic, partition, committed } => {
                vec![Op::put(offset_key(topic, *partition), record::encode_offset(committed))]
            }
            Change::RemoveOffset { topic, partition, .. } => vec![Op::delete(offset_key(topic, *partition))],
            Change::PutGroup(snapshot) => vec![Op::put(keys.group(group), record::encode_group(snapshot))],
            Change::RemoveGroup => {
                vec![Op::delete_prefix(keys.offsets_of_group_prefix(group)), Op::delete(keys.group(group))]
            }
        };
        Entry { ops, change }
    }
}

/// Where an entry is: in which write, and where in it.
pub(super) type Place = (usize, usize);

/// The operations of one transaction, and the entries that they are of.
#[derive(Debug, Default)]
pub(super) struct Planned {
    pub ops: Vec<Op>,
    pub entries: Vec<Place>,
}

impl Planned {
    /// The slots whose groups are changed, each once.
    pub fn tenures(&self, batch: &[Write]) -> Vec<Arc<Tenure>> {
        let mut tenures: Vec<Arc<Tenure>> = Vec::new();
        for (write, _) in &self.entries {
            let tenure = &batch[*write].cell.tenure;
            if !tenures.iter().any(|known| Arc::ptr_eq(known, tenure)) {
                tenures.push(Arc::clone(tenure));
            }
        }
        tenures
    }

    /// The transaction, done only if each slot's record is still of its revision.
    pub fn guarded(&self, keys: &Keyspace, guards: &[(Arc<Tenure>, Revision)]) -> Txn {
        let guard = |(tenure, revision): &(Arc<Tenure>, Revision)| {
            Compare::mod_revision(keys.coordinator(tenure.slot), *revision)
        };
        Txn { compares: guards.iter().map(guard).collect(), then: self.ops.clone() }
    }
}

/// Puts the entries at these places, in order, into transactions within the store's limits.
pub(super) fn plan(batch: &[Write], places: impl IntoIterator<Item = Place>) -> Vec<Planned> {
    let mut planner = Planner::default();
    for (write, entry) in places {
        let Entry { ops, change } = &batch[write].entries[entry];
        match change {
            // A prefix is deleted together with nothing below it.
            Change::RemoveGroup => planner.alone(ops, (write, entry)),
            Change::PutOffset { .. } | Change::RemoveOffset { .. } | Change::PutGroup(_) => {
                planner.add(ops, (write, entry));
            }
        }
    }
    planner.close();
    planner.planned
}

#[derive(Debug, Default)]
struct Planner {
    planned: Vec<Planned>,
    open: Planned,
    open_bytes: usize,
    /// Where in the open transaction a key is changed. A transaction changes a key once, so a later change replaces it.
    open_keys: HashMap<String, usize>,
}

impl Planner {
    fn add(&mut self, ops: &[Op], entry: Place) {
        let limit = MAX_TXN_BYTES - GUARD_BYTES_MAX;
        for op in ops {
            let (key, bytes) = weigh(op);
            if let Some(&at) = self.open_keys.get(key) {
                let (_, replaced) = weigh(&self.open.ops[at]);
                if self.open_bytes - replaced + bytes <= limit {
                    self.open_bytes = self.open_bytes - replaced + bytes;
                    self.open.ops[at] = op.clone();
                    continue;
                }
            }
            if self.open.ops.len() >= MAX_TXN_OPS || self.open_bytes + bytes > limit {
                self.close();
            }
            self.open_keys.insert(key.to_owned(), self.open.ops.len());
            self.open_bytes += bytes;
            self.open.ops.push(op.clone());
        }
        self.open.entries.push(entry);
    }

    fn alone(&mut self, ops: &[Op], entry: Place) {
        self.close();
        self.open.ops.extend(ops.iter().cloned());
        self.open.entries.push(entry);
        self.close();
    }

    fn close(&mut self) {
        let open = std::mem::take(&mut self.open);
        if !open.entries.is_empty() {
            self.planned.push(open);
        }
        self.open_bytes = 0;
        self.open_keys.clear();
    }
}

fn weigh(op: &Op) -> (&str, usize) {
    match op {
        Op::Put { key, value, .. } => (key, key.len() + value.len()),
        Op::Delete { key } => (key, key.len()),
        Op::DeletePrefix { prefix } => (prefix, prefix.len()),
    }
}

#[cfg(test)]
mod tests {
    use kafscale_meta::records::PartitionAssignment;

    use super::*;
    use crate::coordinator::cell::Cell;

    fn tenure(slot: i32) -> Arc<Tenure> {
        Arc::new(Tenure::new(slot, PartitionAssignment::new(1, 7, 0), Revision(8)))
    }

    fn write_of(tenure: &Arc<Tenure>, changes: Vec<Change>) -> Write {
        let keys = Keyspace::new("c").expect("a name");
        let machine = kafscale_core::group::Group::new(Default::default(), 0);
        let cell = Arc::new(Cell::new(tenure, "g".into(), machine, Default::default(), false));
        let entries = changes.into_iter().map(|change| Entry::new(&keys, "g", change)).collect();
        Write { cell, entries, done: None, owed: tenure.tasks.token() }
    }

    fn write(changes: Vec<Change>) -> Write {
        write_of(&tenure(0), changes)
    }

    fn remove(partition: i32) -> Change {
        Change::RemoveOffset { topic: "t".into(), partition, of: None }
    }

    fn plan_all(batch: &[Write]) -> Vec<Planned> {
        let entries = |(w, write): (usize, &Write)| (0..write.entries.len()).map(move |e| (w, e));
        plan(batch, batch.iter().enumerate().flat_map(entries).collect::<Vec<_>>())
    }

    #[test]
    fn writes_share_transactions_up_to_the_limit() {
        let batch = [write((0..100).map(remove).collect()), write((100..200).map(remove).collect())];
        let planned = plan_all(&batch);
        let ops: Vec<usize> = planned.iter().map(|p| p.ops.len()).collect();
        assert_eq!(ops, [MAX_TXN_OPS, 200 - MAX_TXN_OPS]);
        assert_eq!(planned.iter().map(|p| p.entries.len()).sum::<usize>(), 200);
    }

    #[test]
    fn a_key_is_changed_once_and_the_last_change_wins() {
        let batch = [write(vec![remove(1)]), write(vec![remove(1), remove(2)])];
        let planned = plan_all(&batch);
        assert_eq!(planned.len(), 1);
        assert_eq!(planned[0].ops.len(), 2);
        assert_eq!(planned[0].entries, [(0, 0), (1, 0), (1, 1)]);
    }

    #[test]
    fn a_removed_group_has_a_transaction_of_its_own() {
        let batch = [write(vec![remove(1)]), write(vec![Change::RemoveGroup]), write(vec![remove(1)])];
        assert_eq!(plan_all(&batch).len(), 3);
    }

    #[test]
    fn the_guards_of_all_slots_fit_beside_the_fullest_transaction() {
        let name = "n".repeat(100);
        let keys = Keyspace::new(&name).expect("a name");
        let tenures: Vec<_> = (0..50).map(tenure).collect();
        let large = |i: i32| Change::PutOffset {
            topic: "t".into(),
            partition: i,
            committed: CommittedOffset {
                offset: kafscale_core::ids::Offset(0),
                topic_id: TopicId(uuid::Uuid::nil()),
                leader_epoch: None,
                metadata: "x".repeat(28_000),
                commit_time_ms: 0,
                expires_at_ms: None,
            },
        };
        let batch: Vec<Write> = (0..50).map(|i| write_of(&tenures[i as usize], vec![large(i)])).collect();
        for planned in plan_all(&batch) {
            let tenures = planned.tenures(&batch);
            assert_eq!(tenures.len(), planned.entries.len());
            let guards: Vec<_> = tenures.into_iter().map(|tenure| (tenure, Revision(8))).collect();
            planned.guarded(&keys, &guards).validate().expect("within the limits");
        }
    }
}
