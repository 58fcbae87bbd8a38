//! Joining the cluster that the metadata describes, and staying in it: its identity, an incarnation of this broker that
//! is never used again, and a lease that is kept alive.

use std::time::Duration;

use kafscale_core::clock::Clock;
use kafscale_meta::records::{BrokerRecord, ClusterRecord, uuid_to_text};
use kafscale_meta::{Error, ErrorKind, LeaseId, Metadata};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::SystemClock;
use crate::config::{Advertise, Config};
use crate::failure::Failure;
use crate::units::HostPort;

/// How long others take a broker for alive that is not heard of.
const LEASE_TTL: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);

/// The place of this process in its cluster.
#[derive(Debug)]
pub struct Membership {
    pub cluster_id: String,
    /// Number of this start, unique and growing within the cluster.
    pub incarnation: u64,
    stop: CancellationToken,
    keepalive: JoinHandle<()>,
}

impl Membership {
    pub async fn join(metadata: &Metadata, config: &Config) -> Result<Self, Failure> {
        let failed = |e: Error| Failure::runtime(format!("the metadata in {}: {e}", config.meta));
        let registration = Registration {
            metadata: metadata.clone(),
            node_id: config.node_id,
            record: record(config, SystemClock.now_ms()),
        };
        let cluster_id = uuid_to_text(Uuid::new_v4());
        let new = ClusterRecord { cluster_id, created_ms: registration.record.started_ms };
        let cluster = metadata.found_cluster(&new).await.map_err(failed)?;
        let Some((lease, incarnation)) = registration.register().await.map_err(failed)? else {
            return Err(Failure::runtime(format!(
                "another broker with --node-id {} is running in the cluster `{}`; give each broker a number of its own",
                config.node_id, config.cluster_name
            )));
        };
        let stop = CancellationToken::new();
        let keepalive = tokio::spawn(registration.keep_alive(lease, stop.clone()));
        Ok(Self { cluster_id: cluster.cluster_id, incarnation, stop, keepalive })
    }

    /// Takes this broker off the list, so that nobody waits for its lease to run out.
    pub async fn leave(self) {
        self.stop.cancel();
        if let Err(error) = self.keepalive.await {
            tracing::error!(%error, "the task that keeps the lease failed");
        }
    }
}

/// What stands in the metadata for this broker while it lives.
struct Registration {
    metadata: Metadata,
    node_id: i32,
    record: BrokerRecord,
}

impl Registration {
    /// Gives the lease and the incarnation, or none where another live broker has the number.
    async fn register(&self) -> Result<Option<(LeaseId, u64)>, Error> {
        let lease = self.metadata.store().lease_grant(LEASE_TTL).await?;
        let registered = self.metadata.register_broker(self.node_id, lease, self.record.clone()).await?;
        Ok(registered.map(|incarnation| (lease, incarnation)))
    }

    async fn keep_alive(self, mut lease: LeaseId, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(KEEPALIVE_INTERVAL) => {}
            }
            match self.metadata.store().lease_keepalive(lease).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Fenced => lease = self.register_again(lease).await,
                Err(error) => tracing::warn!(%error, "the lease of this broker could not be extended"),
            }
        }
        if let Err(error) = self.metadata.store().lease_revoke(lease).await {
            tracing::warn!(%error, "this broker could not be taken off the list of live ones");
        }
    }

    /// After a pause that was longer than the lease. The store is this process's own, so that nobody can have taken over.
    async fn register_again(&self, lost: LeaseId) -> LeaseId {
        match self.register().await {
            Ok(Some((lease, _))) => {
                tracing::warn!("the process stood still for longer than its lease; it is registered again");
                lease
            }
            Ok(None) => lost,
            Err(error) => {
                tracing::warn!(%error, "this broker could not be registered again");
                lost
            }
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
