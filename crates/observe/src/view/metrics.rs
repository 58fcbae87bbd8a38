//! The scrapes of all brokers, joined: log ends by partition, rates over all brokers, and who could not be asked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::rates::Rates;
use super::scrape::{PartitionGauges, Scrape};
use super::{Answer, Groups, Unavailable, names};

/// A broker's endpoint and what came of asking it.
#[derive(Clone, Debug)]
pub struct Scraped {
    /// From the metadata; None for an endpoint that was given in the settings.
    pub node_id: Option<i32>,
    pub address: String,
    pub outcome: Result<(Arc<Scrape>, Option<Rates>), Unavailable>,
}

/// One round of scrapes.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub brokers: Vec<Scraped>,
    /// Why there are no brokers to ask, if there are none.
    pub no_brokers: Option<Unavailable>,
    /// What was known before this round.
    pub object_store_before: Option<LastKnown>,
    /// The groups as they were read before this round, if they were.
    pub groups: Option<Answer<Groups>>,
    /// They are of some topics only, and figures that are not of a topic are left out.
    pub confined: bool,
}

/// Why a confined caller has no figure.
const OF_THE_WHOLE: &str = "this figure is of the whole cluster, and you see a part of it";

/// The state of the object store when a broker last told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastKnown {
    pub state: &'static str,
    pub at_ms: i64,
}

impl Metrics {
    /// What they say of some topics, and of the brokers themselves.
    pub fn of_topics(&self, sees: &dyn Fn(&str) -> bool) -> Self {
        let of = |broker: &Scraped| {
            let outcome = broker.outcome.as_ref().map_err(Clone::clone);
            let outcome = outcome.map(|(scrape, rates)| {
                (Arc::new(scrape.of_topics(sees)), rates.as_ref().map(|rates| rates.of_topics(sees)))
            });
            Scraped { node_id: broker.node_id, address: broker.address.clone(), outcome }
        };
        Self {
            brokers: self.brokers.iter().map(of).collect(),
            no_brokers: self.no_brokers.clone(),
            object_store_before: self.object_store_before,
            groups: None,
            confined: true,
        }
    }

    /// Why a broker's figures lack one.
    fn missing(&self, broker: &Scraped, name: &str) -> String {
        match self.confined && !names::OF_TOPICS.contains(&name) && !names::OF_BROKERS.contains(&name) {
            true => OF_THE_WHOLE.to_owned(),
            false => format!("{} does not report {name}", broker.address),
        }
    }

    /// The scrapes that worked.
    pub fn scrapes(&self) -> impl Iterator<Item = (&Scraped, &Scrape, Option<&Rates>)> {
        self.brokers.iter().filter_map(|broker| {
            let (scrape, rates) = broker.outcome.as_ref().ok()?;
            Some((broker, scrape.as_ref(), rates.as_ref()))
        })
    }

    /// The gauges of a partition: those of its owner. What another broker says may be from before it lost the partition;
    /// it counts only where nobody knows which broker an endpoint is, and then the most recent.
    pub fn partition(&self, topic: &str, partition: i32, owner: Option<i32>) -> Option<PartitionGauges> {
        let mut best: Option<PartitionGauges> = None;
        for (broker, scrape, _) in self.scrapes() {
            if broker.node_id.is_some() && broker.node_id != owner {
                continue;
            }
            let Some(gauges) = scrape.partitions.get(topic).and_then(|p| p.get(&partition)) else { continue };
            if best.is_none_or(|b| b.end < gauges.end) {
                best = Some(*gauges);
            }
        }
        best
    }

    /// Why figures may be missing: the endpoints that could not be read. None: all of them were.
    pub fn problem(&self) -> Option<String> {
        if let Some(why) = &self.no_brokers {
            return Some(why.to_string());
        }
        let failed: Vec<String> = self
            .brokers
            .iter()
            .filter_map(|b| b.outcome.as_ref().err().map(|why| format!("{}: {why}", b.address)))
            .collect();
        match failed.as_slice() {
            [] => None,
            [one] => Some(format!("metrics of {one}")),
            [one, rest @ ..] => Some(format!("metrics of {one} (and {} more brokers)", rest.len())),
        }
    }

    /// Per second and over all brokers, with the shortest window. An error when a broker is missing: a sum without it
    /// would be wrong.
    pub fn rate(&self, name: &str) -> Result<(f64, Duration), String> {
        self.rates(name, |rates| rates.total(name))
    }

