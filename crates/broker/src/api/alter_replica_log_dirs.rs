//! AlterReplicaLogDirs (34), versions 1–2: moves replicas between directories of a broker (KIP-113).
//!
//! There is one "directory", the store that the broker was started with, under the name that DescribeLogDirs gives it. A partition is
//! there already; any other directory is LOG_DIR_NOT_FOUND.

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use kafka_protocol::messages::{AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse};

use super::{RequestContext, lookup};
use crate::node::Node;
use crate::wire::TopicRef;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: AlterReplicaLogDirsRequest,
) -> AlterReplicaLogDirsResponse {
    let mut seen = HashSet::new();
    let mut results = Vec::new();
    for dir in &request.dirs {
        let is_store = dir.path.as_str() == node.config.store;
        for asked in &dir.topics {
            let topic = lookup::topic(node, &TopicRef::Name(asked.name.0.clone()));
            let distinct = asked.partitions.iter().filter(|index| seen.insert((asked.name.clone(), **index)));
            let partitions = distinct.map(|&index| {
                let hosted = topic.clone().and_then(|topic| lookup::partition(node, &topic, index));
                let error = match hosted {
                    _ if !is_store => Some(ResponseError::LogDirNotFound),
                    Ok(_) => None,
                    Err(ResponseError::NotLeaderOrFollower) => Some(ResponseError::ReplicaNotAvailable),
                    Err(error) => Some(error),
                };
                AlterReplicaLogDirPartitionResult::default()
                    .with_partition_index(index)
                    .with_error_code(error.map_or(0, |error| ctx.fail(error)))
            });
            let partitions = partitions.collect();
            results.push(
                AlterReplicaLogDirTopicResult::default()
                    .with_topic_name(asked.name.clone())
                    .with_partitions(partitions),
            );
        }
    }
    AlterReplicaLogDirsResponse::default().with_results(results)
}
