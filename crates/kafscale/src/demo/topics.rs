//! What the demo asks of topics: make them, count their partitions, find their ends.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, ListOffsetsRequest, MetadataRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::connection::{ClientError, Connection, check};

pub const EARLIEST: i64 = -2;
pub const LATEST: i64 = -1;

pub fn topic_name(name: &'static str) -> TopicName {
    TopicName(StrBytes::from_static_str(name))
}

/// Makes a topic, unless it is there already.
pub async fn ensure_topic(
    connection: &mut Connection,
    name: &'static str,
    partitions: i32,
) -> Result<(), ClientError> {
    let topic = CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(partitions)
        .with_replication_factor(-1);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
    let answer = connection.call("CreateTopics", request, 5..=7).await?;
    for topic in answer.topics {
        match check("CreateTopics", topic.error_code) {
            Err(e) if e.code() == Some(ResponseError::TopicAlreadyExists) => {}
            other => other?,
        }
    }
    Ok(())
}

/// The number of partitions of a topic that exists.
pub async fn partitions_count(connection: &mut Connection, name: &'static str) -> Result<i32, ClientError> {
    let topic = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
    let request =
        MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false);
    let answer = connection.call("Metadata", request, 4..=12).await?;
    let topic =
        answer.topics.first().ok_or_else(|| ClientError::Protocol("metadata without a topic".into()))?;
    check("Metadata", topic.error_code)?;
    i32::try_from(topic.partitions.len()).map_err(|e| ClientError::Protocol(e.to_string()))
}

/// The offset of every partition at `timestamp`: `EARLIEST`, `LATEST`.
pub async fn offsets_at(
    connection: &mut Connection,
    name: &'static str,
    timestamp: i64,
) -> Result<BTreeMap<i32, i64>, ClientError> {
    let count = partitions_count(connection, name).await?;
    let partitions = (0..count)
        .map(|index| ListOffsetsPartition::default().with_partition_index(index).with_timestamp(timestamp))
        .collect();
    let topic = ListOffsetsTopic::default().with_name(topic_name(name)).with_partitions(partitions);
    let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
    let answer = connection.call("ListOffsets", request, 4..=7).await?;
    let mut offsets = BTreeMap::new();
    for partition in answer.topics.iter().flat_map(|topic| &topic.partitions) {
        check("ListOffsets", partition.error_code)?;
        offsets.insert(partition.partition_index, partition.offset);
    }
    Ok(offsets)
}
