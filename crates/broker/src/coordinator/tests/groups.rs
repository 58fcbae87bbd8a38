//! Members, restarts, and groups that come and go.

use kafscale_core::group::GroupState;

use super::*;

#[tokio::test(start_paused = true)]
async fn members_go_on_over_a_restart_of_the_coordinator() {
    let bench = Bench::new();
    let coordinator = bench.start().await;
    let (member, joined) = coordinator.become_only_member("g").await;
    coordinator.shutdown().await;

    let coordinator = bench.start().await;
    let generation = joined.generation.0;
    assert_eq!(coordinator.heartbeat("g", identity(&member, generation)).await, Ok(()));
    let view = coordinator.describe("g").await.expect("described");
    assert_eq!((view.state, view.members[0].assignment.as_ref()), (GroupState::Stable, &b"everything"[..]));
    coordinator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn sessions_run_out_without_any_request_and_after_a_restart_too() {
    let bench = Bench::new();
    for restart in [false, true] {
        let mut coordinator = bench.start().await;
        coordinator.become_only_member("g").await;
        if restart {
            coordinator.shutdown().await;
            coordinator = bench.start().await;
        }
        sleep(Duration::from_millis(9_990)).await;
        assert_eq!(coordinator.stats()[0].members, 1);
        sleep(Duration::from_millis(20)).await;
        assert_eq!(coordinator.stats()[0].members, 0);
        assert_eq!(coordinator.list().expect("listed")[0].state, GroupState::Empty);
        assert_eq!(coordinator.active_groups(), 0, "an empty group needs no task");
        coordinator.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_members_rebalance() {
    let coordinator = Bench::new().start().await;
    let (first, _) = coordinator.become_only_member("g").await;
    let second = coordinator.join("g", join_request(MemberId::unknown()));
    let rejoin = async {
        let mut result = Ok(());
        while result.is_ok() {
            sleep(Duration::from_secs(3)).await;
            result = coordinator.heartbeat("g", identity(&first, 1)).await;
        }
        assert_eq!(result, Err(GroupError::RebalanceInProgress));
        coordinator.join("g", join_request(first.clone())).await
    };
    let (second, first_reply) = tokio::join!(second, rejoin);
    let joined = first_reply.result.expect("joined");
    assert_eq!((joined.members.len(), joined.generation), (2, Generation(2)));
    assert_eq!(second.result.expect("joined").leader, first);
    coordinator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_assignment_that_cannot_be_written_is_not_handed_out() {
    let bench = Bench::new();
    let coordinator = bench.start().await;
    let reply = coordinator.join("g", join_request(MemberId::unknown())).await;
    bench.store.fail(true);
    let sync = sync_request(&reply.member_id, Generation(1));
    assert_eq!(coordinator.sync("g", sync).await, Err(GroupError::CoordinatorNotAvailable));
    bench.store.fail(false);
    let again = coordinator.join("g", join_request(reply.member_id.clone())).await;
    let sync = sync_request(&reply.member_id, again.result.expect("joined").generation);
    assert!(coordinator.sync("g", sync).await.is_ok());
    coordinator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn stopping_sends_waiting_members_away() {
    let coordinator = Bench::new().start().await;
    coordinator.become_only_member("g").await;
    let waiting = coordinator.join("g", join_request(MemberId::unknown()));
    let stopping = async {
        sleep(Duration::from_millis(1)).await;
        coordinator.shutdown().await;
    };
    let (reply, ()) = tokio::join!(waiting, stopping);
    assert_eq!(reply.result, Err(GroupError::NotCoordinator));
    let late = coordinator.join("g", join_request(MemberId::unknown())).await;
    assert_eq!(late.result, Err(GroupError::NotCoordinator));
}

#[tokio::test(start_paused = true)]
async fn probing_for_groups_leaves_nothing_behind() {
    let coordinator = Bench::new().start().await;
    let stranger = MemberId::from("stranger");
    assert_eq!(coordinator.heartbeat("g", identity(&stranger, 1)).await, Err(GroupError::UnknownMember));
    assert_eq!(coordinator.describe("g").await, Err(GroupError::NotFound));
    assert_eq!(coordinator.delete("g").await, Err(GroupError::NotFound));
    assert_eq!(coordinator.join("g", join_request(stranger)).await.result, Err(GroupError::UnknownMember));
    let short = JoinRequest { session_timeout_ms: 1, ..join_request(MemberId::unknown()) };
    assert_eq!(coordinator.join("g", short).await.result, Err(GroupError::InvalidSessionTimeout));
    let promised = JoinRequest { requires_known_member_id: true, ..join_request(MemberId::unknown()) };
    assert_eq!(coordinator.join("g", promised).await.result, Err(GroupError::MemberIdRequired));
    assert_eq!(coordinator.groups(), ["g"], "someone was promised an id");
    sleep(Duration::from_secs(11)).await;
    assert_eq!(coordinator.groups(), [""; 0]);
    assert_eq!(coordinator.active_groups(), 0);
    coordinator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn group_ids_are_limited_by_the_store_s_keys() {
    let coordinator = Bench::new().start().await;
    let long = "ü".repeat(1_000);
    for bad in ["", long.as_str()] {
        let reply = coordinator.join(bad, join_request(MemberId::unknown())).await;
        assert_eq!(reply.result, Err(GroupError::InvalidGroupId));
    }
    let commit = coordinator.commit(&long, outside(), vec![]).await;
    assert_eq!(commit, Err(GroupError::InvalidGroupId));
    let most = "x".repeat(3_500);
    coordinator.become_only_member(&most).await;
    coordinator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn there_are_no_more_groups_than_allowed() {
    let mut bench = Bench::new();
    bench.config.max_groups = 1;
    let coordinator = bench.start().await;
    coordinator.become_only_member("a").await;
    let reply = coordinator.join("b", join_request(MemberId::unknown())).await;
    assert_eq!(reply.result, Err(GroupError::CoordinatorNotAvailable));
    coordinator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_group_is_gone_with_its_offsets() {
    let bench = Bench::new();
    let coordinator = bench.start().await;
    let (member, _) = coordinator.become_only_member("g").await;
    let commits = vec![commit_of("orders", 0, 5, &bench.clock)];
    coordinator.commit("g", identity(&member, 1), commits).await.expect("committed");
    assert_eq!(coordinator.delete("g").await, Err(GroupError::NonEmpty));
    let leaving = LeavingMember { member_id: member, instance_id: None, reason: None };
    coordinator.leave("g", vec![leaving]).await.expect("left");
    assert_eq!(coordinator.delete("g").await, Ok(()));
    assert_eq!(coordinator.delete("g").await, Err(GroupError::NotFound));
    assert_eq!(coordinator.committed("g", "orders", 0), None);
    assert_eq!(bench.group_keys().await, [""; 0]);
    // The name can be used again at once, and starts from nothing.
    let (_, joined) = coordinator.become_only_member("g").await;
    assert_eq!(joined.generation, Generation(1));
    coordinator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_whose_task_failed_can_be_joined_anew() {
    let bench = Bench::new();
    let coordinator = bench.start().await;
    let (member, _) = coordinator.become_only_member("g").await;
    let commits = vec![commit_of("orders", 0, 5, &bench.clock)];
    coordinator.commit("g", identity(&member, 1), commits).await.expect("committed");
    let cell = coordinator.cell("g");
    assert!(matches!(cell.deliver(&coordinator.shared, Command::Panic), Delivery::Done));
    while coordinator.active_groups() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(coordinator.heartbeat("g", identity(&member, 1)).await, Err(GroupError::UnknownMember));
    let (_, joined) = coordinator.become_only_member("g").await;
    assert_eq!(joined.generation, Generation(2));
    assert_eq!(coordinator.committed("g", "orders", 0), Some(5));
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_is_lost_while_its_group_goes_to_rest() {
    let bench = Bench::new();
    let coordinator = Arc::new(bench.start().await);
    let mut askers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (coordinator, clock) = (Arc::clone(&coordinator), Arc::clone(&bench.clock));
        askers.spawn(async move {
            for offset in 0..5_000 {
                let group = format!("g{}", offset % 3);
                let commits = vec![commit_of("orders", 0, offset, &clock)];
                coordinator.commit(&group, outside(), commits).await.expect("committed");
            }
        });
    }
    while let Some(asker) = askers.join_next().await {
        asker.expect("no commit was lost");
    }
    coordinator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn members_take_no_more_memory_than_allowed() {
    let mut bench = Bench::new();
    bench.config.members_memory_bytes = 10_000;
    let coordinator = bench.start().await;
    let mut members = Vec::new();
    let refused = loop {
        let group = format!("g{}", members.len());
        let reply = coordinator.join(&group, join_request(MemberId::unknown())).await;
        match reply.result {
            Ok(_) => members.push((group, reply.member_id)),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, GroupError::CoordinatorNotAvailable);
    assert!((8..20).contains(&members.len()), "{} members", members.len());
    for (group, member_id) in members {
        let leaving = LeavingMember { member_id, instance_id: None, reason: None };
        coordinator.leave(&group, vec![leaving]).await.expect("left");
    }
    assert_eq!(coordinator.shared.members_bytes.load(Ordering::Acquire), 0);
    coordinator.become_only_member("g").await;
    coordinator.shutdown().await;
    let coordinator = bench.start().await;
    assert!(coordinator.shared.members_bytes.load(Ordering::Acquire) > 500, "restored members count");
    coordinator.shutdown().await;
    assert_eq!(coordinator.shared.members_bytes.load(Ordering::Acquire), 0);
}
