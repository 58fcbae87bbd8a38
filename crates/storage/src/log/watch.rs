//! Waiting until any of many partitions changes. Whoever waits looks again only at those that did.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Watchers that are gone are swept when so many are there, or twice as many as were left the last time.
const SWEPT_AT: usize = 64;

/// Waits for changes of partitions. One that waits for others later is used again, so that partitions keep one entry of it.
#[derive(Debug, Default)]
pub struct Watcher {
    woken: Notify,
    /// The names of partitions that have changed, as the watcher gave them.
    changed: Mutex<Vec<u32>>,
}

impl Watcher {
    /// Forgets what has changed.
    pub fn clear(&self) {
        self.changed.lock().clear();
    }

    /// Waits until something has changed since the last call. Gives the names of what has, some perhaps from an earlier use.
    pub async fn changed(&self) -> Vec<u32> {
        loop {
            let changed = std::mem::take(&mut *self.changed.lock());
            if !changed.is_empty() {
                return changed;
            }
            self.woken.notified().await;
        }
    }

    fn wake(&self, name: u32) {
        self.changed.lock().push(name);
        self.woken.notify_one();
    }
}

/// Who watches a partition, in the order in which they came: they are woken in that order.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    /// Each with the name that it has for the partition.
    waiting: Vec<(Weak<Watcher>, u32)>,
    /// Where each is, by its address, which is not given to others meanwhile.
    places: HashMap<usize, usize>,
    swept_at: usize,
}

impl Watchers {
    /// Watches until the next change, in the place of the same watcher's last time.
    pub fn add(&mut self, watcher: &Arc<Watcher>, name: u32) {
        if self.waiting.len() >= self.swept_at.max(SWEPT_AT) {
            self.sweep();
        }
        match self.places.entry(Arc::as_ptr(watcher).addr()) {
            Entry::Occupied(place) => self.waiting[*place.get()].1 = name,
            Entry::Vacant(place) => {
                place.insert(self.waiting.len());
                self.waiting.push((Arc::downgrade(watcher), name));
            }
        }
    }

    pub fn wake(&mut self) {
        self.places.clear();
        for (watcher, name) in self.waiting.drain(..) {
            if let Some(watcher) = watcher.upgrade() {
                watcher.wake(name);
            }
        }
    }

    /// Takes out those that gave up, which leave their entries behind.
    fn sweep(&mut self) {
        self.waiting.retain(|(watcher, _)| watcher.strong_count() > 0);
        let address = |(watcher, _): &(Weak<Watcher>, u32)| watcher.as_ptr().addr();
        self.places = self.waiting.iter().map(address).zip(0..).collect();
        self.swept_at = self.waiting.len() * 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_changed_is_named_and_once() {
        let watcher = Arc::new(Watcher::default());
        let mut partitions: Vec<Watchers> = (0..1000).map(|_| Watchers::default()).collect();
        for (partition, name) in partitions.iter_mut().zip(0..) {
            partition.add(&watcher, name + 7);
            partition.add(&watcher, name);
        }
        partitions[3].wake();
        partitions[3].wake();
        partitions[900].wake();
        assert_eq!(watcher.changed().await, [3, 900]);
        partitions[3].add(&watcher, 3);
        let (changed, ()) = tokio::join!(watcher.changed(), async { partitions[3].wake() });
        assert_eq!(changed, [3]);
        partitions[4].wake();
        watcher.clear();
        let (changed, ()) = tokio::join!(watcher.changed(), async { partitions[5].wake() });
        assert_eq!(changed, [5], "a wake without a change waits on");
    }

    #[tokio::test]
    async fn they_are_woken_in_the_order_in_which_they_came() {
        let mut partition = Watchers::default();
        let watchers: Vec<_> = (0..50).map(|_| Arc::new(Watcher::default())).collect();
        for (watcher, name) in watchers.iter().zip(0..).chain(watchers.iter().zip(100..)) {
            partition.add(watcher, name);
        }
        let woken: Vec<u32> = partition.waiting.iter().map(|(_, name)| *name).collect();
        assert_eq!(woken, (100..150).collect::<Vec<_>>());
        partition.wake();
        assert_eq!(watchers[49].changed().await, [149]);
    }

    #[test]
    fn watchers_that_are_gone_are_swept() {
        let (mut partition, mut other) = (Watchers::default(), Watchers::default());
        let stays = Arc::new(Watcher::default());
        partition.add(&stays, 0);
        for _ in 0..10 * SWEPT_AT {
            let goes = Arc::new(Watcher::default());
            partition.add(&goes, 0);
            other.add(&goes, 1);
            assert!(partition.waiting.len() <= SWEPT_AT + 1);
        }
        assert!(!partition.waiting.is_empty());
        partition.add(&stays, 7);
        assert_eq!(partition.waiting.iter().filter(|(watcher, _)| watcher.strong_count() > 0).count(), 1);
        partition.wake();
        assert!(partition.waiting.is_empty());
    }
}
