//! The controller over the embedded store: what it does, and in which order.

mod history;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32};

use kafscale_core::ids::NodeId;
use kafscale_meta::records::{
    AssignmentRecord, BrokerRecord, ChainRecord, HistoryKind, PartitionAssignment, TopicRecord,
};
use kafscale_meta::{EmbeddedStore, NewTopic};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::*;

const COLLECT_INTERVAL: Duration = Duration::from_secs(30);

/// Chains that are sealed in the metadata alone.
#[derive(Debug)]
struct FakeChains {
    metadata: Metadata,
    /// Incarnations that were sealed, each with how many partitions it owned at that time.
    sealed: Mutex<Vec<(Incarnation, usize)>>,
    /// So many attempts fail first.
    failures: AtomicU32,
    /// A permit lets one seal through.
    gate: Semaphore,
    /// Whether the metadata can be copied.
    copies: AtomicBool,
}

#[async_trait]
impl Chains for FakeChains {
    async fn seal(&self, dead: Incarnation) -> Result<(), String> {
        self.gate.acquire().await.map_err(|e| e.to_string())?.forget();
        let fails =
            self.failures.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if fails.is_ok() {
            self.gate.add_permits(1);
            return Err("503 SlowDown".to_owned());
        }
        let owned = owned_by(&assignments(&self.metadata).await, dead);
        self.sealed.lock().push((dead, owned));
        let record = ChainRecord { sealed_at: Some(7), ..ChainRecord::default() };
        let key = self.metadata.keys().chain(dead.node_id.0, dead.epoch);
        self.metadata.save(&key, &record).await.map_err(|e| e.to_string())?;
        Ok(())
    }

    async fn collect(&self) -> Result<(), String> {
        Ok(())
    }

    async fn snapshot(&self) -> Result<bool, String> {
        match self.copies.load(Ordering::Relaxed) {
            true => Ok(true),
            false => Err("503 SlowDown".to_owned()),
        }
    }
}

/// It is the time that it is set to.
#[derive(Debug)]
struct AClock(AtomicI64);

impl Clock for AClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Clone, Copy)]
struct Member {
    id: Incarnation,
    lease: LeaseId,
}

