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
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::admin::TopicAdmin;
use crate::cluster::follow::{Following, Image};
use crate::cluster::reconcile::Reconciler;
use crate::cluster::{Cluster, Progress};
use crate::config::BrokerConfig;
use crate::controller::{Chains, Controller};
use crate::coordinator::Coordinator;
use crate::fetch_sessions::FetchSessions;
use crate::listeners::{Endpoint, Listeners};
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
        );
        let node = Arc::new(Node {
            coordinator,
            request_memory: Arc::new(RequestMemory::new(config.request_memory_bytes, largest)),
            // More than a semaphore can count is no limit.
            response_memory: Arc::new(Semaphore::new(
                config.response_memory_bytes.min(Semaphore::MAX_PERMITS),
            )),
            drain_timeout: parking_lot::Mutex::new(config.drain_timeout),
            stopping: CancellationToken::new(),
            fetch_sessions: FetchSessions::new(config.fetch_session_slots),
            metrics: Arc::new(Metrics::new(Instant::now())),
            admin: Mutex::new(TopicAdmin::new(metadata.clone())),
            changes: TaskTracker::new(),
            producer_ids: ProducerIds::new(metadata.clone()),
            controller: controller.stats(),
            metadata,
            cluster,
            topics,
            settings,
            endpoints,
            config,
            log,
            clock,
        });
        let stop_background = CancellationToken::new();
        let background = vec![
            tokio::spawn(controller.run(stop_background.clone())),
            tokio::spawn(following.run(stop_background.clone())),
            tokio::spawn(Reconciler::new(Arc::clone(&node)).run(stop_background.clone())),
        ];
        let slots = Arc::new(Semaphore::new(node.config.max_connections.min(Semaphore::MAX_PERMITS)));
        let serve = |bound| tokio::spawn(server::run(Arc::clone(&node), bound, Arc::clone(&slots)));
        let servers = listeners.into_bound().into_iter().map(serve).collect();
        info!(?addresses, endpoints = ?node.endpoints, "serving the Kafka protocol");
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

    /// Stops accepting, answers what was asked within the drain timeout, and ends. The log is the caller's to shut down.
    pub async fn shutdown(self) {
        let drain_timeout = self.node.config.drain_timeout;
        self.end(drain_timeout).await;
    }

    /// Ends when its place in the cluster is lost: what is asked for is refused, and nothing is waited for that needs others.
    pub async fn abandon(self) {
        self.end(ABANDON_TIMEOUT).await;
    }

    /// Ends as a process that is killed: nothing is answered or finished. For tests and simulations.
    pub fn kill(self) {
        for task in self.servers.into_iter().chain(self.background) {
            task.abort();
        }
    }

    async fn end(self, drain_timeout: Duration) {
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
