//! Events per second over a sliding window, for the gauges that show a rate without a query language.

use parking_lot::Mutex;
use tokio::time::Instant;

/// Whole seconds that are looked back on.
const WINDOW_SECONDS: usize = 30;

/// Counts events in buckets of a second.
#[derive(Debug)]
pub struct Rate {
    started: Instant,
    buckets: Mutex<Buckets>,
}

#[derive(Debug)]
struct Buckets {
    counts: [u64; WINDOW_SECONDS],
    /// The second that is being counted.
    current: u64,
}

impl Rate {
    pub fn new(now: Instant) -> Rate {
        Rate { started: now, buckets: Mutex::new(Buckets { counts: [0; WINDOW_SECONDS], current: 0 }) }
    }

    pub fn count(&self, now: Instant) {
        let second = now.duration_since(self.started).as_secs();
        let mut buckets = self.buckets.lock();
        buckets.turn_to(second);
        buckets.counts[second as usize % WINDOW_SECONDS] += 1;
    }

    /// The mean of the window, or of the time since the start while that is shorter.
    pub fn per_second(&self, now: Instant) -> f64 {
        let elapsed = now.duration_since(self.started);
        let mut buckets = self.buckets.lock();
        buckets.turn_to(elapsed.as_secs());
        let events: u64 = buckets.counts.iter().sum();
        events as f64 / elapsed.as_secs_f64().clamp(1.0, WINDOW_SECONDS as f64)
    }
}

impl Buckets {
    fn turn_to(&mut self, second: u64) {
        let steps = second.saturating_sub(self.current).min(WINDOW_SECONDS as u64);
        for step in 1..=steps {
            self.counts[(second - steps + step) as usize % WINDOW_SECONDS] = 0;
        }
        self.current = self.current.max(second);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn old_events_leave_the_window() {
        let start = Instant::now();
        let rate = Rate::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..60 {
            (0..10).for_each(|_| rate.count(at(second)));
        }
        assert!((rate.per_second(at(59)) - 10.0).abs() < 0.01);
        assert!((rate.per_second(at(74)) - 5.0).abs() < 0.01);
        assert_eq!(rate.per_second(at(200)), 0.0);
    }
}
