//! What the server knows about the cluster: listings of the metadata store and scrapes of the brokers, each loaded once
//! for everybody who asks within a second.
//!
//! Invariant: this is read-only. Nothing in this crate writes to the metadata store or opens a Kafka connection.
//! Invariant: every load has a time limit, and its failure is an answer ([`Unavailable`]) and not a panic or a hang.

pub mod cached;
mod exposition;
mod http_get;
pub mod lag;
pub mod metrics;
pub mod names;
pub mod rates;
mod scrape;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use kafscale_core::clock::Clock;
use kafscale_meta::Metadata;
use kafscale_meta::records::{
    AssignmentRecord, BrokerRecord, ClusterRecord, ConfigScope, GroupRecord, OffsetKey, OffsetRecord,
    TopicRecord,
};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use cached::{Cached, Seen};
use metrics::{Metrics, Scraped};
use rates::History;
use scrape::Scrape;

/// How long a listing or a round of scrapes is shared.
const TTL: Duration = Duration::from_secs(1);
/// The metadata store answers within this, or is said not to.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);
/// A broker answers a scrape within this, or is said not to.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(2);
/// After the first scrape, so that the two lie far enough apart for rates.
const SECOND_SCRAPE_AFTER: Duration = Duration::from_secs(1);
/// More than a broker at its partition limit answers.
const MAX_SCRAPE_BYTES: usize = 256 << 20;
/// Scrapes at the same time.
const SCRAPES_AT_ONCE: usize = 16;

/// Something could not be found out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    why: Arc<str>,
}

impl Unavailable {
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: Arc::from(why.into()) }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Unavailable {}

/// What is seen, with its time, or why it is not.
pub type Answer<T> = Result<Arc<Seen<T>>, Unavailable>;

/// All topics, by name, with the owners of their partitions.
#[derive(Debug, Default)]
pub struct Topics {
    pub by_name: BTreeMap<String, Topic>,
    pub partitions: i64,
}

/// A topic with the owners of its partitions.
#[derive(Debug)]
pub struct Topic {
    pub record: TopicRecord,
    pub assignment: AssignmentRecord,
}

impl Topic {
    /// The broker that serves a partition.
    pub fn owner(&self, partition: i32) -> Option<i32> {
        let index = usize::try_from(partition).ok()?;
        self.assignment.partitions.get(index)?.owner
    }
}

/// The brokers that are registered, and the cluster they form.
#[derive(Debug)]
pub struct Brokers {
    pub by_id: BTreeMap<i32, BrokerRecord>,
    pub controller: Option<i32>,
    pub cluster: Option<ClusterRecord>,
    /// How long the metadata store took.
    pub took: Duration,
}

/// A group at rest.
#[derive(Debug, Default)]
pub struct Group {
    /// None: somebody committed offsets under this name, without ever joining.
    pub record: Option<GroupRecord>,
    /// By topic and partition.
    pub offsets: BTreeMap<String, BTreeMap<i32, OffsetRecord>>,
}

/// All groups, by name.
#[derive(Debug, Default)]
pub struct Groups {
    pub by_id: BTreeMap<String, Group>,
}

/// Where the brokers' metrics are.
#[derive(Clone, Debug)]
pub enum MetricsSource {
    /// At the addresses that the brokers registered.
    Registered,
    /// At these.
    Fixed(Vec<Uri>),
}

/// See the file's comment.
#[derive(Debug)]
pub struct ClusterView {
    metadata: Metadata,
    source: MetricsSource,
    clock: Arc<dyn Clock>,
    /// Defaults of topic configs that the brokers were started with.
    topic_defaults: BTreeMap<String, String>,
    topics: Cached<Topics>,
    brokers: Cached<Brokers>,
    groups: Cached<Groups>,
    dynamic_defaults: Cached<BTreeMap<String, String>>,
    metrics: Cached<Metrics>,
    histories: Mutex<HashMap<String, History>>,
    /// The brokers that were registered when the metadata store last answered.
    last_brokers: Mutex<Option<Arc<Seen<Brokers>>>>,
}

