//! What one scrape of one broker says, as far as the tools ask: partition gauges, and the counters and gauges listed
//! in [`names`]. Everything else is skipped while it is read.
//!
//! Invariant: the number of series kept is bounded, whatever the answer holds.

use std::collections::{BTreeMap, HashMap};

use super::Unavailable;
use super::exposition::{self, Sample};
use super::names;

/// More than a broker at its partition limit reports.
const MAX_SERIES: usize = 1_000_000;

/// The gauges of a partition. None: not reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionGauges {
    pub start: Option<i64>,
    pub end: Option<i64>,
    pub size_bytes: Option<i64>,
}

/// A series that is kept: the values of its labels, in the order of their names' appearance.
pub type LabelValues = Vec<(String, String)>;

/// A parsed scrape.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// By topic, then partition.
    pub partitions: HashMap<String, BTreeMap<i32, PartitionGauges>>,
    series: HashMap<&'static str, Vec<(LabelValues, f64)>>,
    pub unreadable_lines: usize,
}

impl Scrape {
    /// Reads an exposition. An answer without one known series is no broker's.
    pub fn parse(text: &str) -> Result<Scrape, Unavailable> {
        let mut scrape = Scrape::default();
        let mut kept = 0_usize;
        let unreadable = exposition::read(text, |sample| {
            if kept < MAX_SERIES && scrape.keep(&sample) {
                kept += 1;
            }
        });
        scrape.unreadable_lines = unreadable;
        if kept == 0 {
            return Err(Unavailable::new("the answer holds no kafscale metrics"));
        }
        if kept == MAX_SERIES {
            return Err(Unavailable::new(format!("the answer holds more than {MAX_SERIES} series")));
        }
        Ok(scrape)
    }

    /// What it says of some topics, and of the broker itself. Whatever is neither is left out.
    pub fn of_topics(&self, sees: &dyn Fn(&str) -> bool) -> Self {
        let partitions = self.partitions.iter().filter(|(topic, _)| sees(topic));
        let partitions = partitions.map(|(topic, gauges)| (topic.clone(), gauges.clone())).collect();
        let mut series: HashMap<_, Vec<_>> = HashMap::new();
        for (name, of_name) in &self.series {
            let is_seen = |labels: &LabelValues| match labels.first() {
                _ if names::OF_BROKERS.contains(name) => true,
                Some((label, topic)) => names::OF_TOPICS.contains(name) && label == "topic" && sees(topic),
                None => false,
            };
            let seen = of_name.iter().filter(|(labels, _)| is_seen(labels)).cloned().collect();
            series.insert(*name, seen);
        }
        Self { partitions, series, unreadable_lines: self.unreadable_lines }
    }

    /// Every series of a name.
    pub fn series(&self, name: &str) -> &[(LabelValues, f64)] {
        self.series.get(name).map_or(&[], Vec::as_slice)
    }

    /// The series of a name added up; None if there is none, or one that is not a number.
    pub fn sum(&self, name: &str) -> Option<f64> {
        let series = self.series(name);
        let sum: f64 = series.iter().map(|(_, value)| value).sum();
        (!series.is_empty() && sum.is_finite()).then_some(sum)
    }

    fn keep(&mut self, sample: &Sample<'_>) -> bool {
        if let Some(gauge) = names::partition_gauge(sample.name) {
            return self.keep_partition(gauge, sample).is_some();
        }
        let Some(name) = names::KEPT.iter().find(|name| **name == sample.name) else { return false };
        let labels = sample.labels.iter().map(|(l, v)| ((*l).to_owned(), v.clone().into_owned())).collect();
        self.series.entry(name).or_default().push((labels, sample.value));
        true
    }

    fn keep_partition(&mut self, gauge: names::PartitionGauge, sample: &Sample<'_>) -> Option<()> {
        let topic = sample.label("topic")?;
        let partition: i32 = sample.label("partition")?.parse().ok()?;
        let value = sample.integer().filter(|value| *value >= 0)?;
        if !self.partitions.contains_key(topic) {
            self.partitions.insert(topic.to_owned(), BTreeMap::new());
        }
        let gauges = self.partitions.get_mut(topic)?.entry(partition).or_default();
        match gauge {
            names::PartitionGauge::Start => gauges.start = Some(value),
            names::PartitionGauge::End => gauges.end = Some(value),
            names::PartitionGauge::Size => gauges.size_bytes = Some(value),
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_and_listed_series_are_kept() {
        let scrape = Scrape::parse(concat!(
            "kafscale_partition_log_end_offset{topic=\"orders\",partition=\"2\"} 42\n",
            "kafscale_partition_log_start_offset{topic=\"orders\",partition=\"2\"} 7\n",
            "kafscale_partition_log_end_offset{topic=\"orders\",partition=\"x\"} 42\n",
            "kafscale_partition_log_end_offset{topic=\"orders\",partition=\"3\"} NaN\n",
            "kafscale_topic_received_records_total{topic=\"orders\"} 10\n",
            "kafscale_topic_received_records_total{topic=\"payments\"} 5\n",
            "process_cpu_seconds_total 3\n",
        ))
        .unwrap();
        let gauges = PartitionGauges { start: Some(7), end: Some(42), size_bytes: None };
        assert_eq!(scrape.partitions["orders"], BTreeMap::from([(2, gauges)]));
        assert_eq!(scrape.sum("kafscale_topic_received_records_total"), Some(15.0));
        assert_eq!(scrape.sum("process_cpu_seconds_total"), None);
    }

    #[test]
    fn an_answer_of_something_else_is_no_scrape() {
        for text in ["", "<html><body>404</body></html>", "go_gc_duration_seconds 0\n"] {
            assert!(Scrape::parse(text).is_err(), "{text}");
        }
    }
}
