//! What one rule of the policy lets its callers see of the cluster, and a view that shows no more ([`View`]).
//!
//! Tools compute over what a view gives them, so that counts, sums, suggestions and pages are of what the caller sees. Figures that
//! cannot be told apart by topic (requests, connections, latencies) are left out of it; a tool then says why there is none.
//!
//! Invariant: nothing that a confined caller is shown depends on a topic or a group that it does not see. Brokers, the state of the
//! stores and the defaults of configs are everybody's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kafscale_agent::{Change, Changes};
use kafscale_meta::records::{HistoryEntry, HistoryKind, HistoryRecord};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::cached::Seen;
use super::lag::{self, LagSummary};
use super::lag_history::{LagHistory, Trend};
use super::metrics::Metrics;
use super::{Answer, Brokers, ClusterView, Group, Groups, LagInputs, Lags, Topics, Unavailable, load};
use crate::changes::LEADERS;
use crate::resources::{GROUP, TOPIC};

/// Lag is remembered for those of whose rule somebody asked within this time.
const REMEMBERED_FOR: Duration = Duration::from_secs(3600);

/// A set of names.
#[derive(Debug)]
pub enum Names {
    All,
    Some { exact: BTreeSet<String>, prefixes: Vec<String> },
}

impl Names {
    /// Of names in full, and of beginnings with `*` behind them.
    pub fn new(patterns: &[String]) -> Self {
        if patterns.iter().any(|pattern| pattern == "*") {
            return Self::All;
        }
        let prefixes = patterns.iter().filter_map(|pattern| pattern.strip_suffix('*')).map(str::to_owned);
        let exact = patterns.iter().filter(|pattern| !pattern.ends_with('*')).cloned();
        Self::Some { exact: exact.collect(), prefixes: prefixes.collect() }
    }

    pub fn sees(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some { exact, prefixes } => {
                exact.contains(name) || prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))
            }
        }
    }
}

/// See the file's comment.
#[derive(Debug)]
pub struct Sight {
    /// The name of the rule.
    pub rule: Arc<str>,
    pub topics: Names,
    pub groups: Names,
    /// Tells those changes that are seen.
    pub changes: Changes,
    seen_topics: Filtered<Topics>,
    seen_groups: Filtered<Groups>,
    seen_metrics: Filtered<Metrics>,
    lags: Mutex<Arc<OnceCell<Arc<Lags>>>>,
    lag_history: Mutex<LagHistory>,
    last_asked: Mutex<Option<Instant>>,
}

impl Sight {
    pub fn new(rule: impl Into<Arc<str>>, topics: Names, groups: Names) -> Self {
        Self {
            rule: rule.into(),
            topics,
            groups,
            changes: Changes::default(),
            seen_topics: Filtered::default(),
            seen_groups: Filtered::default(),
            seen_metrics: Filtered::default(),
            lags: Mutex::default(),
            lag_history: Mutex::default(),
            last_asked: Mutex::default(),
        }
    }

    /// Sees everything.
    pub fn open() -> Self {
        Self::new("", Names::All, Names::All)
    }

    pub fn is_confined(&self) -> bool {
        !matches!((&self.topics, &self.groups), (Names::All, Names::All))
    }

    /// Whether a change is one of something that is seen.
    pub fn sees(&self, change: &Change) -> bool {
        match change {
            Change::Of(TOPIC | LEADERS, name) => self.topics.sees(name),
            Change::Of(GROUP, name) => self.groups.sees(name),
            Change::Of(..) | Change::Everything => true,
        }
    }

    fn keep_topics(&self, all: &Topics) -> Topics {
        let seen = all.by_name.iter().filter(|(name, _)| self.topics.sees(name));
        let by_name: BTreeMap<_, _> = seen.map(|(name, topic)| (name.clone(), topic.clone())).collect();
        let partitions = by_name.values().map(|topic| i64::from(topic.record.partitions)).sum();
        Topics { by_name, partitions }
    }

