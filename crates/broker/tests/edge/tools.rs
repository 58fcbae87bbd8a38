//! What Kafka's tools, operators and Connect ask of a broker without replicas: the settings that they give topics, and requests whose
//! true answer is that there is nothing to do.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterReplicaLogDirsRequest, ApiVersionsRequest, BrokerId,
    CreateTopicsRequest, DescribeQuorumRequest, ElectLeadersRequest, IncrementalAlterConfigsRequest,
    ListConfigResourcesRequest, ListOffsetsRequest, ListPartitionReassignmentsRequest, UpdateFeaturesRequest,
};
use kafscale_core::batch::{BatchHeader, Codec};
use kafscale_core::records;
use tokio::io::AsyncWriteExt;

use crate::client::{Client, frame, name, text};
use crate::harness::{Harness, batch, sequenced};

async fn create(client: &mut Client, topic: &str, configs: &[(&str, &str)]) -> (i16, String) {
    let config = |(key, value): &(&str, &str)| {
        CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value)))
    };
    let topic = CreatableTopic::default()
        .with_name(name(topic))
        .with_num_partitions(1)
        .with_replication_factor(3)
        .with_configs(configs.iter().map(config).collect());
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(5000);
    let created = client.call(7, &request).await.topics.remove(0);
    (created.error_code, created.error_message.map(|m| m.to_string()).unwrap_or_default())
}

/// What Kafka Connect, Debezium, Strimzi's topic operator and Terraform's provider give the topics that they create.
#[tokio::test]
async fn topics_are_created_with_the_settings_that_operators_give() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let accepted: &[&[(&str, &str)]] = &[
        &[
            ("cleanup.policy", "compact"),
            ("min.insync.replicas", "2"),
            ("unclean.leader.election.enable", "false"),
        ],
        &[("compression.type", "lz4"), ("cleanup.policy", "delete"), ("retention.ms", "604800000")],
        &[("compression.type", "snappy"), ("max.message.bytes", "1048588"), ("segment.bytes", "1073741824")],
        &[("compression.type", "gzip"), ("compression.gzip.level", "9")],
        &[("compression.type", "zstd"), ("compression.zstd.level", "10"), ("compression.lz4.level", "12")],
        &[("compression.type", "uncompressed"), ("segment.bytes", "1048576")],
        &[("remote.storage.enable", "false"), ("local.retention.ms", "-2"), ("local.retention.bytes", "-2")],
        &[("remote.log.copy.disable", "false"), ("remote.log.delete.on.disable", "false")],
        &[("leader.replication.throttled.replicas", ""), ("follower.replication.throttled.replicas", "0:1")],
        &[("cleanup.policy", "")],
    ];
    for (i, configs) in accepted.iter().enumerate() {
        assert_eq!(
            create(&mut client, &format!("accepted-{i}"), configs).await,
            (0, String::new()),
            "{configs:?}"
        );
    }
    for (configs, words) in [
        (("remote.storage.enable", "true"), "one tier of storage"),
        (("segment.bytes", "1048575"), "Value must be at least 1048576"),
        (("compression.type", "brotli"), "String must be one of"),
        (("compression.gzip.level", "0"), "between 1 and 9 or equal to -1"),
        (("no.such.key", "1"), "Unknown topic config name: no.such.key"),
    ] {
        let (code, message) = create(&mut client, "refused", &[configs]).await;
        assert_eq!(code, ResponseError::InvalidConfig.code(), "{configs:?}");
        assert!(message.contains(words), "{configs:?}: {message}");
    }
    harness.stop().await;
}

#[tokio::test]
async fn settings_of_brokers_are_altered_or_refused_in_their_own_words() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let mut alter = async |kind: i8, resource: &str, key: &str, operation: i8, value: &str| {
        let change = AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(operation)
            .with_value(Some(text(value)));
        let resource = AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(resource))
            .with_configs(vec![change]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let response = client.call(1, &request).await.responses.remove(0);
        (response.error_code, response.error_message.map(|m| m.to_string()).unwrap_or_default())
    };
    for (resource, key, value) in [
        ("", "log.cleaner.threads", "2"),
        ("1", "leader.replication.throttled.rate", "1000000"),
        ("1", "follower.replication.throttled.rate", "1000000"),
        ("", "compression.type", "zstd"),
        ("", "log.local.retention.ms", "1000"),
    ] {
        for (operation, value) in [(0, value), (1, "")] {
            assert_eq!(alter(4, resource, key, operation, value).await, (0, String::new()), "{key}");
        }
    }
    for (kind, resource, key, value, words) in [
        (4, "1", "num.partitions", "4", "Cannot update these configs dynamically: [num.partitions]"),
        (
            4,
            "1",
            "ssl.keystore.location",
            "/x",
            "how clients are authenticated is chosen when the broker starts",
        ),
        (4, "1", "foo.bar", "1", "Unknown broker config name: foo.bar"),
        (4, "", "log.cleaner.threads", "x", "Not a number of type INT"),
        (4, "", "log.segment.bytes", "1000", "Value must be at least 1048576"),
        (8, "1", "root", "DEBUG", "The log level is chosen when the broker starts"),
        (16, "m", "interval.ms", "1000", "Client metrics are not collected"),
        (32, "g", "consumer.session.timeout.ms", "46000", "Groups have no settings here"),
    ] {
        let (code, message) = alter(kind, resource, key, 0, value).await;
        assert_eq!(code, ResponseError::InvalidRequest.code(), "{key}: {message}");
        assert!(message.contains(words), "{key}: {message}");
    }
    harness.stop().await;
}

