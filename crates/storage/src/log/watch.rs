//! Waiting until any of many partitions changes. Whoever waits looks again only at those that did.

use std::collections::HashMap;
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

/// Who watches a partition.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    /// By their addresses, which are not given to others meanwhile, each with the name that it has for the partition.
    by_address: HashMap<usize, (Weak<Watcher>, u32)>,
    swept_at: usize,
}

impl Watchers {
    /// Watches until the next change, in the place of the same watcher's last time.
    pub fn add(&mut self, watcher: &Arc<Watcher>, name: u32) {
        if self.by_address.len() >= self.swept_at.max(SWEPT_AT) {
            // One that gave up leaves its entry behind.
            self.by_address.retain(|_, (watcher, _)| watcher.strong_count() > 0);
            self.swept_at = self.by_address.len() * 2;
        }
        self.by_address.insert(Arc::as_ptr(watcher).addr(), (Arc::downgrade(watcher), name));
    }

    pub fn wake(&mut self) {
        for (_, (watcher, name)) in self.by_address.drain() {
            if let Some(watcher) = watcher.upgrade() {
                watcher.wake(name);
            }
        }
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

    #[test]
    fn watchers_that_are_gone_are_swept() {
        let (mut partition, mut other) = (Watchers::default(), Watchers::default());
        let stays = Arc::new(Watcher::default());
        partition.add(&stays, 0);
        for _ in 0..10 * SWEPT_AT {
            let goes = Arc::new(Watcher::default());
            partition.add(&goes, 0);
            other.add(&goes, 1);
            assert!(partition.by_address.len() <= SWEPT_AT + 1);
        }
        assert!(!partition.by_address.is_empty());
        partition.wake();
        assert!(partition.by_address.is_empty());
    }
}
