//! The time that a planned stop takes at most.
//!
//! Invariant: a stop is over within `--drain-timeout`, whatever does not answer: a client, an object store, etcd, a disk. Each step may
//! take a share of what is left, so that a step that waits in vain leaves time for those that follow.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// A disk wants to be written to and closed, also where no client is waited for.
const STOP_MIN: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy)]
pub struct StopTime {
    end: Instant,
}

impl StopTime {
    /// Of a stop that begins now.
    pub fn begin(drain_timeout: Duration) -> Self {
        Self { end: Instant::now() + drain_timeout.max(STOP_MIN) }
    }

    /// So many tenths of what is left.
    pub fn share(self, tenths: u32) -> Duration {
        self.end.saturating_duration_since(Instant::now()) * tenths / 10
    }

    /// None: the step was given up when its share was over.
    pub async fn limit<T>(self, tenths: u32, step: impl Future<Output = T>) -> Option<T> {
        timeout_at(Instant::now() + self.share(tenths), step).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn steps_that_wait_in_vain_leave_time_for_those_behind_them() {
        let (from, stop) = (Instant::now(), StopTime::begin(Duration::from_secs(10)));
        for _ in 0..3 {
            assert_eq!(stop.limit(7, std::future::pending::<()>()).await, None);
        }
        assert!(stop.share(10) > Duration::from_millis(200), "{:?}", stop.share(10));
        assert_eq!(stop.limit(10, async { 1 }).await, Some(1));
        assert_eq!(stop.limit(10, std::future::pending::<()>()).await, None);
        assert_eq!(from.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_that_waits_for_nobody_still_closes_its_files() {
        assert_eq!(StopTime::begin(Duration::ZERO).share(10), STOP_MIN);
    }
}
