//! ListGroups (16), versions 0–5: the groups that this broker coordinates, by state since version 4 (KIP-518) and by type since 5
//! (KIP-848). Clients ask every broker.
//!
//! POLICY_VIOLATION when the list does not fit into the memory for one answer.
//!
//! All groups are of the type `classic`. COORDINATOR_LOAD_IN_PROGRESS while some of them are being read.

use std::collections::HashMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{GroupId, ListGroupsRequest, ListGroupsResponse};
use kafka_protocol::protocol::StrBytes;
use kafscale_core::group::{GROUP_TYPE, GroupState};

use super::answer_size::STRUCTURE_BYTES;
use super::group_error::code_of;
use super::{RequestContext, str_bytes};
use crate::node::Node;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: ListGroupsRequest,
) -> ListGroupsResponse {
    let passes = |filter: &[StrBytes], value: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
    };
    if !passes(&request.types_filter, GROUP_TYPE) {
        return ListGroupsResponse::default();
    }
    let listed = match node.coordinator.list() {
        Ok(listed) => listed,
        Err(error) => return ListGroupsResponse::default().with_error_code(ctx.fail(code_of(error))),
    };
    let bytes =
        listed.iter().map(|group| STRUCTURE_BYTES + 2 * group.group.len() + group.protocol_type.len());
    if ctx.make_room(node, bytes.sum()).await.is_err() {
        return ListGroupsResponse::default().with_error_code(ctx.fail(ResponseError::PolicyViolation));
    }
    // Once for each state, however many groups and filters there are.
    let mut wanted = HashMap::new();
    let mut is_wanted = |state: GroupState| {
        *wanted.entry(state.name()).or_insert_with(|| passes(&request.states_filter, state.name()))
    };
    let groups = listed.into_iter().filter(|group| is_wanted(group.state)).map(|group| {
        ListedGroup::default()
            .with_group_id(GroupId(str_bytes(&group.group)))
            .with_protocol_type(StrBytes::from_string(group.protocol_type))
            .with_group_state(StrBytes::from_static_str(group.state.name()))
            .with_group_type(StrBytes::from_static_str(GROUP_TYPE))
    });
    ListGroupsResponse::default().with_groups(groups.collect())
}
