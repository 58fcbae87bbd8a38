//! The cluster as this broker knows it: who is alive and where, who is the controller, and which topics are to be looked at.
//!
//! [`follow`] keeps the image by watches of the metadata store, and [`reconcile`] makes the log serve what the image says. Both
//! go by how things are, never by what happened, so that what was missed or came late does no harm. [`reads`] says whether the image
//! may be trusted for an answer.
//!
//! Invariant: only the follower writes to the image; who changes metadata waits until the change has come in ([`Cluster::until`]).
//! Left to others: who should own what (the controller), whether an owner may still acknowledge (the log's chain).

pub mod follow;
pub mod reach;
pub mod reads;
pub mod reconcile;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use kafscale_core::ids::{NodeId, TopicId};
use kafscale_core::placement::Incarnation;
use kafscale_meta::LeaseState;
use kafscale_meta::records::{BrokerRecord, PartitionAssignment};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use crate::listeners::{Endpoint, MAIN_LISTENER};

/// A registered broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveBroker {
    pub id: Incarnation,
    pub rack: Option<Arc<str>>,
    /// `host:port` of its metrics.
    pub metrics_address: Option<Arc<str>>,
    /// The main listener first.
    endpoints: Vec<Endpoint>,
}

impl LiveBroker {
    pub fn new(node_id: NodeId, record: &BrokerRecord) -> LiveBroker {
        let main = Endpoint { listener: MAIN_LISTENER.into(), host: record.host.clone(), port: record.port };
        let others = record.listeners.iter().map(|l| Endpoint {
            listener: l.name.as_str().into(),
            host: l.host.clone(),
            port: l.port,
        });
        LiveBroker {
            id: Incarnation { node_id, epoch: record.epoch },
            rack: record.rack.as_deref().map(Arc::from),
            metrics_address: record.metrics_address.as_deref().map(Arc::from),
            endpoints: std::iter::once(main).chain(others).collect(),
        }
    }

    /// Where clients reach it.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter()
    }

    /// Where clients reach it that came in by a listener of this name.
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| *endpoint.listener == *listener)
    }
}

/// The brokers of the cluster at one moment.
#[derive(Debug, Clone, Default)]
pub struct Brokers {
    by_id: BTreeMap<NodeId, LiveBroker>,
    /// Who has the controller's office.
    pub controller: Option<NodeId>,
}

impl Brokers {
    pub fn all(&self) -> impl Iterator<Item = &LiveBroker> {
        self.by_id.values()
    }

    pub fn get(&self, node_id: NodeId) -> Option<&LiveBroker> {
        self.by_id.get(&node_id)
    }

    pub fn is_live(&self, incarnation: Incarnation) -> bool {
        self.get(incarnation.node_id).is_some_and(|broker| broker.id == incarnation)
    }

    /// The owner of a partition or a coordinator slot, if it is alive.
    pub fn owner(&self, assigned: &PartitionAssignment) -> Option<&LiveBroker> {
        let broker = self.get(NodeId(assigned.owner?))?;
        (broker.id.epoch == assigned.incarnation).then_some(broker)
    }

    /// Whom clients are told to send changes of topics to. Every broker takes them, so whoever is asked names itself, as brokers of Apache
    /// Kafka name any that lives (KIP-590). The elected one may have died a moment ago, and librdkafka would wait for it for minutes.
    pub fn controller_for_clients(&self, own: NodeId) -> Option<NodeId> {
        self.by_id.contains_key(&own).then_some(own)
    }
}

/// What the reconciler has to look at.
#[derive(Debug, Default)]
struct Dirty {
    topics: HashSet<TopicId>,
    /// Topics that were deleted.
    gone: Vec<(Arc<str>, TopicId)>,
}

/// How far this broker is in serving what it is to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Starting,
    /// Everything that it owns is served, or cannot be at the moment.
    Ready,
}

/// The image, and this broker's place in it.
#[derive(Debug)]
pub struct Cluster {
    identity: Incarnation,
    lease: watch::Receiver<LeaseState>,
    brokers: RwLock<Arc<Brokers>>,
    /// Anything in the image, or in what is served, may be different.
    changed: watch::Sender<()>,
    dirty: Mutex<Dirty>,
    dirtied: Notify,
    progress: watch::Sender<Progress>,
    unserved: Mutex<Unserved>,
}

/// Partitions that this broker owns and cannot serve at the moment, though it tries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unserved {
    pub partitions: usize,
    /// What the last attempt on one of them ended with.
    pub why: String,
}

impl Cluster {
    pub fn new(identity: Incarnation, lease: watch::Receiver<LeaseState>) -> Cluster {
        Cluster {
            identity,
            lease,
            brokers: RwLock::default(),
            changed: watch::Sender::new(()),
            dirty: Mutex::default(),
            dirtied: Notify::new(),
            progress: watch::Sender::new(Progress::Starting),
            unserved: Mutex::default(),
        }
    }

    /// This start of this broker.
    pub fn identity(&self) -> Incarnation {
        self.identity
    }

    /// How this broker's membership stands.
    pub fn lease(&self) -> &watch::Receiver<LeaseState> {
        &self.lease
    }

    /// What this broker owns and cannot serve.
    pub fn unserved(&self) -> Unserved {
        self.unserved.lock().clone()
    }

    /// Whether this broker surely is a member now.
    pub fn lease_holds(&self) -> bool {
        self.lease().borrow().holds(Instant::now())
    }

    /// The registered brokers, as they are now.
    pub fn brokers(&self) -> Arc<Brokers> {
        Arc::clone(&self.brokers.read())
    }

    /// Whether something is assigned to this incarnation.
    pub fn is_own(&self, assigned: &PartitionAssignment) -> bool {
        assigned.owner == Some(self.identity.node_id.0) && assigned.incarnation == self.identity.epoch
    }

    /// Waits until something holds that depends on the image or on what is served. `false` when the deadline passed before.
    pub async fn until(&self, deadline: Instant, mut holds: impl FnMut() -> bool) -> bool {
        let mut changed = self.changed.subscribe();
        let wait = async {
            while !holds() {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        timeout_at(deadline, wait).await.is_ok()
    }

    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    fn update_brokers(&self, change: impl FnOnce(&mut Brokers)) {
        let mut brokers = self.brokers.write();
        change(Arc::make_mut(&mut brokers));
    }

    fn touch(&self, topic: TopicId) {
        self.dirty.lock().topics.insert(topic);
    }

    fn topic_gone(&self, name: Arc<str>, topic: TopicId) {
        self.dirty.lock().gone.push((name, topic));
    }

    /// Tells the reconciler, and whoever waits for something, to look again.
    fn announce(&self) {
        self.dirtied.notify_one();
        self.changed.send_replace(());
    }
}
