//! Who coordinates which slot, as far as this broker knows, and which of them it coordinates itself.
//!
//! Invariant: nothing is answered for a group unless its slot is being served and the lease of this incarnation surely holds at
//! that moment. The lease is compared with the clock each time, because a process that was stopped hears of events late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kafscale_core::group::{GroupError, slot_of};
use kafscale_core::ids::NodeId;
use kafscale_core::placement::Incarnation;
use kafscale_meta::records::{COORDINATOR_SLOTS, PartitionAssignment};
use kafscale_meta::{LeaseState, Revision, lost};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::info;

use super::room::OffsetsBytes;
use super::tenure::{Phase, Tenure};

#[derive(Debug)]
pub(super) struct Slots {
    own: Incarnation,
    lease: watch::Receiver<LeaseState>,
    /// By the number of the slot.
    table: RwLock<Vec<Seat>>,
    /// Something in it may be different.
    changed: watch::Sender<()>,
    fenced: AtomicU64,
    /// Of all slots that are coordinated here.
    pub offsets_bytes: OffsetsBytes,
}

/// The record of a slot as it was last seen; [`Revision`] 0 while there is none.
#[derive(Debug, Default)]
struct Seat {
    record: PartitionAssignment,
    revision: Revision,
    /// While this incarnation coordinates the slot.
    tenure: Option<Arc<Tenure>>,
}

/// What a change of a slot's record asks for.
#[derive(Debug)]
pub(super) enum Todo {
    Nothing,
    /// Read the groups and serve them.
    Load(Arc<Tenure>),
    /// Finish what was accepted, then let the slot go.
    Release(Arc<Tenure>),
}

impl Slots {
    /// This start of this broker.
    pub fn own(&self) -> Incarnation {
        self.own
    }

    pub fn new(own: Incarnation, lease: watch::Receiver<LeaseState>) -> Slots {
        let table = (0..COORDINATOR_SLOTS).map(|_| Seat::default()).collect();
        let (changed, fenced) = (watch::Sender::new(()), AtomicU64::new(0));
        let offsets_bytes = OffsetsBytes::default();
        Slots { own, lease, table: RwLock::new(table), changed, fenced, offsets_bytes }
    }

    pub fn holds_lease(&self) -> bool {
        self.lease.borrow().holds(Instant::now())
    }

    pub fn lease(&self) -> watch::Receiver<LeaseState> {
        self.lease.clone()
    }

    /// The tenure that serves a group now.
    pub fn serving(&self, group: &str) -> Result<Arc<Tenure>, GroupError> {
        if !self.holds_lease() {
            return Err(GroupError::NotCoordinator);
        }
        let table = self.table.read();
        let tenure = table[seat_of(group)].tenure.as_ref().ok_or(GroupError::NotCoordinator)?;
        match tenure.phase() {
            Phase::Serving => Ok(Arc::clone(tenure)),
            Phase::Loading => Err(GroupError::Loading),
            Phase::Ended | Phase::Deposed => Err(GroupError::NotCoordinator),
        }
    }

    /// Who coordinates a group.
    pub fn owner_of(&self, group: &str) -> Option<Incarnation> {
        let record = self.table.read()[seat_of(group)].record;
        let owner = record.owner.map(NodeId)?;
        Some(Incarnation { node_id: owner, epoch: record.incarnation })
    }

    /// All tenures that have not ended.
    pub fn tenures(&self) -> Vec<Arc<Tenure>> {
        self.table.read().iter().filter_map(|seat| seat.tenure.clone()).collect()
    }

    /// Returns when every slot has a coordinator, and those of this broker are served if they can be; or when its lease is lost.
    pub async fn ready(&self) {
        let tried = |tenure: &Arc<Tenure>| {
            tenure.phase() == Phase::Serving || tenure.unreadable.load(Ordering::Relaxed)
        };
        let ready = |seat: &Seat| seat.record.owner.is_some() && seat.tenure.as_ref().is_none_or(tried);
        let (mut changed, mut lease) = (self.changed.subscribe(), self.lease());
        let waiting =
            async { while !self.table.read().iter().all(ready) && changed.changed().await.is_ok() {} };
        tokio::select! {
            () = waiting => {}
            () = lost(&mut lease) => {}
        }
    }

    /// Tells those who wait for something to look again.
    pub fn announce(&self) {
        self.changed.send_replace(());
    }

    /// Takes note of a slot's record as it was at a revision, None where there is none. Older ones than what is known count for
    /// nothing.
    pub fn apply(&self, slot: i32, record: Option<PartitionAssignment>, revision: Revision) -> Todo {
        let mut table = self.table.write();
        let seat = usize::try_from(slot).ok().and_then(|slot| table.get_mut(slot));
        let Some(seat) = seat.filter(|seat| revision > seat.revision) else { return Todo::Nothing };
        let record = record.unwrap_or_default();
        (seat.record, seat.revision) = (record, revision);
        let ours = record.owner == Some(self.own.node_id.0) && record.incarnation == self.own.epoch;
        if let Some(tenure) = seat.tenure.take() {
            if tenure.is_of(&record) && (record.release || tenure.phase() != Phase::Ended) {
                tenure.note(record, revision);
                let asked_before = tenure.phase() == Phase::Ended;
                if record.release {
                    tenure.end();
                }
                seat.tenure = Some(Arc::clone(&tenure));
                return if record.release && !asked_before { Todo::Release(tenure) } else { Todo::Nothing };
            }
            tenure.depose();
        }
        if !ours {
            return Todo::Nothing;
        }
        let tenure = Arc::new(Tenure::new(slot, record, revision).counting(&self.offsets_bytes));
        seat.tenure = Some(Arc::clone(&tenure));
        if record.release {
            tenure.end();
            Todo::Release(tenure)
        } else {
            Todo::Load(tenure)
        }
    }

    /// Slots that were found to be somebody else's only when something was to be written.
    pub fn fenced(&self) -> u64 {
        self.fenced.load(Ordering::Relaxed)
    }

    /// Ends a tenure whose slot was found to be somebody else's when something was to be written.
    pub fn fence(&self, tenure: &Arc<Tenure>) {
        if tenure.phase() != Phase::Deposed {
            self.fenced.fetch_add(1, Ordering::Relaxed);
            info!(slot = tenure.slot, epoch = tenure.epoch, "another broker coordinates the slot");
        }
        self.depose(tenure);
    }

    /// Ends a tenure whose slot is not ours any more.
    pub fn depose(&self, tenure: &Arc<Tenure>) {
        let seat = usize::try_from(tenure.slot).expect("a slot of the table");
        let mut table = self.table.write();
        if table[seat].tenure.as_ref().is_some_and(|current| Arc::ptr_eq(current, tenure)) {
            table[seat].tenure = None;
        }
        tenure.depose();
    }

    /// Ends all tenures; what was accepted is still written.
    pub fn end_all(&self) {
        for tenure in self.table.write().iter_mut().filter_map(|seat| seat.tenure.take()) {
            tenure.end();
        }
    }
}

fn seat_of(group: &str) -> usize {
    usize::try_from(slot_of(group, COORDINATOR_SLOTS)).expect("a slot is not negative")
}
