//! What was found to be damaged in the store: each place is logged once, counted, and kept for health and metrics.
//!
//! Only what somebody met is known here: a reader, the rewriter, a merge. `kafscale verify` looks at everything. The list is
//! bounded; what does not fit is counted.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use kafscale_core::ids::Offset;
use parking_lot::Mutex;
use tokio::time::Instant;

/// More places than this are counted only.
const LISTED_MAX: usize = 1000;

/// A damaged place in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The object, or the write-ahead file.
    pub object: Arc<str>,
    pub position: u64,
    pub topic: Arc<str>,
    pub partition: i32,
    /// The first and the last offset that cannot be read; `None` where only an index or a checksum is damaged, and all
    /// records are readable.
    pub offsets: Option<(Offset, Offset)>,
    pub why: String,
}

/// The damaged places that are known.
#[derive(Debug, Default)]
pub struct Damages {
    listed: Mutex<Listed>,
    /// How many are listed, to be asked without the lock.
    count: AtomicUsize,
    found: AtomicU64,
    failed_reads: AtomicU64,
}

/// What tells places apart: the object, the first offset (`None` is the object's own structure) and whose it is, as an object of the write-ahead
/// log holds records of many partitions.
type Key = (Arc<str>, Option<Offset>, Arc<str>, i32);

/// With when each was found.
#[derive(Debug, Default)]
struct Listed {
    places: BTreeMap<Key, (Damage, Instant)>,
    unlisted: u64,
}

/// What is known at one moment.
#[derive(Debug, Clone, Default)]
pub struct DamageReport {
    /// Ordered by object and offset.
    pub places: Vec<Damage>,
    /// Places that did not fit in the list.
    pub unlisted: u64,
    /// Places that were found since the start.
    pub found: u64,
    /// Reads that could not give a record because it is damaged.
    pub failed_reads: u64,
}

impl Damages {
    /// Takes note of a damaged place, and logs it when it is new.
    pub fn note(&self, damage: Damage) {
        let first = damage.offsets.map(|(first, _)| first);
        let key = (Arc::clone(&damage.object), first, Arc::clone(&damage.topic), damage.partition);
        {
            let mut listed = self.listed.lock();
            if listed.places.contains_key(&key) {
                return;
            }
            if listed.places.len() >= LISTED_MAX {
                // Logged no more, or a store full of damage would fill the disk with its log.
                listed.unlisted += 1;
                return;
            }
            listed.places.insert(key, (damage.clone(), Instant::now()));
            self.count.store(listed.places.len(), Ordering::Relaxed);
        }
        self.found.fetch_add(1, Ordering::Relaxed);
        let Damage { object, position, topic, partition, offsets, why } = damage;
        match offsets {
            Some((first, last)) => tracing::warn!(
                %object, position, %topic, partition, first_offset = %first, last_offset = %last, %why,
                "stored records are damaged: reads of these offsets fail, those around them do not"
            ),
            None => tracing::warn!(
                %object, position, %topic, partition, %why,
                "a stored object is damaged, but its records were read without the damaged part"
            ),
        }
    }

