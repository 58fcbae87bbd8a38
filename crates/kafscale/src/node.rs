//! One broker process: metadata, log and Kafka edge, started in this order and stopped in the opposite one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafscale_broker::{
    Advertised, Broker, BrokerConfig, Candidate, CoordinatorConfig, Endpoint, Foundation, ListenerConfig,
    Listeners, Membership, MetricsServer,
};
use kafscale_core::group::GroupConfig;
use kafscale_core::ids::NodeId;
use kafscale_meta::{EmbeddedStore, HeldStore, MetaSocket, MetaStore, MetaUrl, Metadata};
use kafscale_observe::ObserveConfig;
use kafscale_storage::{Log, LogConfig, Looked, probe};
use tokio::net::TcpListener;

use crate::backend::StoreUrl;
use crate::clock::SystemClock;
use crate::config::{Advertise, Config};
use crate::failure::Failure;
use crate::mcp;
use crate::refusals::{cannot_listen, not_a_directory};
use crate::refused::{join_failure, metadata_failure, open_failure, start_failure};
use crate::stop::StopTime;
use crate::units::{ByteSize, HostPort, Limit, Span};
use crate::waiting::Waiting;

/// How long a broker that lost its place tries to take itself off the list.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the metadata store is looked for while it is away.
const METADATA_BACK_INTERVAL: Duration = Duration::from_millis(500);

/// The name of the listener for what is inside the network.
const INTERNAL_LISTENER: &str = "INTERNAL";

/// Each write to an object store costs money; this is four in a second at most.
const SHARED_WAL_MIN_INTERVAL: Duration = Duration::from_millis(250);

/// A broker process that has its metadata open, and serves nobody yet.
pub struct OpenNode {
    timings: Timings,
    metadata: Metadata,
    metrics: MetricsServer,
    readers: Option<MetaSocket>,
    /// What the look before the start found of the log.
    looked: Option<Looked>,
}

/// A broker process: what it has for its whole life, and the member of the cluster that it is at present.
pub struct RunningNode {
    pub timings: Timings,
    metadata: Metadata,
    metrics: MetricsServer,
    readers: Option<MetaSocket>,
    member: Member,
}

/// One incarnation. Everything in it is opened anew for the next one, so that no state survives that could be stale.
struct Member {
    broker: Broker,
    log: Log,
    membership: Membership,
    /// Whether the log is in a store that several brokers share.
    shared: bool,
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

impl OpenNode {
    /// Opens the metadata, and waits for a store that is away. A failure names the place and says what to do.
    /// With `mcp` the process is not ready before [`RunningNode::all_serve`].
    pub async fn open(config: &Config, mcp: Option<&ObserveConfig>) -> Result<Self, Failure> {
        let from = Instant::now();
        check_directories(config)?;
        // First of all, so that /healthz and /readyz are answered while the stores are waited for.
        let metrics = MetricsServer::bind(config.metrics_listen).map_err(|e| start_failure(config, &e))?;
        if mcp.is_some() {
            metrics.awaits("the MCP server");
        }
        check_listeners(config)?;
        let Before { looked, mut held } = look_before(config, &metrics, mcp).await?;
        let mut waiting = Waiting::new(Some(&metrics), "the metadata store", waits_of(config));
        let metadata = loop {
            match open_metadata(config, held.take()).await {
                Err(Failure::Away(why)) => waiting.again(&why).await,
                outcome => break outcome?,
            }
        };
        drop(waiting);
        let readers = serve_readers(config, &metadata);
        let timings = Timings { meta: from.elapsed(), ..Timings::default() };
        Ok(Self { timings, metadata, metrics, readers, looked })
    }

    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Starts everything else, and waits for stores that are away.
    pub async fn serve(self, config: &Config) -> Result<RunningNode, Failure> {
        let Self { mut timings, metadata, metrics, readers, mut looked } = self;
        let mut waiting = Waiting::new(Some(&metrics), "a place in the cluster", waits_of(config));
        let member = loop {
            match Member::begin(config, &metadata, &metrics, config.listen, looked.take(), &mut timings).await
            {
                Err(Failure::Away(why)) => waiting.again(&why).await,
                outcome => break outcome?,
            }
        };
        drop(waiting);
        Ok(RunningNode { timings, metadata, metrics, readers, member })
    }
}

impl RunningNode {
    pub fn kafka_addr(&self) -> SocketAddr {
        self.member.broker.kafka_addr()
    }

    /// Where what is inside the network connects, if there is a listener for it.
    pub fn internal_addr(&self) -> Option<SocketAddr> {
        self.member.broker.addresses().get(1).copied()
    }

