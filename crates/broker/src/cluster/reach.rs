//! Which registered brokers are gone although their leases have not run out yet: what they own has no leader for clients, and the metric
//! of leaderless partitions says so at once.
//!
//! A connection to each broker's metrics port is held open. The system closes it when the process is gone; then it is opened again, and a
//! broker that does not take it is gone. Nothing is decided by this: who owns what goes by leases alone.
//!
//! One that was gone before this broker came was never reached. Where its host refuses connections to all that it has registered, for
//! metrics and for clients, it is gone too. Where nobody answers, nothing is known before its lease has run out.
//!
//! Invariant: an address that is not for brokers raises no alarm: a broker that was never reached counts as gone only for the time of a
//! lease. Who is registered for longer is alive.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use kafscale_core::placement::Incarnation;
use parking_lot::RwLock;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Cluster, LiveBroker};

/// How often it is looked at which brokers there are.
const ROUND: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const RECONNECT_AFTER: Duration = Duration::from_millis(200);
/// For an address that was never reached.
const UNKNOWN_RETRY: Duration = Duration::from_secs(10);
/// Others are not watched: their leases run out soon enough.
const WATCHED_MAX: usize = 64;

/// A broker has few listeners; more are not asked.
const LISTENERS_MAX: usize = 4;

/// The brokers that are gone.
#[derive(Debug, Default)]
pub struct Reach {
    gone: RwLock<BTreeSet<Incarnation>>,
}

impl Reach {
    pub fn is_gone(&self, incarnation: Incarnation) -> bool {
        self.gone.read().contains(&incarnation)
    }

    /// Watches the other brokers until cancelled. `lease_ttl` is how long a broker stays registered that is gone.
    pub async fn watch(
        self: Arc<Self>,
        cluster: Arc<Cluster>,
        lease_ttl: Duration,
        cancel: CancellationToken,
    ) {
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
                        let watching = Arc::clone(&self).watch_one(broker.clone(), address, lease_ttl);
                        watched.insert(broker.id, AbortOnDropHandle::new(tokio::spawn(watching)));
                    }
                }
                sleep(ROUND).await;
            }
        };
        cancel.run_until_cancelled(rounds).await;
    }

    async fn watch_one(self: Arc<Self>, broker: LiveBroker, address: Arc<str>, lease_ttl: Duration) {
        let (id, registered_until) = (broker.id, Instant::now() + lease_ttl);
        let mut was_reached = false;
        loop {
            let answer = knock(&*address).await;
            let is_gone = match answer {
                Answer::Open(mut stream) => {
                    was_reached = true;
                    self.gone.write().remove(&id);
                    // Nothing is asked, so that nothing comes but the end.
                    let _ = stream.read_u8().await;
                    sleep(RECONNECT_AFTER).await;
                    continue;
                }
                Answer::Refused | Answer::None if was_reached => true,
                Answer::Refused => Instant::now() < registered_until && refuses_clients(&broker).await,
                Answer::None => false,
            };
            if is_gone {
                self.gone.write().insert(id);
                sleep(RECONNECT_AFTER).await;
            } else {
                self.gone.write().remove(&id);
                sleep(UNKNOWN_RETRY).await;
            }
        }
    }
}

/// What comes of a connection.
#[derive(Debug)]
enum Answer {
    Open(TcpStream),
    /// The host is there, and nobody listens.
    Refused,
    None,
}

async fn knock(address: impl ToSocketAddrs) -> Answer {
    match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Answer::Open(stream),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Answer::Refused,
        Ok(Err(_)) | Err(_) => Answer::None,
    }
}

/// Whether nobody listens where clients reach a broker.
async fn refuses_clients(broker: &LiveBroker) -> bool {
    for endpoint in broker.endpoints().take(LISTENERS_MAX) {
        if !matches!(knock((endpoint.host.as_str(), endpoint.port)).await, Answer::Refused) {
            return false;
        }
    }
    true
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
    async fn a_broker_whose_process_ended_is_gone_at_once_whether_or_not_it_was_seen_before() {
        let own = Incarnation { node_id: NodeId(1), epoch: 1 };
        let (_lease, lease) = watch::channel(LeaseState::Lost);
        let cluster = Arc::new(Cluster::new(own, lease));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let record = |address: String, port: u16| BrokerRecord {
            host: "127.0.0.1".into(),
            port,
            listeners: Vec::new(),
            rack: None,
            version: "1".into(),
            metrics_address: Some(address),
            epoch: 2,
            started_ms: 0,
        };
        let clients = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let for_clients = clients.local_addr().unwrap().port();
        cluster.update_brokers(|brokers| {
            let mut add = |id, metrics: String, port| {
                let id = NodeId(id);
                brokers.by_id.insert(id, LiveBroker::new(id, &record(metrics, port)));
            };
            add(2, address.to_string(), for_clients);
            // Its metrics are not for brokers.
            add(3, "127.0.0.1:1".into(), for_clients);
            // It was killed before this broker came.
            add(4, "127.0.0.1:1".into(), 1);
            // Nothing is known of its host.
            add(5, "host.invalid:1".into(), 1);
        });
        let reach = Arc::new(Reach::default());
        let cancel = CancellationToken::new();
        let lease_ttl = Duration::from_secs(2);
        let watching = tokio::spawn(Arc::clone(&reach).watch(cluster, lease_ttl, cancel.clone()));
        let [two, three, four, five] = [2, 3, 4, 5].map(|id| Incarnation { node_id: NodeId(id), epoch: 2 });
        let until = async |id: Incarnation, gone: bool| {
            let wait = async {
                while reach.is_gone(id) != gone {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(5), wait).await.expect("it is noticed");
        };
        let (taken, _) = listener.accept().await.unwrap();
        until(four, true).await;
        assert!(!reach.is_gone(two));
        drop((listener, taken));
        until(two, true).await;
        let _again = TcpListener::bind(address).await.unwrap();
        until(two, false).await;
        assert!(!reach.is_gone(three) && !reach.is_gone(five));
        // Still registered after the time of a lease: it is alive, and its addresses are not for this broker.
        until(four, false).await;
        cancel.cancel();
        watching.await.unwrap();
    }
}
