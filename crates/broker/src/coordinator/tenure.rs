//! One period in which this incarnation coordinates one slot: the groups of the slot, and the revision of its record that
//! guards whatever is written for them.
//!
//! Invariant: a tenure that has ended never serves again. Whoever is given the same slot anew begins another one, and reads
//! everything again.
//! Invariant: the guard only ever moves to a later revision of a record that names this incarnation in this epoch.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kafscale_meta::Revision;
use kafscale_meta::records::{CoordinatorRecord, PartitionAssignment};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cell::Cell;
use super::room::OffsetsBytes;

pub(super) type Cells = HashMap<Arc<str>, Arc<Cell>>;

#[derive(Debug)]
pub(super) struct Tenure {
    pub slot: i32,
    pub epoch: i32,
    /// The groups that are known, once they are read.
    pub cells: Mutex<Cells>,
    held: Mutex<Held>,
    /// What committed offsets take: of all slots, where [`Tenure::counting`] says so.
    pub offsets_bytes: OffsetsBytes,
    /// The groups were read, but some record could not be made out.
    pub unreadable: AtomicBool,
    /// Cancelled when the tenure ends: whoever waits is sent away.
    pub ended: CancellationToken,
    /// Tasks of groups, answers that are owed, and writes that are not done: what has to come to its end before the slot is
    /// let go.
    pub tasks: TaskTracker,
}

#[derive(Debug)]
struct Held {
    record: PartitionAssignment,
    revision: Revision,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The groups are being read.
    Loading,
    Serving,
    /// Nothing is accepted any more; what was accepted is still written.
    Ended,
    /// The slot has another owner, or none: nothing can be written any more.
    Deposed,
}

impl Tenure {
    pub fn new(slot: i32, record: PartitionAssignment, revision: Revision) -> Tenure {
        Tenure {
            slot,
            epoch: record.leader_epoch,
            cells: Mutex::default(),
            held: Mutex::new(Held { record, revision, phase: Phase::Loading }),
            offsets_bytes: OffsetsBytes::default(),
            unreadable: AtomicBool::new(false),
            ended: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Counts the bytes of its offsets together with those of other slots.
    pub fn counting(self, offsets_bytes: &OffsetsBytes) -> Tenure {
        Tenure { offsets_bytes: Arc::clone(offsets_bytes), ..self }
    }

    pub fn phase(&self) -> Phase {
        self.held.lock().phase
    }

    /// What guards a write.
    pub fn revision(&self) -> Revision {
        self.held.lock().revision
    }

    /// The slot's record as it was last seen, and its revision.
    pub fn record(&self) -> (CoordinatorRecord, Revision) {
        let held = self.held.lock();
        (CoordinatorRecord { slot: held.record }, held.revision)
    }

    /// Whether a record of the slot is one of this tenure.
    pub fn is_of(&self, record: &PartitionAssignment) -> bool {
        let held = self.held.lock();
        let own = |a: &PartitionAssignment| (a.owner, a.incarnation, a.leader_epoch);
        own(record) == own(&held.record)
    }

    /// Takes note of a record of this tenure.
    pub fn note(&self, record: PartitionAssignment, revision: Revision) {
        debug_assert!(self.is_of(&record), "the record of another tenure");
        let mut held = self.held.lock();
        if revision > held.revision {
            (held.record, held.revision) = (record, revision);
        }
    }

    /// Serves these groups, unless the tenure has ended meanwhile.
    pub fn begin_serving(&self, cells: Cells) -> bool {
        let mut map = self.cells.lock();
        let mut held = self.held.lock();
        if held.phase != Phase::Loading {
            return false;
        }
        held.phase = Phase::Serving;
        *map = cells;
        true
    }

    /// Ends the tenure: sends everybody away and forgets the groups. Writes that were accepted go on.
    pub fn end(&self) {
        self.leave(Phase::Ended);
    }

    /// Ends the tenure, and its writes: they cannot succeed any more.
    pub fn depose(&self) {
        self.leave(Phase::Deposed);
    }

    fn leave(&self, phase: Phase) {
        // In the order in which cells take these locks too: the map, then a cell's own.
        let mut map = self.cells.lock();
        {
            let mut held = self.held.lock();
            if held.phase == Phase::Deposed {
                return;
            }
            held.phase = phase;
        }
        self.ended.cancel();
        for cell in map.drain().map(|(_, cell)| cell) {
            cell.forget_at_rest();
        }
        self.tasks.close();
    }
}
