//! A broker's process: the real membership, log, controller and Kafka edge, over the simulated stores, network and clocks.
//!
//! What the binary does around them is done here in the same way: an incarnation that was fenced, or lost its lease, is torn down, and
//! another one joins.

use std::sync::Arc;
use std::time::Duration;

use kafscale_broker::{
    Advertised, Broker, BrokerConfig, Candidate, Foundation, JoinError, Listeners, Membership,
};
use kafscale_core::clock::Clock;
use kafscale_core::ids::NodeId;
use kafscale_meta::{EmbeddedStore, MetaStore, Metadata};
use kafscale_storage::{Log, LogConfig, OpenError, StoreUrl, probe};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::history::{Event, History};
use crate::machine::Timeline;
use crate::meta::SimMeta;
use crate::net::{KAFKA_PORT, SimListener, host_name};
use crate::process::Process;
use crate::rng::Rng;
use crate::store::SimStore;

/// The cluster's name.
pub const CLUSTER: &str = "sim";

/// A planned stop takes no longer, whatever does not answer.
const EDGE_STOPS_WITHIN: Duration = Duration::from_secs(3);
const LOG_STOPS_WITHIN: Duration = Duration::from_secs(10);

const REJOIN_BACKOFF: Duration = Duration::from_millis(200);
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
const METADATA_BACK_INTERVAL: Duration = Duration::from_millis(500);

/// What the brokers of one simulation have in common: small limits, so that what is rare otherwise happens all the time.
#[derive(Debug, Clone)]
pub struct Settings {
    lease_ttl: Duration,
    wal_min_interval: Duration,
    wal_uploads: usize,
    wal_object_bytes: usize,
    wal_max_bytes: u64,
    wal_max_objects: usize,
    wal_pending_bytes: usize,
    tail_cache_bytes: usize,
    retention_check_interval: Duration,
    collect_interval: Duration,
}

impl Settings {
    pub fn draw(rng: &mut Rng) -> Settings {
        Settings {
            lease_ttl: *rng.pick(&[Duration::from_secs(3), Duration::from_secs(6)]),
            wal_min_interval: Duration::from_millis(*rng.pick(&[0, 20, 100, 250])),
            wal_uploads: rng.between(1, 6) as usize,
            wal_object_bytes: *rng.pick(&[4 << 10, 64 << 10, 8 << 20]),
            wal_max_bytes: *rng.pick(&[16 << 10, 128 << 10, 1 << 20]),
            wal_max_objects: *rng.pick(&[10, 50, 4096]),
            wal_pending_bytes: *rng.pick(&[64 << 10, 16 << 20]),
            tail_cache_bytes: *rng.pick(&[4 << 10, 64 << 10, 16 << 20]),
            retention_check_interval: Duration::from_millis(*rng.pick(&[700, 2000, 5000])),
            // In the field it is half a minute, and few simulations are longer.
            collect_interval: Duration::from_millis(*rng.pick(&[500, 2000, 30_000])),
        }
    }
}

/// What a process is started with.
pub struct Env {
    pub process: Process,
    pub store: SimStore,
    pub metadata: Arc<EmbeddedStore>,
    pub listener: SimListener,
    pub clock: Arc<dyn Clock>,
    pub timeline: Timeline,
    pub history: History,
    pub settings: Settings,
    /// SIGTERM.
    pub stop: CancellationToken,
    /// Tells that the process has ended.
    pub ended: CancellationToken,
}

impl Env {
    fn note(&self, event: Event) {
        self.history.note_at(self.timeline.now(), event);
    }
}

/// The process, from its start to its end.
pub async fn run(env: Env) {
    let _ended = env.ended.clone().drop_guard();
    let store: Arc<dyn MetaStore> = Arc::new(SimMeta::new(Arc::clone(&env.metadata), env.process.clone()));
    let metadata = Metadata::new(store, CLUSTER).expect("the name is a name");
    while !env.stop.is_cancelled() {
        match env.stop.run_until_cancelled(Member::begin(&env, &metadata)).await {
            Some(Ok(member)) => member.serve(&env, &metadata).await,
            Some(Err(failure)) => {
                let node = env.process.host;
                match failure {
                    Failure::Again(why) => env.note(Event::NodeFailed { node, why }),
                    Failure::Refused(why) => return env.note(Event::NodeRefused { node, why }),
                    Failure::GaveUp(why) => return env.note(Event::NodeGaveUp { node, why }),
                }
                sleep(REJOIN_BACKOFF).await;
            }
            None => return,
        }
    }
}

/// Why no incarnation began.
enum Failure {
    Again(String),
    /// Another process has the number of this broker, or the metadata is not that of the store: the process ends.
    Refused(String),
    /// The process ends, for a reason that waiting would have mended, or that is none.
    GaveUp(String),
}

