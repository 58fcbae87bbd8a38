//! CreatePartitions (37), versions 0–3: adds partitions to topics; their number never falls.
//!
//! What the time of the request is not enough for is REQUEST_TIMED_OUT, and stays as it is. So does a topic that is named twice, which is
//! INVALID_REQUEST.
//!
//! Differs from Apache Kafka: a manual assignment names one live broker for each partition, which may move later, when load is evened out.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

use tokio::time::Instant;

use super::{RequestContext, message_bytes, named_twice, request_deadline};
use crate::admin::{AdminError, TopicAdmin, check_partition_count, chosen_owner};
use crate::node::Node;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let deadline = request_deadline(request.timeout_ms);
    let mut results = Vec::with_capacity(request.topics.len());
    let twice = named_twice(request.topics.iter().map(|asked| &asked.name));
    for asked in &request.topics {
        let outcome = if twice.contains(&asked.name) {
            Err(AdminError::new(ResponseError::InvalidRequest, "Duplicate topic name."))
        } else if Instant::now() >= deadline && !results.is_empty() {
            Err(AdminError::not_begun())
        } else {
            match ctx.turn(node).await {
                Some(admin) => add(node, &admin, asked, request.validate_only).await,
                None => Err(AdminError::not_begun()),
            }
        };
        let result = CreatePartitionsTopicResult::default().with_name(asked.name.clone());
        results.push(match outcome {
            Ok(()) => result,
            Err(AdminError { error, message }) => {
                result.with_error_code(ctx.fail(error)).with_error_message(Some(message_bytes(&message)))
            }
        });
    }
    CreatePartitionsResponse::default().with_results(results)
}

async fn add(
    node: &Node,
    admin: &TopicAdmin,
    asked: &CreatePartitionsTopic,
    validate_only: bool,
) -> Result<(), AdminError> {
    let unknown = || {
        let message = "This server does not host this topic-partition.";
        AdminError::new(ResponseError::UnknownTopicOrPartition, message)
    };
    let topic = node.topics.get(&asked.name).ok_or_else(unknown)?;
    let invalid = |message| Err(AdminError::new(ResponseError::InvalidPartitions, message));
    if asked.count == topic.partitions {
        return invalid(format!("Topic already has {} partition(s).", topic.partitions));
    }
    if asked.count < topic.partitions {
        return invalid(format!(
            "The topic {} currently has {} partition(s); {} would not be an increase.",
            topic.name, topic.partitions, asked.count
        ));
    }
    check_partition_count(node, asked.count, i64::from(asked.count - topic.partitions))?;
    let owners = match &asked.assignments {
        None => Vec::new(),
        Some(assignments) => {
            if assignments.len() as i64 != i64::from(asked.count - topic.partitions) {
                let message = "A manual assignment must name a broker for each new partition.";
                return Err(AdminError::new(ResponseError::InvalidReplicaAssignment, message));
            }
            let chosen = assignments.iter().map(|assignment| chosen_owner(node, &assignment.broker_ids));
            chosen.collect::<Result<_, _>>()?
        }
    };
    if validate_only { Ok(()) } else { admin.add_partitions(node, &topic, asked.count, &owners).await }
}
