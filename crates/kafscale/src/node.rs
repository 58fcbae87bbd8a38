//! One broker process: metadata, log and Kafka edge, started in this order and stopped in the opposite one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafscale_broker::{
    Advertised, Broker, BrokerConfig, Candidate, CoordinatorConfig, Endpoint, Foundation, JoinError,
    ListenerConfig, Listeners, Membership, MetricsServer, StartError,
};
use kafscale_core::group::GroupConfig;
use kafscale_core::ids::NodeId;
use kafscale_meta::{MetaUrl, Metadata};
use kafscale_storage::{Log, LogConfig};

use crate::backend::StoreUrl;
use crate::clock::SystemClock;
use crate::config::{Advertise, Config};
use crate::failure::Failure;
use crate::units::{ByteSize, HostPort, Limit, Span};

/// After a failed attempt to join the cluster anew.
const REJOIN_BACKOFF_MIN: Duration = Duration::from_millis(200);
const REJOIN_BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How long a broker that lost its place tries to take itself off the list.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the metadata store is looked for while it is away.
const METADATA_BACK_INTERVAL: Duration = Duration::from_millis(500);

/// The name of the listener for what is inside the network.
const INTERNAL_LISTENER: &str = "INTERNAL";

/// Each write to an object store costs money; this is four in a second at most.
const SHARED_WAL_MIN_INTERVAL: Duration = Duration::from_millis(250);

/// A broker process: what it has for its whole life, and the member of the cluster that it is at present.
pub struct RunningNode {
    pub timings: Timings,
    metadata: Metadata,
    metrics: MetricsServer,
    member: Member,
}

/// One incarnation. Everything in it is opened anew for the next one, so that no state survives that could be stale.
struct Member {
    broker: Broker,
    log: Log,
    membership: Membership,
}

/// How a broker lost its place in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Others have ended its chain: it can acknowledge nothing any more.
    Chain,
    /// It may have been taken for dead.
    Lease,
}

/// How long the steps of the start took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    pub meta: Duration,
    pub log: Duration,
}

impl RunningNode {
    /// Opens and starts everything. A failure names the place and says what to do.
    pub async fn start(config: &Config) -> Result<Self, Failure> {
        let from = Instant::now();
        let metadata = open_metadata(config).await?;
        let metrics = MetricsServer::bind(config.metrics_listen).map_err(|e| start_failure(config, &e))?;
        let mut timings = Timings { meta: from.elapsed(), ..Timings::default() };
        let member = Member::begin(config, &metadata, &metrics, config.listen, &mut timings).await?;
        Ok(Self { timings, metadata, metrics, member })
    }

    pub fn kafka_addr(&self) -> SocketAddr {
        self.member.broker.kafka_addr()
    }

    pub fn metrics_addr(&self) -> SocketAddr {
        self.metrics.address()
    }

    /// The metadata that this process has open.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Returns when this process is to give up its place in the cluster and take another: when others have ended its chain, or when its lease is
    /// lost.
    ///
    /// While the metadata store is away, nobody can take anything over, and what this broker owns is served on; only when it is back,
    /// there is somebody who may have taken this broker for dead.
    pub async fn lost(&self) -> Lost {
        tokio::select! {
            () = self.member.log.fenced() => Lost::Chain,
            () = self.lease_lost() => Lost::Lease,
        }
    }

    async fn lease_lost(&self) {
        self.member.membership.lost().await;
        tracing::warn!("this broker may not be a member of its cluster any more");
        while let Err(error) = self.metadata.load_controller().await {
            tracing::debug!(%error, "the metadata store is away; joining anew when it is back");
            tokio::time::sleep(METADATA_BACK_INTERVAL).await;
        }
    }

