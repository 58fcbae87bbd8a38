//! Topics and settings: created, described, altered and deleted as Kafka's tools do it.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_configs_request::{
    AlterConfigsResource as AlterConfigsResourceOld, AlterableConfig as AlterableConfigOld,
};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResult;
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    AlterConfigsRequest, BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest,
    DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest, DescribeLogDirsRequest,
    DescribeProducersRequest, DescribeTopicPartitionsRequest, IncrementalAlterConfigsRequest,
    MetadataRequest, MetadataResponse,
};

use crate::client::{Client, name, text};
use crate::harness::{Harness, batch, sequenced};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

fn topic(topic: &str, partitions: i32) -> CreatableTopic {
    CreatableTopic::default()
        .with_name(name(topic))
        .with_num_partitions(partitions)
        .with_replication_factor(-1)
}

async fn create(
    client: &mut Client,
    topics: Vec<CreatableTopic>,
    validate_only: bool,
) -> Vec<Option<ResponseError>> {
    let request = CreateTopicsRequest::default().with_topics(topics).with_validate_only(validate_only);
    let response = client.call(7, &request).await;
    response.topics.iter().map(|t| ResponseError::try_from_code(t.error_code)).collect()
}

async fn metadata(client: &mut Client, topics: Option<&[&str]>, create: bool) -> MetadataResponse {
    let asked = |topic: &&str| MetadataRequestTopic::default().with_name(Some(name(topic)));
    let request = MetadataRequest::default()
        .with_topics(topics.map(|topics| topics.iter().map(asked).collect()))
        .with_allow_auto_topic_creation(create);
    client.call(12, &request).await
}

#[tokio::test]
async fn a_topic_is_created_or_refused_with_a_reason() {
    let harness = Harness::start_with(|config| config.max_partitions = 5000).await;
    let mut client = harness.client().await;
    let assigned = |brokers: &[i32]| {
        let ids = brokers.iter().copied().map(BrokerId).collect();
        let one = CreatableReplicaAssignment::default().with_broker_ids(ids);
        topic("assigned", -1).with_assignments(vec![one])
    };
    let config = |key: &str, value: Option<&str>| {
        let config = CreatableTopicConfig::default().with_name(text(key)).with_value(value.map(text));
        topic("configured", 1).with_configs(vec![config])
    };
    let mut replicated = topic("replicated", 2);
    replicated.replication_factor = 3;
    let mut unreplicated = topic("unreplicated", 2);
    unreplicated.replication_factor = 0;
    let cases = vec![
        (topic("a.b", 3), None),
        (topic("default-count", -1), None),
        (replicated, None),
        (assigned(&[1]), None),
        (topic("a.b", 3), Some(ResponseError::TopicAlreadyExists)),
        (topic("a_b", 3), Some(ResponseError::InvalidTopicException)),
        (topic("a b", 3), Some(ResponseError::InvalidTopicException)),
        (topic("", 3), Some(ResponseError::InvalidTopicException)),
        (topic("zero", 0), Some(ResponseError::InvalidPartitions)),
        (topic("huge", 100_000), Some(ResponseError::InvalidPartitions)),
        (topic("over-the-limit", 5000), Some(ResponseError::PolicyViolation)),
        (unreplicated, Some(ResponseError::InvalidReplicationFactor)),
        (assigned(&[9]), Some(ResponseError::InvalidReplicaAssignment)),
        (assigned(&[1, 1]), Some(ResponseError::InvalidReplicaAssignment)),
        (config("retention.ms", Some("x")), Some(ResponseError::InvalidConfig)),
        (config("no.such.key", Some("x")), Some(ResponseError::InvalidConfig)),
        (config("retention.ms", None), Some(ResponseError::InvalidConfig)),
    ];
    for (topic, expected) in cases {
        let what = topic.name.to_string();
        assert_eq!(create(&mut client, vec![topic.clone()], true).await, [expected], "validate {what}");
        assert_eq!(create(&mut client, vec![topic], false).await, [expected], "create {what}");
    }
    let twice =
        create(&mut client, vec![topic("twice", 1), topic("twice", 1), topic("once", 1)], false).await;
    assert_eq!(twice, [Some(ResponseError::InvalidRequest), Some(ResponseError::InvalidRequest), None]);
    let all = metadata(&mut client, None, false).await;
    let names: Vec<_> = all.topics.iter().map(|t| t.name.as_ref().unwrap().as_str()).collect();
    assert_eq!(names, ["a.b", "assigned", "default-count", "once", "replicated"]);
    harness.stop().await;
}

