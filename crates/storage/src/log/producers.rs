//! The windows of idempotent producers in all partitions together. Each partition has its own limit; without one over all of them, ids that a
//! client makes up, in each of many partitions, would take memory for as long as windows are kept (`producer.id.expiration.ms`).
//!
//! When there are too many, the partitions that have the most lose some, and in each those that were silent longest. So a producer that writes
//! keeps its window, and one that was forgotten goes on all the same (KIP-360): only a repeat of its last batches is not known any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::shared::Shared;
use crate::compute::compute;

/// One takes some 250 bytes, more where its producer goes on.
const WINDOWS_MAX: usize = 1_000_000;
/// How many there are afterwards, when there were too many.
const KEPT: usize = WINDOWS_MAX / 8 * 7;
/// After so many new ones all are counted.
const COUNTED_AFTER: usize = WINDOWS_MAX / 16;

/// How many windows were added since they were counted.
#[derive(Debug, Default)]
pub struct NewWindows {
    added: AtomicUsize,
    many: Notify,
}

impl NewWindows {
    pub fn add(&self, count: usize) {
        if count > 0 && self.added.fetch_add(count, Ordering::Relaxed) + count >= COUNTED_AFTER {
            self.many.notify_one();
        }
    }
}

/// Counts the windows whenever there may be too many.
pub async fn run(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            () = shared.new_windows.many.notified() => {}
        }
        shared.new_windows.added.store(0, Ordering::Relaxed);
        let all = Arc::clone(&shared);
        // Looking at millions takes a while.
        let Ok((before, kept)) = compute(move || trim(&all, WINDOWS_MAX, KEPT)).await else { return };
        if kept < before {
            tracing::warn!(
                before,
                kept,
                "too many idempotent producers in all partitions together: those that were silent longest are forgotten, in the partitions that \
                 have the most"
            );
        }
    }
}

/// How many windows there are.
pub fn count(shared: &Shared) -> usize {
    shared.all_partitions().iter().map(|partition| partition.state.lock().producers.len()).sum()
}

/// Gives how many windows there were and are left.
pub fn trim(shared: &Shared, max: usize, kept: usize) -> (usize, usize) {
    let partitions = shared.all_partitions();
    let counts: Vec<_> = partitions.iter().map(|partition| partition.state.lock().producers.len()).collect();
    let before: usize = counts.iter().sum();
    if before <= max {
        return (before, before);
    }
    let most = level(counts, kept);
    let left = partitions.iter().map(|partition| {
        let producers = &mut partition.state.lock().producers;
        producers.keep_newest(most);
        producers.len()
    });
    (before, left.sum())
}

/// The most that each may have, so that all together have no more than `sum`: those with fewer lose none.
fn level(mut counts: Vec<usize>, sum: usize) -> usize {
    counts.sort_unstable();
    let mut rest = sum;
    for (i, count) in counts.iter().enumerate() {
        let share = rest / (counts.len() - i);
        if *count > share {
            return share;
        }
        rest -= count;
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_new_ones_have_all_counted() {
        let new = NewWindows::default();
        (0..COUNTED_AFTER).for_each(|_| new.add(1));
        new.many.notified().await;
    }

    #[test]
    fn the_largest_are_levelled_and_the_small_lose_none() {
        for (counts, sum, most) in [
            (vec![], 10, usize::MAX),
            (vec![3, 4], 10, usize::MAX),
            (vec![100, 3, 100], 53, 25),
            (vec![1, 1, 1000], 50, 48),
            (vec![5, 5, 5], 6, 2),
            (vec![5, 5, 5], 2, 0),
        ] {
            assert_eq!(level(counts.clone(), sum), most, "{counts:?}");
            let left: usize = counts.iter().map(|count| count.min(&most)).sum();
            assert!(left <= sum, "{counts:?}");
        }
    }
}