struct World {
    metadata: Metadata,
    chains: Arc<FakeChains>,
    clock: Arc<AClock>,
    cancel: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl World {
    fn new() -> Self {
        let metadata = Metadata::new(Arc::new(EmbeddedStore::memory()), "test").unwrap();
        let chains = Arc::new(FakeChains {
            metadata: metadata.clone(),
            sealed: Mutex::default(),
            failures: AtomicU32::new(0),
            gate: Semaphore::new(1000),
            copies: AtomicBool::new(true),
        });
        let clock = Arc::new(AClock(AtomicI64::new(1_000_000)));
        Self { metadata, chains, clock, cancel: CancellationToken::new() }
    }

    async fn join(&self, node_id: i32) -> Member {
        self.start(node_id, "1", 1).await
    }

    async fn start(&self, node_id: i32, version: &str, started_ms: i64) -> Member {
        let lease = self.metadata.store().lease_grant(Duration::from_secs(24 * 3600)).await.unwrap().id;
        let record = BrokerRecord {
            host: "localhost".to_owned(),
            port: 9092,
            rack: None,
            version: version.to_owned(),
            listeners: Vec::new(),
            metrics_address: None,
            epoch: 0,
            started_ms,
        };
        let registered = self.metadata.register_broker(node_id, lease, record, Some(ChainRecord::default()));
        let epoch = registered.await.unwrap().expect("the node id is free");
        Member { id: Incarnation { node_id: NodeId(node_id), epoch }, lease }
    }

    async fn die(&self, member: Member) {
        self.metadata.store().lease_revoke(member.lease).await.unwrap();
    }

    /// Topics whose partitions belong to the members in turn, in leader epoch 3.
    async fn topics(&self, topics: usize, partitions: usize, owners: &[Member]) {
        let assigned = |n: usize| {
            let owner = owners[n % owners.len()].id;
            PartitionAssignment::new(owner.node_id.0, owner.epoch, 3)
        };
        let new: Vec<NewTopic> = (0..topics)
            .map(|t| NewTopic {
                name: format!("t{t}"),
                topic: TopicRecord {
                    topic_id: Uuid::new_v4(),
                    partitions: i32::try_from(partitions).unwrap(),
                    configs: Default::default(),
                    created_ms: 1,
                    internal: false,
                },
                assignment: AssignmentRecord {
                    partitions: (0..partitions).map(|p| assigned(t * partitions + p)).collect(),
                },
            })
            .collect();
        assert!(self.metadata.create_topics(&new).await.unwrap().iter().all(Option::is_some));
    }

    fn controller(&self, member: Member, chains: &Arc<FakeChains>) -> Arc<ControllerStats> {
        let chains = Arc::clone(chains) as Arc<dyn Chains>;
        let Member { id, lease } = member;
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let controller = Controller::new(self.metadata.clone(), chains, id, lease, COLLECT_INTERVAL, clock);
        let stats = controller.stats();
        tokio::spawn(controller.run(self.cancel.clone()));
        stats
    }

    /// The controllers of this one have ended.
    fn without_controller(&self) -> World {
        self.cancel.cancel();
        let (metadata, chains, clock) =
            (self.metadata.clone(), Arc::clone(&self.chains), Arc::clone(&self.clock));
        World { metadata, chains, clock, cancel: CancellationToken::new() }
    }

    /// What the history tells: when, what, name, how many, detail.
    async fn told(&self) -> Vec<(i64, HistoryKind, String, u64, String)> {
        let history = self.metadata.load_history().await.unwrap().unwrap().record.entries;
        history.into_iter().map(|e| (e.at_ms, e.kind, e.name, e.count, e.detail)).collect()
    }

    /// Waits until the assignments are as wanted, and returns them. Owners let go what they are asked for.
    async fn until(&self, wanted: impl Fn(&[PartitionAssignment]) -> bool) -> Vec<PartitionAssignment> {
        let prefix = self.metadata.keys().assignments_prefix();
        let mut watch = self.metadata.store().watch(&prefix, Revision(0)).await.unwrap();
        loop {
            let all = assignments(&self.metadata).await;
            if wanted(&all) {
                return all;
            }
            self.release().await;
            let changed = tokio::time::timeout(Duration::from_secs(3600), watch.next()).await;
            changed.unwrap_or_else(|_| panic!("it never comes to that: {all:?}")).unwrap();
        }
    }

    async fn release(&self) {
        for (topic_id, mut read) in self.metadata.list_assignments().await.unwrap().items {
            let asked: Vec<_> = read.record.partitions.iter_mut().filter(|p| p.release).collect();
            assert!(asked.len() <= 100, "{} at once", asked.len());
            if !asked.is_empty() {
                asked.into_iter().for_each(|p| *p = PartitionAssignment::released(p.leader_epoch));
                let swapped = self.metadata.swap_assignment(topic_id, read.mod_revision, &read.record).await;
                swapped.unwrap();
            }
        }
    }
}

async fn assignments(metadata: &Metadata) -> Vec<PartitionAssignment> {
    let listed = metadata.list_assignments().await.unwrap().items;
    listed.into_iter().flat_map(|(_, read)| read.record.partitions).collect()
}

fn owned_by(all: &[PartitionAssignment], owner: Incarnation) -> usize {
    let owned = |a: &&PartitionAssignment| a.owner == Some(owner.node_id.0) && a.incarnation == owner.epoch;
    all.iter().filter(owned).count()
}

/// Each has its share, to within one.
fn even(all: &[PartitionAssignment], members: &[Member]) -> bool {
    let counts: Vec<usize> = members.iter().map(|member| owned_by(all, member.id)).collect();
    let (most, least) = (counts.iter().max().unwrap(), counts.iter().min().unwrap());
    counts.iter().sum::<usize>() == all.len() && most - least <= 1
}

#[tokio::test(start_paused = true)]
async fn a_dead_brokers_chain_is_sealed_before_its_partitions_are_given_away() {
    let world = World::new();
    let (a, b, c) = (world.join(1).await, world.join(2).await, world.join(3).await);
    world.topics(5, 6, &[a, b, c]).await;
    let stats = world.controller(a, &world.chains);
    world.until(|all| even(all, &[a, b, c])).await;
    world.die(c).await;
    let all = world.until(|all| even(all, &[a, b])).await;
    assert_eq!(*world.chains.sealed.lock(), [(c.id, 10)], "it still owned everything when it was sealed");
    assert_eq!(all.iter().filter(|a| a.leader_epoch == 4).count(), 10);
    assert!(all.iter().all(|a| (3..=4).contains(&a.leader_epoch) && !a.release));
    assert_eq!((stats.seals.load(Ordering::Relaxed), stats.releases.load(Ordering::Relaxed)), (1, 0));
    let coordinators = world.metadata.list_coordinators().await.unwrap().items;
    let of = |m: Member| coordinators.iter().filter(|(_, r)| r.record.slot.incarnation == m.id.epoch).count();
    assert_eq!((of(a), of(b), of(c)), (25, 25, 0));
}

#[tokio::test(start_paused = true)]
async fn while_a_chain_cannot_be_sealed_its_partitions_stay() {
    let world = World::new();
    let (a, b) = (world.join(1).await, world.join(2).await);
    world.topics(1, 10, &[a, b]).await;
    world.chains.failures.store(5, Ordering::Relaxed);
    world.controller(a, &world.chains);
    world.die(b).await;
    world.until(|all| even(all, &[a])).await;
    assert_eq!(*world.chains.sealed.lock(), [(b.id, 5)]);
}

#[tokio::test(start_paused = true)]
async fn a_former_controller_that_wakes_up_changes_nothing() {
    let world = World::new();
    let (a, b, c) = (world.join(1).await, world.join(2).await, world.join(3).await);
    world.topics(1, 30, &[a, b, c]).await;
    let slow = Arc::new(FakeChains {
        metadata: world.metadata.clone(),
        sealed: Mutex::default(),
        failures: AtomicU32::new(0),
        gate: Semaphore::new(0),
        copies: AtomicBool::new(true),
    });
    let former = world.controller(a, &slow);
    world.die(c).await;
    // The first one hangs in the seal, loses its lease, and somebody else does the work.
    let successor = world.controller(b, &world.chains);
    world.die(a).await;
    let all = world.until(|all| even(all, &[b])).await;
    slow.gate.add_permits(10);
    tokio::time::timeout(Duration::from_secs(60), async {
        let mut watch = world.metadata.store().watch("/kafscale/", Revision(0)).await.unwrap();
        while watch.next().await.is_ok() {}
    })
    .await
    .unwrap_err();
    assert_eq!(assignments(&world.metadata).await, all);
    assert!(!former.active.load(Ordering::Relaxed) && successor.active.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_comes_and_goes_ends_up_with_its_share() {
    let world = World::new();
    let (a, mut b) = (world.join(1).await, world.join(2).await);
    world.topics(10, 3, &[a, b]).await;
    world.controller(a, &world.chains);
    for _ in 0..5 {
        world.die(b).await;
        b = world.join(2).await;
    }
    let all = world.until(|all| even(all, &[a, b])).await;
    assert!(all.iter().all(|a| !a.release));
    let mut sealed: Vec<_> = world.chains.sealed.lock().iter().map(|(dead, _)| *dead).collect();
    sealed.sort_unstable();
    sealed.dedup();
    assert_eq!(sealed.len(), 5, "each incarnation that died was sealed: {sealed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_joins_gets_its_share_a_hundred_at_a_time() {
    let world = World::new();
    let (a, b) = (world.join(1).await, world.join(2).await);
    world.topics(1, 900, &[a, b]).await;
    let stats = world.controller(a, &world.chains);
    let c = world.join(3).await;
    let all = world.until(|all| even(all, &[a, b, c])).await;
    assert_eq!(owned_by(&all, c.id), 300);
    assert_eq!(all.iter().filter(|a| a.leader_epoch == 4).count(), 300, "no partition moved for nothing");
    assert!(world.chains.sealed.lock().is_empty());
    assert_eq!(stats.elections.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_starts_again_is_spread_over_all_of_it_at_once() {
    let world = World::new();
    let (a, b, c) = (world.join(1).await, world.join(2).await, world.join(3).await);
    world.topics(10, 9, &[a, b, c]).await;
    for member in [a, b, c] {
        world.die(member).await;
    }
    let first = world.join(1).await;
    let stats = world.controller(first, &world.chains);
    let mut members = vec![first];
    for node_id in [2, 3] {
        sleep(Duration::from_millis(700)).await;
        members.push(world.join(node_id).await);
    }
    world.until(|all| even(all, &members)).await;
    assert_eq!(stats.releases.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn who_has_sealed_its_own_chain_hands_over_at_once() {
    let world = World::new();
    let (a, b) = (world.join(1).await, world.join(2).await);
    world.topics(1, 10, &[a, b]).await;
    world.controller(a, &world.chains);
    let sealed = ChainRecord { sealed_at: Some(3), ..ChainRecord::default() };
    world.metadata.save(&world.metadata.keys().chain(2, b.id.epoch), &sealed).await.unwrap();
    world.until(|all| even(all, &[a])).await;
    assert!(world.chains.sealed.lock().is_empty());
    let coordinators = world.metadata.list_coordinators().await.unwrap().items;
    let to_a = |r: &kafscale_meta::Versioned<_>| {
        let record: &kafscale_meta::records::CoordinatorRecord = &r.record;
        record.slot.owner == Some(1)
    };
    assert!(coordinators.iter().all(|(_, read)| to_a(read)), "who is about to go gets nothing");
}

#[tokio::test(start_paused = true)]
async fn an_incarnation_whose_chain_was_collected_is_gone() {
    let world = World::new();
    let a = world.join(1).await;
    let early = Member { id: Incarnation { node_id: NodeId(9), epoch: 0 }, ..a };
    world.topics(1, 10, &[early]).await;
    world.controller(a, &world.chains);
    world.until(|all| even(all, &[a])).await;
    assert!(world.chains.sealed.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_age_of_the_snapshot_grows_while_copying_fails() {
    let world = World::new();
    let a = world.join(1).await;
    let stats = world.controller(a, &world.chains);
    let age = || stats.snapshot_at.lock().map(|at: Instant| at.elapsed());
    sleep(SNAPSHOT_INTERVAL * 3).await;
    assert!(age().unwrap() <= SNAPSHOT_INTERVAL);
    world.chains.copies.store(false, Ordering::Relaxed);
    sleep(SNAPSHOT_INTERVAL * 3).await;
    assert!(age().unwrap() > SNAPSHOT_INTERVAL * 2);
    world.chains.copies.store(true, Ordering::Relaxed);
    sleep(SNAPSHOT_INTERVAL * 2).await;
    assert!(age().unwrap() <= SNAPSHOT_INTERVAL);
}

#[tokio::test(start_paused = true)]
async fn a_term_does_not_begin_with_a_snapshot() {
    let world = World::new();
    let a = world.join(1).await;
    let stats = world.controller(a, &world.chains);
    sleep(SNAPSHOT_SOON / 2).await;
    assert!(stats.snapshot_at.lock().is_none());
    sleep(SNAPSHOT_SOON).await;
    assert!(stats.snapshot_at.lock().is_some());
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_partitions_are_reassigned() {
    for (topics, partitions) in [(100, 100), (10_000, 1)] {
        let world = World::new();
        let (a, b, c) = (world.join(1).await, world.join(2).await, world.join(3).await);
        world.topics(topics, partitions, &[a, b, c]).await;
        world.controller(a, &world.chains);
        world.until(|all| even(all, &[a, b, c])).await;
        let from = std::time::Instant::now();
        world.die(c).await;
        let prefix = world.metadata.keys().assignments_prefix();
        let mut watch = world.metadata.store().watch(&prefix, Revision(0)).await.unwrap();
        let mut left = if topics == 100 { 100 } else { owned_by(&assignments(&world.metadata).await, c.id) };
        while left > 0 {
            left -= watch.next().await.unwrap().events.len().min(left);
        }
        let took = from.elapsed();
        assert!(even(&assignments(&world.metadata).await, &[a, b]));
        // Well under a second in a release; the figure is for the reader, since machines differ.
        println!("{topics} topics of {partitions} partitions each: reassigned in {took:?}");
    }
}