    /// The same for one label value.
    pub fn rate_of(&self, name: &str, label: &str) -> Result<(f64, Duration), String> {
        self.rates(name, |rates| rates.of(name, label))
    }

    fn rates(&self, name: &str, pick: impl Fn(&Rates) -> Option<f64>) -> Result<(f64, Duration), String> {
        if let Some(why) = self.problem() {
            return Err(why);
        }
        let (mut sum, mut window) = (0.0, Duration::MAX);
        for (broker, _, rates) in self.scrapes() {
            let rates = rates.ok_or_else(|| {
                format!(
                    "only one scrape of {} since it or this server started; ask again in 2 s",
                    broker.address
                )
            })?;
            sum += pick(rates).ok_or_else(|| self.missing(broker, name))?;
            window = window.min(rates.window);
        }
        Ok((sum, window))
    }

    /// The rate of each label value over all brokers.
    pub fn rates_by_label(&self, name: &str) -> BTreeMap<String, f64> {
        let mut sums: HashMap<&str, f64> = HashMap::new();
        for rates in self.scrapes().filter_map(|(_, _, rates)| rates) {
            for (label, rate) in rates.by_label(name) {
                *sums.entry(label).or_default() += rate;
            }
        }
        sums.into_iter().map(|(label, rate)| (label.to_owned(), rate)).collect()
    }

    /// A gauge of every broker.
    pub fn gauges(&self, name: &str) -> Result<Vec<f64>, String> {
        if let Some(why) = self.problem() {
            return Err(why);
        }
        self.scrapes()
            .map(|(broker, scrape, _)| scrape.sum(name).ok_or_else(|| self.missing(broker, name)))
            .collect()
    }

    /// A gauge over all brokers that is a mean of something: the mean, by how often each broker did that lately. `counts` are
    /// the counters of it.
    pub fn mean(&self, name: &str, counts: &[&str]) -> Result<f64, String> {
        let values = self.gauges(name)?;
        let weights: Vec<f64> = self
            .scrapes()
            .map(|(_, _, rates)| counts.iter().filter_map(|count| rates?.total(count)).sum())
            .collect();
        let total: f64 = weights.iter().sum();
        match values.len() {
            0 => Err("there are no brokers".to_owned()),
            _ if total > 0.0 => Ok(values.iter().zip(&weights).map(|(v, w)| v * w).sum::<f64>() / total),
            n => Ok(values.iter().sum::<f64>() / n as f64),
        }
    }

    /// Which store the figures of the store are of, in words. None: no broker says.
    pub fn store(&self) -> Option<String> {
        let label = |labels: &[(String, String)], name: &str| {
            labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.clone())
        };
        let kinds = self.scrapes().flat_map(|(_, scrape, _)| scrape.series(names::STORE_INFO));
        let stores: BTreeSet<String> = kinds
            .map(|(labels, _)| match (label(labels, "kind").as_deref(), label(labels, "url")) {
                (Some("s3"), Some(url)) => url,
                (Some("memory"), _) => "memory: there is no S3".to_owned(),
                _ => "a local disk: there is no S3, and these are figures of its write-ahead log".to_owned(),
            })
            .collect();
        (!stores.is_empty()).then(|| stores.into_iter().collect::<Vec<_>>().join(", "))
    }

    /// The state of the object store as the brokers that can be asked see it: the worst one.
    pub fn object_store(&self) -> Result<&'static str, String> {
        let mut worst = None;
        for (broker, scrape, _) in self.scrapes() {
            let state = store_state(scrape)
                .ok_or_else(|| format!("{} does not report {}", broker.address, names::S3_HEALTH))?;
            worst = worst.max(Some(state));
        }
        match worst {
            Some(worst) => Ok(STORE_STATES[worst]),
            None => Err(self.problem().unwrap_or_else(|| "there are no brokers".to_owned())),
        }
    }
}

const STORE_STATES: [&str; 3] = ["healthy", "degraded", "unavailable"];