    /// Gives up what it was in the cluster, and joins as another incarnation, as often as it takes. Fails where trying again does not help.
    pub async fn rejoin(self, lost: Lost, config: &Config) -> Result<Self, Failure> {
        let Self { metadata, metrics, member, .. } = self;
        let listen = member.broker.kafka_addr();
        metrics.lost();
        match lost {
            Lost::Chain => member.abandon().await,
            Lost::Lease => member.leave().await,
        }
        let mut backoff = REJOIN_BACKOFF_MIN;
        loop {
            let mut timings = Timings::default();
            match Member::begin(config, &metadata, &metrics, listen, &mut timings).await {
                Ok(member) => return Ok(Self { timings, metadata, metrics, member }),
                Err(Failure::Runtime(why)) => {
                    tracing::error!(why, "the cluster cannot be joined at the moment; trying again");
                }
                Err(failure) => return Err(failure),
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(REJOIN_BACKOFF_MAX);
        }
    }

    /// Answers what is under way, makes durable what was accepted, and closes the files.
    pub async fn stop(self) {
        self.member.leave().await;
        self.metrics.shutdown().await;
        if let Err(error) = self.metadata.store().close().await {
            tracing::warn!(%error, "the metadata could not be closed");
        }
    }
}

impl Member {
    /// Joins, and serves. `listen` is where the main listener is, which may have got its port from the system in an earlier life.
    async fn begin(
        config: &Config,
        metadata: &Metadata,
        metrics: &MetricsServer,
        listen: SocketAddr,
        timings: &mut Timings,
    ) -> Result<Self, Failure> {
        let from = Instant::now();
        let mut broker_config = broker_config(config);
        broker_config.listen = listen;
        let failed = |e: StartError| start_failure(config, &e);
        // Before it registers, so that the ports are known.
        let listeners = Listeners::bind(&broker_config).map_err(failed)?;
        let candidate = candidate(config, listeners.endpoints(), metrics.address());
        let joined = Membership::join(metadata, &candidate, &SystemClock).await;
        let membership = joined.map_err(|e| join_failure(config, &e))?;
        broker_config.cluster_id.clone_from(&membership.cluster_id);
        timings.meta += from.elapsed();
        let from = Instant::now();
        let log_config = log_config(config, membership.identity.epoch);
        let store = Arc::clone(metadata.store());
        let log = Log::open(log_config, store, metadata.keys().clone(), Arc::new(SystemClock))
            .await
            .map_err(|e| Failure::runtime(e.to_string()))?;
        timings.log = from.elapsed();
        let foundation =
            Foundation { log: log.clone(), metadata: metadata.clone(), clock: Arc::new(SystemClock) };
        let broker =
            Broker::start(broker_config, listeners, &membership, foundation).await.map_err(failed)?;
        metrics.show(&broker);
        tokio::select! {
            () = broker.ready() => {}
            // Taken for dead before it could serve: whoever runs it sees that at once, too.
            () = log.fenced() => {}
            () = membership.lost() => {}
        }
        Ok(Self { broker, log, membership })
    }

    /// A planned end: what is under way is answered, the chain is sealed, so that others can take over at once, and the lease given back.
    async fn leave(self) {
        self.broker.shutdown().await;
        // Where this fails, the controller does it when the lease has run out.
        if let Err(error) = self.log.seal_own().await {
            tracing::warn!(
                error,
                "this broker's chain could not be sealed; its partitions are given away a little later"
            );
        }
        self.log.shutdown().await;
        self.membership.leave().await;
    }

    /// An end because others have taken over, or may have.
    async fn abandon(self) {
        self.broker.abandon().await;
        self.log.shutdown().await;
        // If that takes too long, the next incarnation waits for the end of the lease.
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, self.membership.leave()).await;
    }
}

async fn open_metadata(config: &Config) -> Result<Metadata, Failure> {
    let failed = |e: kafscale_meta::Error| Failure::runtime(e.to_string());
    let store = kafscale_meta::open(&config.meta, &config.etcd).await.map_err(failed)?;
    Metadata::new(store, &config.cluster_name).map_err(failed)
}

/// The settings of topics that have none of their own, by Kafka's names.
pub fn topic_defaults(config: &Config) -> BTreeMap<String, String> {
    let topics = &config.topics;
    let retention_ms = match topics.log_retention_time {
        Limit::Unlimited => -1,
        Limit::At(span) => i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX),
    };
    let retention_bytes = match topics.log_retention_bytes {
        Limit::Unlimited => -1,
        Limit::At(ByteSize(bytes)) => i64::try_from(bytes).unwrap_or(i64::MAX),
    };
    BTreeMap::from([
        ("retention.ms".to_owned(), retention_ms.to_string()),
        ("retention.bytes".to_owned(), retention_bytes.to_string()),
        ("segment.bytes".to_owned(), topics.segment_bytes.0.to_string()),
        ("max.message.bytes".to_owned(), topics.max_message_bytes.0.to_string()),
    ])
}

fn log_config(config: &Config, incarnation: u64) -> LogConfig {
    let default_interval = if config.store.is_shared() { SHARED_WAL_MIN_INTERVAL } else { Duration::ZERO };
    let cache_bytes = memory(config.limits.cache_bytes);
    LogConfig {
        wal_file_bytes: config.log.wal_file_bytes.0,
        wal_max_bytes: config.log.wal_max_bytes.0,
        wal_burst_bytes: config.log.wal_burst_bytes.0,
        wal_min_interval: config.log.wal_min_interval.map_or(default_interval, |span| span.0),
        wal_object_bytes: memory(config.log.wal_object_bytes),
        wal_uploads: config.log.wal_uploads as usize,
        wal_pending_bytes: memory(config.log.wal_pending_bytes),
        tail_cache_bytes: cache_bytes / 2,
        segment_cache_bytes: cache_bytes - cache_bytes / 2,
        retention_check_interval: config.log.log_retention_check_interval.0,
        producer_expiration: config.log.producer_id_expiration.0,
        ..LogConfig::new(config.log_store.clone(), config.node_id, incarnation)
    }
}

fn advertised(advertise: &Advertise) -> Option<Advertised> {
    match advertise {
        Advertise::ListenAddress => None,
        Advertise::Named(HostPort { host, port }) => Some(Advertised { host: host.clone(), port: *port }),
    }
}

