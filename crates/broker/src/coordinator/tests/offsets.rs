//! Commits, their writes, their deletion and their retention.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_commit_is_kept_over_a_restart() {
    let bench = Bench::new();
    let coordinator = bench.start().await;
    let commits = vec![commit_of("orders", 0, 5, &bench.clock), commit_of("orders", 1, 6, &bench.clock)];
    coordinator.commit("simple", outside(), commits).await.expect("committed");
    assert_eq!(coordinator.active_groups(), 0, "a group that only stores offsets needs no task");
    coordinator.shutdown().await;
    let coordinator = bench.start().await;
    assert_eq!(coordinator.committed("simple", "orders", 1), Some(6));
    let note = coordinator.offsets("simple", |offsets| offsets.get("orders", 0).map(|c| c.metadata.clone()));
    assert_eq!(note, Ok(Some("note".to_owned())));
    assert_eq!(coordinator.list().expect("listed")[0].protocol_type, "");
    coordinator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_commit_is_visible_only_after_its_transaction() {
    let bench = Bench::new();
    let coordinator = bench.start().await;
    let permit = bench.store.gate.acquire().await.expect("open");
    let commit = coordinator.commit("g", outside(), vec![commit_of("orders", 0, 5, &bench.clock)]);
    let check = async {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(coordinator.committed("g", "orders", 0), None);
        drop(permit);
    };
    let (result, ()) = tokio::join!(commit, check);
    assert_eq!(result, Ok(()));
    assert_eq!(coordinator.committed("g", "orders", 0), Some(5));
    coordinator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_commit_says_so_and_changes_nothing() {
    let bench = Bench::new();
    let coordinator = bench.start().await;
    let commit =
        |offset| coordinator.commit("g", outside(), vec![commit_of("orders", 0, offset, &bench.clock)]);
    commit(5).await.expect("committed");
    bench.store.fail(true);
    assert_eq!(commit(6).await, Err(GroupError::CoordinatorNotAvailable));
    assert_eq!(coordinator.committed("g", "orders", 0), Some(5));
    bench.store.fail(false);
    commit(6).await.expect("committed");
    assert_eq!(coordinator.committed("g", "orders", 0), Some(6));
    coordinator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn committed_offsets_take_no_more_than_they_may() {
    let mut bench = Bench::new();
    (bench.config.group_offsets_max_bytes, bench.config.offsets_max_bytes) = (3_000, 5_000);
    let coordinator = bench.start().await;
    let commit = |group: &'static str, partition| {
        coordinator.commit(group, outside(), vec![commit_of("orders", partition, 5, &bench.clock)])
    };
    let bytes = || coordinator.offsets_stats();
    let fill = async |group: &'static str| {
        for partition in 0.. {
            if let Err(error) = commit(group, partition).await {
                return (partition, error);
            }
        }
        unreachable!()
    };
    let (own, refused) = fill("a").await;
    assert_eq!(refused, GroupError::OffsetsTooLarge);
    assert_eq!(own, 11, "267 bytes each");
    let (others, refused) = fill("b").await;
    assert_eq!(refused, GroupError::OffsetsTooLarge);
    assert_eq!(others, 18 - own, "all groups together");
    assert_eq!((bytes().bytes, bytes().largest_group_bytes), (18 * 267, 11 * 267));
    assert_eq!(bytes().refused_commits, 2);
    // What takes no more is committed all the same.
    assert_eq!(commit("a", 3).await, Ok(()));
    assert_eq!(bytes().bytes, 18 * 267, "nothing stays reserved");
    coordinator.delete_offsets("a", vec![("orders".into(), 3)]).await.expect("deleted");
    assert_eq!(commit("b", 100).await, Ok(()));
    coordinator.delete("a").await.expect("deleted");
    assert_eq!(bytes().bytes, 8 * 267);
    coordinator.shutdown().await;
    let coordinator = bench.start().await;
    assert_eq!(coordinator.offsets_stats().bytes, 8 * 267, "what is loaded counts");
    coordinator.shutdown().await;
    assert_eq!(coordinator.offsets_stats().bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn concurrent_commits_share_transactions() {
    let bench = Bench::new();
    let coordinator = bench.start().await;
    let permit = bench.store.gate.acquire().await.expect("open");
    let groups: Vec<String> = (0..100).map(|i| format!("g{i}")).collect();
    let mut commits = tokio::task::JoinSet::new();
    let coordinator = Arc::new(coordinator);
    for group in &groups {
        let commit = commit_of("orders", 0, 5, &bench.clock);
        let (coordinator, group) = (Arc::clone(&coordinator), group.clone());
        commits.spawn(async move { coordinator.commit(&group, outside(), vec![commit]).await });
    }
    sleep(Duration::from_secs(1)).await;
    drop(permit);
    for result in commits.join_all().await {
        assert_eq!(result, Ok(()));
    }
    assert!(bench.store.transactions() <= 2, "{} transactions", bench.store.transactions());
    assert!(groups.iter().all(|group| coordinator.committed(group, "orders", 0) == Some(5)));
    coordinator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn one_commit_may_be_larger_than_a_transaction() {
    let bench = Bench::new();
    let coordinator = bench.start().await;
    let commits = (0..1_000).map(|p| commit_of("orders", p, 5, &bench.clock)).collect();
    coordinator.commit("g", outside(), commits).await.expect("committed");
    assert_eq!(coordinator.offsets("g", CommittedOffsets::len), Ok(1_000));
    coordinator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn commits_are_refused_by_the_group_s_rules() {
    let bench = Bench::new();
    let coordinator = bench.start().await;
    let (member, _) = coordinator.become_only_member("g").await;
    let commit =
        |group, identity| coordinator.commit(group, identity, vec![commit_of("orders", 0, 5, &bench.clock)]);
    assert_eq!(commit("g", outside()).await, Err(GroupError::UnknownMember));
    assert_eq!(commit("g", identity(&member, 2)).await, Err(GroupError::IllegalGeneration));
    assert_eq!(commit("unknown", identity(&member, 1)).await, Err(GroupError::NotFound));
    assert_eq!(commit("g", identity(&member, 1)).await, Ok(()));
    coordinator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn offsets_of_topics_that_nobody_reads_can_be_deleted() {
    let bench = Bench::new();
    let coordinator = bench.start().await;
    let (member, _) = coordinator.become_only_member("g").await;
    let commits = vec![commit_of("orders", 0, 5, &bench.clock), commit_of("payments", 0, 6, &bench.clock)];
    coordinator.commit("g", identity(&member, 1), commits).await.expect("committed");
    let partitions = vec![("orders".into(), 0), ("payments".into(), 0), ("payments".into(), 9)];
    let deleted = coordinator.delete_offsets("g", partitions).await;
    assert_eq!(deleted, Ok(vec![Err(GroupError::SubscribedToTopic), Ok(()), Ok(())]));
    assert_eq!(coordinator.committed("g", "orders", 0), Some(5));
    assert_eq!(coordinator.committed("g", "payments", 0), None);
    assert_eq!(coordinator.delete_offsets("x", vec![]).await, Err(GroupError::NotFound));
    coordinator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_topic_takes_its_offsets_along() {
    let bench = Bench::new();
    let coordinator = bench.start().await;
    for group in ["a", "b"] {
        let commits =
            vec![commit_of("orders", 0, 5, &bench.clock), commit_of("payments", 3, 6, &bench.clock)];
        coordinator.commit(group, outside(), commits).await.expect("committed");
    }
    coordinator.topic_deleted("orders", TopicId(Uuid::from_u128(8))).await;
    assert_eq!(coordinator.committed("a", "orders", 0), Some(5), "that was another topic of the same name");
    coordinator.topic_deleted("orders", TopicId(TOPIC)).await;
    for group in ["a", "b"] {
        assert_eq!(coordinator.committed(group, "orders", 0), None);
        assert_eq!(coordinator.committed(group, "payments", 3), Some(6));
    }
    coordinator.shutdown().await;
    let coordinator = bench.start().await;
    assert_eq!(coordinator.committed("a", "orders", 0), None);
    coordinator.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn offsets_of_topics_that_were_deleted_meanwhile_are_removed_at_the_start() {
    let bench = Bench::new();
    let coordinator = bench.start().await;
    let commits = vec![commit_of("orders", 0, 5, &bench.clock), commit_of("payments", 0, 6, &bench.clock)];
    coordinator.commit("g", outside(), commits).await.expect("committed");
    coordinator.shutdown().await;
    // `payments` is gone, and `orders` was created again.
    bench.topics(&[("orders", Uuid::from_u128(8))]).await;
    let coordinator = bench.start_again().await;
    until(async || bench.group_keys().await.is_empty()).await;
    assert_eq!(coordinator.committed("g", "orders", 0), None);
    coordinator.shutdown().await;
    assert_eq!(bench.group_keys().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn unused_offsets_expire_and_the_group_with_them() {
    let bench = Bench::new();
    let coordinator = bench.start().await;
    coordinator
        .commit("simple", outside(), vec![commit_of("orders", 0, 5, &bench.clock)])
        .await
        .expect("committed");
    let (member, _) = coordinator.become_only_member("left").await;
    let commits = vec![commit_of("orders", 0, 5, &bench.clock)];
    coordinator.commit("left", identity(&member, 1), commits).await.expect("committed");
    // The member's session ends within a minute.
    sleep(Duration::from_secs(7 * 24 * 3600 - 60)).await;
    assert_eq!(coordinator.groups(), ["left", "simple"]);
    sleep(Duration::from_secs(1_300)).await;
    assert_eq!(coordinator.groups(), [""; 0]);
    assert_eq!(bench.group_keys().await, [""; 0]);
    coordinator.shutdown().await;
}

#[derive(Debug, Clone)]
enum Step {
    Commit {
        group: u8,
        partition: i32,
    },
    /// The store fails from now on, or says so, or neither.
    Fault {
        failing: bool,
        silent: bool,
    },
    Pass {
        seconds: u64,
    },
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        10 => (0..3_u8, 0..2_i32).prop_map(|(group, partition)| Step::Commit { group, partition }),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(failing, silent)| Step::Fault { failing, silent }),
        1 => (0..700_u64).prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..80)
}

/// Commits ever greater offsets, and checks after every step that none was lost and none was made up.
async fn run(steps: Vec<Step>) {
    let bench = Bench::new();
    let mut coordinator = bench.start().await;
    let mut acknowledged: HashMap<(String, i32), i64> = HashMap::new();
    let mut offset = 0;
    for step in steps {
        match step {
            Step::Commit { group, partition } => {
                offset += 1;
                let group = format!("g{group}");
                let commits = vec![commit_of("orders", partition, offset, &bench.clock)];
                match coordinator.commit(&group, outside(), commits).await {
                    Ok(()) => drop(acknowledged.insert((group, partition), offset)),
                    Err(error) => assert_eq!(error, GroupError::CoordinatorNotAvailable),
                }
            }
            Step::Fault { failing, silent } => {
                bench.store.fail(failing);
                bench.store.be_silent(silent);
            }
            Step::Pass { seconds } => sleep(Duration::from_secs(seconds)).await,
            Step::Restart => {
                coordinator.shutdown().await;
                bench.store.fail(false);
                coordinator = bench.start().await;
            }
        }
        for ((group, partition), acknowledged) in &acknowledged {
            let committed = coordinator.committed(group, "orders", *partition).unwrap_or(-1);
            assert!(committed >= *acknowledged, "{group} {partition}: {committed} < {acknowledged}");
            assert!(committed <= offset);
        }
    }
    coordinator.shutdown().await;
}

proptest! {
    // Each case starts and stops coordinators many times.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_acknowledged_commit_never_moves_back(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(run(steps));
    }
}