#[tokio::test]
async fn the_answer_describes_the_new_topic() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let config = CreatableTopicConfig::default().with_name(text("retention.ms")).with_value(Some(text("5")));
    let request = CreateTopicsRequest::default().with_topics(vec![topic("t", 3).with_configs(vec![config])]);
    for version in 2..=7 {
        let mut request = request.clone();
        request.topics[0].name = name(&format!("t{version}"));
        let response = client.call(version, &request).await;
        let created = &response.topics[0];
        assert_eq!(created.error_code, 0, "version {version}");
        if version >= 5 {
            assert_eq!((created.num_partitions, created.replication_factor), (3, 1));
            let configs = created.configs.as_ref().unwrap();
            let retention = configs.iter().find(|c| c.name.as_str() == "retention.ms").unwrap();
            assert_eq!((retention.value.as_deref(), retention.config_source), (Some("5"), 1));
        }
        assert_eq!(created.topic_id.is_nil(), version < 7);
    }
    harness.stop().await;
}

#[tokio::test]
async fn ten_thousand_partitions_are_created_at_once() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let topics = (0..100).map(|i| topic(&format!("t{i}"), 100)).collect();
    assert!(create(&mut client, topics, false).await.iter().all(Option::is_none));
    let all = metadata(&mut client, None, false).await;
    assert_eq!(all.topics.iter().map(|t| t.partitions.len()).sum::<usize>(), 10_000);
    assert_eq!(client.produce("t99", 99, batch(&["x"])).await.error_code, 0);
    harness.stop().await;
}

#[tokio::test]
async fn a_missing_topic_is_created_only_when_both_sides_want_it() {
    for (broker, client_wants, expected) in [(true, true, 0), (true, false, 3), (false, true, 3)] {
        let harness = Harness::start_with(|config| {
            config.auto_create_topics = broker;
            config.num_partitions = 4;
        })
        .await;
        let mut client = harness.client().await;
        let response = metadata(&mut client, Some(&["new", "no/name"]), client_wants).await;
        assert_eq!(response.topics[0].error_code, expected);
        assert_eq!(response.topics[0].partitions.len(), if expected == 0 { 4 } else { 0 });
        assert_eq!(response.topics[1].error_code, ResponseError::InvalidTopicException.code());
        harness.stop().await;
    }
}

#[tokio::test]
async fn a_crowd_creates_a_topic_once() {
    let harness = Harness::start().await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(harness.client().await);
    }
    let asked = MetadataRequestTopic::default().with_name(Some(name("crowd")));
    let request =
        MetadataRequest::default().with_topics(Some(vec![asked])).with_allow_auto_topic_creation(true);
    for client in &mut clients {
        client.send(12, &request).await;
    }
    let mut ids = std::collections::HashSet::new();
    for client in &mut clients {
        let response = client.receive::<MetadataRequest>(12, client.correlation_id()).await;
        assert_eq!(response.topics[0].error_code, 0);
        ids.insert(response.topics[0].topic_id);
    }
    assert_eq!(ids.len(), 1);
    harness.stop().await;
}

