//! A value that is loaded at most once in a while, however many ask for it at the same time.
//!
//! Invariant: no lock is held while the value is loaded, and whoever gives up waiting hurts nobody else: the next in line
//! goes on with the load.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::Unavailable;

/// A loaded value, with when it was asked for.
#[derive(Debug)]
pub struct Seen<T> {
    pub value: T,
    /// Before the load began: what is older was certainly seen.
    pub at: Instant,
    pub at_ms: i64,
}

type Outcome<T> = Result<Arc<Seen<T>>, Unavailable>;

#[derive(Debug)]
struct Loaded<T> {
    outcome: Outcome<T>,
    finished: Instant,
}

/// See the file's comment.
#[derive(Debug)]
pub struct Cached<T> {
    ttl: Duration,
    current: Mutex<Arc<OnceCell<Loaded<T>>>>,
}

impl<T> Cached<T> {
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, current: Mutex::new(Arc::new(OnceCell::new())) }
    }

    /// The value, at most `ttl` old, or why there is none. Failures are remembered as long as values are, so that a store
    /// that is down is not asked by everybody at once.
    pub async fn get<F>(&self, now_ms: impl FnOnce() -> i64, load: impl FnOnce() -> F) -> Outcome<T>
    where
        F: Future<Output = Result<T, Unavailable>>,
    {
        let cell = self.fresh_cell();
        let loaded = cell
            .get_or_init(|| async {
                let (at, at_ms) = (Instant::now(), now_ms());
                let outcome = load().await.map(|value| Arc::new(Seen { value, at, at_ms }));
                Loaded { outcome, finished: Instant::now() }
            })
            .await;
        loaded.outcome.clone()
    }

    /// Makes the next `get` load anew.
    pub fn forget(&self) {
        let mut current = self.current.lock();
        if current.initialized() {
            *current = Arc::new(OnceCell::new());
        }
    }

    fn fresh_cell(&self) -> Arc<OnceCell<Loaded<T>>> {
        let mut current = self.current.lock();
        let stale = current.get().is_some_and(|loaded| loaded.finished.elapsed() >= self.ttl);
        if stale {
            *current = Arc::new(OnceCell::new());
        }
        Arc::clone(&current)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ten_who_ask_at_once_cost_one_load() {
        let cached = Cached::new(Duration::from_secs(1));
        let loads = AtomicUsize::new(0);
        let get = || {
            cached.get(
                || 7,
                || async {
                    loads.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Ok(())
                },
            )
        };
        let (a, b, c) = tokio::join!(get(), get(), get());
        assert!(a.is_ok() && b.is_ok() && c.unwrap().at_ms == 7);
        assert_eq!(loads.load(Ordering::Relaxed), 1);
        tokio::time::advance(Duration::from_millis(999)).await;
        get().await.unwrap();
        assert_eq!(loads.load(Ordering::Relaxed), 1);
        tokio::time::advance(Duration::from_millis(1)).await;
        get().await.unwrap();
        assert_eq!(loads.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_gives_up_leaves_the_load_to_the_next() {
        let cached = Cached::new(Duration::from_secs(1));
        let slow = cached.get(
            || 0,
            || async {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                Ok(1)
            },
        );
        assert!(tokio::time::timeout(Duration::from_secs(1), slow).await.is_err());
        assert_eq!(cached.get(|| 0, || async { Ok(2) }).await.unwrap().value, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_remembered_as_long_as_values() {
        let cached = Cached::<i32>::new(Duration::from_secs(1));
        let down = Unavailable::new("down");
        assert_eq!(cached.get(|| 0, || async { Err(down.clone()) }).await.unwrap_err(), down);
        assert_eq!(cached.get(|| 0, || async { Ok(1) }).await.unwrap_err(), down);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(cached.get(|| 0, || async { Ok(1) }).await.unwrap().value, 1);
    }
}
