//! Time for sessions: it starts at the wall clock and then only goes forward, so that a corrected clock expels nobody.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug, Clone, Copy)]
pub(super) struct Timeline {
    start_ms: i64,
    start: Instant,
}

impl Timeline {
    pub fn starting_at(now_ms: i64) -> Timeline {
        Timeline { start_ms: now_ms, start: Instant::now() }
    }

    pub fn now_ms(&self) -> i64 {
        let elapsed = i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.start_ms.saturating_add(elapsed)
    }

    /// When the timeline reaches a time; at once if it has.
    pub fn instant_of(&self, at_ms: i64) -> Instant {
        let ahead = u64::try_from(at_ms.saturating_sub(self.start_ms)).unwrap_or(0);
        self.start + Duration::from_millis(ahead)
    }
}
