//! How well the store does, from what the log counted in the last minute: the state, mean latency and error rate that KafScale
//! dashboards show as `kafscale_s3_*`, whatever the store is.
//!
//! A scrape leaves a reading behind, and compares with the oldest one of the last minute.

use std::collections::VecDeque;
use std::time::Duration;

use kafscale_storage::LogStats;
use parking_lot::Mutex;
use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(60);
/// Readings are kept at most this often, however many scrape.
const READING_INTERVAL: Duration = Duration::from_secs(1);
const DEGRADED_ERROR_RATE: f64 = 0.01;
const UNAVAILABLE_ERROR_RATE: f64 = 0.5;
const DEGRADED_LATENCY_MS: f64 = 500.0;

/// The verdict on the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreState {
    Healthy,
    Degraded,
    Unavailable,
}

impl StoreState {
    pub const ALL: [StoreState; 3] = [StoreState::Healthy, StoreState::Degraded, StoreState::Unavailable];

    pub fn name(self) -> &'static str {
        match self {
            StoreState::Healthy => "healthy",
            StoreState::Degraded => "degraded",
            StoreState::Unavailable => "unavailable",
        }
    }
}

/// What a scrape shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StoreReport {
    pub state: StoreState,
    pub in_state: Duration,
    pub latency_ms_avg: f64,
    pub error_rate: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    operations: u64,
    failures: u64,
    sum_us: u64,
}

/// Remembers the readings of a minute.
#[derive(Debug)]
pub struct StoreHealth {
    memory: Mutex<Memory>,
}

#[derive(Debug)]
struct Memory {
    readings: VecDeque<(Instant, Reading)>,
    state: StoreState,
    since: Instant,
}

impl StoreHealth {
    pub fn new(now: Instant) -> StoreHealth {
        let readings = VecDeque::from([(now, Reading::default())]);
        StoreHealth { memory: Mutex::new(Memory { readings, state: StoreState::Healthy, since: now }) }
    }

    /// Takes a reading. `accepts_writes` is the log's own verdict.
    pub fn report(&self, stats: &LogStats, accepts_writes: bool, now: Instant) -> StoreReport {
        let requests = [&stats.puts, &stats.gets, &stats.lists, &stats.deletes];
        let mut reading = Reading {
            operations: requests.iter().map(|r| r.latency.count).sum(),
            failures: requests.iter().map(|r| r.failures).sum(),
            sum_us: requests.iter().map(|r| r.latency.sum_us).sum(),
        };
        // Those to an object store are among its requests.
        if !stats.wal_in_store {
            reading.operations += stats.flush_latency.count;
            reading.failures += stats.flush_failures;
            reading.sum_us += stats.flush_latency.sum_us;
        }
        self.memory.lock().report(reading, accepts_writes, now)
    }
}

impl Memory {
    fn report(&mut self, reading: Reading, accepts_writes: bool, now: Instant) -> StoreReport {
        // The oldest reading that is kept may be a little older than the window, so that there always is one.
        while self.readings.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW) {
            self.readings.pop_front();
        }
        let before = self.readings.front().map_or(Reading::default(), |(_, reading)| *reading);
        if self.readings.back().is_none_or(|(at, _)| now.duration_since(*at) >= READING_INTERVAL) {
            self.readings.push_back((now, reading));
        }
        let operations = reading.operations.saturating_sub(before.operations).max(1) as f64;
        let latency_ms_avg = reading.sum_us.saturating_sub(before.sum_us) as f64 / 1000.0 / operations;
        let error_rate = (reading.failures.saturating_sub(before.failures) as f64 / operations).min(1.0);
        let state = if !accepts_writes || error_rate >= UNAVAILABLE_ERROR_RATE {
            StoreState::Unavailable
        } else if error_rate >= DEGRADED_ERROR_RATE || latency_ms_avg >= DEGRADED_LATENCY_MS {
            StoreState::Degraded
        } else {
            StoreState::Healthy
        };
        if state != self.state {
            (self.state, self.since) = (state, now);
        }
        StoreReport { state, in_state: now.duration_since(self.since), latency_ms_avg, error_rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_follows_the_last_minute() {
        let start = Instant::now();
        let health = StoreHealth::new(start);
        let at = |seconds, operations, failures, accepts| {
            let reading = Reading { operations, failures, sum_us: operations * 2000 };
            let now = start + Duration::from_secs(seconds);
            health.memory.lock().report(reading, accepts, now)
        };
        let good = at(10, 100, 0, true);
        assert_eq!((good.state, good.latency_ms_avg, good.error_rate), (StoreState::Healthy, 2.0, 0.0));
        assert_eq!(at(20, 200, 10, true).state, StoreState::Degraded);
        let worse = at(30, 300, 200, true);
        assert_eq!((worse.state, worse.in_state), (StoreState::Unavailable, Duration::ZERO));
        assert_eq!(at(50, 300, 200, true).in_state, Duration::from_secs(20));
        assert_eq!(at(200, 400, 200, true).state, StoreState::Healthy, "old failures count for ever");
        assert_eq!(at(201, 400, 200, false).state, StoreState::Unavailable);
    }
}
