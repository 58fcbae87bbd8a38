//! Joining a cluster and staying in it: its identity, an incarnation of this broker that is never used again, and a lease that is
//! kept alive.
//!
//! A broker is a member until a deadline that every keepalive moves ([`LeaseState::Until`]), or not any more
//! ([`LeaseState::Lost`]). A membership is never renewed below its holder: who lost it joins anew, as another incarnation.
//! What has to be refused in time compares the deadline with the clock for each request ([`LeaseState::holds`]), because an event
//! may come late to a process that was stopped; [`Membership::lost`] is the event.

use std::time::Duration;

use kafscale_core::clock::Clock;
use kafscale_core::ids::NodeId;
use kafscale_core::placement::Incarnation;
use kafscale_meta::records::{BrokerRecord, ChainRecord, ClusterRecord, ListenerRecord, uuid_to_text};
use kafscale_meta::{Event, HeldLease, LeaseId, LeaseState, Metadata};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::listeners::Endpoint;

/// A broker that was killed stays on the list until its lease has run out. Its next start waits for that, and this much longer,
/// because etcd takes its time.
const PREDECESSOR_SLACK: Duration = Duration::from_secs(4);

/// How often a broker notes that it lives. If nobody sees how it ends, that is how exactly it is known when.
const ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A planned stop takes no longer for being noted.
const NOTE_TIMEOUT: Duration = Duration::from_secs(2);

/// A broker that wants to join.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub node_id: NodeId,
    /// Where clients reach it; the main listener first.
    pub endpoints: Vec<Endpoint>,
    pub rack: Option<String>,
    /// The release that it runs.
    pub version: String,
    /// `host:port` where others can scrape its metrics.
    pub metrics_address: Option<String>,
    /// How long others take it for alive when it is not heard of.
    pub lease_ttl: Duration,
    /// Where it keeps the log, as all brokers of the cluster must; `None` where that goes without saying. A cluster that has no store
    /// yet is given this one when the log is opened.
    pub store: Option<String>,
    /// Whether the log is in a store that brokers share, so that each incarnation has a chain of its own there.
    pub has_chain: bool,
}

/// Why a broker cannot join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("the metadata store: {0}")]
    Metadata(#[from] kafscale_meta::Error),
    #[error(
        "another broker with the node id {0} is running in this cluster; give each broker a number of its own"
    )]
    NodeIdTaken(NodeId),
    #[error(
        "the brokers of this cluster keep the log in {theirs}, this one would keep it in {own}: its partitions would be empty"
    )]
    OtherStore { theirs: String, own: String },
}

/// The place of a broker in its cluster.
#[derive(Debug)]
pub struct Membership {
    pub cluster_id: String,
    /// This start of this broker: its epoch is unique and growing within the cluster.
    pub identity: Incarnation,
    lease: HeldLease,
    lease_ttl: Duration,
    metadata: Metadata,
    start: Start,
    alive: AbortOnDropHandle<()>,
}

/// When a membership began, by the wall and by the clock that never goes back.
#[derive(Debug, Clone, Copy)]
struct Start {
    at_ms: i64,
    at: Instant,
}

impl Start {
    fn now_ms(self) -> i64 {
        let since_ms = i64::try_from(self.at.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.at_ms.saturating_add(since_ms)
    }
}

impl Membership {
    /// Registers a broker as a new incarnation. Waits for the end of one of the same number that was killed.
    pub async fn join(
        metadata: &Metadata,
        candidate: &Candidate,
        clock: &dyn Clock,
    ) -> Result<Membership, JoinError> {
        let start = Start { at_ms: clock.now_ms(), at: Instant::now() };
        let cluster_id = uuid_to_text(Uuid::new_v4());
        // Where the log is comes to it once this broker has opened that store: a first start may fail.
        let new = ClusterRecord { cluster_id, created_ms: start.at_ms, store: None };
        let cluster = metadata.found_cluster(&new).await?;
        if let (Some(theirs), Some(own)) = (cluster.store, &candidate.store)
            && theirs != *own
        {
            return Err(JoinError::OtherStore { theirs, own: own.clone() });
        }
        let node_id = candidate.node_id;
        let patience = candidate.lease_ttl + PREDECESSOR_SLACK;
        if let Ok(gone) = tokio::time::timeout(patience, predecessor_gone(metadata, node_id)).await {
            gone?;
        }
        let lease = HeldLease::grant(metadata.store().clone(), candidate.lease_ttl).await?;
        let chain = candidate.has_chain.then(ChainRecord::default);
        let record = record(candidate, start.at_ms);
        let registered = metadata.register_broker(node_id.0, lease.id(), record, chain).await?;
        let Some(epoch) = registered else {
            // Nobody minds if this fails: the lease then runs out.
            let _ = lease.revoke().await;
            return Err(JoinError::NodeIdTaken(node_id));
        };
        let identity = Incarnation { node_id, epoch };
        let (cluster_id, metadata) = (cluster.cluster_id, metadata.clone());
        let alive = tokio::spawn(note_alive(metadata.clone(), identity, lease.subscribe(), start));
        let lease_ttl = candidate.lease_ttl;
        Ok(Membership {
            cluster_id,
            identity,
            lease,
            lease_ttl,
            metadata,
            start,
            alive: AbortOnDropHandle::new(alive),
        })
    }

