//! Starting and stopping the Kafka edge.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use kafscale_core::clock::Clock;
use kafscale_core::ids::LeaderEpoch;
use kafscale_core::topic_config::{ConfigError, check_overrides};
use kafscale_meta::Metadata;
use kafscale_meta::records::ConfigScope;
use kafscale_storage::{HostedPartition, Log};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::admin::{self, TopicAdmin};
use crate::config::{Advertised, BrokerConfig};
use crate::coordinator::Coordinator;
use crate::fetch_sessions::FetchSessions;
use crate::http;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::producer_ids::ProducerIds;
use crate::server;
use crate::settings::Settings;
use crate::topics::{Topic, Topics};
use crate::transport::Transport;
use crate::wire::{DECODING_MAX_BYTES, RequestMemory};

/// A running broker. Dropping it stops nothing: call [`Broker::shutdown`].
#[derive(Debug)]
pub struct Broker {
    node: Arc<Node>,
    kafka_addr: SocketAddr,
    metrics_addr: Option<SocketAddr>,
    server: JoinHandle<()>,
    http: Option<JoinHandle<()>>,
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

/// What the metadata store says that this broker serves.
async fn stored_topics(settings: &Settings, metadata: &Metadata) -> Result<Vec<Topic>, StartError> {
    let defaults = settings.topic_defaults();
    let assignments = metadata.list_assignments().await?.items;
    let mut epochs: std::collections::HashMap<_, _> = assignments
        .into_iter()
        .map(|(id, read)| (id, read.record.partitions.iter().map(|p| p.leader_epoch).max().unwrap_or(0)))
        .collect();
    let topic = |(name, read): (String, kafscale_meta::Versioned<kafscale_meta::records::TopicRecord>)| {
        let epoch = LeaderEpoch(epochs.remove(&read.record.topic_id).unwrap_or(0));
        admin::resolve(&name, &read.record, epoch, &defaults)
            .map_err(|error| StartError::StoredTopic { name: name.clone(), error })
    };
    metadata.list_topics().await?.items.into_iter().map(topic).collect()
}

/// The settings of a broker, the dynamic ones included.
async fn stored_settings(
    config: &BrokerConfig,
    advertised: &Advertised,
    metadata: &Metadata,
) -> Result<Settings, StartError> {
    check_overrides(&config.topic_defaults).map_err(StartError::TopicDefaults)?;
    let settings = Settings::new(config, advertised);
    for scope in [ConfigScope::Broker(config.node_id.0), ConfigScope::Default] {
        if let Some(read) = metadata.load_broker_config(scope).await? {
            settings.set_dynamic(scope, read.record.configs);
        }
    }
    Ok(settings)
}

/// The partitions for the log to acquire: of all topics that are stored, with the settings that this broker gives them.
pub async fn hosted_partitions(
    config: &BrokerConfig,
    metadata: &Metadata,
) -> Result<Vec<HostedPartition>, StartError> {
    let settings = stored_settings(config, &reachable(config.listen), metadata).await?;
    let topics = stored_topics(&settings, metadata).await?;
    Ok(topics.iter().flat_map(|topic| admin::hosted(topic, 0)).collect())
}

impl Broker {
    /// Binds the listeners and serves. The log must have acquired [`hosted_partitions`].
    pub async fn start(
        config: BrokerConfig,
        log: Log,
        metadata: Metadata,
        clock: Arc<dyn Clock>,
    ) -> Result<Broker, StartError> {
        let listener = server::bind(config.listen)
            .map_err(|error| StartError::Listen { address: config.listen, error })?;
        Self::start_on(listener, config, log, metadata, clock).await
    }

    /// Serves the connections of `listener`. `config.listen` says nothing then.
    pub async fn start_on(
        listener: impl Transport,
        config: BrokerConfig,
        log: Log,
        metadata: Metadata,
        clock: Arc<dyn Clock>,
    ) -> Result<Broker, StartError> {
        let largest = config.socket_request_max_bytes.max(DECODING_MAX_BYTES);
        let need = RequestMemory::needed_bytes(largest);
        if config.request_memory_bytes < need {
            return Err(StartError::RequestMemory { have: config.request_memory_bytes, need });
        }
        let kafka_addr =
            listener.local_addr().map_err(|error| StartError::Listen { address: config.listen, error })?;
        let http_listener = config.metrics_listen.map(listen).transpose()?;
        let metrics_addr = http_listener.as_ref().map(|(_, address)| *address);
        let advertised = config.advertised.clone().unwrap_or_else(|| reachable(kafka_addr));
        let settings = stored_settings(&config, &advertised, &metadata).await?;
        let topics = Topics::default();
        for topic in stored_topics(&settings, &metadata).await? {
            topics.put(topic);
        }
        let topic_id = |topic: &str| topics.get(topic).map(|topic| topic.id);
        let coordinator =
            Coordinator::start(config.coordinator.clone(), metadata.clone(), Arc::clone(&clock), topic_id)
                .await?;
        let node = Arc::new(Node {
            coordinator,
            request_memory: Arc::new(RequestMemory::new(config.request_memory_bytes, largest)),
            // More than a semaphore can count is no limit.
            response_memory: Arc::new(Semaphore::new(
                config.response_memory_bytes.min(Semaphore::MAX_PERMITS),
            )),
            stopping: CancellationToken::new(),
            fetch_sessions: FetchSessions::new(config.fetch_session_slots),
            metrics: Arc::new(Metrics::new(Instant::now())),
            admin: Mutex::new(TopicAdmin::new(metadata.clone())),
            changes: TaskTracker::new(),
            producer_ids: ProducerIds::new(metadata.clone()),
            metadata,
            topics,
            settings,
            advertised,
            config,
            log,
            clock,
        });
        let server = tokio::spawn(server::run(Arc::clone(&node), listener));
        let http = http_listener.map(|(listener, _)| tokio::spawn(http::run(Arc::clone(&node), listener)));
        info!(%kafka_addr, ?metrics_addr, advertised = ?node.advertised, "serving the Kafka protocol");
        Ok(Broker { node, kafka_addr, metrics_addr, server, http })
    }

    /// Where the Kafka protocol is served.
    pub fn kafka_addr(&self) -> SocketAddr {
        self.kafka_addr
    }

    /// Where metrics are served, if anywhere.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// Stops accepting, answers what was asked within the drain timeout, and ends. The log is the caller's to shut down.
    pub async fn shutdown(self) {
        self.node.stopping.cancel();
        // Members that wait for a rebalance would hold up their connections.
        let groups = self.node.coordinator.shutdown();
        if timeout(self.node.config.drain_timeout, groups).await.is_err() {
            tracing::warn!(
                "the metadata store does not answer: commits that were not acknowledged may be lost"
            );
        }
        for task in [Some(self.server), self.http].into_iter().flatten() {
            if let Err(error) = task.await {
                tracing::error!(%error, "a server task failed");
            }
        }
        self.node.changes.close();
        self.node.changes.wait().await;
    }
}

fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |error| StartError::Listen { address, error };
    let listener = server::bind(address).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// An address to advertise when none was configured: nobody can connect to "any address".
fn reachable(bound: SocketAddr) -> Advertised {
    let host = if bound.ip().is_unspecified() { "localhost".to_owned() } else { bound.ip().to_string() };
    Advertised { host, port: bound.port() }
}
