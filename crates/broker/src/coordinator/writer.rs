//! The one task that writes groups and offsets: it takes what has been asked for while it was busy, and puts it into as
//! few transactions as the store allows.
//!
//! Invariant: changes reach the store, and then the cells, in the order in which they were enqueued.
//! Invariant: each transaction is guarded by the records of the slots that it is about, so that a former coordinator writes
//! nothing, however late it wakes up ([`super::guard`]).
//! Invariant: while it is not known what became of a transaction, no other one is begun.
//!
//! The queue is limited: requests and groups wait for their writes, but a client that does not wait leaves its write behind and may send
//! the next one, and a store that does not answer takes seconds for each transaction. What finds no room has failed, as if the store
//! had refused it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kafscale_core::ids::TopicId;
use kafscale_meta::records::Keyspace;
use kafscale_meta::{Error, ErrorKind, MAX_TXN_OPS, Metadata};
use parking_lot::Mutex;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::error;

use super::cell::Cell;
use super::guard::Guard;
use super::plan::{Change, Entry, Place, Planned, plan};
use super::slots::Slots;
use super::tenure::Phase;
use crate::log_limit::{Line, LogLimits};

/// Operations that are planned at once.
const BATCH_MAX_OPS: usize = 16 * MAX_TXN_OPS;
/// So many writes wait at most.
const QUEUE_MAX: usize = 16 << 10;
/// A transaction whose guard was changed, or whose fate was unknown, is done again so often.
const ATTEMPTS_MAX: usize = 4;

/// Without anything to write, this often it is tried to find out what became of a transaction.
const SETTLE_INTERVAL: Duration = Duration::from_secs(1);

pub(super) type Written = Result<(), Error>;

/// Several changes of one group.
#[derive(Debug)]
pub(super) struct Write {
    pub cell: Arc<Cell>,
    pub entries: Vec<Entry>,
    pub done: Option<oneshot::Sender<Written>>,
    /// The slot is not let go before this is dropped.
    pub owed: TaskTrackerToken,
}

/// Where writes are handed in. Closed when the coordinator stops.
#[derive(Debug)]
pub(super) struct WriteQueue(Mutex<Option<mpsc::Sender<Write>>>);

impl WriteQueue {
    /// Writes the changes after all that were enqueued before. `done` learns the outcome once the cell has them, or at once when too
    /// many wait already.
    pub fn enqueue(
        &self,
        keys: &Keyspace,
        cell: &Arc<Cell>,
        changes: Vec<Change>,
        done: Option<oneshot::Sender<Written>>,
    ) {
        let entries = changes.into_iter().map(|change| Entry::new(keys, &cell.id, change)).collect();
        let write = Write { cell: Arc::clone(cell), entries, done, owed: cell.tenure.tasks.token() };
        if let Some(queue) = &*self.0.lock() {
            cell.unwritten.fetch_add(1, Ordering::AcqRel);
            let Err(refused) = queue.try_send(write) else { return };
            cell.unwritten.fetch_sub(1, Ordering::AcqRel);
            match refused {
                TrySendError::Full(write) => {
                    let error =
                        Error::new(ErrorKind::Retry, "too many groups and offsets wait to be written");
                    if let Some(done) = write.done {
                        // The asker may have gone away.
                        let _ = done.send(Err(error));
                    }
                }
                // Only a failed writer is gone before the queue is closed; the asker sees that nobody answers.
                TrySendError::Closed(_) => {}
            }
        }
    }

    pub fn close(&self) {
        *self.0.lock() = None;
    }
}

pub(super) fn start(
    metadata: Metadata,
    slots: Arc<Slots>,
    lines: Arc<LogLimits>,
) -> (WriteQueue, JoinHandle<()>) {
    let (queue, writes) = mpsc::channel(QUEUE_MAX);
    let writer = Writer { guard: Guard::new(metadata.clone(), slots), metadata, lines };
    (WriteQueue(Mutex::new(Some(queue))), tokio::spawn(writer.run(writes)))
}