    pub fn metrics_addr(&self) -> SocketAddr {
        self.metrics.address()
    }

    /// Everything of this process serves: see [`MetricsServer::awaits`].
    pub fn all_serve(&self) {
        self.metrics.arrived();
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
        let Self { metadata, metrics, readers, member, .. } = self;
        let listen = member.broker.kafka_addr();
        metrics.lost();
        match lost {
            Lost::Chain => member.abandon().await,
            Lost::Lease => member.leave(StopTime::begin(config.limits.drain_timeout.0)).await,
        }
        let mut waiting = Waiting::new(Some(&metrics), "a place in the cluster", waits_of(config));
        let member = loop {
            match Member::begin(config, &metadata, &metrics, listen, None, &mut Timings::default()).await {
                Ok(member) => break member,
                // This process worked here before: what fails now may be mended without it.
                Err(Failure::Away(why) | Failure::Runtime(why)) => waiting.again(&why).await,
                Err(failure) => return Err(failure),
            }
        };
        drop(waiting);
        Ok(Self { timings: Timings::default(), metadata, metrics, readers, member })
    }

    /// Answers what is under way, makes durable what was accepted, and closes the files. It takes no longer than `stop`.
    pub async fn stop(self, stop: StopTime) {
        self.member.leave(stop).await;
        drop(self.readers);
        _ = stop.limit(5, self.metrics.shutdown()).await;
        match stop.limit(10, self.metadata.store().close()).await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!(%error, "the metadata could not be closed"),
            None => tracing::warn!("the metadata could not be closed in time"),
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
        looked: Option<Looked>,
        timings: &mut Timings,
    ) -> Result<Self, Failure> {
        // Before it registers: a member that waits for its store would be given partitions that nobody serves.
        wait_for_store(config, metrics).await?;
        let from = Instant::now();
        let mut broker_config = broker_config(config);
        broker_config.listen = listen;
        // Before it registers, so that the ports are known.
        let listeners = Listeners::bind(&broker_config).map_err(|e| start_failure(config, &e))?;
        let candidate = candidate(config, listeners.endpoints(), metrics.address());
        let joined = Membership::join(metadata, &candidate, &SystemClock).await;
        let membership = joined.map_err(|e| join_failure(config, &e))?;
        broker_config.cluster_id.clone_from(&membership.cluster_id);
        timings.meta += from.elapsed();
        let from = Instant::now();
        let (broker, log) = match open(config, broker_config, listeners, &membership, metadata, looked).await
        {
            Ok(opened) => opened,
            Err(failure) => {
                // Or the next attempt, and others, wait for the end of the lease.
                let _ = tokio::time::timeout(LEAVE_TIMEOUT, membership.give_up()).await;
                return Err(failure);
            }
        };
        timings.log = from.elapsed();
        metrics.show(&broker);
        tokio::select! {
            () = broker.ready() => {}
            // Taken for dead before it could serve: whoever runs it sees that at once, too.
            () = log.fenced() => {}
            () = membership.lost() => {}
        }
        Ok(Self { broker, log, membership, shared: config.store.is_shared() })
    }

    /// A planned end: what is under way is answered, the chain is sealed, so that others can take over at once, and the lease given back.
    async fn leave(self, stop: StopTime) {
        self.broker.shutdown(stop.share(7)).await;
        // Where this fails, the controller does it when the lease has run out.
        if let Err(error) = self.log.seal_own(stop.share(6)).await {
            tracing::warn!(
                error,
                "this broker's chain could not be sealed; its partitions are given away a little later"
            );
        }
        // The last commits of groups. Where several brokers share the store, the controller that remains does this.
        if !self.shared
            && let Err(error) =
                stop.limit(5, self.log.snapshot()).await.unwrap_or_else(|| Err("no answer in time".into()))
        {
            tracing::warn!(error, "the metadata was not copied into the store");
        }
        self.log.shutdown().await;
        if stop.limit(6, self.membership.leave()).await.is_none() {
            tracing::warn!("this broker could not be taken off the list of live ones in time");
        }
    }

    /// An end because others have taken over, or may have.
    async fn abandon(self) {
        self.broker.abandon().await;
        self.log.shutdown().await;
        // If that takes too long, the next incarnation waits for the end of the lease.
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, self.membership.leave()).await;
    }
}

