//! Topics: making them, waiting for their leaders, and where their logs begin and end.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, ListOffsetsRequest, MetadataRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use crate::wire::{Connection, check};

/// Apache Kafka makes fewer than 10,000 partitions in one request.
const MAKE_AT_ONCE: i32 = 5000;
const LEADERS_TIMEOUT: Duration = Duration::from_secs(300);

pub const EARLIEST: i64 = -2;
pub const LATEST: i64 = -1;

pub fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// Makes a topic unless it is there, and waits until all of its partitions have a leader that serves them.
pub async fn ensure_exists(connection: &mut Connection, topic: &str, partitions: i32) -> Result<()> {
    let mut made = partitions.min(MAKE_AT_ONCE);
    if create(connection, topic, made).await? {
        while made < partitions {
            made = partitions.min(made + MAKE_AT_ONCE);
            add_partitions(connection, topic, made).await?;
        }
    }
    let deadline = Instant::now() + LEADERS_TIMEOUT;
    // A broker may tell of a leader a moment before that one serves.
    while led(connection, topic).await? < partitions
        || offsets(connection, topic, partitions, LATEST).await.is_err()
    {
        ensure!(Instant::now() < deadline, "{topic} does not get {partitions} partitions with leaders");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// False if the topic was there.
async fn create(connection: &mut Connection, topic: &str, partitions: i32) -> Result<bool> {
    let wanted = CreatableTopic::default()
        .with_name(name(topic))
        .with_num_partitions(partitions)
        .with_replication_factor(1);
    let request = CreateTopicsRequest::default().with_topics(vec![wanted]).with_timeout_ms(60_000);
    let answer = connection.call(&request).await.context("CreateTopics")?;
    let code = answer.topics.first().context("CreateTopics answers nothing")?.error_code;
    if code == ResponseError::TopicAlreadyExists.code() {
        return Ok(false);
    }
    check(code).context("CreateTopics")?;
    Ok(true)
}

async fn add_partitions(connection: &mut Connection, topic: &str, count: i32) -> Result<()> {
    let wanted =
        CreatePartitionsTopic::default().with_name(name(topic)).with_count(count).with_assignments(None);
    let request = CreatePartitionsRequest::default().with_topics(vec![wanted]).with_timeout_ms(60_000);
    let answer = connection.call(&request).await.context("CreatePartitions")?;
    check(answer.results.first().context("CreatePartitions answers nothing")?.error_code)
        .context("CreatePartitions")
}

/// How many partitions of a topic have a leader.
async fn led(connection: &mut Connection, topic: &str) -> Result<i32> {
    let wanted = MetadataRequestTopic::default().with_name(Some(name(topic)));
    let request =
        MetadataRequest::default().with_topics(Some(vec![wanted])).with_allow_auto_topic_creation(false);
    let answer = connection.call(&request).await.context("Metadata")?;
    let partitions = answer.topics.iter().flat_map(|t| &t.partitions);
    Ok(i32::try_from(partitions.filter(|p| p.error_code == 0 && p.leader_id.0 >= 0).count())?)
}

/// The offset of each partition at a timestamp, which may be [`EARLIEST`] or [`LATEST`].
pub async fn offsets(connection: &mut Connection, topic: &str, partitions: i32, at: i64) -> Result<Vec<i64>> {
    let asked = (0..partitions)
        .map(|p| {
            ListOffsetsPartition::default()
                .with_partition_index(p)
                .with_current_leader_epoch(-1)
                .with_timestamp(at)
        })
        .collect();
    let topic = ListOffsetsTopic::default().with_name(name(topic)).with_partitions(asked);
    let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
    let answer = connection.call(&request).await.context("ListOffsets")?;
    let mut offsets = vec![0; usize::try_from(partitions)?];
    for partition in answer.topics.iter().flat_map(|t| &t.partitions) {
        check(partition.error_code).context("ListOffsets")?;
        let slot = offsets.get_mut(usize::try_from(partition.partition_index)?);
        *slot.context("a partition that nobody asked for")? = partition.offset;
    }
    Ok(offsets)
}
