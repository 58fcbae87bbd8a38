//! Coordinators on one embedded store, on a clock that stands still until everyone waits. The tests are the controller.

mod groups;
mod moves;
mod offsets;
mod slots;
mod store;

use std::collections::BTreeMap;
use std::ops::{Deref, Range};

use kafscale_core::group::{Generation, Joined, MemberId, Protocol, slot_of};
use kafscale_core::ids::{NodeId, Offset};
use kafscale_meta::records::{
    COORDINATOR_SLOTS, CoordinatorRecord, PartitionAssignment, Record, TopicRecord,
};
use kafscale_meta::{Compare, EmbeddedStore, MetaStore, MetaStoreExt, Op, Txn};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::tenure::Phase;
use super::*;
use store::FaultyStore;

const TOPIC: Uuid = Uuid::from_u128(7);

/// The wall clock of a test goes with its timers.
#[derive(Debug)]
struct TestClock(Instant);

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        1_000_000 + i64::try_from(self.0.elapsed().as_millis()).expect("a short test")
    }
}

/// A cluster whose coordinators share a store.
struct Bench {
    inner: Arc<EmbeddedStore>,
    /// The way to the store of the coordinators that are started next.
    store: Arc<FaultyStore>,
    clock: Arc<TestClock>,
    config: CoordinatorConfig,
}

/// A coordinator, with what makes it go wrong.
struct Running {
    coordinator: Coordinator,
    id: Incarnation,
    store: Arc<FaultyStore>,
    lease: watch::Sender<LeaseState>,
}

impl Deref for Running {
    type Target = Coordinator;

    fn deref(&self) -> &Coordinator {
        &self.coordinator
    }
}

const ALL_SLOTS: Range<i32> = 0..COORDINATOR_SLOTS;

impl Bench {
    fn new() -> Bench {
        let group = GroupConfig { initial_rebalance_delay_ms: 0, ..GroupConfig::default() };
        let inner = Arc::new(EmbeddedStore::memory());
        Bench {
            store: Arc::new(FaultyStore::new(Arc::clone(&inner))),
            inner,
            clock: Arc::new(TestClock(Instant::now())),
            config: CoordinatorConfig { group, ..CoordinatorConfig::default() },
        }
    }

    /// Uses another store from now on.
    fn on(&mut self, inner: Arc<EmbeddedStore>) {
        self.store = Arc::new(FaultyStore::new(Arc::clone(&inner)));
        self.inner = inner;
    }

    /// The store as it is, without faults.
    fn metadata(&self) -> Metadata {
        Metadata::new(Arc::clone(&self.inner) as Arc<dyn MetaStore>, "test").expect("a name")
    }

    /// Makes these the only topics.
    async fn topics(&self, topics: &[(&str, Uuid)]) {
        let metadata = self.metadata();
        let mut txn = Txn::new();
        for (name, _) in metadata.list_topics().await.expect("listed").items {
            if topics.iter().all(|(kept, _)| *kept != name) {
                txn = txn.and_then(Op::delete(metadata.keys().topic(&name)));
            }
        }
        for (name, topic_id) in topics {
            let topic = TopicRecord {
                topic_id: *topic_id,
                partitions: 1_000,
                configs: BTreeMap::new(),
                created_ms: 0,
                internal: false,
            };
            txn = txn.and_then(Op::put(metadata.keys().topic(name), topic.encode()));
        }
        assert!(self.inner.txn(txn).await.expect("written").succeeded);
    }

    /// Starts a coordinator of all slots, on a cluster that has the topic `orders`.
    async fn start(&self) -> Running {
        self.topics(&[("orders", TOPIC)]).await;
        self.start_again().await
    }

    /// Starts a coordinator of all slots.
    async fn start_again(&self) -> Running {
        let running = self.join(1).await;
        self.give(ALL_SLOTS, &running).await;
        running.until_serving(ALL_SLOTS).await;
        running
    }

    /// Starts a coordinator that coordinates nothing yet.
    async fn join(&self, node_id: i32) -> Running {
        self.join_over(node_id, Arc::clone(&self.store)).await
    }

    async fn join_over(&self, node_id: i32, store: Arc<FaultyStore>) -> Running {
        let metadata = Metadata::new(Arc::clone(&store) as Arc<dyn MetaStore>, "test").expect("a name");
        let epoch = self.inner.put(&metadata.keys().incarnation(node_id), bytes::Bytes::new()).await;
        let id = Incarnation { node_id: NodeId(node_id), epoch: epoch.expect("written").0 };
        let lease = watch::Sender::new(LeaseState::Until(Instant::now() + Duration::from_secs(1 << 30)));
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let coordinator = Coordinator::start(self.config.clone(), metadata, clock, id, lease.subscribe());
        Running { coordinator, id, store, lease }
    }

    /// A way of its own to the store.
    fn own_store(&self) -> Arc<FaultyStore> {
        Arc::new(FaultyStore::new(Arc::clone(&self.inner)))
    }

    async fn slot(&self, slot: i32) -> PartitionAssignment {
        let read = self.metadata().load_coordinator(slot).await.expect("read");
        read.map_or_else(PartitionAssignment::default, |read| read.record.slot)
    }

    /// Gives slots to a coordinator, whoever has them.
    async fn give(&self, slots: Range<i32>, to: &Running) {
        self.change(slots, |slot| {
            PartitionAssignment::new(to.id.node_id.0, to.id.epoch, slot.leader_epoch + 1)
        })
        .await;
    }

