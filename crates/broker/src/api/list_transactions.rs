//! ListTransactions (66), versions 0–2 (KIP-664): there are no transactions yet, so that none is listed, whatever the filters.

use std::sync::Arc;

use kafka_protocol::messages::{ListTransactionsRequest, ListTransactionsResponse};

use super::RequestContext;
use crate::node::Node;

pub async fn handle(
    _node: &Arc<Node>,
    _ctx: &RequestContext,
    _request: ListTransactionsRequest,
) -> ListTransactionsResponse {
    ListTransactionsResponse::default()
}
