//! One broker process: metadata, log and Kafka edge, started in this order and stopped in the opposite one.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafscale_broker::{Advertised, Broker, BrokerConfig, CoordinatorConfig, StartError};
use kafscale_core::group::GroupConfig;
use kafscale_core::ids::NodeId;
use kafscale_meta::Metadata;
use kafscale_storage::{HostedPartition, Log, LogConfig};

use crate::backend::StoreUrl;
use crate::clock::SystemClock;
use crate::config::{Advertise, Config};
use crate::failure::Failure;
use crate::membership::Membership;
use crate::units::{ByteSize, Limit, Span};

pub struct RunningNode {
    pub timings: Timings,
    broker: Broker,
    log: Log,
    membership: Membership,
    metadata: Metadata,
}

/// How long the steps of the start took.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    pub meta: Duration,
    pub log: Duration,
}

impl RunningNode {
    /// Opens and starts everything. A failure names the place and says what to do.
    pub async fn start(config: &Config) -> Result<Self, Failure> {
        let from = Instant::now();
        let metadata = open_metadata(config).await?;
        let membership = Membership::join(&metadata, config).await?;
        let broker_config = broker_config(config, membership.cluster_id.clone());
        let failed = |e: StartError| start_failure(config, &e);
        let partitions =
            kafscale_broker::hosted_partitions(&broker_config, &metadata).await.map_err(failed)?;
        let meta = from.elapsed();
        let from = Instant::now();
        let log_config = log_config(config, membership.incarnation);
        let store = Arc::clone(metadata.store());
        let log = Log::open(log_config, store, metadata.keys().clone(), Arc::new(SystemClock))
            .await
            .map_err(|e| Failure::runtime(e.to_string()))?;
        serve_all(&log, partitions).await?;
        let timings = Timings { meta, log: from.elapsed() };
        let broker = Broker::start(broker_config, log.clone(), metadata.clone(), Arc::new(SystemClock))
            .await
            .map_err(failed)?;
        Ok(Self { timings, broker, log, membership, metadata })
    }

    pub fn kafka_addr(&self) -> SocketAddr {
        self.broker.kafka_addr()
    }

    pub fn metrics_addr(&self) -> SocketAddr {
        self.broker.metrics_addr().expect("the broker is always given an address for metrics")
    }

    /// The metadata that this process has open.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The place of this process in its cluster.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Answers what is under way, makes durable what was accepted, and closes the files.
    pub async fn stop(self) {
        self.broker.shutdown().await;
        self.log.shutdown().await;
        self.membership.leave().await;
        if let Err(error) = self.metadata.store().close().await {
            tracing::warn!(%error, "the metadata could not be closed");
        }
    }
}

/// Takes every partition that is assigned to this broker. One whose records cannot be made out stops the start: its topic would
/// seem to be empty.
async fn serve_all(log: &Log, partitions: Vec<HostedPartition>) -> Result<(), Failure> {
    let known: HashSet<_> = partitions.iter().map(|partition| partition.id).collect();
    for (id, outcome) in log.acquire(partitions).await {
        outcome.map_err(|e| Failure::runtime(format!("partition {id}: {e}")))?;
    }
    log.forget_unclaimed(move |id| known.contains(&id));
    Ok(())
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
    let store = match &config.store {
        StoreUrl::File(dir) => kafscale_storage::StoreUrl::File(dir.clone()),
        StoreUrl::Memory => kafscale_storage::StoreUrl::Memory,
    };
    let cache_bytes = memory(config.limits.cache_bytes);
    LogConfig {
        wal_file_bytes: config.log.wal_file_bytes.0,
        wal_max_bytes: config.log.wal_max_bytes.0,
        wal_min_interval: config.log.wal_min_interval.0,
        tail_cache_bytes: cache_bytes / 2,
        segment_cache_bytes: cache_bytes - cache_bytes / 2,
        retention_check_interval: config.log.log_retention_check_interval.0,
        producer_expiration: config.log.producer_id_expiration.0,
        ..LogConfig::new(store, config.node_id, incarnation)
    }
}

fn broker_config(config: &Config, cluster_id: String) -> BrokerConfig {
    let limits = &config.limits;
    let advertised = match &config.advertise {
        Advertise::ListenAddress => None,
        Advertise::Named(named) => {
            let port = if named.port == 0 { config.listen.port() } else { named.port };
            Some(Advertised { host: named.host.clone(), port })
        }
    };
    BrokerConfig {
        rack: config.rack.clone(),
        listen: config.listen,
        advertised,
        metrics_listen: Some(config.metrics_listen),
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
        ..BrokerConfig::new(cluster_id, NodeId(config.node_id))
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
            let flag = if *address == config.metrics_listen { "--metrics-listen" } else { "--listen" };
            Failure::runtime(format!(
                "cannot listen on {address}: {error}. Stop what uses that port, or choose another with {flag}."
            ))
        }
        StartError::RequestMemory { .. } => Failure::usage(format!("--request-memory: {error}")),
        StartError::TopicDefaults(error) => Failure::usage(error.to_string()),
        StartError::StoredTopic { .. } | StartError::Metadata(_) => Failure::runtime(error.to_string()),
    }
}
