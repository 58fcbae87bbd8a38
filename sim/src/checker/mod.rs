//! Reads a history and says what must not have happened.
//!
//! It knows nothing of how the cluster works, only what its clients may rely on:
//! - no acknowledged record is lost, and none that anybody has read;
//! - no offset has two values, no partition a gap, no value two offsets;
//! - the batches of a producer, and any two of which one was acknowledged before the other was begun, keep their order;
//! - reads are never older than [`STALE_READ_MAX`] allows;
//! - what was deleted stays deleted, and nothing else is deleted;
//! - of objects that were damaged in the store, no more is unreadable than what was in the damaged batches, and that is said at their own
//!   offsets; what was put back is readable;
//! - a broker whose metadata is not that of the store writes, deletes and serves nothing, and none gives up that could wait;
//! - a broker changes only those groups and offsets that it coordinates at that moment;
//! - committed offsets are those that were committed last, a partition is given to one member of a generation, and a member of an old
//!   generation hears that it is over;
//! - when all is well again, every client comes to its end.

mod damage;
mod groups;
mod index;
mod log;
mod offsets;
mod order;

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use crate::history::{Entry, Event};
use index::Index;

/// How old a read may be: a fenced owner may serve reads for as long after its chain was proven to be its own.
pub const STALE_READ_MAX: Duration = Duration::from_millis(1500);

/// An owner that is cut off from metadata does not hear that a topic was deleted, and serves it until its chain is sealed.
pub const STALE_LIFE_MAX: Duration = Duration::from_secs(30);

/// A rule that was broken, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    AcknowledgedRecordLost,
    ReadRecordLost,
    OffsetWithTwoValues,
    ValueTwice,
    Gap,
    OutOfOrder,
    HealthyBatchHidden,
    Garbled,
    ForeignMetadata,
    GaveUp,
    StaleRead,
    ForeignRecord,
    DeletedRecordBack,
    RecordsGone,
    ProducerStateLost,
    ProducerIdTwice,
    CommittedOffsetMovedBack,
    CommittedOffsetFromNowhere,
    FormerCoordinatorWrote,
    PartitionOfTwoMembers,
    OldGenerationCommitted,
    OldGenerationAlive,
    Stuck,
    Panicked,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

/// Checks everything. At most a few violations of each kind are told.
pub fn check(entries: &[Entry]) -> Vec<Violation> {
    let index = Index::new(entries);
    let mut found = Vec::new();
    log::check(&index, &mut found);
    order::check(&index, &mut found);
    offsets::check(&index, &mut found);
    groups::check(entries, &mut found);
    damage::check(entries, &mut found);
    for entry in entries {
        match &entry.event {
            Event::SequenceLost { client, at, code } => found.push(Violation {
                rule: Rule::ProducerStateLost,
                what: format!(
                    "client {client} was told on {at} that a batch is missing (code {code}), {entry}"
                ),
            }),
            Event::Trespass { .. } => {
                found.push(Violation { rule: Rule::FormerCoordinatorWrote, what: entry.to_string() });
            }
            Event::Stuck { who } => found.push(Violation { rule: Rule::Stuck, what: who.clone() }),
            Event::Panicked { what } => found.push(Violation { rule: Rule::Panicked, what: what.clone() }),
            _ => {}
        }
    }
    found.sort_by_key(|violation| violation.rule);
    found
}