#[tokio::test]
async fn every_version_of_metadata_is_answered() {
    let harness = Harness::start_with(|config| config.rack = Some("r1".into())).await;
    let mut client = harness.client().await;
    client.create_topic("t", 2, &[]).await;
    for version in 0..=13 {
        let everything = if version == 0 { Some(Vec::new()) } else { None };
        let response = client.call(version, &MetadataRequest::default().with_topics(everything)).await;
        assert_eq!(response.topics.len(), 1, "version {version}");
        assert_eq!(response.topics[0].partitions.len(), 2);
        assert_eq!(response.topics[0].partitions[0].leader_id, BrokerId(1));
        assert_eq!(response.brokers[0].port, i32::from(harness.broker.kafka_addr().port()));
        assert_eq!(response.brokers[0].rack.as_deref(), (version >= 1).then_some("r1"));
        assert_eq!(response.cluster_id.is_some(), version >= 2);
        if version >= 1 {
            let nothing = MetadataRequest::default().with_topics(Some(Vec::new()));
            assert!(client.call(version, &nothing).await.topics.is_empty());
        }
        let asked = MetadataRequestTopic::default().with_name(Some(name("missing")));
        let request = MetadataRequest::default().with_topics(Some(vec![asked]));
        let request = if version >= 4 { request.with_allow_auto_topic_creation(false) } else { continue };
        let response = client.call(version, &request).await;
        assert_eq!(response.topics[0].error_code, ResponseError::UnknownTopicOrPartition.code());
    }
    let by_id = MetadataRequestTopic::default().with_name(None).with_topic_id(uuid::Uuid::from_u128(7));
    let response = client.call(12, &MetadataRequest::default().with_topics(Some(vec![by_id]))).await;
    assert_eq!(response.topics[0].error_code, ResponseError::UnknownTopicId.code());
    harness.stop().await;
}

#[tokio::test]
async fn a_deleted_topic_is_gone_and_its_name_is_free() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    client.produce("t", 0, batch(&["old"])).await;
    let old = metadata(&mut client, Some(&["t"]), false).await.topics[0].topic_id;
    let by_name = DeleteTopicsRequest::default().with_topic_names(vec![name("t"), name("nope")]);
    let response = client.call(5, &by_name).await;
    let codes: Vec<_> = response.responses.iter().map(|r| r.error_code).collect();
    assert_eq!(codes, [0, ResponseError::UnknownTopicOrPartition.code()]);
    let gone = client.produce("t", 0, batch(&["x"])).await;
    assert_eq!(gone.error_code, ResponseError::UnknownTopicOrPartition.code());
    client.create_topic("t", 1, &[]).await;
    assert_eq!(client.produce("t", 0, batch(&["new"])).await.base_offset, 0, "old records came back");
    let new = metadata(&mut client, Some(&["t"]), false).await.topics[0].topic_id;
    let by_id = |id| DeleteTopicState::default().with_name(None).with_topic_id(id);
    let response =
        client.call(6, &DeleteTopicsRequest::default().with_topics(vec![by_id(old), by_id(new)])).await;
    assert_eq!(response.responses[0].error_code, ResponseError::UnknownTopicId.code());
    assert_eq!((response.responses[1].error_code, response.responses[1].topic_id), (0, new));
    assert_eq!(response.responses[1].name.as_ref().unwrap().as_str(), "t");
    harness.stop().await;
}

#[tokio::test]
async fn partitions_are_added_never_taken() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 2, &[]).await;
    client.produce("t", 1, batch(&["kept"])).await;
    for version in 0..=3 {
        let grow = |topic: &str, count| {
            let topic = CreatePartitionsTopic::default()
                .with_name(name(topic))
                .with_count(count)
                .with_assignments(None);
            CreatePartitionsRequest::default().with_topics(vec![topic])
        };
        let count = 3 + i32::from(version);
        for (request, expected) in [
            (grow("t", count - 1), ResponseError::InvalidPartitions.code()),
            (grow("t", 1), ResponseError::InvalidPartitions.code()),
            (grow("t", 1_000_000), ResponseError::InvalidPartitions.code()),
            (grow("nope", 5), ResponseError::UnknownTopicOrPartition.code()),
            (grow("t", count).with_validate_only(true), 0),
            (grow("t", count), 0),
        ] {
            let response = client.call(version, &request).await;
            assert_eq!(response.results[0].error_code, expected, "version {version}: {request:?}");
        }
        assert_eq!(client.produce("t", count - 1, batch(&["x"])).await.error_code, 0);
    }
    assert_eq!(client.fetch("t", 1, 0).await.high_watermark, 1);
    harness.stop().await;
}

