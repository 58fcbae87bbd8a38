//! What recovery found in the write-ahead files, until the partitions that it belongs to are acquired.
//!
//! Every batch here keeps its file alive, so that nothing is lost while the owner is not known yet; what belongs to
//! nobody any more has to be forgotten, or its files would stay for ever. Files of earlier releases do not say which store they belong to:
//! those that have such batches are put aside, as they may be of another one.

use std::collections::{BTreeSet, HashMap, HashSet};

use kafscale_core::ids::PartitionId;
use parking_lot::Mutex;

use crate::wal::files::{Aside, Place, WalFiles};
use crate::wal::object::IndexEntry;

/// A durable batch above the segments.
pub type Recovered = (Place, IndexEntry);

#[derive(Debug, Default)]
pub struct Unclaimed {
    /// Files that do not say which store they belong to.
    nameless: Mutex<HashSet<u64>>,
    batches: Mutex<HashMap<PartitionId, Vec<Recovered>>>,
    /// Where records are missing that a person has given up.
    lost: Mutex<BTreeSet<Place>>,
}

impl Unclaimed {
    pub fn add(&self, place: Place, entry: IndexEntry) {
        self.batches.lock().entry(entry.partition).or_default().push((place, entry));
    }

    pub fn add_nameless(&self, file_no: u64) {
        self.nameless.lock().insert(file_no);
    }

    pub fn lose(&self, place: Place) {
        self.lost.lock().insert(place);
    }

    /// Where records were lost last before a place.
    pub fn lost_before(&self, place: Place) -> Option<Place> {
        self.lost.lock().range(..place).next_back().copied()
    }

    /// Whether records were lost behind a place, or anywhere where there is none.
    pub fn is_lost_behind(&self, place: Option<Place>) -> bool {
        let last = self.lost.lock().last().copied();
        last.is_some_and(|last| place.is_none_or(|place| last >= place))
    }

    /// Takes what belongs to a partition, in the order of the chain.
    pub fn take(&self, id: PartitionId) -> Vec<Recovered> {
        self.batches.lock().remove(&id).unwrap_or_default()
    }

    pub fn put_back(&self, id: PartitionId, batches: Vec<Recovered>) {
        if !batches.is_empty() {
            self.batches.lock().insert(id, batches);
        }
    }

    /// Lets go of the batches of partitions that are not to be kept.
    pub fn retain(&self, files: &WalFiles, keep: impl Fn(PartitionId) -> bool) {
        let (mut batches, nameless) = (self.batches.lock(), self.nameless.lock());
        batches.retain(|id, batches| {
            let kept = keep(*id);
            if !kept {
                for (place, _) in batches.iter() {
                    if nameless.contains(&place.file_no) {
                        files.put_aside_when_freed(place.file_no, Aside::Nameless);
                    }
                    files.release(place.file_no, 1);
                }
            }
            kept
        });
    }
}
