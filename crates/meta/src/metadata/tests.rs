//! The typed records on the embedded store.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use uuid::Uuid;

use super::{Metadata, NewTopic, in_batches};
use crate::{
    EmbeddedStore, ErrorKind, Event, MetaStoreExt, Revision,
    records::{
        AssignmentRecord, BrokerConfigRecord, BrokerRecord, ChainRecord, ClusterRecord, ConfigScope,
        ControllerRecord, CoordinatorRecord, GroupRecord, IncarnationBaseRecord, OffsetKey, OffsetRecord,
        PartitionAssignment, PartitionRecord, ProducersRecord, TopicRecord,
    },
};

fn metadata() -> Metadata {
    Metadata::new(Arc::new(EmbeddedStore::memory()), "test").unwrap()
}

fn new_topic(name: &str, partitions: i32) -> NewTopic {
    let topic = TopicRecord {
        topic_id: Uuid::new_v4(),
        partitions,
        configs: [("retention.ms".to_owned(), "1000".to_owned())].into(),
        created_ms: 1,
        internal: false,
    };
    let one = PartitionAssignment::new(1, 0, 0);
    let assignment = AssignmentRecord { partitions: vec![one; usize::try_from(partitions).unwrap()] };
    NewTopic { name: name.to_owned(), topic, assignment }
}

fn broker() -> BrokerRecord {
    BrokerRecord {
        host: "localhost".to_owned(),
        port: 9092,
        rack: None,
        version: "1".to_owned(),
        listeners: Vec::new(),
        metrics_address: None,
        epoch: 0,
        started_ms: 1,
    }
}

fn offset_key(group: &str, topic: &str, partition: i32) -> OffsetKey {
    OffsetKey { group: group.to_owned(), topic: topic.to_owned(), partition }
}

fn offset(offset: i64, topic_id: Uuid) -> OffsetRecord {
    OffsetRecord {
        offset,
        leader_epoch: -1,
        metadata: "note".to_owned(),
        commit_time_ms: 5,
        expires_at_ms: None,
        topic_id,
    }
}

#[tokio::test]
async fn a_cluster_is_founded_once() {
    let metadata = metadata();
    let cluster = |id: &str| ClusterRecord { cluster_id: id.to_owned(), created_ms: 1, store: None };
    assert_eq!(metadata.load_cluster().await.unwrap(), None);
    assert_eq!(metadata.found_cluster(&cluster("first")).await.unwrap(), cluster("first"));
    assert_eq!(metadata.found_cluster(&cluster("second")).await.unwrap(), cluster("first"));
    let at = |store: &str| ClusterRecord { store: Some(store.to_owned()), ..cluster("third") };
    let first = ClusterRecord { store: Some("s3://b".to_owned()), ..cluster("first") };
    assert_eq!(
        metadata.found_cluster(&at("s3://b")).await.unwrap(),
        first,
        "it says where an early one's log is"
    );
    assert_eq!(metadata.found_cluster(&at("s3://c")).await.unwrap(), first);
}

