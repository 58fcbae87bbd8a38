//! Joining the cluster that the metadata describes, and staying in it: its identity, an incarnation of this broker that
//! is never used again, and a lease that is kept alive.

use std::time::Duration;

use kafscale_core::clock::Clock;
use kafscale_meta::records::{BrokerRecord, ClusterRecord, uuid_to_text};
use kafscale_meta::{LeaseId, Metadata};
use tokio::task::JoinHandle;
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
    metadata: Metadata,
    lease: LeaseId,
    keepalive: JoinHandle<()>,
}

impl Membership {
    pub async fn join(metadata: &Metadata, config: &Config) -> Result<Self, Failure> {
        let failed =
            |e: kafscale_meta::Error| Failure::runtime(format!("the metadata in {}: {e}", config.meta));
        let started_ms = SystemClock.now_ms();
        let new =
            ClusterRecord { cluster_id: uuid_to_text(Uuid::new_v4()), created_ms: started_ms, store: None };
        let cluster = metadata.found_cluster(&new).await.map_err(failed)?;
        let lease = metadata.store().lease_grant(LEASE_TTL).await.map_err(failed)?;
        let registered = metadata.register_broker(config.node_id, lease, record(config, started_ms), None);
        let Some(incarnation) = registered.await.map_err(failed)? else {
            return Err(Failure::runtime(format!(
                "another broker with --node-id {} is running in the cluster `{}`; give each broker a number of its own",
                config.node_id, config.cluster_name
            )));
        };
        let keepalive = tokio::spawn(keep_alive(metadata.clone(), lease));
        Ok(Self { cluster_id: cluster.cluster_id, incarnation, metadata: metadata.clone(), lease, keepalive })
    }

    /// Takes this broker off the list, so that nobody waits for its lease to run out.
    pub async fn leave(self) {
        self.keepalive.abort();
        if let Err(error) = self.metadata.store().lease_revoke(self.lease).await {
            tracing::warn!(%error, "this broker could not be taken off the list of live ones");
        }
    }
}

async fn keep_alive(metadata: Metadata, lease: LeaseId) {
    loop {
        tokio::time::sleep(KEEPALIVE_INTERVAL).await;
        if let Err(error) = metadata.store().lease_keepalive(lease).await {
            tracing::warn!(%error, "the lease of this broker could not be extended");
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