    /// How the membership stands, to be compared with the clock by whoever serves on its strength.
    pub fn lease(&self) -> watch::Receiver<LeaseState> {
        self.lease.subscribe()
    }

    /// How long others take this broker for alive when it is not heard of.
    pub fn lease_ttl(&self) -> Duration {
        self.lease_ttl
    }

    pub fn lease_id(&self) -> LeaseId {
        self.lease.id()
    }

    /// Returns when this process is not a member any more, or cannot be sure to be one.
    pub async fn lost(&self) {
        kafscale_meta::lost(&mut self.lease()).await;
    }

    /// Takes this broker off the list, so that nobody waits for its lease to run out; and notes that this was planned, so that nobody
    /// misses it.
    pub async fn leave(self) {
        let Incarnation { node_id, epoch } = self.identity;
        let (metadata, left_ms) = (self.metadata.clone(), self.start.now_ms());
        self.end(metadata.note_leaving(node_id.0, epoch, left_ms)).await;
    }

    /// The same of a start that failed: this broker never served anybody.
    pub async fn give_up(self) {
        let Incarnation { node_id, epoch } = self.identity;
        let (metadata, left_ms) = (self.metadata.clone(), self.start.now_ms());
        self.end(metadata.note_failed_start(node_id.0, epoch, left_ms)).await;
    }

    async fn end(self, note: impl Future<Output = kafscale_meta::Result<()>>) {
        self.alive.abort();
        match tokio::time::timeout(NOTE_TIMEOUT, note).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "that this broker leaves as planned could not be noted")
            }
            Err(_) => tracing::debug!("that this broker leaves as planned could not be noted in time"),
        }
        if let Err(error) = self.lease.revoke().await {
            tracing::warn!(%error, "this broker could not be taken off the list of live ones");
        }
    }
}

/// Notes now and then that a member lives, for as long as it is one. A note that fails is one that is missing.
async fn note_alive(
    metadata: Metadata,
    id: Incarnation,
    mut lease: watch::Receiver<LeaseState>,
    start: Start,
) {
    let notes = async {
        loop {
            sleep(ALIVE_INTERVAL).await;
            if let Err(error) = metadata.note_alive(id.node_id.0, id.epoch, start.now_ms()).await {
                tracing::debug!(%error, "that this broker lives could not be noted");
            }
        }
    };
    tokio::select! {
        () = notes => {}
        () = kafscale_meta::lost(&mut lease) => {}
    }
}

/// Waits until nobody is registered under a node id.
async fn predecessor_gone(metadata: &Metadata, node_id: NodeId) -> Result<(), kafscale_meta::Error> {
    let key = metadata.keys().broker(node_id.0);
    let Some(registered) = metadata.store().get(&key).await? else { return Ok(()) };
    tracing::info!(%node_id, "a broker with this number is registered; waiting for its lease to run out");
    let mut watch = metadata.store().watch(&key, registered.mod_revision.next()).await?;
    loop {
        let batch = watch.next().await?;
        if batch.events.iter().any(|event| matches!(event, Event::Delete { key: gone, .. } if *gone == key)) {
            return Ok(());
        }
    }
}

fn record(candidate: &Candidate, started_ms: i64) -> BrokerRecord {
    let mut endpoints = candidate.endpoints.iter();
    let main = endpoints.next().expect("a broker has a main listener");
    let listener = |endpoint: &Endpoint| ListenerRecord {
        name: endpoint.listener.to_string(),
        host: endpoint.host.clone(),
        port: endpoint.port,
    };
    BrokerRecord {
        host: main.host.clone(),
        port: main.port,
        listeners: endpoints.map(listener).collect(),
        rack: candidate.rack.clone(),
        version: candidate.version.clone(),
        metrics_address: candidate.metrics_address.clone(),
        epoch: 0,
        started_ms,
    }
}