/// Whether the addresses can be listened on, found out before anything is opened. They are taken when clients can be served.
fn check_listeners(config: &Config) -> Result<(), Failure> {
    Listeners::bind(&broker_config(config)).map_err(|e| start_failure(config, &e))?;
    match config.mcp.mcp_http_addr.map(|address| (address.0, std::net::TcpListener::bind(address.0))) {
        Some((address, Err(error))) => {
            Err(Failure::runtime(cannot_listen(address, &error, "--mcp-http-addr")))
        }
        Some((_, Ok(_))) | None => Ok(()),
    }
}

/// What a look found, for the opening that follows.
#[derive(Default)]
struct Before {
    looked: Option<Looked>,
    held: Option<HeldStore>,
}

/// Refuses what is to be refused before the metadata is opened, which changes its file: so a start that is refused leaves the
/// directory as it was. Metadata in etcd is no file of it.
async fn look_before(
    config: &Config,
    metrics: &MetricsServer,
    mcp: Option<&ObserveConfig>,
) -> Result<Before, Failure> {
    let MetaUrl::File(dir) = &config.meta else { return Ok(Before::default()) };
    let failed = |e: kafscale_meta::Error| metadata_failure(config, &e, e.to_string());
    let (copy, held) = EmbeddedStore::look_and_hold(dir).await.map_err(failed)?;
    let metadata = Metadata::new(Arc::new(copy), &config.cluster_name).map_err(failed)?;
    wait_for_store(config, metrics).await?;
    let mut waiting = Waiting::new(Some(metrics), "the object store", waits_of(config));
    let looked = loop {
        match look_at_log(config, &metadata).await {
            Err(Failure::Away(why)) => waiting.again(&why).await,
            looked => break looked?,
        }
    };
    if let Some(mcp) = mcp {
        kafscale_observe::look(mcp, &metadata).await.map_err(mcp::start_failure)?;
    }
    Ok(Before { looked, held: Some(held) })
}

async fn look_at_log(config: &Config, metadata: &Metadata) -> Result<Option<Looked>, Failure> {
    let log_config = log_config(config, 0);
    let looked = Log::look(&log_config, &**metadata.store(), metadata.keys(), &SystemClock).await;
    looked.map_err(|e| open_failure(config, &e))
}

/// A file in the place of a directory is the user's slip, and is told as one.
fn check_directories(config: &Config) -> Result<(), Failure> {
    let store = if let StoreUrl::File(dir) = &config.store { Some(dir) } else { None };
    let meta = if let MetaUrl::File(dir) = &config.meta { Some(dir) } else { None };
    let named = match (store, meta) {
        (Some(store), Some(meta)) if store == meta => [Some(("--data-dir", store)), None],
        (store, meta) => [store.map(|dir| ("--store", dir)), meta.map(|dir| ("--meta", dir))],
    };
    match named.into_iter().flatten().find_map(|(flag, dir)| not_a_directory(flag, dir)) {
        Some(why) => Err(Failure::runtime(why)),
        None => Ok(()),
    }
}

/// Opens the log of an incarnation, and serves it.
async fn open(
    config: &Config,
    broker_config: BrokerConfig,
    listeners: Listeners<TcpListener>,
    membership: &Membership,
    metadata: &Metadata,
    looked: Option<Looked>,
) -> Result<(Broker, Log), Failure> {
    let looked = match (looked, &config.store, &config.meta) {
        (None, StoreUrl::File(_), MetaUrl::Etcd(_)) => look_at_log(config, metadata).await?,
        (looked, _, _) => looked,
    };
    let log_config = log_config(config, membership.identity.epoch);
    let (store, clock) = (Arc::clone(metadata.store()), Arc::new(SystemClock));
    let opened = Log::open_looked(log_config, looked, store, metadata.keys().clone(), clock.clone()).await;
    let log = opened.map_err(|e| open_failure(config, &e))?;
    let foundation = Foundation { log: log.clone(), metadata: metadata.clone(), clock };
    match Broker::start(broker_config, listeners, membership, foundation).await {
        Ok(broker) => Ok((broker, log)),
        Err(error) => {
            log.shutdown().await;
            Err(start_failure(config, &error))
        }
    }
}

/// Returns when the store for the log is there and fit for use.
async fn wait_for_store(config: &Config, metrics: &MetricsServer) -> Result<(), Failure> {
    let mut waiting = Waiting::new(Some(metrics), "the object store", waits_of(config));
    loop {
        let unique = uuid::Uuid::new_v4().to_string();
        match probe(&config.log_store, &unique).await {
            Ok(()) => return Ok(()),
            Err(error) if error.may_pass() => waiting.again(&error.to_string()).await,
            Err(error) => return Err(Failure::runtime(format!("the object store cannot be used: {error}"))),
        }
    }
}