#[tokio::test]
async fn what_a_request_names_twice_is_left_alone() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let twice_only = [ResponseError::InvalidRequest.code(), ResponseError::InvalidRequest.code(), 0];
    for topic in ["twice", "once", "other"] {
        client.create_topic(topic, 1, &[]).await;
    }

    let grow = |topic: &str, count| {
        CreatePartitionsTopic::default().with_name(name(topic)).with_count(count).with_assignments(None)
    };
    let topics = vec![grow("twice", 2), grow("twice", 3), grow("once", 2)];
    let request = CreatePartitionsRequest::default().with_topics(topics).with_timeout_ms(10_000);
    let grown = client.call(3, &request).await;
    assert_eq!(grown.results.iter().map(|r| r.error_code).collect::<Vec<_>>(), twice_only);
    let known = metadata(&mut client, Some(&["twice", "once"]), false).await;
    assert_eq!(known.topics.iter().map(|t| t.partitions.len()).collect::<Vec<_>>(), [1, 2]);

    let set = |topic: &str, values: &[&str]| {
        let one = |value: &&str| {
            AlterableConfigOld::default().with_name(text("retention.ms")).with_value(Some(text(value)))
        };
        AlterConfigsResourceOld::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text(topic))
            .with_configs(values.iter().map(one).collect())
    };
    for (resources, expected) in [
        (vec![set("twice", &["1"]), set("twice", &["2"]), set("once", &["3"])], &twice_only[..]),
        (vec![set("twice", &["1", "2"])], &twice_only[..1]),
    ] {
        let altered = client.call(2, &AlterConfigsRequest::default().with_resources(resources)).await;
        assert_eq!(altered.responses.iter().map(|r| r.error_code).collect::<Vec<_>>(), expected);
    }
    assert_eq!(value(&describe(&mut client, TOPIC, "twice").await, "retention.ms").1, 5);
    assert_eq!(value(&describe(&mut client, TOPIC, "once").await, "retention.ms"), ("3".into(), 1));

    let by_name = |topic: &str| DeleteTopicState::default().with_name(Some(name(topic)));
    let id = known.topics[0].topic_id;
    let by_id = DeleteTopicState::default().with_name(None).with_topic_id(id);
    for (second, third) in [(by_name("twice"), "once"), (by_id, "other")] {
        let topics = vec![by_name("twice"), second, by_name(third)];
        let deleted =
            client.call(6, &DeleteTopicsRequest::default().with_topics(topics).with_timeout_ms(10_000)).await;
        assert_eq!(deleted.responses.iter().map(|r| r.error_code).collect::<Vec<_>>(), twice_only);
    }
    let left = metadata(&mut client, None, false).await;
    assert_eq!(left.topics.iter().map(|t| t.topic_id).collect::<Vec<_>>(), [id]);
    harness.stop().await;
}

#[tokio::test]
async fn records_are_deleted_up_to_an_offset() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    client.create_topic("compacted", 1, &[("cleanup.policy", "compact")]).await;
    for value in ["a", "b", "c"] {
        client.produce("t", 0, batch(&[value])).await;
    }
    for (topic, offset, expected) in [
        ("t", 2, Ok(2)),
        ("t", 1, Ok(2)), // the start never moves back
        ("t", 9, Err(ResponseError::OffsetOutOfRange)),
        ("t", -2, Err(ResponseError::OffsetOutOfRange)),
        ("t", -1, Ok(3)),
        ("compacted", 0, Err(ResponseError::PolicyViolation)),
        ("nope", 0, Err(ResponseError::UnknownTopicOrPartition)),
    ] {
        let partition = DeleteRecordsPartition::default().with_offset(offset);
        let topic = DeleteRecordsTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
        let response = client.call(2, &DeleteRecordsRequest::default().with_topics(vec![topic])).await;
        let result = &response.topics[0].partitions[0];
        let got = ResponseError::try_from_code(result.error_code).map_or(Ok(result.low_watermark), Err);
        assert_eq!(got, expected, "{offset}");
    }
    assert_eq!(client.fetch("t", 0, 3).await.log_start_offset, 3);
    harness.stop().await;
}

