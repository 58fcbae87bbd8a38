//! DeleteGroups (42), versions 0–2: delete groups that have no members, with their offsets (KIP-229).

use std::sync::Arc;

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

use super::RequestContext;
use super::group_error::code_of;
use crate::node::Node;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: DeleteGroupsRequest,
) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group in request.groups_names {
        let deleted = node.coordinator.delete(&group).await;
        let error_code = deleted.err().map_or(0, |error| ctx.fail(code_of(error)));
        results.push(DeletableGroupResult::default().with_group_id(group).with_error_code(error_code));
    }
    DeleteGroupsResponse::default().with_results(results)
}
