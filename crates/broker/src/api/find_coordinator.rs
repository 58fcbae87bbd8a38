//! FindCoordinator (10), versions 0–6: who coordinates a group; several at once since version 4 (KIP-699).
//!
//! Any broker can be asked, and answers what it has last seen of the slots' records, with the address that the coordinator has for
//! the listener by which the client came in. COORDINATOR_NOT_AVAILABLE while a slot has no live coordinator.
//!
//! Differs from Apache Kafka: there are no transactions and no share groups yet. Their keys are refused with
//! UNSUPPORTED_VERSION (for librdkafka see [`not_offered::no_transactions`]) and INVALID_REQUEST, and a message that says why.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;
use kafscale_core::ids::NodeId;

use super::answer_size::STRUCTURE_BYTES;
use super::not_offered::{self, NO_TRANSACTIONS};
use super::{RequestContext, str_bytes};
use crate::cluster::Brokers;
use crate::listeners::Endpoint;
use crate::node::Node;

/// Most hosts have shorter names.
const HOST_BYTES: usize = 64;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

type Refused = (ResponseError, &'static str);

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let brokers = node.cluster.brokers();
    if ctx.version >= 4 {
        let bytes = request.coordinator_keys.len() * (STRUCTURE_BYTES + 2 * HOST_BYTES);
        let fits = ctx.make_room(node, bytes).await;
        if fits.is_err() {
            // Few bytes each, whose memory the request has paid for.
            let message =
                "The coordinators do not fit into the memory for one answer; ask for fewer at a time.";
            let refused = |key| coordinator(ctx, key, Err((ResponseError::PolicyViolation, message)));
            let refused = request.coordinator_keys.into_iter().take(1).map(refused).collect();
            return FindCoordinatorResponse::default().with_coordinators(refused);
        }
        let find = |key: StrBytes| {
            let found = find(node, ctx, &brokers, request.key_type, &key);
            coordinator(ctx, key, found)
        };
        let coordinators = request.coordinator_keys.into_iter().map(find).collect();
        return FindCoordinatorResponse::default().with_coordinators(coordinators);
    }
    match find(node, ctx, &brokers, request.key_type, &request.key) {
        Ok((node_id, endpoint)) => FindCoordinatorResponse::default()
            .with_node_id(BrokerId(node_id.0))
            .with_host(str_bytes(&endpoint.host))
            .with_port(i32::from(endpoint.port)),
        Err((error, message)) => FindCoordinatorResponse::default()
            .with_error_code(ctx.fail(error))
            .with_error_message((ctx.version >= 1).then(|| StrBytes::from_static_str(message)))
            .with_node_id(BrokerId(-1))
            .with_port(-1),
    }
}

fn find<'a>(
    node: &Node,
    ctx: &RequestContext,
    brokers: &'a Brokers,
    key_type: i8,
    key: &str,
) -> Result<(NodeId, &'a Endpoint), Refused> {
    match key_type {
        GROUP => {}
        TRANSACTION => {
            return Err((not_offered::no_transactions(ctx), NO_TRANSACTIONS));
        }
        _ => return Err((ResponseError::InvalidRequest, "This broker coordinates consumer groups only.")),
    }
    let owner = node.coordinator.coordinator_of(key);
    let broker = owner.and_then(|owner| brokers.get(owner.node_id).filter(|broker| broker.id == owner));
    let endpoint = broker.and_then(|broker| Some((broker.id.node_id, broker.endpoint(&ctx.peer.listener)?)));
    endpoint.ok_or((ResponseError::CoordinatorNotAvailable, "The coordinator is not available."))
}

fn coordinator(
    ctx: &RequestContext,
    key: StrBytes,
    found: Result<(NodeId, &Endpoint), Refused>,
) -> Coordinator {
    let answer = Coordinator::default().with_key(key);
    match found {
        Ok((node_id, endpoint)) => answer
            .with_node_id(BrokerId(node_id.0))
            .with_host(str_bytes(&endpoint.host))
            .with_port(i32::from(endpoint.port)),
        Err((error, message)) => answer
            .with_error_code(ctx.fail(error))
            .with_error_message(Some(StrBytes::from_static_str(message)))
            .with_node_id(BrokerId(-1))
            .with_port(-1),
    }
}