#[derive(Debug)]
struct Writer {
    metadata: Metadata,
    guard: Guard,
    lines: Arc<LogLimits>,
}

impl Writer {
    async fn run(mut self, mut writes: mpsc::Receiver<Write>) {
        loop {
            let next = match self.guard.is_settled() {
                true => Ok(writes.recv().await),
                false => timeout(SETTLE_INTERVAL, writes.recv()).await,
            };
            let Ok(first) = next else {
                // Nobody waits for it: should it fail, it is tried again.
                let _ = self.guard.settle().await;
                continue;
            };
            let Some(first) = first else { return };
            let mut ops = first.entries.len();
            let mut batch = vec![first];
            while ops < BATCH_MAX_OPS
                && let Ok(next) = writes.try_recv()
            {
                ops += next.entries.len();
                batch.push(next);
            }
            self.write_batch(batch).await;
        }
    }

    async fn write_batch(&mut self, batch: Vec<Write>) {
        let mut outcomes: Vec<Written> = vec![Ok(()); batch.len()];
        // What the store could not do now it cannot do for the rest either.
        let mut unreachable = self.guard.settle().await.err();
        for mut planned in plan(&batch, places(&batch)) {
            let outcome = match &unreachable {
                Some(error) => Err(error.clone()),
                None => self.write(&batch, &mut planned, &mut outcomes).await,
            };
            let Err(error) = outcome else { continue };
            for (write, _) in &planned.entries {
                outcomes[*write] = Err(error.clone());
            }
            if unreachable.is_none() {
                // A group with too much metadata fails each time that its members join.
                if self.lines.allow(Line::WriteFailed) {
                    error!(%error, "groups and offsets could not be written");
                }
                unreachable = error.kind().is_retriable().then_some(error);
            }
        }
        for (write, outcome) in batch.into_iter().zip(outcomes) {
            write.cell.unwritten.fetch_sub(1, Ordering::AcqRel);
            if let Some(done) = write.done {
                // The asker may have gone away.
                let _ = done.send(outcome);
            }
            drop(write.owed);
        }
    }