impl ClusterView {
    pub fn new(
        metadata: Metadata,
        source: MetricsSource,
        clock: Arc<dyn Clock>,
        topic_defaults: BTreeMap<String, String>,
    ) -> Self {
        Self {
            metadata,
            source,
            clock,
            topic_defaults,
            topics: Cached::new(TTL),
            brokers: Cached::new(TTL),
            groups: Cached::new(TTL),
            dynamic_defaults: Cached::new(TTL),
            metrics: Cached::new(TTL),
            histories: Mutex::default(),
            last_brokers: Mutex::default(),
        }
    }

    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    pub async fn topics(&self) -> Answer<Topics> {
        self.topics.get(|| self.now_ms(), || from_store(self.load_topics())).await
    }

    pub async fn brokers(&self) -> Answer<Brokers> {
        let brokers = self.brokers.get(|| self.now_ms(), || from_store(self.load_brokers())).await?;
        *self.last_brokers.lock() = Some(Arc::clone(&brokers));
        Ok(brokers)
    }

    pub async fn groups(&self) -> Answer<Groups> {
        self.groups.get(|| self.now_ms(), || from_store(self.load_groups())).await
    }

    /// The defaults of topic configs: those that were altered while brokers run, over those that they were started with.
    /// Synonyms at the broker (`log.retention.ms`) are given by their names at the topic.
    pub async fn topic_defaults(&self) -> Answer<BTreeMap<String, String>> {
        self.dynamic_defaults.get(|| self.now_ms(), || from_store(self.load_topic_defaults())).await
    }

    /// A round of scrapes. Never fails as a whole: each broker has its own outcome.
    pub async fn metrics(&self) -> Arc<Seen<Metrics>> {
        let metrics = self.metrics.get(|| self.now_ms(), || async { Ok(self.scrape_all().await) }).await;
        metrics.expect("a round of scrapes always has an outcome")
    }

    /// A round of scrapes that tells rates, if waiting about a second makes the difference.
    pub async fn metrics_with_rates(&self) -> Arc<Seen<Metrics>> {
        let metrics = self.metrics().await;
        let without = metrics.value.scrapes().any(|(_, _, rates)| rates.is_none());
        if !without {
            return metrics;
        }
        tokio::time::sleep(SECOND_SCRAPE_AFTER).await;
        self.metrics.forget();
        self.metrics().await
    }

    async fn load_topics(&self) -> kafscale_meta::Result<Topics> {
        let (topics, assignments) =
            tokio::try_join!(self.metadata.list_topics(), self.metadata.list_assignments())?;
        let mut assignments: HashMap<Uuid, AssignmentRecord> =
            assignments.items.into_iter().map(|(id, a)| (id, a.record)).collect();
        let mut listed = Topics::default();
        for (name, topic) in topics.items {
            let record = topic.record;
            listed.partitions += i64::from(record.partitions);
            let assignment = assignments.remove(&record.topic_id).unwrap_or_default();
            listed.by_name.insert(name, Topic { record, assignment });
        }
        Ok(listed)
    }

    async fn load_brokers(&self) -> kafscale_meta::Result<Brokers> {
        let started = Instant::now();
        let (brokers, controller, cluster) = tokio::try_join!(
            self.metadata.list_brokers(),
            self.metadata.load_controller(),
            self.metadata.load_cluster()
        )?;
        Ok(Brokers {
            by_id: brokers.items.into_iter().map(|(id, broker)| (id, broker.record)).collect(),
            controller: controller.map(|c| c.record.node_id),
            cluster: cluster.map(|c| c.record),
            took: started.elapsed(),
        })
    }

    async fn load_groups(&self) -> kafscale_meta::Result<Groups> {
        let (groups, offsets) =
            tokio::try_join!(self.metadata.list_groups(), self.metadata.load_all_offsets())?;
        let mut by_id: BTreeMap<String, Group> = BTreeMap::new();
        for (id, group) in groups.items {
            by_id.entry(id).or_default().record = Some(group.record);
        }
        for (OffsetKey { group, topic, partition }, offset) in offsets.items {
            let offsets = &mut by_id.entry(group).or_default().offsets;
            offsets.entry(topic).or_default().insert(partition, offset.record);
        }
        Ok(Groups { by_id })
    }

