//! A value that is loaded at most once in a while, however many ask for it at the same time.
//!
//! Invariant: a load is a task of its own: whoever gives up waiting for it neither ends it nor makes others wait anew. It
//! ends early only with its `Cached`.
//! Invariant: no lock is held while the value is loaded.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::Unavailable;

/// A value is kept this many times as long as it took to load, if that is longer than usual: loads of a very large cluster
/// take a small part of a processor, whoever asks how often. A failure is not: it took as long as a timeout, and may be over.
const KEPT_PER_LOAD: u32 = 9;
/// No value is older than this, however long the load took.
const KEPT_AT_MOST: Duration = Duration::from_secs(10);

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
    stale_at: Instant,
}

/// A load that runs, or that has ended.
#[derive(Debug)]
struct Load<T> {
    done: watch::Receiver<Option<Loaded<T>>>,
    /// Ends the load when nobody can ask for its value any more.
    _task: AbortOnDropHandle<()>,
}

/// See the file's comment.
#[derive(Debug)]
pub struct Cached<T> {
    ttl: Duration,
    current: Mutex<Option<Load<T>>>,
}

impl<T: Send + Sync + 'static> Cached<T> {
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, current: Mutex::new(None) }
    }

    /// The value, about `ttl` old at most, or why there is none. Failures are remembered for `ttl`, so that a store that is down
    /// is not asked by everybody at once.
    pub async fn get<F>(&self, now_ms: impl FnOnce() -> i64, load: impl FnOnce() -> F) -> Outcome<T>
    where
        F: Future<Output = Result<T, Unavailable>> + Send + 'static,
    {
        let mut done = self.current(now_ms, load);
        match done.wait_for(Option::is_some).await {
            Ok(loaded) => loaded.as_ref().expect("it was waited for").outcome.clone(),
            Err(_) => Err(Unavailable::new("the server is stopping")),
        }
    }

    /// Makes the next `get` load anew.
    pub fn forget(&self) {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|load| load.done.borrow().is_some()) {
            *current = None;
        }
    }

    /// The load that is under way or fresh, else a new one.
    fn current<F>(
        &self,
        now_ms: impl FnOnce() -> i64,
        load: impl FnOnce() -> F,
    ) -> watch::Receiver<Option<Loaded<T>>>
    where
        F: Future<Output = Result<T, Unavailable>> + Send + 'static,
    {
        let mut current = self.current.lock();
        if let Some(load) = current.as_ref().filter(|load| load.is_of_use()) {
            return load.done.clone();
        }
        let (at, at_ms, ttl) = (Instant::now(), now_ms(), self.ttl);
        let (tell, done) = watch::channel(None);
        let loading = load();
        let task = tokio::spawn(async move {
            let outcome = loading.await.map(|value| Arc::new(Seen { value, at, at_ms }));
            let longer = if outcome.is_ok() { at.elapsed() * KEPT_PER_LOAD } else { Duration::ZERO };
            let kept = ttl.max(longer.min(KEPT_AT_MOST));
            // Nobody may be waiting any more; the next one finds it.
            tell.send_replace(Some(Loaded { outcome, stale_at: Instant::now() + kept }));
        });
        *current = Some(Load { done: done.clone(), _task: AbortOnDropHandle::new(task) });
        done
    }
}

impl<T> Load<T> {
    /// Whether it runs, or its value is fresh. One that panicked is neither.
    fn is_of_use(&self) -> bool {
        match self.done.borrow().as_ref() {
            Some(loaded) => Instant::now() < loaded.stale_at,
            None => self.done.has_changed().is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ten_who_ask_at_once_cost_one_load() {
        let cached = Cached::new(Duration::from_secs(1));
        let loads = Arc::new(AtomicUsize::new(0));
        let get = || {
            let loads = Arc::clone(&loads);
            cached.get(
                || 7,
                || async move {
                    loads.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Ok(())
                },
            )
        };
        let (a, b, c) = tokio::join!(get(), get(), get());
        assert!(a.is_ok() && b.is_ok() && c.unwrap().at_ms == 7);
        assert_eq!(loads.load(Ordering::Relaxed), 1);
        tokio::time::advance(Duration::from_millis(998)).await;
        get().await.unwrap();
        assert_eq!(loads.load(Ordering::Relaxed), 1);
        tokio::time::advance(Duration::from_millis(2)).await;
        get().await.unwrap();
        assert_eq!(loads.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_gives_up_leaves_the_load_to_the_next() {
        let cached = Cached::new(Duration::from_secs(1));
        let slow = || async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ok(1)
        };
        assert!(tokio::time::timeout(Duration::from_secs(2), cached.get(|| 0, slow)).await.is_err());
        let asked = Instant::now();
        assert_eq!(cached.get(|| 0, || async { Ok(2) }).await.unwrap().value, 1);
        assert_eq!(asked.elapsed(), Duration::from_secs(1), "it did not begin anew");
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_to_load_is_kept_longer() {
        for (takes_s, kept_s) in [(0, 1), (1, 9), (5, 10)] {
            let cached = Cached::new(Duration::from_secs(1));
            let load = |value| {
                move || async move {
                    tokio::time::sleep(Duration::from_secs(takes_s)).await;
                    Ok(value)
                }
            };
            cached.get(|| 0, load(1)).await.unwrap();
            tokio::time::advance(Duration::from_secs(kept_s) - Duration::from_millis(2)).await;
            assert_eq!(cached.get(|| 0, load(2)).await.unwrap().value, 1);
            tokio::time::advance(Duration::from_millis(4)).await;
            assert_eq!(cached.get(|| 0, load(2)).await.unwrap().value, 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_that_panics_is_not_the_last_one() {
        let cached = Cached::<i32>::new(Duration::from_secs(1));
        assert!(cached.get(|| 0, || async { panic!("on purpose") }).await.is_err());
        assert_eq!(cached.get(|| 0, || async { Ok(1) }).await.unwrap().value, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_not_remembered_longer_for_having_taken_long() {
        let cached = Cached::<i32>::new(Duration::from_secs(1));
        let down = Unavailable::new("down");
        let fail = || {
            let down = down.clone();
            async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                Err(down)
            }
        };
        assert_eq!(cached.get(|| 0, fail).await.unwrap_err(), down);
        assert_eq!(cached.get(|| 0, || async { Ok(1) }).await.unwrap_err(), down);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(cached.get(|| 0, || async { Ok(1) }).await.unwrap().value, 1);
    }
}