    /// A group that is seen reads nothing but topics that are.
    fn keep_groups(&self, all: &Groups) -> Groups {
        fn of<V: Clone>(topics: &Names, all: &BTreeMap<String, V>) -> BTreeMap<String, V> {
            let seen = all.iter().filter(|(name, _)| topics.sees(name));
            seen.map(|(name, value)| (name.clone(), value.clone())).collect()
        }
        let kept = |group: &Group| Group {
            record: group.record.clone(),
            readers: of(&self.topics, &group.readers),
            offsets: of(&self.topics, &group.offsets),
        };
        let seen = all.by_id.iter().filter(|(id, _)| self.groups.sees(id));
        Groups { by_id: seen.map(|(id, group)| (id.clone(), kept(group))).collect() }
    }

    /// What a broker led when it vanished is not told: its count is over all topics.
    fn keep_brokers(&self, all: &Brokers) -> Brokers {
        let mut seen = all.clone();
        seen.missing.values_mut().for_each(|member| member.lost = None);
        seen.took = None;
        seen
    }

    /// Many changes of one kind are kept as one, which names the first; of those only the one is told that is named.
    fn keep_history(&self, all: &[HistoryEntry]) -> Vec<HistoryEntry> {
        let one = |entry: &HistoryEntry| match entry.count {
            1 => entry.clone(),
            _ => HistoryEntry { count: 1, detail: String::new(), ..entry.clone() },
        };
        let seen = all.iter().filter_map(|entry| match entry.kind {
            HistoryKind::TopicCreated
            | HistoryKind::TopicDeleted
            | HistoryKind::PartitionsAdded
            | HistoryKind::TopicConfig
            | HistoryKind::LeadersMoved => self.topics.sees(&entry.name).then(|| one(entry)),
            HistoryKind::GroupEmptied | HistoryKind::GroupDeleted => {
                self.groups.sees(&entry.name).then(|| one(entry))
            }
            HistoryKind::BrokerConfig
            | HistoryKind::BrokerStarted
            | HistoryKind::BrokerStopped
            | HistoryKind::BrokerVanished
            | HistoryKind::ControllerElected => Some(entry.clone()),
            HistoryKind::Other => None,
        });
        seen.collect()
    }
}

/// Worked out once.
type Once<T> = Arc<OnceCell<Arc<Seen<T>>>>;

/// What is left of a listing, kept until another listing takes its place.
#[derive(Debug)]
struct Filtered<T>(Mutex<(Weak<Seen<T>>, Once<T>)>);

impl<T> Default for Filtered<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Send + Sync + 'static> Filtered<T> {
    /// The part of a listing that `keep` keeps. That is worked out once for each listing, off the runtime's threads.
    async fn of(
        &self,
        all: Arc<Seen<T>>,
        keep: impl FnOnce(&T) -> T + Send + 'static,
    ) -> Result<Arc<Seen<T>>, Unavailable> {
        let cell = {
            let mut kept = self.0.lock();
            if !Weak::ptr_eq(&kept.0, &Arc::downgrade(&all)) {
                *kept = (Arc::downgrade(&all), Arc::default());
            }
            Arc::clone(&kept.1)
        };
        let keep = || {
            load::off_the_runtime(move || {
                Arc::new(Seen { value: keep(&all.value), at: all.at, at_ms: all.at_ms })
            })
        };
        cell.get_or_try_init(keep).await.cloned()
    }
}

/// The cluster as one caller sees it.
#[derive(Clone, Debug)]
pub struct View {
    cluster: Arc<ClusterView>,
    sight: Arc<Sight>,
}

impl View {
    pub fn new(cluster: Arc<ClusterView>, sight: Arc<Sight>) -> Self {
        *sight.last_asked.lock() = Some(Instant::now());
        Self { cluster, sight }
    }

    pub fn is_confined(&self) -> bool {
        self.sight.is_confined()
    }

    pub fn now_ms(&self) -> i64 {
        self.cluster.now_ms()
    }

    pub async fn topics(&self) -> Answer<Topics> {
        self.keep_topics(self.cluster.topics().await.map_err(|why| self.told(why))?).await
    }

