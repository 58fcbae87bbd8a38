//! JoinGroup (11), versions 0–9: become a member of a group, or take part in its rebalance.
//!
//! The answer waits until the rebalance is complete. Since version 4 a new member must come back with the id that it was
//! given (KIP-394), since 5 members may be static (KIP-345), since 8 clients may say why they join (KIP-800), since 9 a static
//! leader that came back is told to keep the assignment (KIP-814).
//!
//! Differs from Apache Kafka: the protocols of one member may not weigh more than a group's record can hold. A group instance id
//! longer than 249 bytes, or a protocol that answers of old versions have no room for, is an INVALID_REQUEST, and a member's id
//! begins with 249 bytes of the client's at most.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use kafka_protocol::protocol::StrBytes;
use kafscale_core::group::{GroupError, JoinRequest, Joined, Protocol};
use uuid::Uuid;

use super::answer_size::STRUCTURE_BYTES;
use super::describe_groups::CLASSIC_STRING_MAX_BYTES;
use super::group_error::code_of;
use super::{RequestContext, str_bytes};
use crate::node::Node;

/// What clients of Apache Kafka allow for `group.instance.id`. It begins the member's id.
const INSTANCE_ID_MAX_BYTES: usize = 249;

pub async fn handle(node: &Arc<Node>, ctx: &RequestContext, request: JoinGroupRequest) -> JoinGroupResponse {
    if !can_be_told(&request) {
        return JoinGroupResponse::default()
            .with_error_code(ctx.fail(ResponseError::InvalidRequest))
            .with_protocol_name((ctx.version < 7).then(StrBytes::default));
    }
    let group = request.group_id.to_string();
    let request = domain_request(ctx, request);
    // A rebalance takes minutes. The group has its own copy, in a memory with a limit of its own.
    ctx.release_memory();
    let reply = node.coordinator.join(&group, request).await;
    let response = JoinGroupResponse::default().with_member_id(str_bytes(reply.member_id.as_str()));
    match reply.result {
        // The leader gets the metadata of everybody.
        Ok(joined) if ctx.make_room(node, members_bytes(&joined)).await.is_err() => response
            .with_error_code(ctx.fail(code_of(GroupError::TooLarge)))
            .with_protocol_name((ctx.version < 7).then(StrBytes::default)),
        Ok(joined) => with_joined(response, ctx.version, joined),
        Err(error) => response
            .with_error_code(ctx.fail(code_of(error)))
            .with_protocol_name((ctx.version < 7).then(StrBytes::default)),
    }
}

/// Whether each text can be told to whoever asks: versions before KIP-482 have no longer ones.
fn can_be_told(request: &JoinGroupRequest) -> bool {
    let instance = request.group_instance_id.as_ref().map_or(0, |id| id.len());
    let names = request.protocols.iter().map(|p| p.name.len());
    let longest = names.chain([request.protocol_type.len()]).max().unwrap_or_default();
    instance <= INSTANCE_ID_MAX_BYTES && longest <= CLASSIC_STRING_MAX_BYTES
}

fn members_bytes(joined: &Joined) -> usize {
    let member = |m: &kafscale_core::group::JoinedMember| {
        STRUCTURE_BYTES + 2 * m.member_id.as_str().len() + m.metadata.len()
    };
    joined.members.iter().map(member).sum()
}

/// Nothing of the frame is kept: a group lives longer than the request.
fn domain_request(ctx: &RequestContext, request: JoinGroupRequest) -> JoinRequest {
    let protocol = |p: kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol| Protocol {
        name: p.name.to_string(),
        metadata: Bytes::copy_from_slice(&p.metadata),
    };
    let rebalance_timeout_ms =
        if ctx.version == 0 { request.session_timeout_ms } else { request.rebalance_timeout_ms };
    JoinRequest {
        member_id: request.member_id.as_str().into(),
        instance_id: request.group_instance_id.map(|id| id.as_str().into()),
        client_id: ctx.client_id.as_deref().unwrap_or_default().to_owned(),
        // As Java prints an address that was not looked up by name.
        client_host: format!("/{}", ctx.peer.address.ip()),
        uuid: Uuid::new_v4(),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms,
        protocol_type: request.protocol_type.to_string(),
        protocols: request.protocols.into_iter().map(protocol).collect(),
        requires_known_member_id: ctx.version >= 4,
        supports_skip_assignment: ctx.version >= 9,
        reason: request.reason.map(|reason| reason.to_string()),
    }
}

fn with_joined(response: JoinGroupResponse, version: i16, joined: Joined) -> JoinGroupResponse {
    let member = |m: kafscale_core::group::JoinedMember| {
        JoinGroupResponseMember::default()
            .with_member_id(str_bytes(m.member_id.as_str()))
            .with_group_instance_id(m.instance_id.map(|id| str_bytes(id.as_str())))
            .with_metadata(m.metadata)
    };
    let protocol_name = joined.protocol_name.as_deref().map(str_bytes);
    response
        .with_generation_id(joined.generation.0)
        .with_protocol_type(joined.protocol_type.as_deref().map(str_bytes))
        .with_protocol_name(if version >= 7 {
            protocol_name
        } else {
            Some(protocol_name.unwrap_or_default())
        })
        .with_leader(str_bytes(joined.leader.as_str()))
        .with_skip_assignment(joined.skip_assignment)
        .with_members(joined.members.into_iter().map(member).collect())
}
