//! Repeating an operation of the object store until it succeeds or patience is over.

use std::time::Duration;

use futures_util::future::BoxFuture;
use kafscale_core::backoff::Backoff;
use object_store::Error;
use tokio::time::{Instant, sleep};

use super::{StoreError, StoreErrorKind};

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// The waits of one operation of the object store. `seed` tells operations apart that begin together.
pub fn waits(seed: u64) -> Backoff {
    Backoff::new(FIRST, LONGEST, seed)
}

/// Does something until it succeeds, fails for a reason that waiting does not change, or `patience` is over.
pub async fn persist<'a, T>(
    patience: Duration,
    seed: u64,
    mut attempt: impl FnMut() -> BoxFuture<'a, Result<T, Error>>,
) -> Result<T, StoreError> {
    let (until, mut backoff) = (Instant::now() + patience, waits(seed));
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
