//! What the server knows about the cluster: listings of the metadata store and scrapes of the brokers, each loaded once
//! for everybody who asks within a second.
//!
//! Invariant: this is read-only, and nothing in this crate opens a Kafka connection. (All that it writes is the anchor of the audit log.)
//! Invariant: every load has a time limit, and its failure is an answer ([`Unavailable`]) and not a panic or a hang.
//! Invariant: what takes long on a large cluster (decoding, parsing, adding up lag) is done once for all, off the runtime's
//! threads.

pub mod cached;
mod exposition;
pub mod lag;
pub mod lag_history;
mod load;
pub mod metrics;
pub mod names;
pub mod rates;
pub mod scrape;
pub mod sight;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use kafscale_core::clock::Clock;
use kafscale_meta::Metadata;
use kafscale_meta::records::{
    AssignmentRecord, BrokerRecord, ClusterRecord, GroupRecord, HistoryRecord, MemberRecord, OffsetRecord,
    PartitionAssignment, TopicRecord,
};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use cached::{Cached, Seen};
use lag::LagSummary;
use metrics::{LastKnown, Metrics, Scraped};
use rates::History;
use scrape::Scrape;

use kafscale_agent::identity::http_get::{self, HttpClient, Limits};

/// How long a listing or a round of scrapes is shared.
const TTL: Duration = Duration::from_secs(1);
/// A broker answers a scrape within this, or is said not to; with no more than a broker at its partition limit has to say.
const SCRAPE_LIMITS: Limits = Limits { timeout: Duration::from_secs(2), max_bytes: 128 << 20 };
const SCRAPE_FORMAT: &str = "text/plain;version=0.0.4";
/// After the first scrape, so that the two lie far enough apart for rates.
const SECOND_SCRAPE_AFTER: Duration = Duration::from_secs(1);
/// After a question about lag, scrapes begin with the groups for this long.
const LAG_WANTED_FOR: Duration = Duration::from_secs(10);
/// Scrapes at the same time.
const SCRAPES_AT_ONCE: usize = 64;

/// Something about the cluster could not be found out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    why: Arc<str>,
    /// Nobody listens where it was asked for, although the host is there.
    pub refused: bool,
}

impl Unavailable {
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: Arc::from(why.into()), refused: false }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Unavailable {}

impl From<http_get::Unavailable> for Unavailable {
    fn from(why: http_get::Unavailable) -> Self {
        Self { refused: why.is_refused(), ..Self::new(why.to_string()) }
    }
}

/// What is seen, with its time, or why it is not.
pub type Answer<T> = Result<Arc<Seen<T>>, Unavailable>;

/// All topics, by name, with the owners of their partitions.
#[derive(Debug, Default)]
pub struct Topics {
    pub by_name: BTreeMap<String, Topic>,
    pub partitions: i64,
}

/// A topic with the owners of its partitions.
#[derive(Clone, Debug)]
pub struct Topic {
    pub record: TopicRecord,
    pub assignment: AssignmentRecord,
}

impl Topic {
    /// The broker that serves a partition.
    pub fn owner(&self, partition: i32) -> Option<i32> {
        self.assigned(partition)?.owner
    }

    /// Whether that broker is alive, and not only another start of it, which owns nothing yet of what the one before did.
    pub fn is_led(&self, partition: i32, brokers: &Brokers) -> bool {
        let led = self.assigned(partition).and_then(|assigned| {
            let broker = brokers.by_id.get(&assigned.owner?)?;
            Some(assigned.incarnation == 0 || assigned.incarnation == broker.epoch)
        });
        led.unwrap_or(false)
    }

    /// How many partitions a broker serves in this start of it.
    pub fn led_by(&self, id: i32, brokers: &Brokers) -> usize {
        let is_own = |partition: &i32| self.owner(*partition) == Some(id) && self.is_led(*partition, brokers);
        (0..self.record.partitions).filter(is_own).count()
    }

    pub fn assigned(&self, partition: i32) -> Option<&PartitionAssignment> {
        self.assignment.partitions.get(usize::try_from(partition).ok()?)
    }
}

/// The brokers that are registered, and the cluster they form.
#[derive(Clone, Debug)]
pub struct Brokers {
    pub by_id: BTreeMap<i32, BrokerRecord>,
    /// Brokers that are gone without having left as planned.
    pub missing: BTreeMap<i32, MemberRecord>,
    /// When those that are registered last noted that they live.
    pub alive_ms: BTreeMap<i32, i64>,
    pub controller: Option<i32>,
    pub cluster: Option<ClusterRecord>,
    /// How long the metadata store took. None: that is not for the caller.
    pub took: Option<Duration>,
}

