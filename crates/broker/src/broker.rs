//! Starting and stopping the Kafka edge.
//!
//! The image of the cluster is read before anything is served; the controller, the follower and the reconciler run beside the servers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kafscale_core::clock::Clock;
use kafscale_core::topic_config::{ConfigError, check_overrides};
use kafscale_meta::Metadata;
use kafscale_storage::Log;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::admin::TopicAdmin;
use crate::answer_memory::AnswerMemory;
use crate::api::DESCRIBED_PARTITION_BYTES;
use crate::beyond_end::{self, CommitsBeyondEnd};
use crate::cluster::follow::{Following, Image};
use crate::cluster::reconcile::Reconciler;
use crate::cluster::{Cluster, Progress};
use crate::config::BrokerConfig;
use crate::controller::{Chains, Controller};
use crate::coordinator::Coordinator;
use crate::fetch_sessions::FetchSessions;
use crate::listeners::{Endpoint, Listeners};
use crate::log_limit::{self, LogLimits};
use crate::membership::Membership;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::producer_ids::ProducerIds;
use crate::server;
use crate::settings::Settings;
use crate::topics::Topics;
use crate::transport::Transport;
use crate::wire::{DECODING_MAX_BYTES, RequestMemory};

/// How long a broker that was fenced goes on with what is under way.
const ABANDON_TIMEOUT: Duration = Duration::from_millis(500);
/// And how long its tasks may take to end.
const ABANDONED_WITHIN: Duration = Duration::from_secs(5);

/// Below this not even the shortest answers fit beside each other.
const ANSWER_MEMORY_MIN_BYTES: usize = 16 << 20;

/// A running broker. Dropping it stops nothing: call [`Broker::shutdown`].
#[derive(Debug)]
pub struct Broker {
    node: Arc<Node>,
    addresses: Vec<SocketAddr>,
    /// They answer what was asked before they end.
    servers: Vec<JoinHandle<()>>,
    /// They work on until everything was answered.
    background: Vec<JoinHandle<()>>,
    stop_background: CancellationToken,
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {error}")]
    Listen { address: SocketAddr, error: io::Error },
    #[error(
        "the memory for requests is {have} bytes, but {need} are needed for the largest request and room beside it"
    )]
    RequestMemory { have: usize, need: usize },
    #[error("a default for topics is not valid: {0}")]
    TopicDefaults(ConfigError),
    #[error("the stored settings of topic {name} are not valid: {error}")]
    StoredTopic { name: String, error: ConfigError },
    #[error("the metadata store: {0}")]
    Metadata(#[from] kafscale_meta::Error),
}

/// What a broker stands on: opened before it, and closed after it, by whoever starts it.
#[derive(Debug)]
pub struct Foundation {
    pub log: Log,
    pub metadata: Metadata,
    pub clock: Arc<dyn Clock>,
}

/// What runs beside the connections, until `stop`.
fn background(
    node: &Arc<Node>,
    controller: Controller,
    following: Following,
    lease_ttl: Duration,
    stop: &CancellationToken,
) -> Vec<JoinHandle<()>> {
    let lines = vec![Arc::clone(&node.lines), node.coordinator.lines()];
    vec![
        tokio::spawn(controller.run(stop.clone())),
        tokio::spawn(following.run(stop.clone())),
        tokio::spawn(Reconciler::new(Arc::clone(node)).run(stop.clone())),
        tokio::spawn(log_limit::summaries(lines, stop.clone())),
        tokio::spawn(beyond_end::watch(Arc::clone(node), stop.clone())),
        tokio::spawn(Arc::clone(&node.reach).watch(Arc::clone(&node.cluster), lease_ttl, stop.clone())),
    ]
}

fn metrics(config: &BrokerConfig) -> Arc<Metrics> {
    let metrics = Metrics::new(Instant::now());
    let count = |connections: usize| i64::try_from(connections).unwrap_or(i64::MAX);
    metrics.places.limit.set(count(config.max_connections));
    metrics.places.reserved.set(count(config.connections_reserved(config.connections_per_address())));
    Arc::new(metrics)
}