/// Tells the waits of this broker from those of others that lost the same store.
fn waits_of(config: &Config) -> u64 {
    u64::from(config.node_id.unsigned_abs()) << 32 | u64::from(std::process::id())
}

async fn open_metadata(config: &Config, held: Option<HeldStore>) -> Result<Metadata, Failure> {
    let failed = |e: kafscale_meta::Error| metadata_failure(config, &e, e.to_string());
    let store: Arc<dyn MetaStore> = match held {
        Some(held) => Arc::new(held.open().await.map_err(failed)?),
        None => kafscale_meta::open(&config.meta, &config.etcd).await.map_err(failed)?,
    };
    Metadata::new(store, &config.cluster_name).map_err(failed)
}

/// Embedded metadata is served to readers on this machine: `kafscale sql` beside a broker. A broker that cannot do so works all the same.
fn serve_readers(config: &Config, metadata: &Metadata) -> Option<MetaSocket> {
    let MetaUrl::File(dir) = &config.meta else { return None };
    match MetaSocket::serve(dir, Arc::clone(metadata.store())) {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::warn!(%error, "the metadata is not served to readers; `kafscale sql` takes a copy of its file");
            None
        }
    }
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
        cleaner_backoff: config.log.log_cleaner_backoff.0,
        producer_expiration: config.log.producer_id_expiration.0,
        orphan_quarantine: config.log.orphan_quarantine.0,
        place: place(config),
        ..LogConfig::new(config.log_store.clone(), config.node_id, incarnation)
    }
}

fn advertised(advertise: &Advertise) -> Option<Advertised> {
    match advertise {
        Advertise::ListenAddress => None,
        Advertise::Named(HostPort { host, port }) => Some(Advertised { host: host.clone(), port: *port }),
    }
}

/// The log's place as all brokers of the cluster must have it. A log on a local disk is the log of the one broker that has that disk;
/// embedded metadata is on it as well.
pub fn place(config: &Config) -> Option<String> {
    match (&config.store, &config.meta) {
        (StoreUrl::File(_), MetaUrl::Etcd(_)) => Some(format!("the disk of broker {}", config.node_id)),
        (StoreUrl::File(_) | StoreUrl::Memory, _) => None,
        (url @ StoreUrl::S3 { .. }, _) => Some(url.to_string()),
    }
}

/// This broker as the cluster is to know it.
fn candidate(config: &Config, endpoints: Vec<Endpoint>, metrics: SocketAddr) -> Candidate {
    Candidate {
        node_id: NodeId(config.node_id),
        rack: config.rack.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        metrics_address: Some(metrics_address(config, &endpoints[0], metrics)),
        lease_ttl: config.session_timeout,
        store: place(config),
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
        max_connections_per_ip: limits.max_connections_per_ip.map(|max| max as usize),
        connections_max_idle: limits.connections_max_idle.0,
        socket_request_max_bytes: memory(limits.socket_request_max_bytes),
        request_memory_bytes: memory(limits.request_memory),
        response_memory_bytes: memory(limits.response_memory),
        answer_memory_bytes: memory(limits.answer_memory),
        write_stall_timeout: limits.write_stall_timeout.0,
        fetch_max_bytes: memory(limits.fetch_max_bytes),
        fetch_session_slots: limits.fetch_session_slots as usize,
        coordinator: coordinator_config(config),
        auto_create_topics: config.topics.auto_create_topics,
        num_partitions: config.topics.num_partitions,
        max_partitions_per_topic: limits.max_partitions_per_topic,
        max_partitions: limits.max_partitions,
        topic_defaults: topic_defaults(config),
        store: config.store.to_string(),
        data_directories: data_directories(config),
        ..BrokerConfig::new(String::new(), NodeId(config.node_id))
    }
}

/// Where the log and the metadata are, as far as they are on this machine.
fn data_directories(config: &Config) -> Vec<PathBuf> {
    let store = if let StoreUrl::File(dir) = &config.store { Some(dir) } else { None };
    let meta = if let MetaUrl::File(dir) = &config.meta { Some(dir) } else { None };
    let meta = meta.filter(|meta| Some(*meta) != store);
    store.into_iter().chain(meta).cloned().collect()
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
        group_offsets_max_bytes: memory(groups.group_offsets_max_bytes),
        offsets_max_bytes: memory(groups.offsets_max_bytes),
        max_groups: groups.max_groups as usize,
        members_memory_bytes: memory(groups.group_memory),
        ..CoordinatorConfig::default()
    }
}

/// A budget larger than the address space is no limit.
fn memory(size: ByteSize) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}