    /// Asks the owners of slots to let them go.
    async fn ask_for(&self, slots: Range<i32>) {
        self.change(slots, |slot| PartitionAssignment { release: true, ..slot }).await;
    }

    async fn change(&self, slots: Range<i32>, to: impl Fn(PartitionAssignment) -> PartitionAssignment) {
        let metadata = self.metadata();
        let mut txn = Txn::new();
        for slot in slots {
            let key = metadata.keys().coordinator(slot);
            let read = metadata.load_coordinator(slot).await.expect("read");
            let guard = match &read {
                Some(read) => Compare::mod_revision(&key, read.mod_revision),
                None => Compare::absent(&key),
            };
            let record = to(read.map(|read| read.record.slot).unwrap_or_default());
            txn = txn.when(guard).and_then(Op::put(key, CoordinatorRecord { slot: record }.encode()));
        }
        assert!(self.inner.txn(txn).await.expect("written").succeeded, "nobody else changes them now");
    }

    /// Waits until the owner has let slots go.
    async fn until_released(&self, slots: Range<i32>) {
        for slot in slots {
            until(async || self.slot(slot).await.owner.is_none()).await;
        }
    }

    /// The committed offset in the store.
    async fn stored(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        let all = self.metadata().load_offsets(group).await.expect("read").items;
        let found = all.into_iter().find(|(key, _)| key.topic == topic && key.partition == partition);
        found.map(|(_, read)| read.record.offset)
    }

    /// The keys of groups and offsets.
    async fn group_keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        for prefix in ["/kafscale/test/groups/", "/kafscale/test/offsets/"] {
            keys.extend(self.inner.range_all(prefix).await.expect("listed").kvs.into_iter().map(|kv| kv.key));
        }
        keys
    }
}

/// Looks again and again, while time goes by, until something holds.
async fn until(mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..60_000 {
        if holds().await {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("it never comes to that");
}

impl Running {
    async fn until_serving(&self, slots: Range<i32>) {
        until(async || slots.clone().all(|slot| self.phase(slot) == Some(Phase::Serving))).await;
    }

    async fn until_unloaded(&self, slots: Range<i32>) {
        until(async || slots.clone().all(|slot| self.phase(slot).is_none())).await;
    }

    fn phase(&self, slot: i32) -> Option<Phase> {
        self.shared.slots.tenures().iter().find(|tenure| tenure.slot == slot).map(|tenure| tenure.phase())
    }

    fn cell(&self, group: &str) -> Arc<Cell> {
        let tenure = self.shared.slots.serving(group).expect("served");
        let cell = tenure.cells.lock().get(group).cloned();
        cell.expect("a cell")
    }
}

/// The slot of a group alone.
fn only(group: &str) -> Range<i32> {
    let slot = slot_of(group, COORDINATOR_SLOTS);
    slot..slot + 1
}

fn join_request(member_id: MemberId) -> JoinRequest {
    JoinRequest {
        member_id,
        instance_id: None,
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        uuid: Uuid::new_v4(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![Protocol { name: "range".into(), metadata: bytes::Bytes::from_static(ORDERS) }],
        requires_known_member_id: false,
        supports_skip_assignment: true,
        reason: None,
    }
}

/// A subscription to `orders`.
const ORDERS: &[u8] = b"\0\0\0\0\0\x01\0\x06orders\xff\xff\xff\xff";

fn sync_request(member_id: &MemberId, generation: Generation) -> SyncRequest {
    SyncRequest {
        member_id: member_id.clone(),
        instance_id: None,
        generation,
        protocol_type: None,
        protocol_name: None,
        assignments: vec![(member_id.clone(), "everything".into())],
    }
}

fn identity(member_id: &MemberId, generation: i32) -> MemberIdentity {
    MemberIdentity { member_id: member_id.clone(), instance_id: None, generation: Generation(generation) }
}

fn outside() -> MemberIdentity {
    identity(&MemberId::unknown(), -1)
}

fn commit_of(topic: &str, partition: i32, offset: i64, clock: &TestClock) -> PartitionCommit {
    PartitionCommit {
        topic: topic.into(),
        partition,
        committed: CommittedOffset {
            offset: Offset(offset),
            topic_id: TopicId(TOPIC),
            leader_epoch: None,
            metadata: "note".into(),
            commit_time_ms: clock.now_ms(),
            expires_at_ms: None,
        },
    }
}

impl Coordinator {
    /// Joins and syncs as the only member of the group.
    async fn become_only_member(&self, group: &str) -> (MemberId, Joined) {
        let reply = self.join(group, join_request(MemberId::unknown())).await;
        let joined = reply.result.expect("joined");
        let sync = sync_request(&reply.member_id, joined.generation);
        let synced = self.sync(group, sync).await.expect("synced");
        assert_eq!(synced.assignment, "everything");
        (reply.member_id, joined)
    }

    fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        let offset = self.offsets(group, |offsets| offsets.get(topic, partition).map(|c| c.offset.0));
        offset.expect("served here")
    }

    fn groups(&self) -> Vec<String> {
        self.list().expect("listed").into_iter().map(|listed| listed.group.to_string()).collect()
    }

    /// Tasks of groups, the sweep and the follower aside.
    fn active_groups(&self) -> usize {
        self.shared.tasks.len() - 2
    }
}