    async fn load_topic_defaults(&self) -> kafscale_meta::Result<BTreeMap<String, String>> {
        let dynamic = self.metadata.load_broker_config(ConfigScope::Default).await?;
        let mut defaults = self.topic_defaults.clone();
        for (name, value) in dynamic.map(|record| record.record.configs).unwrap_or_default() {
            let definition =
                kafscale_core::topic_config::DEFINITIONS.iter().find(|d| d.broker_synonym == name);
            if let Some(definition) = definition {
                defaults.insert(definition.name.to_owned(), value);
            }
        }
        Ok(defaults)
    }

    /// Where to scrape: broker and address.
    async fn endpoints(&self) -> Result<Vec<(Option<i32>, Uri)>, Unavailable> {
        let uris = match &self.source {
            MetricsSource::Fixed(uris) => return Ok(uris.iter().map(|uri| (None, uri.clone())).collect()),
            MetricsSource::Registered => match self.brokers().await {
                Ok(brokers) => brokers,
                // The brokers may well serve while the metadata store is down.
                Err(why) => self.last_brokers.lock().clone().ok_or(why)?,
            },
        };
        let endpoints: Vec<_> = uris
            .value
            .by_id
            .iter()
            .filter_map(|(id, broker)| {
                let address = broker.metrics_address.as_deref()?;
                Some((Some(*id), format!("http://{address}/metrics").parse().ok()?))
            })
            .collect();
        match endpoints.is_empty() {
            true if uris.value.by_id.is_empty() => Err(Unavailable::new("no broker is registered")),
            true => Err(Unavailable::new("no broker serves metrics")),
            false => Ok(endpoints),
        }
    }

    async fn scrape_all(&self) -> Metrics {
        let endpoints = match self.endpoints().await {
            Ok(endpoints) => endpoints,
            Err(why) => return Metrics { brokers: Vec::new(), no_brokers: Some(why) },
        };
        let mut scraped = Vec::with_capacity(endpoints.len());
        let mut scrapes = JoinSet::new();
        for (node_id, uri) in endpoints {
            if scrapes.len() == SCRAPES_AT_ONCE {
                scraped.extend(scrapes.join_next().await.and_then(Result::ok));
            }
            scrapes.spawn(async move { (node_id, scrape_one(&uri).await, uri) });
        }
        while let Some(done) = scrapes.join_next().await {
            scraped.extend(done.ok());
        }
        scraped.sort_by_key(|(node_id, _, uri)| (*node_id, uri.to_string()));
        let mut histories = self.histories.lock();
        histories.retain(|address, _| scraped.iter().any(|(_, _, uri)| uri.to_string() == *address));
        let brokers = scraped
            .into_iter()
            .map(|(node_id, outcome, uri)| {
                let address = uri.authority().map_or_else(|| uri.to_string(), ToString::to_string);
                let outcome = outcome.map(|(at, scrape)| {
                    let history = histories.entry(uri.to_string()).or_default();
                    history.push(at, &scrape);
                    (Arc::new(scrape), history.rates())
                });
                Scraped { node_id, address, outcome }
            })
            .collect();
        Metrics { brokers, no_brokers: None }
    }
}

async fn scrape_one(uri: &Uri) -> Result<(Instant, Scrape), Unavailable> {
    let body = http_get::get(uri, SCRAPE_TIMEOUT, MAX_SCRAPE_BYTES).await?;
    let at = Instant::now();
    // Reading the metrics of many partitions takes a while, which other tasks must not wait for.
    let parsed = tokio::task::spawn_blocking(move || {
        let text = std::str::from_utf8(&body).map_err(|_| Unavailable::new("the answer is not UTF-8"))?;
        Scrape::parse(text)
    });
    let scrape = parsed.await.map_err(|_| Unavailable::new("the server is stopping"))??;
    Ok((at, scrape))
}

async fn from_store<T>(load: impl Future<Output = kafscale_meta::Result<T>>) -> Result<T, Unavailable> {
    match tokio::time::timeout(METADATA_TIMEOUT, load).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(Unavailable::new(format!("the metadata store failed: {e}"))),
        Err(_) => Err(Unavailable::new(format!(
            "the metadata store did not answer within {} ms",
            METADATA_TIMEOUT.as_millis()
        ))),
    }
}
