//! DeleteTopics (20), versions 1–6: by name, or by id since version 6.
//!
//! A deleted topic is gone when this is answered; its space is freed with it. Its committed offsets are removed by the coordinators of
//! their groups as soon as they hear of it.
//!
//! Differs from Apache Kafka: a name is free for a new topic at once, because everything is stored under the topic's id.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use kafscale_core::ids::TopicId;

use super::{RequestContext, str_bytes};
use crate::admin::AdminError;
use crate::node::Node;
use crate::topics::Topic;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let by_name = |name| DeleteTopicState::default().with_name(Some(name));
    let asked: Vec<DeleteTopicState> =
        request.topics.into_iter().chain(request.topic_names.into_iter().map(by_name)).collect();
    let admin = node.admin.lock().await;
    let mut responses = Vec::with_capacity(asked.len());
    for state in asked {
        let found = find(node, &state);
        let deleted = match &found {
            Ok(topic) => admin.delete(node, topic).await,
            Err(error) => Err(error.clone()),
        };
        responses.push(result(ctx, state, found.ok(), deleted));
    }
    DeleteTopicsResponse::default().with_responses(responses)
}

fn find(node: &Node, state: &DeleteTopicState) -> Result<Arc<Topic>, AdminError> {
    match &state.name {
        Some(name) if !state.topic_id.is_nil() => {
            let message = format!("Topic '{}' is named by its name and by its id.", name.as_str());
            Err(AdminError::new(ResponseError::InvalidRequest, message))
        }
        Some(name) => node.topics.get(name).ok_or_else(|| {
            let message = "This server does not host this topic-partition.";
            AdminError::new(ResponseError::UnknownTopicOrPartition, message)
        }),
        None => node.topics.get_by_id(TopicId(state.topic_id)).ok_or_else(|| {
            AdminError::new(ResponseError::UnknownTopicId, "This server does not host this topic ID.")
        }),
    }
}

fn result(
    ctx: &RequestContext,
    state: DeleteTopicState,
    found: Option<Arc<Topic>>,
    deleted: Result<(), AdminError>,
) -> DeletableTopicResult {
    let name = state.name.or_else(|| found.as_ref().map(|topic| TopicName(str_bytes(&topic.name))));
    let mut result = DeletableTopicResult::default().with_name(name);
    if ctx.version >= 6 {
        result = result.with_topic_id(found.map_or(state.topic_id, |topic| topic.id.0));
    }
    match deleted {
        Ok(()) => result,
        Err(AdminError { error, message }) => {
            let message = (ctx.version >= 5).then(|| str_bytes(&message));
            result.with_error_code(ctx.fail(error)).with_error_message(message)
        }
    }
}