    pub async fn groups(&self) -> Answer<Groups> {
        self.keep_groups(self.cluster.groups().await.map_err(|why| self.told(why))?).await
    }

    pub async fn brokers(&self) -> Answer<Brokers> {
        let brokers = self.cluster.brokers().await.map_err(|why| self.told(why))?;
        Ok(self.keep_brokers(brokers))
    }

    /// The brokers as they were when the metadata store last answered.
    pub fn brokers_before(&self) -> Option<Arc<Seen<Brokers>>> {
        self.cluster.brokers_before().map(|brokers| self.keep_brokers(brokers))
    }

    /// What changed lately, the newest last.
    pub async fn history(&self) -> Answer<HistoryRecord> {
        let all = self.cluster.history().await.map_err(|why| self.told(why))?;
        if !self.is_confined() {
            return Ok(all);
        }
        let entries = self.sight.keep_history(&all.value.entries);
        let value = HistoryRecord { entries, left_out_ms: None };
        Ok(Arc::new(Seen { value, at: all.at, at_ms: all.at_ms }))
    }

    /// The defaults of topic configs.
    pub async fn topic_defaults(&self) -> Answer<BTreeMap<String, String>> {
        self.cluster.topic_defaults().await.map_err(|why| self.told(why))
    }

    pub async fn metrics(&self) -> Arc<Seen<Metrics>> {
        self.keep_metrics(self.cluster.metrics().await).await
    }

    /// See [`ClusterView::metrics_with_rates`].
    pub async fn metrics_with_rates(&self) -> Arc<Seen<Metrics>> {
        self.keep_metrics(self.cluster.metrics_with_rates().await).await
    }

    /// See [`ClusterView::commits_then_ends`].
    pub async fn commits_then_ends(&self) -> Result<LagInputs, Unavailable> {
        let inputs = self.cluster.commits_then_ends().await.map_err(|why| self.told(why))?;
        self.keep_inputs(inputs).await
    }

    /// The lag of every group.
    pub async fn lags(&self) -> Result<Arc<Lags>, Unavailable> {
        let inputs = self.commits_then_ends().await?;
        self.add_up(inputs).await
    }

    /// How the lag of a group has developed.
    pub fn trend(&self, group: &str, now: &LagSummary) -> Option<Trend> {
        self.sight.lag_history.lock().trend(Instant::now(), group, now)
    }

    /// What went wrong may name what is not seen.
    fn told(&self, why: Unavailable) -> Unavailable {
        match self.is_confined() {
            true => Unavailable::new("the metadata store cannot be read as it should"),
            false => why,
        }
    }

    async fn keep_topics(&self, all: Arc<Seen<Topics>>) -> Answer<Topics> {
        let sight = Arc::clone(&self.sight);
        match self.is_confined() {
            true => self.sight.seen_topics.of(all, move |all| sight.keep_topics(all)).await,
            false => Ok(all),
        }
    }

    async fn keep_groups(&self, all: Arc<Seen<Groups>>) -> Answer<Groups> {
        let sight = Arc::clone(&self.sight);
        match self.is_confined() {
            true => self.sight.seen_groups.of(all, move |all| sight.keep_groups(all)).await,
            false => Ok(all),
        }
    }

    fn keep_brokers(&self, all: Arc<Seen<Brokers>>) -> Arc<Seen<Brokers>> {
        match self.is_confined() {
            true => {
                Arc::new(Seen { value: self.sight.keep_brokers(&all.value), at: all.at, at_ms: all.at_ms })
            }
            false => all,
        }
    }

    async fn keep_metrics(&self, all: Arc<Seen<Metrics>>) -> Arc<Seen<Metrics>> {
        if !self.is_confined() {
            return all;
        }
        let (sight, at, at_ms) = (Arc::clone(&self.sight), all.at, all.at_ms);
        let seen =
            self.sight.seen_metrics.of(all, move |all| all.of_topics(&|topic| sight.topics.sees(topic)));
        seen.await.unwrap_or_else(|why| {
            let value = Metrics { no_brokers: Some(why), ..Metrics::default() };
            Arc::new(Seen { value, at, at_ms })
        })
    }

