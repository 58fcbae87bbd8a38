//! Heartbeat (12), versions 0–4: a member is alive, and learns here that its group rebalances.

use std::sync::Arc;

use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};
use kafscale_core::group::{Generation, MemberIdentity};

use super::RequestContext;
use super::group_error::code_of;
use crate::node::Node;

pub async fn handle(node: &Arc<Node>, ctx: &RequestContext, request: HeartbeatRequest) -> HeartbeatResponse {
    let identity = MemberIdentity {
        member_id: request.member_id.as_str().into(),
        instance_id: request.group_instance_id.map(|id| id.as_str().into()),
        generation: Generation(request.generation_id),
    };
    match node.coordinator.heartbeat(&request.group_id, identity).await {
        Ok(()) => HeartbeatResponse::default(),
        Err(error) => HeartbeatResponse::default().with_error_code(ctx.fail(code_of(error))),
    }
}
