//! Making the log serve what is assigned to this incarnation, and nothing else.
//!
//! For each topic that may have changed, every partition is compared with what the log serves: it is acquired, handed over and then written
//! to have no owner, or abandoned. What fails is tried again later. Each partition goes its own way; there is one operation on it
//! at a time, and after it the partition is looked at again.
//!
//! Invariant: a partition is written to have no owner only after the log has let it go.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kafscale_core::backoff::Backoff;
use kafscale_core::ids::{PartitionId, TopicId};
use kafscale_core::placement::Incarnation;
use kafscale_meta::records::PartitionAssignment;
use kafscale_meta::{Metadata, Result};
use kafscale_storage::{AcquireError, HostedPartition, ReleaseError};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::Progress;
use crate::node::Node;
use crate::topics::Topic;

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Reconciler {
    node: Arc<Node>,
    operations: JoinSet<Done>,
    /// Partitions with an operation under way, or let go and not written yet.
    busy: HashSet<PartitionId>,
    /// Partitions whose last operation failed.
    failed: HashMap<PartitionId, Retry>,
    /// Let go by the log, still to be written.
    released: HashMap<TopicId, BTreeSet<i32>>,
    /// Topics whose record is being written: one write at a time.
    writing: HashSet<TopicId>,
}

#[derive(Debug)]
struct Retry {
    at: Instant,
    backoff: Backoff,
}

/// An operation that ended.
#[derive(Debug)]
enum Done {
    Acquired { from: Instant, outcomes: Vec<(PartitionId, Result<(), AcquireError>)> },
    Released(PartitionId, Result<(), ReleaseError>),
    Written(TopicId, BTreeSet<i32>),
    Dropped,
}

impl Reconciler {
    pub fn new(node: Arc<Node>) -> Reconciler {
        Reconciler {
            node,
            operations: JoinSet::new(),
            busy: HashSet::new(),
            failed: HashMap::new(),
            released: HashMap::new(),
            writing: HashSet::new(),
        }
    }