async fn describe(client: &mut Client, kind: i8, resource: &str) -> DescribeConfigsResult {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(resource))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default()
        .with_resources(vec![resource])
        .with_include_synonyms(true)
        .with_include_documentation(true);
    client.call(4, &request).await.results[0].clone()
}

fn value(described: &DescribeConfigsResult, key: &str) -> (String, i8) {
    let found = described.configs.iter().find(|c| c.name.as_str() == key).unwrap();
    assert!(found.documentation.as_ref().is_some_and(|d| !d.is_empty()) && found.config_type != 0);
    (found.value.as_ref().unwrap().to_string(), found.config_source)
}

async fn alter(client: &mut Client, kind: i8, resource: &str, changes: &[(&str, i8, Option<&str>)]) -> i16 {
    let change = |(key, operation, value): &(&str, i8, Option<&str>)| {
        AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(*operation)
            .with_value(value.map(text))
    };
    let resource = AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(resource))
        .with_configs(changes.iter().map(change).collect());
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    client.call(1, &request).await.responses[0].error_code
}

#[tokio::test]
async fn settings_of_a_topic_are_altered_and_obeyed() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    assert_eq!(value(&describe(&mut client, TOPIC, "t").await, "max.message.bytes"), ("1048588".into(), 5));
    assert_eq!(alter(&mut client, TOPIC, "t", &[("max.message.bytes", 0, Some("100"))]).await, 0);
    assert_eq!(value(&describe(&mut client, TOPIC, "t").await, "max.message.bytes"), ("100".into(), 1));
    let large = batch(&["x".repeat(200).as_str()]);
    assert_eq!(client.produce("t", 0, large.clone()).await.error_code, ResponseError::MessageTooLarge.code());
    assert_eq!(alter(&mut client, TOPIC, "t", &[("max.message.bytes", 1, None)]).await, 0);
    assert_eq!(client.produce("t", 0, large).await.error_code, 0);
    assert_eq!(alter(&mut client, TOPIC, "t", &[("cleanup.policy", 2, Some("compact"))]).await, 0);
    assert_eq!(value(&describe(&mut client, TOPIC, "t").await, "cleanup.policy").0, "delete,compact");
    assert_eq!(alter(&mut client, TOPIC, "t", &[("cleanup.policy", 3, Some("delete"))]).await, 0);
    assert_eq!(value(&describe(&mut client, TOPIC, "t").await, "cleanup.policy").0, "compact");
    for (changes, expected) in [
        (&[("retention.ms", 0, Some("x"))][..], ResponseError::InvalidConfig),
        (&[("no.such.key", 0, Some("x"))], ResponseError::InvalidConfig),
        (&[("retention.ms", 2, Some("5"))], ResponseError::InvalidConfig),
        (&[("retention.ms", 0, None)], ResponseError::InvalidRequest),
        (&[("retention.ms", 9, Some("5"))], ResponseError::InvalidRequest),
        (&[("retention.ms", 0, Some("5")), ("retention.ms", 1, None)], ResponseError::InvalidRequest),
        (
            &[("min.compaction.lag.ms", 0, Some("10")), ("max.compaction.lag.ms", 0, Some("5"))],
            ResponseError::InvalidConfig,
        ),
    ] {
        assert_eq!(alter(&mut client, TOPIC, "t", changes).await, expected.code(), "{changes:?}");
    }
    let unknown = alter(&mut client, TOPIC, "nope", &[("retention.ms", 0, Some("5"))]).await;
    assert_eq!(unknown, ResponseError::UnknownTopicOrPartition.code());
    assert_eq!(describe(&mut client, TOPIC, "nope").await.error_code, unknown);
    harness.stop().await;
}

