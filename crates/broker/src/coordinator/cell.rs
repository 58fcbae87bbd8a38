//! Where a group lives: its committed offsets, a summary for lists and metrics, and its state machine or the way to
//! the task that owns it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kafscale_core::group::offsets::CommittedOffsets;
use kafscale_core::group::{Generation, Group, GroupSnapshot, GroupState};
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tracing::error;

use super::Shared;
use super::command::Command;
use super::task::GroupTask;
use super::tenure::Tenure;

/// Requests that wait for the group's task. Whoever sends more waits with its connection.
const MAILBOX_SIZE: usize = 256;

#[derive(Debug)]
pub(super) struct Cell {
    pub id: Arc<str>,
    /// The period in which this broker coordinates the group.
    pub tenure: Arc<Tenure>,
    /// Changed only by [`Cell::change_offsets`].
    pub offsets: RwLock<CommittedOffsets>,
    /// What commits under way will add to the offsets.
    pub reserved_bytes: AtomicUsize,
    pub status: Mutex<Status>,
    /// Writes that are enqueued and not applied yet.
    pub unwritten: AtomicUsize,
    slot: Mutex<Slot>,
}

/// What the lists show without asking the task.
#[derive(Debug, Clone)]
pub(super) struct Status {
    pub state: GroupState,
    pub protocol_type: String,
    pub generation: Generation,
    pub members: usize,
    /// What its members take in memory.
    pub weight_bytes: usize,
    /// A record of the group is in the metadata store.
    pub stored: bool,
}

#[derive(Debug)]
enum Slot {
    Resting(Box<Group>),
    Active(mpsc::Sender<Command>),
    /// No longer in the map: look again.
    Forgotten,
}

/// Whether a command reached the group's task.
#[derive(Debug)]
pub(super) enum Delivery {
    Done,
    /// The cell is no longer in the map: look again.
    Forgotten(Command),
    /// The mailbox is full: wait for room in it, then try again.
    Full(Command, mpsc::Sender<Command>),
}

impl Cell {
    pub fn new(
        tenure: &Arc<Tenure>,
        id: Arc<str>,
        group: Group,
        offsets: CommittedOffsets,
        stored: bool,
    ) -> Cell {
        let status = Status {
            state: group.state(),
            protocol_type: group.protocol_type().to_owned(),
            generation: group.generation(),
            members: group.member_count(),
            weight_bytes: 0,
            stored,
        };
        tenure.offsets_bytes.fetch_add(offsets.weight_bytes(), Ordering::AcqRel);
        Cell {
            id,
            tenure: Arc::clone(tenure),
            offsets: RwLock::new(offsets),
            reserved_bytes: AtomicUsize::new(0),
            status: Mutex::new(status),
            unwritten: AtomicUsize::new(0),
            slot: Mutex::new(Slot::Resting(Box::new(group))),
        }
    }

    /// Puts a command into the mailbox of the group's task, which is started if the group is at rest.
    ///
    /// This happens under the lock of the slot, as does [`Cell::rest`]: a task never leaves with a command in its mailbox.
    pub fn deliver(self: &Arc<Self>, shared: &Arc<Shared>, command: Command) -> Delivery {
        let mut slot = self.slot.lock();
        let Some(mailbox) = self.mailbox(shared, &mut slot) else {
            return Delivery::Forgotten(command);
        };
        match mailbox.try_send(command) {
            Ok(()) => Delivery::Done,
            // A task that is closed has panicked just now; the next attempt finds that out.
            Err(TrySendError::Full(command) | TrySendError::Closed(command)) => {
                Delivery::Full(command, mailbox)
            }
        }
    }

    /// Starts the group's task, if it has none.
    pub fn activate(self: &Arc<Self>, shared: &Arc<Shared>) {
        let mut slot = self.slot.lock();
        self.mailbox(shared, &mut slot);
    }

    /// None when the cell was forgotten.
    fn mailbox(self: &Arc<Self>, shared: &Arc<Shared>, slot: &mut Slot) -> Option<mpsc::Sender<Command>> {
        match slot {
            Slot::Forgotten => None,
            Slot::Active(mailbox) if !mailbox.is_closed() => Some(mailbox.clone()),
            Slot::Active(_) => {
                // A task takes leave of its slot before it ends, so this one has panicked. Its members must join anew;
                // the committed offsets are here and unharmed.
                error!(group = %self.id, "the task of a group has failed, its members are lost");
                let group = Box::new(self.emptied(shared));
                Some(self.start_task(shared, slot, group))
            }
            Slot::Resting(_) => {
                let Slot::Resting(group) = std::mem::replace(slot, Slot::Forgotten) else { return None };
                Some(self.start_task(shared, slot, group))
            }
        }
    }

    fn start_task(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        slot: &mut Slot,
        group: Box<Group>,
    ) -> mpsc::Sender<Command> {
        let (mailbox, commands) = mpsc::channel(MAILBOX_SIZE);
        *slot = Slot::Active(mailbox.clone());
        shared.account(&mut self.status.lock(), group.weight_bytes());
        let task = GroupTask::new(Arc::clone(shared), Arc::clone(self), group, commands);
        shared.spawn(&self.tenure, task.run());
        mailbox
    }

    fn emptied(&self, shared: &Shared) -> Group {
        let mut status = self.status.lock();
        shared.account(&mut status, 0);
        status.members = 0;
        let snapshot = GroupSnapshot {
            generation: status.generation,
            protocol_type: Some(status.protocol_type.clone()),
            protocol_name: None,
            leader: None,
            state_since_ms: shared.timeline.now_ms(),
            members: Vec::new(),
        };
        Group::restore(snapshot, shared.config.group, shared.timeline.now_ms())
    }

    /// Looks at a group at rest. None while a task has it.
    pub fn at_rest<T>(&self, look: impl FnOnce(&Group) -> T) -> Option<T> {
        match &*self.slot.lock() {
            Slot::Resting(group) => Some(look(group)),
            Slot::Active(_) | Slot::Forgotten => None,
        }
    }

    /// Takes a group back from its task, unless a request has come in meanwhile. A group that nothing would be lost of
    /// is forgotten altogether.
    pub fn rest(
        self: &Arc<Self>,
        group: Box<Group>,
        commands: &mpsc::Receiver<Command>,
    ) -> Result<(), Box<Group>> {
        // The order of these locks is the same everywhere: first the map, then the slot.
        let mut cells = self.tenure.cells.lock();
        let mut slot = self.slot.lock();
        if !commands.is_empty() || self.tenure.ended.is_cancelled() {
            return Err(group);
        }
        if self.is_trace_of_nothing() {
            cells.remove(&self.id);
            *slot = Slot::Forgotten;
        } else {
            *slot = Slot::Resting(group);
        }
        Ok(())
    }

    fn is_trace_of_nothing(&self) -> bool {
        let unwritten = self.unwritten.load(Ordering::Acquire) > 0;
        if unwritten || !self.offsets.read().is_empty() {
            return false;
        }
        let status = self.status.lock();
        status.members == 0 && !status.stored
    }

    /// Takes the cell out of the map, so that the next request for the group makes a new one.
    pub fn forget(&self) {
        let mut cells = self.tenure.cells.lock();
        *self.slot.lock() = Slot::Forgotten;
        cells.remove(&self.id);
    }

    /// Lets a group at rest go with its tenure. A task finds out by itself.
    pub fn forget_at_rest(&self) {
        let mut slot = self.slot.lock();
        if matches!(&*slot, Slot::Resting(_)) {
            *slot = Slot::Forgotten;
        }
    }
}
