//! Slots that come and go: who answers, who writes, and what becomes of those who wait.

use kafscale_core::group::GroupState;
use kafscale_meta::records::{GroupRecord, OffsetKey, OffsetRecord};

use super::*;

#[tokio::test(start_paused = true)]
async fn groups_of_other_slots_are_not_answered_for() {
    let bench = Bench::new();
    let (a, b) = (bench.join(1).await, bench.join(2).await);
    bench.give(ALL_SLOTS, &b).await;
    bench.give(only("mine"), &a).await;
    a.until_serving(only("mine")).await;
    a.become_only_member("mine").await;
    until(async || a.coordinator_of("other") == Some(b.id)).await;
    assert_eq!(a.coordinator_of("mine"), Some(a.id));

    let member = MemberId::from("m");
    let not_here = GroupError::NotCoordinator;
    let commit = a.commit("other", outside(), vec![commit_of("orders", 0, 5, &bench.clock)]).await;
    assert_eq!(commit, Err(not_here));
    assert_eq!(a.offsets("other", CommittedOffsets::len), Err(not_here));
    assert_eq!(a.join("other", join_request(MemberId::unknown())).await.result, Err(not_here));
    assert_eq!(a.sync("other", sync_request(&member, Generation(1))).await, Err(not_here));
    assert_eq!(a.heartbeat("other", identity(&member, 1)).await, Err(not_here));
    assert_eq!(a.leave("other", vec![]).await, Err(not_here));
    assert_eq!(a.describe("other").await, Err(not_here));
    assert_eq!(a.delete("other").await, Err(not_here));
    assert_eq!(a.delete_offsets("other", vec![]).await, Err(not_here));
    assert_eq!(a.groups(), ["mine"], "each lists its own");
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_being_read_says_so() {
    let bench = Bench::new();
    let coordinator = bench.join(1).await;
    bench.give(0..1, &coordinator).await;
    coordinator.until_serving(0..1).await;
    bench.store.fail(true);
    bench.give(1..COORDINATOR_SLOTS, &coordinator).await;
    until(async || coordinator.phase(only("g").start) == Some(Phase::Loading)).await;
    assert_eq!(coordinator.offsets("g", CommittedOffsets::len), Err(GroupError::Loading));
    let join = coordinator.join("g", join_request(MemberId::unknown())).await;
    assert_eq!(join.result, Err(GroupError::Loading));
    assert_eq!(coordinator.list(), Err(GroupError::Loading));
    bench.store.fail(false);
    coordinator.until_serving(ALL_SLOTS).await;
    assert_eq!(coordinator.offsets("g", CommittedOffsets::len), Ok(0));
    coordinator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn slots_that_come_together_are_read_together() {
    let bench = Bench::new();
    let coordinator = bench.start().await;
    // One listing of groups and one of offsets for all fifty.
    assert_eq!(bench.store.listings("/kafscale/test/offsets/"), 1);
    coordinator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn members_go_on_at_the_new_coordinator_without_a_rebalance() {
    let bench = Bench::new();
    let a = bench.start().await;
    let b = bench.join(2).await;
    let (member, joined) = a.become_only_member("g").await;
    let commits = vec![commit_of("orders", 0, 5, &bench.clock)];
    a.commit("g", identity(&member, 1), commits).await.expect("committed");
    a.become_only_member("stays").await;

    bench.ask_for(only("g")).await;
    bench.until_released(only("g")).await;
    assert_eq!(a.heartbeat("g", identity(&member, 1)).await, Err(GroupError::NotCoordinator));
    bench.give(only("g"), &b).await;
    b.until_serving(only("g")).await;
    assert_eq!(b.heartbeat("g", identity(&member, joined.generation.0)).await, Ok(()));
    let view = b.describe("g").await.expect("described");
    assert_eq!((view.state, view.members[0].assignment.as_ref()), (GroupState::Stable, &b"everything"[..]));
    assert_eq!(b.committed("g", "orders", 0), Some(5));
    assert_eq!((a.groups(), b.groups()), (vec!["stays".to_owned()], vec!["g".to_owned()]));
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_rebalance_is_sent_to_the_new_coordinator() {
    let mut bench = Bench::new();
    bench.config.group.initial_rebalance_delay_ms = 3_000;
    let a = bench.start().await;
    let b = bench.join(2).await;
    let waiting = a.join("g", join_request(MemberId::unknown()));
    let moving = async {
        sleep(Duration::from_millis(1)).await;
        bench.ask_for(only("g")).await;
        bench.until_released(only("g")).await;
        bench.give(only("g"), &b).await;
        b.until_serving(only("g")).await;
    };
    let (reply, ()) = tokio::join!(waiting, moving);
    assert_eq!(reply.result, Err(GroupError::NotCoordinator));
    assert_eq!(a.shared.members_bytes.load(Ordering::Acquire), 0);
    let (_, joined) = b.become_only_member("g").await;
    assert_eq!(joined.generation, Generation(1));
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_let_go_only_when_what_was_accepted_is_written() {
    let bench = Bench::new();
    let a = bench.start().await;
    let permit = bench.store.gate.acquire().await.expect("open");
    let commit = a.commit("g", outside(), vec![commit_of("orders", 0, 5, &bench.clock)]);
    let moving = async {
        sleep(Duration::from_millis(1)).await;
        bench.ask_for(only("g")).await;
        a.until_ended(only("g")).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(bench.slot(only("g").start).await.owner, Some(1));
        drop(permit);
        bench.until_released(only("g")).await;
    };
    let (committed, ()) = tokio::join!(commit, moving);
    assert_eq!((committed, bench.stored("g", "orders", 0).await), (Ok(()), Some(5)));
    let released = bench.slot(only("g").start).await;
    assert_eq!((released.owner, released.release, released.leader_epoch), (None, false, 1));
    a.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_let_go_even_when_the_answer_is_lost() {
    let bench = Bench::new();
    let a = bench.start().await;
    bench.store.be_silent(true);
    bench.ask_for(0..10).await;
    bench.until_released(0..10).await;
    a.until_unloaded(0..10).await;
    bench.store.be_silent(false);
    bench.give(0..10, &a).await;
    a.until_serving(ALL_SLOTS).await;
    a.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_deposed_coordinator_that_does_not_know_it_writes_nothing() {
    let bench = Bench::new();
    let a = bench.start().await;
    let b = bench.join_over(2, bench.own_store()).await;
    let (member, _) = a.become_only_member("g").await;
    a.store.be_deaf(true);
    bench.give(ALL_SLOTS, &b).await;
    b.until_serving(ALL_SLOTS).await;
    let before = bench.metadata().load_group("g").await.expect("read");

    let commits = vec![commit_of("orders", 0, 5, &bench.clock)];
    let commit = a.commit("g", identity(&member, 1), commits).await;
    assert_eq!(commit, Err(GroupError::NotCoordinator));
    assert_eq!(bench.stored("g", "orders", 0).await, None);
    assert_eq!(a.phase(only("g").start), None, "it knows now");
    // Its members' sessions run out there, which is written nowhere.
    a.become_only_member_without_sync("h").await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(b.heartbeat("g", identity(&member, 1)).await, Err(GroupError::UnknownMember));
    assert_ne!(bench.metadata().load_group("g").await.expect("read"), before, "by its coordinator, that is");
    assert_eq!(bench.metadata().load_group("h").await.expect("read"), None);
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn one_slot_that_is_gone_does_not_hold_up_the_others() {
    let bench = Bench::new();
    let a = bench.start().await;
    let b = bench.join_over(2, bench.own_store()).await;
    a.store.be_deaf(true);
    bench.give(only("g0"), &b).await;
    let permit = bench.store.gate.acquire().await.expect("open");
    let commit =
        async |group: &str| a.commit(group, outside(), vec![commit_of("orders", 0, 5, &bench.clock)]).await;
    // All in one transaction, the guard of which fails.
    let together =
        async { tokio::join!(commit("x"), commit("g0"), commit("g1"), commit("g2"), commit("g0")) };
    let opening = async {
        sleep(Duration::from_secs(1)).await;
        drop(permit);
    };
    let (outcomes, ()) = tokio::join!(together, opening);
    let gone = Err(GroupError::NotCoordinator);
    assert_eq!(outcomes, (Ok(()), gone, Ok(()), Ok(()), gone));
    assert_eq!(bench.stored("g1", "orders", 0).await, Some(5));
    assert_eq!(bench.stored("g0", "orders", 0).await, None);
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_coordinator_answers_nothing_when_it_wakes_up() {
    let bench = Bench::new();
    let a = bench.start().await;
    let b = bench.join_over(2, bench.own_store()).await;
    let (member, _) = a.become_only_member("g").await;
    a.lease.send_replace(LeaseState::Until(Instant::now() + Duration::from_secs(3)));
    // It is stopped here: in the middle of a transaction, deaf, and does not hear of the end of its lease either.
    a.store.be_deaf(true);
    let permit = a.store.gate.acquire().await.expect("open");
    let commits = vec![commit_of("orders", 0, 5, &bench.clock)];
    let commit = a.commit("g", identity(&member, 1), commits);
    let meanwhile = async {
        sleep(Duration::from_secs(4)).await;
        bench.give(ALL_SLOTS, &b).await;
        b.until_serving(ALL_SLOTS).await;
        let commits = vec![commit_of("orders", 0, 7, &bench.clock)];
        b.commit("g", identity(&member, 1), commits).await.expect("committed");
        drop(permit);
    };
    let (woken, ()) = tokio::join!(commit, meanwhile);
    let not_here = GroupError::NotCoordinator;
    assert_eq!(woken, Err(not_here));
    assert_eq!(bench.stored("g", "orders", 0).await, Some(7));
    assert_eq!(a.heartbeat("g", identity(&member, 1)).await, Err(not_here));
    assert_eq!(a.offsets("g", CommittedOffsets::len), Err(not_here));
    assert_eq!(a.list(), Err(GroupError::CoordinatorNotAvailable));
    assert_eq!(b.heartbeat("g", identity(&member, 1)).await, Ok(()));
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn without_its_store_a_coordinator_goes_on_as_long_as_its_lease_holds() {
    let bench = Bench::new();
    let a = bench.start().await;
    let (member, _) = a.become_only_member("g").await;
    a.lease.send_replace(LeaseState::Until(Instant::now() + Duration::from_secs(5)));
    bench.store.fail(true);
    sleep(Duration::from_secs(4)).await;
    assert_eq!(a.heartbeat("g", identity(&member, 1)).await, Ok(()));
    let commits = vec![commit_of("orders", 0, 5, &bench.clock)];
    let commit = a.commit("g", identity(&member, 1), commits).await;
    assert_eq!(commit, Err(GroupError::CoordinatorNotAvailable));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(a.heartbeat("g", identity(&member, 1)).await, Err(GroupError::NotCoordinator));
    a.lease.send_replace(LeaseState::Lost);
    a.until_unloaded(ALL_SLOTS).await;
    a.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_comes_late_changes_nothing() {
    let bench = Bench::new();
    let a = bench.start().await;
    let commit =
        async |offset| a.commit("g", outside(), vec![commit_of("orders", 0, offset, &bench.clock)]).await;
    assert_eq!(commit(5).await, Ok(()));
    bench.store.be_late(true);
    assert_eq!(commit(6).await, Err(GroupError::CoordinatorNotAvailable));
    bench.store.be_late(false);
    assert_eq!(commit(7).await, Ok(()));
    assert_eq!(bench.store.deliver_late().await, 0, "neither the commit nor what was to fence it");
    assert_eq!((bench.stored("g", "orders", 0).await, a.committed("g", "orders", 0)), (Some(7), Some(7)));
    a.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_done_without_an_answer_is_found_out() {
    let bench = Bench::new();
    let a = bench.start().await;
    bench.store.be_silent(true);
    let commit = a.commit("g", outside(), vec![commit_of("orders", 0, 6, &bench.clock)]).await;
    assert_eq!(commit, Err(GroupError::CoordinatorNotAvailable));
    bench.store.be_silent(false);
    assert_eq!(bench.stored("g", "orders", 0).await, Some(6));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(a.committed("g", "orders", 0), Some(6), "what is there is shown, though it was not answered");
    a.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_record_keeps_only_its_own_slot_from_being_served() {
    let bench = Bench::new();
    let a = bench.join(1).await;
    let key = bench.metadata().keys().group("broken");
    bench.inner.put(&key, "nonsense".into()).await.expect("written");
    bench.give(ALL_SLOTS, &a).await;
    let broken = only("broken").start;
    a.until_serving(0..broken).await;
    a.until_serving(broken + 1..COORDINATOR_SLOTS).await;
    a.ready().await;
    assert_eq!(a.offsets("broken", CommittedOffsets::len), Err(GroupError::Loading));
    bench.inner.delete(&key).await.expect("deleted");
    a.until_serving(ALL_SLOTS).await;
    a.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn offsets_of_a_topic_that_is_made_again_stay() {
    let bench = Bench::new();
    let coordinator = bench.start().await;
    let new_id = Uuid::from_u128(8);
    let commit = |topic_id: Uuid| {
        let mut commit = commit_of("orders", 0, 5, &bench.clock);
        commit.committed.topic_id = TopicId(topic_id);
        coordinator.commit("g", outside(), vec![commit])
    };
    commit(TOPIC).await.expect("committed");
    // The commit for the new topic is on its way when the old one is found to be gone.
    let permit = bench.store.gate.acquire().await.expect("open");
    let opening = async {
        sleep(Duration::from_millis(10)).await;
        drop(permit);
    };
    let (committed, (), ()) =
        tokio::join!(commit(new_id), coordinator.topic_deleted("orders", TopicId(TOPIC)), opening);
    committed.expect("committed");
    assert_eq!(coordinator.committed("g", "orders", 0), Some(5));
    coordinator.shutdown().await;
}

#[tokio::test]
async fn ten_thousand_groups_are_loaded_soon() {
    let bench = Bench::new();
    bench.topics(&[("orders", TOPIC)]).await;
    let metadata = bench.metadata();
    let record = GroupRecord {
        protocol_type: "consumer".into(),
        protocol_name: Some("range".into()),
        generation: 1,
        leader: None,
        state_timestamp_ms: 0,
        members: Vec::new(),
    };
    let offset = OffsetRecord {
        offset: 5,
        leader_epoch: -1,
        metadata: String::new(),
        commit_time_ms: bench.clock.now_ms(),
        expires_at_ms: None,
        topic_id: TOPIC,
    };
    let mut offsets = Vec::new();
    for i in 0..10_000 {
        let group = format!("group-{i}");
        metadata.save_group(&group, &record).await.expect("written");
        let key = |partition| OffsetKey { group: group.clone(), topic: "orders".into(), partition };
        offsets.extend((0..10).map(|partition| (key(partition), offset.clone())));
    }
    metadata.commit_offsets(offsets).await.expect("written");
    let coordinator = bench.join(1).await;
    let from = std::time::Instant::now();
    bench.give(ALL_SLOTS, &coordinator).await;
    coordinator.until_serving(ALL_SLOTS).await;
    let took = from.elapsed();
    println!("10,000 groups with 100,000 offsets were loaded in {took:?}");
    assert_eq!(coordinator.groups().len(), 10_000);
    assert_eq!(coordinator.committed("group-77", "orders", 9), Some(5));
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_groups_commit_each_second() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut bench = Bench::new();
    bench.on(Arc::new(EmbeddedStore::file(dir.path()).await.expect("opened")));
    let coordinator = Arc::new(bench.start().await);
    let (rounds, groups) = (10, 1_000);
    let from = std::time::Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for group in 0..groups {
        let (coordinator, clock) = (Arc::clone(&coordinator), Arc::clone(&bench.clock));
        clients.spawn(async move {
            for round in 0..rounds {
                let commits = (0..3).map(|p| commit_of("orders", p, round, &clock)).collect();
                coordinator.commit(&format!("group-{group}"), outside(), commits).await.expect("committed");
            }
        });
    }
    clients.join_all().await;
    let took = from.elapsed();
    let (commits, transactions) = (rounds * groups, bench.store.transactions());
    println!("{commits} commits of 3 partitions in {transactions} transactions took {took:?}");
    assert!(i64::try_from(transactions).expect("few") < commits / 10, "{transactions} transactions");
    coordinator.shutdown().await;
}

impl Running {
    async fn until_ended(&self, slots: Range<i32>) {
        until(async || slots.clone().all(|slot| self.phase(slot) == Some(Phase::Ended))).await;
    }

    /// Tries to join a group that may not be here any more.
    async fn become_only_member_without_sync(&self, group: &str) {
        let _ = self.join(group, join_request(MemberId::unknown())).await;
    }
}