#[tokio::test]
async fn settings_of_the_broker_are_defaults_of_topics() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    assert_eq!(alter(&mut client, BROKER, "", &[("message.max.bytes", 0, Some("100"))]).await, 0);
    assert_eq!(value(&describe(&mut client, TOPIC, "t").await, "max.message.bytes"), ("100".into(), 3));
    assert_eq!(describe(&mut client, BROKER, "").await.configs.len(), 1);
    let large = batch(&["x".repeat(200).as_str()]);
    assert_eq!(client.produce("t", 0, large.clone()).await.error_code, ResponseError::MessageTooLarge.code());
    assert_eq!(alter(&mut client, BROKER, "1", &[("message.max.bytes", 0, Some("1000"))]).await, 0);
    assert_eq!(value(&describe(&mut client, BROKER, "1").await, "message.max.bytes"), ("1000".into(), 2));
    assert_eq!(client.produce("t", 0, large).await.error_code, 0);
    assert_eq!(value(&describe(&mut client, BROKER, "1").await, "node.id"), ("1".into(), 4));
    let fixed = alter(&mut client, BROKER, "1", &[("num.partitions", 0, Some("3"))]).await;
    assert_eq!(fixed, ResponseError::InvalidRequest.code());
    assert_eq!(describe(&mut client, BROKER, "2").await.error_code, ResponseError::InvalidRequest.code());
    assert_eq!(describe(&mut client, 8, "1").await.error_code, ResponseError::InvalidRequest.code());
    harness.stop().await;
}

#[tokio::test]
async fn topics_are_described_in_pages() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    for topic in ["a", "b", "c"] {
        client.create_topic(topic, 3, &[]).await;
    }
    let (mut seen, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let request = DescribeTopicPartitionsRequest::default()
            .with_response_partition_limit(4)
            .with_cursor(cursor.take());
        let response = client.call(0, &request).await;
        pages += 1;
        for topic in &response.topics {
            let name = topic.name.as_ref().unwrap().to_string();
            seen.extend(topic.partitions.iter().map(|p| format!("{name}{}", p.partition_index)));
        }
        let Some(next) = response.next_cursor else { break };
        let next =
            Cursor::default().with_topic_name(next.topic_name).with_partition_index(next.partition_index);
        cursor = Some(next);
    }
    assert_eq!(seen, ["a0", "a1", "a2", "b0", "b1", "b2", "c0", "c1", "c2"]);
    assert_eq!(pages, 3);
    let asked = ["nope", "b"].map(|topic| TopicRequest::default().with_name(name(topic)));
    let request = DescribeTopicPartitionsRequest::default()
        .with_topics(asked.to_vec())
        .with_response_partition_limit(2000)
        .with_cursor(None);
    let response = client.call(0, &request).await;
    let codes: Vec<_> = response.topics.iter().map(|t| (t.error_code, t.partitions.len())).collect();
    assert_eq!(codes, [(0, 3), (ResponseError::UnknownTopicOrPartition.code(), 0)]);
    harness.stop().await;
}

#[tokio::test]
async fn the_cluster_its_producers_and_its_disk_are_described() {
    let harness = Harness::start_with(|config| config.store = "memory:".into()).await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    client.produce("t", 0, sequenced(&["a", "b"], 77, 0, 0)).await;
    for version in 0..=2 {
        let response = client.call(version, &DescribeClusterRequest::default()).await;
        assert_eq!((response.error_code, response.controller_id), (0, BrokerId(1)));
        assert_eq!(response.cluster_id.as_str(), "test-cluster-id-0123456");
    }
    let controllers = DescribeClusterRequest::default().with_endpoint_type(2);
    let response = client.call(1, &controllers).await;
    assert_eq!(response.error_code, ResponseError::MismatchedEndpointType.code());
    let asked = kafka_protocol::messages::describe_producers_request::TopicRequest::default()
        .with_name(name("t"))
        .with_partition_indexes(vec![0, 5]);
    let response = client.call(0, &DescribeProducersRequest::default().with_topics(vec![asked])).await;
    let [known, unknown] = &response.topics[0].partitions[..] else { panic!("{response:?}") };
    assert_eq!((known.active_producers[0].producer_id.0, known.active_producers[0].last_sequence), (77, 1));
    assert_eq!(unknown.error_code, ResponseError::UnknownTopicOrPartition.code());
    for version in 1..=4 {
        let response = client.call(version, &DescribeLogDirsRequest::default().with_topics(None)).await;
        assert_eq!(response.results[0].log_dir.as_str(), "memory:");
        assert!(response.results[0].topics[0].partitions[0].partition_size > 60);
    }
    harness.stop().await;
}