    /// Does one transaction. An error is that of all entries that are still planned.
    async fn write(&mut self, batch: &[Write], planned: &mut Planned, outcomes: &mut [Written]) -> Written {
        let mut last = None;
        for _ in 0..ATTEMPTS_MAX {
            refuse_deposed(batch, planned, outcomes);
            if planned.entries.is_empty() {
                return Ok(());
            }
            let guards: Vec<_> = planned
                .tenures(batch)
                .into_iter()
                .map(|tenure| {
                    let revision = tenure.revision();
                    (tenure, revision)
                })
                .collect();
            let txn = planned.guarded(self.metadata.keys(), &guards);
            match self.metadata.store().txn(txn).await {
                Ok(outcome) if outcome.succeeded => {
                    for (write, entry) in &planned.entries {
                        apply(&batch[*write].cell, &batch[*write].entries[*entry].change);
                    }
                    return Ok(());
                }
                Ok(_) => self.guard.look(guards.iter().map(|(tenure, _)| tenure)).await?,
                Err(error) if error.kind() == ErrorKind::Retry => {
                    let cells = planned.entries.iter().map(|(write, _)| Arc::clone(&batch[*write].cell));
                    self.guard.lost_sight_of(guards, cells);
                    // Done again once that one cannot happen any more: the same changes twice are the same as once.
                    self.guard.settle().await?;
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last
            .unwrap_or_else(|| Error::new(ErrorKind::Retry, "the coordinators' records change all the time")))
    }
}

/// The places of all entries that are not overtaken.
fn places(batch: &[Write]) -> Vec<Place> {
    let all = batch.iter().enumerate().flat_map(|(w, write)| (0..write.entries.len()).map(move |e| (w, e)));
    let conditional =
        |(w, e): &Place| matches!(batch[*w].entries[*e].change, Change::RemoveOffset { of: Some(_), .. });
    let mut places: Vec<Place> = all.collect();
    if !places.iter().any(conditional) {
        return places;
    }
    // An offset that was committed for a new topic must not go with those of an old one of the same name.
    let mut put: HashMap<(*const Cell, &str, i32), TopicId> = HashMap::new();
    places.retain(|(w, e)| {
        let cell = &batch[*w].cell;
        match &batch[*w].entries[*e].change {
            Change::PutOffset { topic, partition, committed } => {
                put.insert((Arc::as_ptr(cell), topic, *partition), committed.topic_id);
                true
            }
            Change::RemoveOffset { topic, partition, of: Some(of) } => {
                let put = put.get(&(Arc::as_ptr(cell), topic, *partition)).copied();
                let current = put.or_else(|| {
                    cell.offsets.read().get(topic, *partition).map(|committed| committed.topic_id)
                });
                current == Some(*of)
            }
            Change::RemoveOffset { of: None, .. } | Change::PutGroup(_) | Change::RemoveGroup => true,
        }
    });
    places
}

/// Takes out what cannot be written any more because another broker coordinates the slot.
fn refuse_deposed(batch: &[Write], planned: &mut Planned, outcomes: &mut [Written]) {
    let deposed = |write: usize| batch[write].cell.tenure.phase() == Phase::Deposed;
    if !planned.entries.iter().any(|(write, _)| deposed(*write)) {
        return;
    }
    let (gone, left): (Vec<Place>, Vec<Place>) =
        planned.entries.iter().partition(|(write, _)| deposed(*write));
    for (write, _) in gone {
        let why = "another broker coordinates the group";
        outcomes[write] = Err(Error::new(ErrorKind::Fenced, why));
    }
    // A part of what fitted into one transaction.
    *planned = plan(batch, left).pop().unwrap_or_default();
}

fn apply(cell: &Cell, change: &Change) {
    match change {
        Change::PutOffset { topic, partition, committed } => {
            cell.change_offsets(|offsets| offsets.insert(topic, *partition, committed.clone()));
        }
        Change::RemoveOffset { topic, partition, .. } => {
            cell.change_offsets(|offsets| drop(offsets.remove(topic, *partition)));
        }
        Change::PutGroup(_) => cell.status.lock().stored = true,
        Change::RemoveGroup => {
            cell.status.lock().stored = false;
            cell.change_offsets(|offsets| *offsets = Default::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use kafscale_core::group::offsets::CommittedOffsets;
    use kafscale_core::group::{Group, GroupConfig};
    use kafscale_meta::Revision;
    use kafscale_meta::records::PartitionAssignment;

    use super::super::tenure::Tenure;
    use super::*;

    #[test]
    fn a_write_that_finds_no_room_has_failed() {
        let (sender, mut writes) = mpsc::channel(1);
        let queue = WriteQueue(Mutex::new(Some(sender)));
        let keys = Keyspace::new("test").unwrap();
        let tenure = Arc::new(Tenure::new(0, PartitionAssignment::default(), Revision(1)));
        let group = Group::new(GroupConfig::default(), 0);
        let cell = Arc::new(Cell::new(&tenure, "g".into(), group, CommittedOffsets::default(), false));
        let mut outcomes = std::iter::repeat_with(|| {
            let (done, outcome) = oneshot::channel();
            queue.enqueue(&keys, &cell, vec![Change::RemoveGroup], Some(done));
            outcome
        });
        let (mut first, mut second) = (outcomes.next().unwrap(), outcomes.next().unwrap());
        assert!(first.try_recv().is_err(), "it waits");
        let refused = second.try_recv().unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Retry);
        assert_eq!(cell.unwritten.load(Ordering::Relaxed), 1);
        writes.try_recv().unwrap();
        assert!(outcomes.next().unwrap().try_recv().is_err(), "there is room again");
    }
}