/// A group at rest.
#[derive(Debug, Default)]
pub struct Group {
    /// None: somebody committed offsets under this name, without ever joining.
    pub record: Option<GroupRecord>,
    /// Which member reads a partition, by topic: its index in the record.
    pub readers: BTreeMap<String, BTreeMap<i32, usize>>,
    /// By topic and partition.
    pub offsets: BTreeMap<String, BTreeMap<i32, OffsetRecord>>,
}

/// All groups, by name.
#[derive(Debug, Default)]
pub struct Groups {
    pub by_id: BTreeMap<String, Group>,
}

/// The lag of all groups, added up once for everybody, with what it was computed from.
#[derive(Debug)]
pub struct Lags {
    pub groups: Arc<Seen<Groups>>,
    pub topics: Arc<Seen<Topics>>,
    pub metrics: Arc<Seen<Metrics>>,
    /// Has every group of `groups`.
    pub by_group: BTreeMap<String, LagSummary>,
}

impl Lags {
    fn are_of(
        &self,
        groups: &Arc<Seen<Groups>>,
        topics: &Arc<Seen<Topics>>,
        metrics: &Arc<Seen<Metrics>>,
    ) -> bool {
        Arc::ptr_eq(&self.groups, groups)
            && Arc::ptr_eq(&self.topics, topics)
            && Arc::ptr_eq(&self.metrics, metrics)
    }
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
    clock: Arc<dyn Clock>,
    /// Defaults of topic configs that the brokers were started with.
    topic_defaults: BTreeMap<String, String>,
    topics: Cached<Topics>,
    brokers: Arc<BrokerList>,
    groups: Arc<GroupList>,
    dynamic_defaults: Cached<BTreeMap<String, String>>,
    history: Cached<HistoryRecord>,
    metrics: Cached<Metrics>,
    scraper: Arc<Scraper>,
    /// When somebody last asked for lag.
    lag_wanted: Mutex<Option<Instant>>,
}

impl ClusterView {
    pub fn new(
        metadata: Metadata,
        source: MetricsSource,
        http: HttpClient,
        clock: Arc<dyn Clock>,
        topic_defaults: BTreeMap<String, String>,
    ) -> Self {
        let brokers = Arc::new(BrokerList {
            metadata: metadata.clone(),
            clock: Arc::clone(&clock),
            current: Cached::new(TTL),
            last: Mutex::default(),
        });
        let groups =
            GroupList { metadata: metadata.clone(), clock: Arc::clone(&clock), current: Cached::new(TTL) };
        let scraper = Scraper {
            source,
            http,
            brokers: Arc::clone(&brokers),
            clock: Arc::clone(&clock),
            memory: Mutex::default(),
        };
        Self {
            metadata,
            clock,
            topic_defaults,
            topics: Cached::new(TTL),
            brokers,
            groups: Arc::new(groups),
            dynamic_defaults: Cached::new(TTL),
            history: Cached::new(TTL),
            metrics: Cached::new(TTL),
            scraper: Arc::new(scraper),
            lag_wanted: Mutex::default(),
        }
    }

    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    pub async fn topics(&self) -> Answer<Topics> {
        let metadata = self.metadata.clone();
        self.topics.get(|| self.now_ms(), || async move { load::topics(&metadata).await }).await
    }

    pub async fn brokers(&self) -> Answer<Brokers> {
        self.brokers.get().await
    }

    /// The brokers as they were when the metadata store last answered.
    pub fn brokers_before(&self) -> Option<Arc<Seen<Brokers>>> {
        self.brokers.last.lock().clone()
    }

    pub async fn groups(&self) -> Answer<Groups> {
        self.groups.get().await
    }

    /// What changed lately, the newest last.
    pub async fn history(&self) -> Answer<HistoryRecord> {
        let metadata = self.metadata.clone();
        self.history.get(|| self.now_ms(), || async move { load::history(&metadata).await }).await
    }

    /// The defaults of topic configs. Synonyms at the broker (`log.retention.ms`) are given by their names at the topic.
    pub async fn topic_defaults(&self) -> Answer<BTreeMap<String, String>> {
        let (metadata, started_with) = (self.metadata.clone(), self.topic_defaults.clone());
        let load = || async move { load::topic_defaults(&metadata, started_with).await };
        self.dynamic_defaults.get(|| self.now_ms(), load).await
    }