/// One series per state, of which the current one is 1; or one series with the number of the state.
fn store_state(scrape: &Scrape) -> Option<usize> {
    let series = scrape.series(names::S3_HEALTH);
    let of_state = |labels: &[(String, String)]| {
        let (_, state) = labels.iter().find(|(label, _)| label == "state")?;
        STORE_STATES.iter().position(|known| known == state)
    };
    match series {
        [(labels, value)] if labels.is_empty() => {
            (0..STORE_STATES.len()).find(|state| *state as f64 == *value)
        }
        many => {
            many.iter().filter(|(_, value)| *value == 1.0).filter_map(|(labels, _)| of_state(labels)).max()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(node_id: i32, text: &str) -> Scraped {
        let scrape = Scrape::parse(text).unwrap();
        Scraped {
            node_id: Some(node_id),
            address: format!("b{node_id}"),
            outcome: Ok((Arc::new(scrape), None)),
        }
    }

    fn end(offset: i64) -> String {
        format!("kafscale_partition_log_end_offset{{topic=\"t\",partition=\"0\"}} {offset}\n")
    }

    #[test]
    fn a_partition_is_what_its_owner_says() {
        let mut metrics =
            Metrics { brokers: vec![broker(1, &end(5)), broker(2, &end(9))], ..Metrics::default() };
        let end_of = |metrics: &Metrics, owner| metrics.partition("t", 0, owner).and_then(|g| g.end);
        let ends = |metrics: &Metrics| [Some(1), Some(2), Some(3), None].map(|owner| end_of(metrics, owner));
        assert_eq!(ends(&metrics), [Some(5), Some(9), None, None]);
        assert_eq!(metrics.partition("t", 1, Some(1)), None);
        metrics.brokers.iter_mut().for_each(|broker| broker.node_id = None);
        assert_eq!(ends(&metrics), [Some(9); 4]);
    }

    #[test]
    fn the_object_store_is_as_bad_as_the_worst_broker_sees_it() {
        let labelled = |state: &str| {
            let one =
                |s: &&str| format!("kafscale_s3_health_state{{state=\"{s}\"}} {}\n", u8::from(*s == state));
            STORE_STATES.iter().map(one).collect::<String>()
        };
        let metrics =
            |a: &str, b: &str| Metrics { brokers: vec![broker(1, a), broker(2, b)], ..Metrics::default() };
        assert_eq!(metrics(&labelled("healthy"), &labelled("degraded")).object_store(), Ok("degraded"));
        assert_eq!(
            metrics(&labelled("healthy"), "kafscale_s3_health_state 0\n").object_store(),
            Ok("healthy")
        );
        assert_eq!(
            metrics(&labelled("healthy"), "kafscale_s3_health_state 2\n").object_store(),
            Ok("unavailable")
        );
        assert!(metrics(&labelled("healthy"), &end(1)).object_store().is_err());
    }

    #[test]
    fn a_mean_over_brokers_counts_the_busy_ones_more() {
        let text = |latency: i32, flushes: i32| {
            format!("{} {latency}\n{} {flushes}\n", names::S3_LATENCY_MS, names::WAL_FLUSHES)
        };
        let busy_by = |latency: i32, flushes: i32| {
            let mut history = super::super::rates::History::default();
            let now = tokio::time::Instant::now();
            history.push(now, &Scrape::parse(&text(latency, 0)).unwrap());
            let scrape = Scrape::parse(&text(latency, flushes)).unwrap();
            history.push(now + Duration::from_secs(10), &scrape);
            let outcome = Ok((Arc::new(scrape), history.rates()));
            Scraped { node_id: None, address: "b".into(), outcome }
        };
        let mean = |brokers| {
            let metrics = Metrics { brokers, ..Metrics::default() };
            metrics.mean(names::S3_LATENCY_MS, &[names::WAL_FLUSHES])
        };
        assert_eq!(mean(vec![busy_by(10, 300), busy_by(50, 100)]), Ok(20.0));
        assert_eq!(mean(vec![busy_by(10, 0), busy_by(50, 0)]), Ok(30.0));
        assert!(mean(vec![]).is_err());
    }

    #[test]
    fn a_sum_over_brokers_needs_all_of_them() {
        let mut metrics =
            Metrics { brokers: vec![broker(1, "kafscale_connections 3\n")], ..Metrics::default() };
        assert_eq!(metrics.gauges("kafscale_connections"), Ok(vec![3.0]));
        let outcome = Err(Unavailable::new("cannot connect: refused"));
        metrics.brokers.push(Scraped { node_id: Some(2), address: "b2".into(), outcome });
        let why = metrics.gauges("kafscale_connections").unwrap_err();
        assert_eq!(why, "metrics of b2: cannot connect: refused");
    }
}