#[tokio::test]
async fn a_topic_has_its_own_codec_and_producers_keep_their_sequences() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let codecs = [
        ("producer", Codec::None),
        ("uncompressed", Codec::None),
        ("gzip", Codec::Gzip),
        ("snappy", Codec::Snappy),
        ("lz4", Codec::Lz4),
        ("zstd", Codec::Zstd),
    ];
    for (config, codec) in codecs {
        client.create_topic(config, 1, &[("compression.type", config)]).await;
        let long = "long ".repeat(200);
        let sent = sequenced(&[long.as_str(), "b", "c"], 77, 0, 0);
        assert_eq!(client.produce(config, 0, sent.clone()).await.base_offset, 0);
        let next = client.produce(config, 0, sequenced(&["d"], 77, 0, 3)).await;
        assert_eq!((next.error_code, next.base_offset), (0, 3), "{config}");
        let again = client.produce(config, 0, sent.clone()).await;
        assert_eq!((again.error_code, again.base_offset), (0, 0), "{config}: a batch that was sent again");
        let gap = client.produce(config, 0, sequenced(&["x"], 77, 0, 9)).await;
        assert_eq!(gap.error_code, ResponseError::OutOfOrderSequenceNumber.code(), "{config}");
        let fetched = client.fetch(config, 0, 0).await;
        assert_eq!(fetched.high_watermark, 4);
        let stored = fetched.records.unwrap();
        let header = BatchHeader::parse(&stored).unwrap();
        assert_eq!((header.codec(), header.records_count, header.producer_id), (codec, 3, 77), "{config}");
        assert!(header.crc_matches(&stored[..header.size_bytes]));
        let before = BatchHeader::parse(&sent).unwrap();
        assert_eq!(header.max_timestamp_ms, before.max_timestamp_ms);
        assert_eq!(records::inflate(&header, &stored).unwrap(), records::inflate(&before, &sent).unwrap());
    }
    client
        .create_topic("small", 1, &[("compression.type", "uncompressed"), ("max.message.bytes", "100")])
        .await;
    let large = batch(&["x".repeat(200).as_str()]);
    assert_eq!(client.produce("small", 0, large).await.error_code, ResponseError::MessageTooLarge.code());
    harness.stop().await;
}

#[tokio::test]
async fn no_election_is_needed_where_there_is_a_leader() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 2, &[]).await;
    let asked = |topic: &str, partitions: Vec<i32>| {
        TopicPartitions::default().with_topic(name(topic)).with_partitions(partitions)
    };
    for version in 0..=2 {
        let topics = vec![asked("t", vec![0, 1, 1, 9]), asked("nope", vec![0])];
        let request = ElectLeadersRequest::default().with_topic_partitions(Some(topics));
        let response = client.call(version, &request).await;
        let codes = response.replica_election_results.iter().flat_map(|t| &t.partition_result);
        let codes: Vec<_> = codes.map(|p| p.error_code).collect();
        assert_eq!(codes, [84, 84, 3, 3], "version {version}");
        let all = client.call(version, &ElectLeadersRequest::default().with_topic_partitions(None)).await;
        assert!(all.replica_election_results.is_empty(), "a partition without a leader: {all:?}");
    }
    harness.stop().await;
}

#[tokio::test]
async fn a_reassignment_to_the_owner_is_done_and_others_are_refused() {
    let harness = Harness::start_with(|config| config.store = "memory:".into()).await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    let to = |topic: &str, replicas: Option<Vec<i32>>| {
        let replicas = replicas.map(|ids| ids.into_iter().map(BrokerId).collect());
        let partition = ReassignablePartition::default().with_partition_index(0).with_replicas(replicas);
        let topic = ReassignableTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
        AlterPartitionReassignmentsRequest::default().with_topics(vec![topic])
    };
    for (request, expected) in [
        (to("t", Some(vec![1])), 0),
        (to("t", Some(vec![7])), ResponseError::InvalidReplicaAssignment.code()),
        (to("t", Some(vec![1, 1])), ResponseError::InvalidReplicaAssignment.code()),
        (to("t", Some(vec![])), ResponseError::InvalidReplicaAssignment.code()),
        (to("t", None), ResponseError::NoReassignmentInProgress.code()),
        (to("nope", Some(vec![1])), ResponseError::UnknownTopicOrPartition.code()),
    ] {
        for version in 0..=1 {
            let response = client.call(version, &request).await;
            assert_eq!(response.responses[0].partitions[0].error_code, expected, "{request:?}");
        }
    }
    let none = client.call(0, &ListPartitionReassignmentsRequest::default().with_topics(None)).await;
    assert!(none.error_code == 0 && none.topics.is_empty());
    for (path, topic, expected) in [
        ("memory:", "t", 0),
        ("/other", "t", ResponseError::LogDirNotFound.code()),
        ("memory:", "nope", ResponseError::UnknownTopicOrPartition.code()),
    ] {
        let topic = AlterReplicaLogDirTopic::default().with_name(name(topic)).with_partitions(vec![0]);
        let dir = AlterReplicaLogDir::default().with_path(text(path)).with_topics(vec![topic]);
        let request = AlterReplicaLogDirsRequest::default().with_dirs(vec![dir]);
        let response = client.call(2, &request).await;
        assert_eq!(response.results[0].partitions[0].error_code, expected, "{path}");
    }
    harness.stop().await;
}