/// This broker as the cluster is to know it.
fn candidate(config: &Config, endpoints: Vec<Endpoint>, metrics: SocketAddr) -> Candidate {
    // A log on a local disk is the log of the one broker that has that disk; embedded metadata is on it as well.
    let store = match (&config.store, &config.meta) {
        (StoreUrl::File(_), MetaUrl::Etcd(_)) => Some(format!("the disk of broker {}", config.node_id)),
        (StoreUrl::File(_) | StoreUrl::Memory, _) => None,
        (url @ StoreUrl::S3 { .. }, _) => Some(url.to_string()),
    };
    Candidate {
        node_id: NodeId(config.node_id),
        rack: config.rack.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        metrics_address: Some(metrics_address(config, &endpoints[0], metrics)),
        lease_ttl: config.session_timeout,
        store,
        has_chain: config.store.is_shared(),
        endpoints,
    }
}

/// Where others can scrape the metrics: nobody can connect to "any address".
fn metrics_address(config: &Config, main: &Endpoint, listen: SocketAddr) -> String {
    match &config.advertise_metrics {
        Some(HostPort { host, port }) => {
            format!("{host}:{}", if *port == 0 { listen.port() } else { *port })
        }
        None if listen.ip().is_unspecified() => format!("{}:{}", main.host, listen.port()),
        None => listen.to_string(),
    }
}

fn broker_config(config: &Config) -> BrokerConfig {
    let limits = &config.limits;
    let internal = config.internal.as_ref().map(|internal| ListenerConfig {
        name: INTERNAL_LISTENER.to_owned(),
        listen: internal.listen,
        advertised: advertised(&internal.advertise),
    });
    BrokerConfig {
        rack: config.rack.clone(),
        listen: config.listen,
        advertised: advertised(&config.advertise),
        more_listeners: internal.into_iter().collect(),
        max_connections: limits.max_connections as usize,
        connections_max_idle: limits.connections_max_idle.0,
        socket_request_max_bytes: memory(limits.socket_request_max_bytes),
        request_memory_bytes: memory(limits.request_memory),
        response_memory_bytes: memory(limits.response_memory),
        write_stall_timeout: limits.write_stall_timeout.0,
        drain_timeout: limits.drain_timeout.0,
        fetch_max_bytes: memory(limits.fetch_max_bytes),
        fetch_session_slots: limits.fetch_session_slots as usize,
        coordinator: coordinator_config(config),
        auto_create_topics: config.topics.auto_create_topics,
        num_partitions: config.topics.num_partitions,
        max_partitions_per_topic: limits.max_partitions_per_topic,
        max_partitions: limits.max_partitions,
        topic_defaults: topic_defaults(config),
        store: config.store.to_string(),
        ..BrokerConfig::new(String::new(), NodeId(config.node_id))
    }
}

fn coordinator_config(config: &Config) -> CoordinatorConfig {
    let groups = &config.groups;
    let ms = |span: Span| i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX);
    let timeout_ms = |span: Span| i32::try_from(ms(span)).unwrap_or(i32::MAX);
    let group = GroupConfig {
        initial_rebalance_delay_ms: ms(groups.group_initial_rebalance_delay),
        min_session_timeout_ms: timeout_ms(groups.group_min_session_timeout),
        max_session_timeout_ms: timeout_ms(groups.group_max_session_timeout),
        max_size: groups.group_max_size.unsigned_abs() as usize,
        ..GroupConfig::default()
    };
    CoordinatorConfig {
        group,
        offset_metadata_max_bytes: memory(groups.offset_metadata_max_bytes),
        offsets_retention: groups.offsets_retention.0,
        offsets_retention_check_interval: groups.offsets_retention_check_interval.0,
        max_groups: groups.max_groups as usize,
        members_memory_bytes: memory(groups.group_memory),
        ..CoordinatorConfig::default()
    }
}

/// A budget larger than the address space is no limit.
fn memory(size: ByteSize) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}

fn start_failure(config: &Config, error: &StartError) -> Failure {
    match error {
        StartError::Listen { address, error } => {
            let flag = match address {
                address if *address == config.metrics_listen => "--metrics-listen",
                address if config.internal.as_ref().is_some_and(|i| i.listen == *address) => {
                    "--listen-internal"
                }
                _ => "--listen",
            };
            Failure::runtime(format!(
                "cannot listen on {address}: {error}. Stop what uses that port, or choose another with {flag}."
            ))
        }
        StartError::RequestMemory { .. } => Failure::usage(format!("--request-memory: {error}")),
        StartError::TopicDefaults(error) => Failure::usage(error.to_string()),
        StartError::StoredTopic { .. } | StartError::Metadata(_) => Failure::runtime(error.to_string()),
    }
}

fn join_failure(config: &Config, error: &JoinError) -> Failure {
    match error {
        JoinError::Metadata(e) => Failure::runtime(format!("the metadata in {}: {e}", config.meta)),
        JoinError::NodeIdTaken(node_id) => Failure::refused(format!(
            "another broker with --node-id {node_id} is running in the cluster `{}`; give each broker a number of its own",
            config.cluster_name
        )),
        JoinError::OtherStore { .. } => Failure::refused(format!("--store: {error}")),
    }
}
