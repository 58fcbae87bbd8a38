//! The one task that writes groups and offsets: it takes what has been asked for while it was busy, and puts it into as
//! few transactions as the store allows.
//!
//! Invariant: changes reach the store, and then the cells, in the order in which they were enqueued.
//!
//! The queue has no limit of its own: every write but those of retention has a request or a group that waits for it, and
//! connections and groups are limited.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kafscale_core::group::GroupSnapshot;
use kafscale_core::group::offsets::CommittedOffset;
use kafscale_meta::records::{Keyspace, OffsetKey};
use kafscale_meta::{Error, ErrorKind, MAX_TXN_BYTES, MAX_TXN_OPS, MetaStore, Op, Txn};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::error;

use super::cell::Cell;
use super::record;

/// Operations that are planned at once.
const BATCH_MAX_OPS: usize = 16 * MAX_TXN_OPS;

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
    },
    PutGroup(GroupSnapshot),
    /// The group with all its offsets.
    RemoveGroup,
}

pub(super) type Written = Result<(), Error>;

/// Several changes of one group.
#[derive(Debug)]
struct Write {
    cell: Arc<Cell>,
    entries: Vec<Entry>,
    done: Option<oneshot::Sender<Written>>,
}

#[derive(Debug)]
struct Entry {
    ops: Vec<Op>,
    change: Change,
}

/// Where writes are handed in. Closed when the coordinator stops.
#[derive(Debug)]
pub(super) struct WriteQueue(Mutex<Option<mpsc::UnboundedSender<Write>>>);

