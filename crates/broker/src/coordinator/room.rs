//! How much committed offsets take: of each group and of all groups of this broker, with what commits under way will add.
//!
//! Invariant: a commit that makes them take more than they may is refused before it is written; one that does not add anything never is, so that
//! a full coordinator goes on serving those that it knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kafscale_core::group::offsets::CommittedOffsets;

use super::cell::Cell;

/// Bytes of all groups of this broker: stored offsets and reservations of commits under way.
pub(super) type OffsetsBytes = Arc<AtomicUsize>;

/// What commits under way will add, until it is known what became of them.
#[derive(Debug)]
pub(super) struct Reserved {
    cell: Arc<Cell>,
    bytes: usize,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.cell.reserved_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.cell.tenure.offsets_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// Which limit a commit would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    Group,
    All,
}

impl Cell {
    /// Sets `bytes` aside for a commit. Called by the group's task alone, so that no two look at once.
    pub fn reserve(self: &Arc<Self>, bytes: usize, group_max: usize, max: usize) -> Result<Reserved, Full> {
        let all = &self.tenure.offsets_bytes;
        let own = self.offsets.read().weight_bytes() + self.reserved_bytes.load(Ordering::Acquire);
        if bytes > 0 && own.saturating_add(bytes) > group_max {
            return Err(Full::Group);
        }
        // Added first, so that groups that look at the same time see each other.
        let before = all.fetch_add(bytes, Ordering::AcqRel);
        if bytes > 0 && before.saturating_add(bytes) > max {
            all.fetch_sub(bytes, Ordering::AcqRel);
            return Err(Full::All);
        }
        self.reserved_bytes.fetch_add(bytes, Ordering::AcqRel);
        Ok(Reserved { cell: Arc::clone(self), bytes })
    }

    /// Changes the offsets, which only the writer does, after the change was written.
    pub fn change_offsets(&self, change: impl FnOnce(&mut CommittedOffsets)) {
        let mut offsets = self.offsets.write();
        let before = offsets.weight_bytes();
        change(&mut offsets);
        self.tenure.offsets_bytes.fetch_add(offsets.weight_bytes(), Ordering::AcqRel);
        self.tenure.offsets_bytes.fetch_sub(before, Ordering::AcqRel);
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        let bytes = self.offsets.get_mut().weight_bytes();
        self.tenure.offsets_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }
}
