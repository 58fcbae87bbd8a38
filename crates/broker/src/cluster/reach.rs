//! Which registered brokers are gone although their leases have not run out yet: what they own has no leader for clients, and the metric
//! of leaderless partitions says so at once.
//!
//! A connection to each broker's metrics port is held open. The system closes it when the process is gone; then it is opened again, and a
//! broker that does not take it is gone. Nothing is decided by this: who owns what goes by leases alone.
//!
//! Invariant: a broker counts as gone only if it was reached before, so that an address that is not for brokers raises no alarm.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kafscale_core::placement::Incarnation;
use parking_lot::RwLock;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Cluster;

/// How often it is looked at which brokers there are.
const ROUND: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const RECONNECT_AFTER: Duration = Duration::from_millis(200);
/// For an address that was never reached.
const UNKNOWN_RETRY: Duration = Duration::from_secs(10);
/// Others are not watched: their leases run out soon enough.
const WATCHED_MAX: usize = 64;

/// The brokers that are gone.
#[derive(Debug, Default)]
pub struct Reach {
    gone: RwLock<BTreeSet<Incarnation>>,
}

impl Reach {
    pub fn is_gone(&self, incarnation: Incarnation) -> bool {
        self.gone.read().contains(&incarnation)
    }

    /// Watches the other brokers until cancelled.
    pub async fn watch(self: Arc<Self>, cluster: Arc<Cluster>, cancel: CancellationToken) {
        let mut watched: BTreeMap<Incarnation, AbortOnDropHandle<()>> = BTreeMap::new();
        let rounds = async {
            loop {
                let brokers = cluster.brokers();
                watched.retain(|id, _| brokers.is_live(*id));
                self.gone.write().retain(|id| brokers.is_live(*id));
                for broker in brokers.all() {
                    let is_new = broker.id != cluster.identity() && !watched.contains_key(&broker.id);
                    if let Some(address) = broker.metrics_address.clone()
                        && is_new
                        && watched.len() < WATCHED_MAX
                    {
                        let watching = Arc::clone(&self).watch_one(broker.id, address);
                        watched.insert(broker.id, AbortOnDropHandle::new(tokio::spawn(watching)));
                    }
                }
                sleep(ROUND).await;
            }
        };
        cancel.run_until_cancelled(rounds).await;
    }

    async fn watch_one(self: Arc<Self>, id: Incarnation, address: Arc<str>) {
        let mut was_reached = false;
        loop {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(&*address)).await {
                Ok(Ok(mut stream)) => {
                    was_reached = true;
                    self.gone.write().remove(&id);
                    // Nothing is asked, so that nothing comes but the end.
                    let _ = stream.read_u8().await;
                    sleep(RECONNECT_AFTER).await;
                }
                Ok(Err(_)) | Err(_) if was_reached => {
                    self.gone.write().insert(id);
                    sleep(RECONNECT_AFTER).await;
                }
                Ok(Err(_)) | Err(_) => sleep(UNKNOWN_RETRY).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kafscale_core::ids::NodeId;
    use kafscale_meta::LeaseState;
    use kafscale_meta::records::BrokerRecord;
    use tokio::net::TcpListener;
    use tokio::sync::watch;

    use super::super::LiveBroker;
    use super::*;

    #[tokio::test]
    async fn a_broker_whose_process_ends_is_gone_at_once_and_back_when_it_listens_again() {
        let own = Incarnation { node_id: NodeId(1), epoch: 1 };
        let (_lease, lease) = watch::channel(LeaseState::Lost);
        let cluster = Arc::new(Cluster::new(own, lease));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let record = |address: String| BrokerRecord {
            host: "h".into(),
            port: 1,
            listeners: Vec::new(),
            rack: None,
            version: "1".into(),
            metrics_address: Some(address),
            epoch: 2,
            started_ms: 0,
        };
        cluster.update_brokers(|brokers| {
            let other = LiveBroker::new(NodeId(2), &record(address.to_string()));
            brokers.by_id.insert(NodeId(2), other);
            // Nobody has ever listened there.
            brokers.by_id.insert(NodeId(3), LiveBroker::new(NodeId(3), &record("127.0.0.1:1".into())));
        });
        let reach = Arc::new(Reach::default());
        let cancel = CancellationToken::new();
        let watching = tokio::spawn(Arc::clone(&reach).watch(cluster, cancel.clone()));
        let [two, three] = [2, 3].map(|id| Incarnation { node_id: NodeId(id), epoch: 2 });
        let until = async |gone: bool| {
            let wait = async {
                while reach.is_gone(two) != gone {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(5), wait).await.expect("it is noticed");
        };
        let (taken, _) = listener.accept().await.unwrap();
        assert!(!reach.is_gone(two));
        drop((listener, taken));
        until(true).await;
        let _again = TcpListener::bind(address).await.unwrap();
        until(false).await;
        assert!(!reach.is_gone(three));
        cancel.cancel();
        watching.await.unwrap();
    }
}
