//! Waiting between attempts: longer each time, and not at the same moment as others. Without a source of randomness, so that a
//! simulation repeats itself.

use std::time::Duration;

use futures_util::future::BoxFuture;
use object_store::Error;
use tokio::time::{Instant, sleep};

use super::{StoreError, StoreErrorKind};

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// The waits of one operation.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    spread: u64,
}

impl Backoff {
    /// `seed` tells operations apart that begin together.
    pub fn new(seed: u64) -> Backoff {
        Backoff { next: FIRST, spread: seed }
    }

    /// Between half of and the whole step, which doubles each time.
    pub fn pause(&mut self) -> Duration {
        // A step of splitmix64.
        self.spread = self.spread.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.spread ^ (self.spread >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let share = (mixed >> 40) as f64 / (1u64 << 24) as f64;
        let step = self.next;
        self.next = (step * 2).min(LONGEST);
        step.mul_f64(0.5 + share / 2.0)
    }
}

/// Does something until it succeeds, fails for a reason that waiting does not change, or `patience` is over.
pub async fn persist<'a, T>(
    patience: Duration,
    seed: u64,
    mut attempt: impl FnMut() -> BoxFuture<'a, Result<T, Error>>,
) -> Result<T, StoreError> {
    let (until, mut backoff) = (Instant::now() + patience, Backoff::new(seed));
    loop {
        let error = match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => StoreError::from(error),
        };
        let wait = backoff.pause();
        if error.kind() != StoreErrorKind::Retry || Instant::now() + wait > until {
            return Err(error);
        }
        tracing::debug!(%error, "the object store failed; trying again");
        sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_repeat_with_the_seed() {
        let waits = |seed| {
            let mut backoff = Backoff::new(seed);
            std::iter::repeat_with(move || backoff.pause()).take(12).collect::<Vec<_>>()
        };
        let (a, b) = (waits(1), waits(2));
        assert_eq!(a, waits(1));
        assert_ne!(a, b);
        for (i, wait) in a.iter().enumerate() {
            let step = (FIRST * (1 << i)).min(LONGEST);
            assert!(*wait >= step / 2 && *wait <= step, "{i}: {wait:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_waiting_does_not_change_is_not_repeated() {
        let throttled = || Error::Generic { store: "S3", source: "status code: 503 SlowDown".into() };
        let mut attempts = 0;
        let done = persist(Duration::from_secs(10), 0, || {
            attempts += 1;
            let outcome = if attempts < 4 { Err(throttled()) } else { Ok(attempts) };
            Box::pin(async { outcome })
        });
        assert_eq!(done.await.ok(), Some(4));
        let mut attempts = 0;
        let denied = persist(Duration::from_secs(10), 0, || {
            attempts += 1;
            Box::pin(async {
                Err::<(), _>(Error::PermissionDenied { path: "p".into(), source: "no".into() })
            })
        });
        assert_eq!(denied.await.unwrap_err().kind(), StoreErrorKind::Denied);
        assert_eq!(attempts, 1);
        let from = Instant::now();
        let never = persist(Duration::from_secs(10), 0, || Box::pin(async { Err::<(), _>(throttled()) }));
        assert_eq!(never.await.unwrap_err().kind(), StoreErrorKind::Retry);
        assert!(from.elapsed() <= Duration::from_secs(10));
    }
}
