//! What the demo asks of topics: make them, find their ends.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, CreateTopicsRequest, ListOffsetsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::cluster::Cluster;
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

/// The offset of every partition at `timestamp`: `EARLIEST`, `LATEST`.
pub async fn offsets_at(
    cluster: &mut Cluster,
    name: &'static str,
    timestamp: i64,
) -> Result<BTreeMap<i32, i64>, ClientError> {
    let count = cluster.learn(name).await?;
    let mut offsets = BTreeMap::new();
    for (leader, partitions) in cluster.by_leader(name, (0..count).map(|index| (index, ())))? {
        let asked = |(index, ())| {
            ListOffsetsPartition::default().with_partition_index(index).with_timestamp(timestamp)
        };
        let topic = ListOffsetsTopic::default()
            .with_name(topic_name(name))
            .with_partitions(partitions.into_iter().map(asked).collect());
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
        let answer = cluster.broker(leader).await?.call("ListOffsets", request, 4..=7).await?;
        for partition in answer.topics.iter().flat_map(|topic| &topic.partitions) {
            check("ListOffsets", partition.error_code)?;
            offsets.insert(partition.partition_index, partition.offset);
        }
    }
    Ok(offsets)
}