#[tokio::test]
async fn a_topic_is_created_once_and_with_its_assignment() {
    let metadata = metadata();
    let (first, second) = (new_topic("orders", 3), new_topic("orders", 5));
    let revision = metadata.create_topic(&first).await.unwrap().unwrap();
    assert_eq!(metadata.create_topic(&second).await.unwrap(), None);
    let topic = metadata.load_topic("orders").await.unwrap().unwrap();
    assert_eq!((topic.record, topic.mod_revision), (first.topic.clone(), revision));
    let assignment = metadata.load_assignment(first.topic.topic_id).await.unwrap().unwrap();
    assert_eq!((assignment.record, assignment.mod_revision), (first.assignment, revision));
    assert_eq!(metadata.list_assignments().await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn of_many_topics_those_that_exist_are_left_alone() {
    let metadata = metadata();
    let existing = new_topic("t7", 1);
    metadata.create_topic(&existing).await.unwrap().unwrap();
    let many: Vec<_> = (0..200).map(|i| new_topic(&format!("t{i}"), 2)).collect();
    let created = metadata.create_topics(&many).await.unwrap();
    assert_eq!(created.len(), 200);
    for (i, revision) in created.iter().enumerate() {
        assert_eq!(revision.is_some(), i != 7, "{i}");
    }
    let listed = metadata.list_topics().await.unwrap();
    assert_eq!(listed.items.len(), 200);
    assert_eq!(metadata.load_topic("t7").await.unwrap().unwrap().record, existing.topic);
    assert_eq!(metadata.list_assignments().await.unwrap().items.len(), 200);
}

#[tokio::test]
async fn a_change_of_what_was_changed_meanwhile_is_refused() {
    let metadata = metadata();
    let new = new_topic("orders", 1);
    let created = metadata.create_topic(&new).await.unwrap().unwrap();
    let (mut topic, mut assignment) = (new.topic, new.assignment);
    topic.configs.clear();
    let changed = metadata.swap_topic("orders", created, &topic).await.unwrap().unwrap();
    assert_eq!(metadata.swap_topic("orders", created, &topic).await.unwrap(), None);

    topic.partitions = 2;
    assignment.partitions.push(PartitionAssignment::released(0));
    let grow = |topic_at, assignment_at| {
        metadata.swap_topic_and_assignment("orders", (topic_at, &topic), (assignment_at, &assignment))
    };
    assert_eq!(grow(created, created).await.unwrap(), None);
    assert_eq!(grow(changed, changed).await.unwrap(), None);
    let grown = grow(changed, created).await.unwrap().unwrap();
    assert_eq!(metadata.load_topic("orders").await.unwrap().unwrap().record.partitions, 2);
    assignment.partitions[0].leader_epoch = 1;
    assert!(metadata.swap_assignment(topic.topic_id, grown, &assignment).await.unwrap().is_some());
    assert_eq!(metadata.swap_assignment(topic.topic_id, grown, &assignment).await.unwrap(), None);
}

#[tokio::test]
async fn a_deleted_topic_leaves_nothing_and_takes_nothing_of_others() {
    let metadata = metadata();
    let (doomed, other) = (new_topic("doomed", 3), new_topic("doomed2", 3));
    for new in [&doomed, &other] {
        let id = new.topic.topic_id;
        metadata.create_topic(new).await.unwrap().unwrap();
        for p in 0..3 {
            let state = (&PartitionRecord::default(), &ProducersRecord::default());
            metadata.swap_partition(id, p, None, state).await.unwrap().unwrap();
            assert_eq!(metadata.swap_partition(id, p, None, state).await.unwrap(), None);
        }
    }

    let read = metadata.load_topic("doomed").await.unwrap().unwrap();
    let mut stale = read.clone();
    stale.mod_revision = Revision(1_000_000);
    assert!(!metadata.delete_topic("doomed", &stale).await.unwrap());
    assert!(metadata.delete_topic("doomed", &read).await.unwrap());
    assert!(!metadata.delete_topic("doomed", &read).await.unwrap());

    assert_eq!(metadata.load_topic("doomed").await.unwrap(), None);
    assert_eq!(metadata.list_topics().await.unwrap().items.len(), 1);
    assert_eq!(metadata.list_assignments().await.unwrap().items.len(), 1);
    let id = other.topic.topic_id;
    let partitions = metadata.list_partitions().await.unwrap().items;
    assert_eq!(partitions.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [(id, 0), (id, 1), (id, 2)]);
    assert_eq!(metadata.list_producers().await.unwrap().items.len(), 3);
    assert!(metadata.load_producers(doomed.topic.topic_id, 0).await.unwrap().is_none());
    assert!(metadata.load_partition(id, 0).await.unwrap().is_some());
}

#[tokio::test]
async fn offsets_of_a_group_come_and_go() {
    let metadata = metadata();
    let id = Uuid::new_v4();
    let hostile = ["", "a/b", "%2F", "\u{0}", "группа"];
    for group in hostile {
        let twice = [(offset_key(group, "t", 0), offset(1, id)), (offset_key(group, "t", 0), offset(2, id))];
        metadata.commit_offsets(twice).await.unwrap();
        metadata.commit_offsets((1..400).map(|p| (offset_key(group, "t", p), offset(7, id)))).await.unwrap();
    }
    for group in hostile {
        let offsets = metadata.load_offsets(group).await.unwrap().items;
        assert_eq!(offsets.len(), 400, "{group:?}");
        assert!(offsets.iter().all(|(key, _)| key.group == group));
        let first = offsets.iter().find(|(key, _)| key.partition == 0).unwrap();
        assert_eq!(first.1.record, offset(2, id));
    }
    let odd = (0..400).filter(|p| p % 2 == 1).map(|p| offset_key("a/b", "t", p));
    metadata.delete_offsets(odd).await.unwrap();
    assert_eq!(metadata.load_offsets("a/b").await.unwrap().items.len(), 200);

    let group = GroupRecord {
        protocol_type: "consumer".to_owned(),
        protocol_name: None,
        generation: 3,
        leader: None,
        state_timestamp_ms: 1,
        members: Vec::new(),
    };
    metadata.save_group("a/b", &group).await.unwrap();
    assert_eq!(metadata.load_group("a/b").await.unwrap().unwrap().record, group);
    assert_eq!(metadata.list_groups().await.unwrap().items[0].0, "a/b");
    metadata.delete_group("a/b").await.unwrap();
    assert!(metadata.list_groups().await.unwrap().items.is_empty());
    assert_eq!(metadata.load_all_offsets().await.unwrap().items.len(), 4 * 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producer_id_blocks_never_overlap() {
    let metadata = metadata();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let metadata = metadata.clone();
        tasks.spawn(async move { metadata.allocate_producer_id_block().await.unwrap() });
    }
    let starts: BTreeSet<i64> = tasks.join_all().await.into_iter().map(|block| block.start).collect();
    assert_eq!(starts, (0..20).map(|i| i * 1000).collect());
}

#[tokio::test(start_paused = true)]
async fn a_node_id_is_taken_until_its_lease_ends_and_epochs_grow() {
    let metadata = metadata();
    let broker = broker();
    let ttl = Duration::from_secs(10);
    let first = metadata.store().lease_grant(ttl).await.unwrap().id;
    let epoch = metadata.register_broker(1, first, broker.clone(), None).await.unwrap().unwrap();
    let brokers = metadata.list_brokers().await.unwrap();
    assert_eq!((brokers.items[0].0, brokers.items[0].1.record.epoch), (1, epoch));

    let second = metadata.store().lease_grant(Duration::from_secs(600)).await.unwrap().id;
    assert_eq!(metadata.register_broker(1, second, broker.clone(), None).await.unwrap(), None);
    assert!(metadata.register_broker(2, second, broker.clone(), None).await.unwrap().is_some());
    let office = ControllerRecord { node_id: 1, epoch };
    assert!(metadata.elect_controller(first, &office).await.unwrap().is_some());
    let other = ControllerRecord { node_id: 2, epoch };
    assert_eq!(metadata.elect_controller(second, &other).await.unwrap(), None);

    let prefix = metadata.keys().brokers_prefix();
    let mut watch = metadata.store().watch(&prefix, brokers.revision.next()).await.unwrap();
    loop {
        let batch = watch.next().await.unwrap();
        if batch.events.iter().any(|event| matches!(event, Event::Delete { .. })) {
            break;
        }
    }
    let later = metadata.register_broker(1, second, broker, None).await.unwrap().unwrap();
    assert!(later > epoch);
    assert!(metadata.elect_controller(second, &office).await.unwrap().is_some());
    assert_eq!(metadata.load_controller().await.unwrap().unwrap().record, office);
}

#[tokio::test]
async fn brokers_stay_out_of_a_restore_and_go_on_above_the_epochs_of_before() {
    let metadata = metadata();
    let lease = metadata.store().lease_grant(Duration::from_secs(10)).await.unwrap().id;
    let cluster = ClusterRecord { cluster_id: "c".to_owned(), created_ms: 1, store: None };
    let restoring = metadata.keys().restoring();
    metadata.store().put(&restoring, "".into()).await.unwrap();
    let refused = metadata.found_cluster(&cluster).await.unwrap_err();
    assert!(refused.to_string().contains("kafscale restore"), "{refused}");
    assert_eq!(metadata.load_cluster().await.unwrap(), None);
    assert_eq!(metadata.register_broker(1, lease, broker(), None).await.unwrap(), None);

    metadata.store().delete(&restoring).await.unwrap();
    metadata.save(&metadata.keys().incarnation_base(), &IncarnationBaseRecord { base: 1000 }).await.unwrap();
    assert_eq!(metadata.found_cluster(&cluster).await.unwrap(), cluster);
    assert!(metadata.register_broker(1, lease, broker(), None).await.unwrap().unwrap() > 1000);
}

#[tokio::test]
async fn an_incarnation_begins_with_its_chain() {
    let metadata = metadata();
    let lease = metadata.store().lease_grant(Duration::from_secs(10)).await.unwrap().id;
    let chain = Some(ChainRecord::default());
    let epoch = metadata.register_broker(1, lease, broker(), chain).await.unwrap().unwrap();
    assert_eq!(metadata.load_chain(1, epoch).await.unwrap().unwrap().record, ChainRecord::default());
    assert_eq!(metadata.register_broker(1, lease, broker(), chain).await.unwrap(), None);
    let chains = metadata.list_chains().await.unwrap().items;
    assert_eq!(
        chains.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
        [(1, epoch)],
        "who is refused has none"
    );
    assert_eq!(metadata.load_broker(1).await.unwrap().unwrap().record.epoch, epoch);
    assert_eq!(metadata.load_broker(2).await.unwrap(), None);
}

#[tokio::test]
async fn a_former_controller_writes_nothing() {
    let metadata = metadata();
    let (a, b) = (new_topic("a", 2), new_topic("b", 1));
    let created = metadata.create_topics(&[a.clone(), b.clone()]).await.unwrap();
    let lease = metadata.store().lease_grant(Duration::from_secs(10)).await.unwrap().id;
    let first = ControllerRecord { node_id: 1, epoch: 1 };
    let office = metadata.elect_controller(lease, &first).await.unwrap().unwrap();
    let again = metadata.elect_controller(lease, &first).await.unwrap();
    assert_eq!(again, Some(office), "an answer that was lost");
    let record = AssignmentRecord { partitions: vec![PartitionAssignment::new(2, 9, 1)] };
    let change = |topic: &NewTopic, revision| (topic.topic.topic_id, revision, record.clone());
    let stale = change(&b, Revision(created[1].unwrap().0 + 1));
    let written = metadata.assign(office, &[change(&a, created[0].unwrap()), stale]).await.unwrap();
    assert!(written[0].is_some() && written[1].is_none(), "{written:?}");
    let slot = CoordinatorRecord { slot: PartitionAssignment::new(2, 9, 0) };
    let all: Vec<_> = (0..50).map(|n| (n, None, slot)).collect();
    assert!(metadata.assign_coordinators(office, &all).await.unwrap().iter().all(Option::is_some));
    assert_eq!(metadata.list_coordinators().await.unwrap().items.len(), 50);

    metadata.store().lease_revoke(lease).await.unwrap();
    let lease = metadata.store().lease_grant(Duration::from_secs(10)).await.unwrap().id;
    let second = ControllerRecord { node_id: 2, epoch: 2 };
    let successor = metadata.elect_controller(lease, &second).await.unwrap().unwrap();
    assert!(!metadata.holds_office(office).await.unwrap() && metadata.holds_office(successor).await.unwrap());
    let late = change(&b, created[1].unwrap());
    assert_eq!(metadata.assign(office, std::slice::from_ref(&late)).await.unwrap(), [None]);
    assert!(metadata.assign(successor, &[late]).await.unwrap()[0].is_some());
    assert_eq!(metadata.assign_coordinators(office, &[(0, written[0], slot)]).await.unwrap(), [None]);
}

#[tokio::test]
async fn broker_configs_are_swapped() {
    let metadata = metadata();
    let record = BrokerConfigRecord { configs: [("a".to_owned(), "b".to_owned())].into() };
    for scope in [ConfigScope::Broker(3), ConfigScope::Default] {
        assert_eq!(metadata.load_broker_config(scope).await.unwrap(), None);
        let revision = metadata.swap_broker_config(scope, None, &record).await.unwrap().unwrap();
        assert_eq!(metadata.swap_broker_config(scope, None, &record).await.unwrap(), None);
        assert!(metadata.swap_broker_config(scope, Some(revision), &record).await.unwrap().is_some());
        assert_eq!(metadata.load_broker_config(scope).await.unwrap().unwrap().record, record);
    }
    let scopes: Vec<_> =
        metadata.list_broker_configs().await.unwrap().items.into_iter().map(|i| i.0).collect();
    assert_eq!(scopes, [ConfigScope::Broker(3), ConfigScope::Default]);
}

#[tokio::test]
async fn what_is_no_record_is_an_error_that_names_its_key() {
    let metadata = metadata();
    let keys = metadata.keys().clone();
    metadata.store().put(&keys.topic("odd"), "[]".into()).await.unwrap();
    let error = metadata.list_topics().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("/kafscale/test/topics/odd"), "{error}");
    metadata.store().put(&keys.topic("odd"), r#"{"v":2}"#.into()).await.unwrap();
    assert_eq!(metadata.list_topics().await.unwrap_err().kind(), ErrorKind::NewerVersion);
    metadata.store().delete(&keys.topic("odd")).await.unwrap();
    metadata.store().put(&format!("{}%2f", keys.topics_prefix()), "{}".into()).await.unwrap();
    assert_eq!(metadata.list_topics().await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn batches_keep_the_order_and_the_limits() {
    let items: Vec<usize> = (0..1000).collect();
    let batches = in_batches(items.clone(), 128, |i| (2, i * 100));
    assert!(batches.iter().all(|b| b.len() <= 64 && b.iter().sum::<usize>() * 100 <= crate::MAX_TXN_BYTES));
    assert_eq!(batches.concat(), items);
    assert_eq!(in_batches(vec![1, 2], 128, |_| (1, usize::MAX / 4)), [[1], [2]]);
    assert!(in_batches(Vec::<u8>::new(), 128, |_| (1, 1)).is_empty());
}
