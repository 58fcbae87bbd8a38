//! What the controller writes down of what changed, and of who is gone.

use kafscale_meta::MetaStoreExt as _;
use kafscale_meta::records::{GroupMember, GroupRecord, LostRecord};

use super::*;

#[tokio::test(start_paused = true)]
async fn who_vanishes_is_remembered_with_what_it_led_and_who_leaves_is_not() {
    let world = World::new();
    let (a, b, c) = (world.join(1).await, world.join(2).await, world.join(3).await);
    world.topics(1, 30, &[a, b, c]).await;
    world.controller(a, &world.chains);
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.die(b).await;
    world.metadata.note_leaving(3, c.id.epoch, 5).await.unwrap();
    world.die(c).await;
    world.until(|all| even(all, &[a])).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let members = async || -> Vec<_> {
        let items = world.metadata.list_members().await.unwrap().items;
        items.into_iter().map(|(id, read)| (id, read.record.left_ms, read.record.lost)).collect()
    };
    let lost = LostRecord { at_ms: 1_000_000, partitions: 10, topic: Some("t0".to_owned()) };
    assert_eq!(members().await, [(1, None, None), (2, None, Some(lost)), (3, Some(5), None)]);
    // It comes back.
    world.join(2).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(members().await[1], (2, None, None));
    let history = world.metadata.load_history().await.unwrap().unwrap().record.entries;
    let told: Vec<_> =
        history.iter().map(|e| (e.kind, e.name.as_str(), e.count, e.detail.as_str())).collect();
    for expected in [
        (HistoryKind::ControllerElected, "broker 1", 1, ""),
        (HistoryKind::BrokerVanished, "broker 2", 1, "without a planned stop"),
        (HistoryKind::BrokerStopped, "broker 3", 1, "as planned"),
        (HistoryKind::LeadersMoved, "t0", 10, "from broker 2 to broker 1"),
        (HistoryKind::LeadersMoved, "t0", 10, "from broker 3 to broker 1"),
        (HistoryKind::BrokerStarted, "broker 2", 1, "at localhost:9092, release 1"),
    ] {
        assert!(told.contains(&expected), "{expected:?} is not in {told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_changes_in_topics_is_told_and_the_history_is_bounded() {
    let world = World::new();
    let a = world.join(1).await;
    world.controller(a, &world.chains);
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.topics(3, 2, &[a]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let read = world.metadata.load_topic("t1").await.unwrap().unwrap();
    let mut topic = read.record.clone();
    topic.configs.insert("retention.ms".to_owned(), "5".to_owned());
    world.metadata.swap_topic("t1", read.mod_revision, &topic).await.unwrap().unwrap();
    let read = world.metadata.load_topic("t2").await.unwrap().unwrap();
    assert!(world.metadata.delete_topic("t2", &read).await.unwrap());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let history = async || world.metadata.load_history().await.unwrap().unwrap().record.entries;
    let told: Vec<_> = history().await.into_iter().map(|e| (e.kind, e.name, e.detail)).collect();
    let is = |kind, name: &str, detail: &str| (kind, name.to_owned(), detail.to_owned());
    assert!(told.contains(&is(HistoryKind::TopicCreated, "t0", "2 partitions")), "{told:?}");
    assert!(told.contains(&is(HistoryKind::TopicConfig, "t1", "retention.ms: default -> 5")), "{told:?}");
    assert!(told.contains(&is(HistoryKind::TopicDeleted, "t2", "2 partitions")), "{told:?}");
    // One after the other for long: the newest are kept.
    for i in 0..250 {
        let read = world.metadata.load_topic("t1").await.unwrap().unwrap();
        let mut topic = read.record.clone();
        topic.configs.insert("retention.ms".to_owned(), i.to_string());
        world.metadata.swap_topic("t1", read.mod_revision, &topic).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let entries = history().await;
    assert_eq!(entries.len(), 200);
    assert_eq!(entries.last().unwrap().detail, "retention.ms: 248 -> 249");
}

#[tokio::test(start_paused = true)]
async fn who_vanished_while_there_was_no_controller_is_told_once() {
    let world = World::new();
    let (a, b) = (world.join(1).await, world.join(2).await);
    world.topics(1, 10, &[a, b]).await;
    world.die(b).await;
    world.controller(a, &world.chains);
    world.until(|all| even(all, &[a])).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let members = world.metadata.list_members().await.unwrap().items;
    let lost = members[1].1.record.lost.clone().expect("it is noted");
    assert_eq!((lost.partitions, lost.topic.as_deref()), (5, Some("t0")));
    let history = world.metadata.load_history().await.unwrap().unwrap().record.entries;
    let vanished: Vec<_> = history.iter().filter(|e| e.kind == HistoryKind::BrokerVanished).collect();
    assert_eq!(vanished.len(), 1, "{history:?}");
    assert_eq!(vanished[0].name, "broker 2");
}

#[tokio::test(start_paused = true)]
async fn what_a_broker_led_is_counted_once_however_long_it_takes_to_give_it_away() {
    let world = World::new();
    let (a, b) = (world.join(1).await, world.join(2).await);
    world.topics(1, 2, &[a, b]).await;
    world.controller(a, &world.chains);
    tokio::time::sleep(Duration::from_secs(5)).await;
    // The object store does not take the seal for a while: the history is written twice before the partition has another leader.
    world.chains.gate.forget_permits(1000);
    world.die(b).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    world.chains.gate.add_permits(1000);
    world.until(|all| even(all, &[a])).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let lost = world.metadata.list_members().await.unwrap().items[1].1.record.lost.clone().unwrap();
    assert_eq!((lost.partitions, lost.topic.as_deref()), (1, Some("t0")));
    let moved: Vec<_> =
        world.told().await.into_iter().filter(|told| told.1 == HistoryKind::LeadersMoved).collect();
    let detail = "from broker 2 to broker 1".to_owned();
    assert_eq!(moved, [(1_000_000, HistoryKind::LeadersMoved, "t0".to_owned(), 1, detail)]);
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_is_let_go_moved_to_who_gets_it() {
    let world = World::new();
    let a = world.join(1).await;
    world.topics(1, 20, &[a]).await;
    world.controller(a, &world.chains);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let b = world.join(2).await;
    world.until(|all| even(all, &[a, b])).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let moved: Vec<_> =
        world.told().await.into_iter().filter(|told| told.1 == HistoryKind::LeadersMoved).collect();
    assert!(moved.iter().all(|told| told.4 == "from broker 1 to broker 2"), "{moved:?}");
    assert_eq!(moved.iter().map(|told| told.3).sum::<u64>(), 10);
    assert_eq!(world.metadata.list_members().await.unwrap().items[0].1.record.lost, None);
}

#[tokio::test(start_paused = true)]
async fn how_a_lone_broker_ended_is_told_when_it_is_back() {
    let world = World::new();
    let one = world.start(1, "0.1.0", 900_000).await;
    world.topics(1, 8, &[one]).await;
    world.controller(one, &world.chains);
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.metadata.note_alive(1, one.id.epoch, 1_010_000).await.unwrap();
    let told = world.told().await;
    assert_eq!(told[0].1, HistoryKind::BrokerStarted);
    // Killed, and nobody is there to see it.
    let world = world.without_controller();
    world.die(one).await;
    world.clock.0.store(2_000_000, Ordering::Relaxed);
    let two = world.start(1, "0.2.0", 1_990_000).await;
    world.controller(two, &world.chains);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let is = |at_ms: i64, kind, detail: &str| (at_ms, kind, "broker 1".to_owned(), 1, detail.to_owned());
    let crashed =
        "without a planned stop; last known to live at 1970-01-01T00:16:50Z; back since 1970-01-01T00:33:10Z";
    assert_eq!(
        world.told().await[told.len()..],
        [
            is(1_990_000, HistoryKind::BrokerVanished, crashed),
            is(
                1_990_000,
                HistoryKind::BrokerStarted,
                "at localhost:9092, release 0.2.0, before: release 0.1.0"
            ),
            is(2_000_000, HistoryKind::ControllerElected, ""),
        ]
    );
    // And stopped as planned.
    let told = world.told().await;
    world.metadata.note_alive(1, two.id.epoch, 2_000_000).await.unwrap();
    world.metadata.note_leaving(1, two.id.epoch, 2_500_000).await.unwrap();
    let world = world.without_controller();
    world.die(two).await;
    world.clock.0.store(3_000_000, Ordering::Relaxed);
    let three = world.start(1, "0.2.0", 2_990_000).await;
    world.controller(three, &world.chains);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(
        world.told().await[told.len()..],
        [
            is(2_500_000, HistoryKind::BrokerStopped, "as planned"),
            is(2_990_000, HistoryKind::BrokerStarted, "at localhost:9092, release 0.2.0"),
            is(3_000_000, HistoryKind::ControllerElected, ""),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_group_is_told_when_its_last_member_is_gone_and_when_it_is() {
    let world = World::new();
    let a = world.join(1).await;
    world.controller(a, &world.chains);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let member = GroupMember {
        member_id: "m".into(),
        instance_id: None,
        client_id: "c".into(),
        client_host: "h".into(),
        session_timeout_ms: 1,
        rebalance_timeout_ms: 1,
        protocols: Vec::new(),
        assignment: bytes::Bytes::new(),
    };
    let full = GroupRecord {
        protocol_type: "consumer".into(),
        protocol_name: None,
        generation: 3,
        leader: None,
        state_timestamp_ms: 1,
        members: vec![member],
    };
    let empty = GroupRecord { members: Vec::new(), ..full.clone() };
    for (group, record) in [("g", &full), ("g", &empty), ("g", &empty), ("other", &full)] {
        world.metadata.save_group(group, record).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.metadata.store().delete(&world.metadata.keys().group("g")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let told: Vec<_> = world.told().await.into_iter().filter(|told| told.2 != "broker 1").collect();
    let is = |kind, detail: &str| (1_000_000, kind, "g".to_owned(), 1, detail.to_owned());
    assert_eq!(
        told,
        [is(HistoryKind::GroupEmptied, "after generation 3"), is(HistoryKind::GroupDeleted, "")]
    );
}