#[tokio::test]
async fn the_metadata_has_a_leader_without_lag() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let of = |topic: &str| {
        let partition = PartitionData::default().with_partition_index(0);
        let topic = TopicData::default().with_topic_name(name(topic)).with_partitions(vec![partition]);
        DescribeQuorumRequest::default().with_topics(vec![topic])
    };
    for version in 0..=2 {
        let response = client.call(version, &of("__cluster_metadata")).await;
        let partition = &response.topics[0].partitions[0];
        assert_eq!((response.error_code, partition.error_code, partition.leader_id), (0, 0, BrokerId(1)));
        assert_eq!(partition.current_voters[0].log_end_offset, partition.high_watermark);
        assert!(partition.high_watermark > 0 && partition.observers.is_empty());
        let refused = client.call(version, &of("t")).await;
        assert_eq!(refused.error_code, ResponseError::UnknownTopicOrPartition.code());
    }
    harness.stop().await;
}

#[tokio::test]
async fn features_have_the_level_of_what_is_not_there() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let named = |version| {
        let request = ApiVersionsRequest::default();
        if version < 3 {
            return request;
        }
        request.with_client_software_name(text("test")).with_client_software_version(text("1"))
    };
    for version in 0..=4 {
        let response = client.call(version, &named(version)).await;
        let levels: Vec<_> =
            response.supported_features.iter().map(|f| (f.min_version, f.max_version)).collect();
        assert_eq!(levels, vec![(0, 0); if version < 4 { 0 } else { 6 }], "version {version}");
        assert!(response.finalized_features.is_empty());
    }
    for (feature, level, expected) in [
        ("group.version", 0, 0),
        ("group.version", 1, ResponseError::InvalidUpdateVersion.code()),
        ("no.such.feature", 0, ResponseError::InvalidUpdateVersion.code()),
    ] {
        for version in 0..=2 {
            let update =
                FeatureUpdateKey::default().with_feature(text(feature)).with_max_version_level(level);
            let request = UpdateFeaturesRequest::default().with_feature_updates(vec![update]);
            assert_eq!(client.call(version, &request).await.error_code, expected, "{feature} {level}");
        }
    }
    harness.stop().await;
}

#[tokio::test]
async fn what_has_settings_is_listed() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    let mut list = async |version, types: &[i8]| {
        let request = ListConfigResourcesRequest::default().with_resource_types(types.to_vec());
        let response = client.call(version, &request).await;
        let found = response.config_resources.iter().map(|r| (r.resource_type, r.resource_name.to_string()));
        (response.error_code, found.collect::<Vec<_>>())
    };
    assert_eq!(list(0, &[]).await, (0, vec![]));
    assert_eq!(list(1, &[]).await, (0, vec![(2, "t".into()), (4, "1".into())]));
    assert_eq!(list(1, &[2, 2]).await, (0, vec![(2, "t".into())]));
    assert_eq!(list(1, &[8, 16, 32]).await, (0, vec![]));
    assert_eq!(list(1, &[99]).await, (ResponseError::UnsupportedVersion.code(), vec![]));
    harness.stop().await;
}

#[tokio::test]
async fn list_offsets_11_has_the_form_of_version_10() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    client.produce("t", 0, batch(&["a", "b"])).await;
    for (timestamp, expected) in [(-1, 2), (-2, 0), (-5, -1), (-6, -1)] {
        let partition = ListOffsetsPartition::default().with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default().with_name(name("t")).with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
        let mut bytes = frame(10, 7, &request);
        bytes[6..8].copy_from_slice(&11i16.to_be_bytes());
        client.stream.write_all(&bytes).await.unwrap();
        let response = client.receive::<ListOffsetsRequest>(10, 7).await;
        let found = &response.topics[0].partitions[0];
        assert_eq!((found.error_code, found.offset), (0, expected), "{timestamp}");
    }
    harness.stop().await;
}
