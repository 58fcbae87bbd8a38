//! SyncGroup (14), versions 0–5: the leader hands in the assignment, every member gets its part.
//!
//! The answer waits until the assignment is there and written. Since version 5 the protocol is named and checked (KIP-559).

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};
use kafscale_core::group::{Generation, GroupError, SyncRequest, Synced};

use super::group_error::code_of;
use super::{RequestContext, str_bytes};
use crate::node::Node;

pub async fn handle(node: &Arc<Node>, ctx: &RequestContext, request: SyncGroupRequest) -> SyncGroupResponse {
    match sync(node, ctx, request).await {
        Ok(synced) => SyncGroupResponse::default()
            .with_protocol_type(synced.protocol_type.as_deref().map(str_bytes))
            .with_protocol_name(synced.protocol_name.as_deref().map(str_bytes))
            .with_assignment(synced.assignment),
        Err(error) => SyncGroupResponse::default().with_error_code(ctx.fail(code_of(error))),
    }
}

async fn sync(node: &Node, ctx: &RequestContext, request: SyncGroupRequest) -> Result<Synced, GroupError> {
    if ctx.version >= 5 && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
        return Err(GroupError::InconsistentProtocol);
    }
    let assignments = request.assignments.into_iter();
    let domain = SyncRequest {
        member_id: request.member_id.as_str().into(),
        instance_id: request.group_instance_id.map(|id| id.as_str().into()),
        generation: Generation(request.generation_id),
        protocol_type: request.protocol_type.map(|t| t.to_string()),
        protocol_name: request.protocol_name.map(|name| name.to_string()),
        assignments: assignments
            .map(|a| (a.member_id.as_str().into(), Bytes::copy_from_slice(&a.assignment)))
            .collect(),
    };
    let group = request.group_id.to_string();
    if domain.assignments.is_empty() {
        // A follower waits for the leader, who may never come, and there is next to nothing to remember of it.
        ctx.release_memory();
    }
    node.coordinator.sync(&group, domain).await
}
