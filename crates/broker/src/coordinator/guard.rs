//! What guards the writes of a coordinator: the revisions of its slots' records.
//!
//! A guard fails when the record was changed: by the controller, which asks for the slot or has given it to somebody else, or
//! by this very coordinator, to make sure that a transaction it lost sight of cannot happen any more.
//!
//! A transaction whose answer did not come may still be done, and even later than one that is begun after it; a committed offset
//! would then go back. So after such a one the record of one of its slots is written again as it is. From then on it is either done
//! or never will be: its guards do not hold any more. What it left in the store is read into the cells, since a cell shows
//! what is there.

use std::collections::HashSet;
use std::sync::Arc;

use kafscale_core::group::offsets::CommittedOffsets;
use kafscale_meta::{ErrorKind, Metadata, Result, Revision};
use tracing::{info, warn};

use super::cell::Cell;
use super::record;
use super::slots::Slots;
use super::tenure::{Phase, Tenure};

/// How often the record is written before the caller has to come again.
const FENCE_ATTEMPTS_MAX: usize = 3;

#[derive(Debug)]
pub(super) struct Guard {
    metadata: Metadata,
    slots: Arc<Slots>,
    unsettled: Option<Unsettled>,
}

/// A transaction that is not known to be done or not.
#[derive(Debug)]
struct Unsettled {
    /// Its guards.
    guards: Vec<(Arc<Tenure>, Revision)>,
    /// The groups that it changes, if it is done.
    cells: Vec<Arc<Cell>>,
}

impl Guard {
    pub fn new(metadata: Metadata, slots: Arc<Slots>) -> Guard {
        Guard { metadata, slots, unsettled: None }
    }

    /// Looks at the records of slots, after a guard has failed. Ends the tenures of slots that are not ours any more.
    pub async fn look(&self, tenures: impl IntoIterator<Item = &Arc<Tenure>>) -> Result<()> {
        let listed = self.metadata.list_coordinators().await?.items;
        for tenure in tenures {
            let found = listed.iter().find(|(slot, _)| *slot == tenure.slot);
            match found {
                Some((_, read)) if tenure.is_of(&read.record.slot) => {
                    tenure.note(read.record.slot, read.mod_revision);
                }
                Some(_) | None => self.slots.fence(tenure),
            }
        }
        Ok(())
    }

    /// Notes that it is not known what became of a transaction. Nothing may be written before [`Guard::settle`] succeeds.
    pub fn lost_sight_of(
        &mut self,
        guards: Vec<(Arc<Tenure>, Revision)>,
        cells: impl Iterator<Item = Arc<Cell>>,
    ) {
        let mut seen = HashSet::new();
        let cells = cells.filter(|cell| seen.insert(Arc::as_ptr(cell))).collect();
        self.unsettled = Some(Unsettled { guards, cells });
    }

    /// Whether it is known what became of everything.
    pub fn is_settled(&self) -> bool {
        self.unsettled.is_none()
    }

    /// Makes sure that nothing that was begun before can still happen, and that the cells show what did happen.
    pub async fn settle(&mut self) -> Result<()> {
        let Some(unsettled) = self.unsettled.take() else { return Ok(()) };
        let settled = self.try_settle(&unsettled).await;
        match &settled {
            Ok(()) => info!(groups = unsettled.cells.len(), "known again what became of a write"),
            Err(error) => {
                warn!(%error, "it is not known what became of a write, nothing else can be written");
                self.unsettled = Some(unsettled);
            }
        }
        settled
    }

    async fn try_settle(&self, unsettled: &Unsettled) -> Result<()> {
        self.fence(&unsettled.guards).await?;
        for cell in &unsettled.cells {
            if cell.tenure.phase() != Phase::Deposed {
                self.read_again(cell).await?;
            }
        }
        Ok(())
    }

    /// Returns when these guards do not hold together any more. For that the record of one slot is written again as it is.
    async fn fence(&self, guards: &[(Arc<Tenure>, Revision)]) -> Result<()> {
        let changed = |(tenure, revision): &(Arc<Tenure>, Revision)| {
            tenure.revision() != *revision || tenure.phase() == Phase::Deposed
        };
        let Some((tenure, revision)) = guards.first() else { return Ok(()) };
        let mut attempt = 0;
        loop {
            // A look first: while the store is away, those who wait should hear so soon. And the last attempt may have been done.
            self.look([tenure]).await?;
            if guards.iter().any(changed) {
                return Ok(());
            }
            let (record, _) = tenure.record();
            attempt += 1;
            match self.metadata.swap_coordinator(tenure.slot, *revision, &record).await {
                Ok(Some(written)) => tenure.note(record.slot, written),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Retry && attempt < FENCE_ATTEMPTS_MAX => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn read_again(&self, cell: &Cell) -> Result<()> {
        let stored = self.metadata.load_group(&cell.id).await?.is_some();
        let mut offsets = CommittedOffsets::of_group(&cell.id);
        for (key, read) in self.metadata.load_offsets(&cell.id).await?.items {
            offsets.insert(&key.topic, key.partition, record::committed_offset(read.record));
        }
        cell.status.lock().stored = stored;
        cell.change_offsets(|known| *known = offsets);
        Ok(())
    }
}