    async fn keep_inputs(&self, (groups, topics, metrics): LagInputs) -> Result<LagInputs, Unavailable> {
        Ok((
            self.keep_groups(groups).await?,
            self.keep_topics(topics).await?,
            self.keep_metrics(metrics).await,
        ))
    }

    async fn add_up(&self, (groups, topics, metrics): LagInputs) -> Result<Arc<Lags>, Unavailable> {
        let cell = {
            let mut current = self.sight.lags.lock();
            let outdated = current.get().is_some_and(|lags| !lags.are_of(&groups, &topics, &metrics));
            if outdated {
                *current = Arc::default();
            }
            Arc::clone(&current)
        };
        let add_up = || {
            load::off_the_runtime(move || {
                let of = |group: &Group| lag::of_group(group, &topics.value, &metrics.value);
                let by_group = groups.value.by_id.iter().map(|(id, group)| (id.clone(), of(group))).collect();
                Arc::new(Lags { groups, topics, metrics, by_group })
            })
        };
        Ok(Arc::clone(cell.get_or_try_init(add_up).await?))
    }
}

/// Remembers the lag of every group, for those who may ask how it develops.
pub async fn remember_lags(cluster: &Arc<ClusterView>, sights: &[Arc<Sight>]) {
    for sight in sights {
        let asked = sight.last_asked.lock().is_some_and(|at| at.elapsed() < REMEMBERED_FOR);
        if sight.is_confined() && !asked {
            *sight.lag_history.lock() = LagHistory::default();
            continue;
        }
        // No caller asks: the sight stays as forgotten as it was.
        let view = View { cluster: Arc::clone(cluster), sight: Arc::clone(sight) };
        if let Ok(inputs) = cluster.lag_inputs_unasked().await
            && let Ok(inputs) = view.keep_inputs(inputs).await
            && let Ok(lags) = view.add_up(inputs).await
        {
            sight.lag_history.lock().push(Instant::now(), &lags.by_group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_what_begins_so() {
        let names = Names::new(&["payments.*".to_owned(), "invoices".to_owned()]);
        for (name, seen) in [
            ("payments.", true),
            ("payments.eu", true),
            ("payments", false),
            ("invoices", true),
            ("invoices2", false),
            ("", false),
        ] {
            assert_eq!(names.sees(name), seen, "{name}");
        }
        assert!(Names::new(&["*".to_owned()]).sees("anything"));
        assert!(!Names::new(&[]).sees("anything"));
    }

    fn entry(kind: HistoryKind, name: &str, count: u64, detail: &str) -> HistoryEntry {
        HistoryEntry { at_ms: 1, kind, name: name.to_owned(), count, detail: detail.to_owned() }
    }

    #[test]
    fn of_many_changes_kept_as_one_only_the_named_one_is_told() {
        let topics = Names::new(&["mine.*".to_owned()]);
        let sight = Sight::new("r", topics, Names::new(&[]));
        let all = [
            entry(HistoryKind::TopicCreated, "mine.a", 1, "3 partitions"),
            entry(HistoryKind::TopicCreated, "secret", 1, "3 partitions"),
            entry(HistoryKind::LeadersMoved, "mine.a", 40, "and others"),
            entry(HistoryKind::BrokerStopped, "broker 1", 1, "as planned"),
            entry(HistoryKind::GroupEmptied, "secret", 1, "after generation 2"),
            entry(HistoryKind::Other, "secret", 1, ""),
        ];
        let seen = sight.keep_history(&all);
        assert_eq!(
            seen,
            [
                entry(HistoryKind::TopicCreated, "mine.a", 1, "3 partitions"),
                entry(HistoryKind::LeadersMoved, "mine.a", 1, ""),
                entry(HistoryKind::BrokerStopped, "broker 1", 1, "as planned"),
            ]
        );
    }
}
