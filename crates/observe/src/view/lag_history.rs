//! How the lag of groups develops over some minutes: a sample now and then, and what changed since.
//!
//! A consumer that is stuck on a record goes on committing the same offset, so the time of its last commit says nothing. What tells it
//! apart is that its commits do not move while there is something left to read.
//!
//! Invariant: there are at most [`SAMPLES`] samples of at most [`GROUPS`] groups each.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::lag::LagSummary;

/// Between two samples.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(30);
const SAMPLES: usize = 11;
/// Beyond these there is no trend.
const GROUPS: usize = 10_000;
/// A shorter time says little: consumers commit every few seconds.
const WINDOW_MIN: Duration = Duration::from_secs(55);
/// A group without progress for this long is stuck, if it lags.
const STUCK_AFTER: Duration = Duration::from_secs(115);

/// A group at some time.
#[derive(Clone, Copy, Debug)]
struct Then {
    lag: i64,
    committed: i64,
}

#[derive(Debug)]
struct Sample {
    at: Instant,
    by_group: HashMap<Arc<str>, Then>,
}

/// See the file's comment. The oldest sample is first.
#[derive(Debug, Default)]
pub struct LagHistory {
    samples: VecDeque<Sample>,
}

/// What changed over the time that is remembered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    pub window: Duration,
    pub lag_per_minute: f64,
    /// For how long, at least, commits have not moved while the group lags.
    pub stuck: Option<Duration>,
}

impl LagHistory {
    pub fn push(&mut self, at: Instant, groups: &BTreeMap<String, LagSummary>) {
        // Names are shared with the sample before.
        let last = self.samples.back();
        let name = |group: &String| -> Arc<str> {
            let known = last.and_then(|last| last.by_group.get_key_value(group.as_str()));
            known.map_or_else(|| Arc::from(group.as_str()), |(name, _)| Arc::clone(name))
        };
        let known = groups.iter().filter_map(|(group, lag)| {
            Some((name(group), Then { lag: lag.total?, committed: lag.committed }))
        });
        let by_group = known.take(GROUPS).collect();
        self.samples.push_back(Sample { at, by_group });
        while self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
    }

    /// None: the group was not seen for long enough, or its lag is not known.
    pub fn trend(&self, at: Instant, group: &str, now: &LagSummary) -> Option<Trend> {
        let lag = now.total?;
        let seen = || self.samples.iter().filter_map(|sample| Some((sample.at, sample.by_group.get(group)?)));
        let (from, then) = seen().next()?;
        let window = at.saturating_duration_since(from);
        if window < WINDOW_MIN {
            return None;
        }
        let lag_per_minute = (lag - then.lag) as f64 * 60.0 / window.as_secs_f64();
        // Backwards from now, as long as nothing has moved.
        let still = seen().collect::<Vec<_>>().into_iter().rev();
        let still = still.take_while(|(_, then)| then.committed == now.committed && then.lag > 0).last();
        let stuck = still.map(|(since, _)| at.saturating_duration_since(since));
        let stuck = stuck.filter(|stuck| lag > 0 && *stuck >= STUCK_AFTER);
        Some(Trend { window, lag_per_minute, stuck })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lag: i64, committed: i64) -> LagSummary {
        LagSummary { total: Some(lag), committed, ..LagSummary::default() }
    }

    /// One sample every 30 s, and the trend at the last one.
    fn trend(samples: &[(i64, i64)]) -> Option<Trend> {
        let (start, mut history) = (Instant::now(), LagHistory::default());
        let mut at = start;
        for (lag, committed) in samples {
            history.push(at, &BTreeMap::from([("g".to_owned(), of(*lag, *committed))]));
            at += SAMPLE_INTERVAL;
        }
        let (lag, committed) = samples.last()?;
        history.trend(at - SAMPLE_INTERVAL, "g", &of(*lag, *committed))
    }

    #[test]
    fn a_group_is_stuck_when_its_commits_do_not_move_while_it_lags() {
        let stuck = trend(&[(10, 5), (20, 5), (30, 5), (40, 5), (50, 5)]).unwrap();
        assert_eq!((stuck.lag_per_minute, stuck.stuck), (20.0, Some(Duration::from_secs(120))));
        // It was read for a while, and then it stopped.
        let stopped = trend(&[(10, 1), (10, 2), (10, 3), (20, 3), (30, 3), (40, 3), (50, 3)]).unwrap();
        assert_eq!(stopped.stuck, Some(Duration::from_secs(120)));
        for fine in [
            vec![(10, 5), (20, 6), (30, 7), (40, 8), (50, 9)],
            vec![(0, 5), (0, 5), (0, 5), (0, 5), (0, 5)],
            vec![(0, 5), (0, 5), (0, 5), (0, 5), (7, 5)],
            vec![(10, 5), (10, 5), (10, 5)],
        ] {
            assert_eq!(trend(&fine).unwrap().stuck, None, "{fine:?}");
        }
        assert_eq!(trend(&[(10, 5), (10, 5)]), None, "it was seen for 30 s only");
    }

    #[test]
    fn samples_and_groups_are_bounded() {
        let (mut at, mut history) = (Instant::now(), LagHistory::default());
        let groups = (0..GROUPS + 5).map(|i| (format!("g{i}"), of(1, 1))).collect();
        for _ in 0..20 {
            history.push(at, &groups);
            at += SAMPLE_INTERVAL;
        }
        assert_eq!(history.samples.len(), SAMPLES);
        assert!(history.samples.iter().all(|sample| sample.by_group.len() == GROUPS));
        let first = history.samples.front().unwrap().by_group.keys().next().unwrap();
        assert!(Arc::strong_count(first) == SAMPLES, "names are shared");
    }
}