    /// Works until cancelled. What is under way is then given up.
    pub async fn run(mut self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.work()).await;
        self.operations.shutdown().await;
    }

    async fn work(&mut self) {
        loop {
            self.look_at_changes();
            self.note_progress();
            let unserved = self.failed.keys().filter(|id| !self.is_served(**id)).count();
            self.node.cluster.unserved.lock().partitions = unserved;
            let retry_at =
                self.failed.iter().filter(|(id, _)| !self.busy.contains(id)).map(|(_, r)| r.at).min();
            tokio::select! {
                () = self.node.cluster.dirtied.notified() => {}
                Some(joined) = self.operations.join_next() => self.ended(joined),
                () = sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {
                    let now = Instant::now();
                    for (id, _) in self.failed.iter().filter(|(_, retry)| retry.at <= now) {
                        self.node.cluster.touch(id.topic);
                    }
                }
            }
        }
    }

    fn look_at_changes(&mut self) {
        let dirty = std::mem::take(&mut *self.node.cluster.dirty.lock());
        for (name, id) in dirty.gone {
            self.drop_topic(name, id);
        }
        let mut wanted = Vec::new();
        for id in dirty.topics {
            match self.node.topics.get_by_id(id) {
                Some(topic) => self.look_at(&topic, &mut wanted),
                None => self.failed.retain(|failed, _| failed.topic != id),
            }
        }
        if wanted.is_empty() {
            return;
        }
        let (log, from) = (self.node.log.clone(), Instant::now());
        self.busy.extend(wanted.iter().map(|hosted| hosted.id));
        self.operations.spawn(async move { Done::Acquired { from, outcomes: log.acquire(wanted).await } });
    }

    fn look_at(&mut self, topic: &Topic, wanted: &mut Vec<HostedPartition>) {
        let mut abandoned = Vec::new();
        let mut configured = true;
        for index in 0..topic.partitions {
            let id = PartitionId { topic: topic.id, index };
            if self.busy.contains(&id) {
                continue;
            }
            let assigned = topic.assigned(index);
            let served = self.node.log.partition(id);
            let is_own = self.node.cluster.is_own(&assigned);
            if let Some(partition) = served.as_ref().filter(|_| is_own) {
                configured &= Arc::ptr_eq(&partition.config(), &topic.config);
            }
            match (is_own, assigned.release, served) {
                (true, false, Some(partition))
                    if partition.held().is_none() && partition.leader_epoch().0 >= assigned.leader_epoch =>
                {
                    self.failed.remove(&id);
                }
                (true, false, _) => {
                    if self.is_due(id) {
                        wanted.push(topic.hosted(index));
                    }
                }
                (true, true, _) => {
                    if self.is_due(id) {
                        self.release(id);
                    }
                }
                (false, _, Some(_)) => {
                    self.failed.remove(&id);
                    abandoned.push(id);
                }
                (false, _, None) => drop(self.failed.remove(&id)),
            }
        }
        if !configured {
            self.node.log.set_config(topic.id, &topic.config);
        }
        if !abandoned.is_empty() {
            warn!(topic = %topic.name, partitions = abandoned.len(), "partitions belong to others now");
            self.node.log.abandon(&abandoned);
            self.node.metrics.partitions.abandoned.inc_by(abandoned.len() as u64);
        }
    }

    /// Whether it is read, and takes records.
    fn is_served(&self, id: PartitionId) -> bool {
        self.node.log.partition(id).is_some_and(|partition| partition.held().is_none())
    }

    fn is_due(&self, id: PartitionId) -> bool {
        self.failed.get(&id).is_none_or(|retry| retry.at <= Instant::now())
    }

    fn release(&mut self, id: PartitionId) {
        let log = self.node.log.clone();
        self.busy.insert(id);
        self.operations.spawn(async move { Done::Released(id, log.release(id).await) });
    }

    fn drop_topic(&mut self, name: Arc<str>, id: TopicId) {
        self.failed.retain(|failed, _| failed.topic != id);
        self.released.remove(&id);
        let node = Arc::clone(&self.node);
        self.operations.spawn(async move {
            // The name may belong to a new topic already, whose series go on.
            if node.topics.get(&name).is_none() {
                node.metrics.forget_topic(&name);
            }
            node.log.drop_topic(id).await;
            node.coordinator.topic_deleted(&name, id).await;
            Done::Dropped
        });
    }

    fn ended(&mut self, joined: std::result::Result<Done, JoinError>) {
        match joined {
            Ok(Done::Acquired { from, outcomes }) => self.acquired(from, outcomes),
            Ok(Done::Released(id, outcome)) => self.let_go(id, outcome),
            Ok(Done::Written(topic, indexes)) => {
                self.writing.remove(&topic);
                for index in indexes {
                    self.busy.remove(&PartitionId { topic, index });
                }
                self.node.cluster.touch(topic);
                self.write_released(topic);
            }
            Ok(Done::Dropped) => {}
            Err(error) => error!(%error, "an operation on partitions ended early"),
        }
        self.node.cluster.changed.send_replace(());
    }

    fn acquired(&mut self, from: Instant, outcomes: Vec<(PartitionId, Result<(), AcquireError>)>) {
        let took = from.elapsed();
        let mut served = 0u64;
        for (id, outcome) in outcomes {
            self.busy.remove(&id);
            // It may have been given to another, deleted, or configured anew meanwhile.
            self.node.cluster.touch(id.topic);
            let topic = self.node.topics.get_by_id(id.topic);
            match outcome {
                Ok(()) if topic.is_none() => self.node.log.abandon(&[id]),
                Ok(()) => {
                    self.failed.remove(&id);
                    self.node.metrics.partitions.acquire_seconds.observe(took.as_secs_f64());
                    served += 1;
                }
                Err(error) => {
                    let topic = topic.map(|topic| topic.name.to_string());
                    error!(topic, partition = id.index, %error, "a partition cannot be served; trying again");
                    self.node.metrics.partitions.failures.inc();
                    self.put_off(id);
                    self.node.cluster.unserved.lock().why = error.to_string();
                }
            }
        }
        self.node.metrics.partitions.acquired.inc_by(served);
        debug!(served, took_ms = took.as_millis(), "acquired partitions");
    }

    fn let_go(&mut self, id: PartitionId, outcome: Result<(), ReleaseError>) {
        self.node.cluster.touch(id.topic);
        match outcome {
            Ok(()) => {
                self.failed.remove(&id);
                self.node.metrics.partitions.released.inc();
                self.released.entry(id.topic).or_default().insert(id.index);
                self.write_released(id.topic);
            }
            Err(ReleaseError::NotOwner) => {
                self.busy.remove(&id);
                self.node.log.abandon(&[id]);
                self.put_off(id);
            }
            Err(ReleaseError::Retry(error)) => {
                self.busy.remove(&id);
                warn!(topic = %id.topic, partition = id.index, %error, "a partition is not handed over yet");
                self.node.metrics.partitions.failures.inc();
                self.put_off(id);
            }
        }
    }

    fn put_off(&mut self, id: PartitionId) {
        let mut backoff = self.failed.remove(&id).map_or_else(|| waits(&self.node), |retry| retry.backoff);
        self.failed.insert(id, Retry { at: Instant::now() + backoff.pause(), backoff });
    }

    fn write_released(&mut self, topic: TopicId) {
        if self.writing.contains(&topic) {
            return;
        }
        let Some(indexes) = self.released.remove(&topic) else { return };
        self.writing.insert(topic);
        let (metadata, own) = (self.node.metadata.clone(), self.node.cluster.identity());
        let mut backoff = waits(&self.node);
        self.operations.spawn(async move {
            while let Err(error) = write_no_owner(&metadata, own, topic, &indexes).await {
                warn!(%topic, %error, "partitions that were handed over are not free yet; trying again");
                sleep(backoff.pause()).await;
            }
            Done::Written(topic, indexes)
        });
    }

    /// Tells when everything is served for the first time.
    fn note_progress(&self) {
        let progress = &self.node.cluster.progress;
        if *progress.borrow() == Progress::Ready || !self.is_settled() {
            return;
        }
        progress.send_replace(Progress::Ready);
        if !self.failed.is_empty() {
            error!(partitions = self.failed.len(), "some partitions cannot be served");
        }
        // What is in the log of topics that do not exist any more is not needed.
        let topics = Arc::clone(&self.node.topics);
        self.node.log.forget_unclaimed(move |id| {
            topics.get_by_id(id.topic).is_some_and(|topic| id.index < topic.partitions)
        });
        info!(partitions = self.node.log.partitions().len(), "serving what is assigned to this broker");
    }

    /// Whether all that this broker owns, or will be given at once, is served or cannot be.
    fn is_settled(&self) -> bool {
        let cluster = &self.node.cluster;
        let brokers = cluster.brokers();
        let own = cluster.identity();
        if !brokers.is_live(own) {
            return false;
        }
        let alone = brokers.all().count() == 1;
        let settled = |topic: &Topic, index| {
            let assigned = topic.assigned(index);
            if cluster.is_own(&assigned) {
                let id = PartitionId { topic: topic.id, index };
                return self.node.log.partition(id).is_some() || self.failed.contains_key(&id);
            }
            // Our predecessor's are about to be given away, perhaps to us; so is everything that has no owner, if there is nobody else.
            let predecessors = assigned.owner == Some(own.node_id.0);
            !(predecessors || alone && brokers.owner(&assigned).is_none())
        };
        self.node.topics.all().iter().all(|topic| (0..topic.partitions).all(|index| settled(topic, index)))
    }
}

/// The waits of an operation on partitions. Those that failed together are tried again together, in one acquisition.
fn waits(node: &Node) -> Backoff {
    Backoff::new(BACKOFF_MIN, BACKOFF_MAX, node.cluster.identity().seed())
}

/// Makes partitions free for another owner that were handed over, if we are still asked for them.
async fn write_no_owner(
    metadata: &Metadata,
    own: Incarnation,
    topic: TopicId,
    indexes: &BTreeSet<i32>,
) -> Result<()> {
    loop {
        let Some(mut read) = metadata.load_assignment(topic.0).await? else { return Ok(()) };
        let mut changed = false;
        for index in indexes {
            let Some(assigned) = read.record.partitions.get_mut(index.unsigned_abs() as usize) else {
                continue;
            };
            let is_own = assigned.owner == Some(own.node_id.0) && assigned.incarnation == own.epoch;
            if is_own && assigned.release {
                *assigned = PartitionAssignment::released(assigned.leader_epoch);
                changed = true;
            }
        }
        // Whoever loses has let another one win, so that this ends.
        if !changed || metadata.swap_assignment(topic.0, read.mod_revision, &read.record).await?.is_some() {
            return Ok(());
        }
    }
}