impl Broker {
    /// Serves the connections of the listeners, and begins to serve what is assigned to this member of the cluster.
    pub async fn start<T: Transport>(
        config: BrokerConfig,
        listeners: Listeners<T>,
        membership: &Membership,
        foundation: Foundation,
    ) -> Result<Broker, StartError> {
        let Foundation { log, metadata, clock } = foundation;
        let largest = config.socket_request_max_bytes.max(DECODING_MAX_BYTES);
        let need = RequestMemory::needed_bytes(largest);
        if config.request_memory_bytes < need {
            return Err(StartError::RequestMemory { have: config.request_memory_bytes, need });
        }
        let (addresses, endpoints) = (listeners.addresses(), listeners.endpoints());
        let image = image(&config, &endpoints, membership)?;
        let following = Following::begin(metadata.clone(), image.clone()).await?;
        let Image { topics, settings, cluster } = image;
        let coordinator = Coordinator::start(
            config.coordinator.clone(),
            metadata.clone(),
            Arc::clone(&clock),
            membership.identity,
            membership.lease(),
        );
        let chains: Arc<dyn Chains> = Arc::new(log.clone());
        let controller = Controller::new(
            metadata.clone(),
            chains,
            membership.identity,
            membership.lease_id(),
            config.collect_interval,
            Arc::clone(&clock),
        );
        let node = Arc::new(Node {
            coordinator,
            request_memory: Arc::new(RequestMemory::new(config.request_memory_bytes, largest)),
            // More than a semaphore can count is no limit.
            response_memory: Arc::new(Semaphore::new(
                config.response_memory_bytes.min(Semaphore::MAX_PERMITS),
            )),
            late_reads: Arc::default(),
            beyond_end: CommitsBeyondEnd::default(),
            answer_memory: AnswerMemory::new(answer_memory_bytes(&config)),
            addresses: Arc::default(),
            lines: Arc::new(LogLimits::default()),
            drain_timeout: parking_lot::Mutex::new(ABANDON_TIMEOUT),
            stopping: CancellationToken::new(),
            fetch_sessions: FetchSessions::new(config.fetch_session_slots),
            metrics: metrics(&config),
            admin: Mutex::new(TopicAdmin::new(metadata.clone())),
            changes: TaskTracker::new(),
            producer_ids: ProducerIds::new(metadata.clone()),
            controller: controller.stats(),
            metadata,
            cluster,
            reach: Arc::default(),
            topics,
            settings,
            endpoints,
            config,
            log,
            clock,
        });
        let stop_background = CancellationToken::new();
        let background = background(&node, controller, following, membership.lease_ttl(), &stop_background);
        let slots = Arc::new(Semaphore::new(node.config.max_connections.min(Semaphore::MAX_PERMITS)));
        let serve = |bound| tokio::spawn(server::run(Arc::clone(&node), bound, Arc::clone(&slots)));
        let servers = listeners.into_bound().into_iter().map(serve).collect();
        info!(?addresses, advertised = advertised(&node.endpoints), "serving the Kafka protocol");
        Ok(Broker { node, addresses, servers, background, stop_background })
    }

    /// Where the Kafka protocol is served by the main listener.
    pub fn kafka_addr(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Where it is served by each listener; the main one first.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Returns when everything that this broker owns is served, and every group has a coordinator.
    pub async fn ready(&self) {
        // The sender is in the node.
        let _ = self.node.cluster.progress().wait_for(|progress| *progress == Progress::Ready).await;
        self.node.coordinator.ready().await;
    }

    /// Stops accepting, answers what was asked, and ends; all of it `within` this time. The log is the caller's to shut down.
    pub async fn shutdown(self, within: Duration) {
        // The rest is for what begins only when everything was answered.
        self.end(within * 7 / 8, within).await;
    }

    /// Ends when its place in the cluster is lost: what is asked for is refused, and nothing is waited for that needs others.
    pub async fn abandon(self) {
        self.end(ABANDON_TIMEOUT, ABANDONED_WITHIN).await;
    }

    /// Ends as a process that is killed: nothing is answered or finished. For tests and simulations.
    pub fn kill(self) {
        for task in self.servers.into_iter().chain(self.background) {
            task.abort();
        }
    }

    async fn end(self, drain_timeout: Duration, within: Duration) {
        let tasks = self.servers.iter().chain(&self.background);
        let tasks: Vec<_> = tasks.map(JoinHandle::abort_handle).collect();
        if timeout(within, self.finish(drain_timeout)).await.is_err() {
            tracing::warn!("what waits for a store that does not answer is given up");
            tasks.iter().for_each(AbortHandle::abort);
        }
    }

    async fn finish(self, drain_timeout: Duration) {
        *self.node.drain_timeout.lock() = drain_timeout;
        self.node.stopping.cancel();
        // Members that wait for a rebalance would hold up their connections.
        let groups = self.node.coordinator.shutdown();
        if timeout(drain_timeout, groups).await.is_err() {
            tracing::warn!(
                "the metadata store does not answer: commits that were not acknowledged may be lost"
            );
        }
        join(self.servers).await;
        self.node.changes.close();
        self.node.changes.wait().await;
        self.stop_background.cancel();
        join(self.background).await;
    }
}

/// A list of all topics fits twice, whatever is configured.
fn answer_memory_bytes(config: &BrokerConfig) -> usize {
    let partitions = config.max_partitions.unsigned_abs() as usize;
    config.answer_memory_bytes.max(2 * partitions * DESCRIBED_PARTITION_BYTES).max(ANSWER_MEMORY_MIN_BYTES)
}

async fn join(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, "a task of the broker failed");
        }
    }
}

/// The image of the cluster before anything is known.
fn image(
    config: &BrokerConfig,
    endpoints: &[Endpoint],
    membership: &Membership,
) -> Result<Image, StartError> {
    check_overrides(&config.topic_defaults).map_err(StartError::TopicDefaults)?;
    Ok(Image {
        topics: Arc::new(Topics::default()),
        settings: Arc::new(Settings::new(config, endpoints)),
        cluster: Arc::new(Cluster::new(membership.identity, membership.lease())),
    })
}

/// What clients are told to connect to, for a log line.
fn advertised(endpoints: &[Endpoint]) -> String {
    let told: Vec<String> = endpoints.iter().map(|e| format!("{}:{}", e.host, e.port)).collect();
    told.join(",")
}
