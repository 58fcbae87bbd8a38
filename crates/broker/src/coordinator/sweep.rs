//! Retention of committed offsets: looks at the groups of this broker's slots now and then, and wakes those that have something
//! to forget.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kafscale_core::group::{Group, GroupState};
use kafscale_meta::Metadata;
use tokio::time::MissedTickBehavior;
use tracing::debug;

use super::cell::Cell;
use super::command::Command;
use super::{NamedPartition, Shared, gone};

pub(super) async fn run(shared: Arc<Shared>, metadata: Metadata) {
    let mut interval = tokio::time::interval(shared.config.offsets_retention_check_interval);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            _ = interval.tick() => {}
        }
        let tenures = shared.slots.tenures();
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            forgotten = gone::forget(&shared, &metadata, &tenures) => if let Err(error) = forgotten {
                debug!(%error, "offsets of deleted topics stay until the next look at them");
            }
        }
        for cell in gone::cells(&tenures) {
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
