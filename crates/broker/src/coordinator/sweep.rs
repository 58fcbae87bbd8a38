//! Retention of committed offsets: looks at all groups now and then, and wakes those that have something to forget.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kafscale_core::group::{Group, GroupState};
use tokio::time::MissedTickBehavior;

use super::cell::Cell;
use super::command::Command;
use super::{NamedPartition, Shared};

pub(super) async fn run(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(shared.config.offsets_retention_check_interval);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            _ = interval.tick() => {}
        }
        let cells: Vec<Arc<Cell>> = shared.cells.lock().values().cloned().collect();
        for cell in cells {
            // A group that a task has is asked; one at rest is only woken when it has something to forget.
            let needed = cell.at_rest(|group| !expired(&shared, &cell, group).is_nothing()).unwrap_or(true);
            if needed {
                // A task too busy to listen is asked the next time.
                drop(cell.deliver(&shared, Command::Expire));
            }
        }
    }
}

/// What a group has to forget.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expired {
    Nothing,
    Offsets(Vec<NamedPartition>),
    /// Nobody is in the group and no offset is left.
    Group,
}

impl Expired {
    fn is_nothing(&self) -> bool {
        *self == Expired::Nothing
    }
}

pub(super) fn expired(shared: &Shared, cell: &Cell, group: &Group) -> Expired {
    if cell.unwritten.load(Ordering::Acquire) > 0 {
        // A commit that is under way would be taken for the one that it replaces, and removed with it.
        return Expired::Nothing;
    }
    let retention_ms = i64::try_from(shared.config.offsets_retention.as_millis()).unwrap_or(i64::MAX);
    let offsets = cell.offsets.read();
    let expired = group.expired_offsets(&offsets, shared.clock.now_ms(), retention_ms);
    let unused = group.state() == GroupState::Empty && group.is_idle();
    if unused && expired.len() == offsets.len() {
        return Expired::Group;
    }
    if expired.is_empty() { Expired::Nothing } else { Expired::Offsets(expired) }
}
