//! DescribeGroups (15), versions 0–6: the state of groups, and who is in them with what assignment.
//!
//! An unknown group is described as `Dead`; since version 6 with GROUP_ID_NOT_FOUND (KIP-1043).
//!
//! Differs from Apache Kafka: a group that is named several times is described once. Groups that do not fit into the memory for
//! one answer are refused with POLICY_VIOLATION.

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse, GroupId};
use kafka_protocol::protocol::StrBytes;
use kafscale_core::group::{GroupError, GroupState, GroupView, MemberView};

use super::answer_size::STRUCTURE_BYTES;
use super::group_error::code_of;
use super::metadata::OPERATIONS_OMITTED;
use super::{RequestContext, str_bytes};
use crate::node::Node;

/// The longest string of versions before KIP-482.
pub const CLASSIC_STRING_MAX_BYTES: usize = i16::MAX as usize;

/// What may be done with a group when nobody is denied anything: read, delete, describe, and its settings likewise.
const GROUP_OPERATIONS: i32 = 0b1101_0100_1000;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let operations =
        if request.include_authorized_operations { GROUP_OPERATIONS } else { OPERATIONS_OMITTED };
    let (mut seen, mut views) = (HashSet::new(), Vec::new());
    let (max_bytes, mut bytes) = (ctx.answer_max_bytes(node), 0);
    for group in request.groups {
        if !seen.insert(group.clone()) {
            continue;
        }
        // What a view holds of metadata and assignments is shared with the group.
        let view = node.coordinator.describe(&group).await.map_err(Refused::Group);
        bytes += STRUCTURE_BYTES;
        let view = view.and_then(|view| {
            let size_bytes = view_bytes(&view);
            let can_be_told = ctx.version >= 5 || longest_text(&view) <= CLASSIC_STRING_MAX_BYTES;
            let fits = can_be_told && bytes + size_bytes <= max_bytes;
            bytes += if fits { size_bytes } else { 0 };
            if fits { Ok(view) } else { Err(Refused::TooLarge(size_bytes)) }
        });
        views.push((group, view));
    }
    // That there is enough was just made sure of.
    let _ = ctx.make_room(node, bytes).await;
    let describe = |(group, view): (GroupId, Result<GroupView, Refused>)| {
        let described = match view {
            Ok(view) => described(view),
            Err(Refused::Group(error)) => failed(ctx, &group, error),
            Err(Refused::TooLarge(size_bytes)) => too_large(node, ctx, size_bytes),
        };
        described.with_group_id(group).with_authorized_operations(operations)
    };
    DescribeGroupsResponse::default().with_groups(views.into_iter().map(describe).collect())
}

/// Why a group is not described.
enum Refused {
    Group(GroupError),
    /// With the bytes that it would take.
    TooLarge(usize),
}

/// What a group takes in the answer: its bytes on the wire, and structures with copies of its texts.
fn view_bytes(view: &GroupView) -> usize {
    let member = |member: &MemberView| {
        let texts = member.member_id.as_str().len()
            + member.instance_id.as_ref().map_or(0, |id| id.as_str().len())
            + member.client_id.len()
            + member.client_host.len();
        STRUCTURE_BYTES + 2 * texts + member.metadata.len() + member.assignment.len()
    };
    STRUCTURE_BYTES + view.members.iter().map(member).sum::<usize>()
}

/// Groups that an earlier release took have texts of any length.
fn longest_text(view: &GroupView) -> usize {
    let of_member = |member: &MemberView| {
        let instance = member.instance_id.as_ref().map_or(0, |id| id.as_str().len());
        instance.max(member.member_id.as_str().len()).max(member.client_id.len())
    };
    let members = view.members.iter().map(of_member);
    members.chain([view.protocol_type.len(), view.protocol_name.len()]).max().unwrap_or_default()
}

fn too_large(node: &Node, ctx: &RequestContext, size_bytes: usize) -> DescribedGroup {
    ctx.note_refused_answer(node, size_bytes);
    let message = "The group does not fit into the memory for one answer; ask for fewer at a time.";
    DescribedGroup::default()
        .with_error_code(ctx.fail(ResponseError::PolicyViolation))
        .with_error_message((ctx.version >= 6).then(|| StrBytes::from_static_str(message)))
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