    /// A round of scrapes. Never fails as a whole: each broker has its own outcome.
    pub async fn metrics(&self) -> Arc<Seen<Metrics>> {
        let scraper = Arc::clone(&self.scraper);
        let (at, at_ms) = (Instant::now(), self.now_ms());
        let lag_is_wanted = self.lag_wanted.lock().is_some_and(|asked| at - asked < LAG_WANTED_FOR);
        let first = lag_is_wanted.then(|| Arc::clone(&self.groups));
        let load = || async move { Ok(scraper.scrape_all(first).await) };
        let metrics = self.metrics.get(|| self.now_ms(), load).await;
        metrics.unwrap_or_else(|why| {
            let value = Metrics { no_brokers: Some(why), ..Metrics::default() };
            Arc::new(Seen { value, at, at_ms })
        })
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

    /// What lag is computed from. The ends of logs are read after the commits: the other way round a group that commits all the time
    /// would seem to be ahead of the log.
    pub async fn commits_then_ends(&self) -> Result<LagInputs, Unavailable> {
        *self.lag_wanted.lock() = Some(Instant::now());
        let metrics = async {
            let metrics = self.metrics().await;
            match metrics.value.groups {
                Some(_) => metrics,
                // Scraped when nobody wanted lag.
                None => {
                    self.metrics.forget();
                    self.metrics().await
                }
            }
        };
        let (topics, metrics) = tokio::join!(self.topics(), metrics);
        let missing = || Err(Unavailable::new("the groups were not read; ask again"));
        let groups = metrics.value.groups.clone().unwrap_or_else(missing)?;
        Ok((groups, topics?, metrics))
    }

    /// The same, when nobody asks: the next scrapes need not read the groups first.
    pub async fn lag_inputs_unasked(&self) -> Result<LagInputs, Unavailable> {
        let asked = *self.lag_wanted.lock();
        let inputs = self.commits_then_ends().await;
        *self.lag_wanted.lock() = asked;
        inputs
    }

    /// The name of a topic that was just assigned.
    pub async fn topic_named(&self, id: Uuid) -> Option<String> {
        for _ in 0..2 {
            let topics = self.topics().await.ok()?;
            let found = topics.value.by_name.iter().find(|(_, topic)| topic.record.topic_id == id);
            if let Some((name, _)) = found {
                return Some(name.clone());
            }
            // It may be newer than the listing.
            self.topics.forget();
        }
        None
    }
}

/// Groups and topics, and the metrics that were read after the groups.
pub type LagInputs = (Arc<Seen<Groups>>, Arc<Seen<Topics>>, Arc<Seen<Metrics>>);

/// The groups, which are read before a scrape where lag is wanted.
#[derive(Debug)]
struct GroupList {
    metadata: Metadata,
    clock: Arc<dyn Clock>,
    current: Cached<Groups>,
}

impl GroupList {
    async fn get(&self) -> Answer<Groups> {
        let metadata = self.metadata.clone();
        self.current.get(|| self.clock.now_ms(), || async move { load::groups(&metadata).await }).await
    }
}

/// The registered brokers, which the tools and the scrapes ask for.
#[derive(Debug)]
struct BrokerList {
    metadata: Metadata,
    clock: Arc<dyn Clock>,
    current: Cached<Brokers>,
    /// The brokers that were registered when the metadata store last answered.
    last: Mutex<Option<Arc<Seen<Brokers>>>>,
}

impl BrokerList {
    async fn get(&self) -> Answer<Brokers> {
        let metadata = self.metadata.clone();
        let load = || async move { load::brokers(&metadata).await };
        let brokers = self.current.get(|| self.clock.now_ms(), load).await?;
        *self.last.lock() = Some(Arc::clone(&brokers));
        Ok(brokers)
    }
}

/// Asks the brokers for their metrics, and remembers what rates need.
#[derive(Debug)]
struct Scraper {
    source: MetricsSource,
    http: HttpClient,
    brokers: Arc<BrokerList>,
    clock: Arc<dyn Clock>,
    memory: Mutex<Memory>,
}

/// What is kept from one round of scrapes to the next.
#[derive(Debug, Default)]
struct Memory {
    /// By address.
    histories: HashMap<String, History>,
    object_store: Option<LastKnown>,
}

impl Scraper {
    /// Where to scrape: broker and address, or why there is none.
    async fn endpoints(&self) -> Result<Vec<(Option<i32>, Endpoint)>, Unavailable> {
        let brokers = match &self.source {
            MetricsSource::Fixed(uris) => {
                return Ok(uris.iter().map(|uri| (None, Ok(uri.clone()))).collect());
            }
            MetricsSource::Registered => match self.brokers.get().await {
                Ok(brokers) => brokers,
                // The brokers may well serve while the metadata store is down.
                Err(why) => self.brokers.last.lock().clone().ok_or(why)?,
            },
        };
        match brokers.value.by_id.is_empty() {
            true => Err(Unavailable::new("no broker is registered")),
            false => {
                Ok(brokers.value.by_id.iter().map(|(id, broker)| (Some(*id), endpoint(broker))).collect())
            }
        }
    }

