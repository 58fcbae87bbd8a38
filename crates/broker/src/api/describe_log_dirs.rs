//! DescribeLogDirs (35), versions 1–4: the size of each partition (KIP-113, KIP-827).
//!
//! Differs from Apache Kafka: there is one "directory", the store that the broker was started with, and its name is that store's
//! address. The sizes of the volume are unknown (-1).

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};

use super::{RequestContext, lookup, str_bytes};
use crate::node::Node;
use crate::topics::Topic;

/// The memory for the size of one partition in an answer.
const SIZE_BYTES: usize = 100;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    // Of all topics, whichever are asked for: those are among them.
    let all = node.topics.all();
    let topic =
        |topic: &Arc<Topic>| 2 * topic.name.len() + topic.partitions.unsigned_abs() as usize * SIZE_BYTES;
    if ctx.make_room(node, all.iter().map(topic).sum()).await.is_err() {
        let refused = DescribeLogDirsResult::default()
            .with_log_dir(str_bytes(&node.config.store))
            .with_error_code(ctx.fail(ResponseError::PolicyViolation));
        return DescribeLogDirsResponse::default().with_results(vec![refused]);
    }
    let topics = match &request.topics {
        None => all.iter().filter_map(|topic| sizes(node, topic, 0..topic.partitions)).collect(),
        Some(asked) => asked
            .iter()
            .filter_map(|asked| {
                let topic = node.topics.get(&asked.topic)?;
                let once: HashSet<i32> = asked.partitions.iter().copied().collect();
                sizes(node, &topic, once.into_iter())
            })
            .collect(),
    };
    let result =
        DescribeLogDirsResult::default().with_log_dir(str_bytes(&node.config.store)).with_topics(topics);
    DescribeLogDirsResponse::default().with_results(vec![result])
}

fn sizes(node: &Node, topic: &Topic, partitions: impl Iterator<Item = i32>) -> Option<DescribeLogDirsTopic> {
    let size = |index| {
        let partition = lookup::partition(node, topic, index).ok()?;
        let size_bytes = i64::try_from(partition.size_bytes()).unwrap_or(i64::MAX);
        Some(DescribeLogDirsPartition::default().with_partition_index(index).with_partition_size(size_bytes))
    };
    let mut sizes: Vec<_> = partitions.filter_map(size).collect();
    sizes.sort_unstable_by_key(|size| size.partition_index);
    let name = TopicName(str_bytes(&topic.name));
    (!sizes.is_empty()).then(|| DescribeLogDirsTopic::default().with_name(name).with_partitions(sizes))
}
