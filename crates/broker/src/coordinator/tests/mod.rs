//! The coordinator on an embedded store, on a clock that stands still until everyone waits.

mod groups;
mod offsets;
mod store;

use kafscale_core::group::{Generation, Joined, MemberId, Protocol};
use kafscale_core::ids::Offset;
use kafscale_meta::MetaStore;
use tokio::time::Instant;
use uuid::Uuid;

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

/// A coordinator that can be stopped and started on the same store.
struct Bench {
    store: Arc<FaultyStore>,
    clock: Arc<TestClock>,
    config: CoordinatorConfig,
}

impl Bench {
    fn new() -> Bench {
        let group = GroupConfig { initial_rebalance_delay_ms: 0, ..GroupConfig::default() };
        Bench {
            store: Arc::new(FaultyStore::new()),
            clock: Arc::new(TestClock(Instant::now())),
            config: CoordinatorConfig { group, ..CoordinatorConfig::default() },
        }
    }

    /// Starts a coordinator on a cluster that has the topic `orders`.
    async fn start(&self) -> Coordinator {
        self.start_with(|topic| (topic == "orders").then_some(TopicId(TOPIC))).await
    }

    async fn start_with(&self, topic_id: impl Fn(&str) -> Option<TopicId>) -> Coordinator {
        let store = Arc::clone(&self.store) as Arc<dyn MetaStore>;
        let metadata = Metadata::new(store, "test").expect("a name");
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        Coordinator::start(self.config.clone(), metadata, clock, topic_id).await.expect("started")
    }
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
        self.offsets(group, |offsets| offsets.get(topic, partition).map(|c| c.offset.0))
    }

    fn groups(&self) -> Vec<String> {
        self.list().into_iter().map(|listed| listed.group.to_string()).collect()
    }

    /// Tasks of groups, the sweep aside.
    fn active_groups(&self) -> usize {
        self.shared.tasks.len() - 1
    }
}
