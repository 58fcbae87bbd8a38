//! What all connections and handlers of one broker share.

use std::sync::Arc;
use std::time::Duration;

use kafscale_core::clock::Clock;
use kafscale_meta::Metadata;
use kafscale_storage::Log;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addresses::Addresses;
use crate::admin::TopicAdmin;
use crate::answer_memory::AnswerMemory;
use crate::api::LateReads;
use crate::beyond_end::CommitsBeyondEnd;
use crate::cluster::Cluster;
use crate::cluster::reach::Reach;
use crate::config::BrokerConfig;
use crate::controller::ControllerStats;
use crate::coordinator::Coordinator;
use crate::fetch_sessions::FetchSessions;
use crate::listeners::Endpoint;
use crate::log_limit::LogLimits;
use crate::metrics::Metrics;
use crate::producer_ids::ProducerIds;
use crate::settings::Settings;
use crate::topics::Topics;
use crate::wire::RequestMemory;

/// One broker process, as its handlers see it.
#[derive(Debug)]
pub struct Node {
    pub config: BrokerConfig,
    /// Where clients are told to connect; the main listener first.
    pub endpoints: Vec<Endpoint>,
    pub log: Log,
    pub clock: Arc<dyn Clock>,
    pub metadata: Metadata,
    /// Who is in the cluster, and this broker's place in it.
    pub cluster: Arc<Cluster>,
    /// Brokers that are gone although they are registered.
    pub reach: Arc<Reach>,
    pub topics: Arc<Topics>,
    pub settings: Arc<Settings>,
    pub controller: Arc<ControllerStats>,
    /// Changes of topics and settings, one at a time.
    pub admin: Mutex<TopicAdmin>,
    pub coordinator: Coordinator,
    /// Changes that are finished even when nobody waits for them.
    pub changes: TaskTracker,
    pub producer_ids: ProducerIds,
    pub fetch_sessions: FetchSessions,
    pub metrics: Arc<Metrics>,
    pub request_memory: Arc<RequestMemory>,
    /// Bytes of answers other than fetched records.
    pub answer_memory: AnswerMemory,
    /// Connections of each address.
    pub addresses: Arc<Addresses>,
    pub lines: Arc<LogLimits>,
    /// Bytes of fetched records in memory.
    pub response_memory: Arc<Semaphore>,
    pub late_reads: Arc<LateReads>,
    pub beyond_end: CommitsBeyondEnd,
    /// How long a broker that stops goes on with what is under way.
    pub drain_timeout: parking_lot::Mutex<Duration>,
    /// Cancelled when the broker begins to stop: nothing waits any longer.
    pub stopping: CancellationToken,
}

impl Node {
    /// The most connections of one address, as it was set while brokers run or at the start.
    pub fn connections_per_address(&self) -> usize {
        self.settings.max_connections_per_ip().unwrap_or_else(|| self.config.connections_per_address())
    }
}
