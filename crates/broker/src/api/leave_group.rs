//! LeaveGroup (13), versions 0–5: a member goes; since version 3 several at once, and static members by their instance id
//! (KIP-345).

use std::sync::Arc;

use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};
use kafscale_core::group::{GroupError, LeavingMember, LeftMember};

use super::group_error::code_of;
use super::{RequestContext, str_bytes};
use crate::node::Node;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: LeaveGroupRequest,
) -> LeaveGroupResponse {
    let alone = MemberIdentity::default().with_member_id(request.member_id);
    let members = if ctx.version >= 3 { request.members } else { vec![alone] };
    let leaving: Vec<LeavingMember> = members
        .into_iter()
        .map(|m| LeavingMember {
            member_id: m.member_id.as_str().into(),
            instance_id: m.group_instance_id.map(|id| id.as_str().into()),
            reason: m.reason.map(|reason| reason.to_string()),
        })
        .collect();
    let left = match node.coordinator.leave(&request.group_id, leaving.clone()).await {
        Ok(left) => left,
        // Nobody is a member of a group that does not exist.
        Err(GroupError::UnknownMember) => leaving.into_iter().map(unknown).collect(),
        Err(error) => return LeaveGroupResponse::default().with_error_code(ctx.fail(code_of(error))),
    };
    if ctx.version >= 3 {
        let members = left.into_iter().map(|member| response(ctx, member)).collect();
        return LeaveGroupResponse::default().with_members(members);
    }
    match left.into_iter().find_map(|member| member.result.err()) {
        None => LeaveGroupResponse::default(),
        Some(error) => LeaveGroupResponse::default().with_error_code(ctx.fail(code_of(error))),
    }
}

fn unknown(leaving: LeavingMember) -> LeftMember {
    let result = Err(GroupError::UnknownMember);
    LeftMember { member_id: leaving.member_id, instance_id: leaving.instance_id, result }
}

fn response(ctx: &RequestContext, left: LeftMember) -> MemberResponse {
    let error_code = left.result.err().map_or(0, |error| ctx.fail(code_of(error)));
    MemberResponse::default()
        .with_member_id(str_bytes(left.member_id.as_str()))
        .with_group_instance_id(left.instance_id.map(|id| str_bytes(id.as_str())))
        .with_error_code(error_code)
}
