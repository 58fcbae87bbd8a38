//! What the broker must be told. The binary fills this in from flags, variables and files.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use kafscale_core::ids::NodeId;

use crate::coordinator::CoordinatorConfig;

/// One of so many connections is for addresses that have none.
const RESERVED_OF: usize = 16;

/// The address that clients are told to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertised {
    pub host: String,
    pub port: u16,
}

/// A listener beside the main one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Clients that come in by it are told the addresses of the other brokers' listeners of this name.
    pub name: String,
    pub listen: SocketAddr,
    /// `None`: the address that it was bound to. Port 0 stands for the port that it got.
    pub advertised: Option<Advertised>,
}

/// Settings of the Kafka edge. Names follow Apache Kafka's broker settings where there is one.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    pub cluster_id: String,
    pub node_id: NodeId,
    pub rack: Option<String>,
    /// Where the Kafka protocol is served; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `None`: the address that `listen` was bound to. Port 0 stands for the port that it got.
    pub advertised: Option<Advertised>,
    pub more_listeners: Vec<ListenerConfig>,
    /// The address of the store, as DescribeLogDirs tells it.
    pub store: String,
    /// Directories of this machine that are written to: their disks are watched in the metrics.
    pub data_directories: Vec<PathBuf>,

    /// `max.connections`: more wait in the listen queue.
    pub max_connections: usize,
    /// `max.connections.per.ip`: further ones of an address are closed. `None`: see [`BrokerConfig::connections_per_address`].
    pub max_connections_per_ip: Option<usize>,
    /// `connections.max.idle.ms`
    pub connections_max_idle: Duration,
    /// `socket.request.max.bytes`: a larger frame closes the connection.
    pub socket_request_max_bytes: usize,
    /// `queued.max.request.bytes`: requests of all connections that are being read or handled.
    pub request_memory_bytes: usize,
    /// Fetched records of all connections that were read but not taken by the client yet.
    pub response_memory_bytes: usize,
    /// Answers of all connections, other than fetched records, that are being built or were not taken by the client yet.
    pub answer_memory_bytes: usize,
    /// A peer that takes no byte of its response for this long is disconnected.
    pub write_stall_timeout: Duration,
    /// How often the controller looks whether chains of brokers that are gone can be deleted.
    pub collect_interval: Duration,

    /// `fetch.max.bytes`: the most that one Fetch response holds.
    pub fetch_max_bytes: usize,
    /// `max.incremental.fetch.session.cache.slots`
    pub fetch_session_slots: usize,

    /// `group.*` and `offsets.*`
    pub coordinator: CoordinatorConfig,

    /// `auto.create.topics.enable`
    pub auto_create_topics: bool,
    /// `num.partitions`: of topics that are created without a count.
    pub num_partitions: i32,
    /// The most partitions that one topic may have.
    pub max_partitions_per_topic: i32,
    /// The most partitions that all topics together may have.
    pub max_partitions: i32,
    /// Defaults of topic settings, by the names of the topic settings (`retention.ms`).
    pub topic_defaults: BTreeMap<String, String>,
}

impl BrokerConfig {
    /// The defaults, for a broker of a cluster.
    pub fn new(cluster_id: impl Into<String>, node_id: NodeId) -> BrokerConfig {
        BrokerConfig {
            cluster_id: cluster_id.into(),
            node_id,
            rack: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 9092)),
            advertised: None,
            more_listeners: Vec::new(),
            store: String::new(),
            data_directories: Vec::new(),
            max_connections: 10_000,
            max_connections_per_ip: None,
            connections_max_idle: Duration::from_secs(600),
            socket_request_max_bytes: 100 << 20,
            request_memory_bytes: 512 << 20,
            response_memory_bytes: 512 << 20,
            answer_memory_bytes: 256 << 20,
            write_stall_timeout: Duration::from_secs(60),
            collect_interval: Duration::from_secs(30),
            fetch_max_bytes: 55 << 20,
            fetch_session_slots: 1000,
            coordinator: CoordinatorConfig::default(),
            auto_create_topics: true,
            num_partitions: 1,
            max_partitions_per_topic: 10_000,
            max_partitions: 200_000,
            topic_defaults: BTreeMap::new(),
        }
    }

    /// How many connections one address may have. By default half of all, so that one peer cannot keep the others out, and everybody behind
    /// one address, as on a single host or behind a NAT, still has plenty.
    pub fn connections_per_address(&self) -> usize {
        self.max_connections_per_ip.unwrap_or((self.max_connections / 2).max(1))
    }

    /// So many of the connections, the last that are free, are for addresses that have none, so that a few addresses cannot keep all
    /// others out. None where one address may have all of them, as `per_address` says.
    pub fn connections_reserved(&self, per_address: usize) -> usize {
        if per_address >= self.max_connections { 0 } else { self.max_connections.div_ceil(RESERVED_OF) }
    }
}
