//! DescribeTransactions (65), version 0 (KIP-664): there are no transactions yet, so that no id is known.

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_transactions_response::TransactionState;
use kafka_protocol::messages::{DescribeTransactionsRequest, DescribeTransactionsResponse};

use super::RequestContext;
use crate::node::Node;

pub async fn handle(
    _node: &Arc<Node>,
    ctx: &RequestContext,
    request: DescribeTransactionsRequest,
) -> DescribeTransactionsResponse {
    let mut seen = HashSet::new();
    let distinct = request.transactional_ids.into_iter().filter(|id| seen.insert(id.clone()));
    let unknown = |id| {
        TransactionState::default()
            .with_transactional_id(id)
            .with_error_code(ctx.fail(ResponseError::TransactionalIdNotFound))
    };
    DescribeTransactionsResponse::default().with_transaction_states(distinct.map(unknown).collect())
}
