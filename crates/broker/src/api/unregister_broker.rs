//! UnregisterBroker (64), version 0: forget a broker that stays away (KIP-631), so that nobody misses it any more.
//!
//! Apache Kafka also unregisters a broker that is alive, which then registers again. Here that is refused, since it would change nothing.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{UnregisterBrokerRequest, UnregisterBrokerResponse};

use super::{RequestContext, message_bytes};
use crate::node::Node;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: UnregisterBrokerRequest,
) -> UnregisterBrokerResponse {
    let node_id = request.broker_id.0;
    let refused = |error: ResponseError, why: String| {
        UnregisterBrokerResponse::default()
            .with_error_code(ctx.fail(error))
            .with_error_message(Some(message_bytes(&why)))
    };
    match node.metadata.load_broker(node_id).await {
        Ok(Some(_)) => {
            refused(ResponseError::InvalidRequest, format!("broker {node_id} is alive: stop it first"))
        }
        Ok(None) => match node.metadata.forget_member(node_id).await {
            Ok(true) => UnregisterBrokerResponse::default(),
            Ok(false) => {
                refused(ResponseError::BrokerIdNotRegistered, format!("no broker {node_id} is known"))
            }
            Err(error) => refused(ResponseError::UnknownServerError, error.to_string()),
        },
        Err(error) => refused(ResponseError::UnknownServerError, error.to_string()),
    }
}
