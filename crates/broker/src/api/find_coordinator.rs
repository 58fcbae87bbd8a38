//! FindCoordinator (10), versions 0–6: who coordinates a group; several at once since version 4 (KIP-699).
//!
//! Every group is coordinated by this broker.
//!
//! Differs from Apache Kafka: there are no transactions and no share groups yet. Their keys are refused with
//! TRANSACTIONAL_ID_AUTHORIZATION_FAILED, on which clients give up at once, and INVALID_REQUEST, and a message that says why.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use super::{RequestContext, str_bytes};
use crate::node::Node;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

type Refused = (ResponseError, &'static str);

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let found = find(request.key_type);
    if ctx.version >= 4 {
        let keys = request.coordinator_keys.into_iter();
        let coordinators = keys.map(|key| coordinator(node, ctx, key, found)).collect();
        return FindCoordinatorResponse::default().with_coordinators(coordinators);
    }
    match found {
        Ok(()) => FindCoordinatorResponse::default()
            .with_node_id(BrokerId(node.config.node_id.0))
            .with_host(str_bytes(&node.endpoint(&ctx.peer).host))
            .with_port(i32::from(node.endpoint(&ctx.peer).port)),
        Err((error, message)) => FindCoordinatorResponse::default()
            .with_error_code(ctx.fail(error))
            .with_error_message((ctx.version >= 1).then(|| StrBytes::from_static_str(message)))
            .with_node_id(BrokerId(-1))
            .with_port(-1),
    }
}

fn find(key_type: i8) -> Result<(), Refused> {
    match key_type {
        GROUP => Ok(()),
        TRANSACTION => {
            let message = "Transactions are not supported by this broker yet.";
            Err((ResponseError::TransactionalIdAuthorizationFailed, message))
        }
        _ => Err((ResponseError::InvalidRequest, "This broker coordinates consumer groups only.")),
    }
}

fn coordinator(node: &Node, ctx: &RequestContext, key: StrBytes, found: Result<(), Refused>) -> Coordinator {
    let answer = Coordinator::default().with_key(key);
    match found {
        Ok(()) => answer
            .with_node_id(BrokerId(node.config.node_id.0))
            .with_host(str_bytes(&node.endpoint(&ctx.peer).host))
            .with_port(i32::from(node.endpoint(&ctx.peer).port)),
        Err((error, message)) => answer
            .with_error_code(ctx.fail(error))
            .with_error_message(Some(StrBytes::from_static_str(message)))
            .with_node_id(BrokerId(-1))
            .with_port(-1),
    }
}
