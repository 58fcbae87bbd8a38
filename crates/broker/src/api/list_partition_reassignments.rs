//! ListPartitionReassignments (46), version 0 (KIP-455): none is ever under way, because moving a partition to another broker moves
//! no records. AlterPartitionReassignments has the rest.

use std::sync::Arc;

use kafka_protocol::messages::{ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse};

use super::RequestContext;
use crate::node::Node;

pub async fn handle(
    _node: &Arc<Node>,
    _ctx: &RequestContext,
    _request: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse::default().with_error_message(None)
}