impl Failure {
    fn again(error: impl ToString) -> Failure {
        Failure::Again(error.to_string())
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Failure {
        match error {
            JoinError::Metadata(_) => Failure::again(error),
            JoinError::NodeIdTaken(_) | JoinError::OtherStore { .. } => Failure::Refused(error.to_string()),
        }
    }
}

/// One incarnation.
struct Member {
    broker: Broker,
    log: Log,
    membership: Membership,
}

impl Member {
    async fn begin(env: &Env, metadata: &Metadata) -> Result<Member, Failure> {
        wait_for_store(env).await?;
        let node_id = NodeId(env.process.node);
        let advertised = Advertised { host: host_name(env.process.host), port: KAFKA_PORT };
        let listeners = Listeners::on(env.listener.clone(), Some(advertised)).map_err(Failure::again)?;
        let candidate = Candidate {
            node_id,
            endpoints: listeners.endpoints(),
            rack: None,
            version: "sim".to_owned(),
            metrics_address: None,
            lease_ttl: env.settings.lease_ttl,
            store: None,
            has_chain: true,
        };
        let membership = Membership::join(metadata, &candidate, &*env.clock).await?;
        let incarnation = membership.identity.epoch;
        env.note(Event::NodeJoined { node: env.process.host, incarnation });
        let store = Arc::clone(metadata.store());
        let config = log_config(env, incarnation);
        let log = Log::open(config, store, metadata.keys().clone(), Arc::clone(&env.clock)).await;
        let log = match log {
            Ok(log) => log,
            Err(error) => {
                let _ = timeout(LEAVE_TIMEOUT, membership.give_up()).await;
                return Err(match error {
                    OpenError::Identity(identity) if identity.is_final() && env.process.is_foreign() => {
                        Failure::Refused(identity.to_string())
                    }
                    error if error.may_pass() => Failure::again(error),
                    error => Failure::GaveUp(error.to_string()),
                });
            }
        };
        let mut config = BrokerConfig::new(membership.cluster_id.clone(), node_id);
        config.collect_interval = env.settings.collect_interval;
        let foundation =
            Foundation { log: log.clone(), metadata: metadata.clone(), clock: Arc::clone(&env.clock) };
        let broker =
            Broker::start(config, listeners, &membership, foundation).await.map_err(Failure::again)?;
        env.process.note_if_foreign(|| "serves".into());
        Ok(Member { broker, log, membership })
    }

    /// Serves until the process is to stop, or the incarnation is over.
    async fn serve(self, env: &Env, metadata: &Metadata) {
        tokio::select! {
            () = env.stop.cancelled() => self.leave().await,
            () = self.log.fenced() => self.abandon().await,
            () = lost(&self.membership, metadata) => self.leave().await,
        }
    }

    async fn leave(self) {
        self.broker.shutdown(EDGE_STOPS_WITHIN).await;
        if let Err(error) = self.log.seal_own(LOG_STOPS_WITHIN).await {
            tracing::warn!(error, "the chain is not sealed");
        }
        self.log.shutdown().await;
        self.membership.leave().await;
    }

    async fn abandon(self) {
        self.broker.abandon().await;
        self.log.shutdown().await;
        let _ = timeout(LEAVE_TIMEOUT, self.membership.leave()).await;
    }
}

/// Returns when the store is there. As the binary does, before it registers: a member that waits would be given partitions that nobody serves.
async fn wait_for_store(env: &Env) -> Result<(), Failure> {
    let store = StoreUrl::Shared(Arc::new(env.store.clone()));
    loop {
        match probe(&store, &uuid::Uuid::new_v4().to_string()).await {
            Ok(()) => return Ok(()),
            Err(error) if error.may_pass() => sleep(REJOIN_BACKOFF).await,
            Err(error) => return Err(Failure::GaveUp(error.to_string())),
        }
    }
}

/// Returns when the membership is lost and there is somebody again who may have noticed.
async fn lost(membership: &Membership, metadata: &Metadata) {
    membership.lost().await;
    while metadata.load_controller().await.is_err() {
        sleep(METADATA_BACK_INTERVAL).await;
    }
}

fn log_config(env: &Env, incarnation: u64) -> LogConfig {
    let Settings {
        wal_min_interval,
        wal_uploads,
        wal_object_bytes,
        wal_max_bytes,
        wal_max_objects,
        wal_pending_bytes,
        tail_cache_bytes,
        retention_check_interval,
        ..
    } = env.settings;
    LogConfig {
        wal_min_interval,
        wal_uploads,
        wal_object_bytes,
        wal_max_bytes,
        wal_max_objects,
        wal_pending_bytes,
        tail_cache_bytes,
        retention_check_interval,
        cleaner_backoff: retention_check_interval,
        segment_cache_bytes: 4 << 20,
        // Whoever deletes what may still be published is to be caught.
        orphan_quarantine: Duration::ZERO,
        ..LogConfig::new(StoreUrl::Shared(Arc::new(env.store.clone())), env.process.node, incarnation)
    }
}