    /// A round of scrapes, after the groups were read if they are wanted.
    async fn scrape_all(&self, first: Option<Arc<GroupList>>) -> Metrics {
        let groups = async {
            match first {
                Some(groups) => Some(groups.get().await),
                None => None,
            }
        };
        let (endpoints, groups) = tokio::join!(self.endpoints(), groups);
        let endpoints = match endpoints {
            Ok(endpoints) => endpoints,
            Err(why) => {
                let object_store_before = self.memory.lock().object_store;
                let no_brokers = Some(why);
                return Metrics { no_brokers, object_store_before, groups, ..Metrics::default() };
            }
        };
        let mut scraped = Vec::with_capacity(endpoints.len());
        let mut scrapes = JoinSet::new();
        for (node_id, endpoint) in endpoints {
            if scrapes.len() == SCRAPES_AT_ONCE {
                scraped.extend(scrapes.join_next().await.and_then(Result::ok));
            }
            let http = self.http.clone();
            scrapes.spawn(async move {
                let outcome = match &endpoint {
                    Ok(uri) => scrape_one(&http, uri).await,
                    Err((_, why)) => Err(why.clone()),
                };
                (node_id, outcome, endpoint.map_or_else(|(address, _)| address, |uri| uri.to_string()))
            });
        }
        while let Some(done) = scrapes.join_next().await {
            scraped.extend(done.ok());
        }
        scraped.sort_by(|(a, _, a_uri), (b, _, b_uri)| (a, a_uri).cmp(&(b, b_uri)));
        Metrics { groups, ..self.memory.lock().take(scraped, self.clock.now_ms()) }
    }
}

/// Where a broker's metrics are, or what it registered instead and why that cannot be asked.
type Endpoint = Result<Uri, (String, Unavailable)>;

fn endpoint(broker: &BrokerRecord) -> Endpoint {
    let kafka = || format!("{}:{}", broker.host, broker.port);
    let address = broker
        .metrics_address
        .as_deref()
        .ok_or_else(|| (kafka(), Unavailable::new("the broker serves no metrics")))?;
    let uri = format!("http://{address}/metrics").parse();
    uri.map_err(|_| (kafka(), Unavailable::new("the broker registered no usable address of its metrics")))
}

/// Broker, what came of it, address.
type ScrapeOutcome = (Option<i32>, Result<(Instant, Scrape), Unavailable>, String);

impl Memory {
    /// A round of scrapes with what it means after the ones before.
    fn take(&mut self, scraped: Vec<ScrapeOutcome>, now_ms: i64) -> Metrics {
        self.histories.retain(|address, _| scraped.iter().any(|(_, _, uri)| uri == address));
        let brokers = scraped
            .into_iter()
            .map(|(node_id, outcome, uri)| {
                let parsed: Option<Uri> = uri.parse().ok();
                let authority = parsed.as_ref().and_then(|uri| uri.authority());
                let address = authority.map_or_else(|| uri.clone(), ToString::to_string);
                let outcome = outcome.map(|(at, scrape)| {
                    let history = self.histories.entry(uri).or_default();
                    history.push(at, &scrape);
                    (Arc::new(scrape), history.rates())
                });
                Scraped { node_id, address, outcome }
            })
            .collect();
        let metrics = Metrics { brokers, object_store_before: self.object_store, ..Metrics::default() };
        if let Ok(state) = metrics.object_store() {
            self.object_store = Some(LastKnown { state, at_ms: now_ms });
        }
        metrics
    }
}

async fn scrape_one(http: &HttpClient, uri: &Uri) -> Result<(Instant, Scrape), Unavailable> {
    let body = http.get(uri, SCRAPE_FORMAT, SCRAPE_LIMITS).await?;
    let at = Instant::now();
    // Reading the metrics of many partitions takes a while, which other tasks must not wait for.
    let parsed = tokio::task::spawn_blocking(move || {
        let text = std::str::from_utf8(&body).map_err(|_| Unavailable::new("the answer is not UTF-8"))?;
        Scrape::parse(text)
    });
    let scrape = parsed.await.map_err(|_| Unavailable::new("the server is stopping"))??;
    Ok((at, scrape))
}

#[cfg(test)]
pub mod tests {
    use kafscale_meta::EmbeddedStore;

    use super::*;
    use crate::cluster::Cluster;
    use crate::policy::Policies;

    #[derive(Debug)]
    struct Epoch;

    impl Clock for Epoch {
        fn now_ms(&self) -> i64 {
            0
        }
    }

    /// A cluster that has nothing. Within a runtime only.
    pub fn nothing() -> Arc<Cluster> {
        let metadata = Metadata::new(Arc::new(EmbeddedStore::memory()), "test").unwrap();
        let (source, http) = (MetricsSource::Registered, HttpClient::default());
        let view = ClusterView::new(metadata, source, http, Arc::new(Epoch), BTreeMap::new());
        Arc::new(Cluster::new(view, Policies::open()))
    }
}
