//! Rates, computed from the counters of scrapes some time apart.
//!
//! Invariant: the history is bounded in number and age. A counter that went backwards means that the broker restarted;
//! what was before is forgotten.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::names;
use super::scrape::{LabelValues, Scrape};

/// How far back a rate looks.
pub const WINDOW: Duration = Duration::from_secs(30);
/// A shorter time between two scrapes says little.
const MIN_WINDOW: Duration = Duration::from_millis(900);
/// Scrapes are not remembered more often than this, so that asking often neither shortens the window nor fills memory.
const SPACING: Duration = Duration::from_secs(2);

/// The totals of a counter: by topic, API or nothing.
type Totals = BTreeMap<String, f64>;

#[derive(Debug)]
struct Reading {
    at: Instant,
    counters: HashMap<&'static str, Totals>,
}

/// The counters of one broker over the last while, oldest first.
#[derive(Debug, Default)]
pub struct History {
    readings: VecDeque<Reading>,
}

/// What grew between two readings of one broker, per second.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    pub window: Duration,
    per_second: HashMap<&'static str, Totals>,
}

impl History {
    /// Takes a scrape into account.
    pub fn push(&mut self, at: Instant, scrape: &Scrape) {
        let reading = Reading { at, counters: counters(scrape) };
        if self.readings.back().is_some_and(|last| went_backwards(last, &reading)) {
            self.readings.clear();
        }
        // The newest reading is replaced while it is close to the one before it.
        let newest = self.readings.len().saturating_sub(1);
        if newest > 0 && self.readings[newest].at - self.readings[newest - 1].at < SPACING {
            self.readings.pop_back();
        }
        self.readings.push_back(reading);
        while self.readings.len() > 2 && at - self.readings[1].at >= WINDOW {
            self.readings.pop_front();
        }
    }

    /// The rates over the remembered time; None until two readings lie far enough apart.
    pub fn rates(&self) -> Option<Rates> {
        let newest = self.readings.back()?;
        // A pause of the server itself must not make an old reading count as "now".
        let oldest = self.readings.iter().find(|r| newest.at - r.at <= 2 * WINDOW)?;
        let window = newest.at - oldest.at;
        if window < MIN_WINDOW {
            return None;
        }
        let per_second = newest
            .counters
            .iter()
            .map(|(name, totals)| (*name, growth(oldest.counters.get(name), totals, window)))
            .collect();
        Some(Rates { window, per_second })
    }
}

impl Rates {
    /// Those of some topics.
    pub fn of_topics(&self, sees: &dyn Fn(&str) -> bool) -> Self {
        let of_topics = self.per_second.iter().filter(|(name, _)| names::OF_TOPICS.contains(name));
        let seen = of_topics.map(|(name, totals)| {
            let totals = totals.iter().filter(|(topic, _)| sees(topic));
            (*name, totals.map(|(topic, rate)| (topic.clone(), *rate)).collect())
        });
        Self { window: self.window, per_second: seen.collect() }
    }

    /// The rate of everything that a counter counts. None: the broker does not report it.
    pub fn total(&self, name: &str) -> Option<f64> {
        self.per_second.get(name).map(|totals| totals.values().sum())
    }

    /// The rate under one label value; 0 if the broker reports the counter, but nothing under that label.
    pub fn of(&self, name: &str, label: &str) -> Option<f64> {
        self.per_second.get(name).map(|totals| totals.get(label).copied().unwrap_or(0.0))
    }

    /// Every label value with its rate.
    pub fn by_label(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.per_second.get(name).into_iter().flatten().map(|(label, rate)| (label.as_str(), *rate))
    }
}

fn counters(scrape: &Scrape) -> HashMap<&'static str, Totals> {
    let mut counters = HashMap::new();
    for name in names::RATED {
        let series = scrape.series(name);
        // A family without series yet: nothing of its kind has happened, if the broker is one that counts it.
        if series.is_empty() && !names::COUNTED_BY_EVERY_BROKER.contains(name) {
            continue;
        }
        let totals: &mut Totals = counters.entry(*name).or_default();
        for (labels, value) in series {
            if value.is_finite() {
                *totals.entry(key(labels)).or_default() += value;
            }
        }
    }
    counters
}

/// The first label is what a series is about: its topic or its API.
fn key(labels: &LabelValues) -> String {
    labels.first().map(|(_, value)| value.clone()).unwrap_or_default()
}

fn went_backwards(before: &Reading, after: &Reading) -> bool {
    before.counters.iter().any(|(name, totals)| {
        // A deleted topic takes its series with it; only a series that is still there can go backwards.
        let now = after.counters.get(name);
        totals.iter().any(|(label, then)| now.and_then(|t| t.get(label)).is_some_and(|now| now < then))
    })
}

fn growth(before: Option<&Totals>, after: &Totals, window: Duration) -> Totals {
    let seconds = window.as_secs_f64();
    let grown = |label: &str, now: f64| {
        // A series that was not there began at 0.
        let then = before.and_then(|totals| totals.get(label)).copied().unwrap_or(0.0);
        ((now - then) / seconds).max(0.0)
    };
    after.iter().map(|(label, now)| (label.clone(), grown(label, *now))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(orders: u64, payments: u64) -> Scrape {
        Scrape::parse(&format!(
            "{n}{{topic=\"orders\"}} {orders}\n{n}{{topic=\"payments\"}} {payments}\n",
            n = names::RECORDS_IN
        ))
        .unwrap()
    }

    #[test]
    fn a_rate_is_the_growth_over_the_window() {
        let start = Instant::now();
        let mut history = History::default();
        history.push(start, &scrape(100, 0));
        assert!(history.rates().is_none());
        history.push(start + Duration::from_secs(10), &scrape(300, 50));
        let rates = history.rates().unwrap();
        assert_eq!(rates.window, Duration::from_secs(10));
        assert_eq!(rates.total(names::RECORDS_IN), Some(25.0));
        assert_eq!(rates.of(names::RECORDS_IN, "orders"), Some(20.0));
        assert_eq!(rates.of(names::RECORDS_IN, "other"), Some(0.0));
        assert_eq!(rates.total(names::BYTES_IN), Some(0.0));
        assert_eq!(rates.total(names::PRODUCE_LATENCY_COUNT), None);
    }

    #[test]
    fn old_readings_leave_the_window_and_memory() {
        let start = Instant::now();
        let mut history = History::default();
        for second in 0..600 {
            history.push(start + Duration::from_secs(second), &scrape(second * 10, 0));
            assert!(history.readings.len() <= 18);
        }
        let rates = history.rates().unwrap();
        assert!(rates.window >= WINDOW && rates.window <= 2 * WINDOW, "{:?}", rates.window);
        assert_eq!(rates.of(names::RECORDS_IN, "orders"), Some(10.0));
    }

    #[test]
    fn a_restart_begins_a_new_history() {
        let start = Instant::now();
        let mut history = History::default();
        history.push(start, &scrape(1000, 0));
        history.push(start + Duration::from_secs(5), &scrape(3, 0));
        assert!(history.rates().is_none());
        history.push(start + Duration::from_secs(10), &scrape(13, 0));
        assert_eq!(history.rates().unwrap().of(names::RECORDS_IN, "orders"), Some(2.0));
    }
}