    /// A read failed because of damage.
    pub fn read_failed(&self) {
        self.failed_reads.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether nothing is known to be damaged. Cheap.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    pub fn is_damaged(&self, object: &str) -> bool {
        !self.is_empty() && self.listed.lock().places.keys().any(|(of, ..)| &**of == object)
    }

    /// How long it is known that these records of an object are damaged.
    pub fn age_of(&self, object: &str, topic: &Arc<str>, partition: i32, first: Offset) -> Option<Duration> {
        let key = (Arc::from(object), Some(first), Arc::clone(topic), partition);
        self.listed.lock().places.get(&key).map(|(_, found)| found.elapsed())
    }

    /// The object is not needed any more.
    pub fn forget(&self, object: &str) {
        self.forget_where(|damage| &*damage.object == object);
    }

    /// These records of an object are not read from there any more.
    pub fn forget_at(&self, object: &str, topic: &str, partition: i32, first: Offset) {
        self.forget_where(|damage| {
            &*damage.object == object
                && (&*damage.topic, damage.partition) == (topic, partition)
                && damage.offsets.is_some_and(|(from, _)| from == first)
        });
    }

    /// The partition belongs to somebody else now, or is gone.
    pub fn forget_partition(&self, topic: &str, partition: i32) {
        self.forget_where(|damage| &*damage.topic == topic && damage.partition == partition);
    }

    /// The partition's log begins at `log_start` now.
    pub fn forget_below(&self, topic: &str, partition: i32, log_start: Offset) {
        self.forget_where(|damage| {
            let is_below = damage.offsets.is_some_and(|(_, last)| last < log_start);
            is_below && &*damage.topic == topic && damage.partition == partition
        });
    }

    fn forget_where(&self, which: impl Fn(&Damage) -> bool) {
        if self.is_empty() {
            return;
        }
        let mut listed = self.listed.lock();
        listed.places.retain(|_, (damage, _)| !which(damage));
        self.count.store(listed.places.len(), Ordering::Relaxed);
    }

    pub fn report(&self) -> DamageReport {
        let listed = self.listed.lock();
        DamageReport {
            places: listed.places.values().map(|(damage, _)| damage.clone()).collect(),
            unlisted: listed.unlisted,
            found: self.found.load(Ordering::Relaxed),
            failed_reads: self.failed_reads.load(Ordering::Relaxed),
        }
    }
}

impl Damage {
    /// How many offsets cannot be read.
    pub fn unreadable_offsets(&self) -> u64 {
        let between = |(first, last): (Offset, Offset)| last.0.saturating_sub(first.0).saturating_add(1);
        self.offsets.and_then(|offsets| u64::try_from(between(offsets)).ok()).unwrap_or(0)
    }
}

impl DamageReport {
    /// One line for a person; `None` when nothing is damaged.
    pub fn summary(&self) -> Option<String> {
        if self.places.is_empty() {
            return None;
        }
        let partitions: HashSet<_> = self.places.iter().map(|d| (&d.topic, d.partition)).collect();
        let places = self.places.len() as u64 + self.unlisted;
        Some(format!(
            "stored data is damaged in {places} places of {} partitions ({} unreadable offsets): see the log, and run `kafscale verify`",
            partitions.len(),
            self.unreadable_offsets()
        ))
    }

    pub fn unreadable_offsets(&self) -> u64 {
        self.places.iter().map(Damage::unreadable_offsets).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damage(object: &str, offsets: Option<(i64, i64)>) -> Damage {
        Damage {
            object: object.into(),
            position: 64,
            topic: "orders".into(),
            partition: 0,
            offsets: offsets.map(|(first, last)| (Offset(first), Offset(last))),
            why: "a test says so".into(),
        }
    }

    #[test]
    fn a_place_is_known_once_until_its_object_is_gone() {
        let damages = Damages::default();
        assert!(damages.is_empty() && damages.report().summary().is_none());
        damages.note(damage("a", Some((5, 9))));
        damages.note(damage("a", Some((5, 9))));
        damages.note(damage("a", None));
        damages.note(damage("b", Some((20, 20))));
        let report = damages.report();
        assert_eq!((report.places.len(), report.found, report.unreadable_offsets()), (3, 3, 6));
        assert!(damages.is_damaged("a") && !damages.is_damaged("c"));
        damages.forget_at("b", "orders", 1, Offset(20));
        assert!(damages.is_damaged("b"), "of another partition");
        damages.forget_at("b", "orders", 0, Offset(20));
        damages.forget("a");
        assert!(damages.is_empty() && !damages.is_damaged("a"));
        assert_eq!(damages.report().found, 3);
    }

    #[test]
    fn the_list_is_bounded() {
        let damages = Damages::default();
        for i in 0..LISTED_MAX as i64 + 5 {
            damages.note(damage("a", Some((i, i))));
        }
        let report = damages.report();
        assert_eq!((report.places.len(), report.unlisted), (LISTED_MAX, 5));
        assert!(report.summary().unwrap().contains("1005 places of 1 partitions"));
    }
}
