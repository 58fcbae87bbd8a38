//! DescribeGroups (15), versions 0–6: the state of groups, and who is in them with what assignment.
//!
//! An unknown group is described as `Dead`; since version 6 with GROUP_ID_NOT_FOUND (KIP-1043).

use std::sync::Arc;

use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse, GroupId};
use kafka_protocol::protocol::StrBytes;
use kafscale_core::group::{GroupError, GroupState, GroupView, MemberView};

use super::group_error::code_of;
use super::metadata::OPERATIONS_OMITTED;
use super::{RequestContext, str_bytes};
use crate::node::Node;

/// What may be done with a group when nobody is denied anything: read, delete, describe, and its settings likewise.
const GROUP_OPERATIONS: i32 = 0b1101_0100_1000;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let operations =
        if request.include_authorized_operations { GROUP_OPERATIONS } else { OPERATIONS_OMITTED };
    let mut groups = Vec::with_capacity(request.groups.len());
    for group in request.groups {
        let described = match node.coordinator.describe(&group).await {
            Ok(view) => described(view),
            Err(error) => failed(ctx, &group, error),
        };
        groups.push(described.with_group_id(group).with_authorized_operations(operations));
    }
    DescribeGroupsResponse::default().with_groups(groups)
}

fn described(view: GroupView) -> DescribedGroup {
    DescribedGroup::default()
        .with_group_state(StrBytes::from_static_str(view.state.name()))
        .with_protocol_type(StrBytes::from_string(view.protocol_type))
        .with_protocol_data(StrBytes::from_string(view.protocol_name))
        .with_members(view.members.into_iter().map(member).collect())
}

fn member(view: MemberView) -> DescribedGroupMember {
    DescribedGroupMember::default()
        .with_member_id(str_bytes(view.member_id.as_str()))
        .with_group_instance_id(view.instance_id.map(|id| str_bytes(id.as_str())))
        .with_client_id(StrBytes::from_string(view.client_id))
        .with_client_host(StrBytes::from_string(view.client_host))
        .with_member_metadata(view.metadata)
        .with_member_assignment(view.assignment)
}

fn failed(ctx: &RequestContext, group: &GroupId, error: GroupError) -> DescribedGroup {
    let missing = error == GroupError::NotFound;
    let answer = DescribedGroup::default();
    let answer = if missing {
        answer.with_group_state(StrBytes::from_static_str(GroupState::Dead.name()))
    } else {
        answer
    };
    if missing && ctx.version < 6 {
        return answer;
    }
    let message = (ctx.version >= 6 && missing).then(|| format!("Group {} not found.", group.as_str()));
    answer.with_error_code(ctx.fail(code_of(error))).with_error_message(message.map(StrBytes::from_string))
}
