//! What was worked out before, bounded: the newest entries are kept, and those that are asked for
//! again.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// SHA-256 of what an entry was worked out from: callers choose part of it, and cannot make two of
/// them the same.
pub(super) type Key = [u8; 32];

/// Holds up to twice `limit` entries, in two generations: when the younger is full, it becomes the
/// older.
#[derive(Debug)]
pub(super) struct Cache<V> {
    limit: usize,
    generations: Mutex<[HashMap<Key, Arc<V>>; 2]>,
}

impl<V> Cache<V> {
    pub(super) fn new(limit: usize) -> Self {
        Cache { limit, generations: Mutex::new([HashMap::new(), HashMap::new()]) }
    }

    /// No lock is held while it is worked out: two callers may do so at once, with the same result.
    pub(super) fn get(&self, key: Key, work_out: impl FnOnce() -> V) -> Arc<V> {
        if let Some(known) = self.find(&key) {
            return known;
        }
        let value = Arc::new(work_out());
        self.insert(key, value.clone());
        value
    }

    fn find(&self, key: &Key) -> Option<Arc<V>> {
        let older = {
            let generations = self.generations.lock();
            match generations[0].get(key) {
                Some(known) => return Some(known.clone()),
                None => generations[1].get(key)?.clone(),
            }
        };
        self.insert(*key, older.clone());
        Some(older)
    }

    fn insert(&self, key: Key, value: Arc<V>) {
        let mut generations = self.generations.lock();
        if generations[0].len() >= self.limit {
            generations.swap(0, 1);
            generations[0] = HashMap::new();
        }
        generations[0].insert(key, value);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.generations.lock().iter().map(HashMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_is_asked_for() {
        let cache = Cache::new(10);
        let key = |n: u32| {
            let mut key = Key::default();
            key[..4].copy_from_slice(&n.to_le_bytes());
            key
        };
        for n in 0..1_000 {
            assert_eq!(*cache.get(key(n), || n), n);
            assert_eq!(*cache.get(key(0), || unreachable!("it is asked for all the time")), 0);
            assert!(cache.len() <= 20);
        }
        assert_eq!(*cache.get(key(1), || 7), 7);
    }
}