impl WriteQueue {
    /// Writes the changes after all that were enqueued before. `done` learns the outcome once the cell has them.
    pub fn enqueue(
        &self,
        keys: &Keyspace,
        cell: &Arc<Cell>,
        changes: Vec<Change>,
        done: Option<oneshot::Sender<Written>>,
    ) {
        let entries = changes.into_iter().map(|change| Entry::new(keys, &cell.id, change)).collect();
        let write = Write { cell: Arc::clone(cell), entries, done };
        if let Some(queue) = &*self.0.lock() {
            cell.unwritten.fetch_add(1, Ordering::AcqRel);
            if queue.send(write).is_err() {
                // Only a failed writer is gone before the queue is closed; the asker sees that nobody answers.
                cell.unwritten.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    pub fn close(&self) {
        *self.0.lock() = None;
    }
}

pub(super) fn start(store: Arc<dyn MetaStore>) -> (WriteQueue, JoinHandle<()>) {
    let (queue, writes) = mpsc::unbounded_channel();
    (WriteQueue(Mutex::new(Some(queue))), tokio::spawn(run(store, writes)))
}

async fn run(store: Arc<dyn MetaStore>, mut writes: mpsc::UnboundedReceiver<Write>) {
    while let Some(first) = writes.recv().await {
        let mut ops = first.entries.len();
        let mut batch = vec![first];
        while ops < BATCH_MAX_OPS
            && let Ok(next) = writes.try_recv()
        {
            ops += next.entries.len();
            batch.push(next);
        }
        write_batch(&*store, batch).await;
    }
}

async fn write_batch(store: &dyn MetaStore, batch: Vec<Write>) {
    let mut outcomes: Vec<Written> = vec![Ok(()); batch.len()];
    let mut unreachable: Option<Error> = None;
    for planned in plan(&batch) {
        let outcome = match &unreachable {
            // What the store could not do now it cannot do for the rest either.
            Some(error) => Err(error.clone()),
            None => store.txn(planned.txn).await.map(drop),
        };
        for (write, entry) in planned.entries {
            match &outcome {
                Ok(()) => apply(&batch[write].cell, &batch[write].entries[entry].change),
                Err(error) => outcomes[write] = Err(error.clone()),
            }
        }
        if let Err(error) = outcome
            && unreachable.is_none()
        {
            error!(%error, "groups and offsets could not be written");
            unreachable = error.kind().is_retriable().then_some(error);
        }
    }
    for (write, outcome) in batch.into_iter().zip(outcomes) {
        write.cell.unwritten.fetch_sub(1, Ordering::AcqRel);
        if let Some(done) = write.done {
            // The asker may have gone away.
            let _ = done.send(outcome);
        }
    }
}

fn apply(cell: &Cell, change: &Change) {
    match change {
        Change::PutOffset { topic, partition, committed } => {
            cell.offsets.write().insert(topic, *partition, committed.clone());
        }
        Change::RemoveOffset { topic, partition } => {
            cell.offsets.write().remove(topic, *partition);
        }
        Change::PutGroup(_) => cell.status.lock().stored = true,
        Change::RemoveGroup => {
            cell.status.lock().stored = false;
            *cell.offsets.write() = Default::default();
        }
    }
}

/// A transaction, and which entry of which write it holds.
#[derive(Debug, Default)]
struct PlannedTxn {
    txn: Txn,
    entries: Vec<(usize, usize)>,
}

/// Puts the entries of all writes, in order, into transactions within the store's limits.
fn plan(batch: &[Write]) -> Vec<PlannedTxn> {
    let mut planner = Planner::default();
    for (write, entries) in batch.iter().enumerate() {
        for (entry, Entry { ops, change }) in entries.entries.iter().enumerate() {
            match (change, ops.as_slice()) {
                (Change::RemoveGroup, ops) => planner.alone(ops, (write, entry)),
                (Change::PutOffset { .. } | Change::RemoveOffset { .. } | Change::PutGroup(_), ops) => {
                    planner.add(ops, (write, entry));
                }
            }
        }
    }
    planner.close();
    planner.planned
}

#[derive(Debug, Default)]
struct Planner {
    planned: Vec<PlannedTxn>,
    open: PlannedTxn,
    open_bytes: usize,
    /// Where in the open transaction a key is changed. A transaction changes a key once, so a later change replaces it.
    open_keys: HashMap<String, usize>,
}

impl Planner {
    fn add(&mut self, ops: &[Op], entry: (usize, usize)) {
        for op in ops {
            let (key, bytes) = weigh(op);
            if let Some(&at) = self.open_keys.get(key) {
                let (_, replaced) = weigh(&self.open.txn.then[at]);
                if self.open_bytes - replaced + bytes <= MAX_TXN_BYTES {
                    self.open_bytes = self.open_bytes - replaced + bytes;
                    self.open.txn.then[at] = op.clone();
                    continue;
                }
            }
            if self.open.txn.then.len() >= MAX_TXN_OPS || self.open_bytes + bytes > MAX_TXN_BYTES {
                self.close();
            }
            self.open_keys.insert(key.to_owned(), self.open.txn.then.len());
            self.open_bytes += bytes;
            self.open.txn.then.push(op.clone());
        }
        self.open.entries.push(entry);
    }

    /// Changes that cannot share a transaction: a prefix is deleted together with nothing below it.
    fn alone(&mut self, ops: &[Op], entry: (usize, usize)) {
        self.close();
        self.open.txn.then.extend(ops.iter().cloned());
        self.open.entries.push(entry);
        self.close();
    }

    fn close(&mut self) {
        let open = std::mem::take(&mut self.open);
        if !open.txn.then.is_empty() {
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

impl Entry {
    fn new(keys: &Keyspace, group: &str, change: Change) -> Entry {
        let offset_key = |topic: &Arc<str>, partition: i32| {
            keys.offset(&OffsetKey { group: group.to_owned(), topic: topic.to_string(), partition })
        };
        let ops = match &change {
            Change::PutOffset { topic, partition, committed } => {
                vec![Op::put(offset_key(topic, *partition), record::encode_offset(committed))]
            }
            Change::RemoveOffset { topic, partition } => vec![Op::delete(offset_key(topic, *partition))],
            Change::PutGroup(snapshot) => vec![Op::put(keys.group(group), record::encode_group(snapshot))],
            Change::RemoveGroup => {
                vec![Op::delete_prefix(keys.offsets_of_group_prefix(group)), Op::delete(keys.group(group))]
            }
        };
        Entry { ops, change }
    }
}

/// Whether a failed write may succeed when the client tries again.
pub(super) fn is_too_large(error: &Error) -> bool {
    error.kind() == ErrorKind::Invalid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(changes: Vec<Change>) -> Write {
        let keys = Keyspace::new("c").expect("a name");
        let machine = kafscale_core::group::Group::new(Default::default(), 0);
        let cell = Arc::new(Cell::new("g".into(), machine, Default::default(), false));
        let entries = changes.into_iter().map(|change| Entry::new(&keys, "g", change)).collect();
        Write { cell, entries, done: None }
    }

    fn remove(partition: i32) -> Change {
        Change::RemoveOffset { topic: "t".into(), partition }
    }

    #[test]
    fn writes_share_transactions_up_to_the_limit() {
        let batch = [write((0..100).map(remove).collect()), write((100..200).map(remove).collect())];
        let planned = plan(&batch);
        let ops: Vec<usize> = planned.iter().map(|p| p.txn.then.len()).collect();
        assert_eq!(ops, [MAX_TXN_OPS, 200 - MAX_TXN_OPS]);
        assert_eq!(planned.iter().map(|p| p.entries.len()).sum::<usize>(), 200);
    }

    #[test]
    fn a_key_is_changed_once_and_the_last_change_wins() {
        let batch = [write(vec![remove(1)]), write(vec![remove(1), remove(2)])];
        let planned = plan(&batch);
        assert_eq!(planned.len(), 1);
        assert_eq!(planned[0].txn.then.len(), 2);
        assert_eq!(planned[0].entries, [(0, 0), (1, 0), (1, 1)]);
        planned[0].txn.validate().expect("within the limits");
    }

    #[test]
    fn a_removed_group_has_a_transaction_of_its_own() {
        let batch = [write(vec![remove(1)]), write(vec![Change::RemoveGroup]), write(vec![remove(1)])];
        let planned = plan(&batch);
        assert_eq!(planned.len(), 3);
        for planned in planned {
            planned.txn.validate().expect("within the limits");
        }
    }
}
