//! Every API in every version that is offered is answered, with success and with failure: a field that a version does not have
//! would make the response impossible to encode, and close the connection.

use kafka_protocol::messages::alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::incremental_alter_configs_request as incremental;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    AlterConfigsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeConfigsRequest, DescribeLogDirsRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest,
    MetadataRequest, ProduceRequest, TransactionalId,
};
use tokio::io::AsyncWriteExt;

use crate::client::{Client, fetch_request, name, produce_request, text};
use crate::harness::{Harness, batch};

#[tokio::test]
async fn an_empty_request_of_every_version_is_answered() {
    let harness = Harness::start().await;
    for frame in kafscale_broker::fuzz::seeds() {
        let (key, version) =
            (i16::from_be_bytes([frame[0], frame[1]]), i16::from_be_bytes([frame[2], frame[3]]));
        if key == 0 {
            continue; // acks=0 is not answered
        }
        let mut client = harness.client().await;
        client.stream.write_i32(frame.len() as i32).await.unwrap();
        client.stream.write_all(&frame).await.unwrap();
        assert!(client.receive_frame().await.is_some(), "API {key} version {version} was not answered");
    }
    harness.stop().await;
}

#[tokio::test]
async fn configs_are_described_and_altered_in_every_version() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    let resources = [
        (2, "t", 0),
        (4, "1", 0),
        (4, "", 0),
        (2, "nope", 3),
        (4, "7", 42),
        (8, "1", 42),
        (16, "m", 0),
        (32, "g", 0),
    ];
    for version in 1..=4 {
        for (kind, resource, expected) in resources {
            let resource = DescribeConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(text(resource))
                .with_configuration_keys(None);
            let request = DescribeConfigsRequest::default()
                .with_resources(vec![resource])
                .with_include_synonyms(true)
                .with_include_documentation(version >= 3);
            let response = client.call(version, &request).await;
            assert_eq!(response.results[0].error_code, expected, "version {version} of {kind}");
        }
    }
    let changes = [("t", "1000", 0), ("t", "x", 40), ("nope", "1000", 3)];
    for (topic, value, expected) in changes {
        for version in 0..=2 {
            let config =
                AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text(value)));
            let resource = AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text(topic))
                .with_configs(vec![config]);
            let request = AlterConfigsRequest::default().with_resources(vec![resource]);
            assert_eq!(client.call(version, &request).await.responses[0].error_code, expected);
        }
        for version in 0..=1 {
            let config = incremental::AlterableConfig::default()
                .with_name(text("retention.ms"))
                .with_value(Some(text(value)));
            let resource = incremental::AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text(topic))
                .with_configs(vec![config]);
            let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
            assert_eq!(client.call(version, &request).await.responses[0].error_code, expected);
        }
    }
    harness.stop().await;
}

async fn delete(client: &mut Client, version: i16, topic: &str) -> i16 {
    let request = if version >= 6 {
        let state = DeleteTopicState::default().with_name(Some(name(topic)));
        DeleteTopicsRequest::default().with_topics(vec![state])
    } else {
        DeleteTopicsRequest::default().with_topic_names(vec![name(topic)])
    };
    client.call(version, &request).await.responses[0].error_code
}

#[tokio::test]
async fn topics_are_created_and_deleted_in_every_version() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    for version in 2..=7 {
        let topic =
            CreatableTopic::default().with_name(name("t")).with_num_partitions(1).with_replication_factor(1);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]);
        assert_eq!(client.call(version, &request).await.topics[0].error_code, 0, "version {version}");
        assert_eq!(client.call(version, &request).await.topics[0].error_code, 36, "version {version}");
        assert_eq!(delete(&mut client, version - 1, "t").await, 0, "version {}", version - 1);
        assert_eq!(delete(&mut client, version - 1, "t").await, 3, "version {}", version - 1);
    }
    harness.stop().await;
}

#[tokio::test]
async fn failures_are_told_in_every_version() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.create_topic("t", 1, &[]).await;
    for version in 0..=13 {
        let asked = MetadataRequestTopic::default().with_name(Some(name("no/name")));
        let request = MetadataRequest::default().with_topics(Some(vec![asked]));
        assert_eq!(client.call(version, &request).await.topics[0].error_code, 17, "Metadata {version}");
    }
    for version in 3..=12 {
        let request = produce_request("t", 0, bytes::Bytes::from_static(b"no batch"), -1);
        let response = client.call::<ProduceRequest>(version, &request).await;
        assert_eq!(response.responses[0].partition_responses[0].error_code, 2, "Produce {version}");
    }
    for version in 4..=12 {
        let response = client.call(version, &fetch_request("t", &[(0, 5), (3, 0)])).await;
        let codes: Vec<_> = response.responses[0].partitions.iter().map(|p| p.error_code).collect();
        assert_eq!(codes, [1, 3], "Fetch {version}");
    }
    client.produce("t", 0, batch(&["x"])).await;
    for version in 0..=2 {
        let partition = DeleteRecordsPartition::default().with_offset(7);
        let topic = DeleteRecordsTopic::default().with_name(name("t")).with_partitions(vec![partition]);
        let response = client.call(version, &DeleteRecordsRequest::default().with_topics(vec![topic])).await;
        assert_eq!(response.topics[0].partitions[0].error_code, 1, "DeleteRecords {version}");
    }
    for version in 0..=5 {
        let ids = [(None, 0), (Some("tx"), 35), (Some(""), 42)];
        for (id, expected) in ids {
            let id = id.map(|id| TransactionalId(text(id)));
            let request = InitProducerIdRequest::default().with_transactional_id(id);
            assert_eq!(client.call(version, &request).await.error_code, expected, "InitProducerId {version}");
        }
    }
    for version in 1..=4 {
        let topic = DescribableLogDirTopic::default().with_topic(name("nope")).with_partitions(vec![0]);
        let request = DescribeLogDirsRequest::default().with_topics(Some(vec![topic]));
        assert!(
            client.call(version, &request).await.results[0].topics.is_empty(),
            "DescribeLogDirs {version}"
        );
    }
    harness.stop().await;
}
