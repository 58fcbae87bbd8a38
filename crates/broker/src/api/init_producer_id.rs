//! InitProducerId (22), versions 0–5: gives an idempotent producer its id (KIP-98, KIP-360).
//!
//! A producer without a transactional id always gets a new id with epoch 0, as from Apache Kafka.
//!
//! Differs from Apache Kafka: there are no transactions yet. A transactional id is refused with UNSUPPORTED_VERSION, and a line in the log.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use super::{RequestContext, not_offered};
use crate::log_limit::Line;
use crate::node::Node;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let failed = |error| {
        InitProducerIdResponse::default()
            .with_error_code(ctx.fail(error))
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
    };
    if let Some(id) = &request.transactional_id {
        if id.is_empty() {
            return failed(ResponseError::InvalidRequest);
        }
        if node.lines.allow(Line::TransactionRefused) {
            let (address, id) = (ctx.peer.address, id.as_str());
            tracing::warn!(%address, transactional_id = id, "refused: transactions are not supported yet");
        }
        return failed(not_offered::no_transactions(ctx));
    }
    match node.producer_ids.next().await {
        Ok(id) => InitProducerIdResponse::default().with_producer_id(ProducerId(id.0)).with_producer_epoch(0),
        Err(error) => {
            if node.lines.allow(Line::NoProducerId) {
                tracing::warn!(%error, "no producer id can be given out");
            }
            failed(ResponseError::CoordinatorNotAvailable)
        }
    }
}
