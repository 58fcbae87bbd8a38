//! Joining the cluster that the metadata describes, and staying in it: its identity, an incarnation of this broker that
//! is never used again, and a lease that is kept alive.
//!
//! A broker is a member until a deadline that every keepalive moves ([`LeaseState::Until`]), or not any more
//! ([`LeaseState::Lost`]). Past the deadline others may have taken over what it served. The rule for a lost membership: stop
//! serving, fail what is under way with retriable errors, and join anew, which makes a new incarnation. A membership is never
//! renewed below its holder. What has to be refused in time compares the deadline with the clock for each request
//! ([`Membership::lease`], [`LeaseState::holds`]), because an event may come late to a process that was stopped;
//! [`Membership::lost`] is the event.

use std::time::Duration;

use kafscale_core::clock::Clock;
use kafscale_meta::records::{BrokerRecord, ClusterRecord, uuid_to_text};
use kafscale_meta::{Event, HeldLease, LeaseState, Metadata, Revision};
use tokio::sync::watch;
use uuid::Uuid;

use crate::clock::SystemClock;
use crate::config::{Advertise, Config};
use crate::failure::Failure;
use crate::units::HostPort;

/// How long others take a broker for alive that is not heard of.
const LEASE_TTL: Duration = Duration::from_secs(10);
/// A broker that was killed stays on the list until its lease has run out. Its next start waits for that, and a little longer
/// because etcd takes its time.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(15);

/// The place of this process in its cluster.
#[derive(Debug)]
pub struct Membership {
    pub cluster_id: String,
    /// Number of this start, unique and growing within the cluster.
    pub incarnation: u64,
    lease: HeldLease,
}

impl Membership {
    pub async fn join(metadata: &Metadata, config: &Config) -> Result<Self, Failure> {
        let failed =
            |e: kafscale_meta::Error| Failure::runtime(format!("the metadata in {}: {e}", config.meta));
        let started_ms = SystemClock.now_ms();
        let new =
            ClusterRecord { cluster_id: uuid_to_text(Uuid::new_v4()), created_ms: started_ms, store: None };
        let cluster = metadata.found_cluster(&new).await.map_err(failed)?;
        let patience_ends = tokio::time::Instant::now() + PREDECESSOR_PATIENCE;
        let waiting = tokio::time::timeout_at(patience_ends, predecessor_gone(metadata, config.node_id));
        if let Ok(outcome) = waiting.await {
            outcome.map_err(failed)?;
        }
        let lease = HeldLease::grant(metadata.store().clone(), LEASE_TTL).await.map_err(failed)?;
        let registered =
            metadata.register_broker(config.node_id, lease.id(), record(config, started_ms), None);
        let Some(incarnation) = registered.await.map_err(failed)? else {
            // Nobody minds if this fails: the lease then runs out.
            let _ = lease.revoke().await;
            return Err(Failure::runtime(format!(
                "another broker with --node-id {} is running in the cluster `{}`; give each broker a number of its own",
                config.node_id, config.cluster_name
            )));
        };
        Ok(Self { cluster_id: cluster.cluster_id, incarnation, lease })
    }

    /// How the membership stands, to be compared with the clock by whoever serves on its strength.
    pub fn lease(&self) -> watch::Receiver<LeaseState> {
        self.lease.subscribe()
    }

    /// Returns when this process is not a member any more, or cannot be sure to be one.
    pub async fn lost(&self) {
        kafscale_meta::lost(&mut self.lease()).await;
    }

    /// Takes this broker off the list, so that nobody waits for its lease to run out.
    pub async fn leave(self) {
        if let Err(error) = self.lease.revoke().await {
            tracing::warn!(%error, "this broker could not be taken off the list of live ones");
        }
    }
}

/// Waits until nobody is registered under a node id.
async fn predecessor_gone(metadata: &Metadata, node_id: i32) -> Result<(), kafscale_meta::Error> {
    let key = metadata.keys().broker(node_id);
    let Some(registered) = metadata.store().get(&key).await? else { return Ok(()) };
    tracing::info!(node_id, "a broker with this number is registered; waiting for its lease to run out");
    let mut watch = metadata.store().watch(&key, Revision(registered.mod_revision.0 + 1)).await?;
    loop {
        let batch = watch.next().await?;
        if batch.events.iter().any(|event| matches!(event, Event::Delete { key: gone, .. } if *gone == key)) {
            return Ok(());
        }
    }
}

fn record(config: &Config, started_ms: i64) -> BrokerRecord {
    let HostPort { host, port } = match &config.advertise {
        Advertise::Named(named) => named.clone(),
        Advertise::ListenAddress => HostPort { host: config.listen.ip().to_string(), port: 0 },
    };
    BrokerRecord {
        host,
        port: if port == 0 { config.listen.port() } else { port },
        rack: config.rack.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        metrics_address: Some(config.metrics_listen.to_string()),
        epoch: 0,
        started_ms,
    }
}
