//! DeleteTopics (20), versions 1–6: by name, or by id since version 6.
//!
//! A deleted topic is gone when this is answered; its space is freed with it. Its committed offsets are removed by the coordinators of
//! their groups as soon as they hear of it.
//!
//! Many topics are deleted in batches; what the time of the request is not enough for is REQUEST_TIMED_OUT, and not deleted. A topic that is
//! named twice, by its name, its id or both, is INVALID_REQUEST, and not deleted either.
//!
//! Differs from Apache Kafka: a name is free for a new topic at once, because everything is stored under the topic's id.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use kafscale_core::ids::TopicId;

use tokio::time::Instant;
use uuid::Uuid;

use super::answer_size::STRUCTURE_BYTES;
use super::{CHANGES_AT_ONCE, RequestContext, named_twice, request_deadline, str_bytes};
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
    let deadline = request_deadline(request.timeout_ms);
    let meant: Vec<_> = asked.iter().map(|state| meant(node, state)).collect();
    let twice = named_twice(&meant);
    let fits = ctx.make_room(node, asked.len() * STRUCTURE_BYTES).await;
    let mut responses = Vec::with_capacity(asked.len());
    for (batch, meant) in asked.chunks(CHANGES_AT_ONCE).zip(meant.chunks(CHANGES_AT_ONCE)) {
        let in_time = responses.is_empty() || Instant::now() < deadline;
        let turn = if in_time && fits.is_ok() { ctx.turn(node).await } else { None };
        let find = |(state, meant)| match twice.contains(meant) {
            true => Err(AdminError::new(ResponseError::InvalidRequest, "Duplicate topic name or ID.")),
            false => find(node, state),
        };
        let found: Vec<_> = batch.iter().zip(meant).map(find).collect();
        let mut deleted = match &turn {
            Some(admin) => {
                let topics: Vec<_> = found.iter().flatten().cloned().collect();
                admin.delete(node, &topics).await
            }
            None => found.iter().flatten().map(|_| Err(AdminError::not_begun())).collect(),
        }
        .into_iter();
        for (state, found) in batch.iter().zip(found) {
            let outcome = match &found {
                Ok(_) => deleted.next().unwrap_or_else(|| Err(AdminError::not_begun())),
                Err(error) => Err(error.clone()),
            };
            responses.push(result(ctx, state.clone(), found.ok(), outcome));
        }
    }
    DeleteTopicsResponse::default().with_responses(responses)
}

/// The topic's id, or the name of one that does not exist.
fn meant<'a>(node: &Node, state: &'a DeleteTopicState) -> (Uuid, Option<&'a TopicName>) {
    match &state.name {
        Some(name) => node.topics.get(name).map_or((Uuid::nil(), Some(name)), |topic| (topic.id.0, None)),
        None => (state.topic_id, None),
    }
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
