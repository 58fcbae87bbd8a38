//! CreateAcls (30), versions 1–3 (KIP-140): SECURITY_DISABLED for each, as by an Apache Kafka broker without an authorizer.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_acls_response::AclCreationResult;
use kafka_protocol::messages::{CreateAclsRequest, CreateAclsResponse};
use kafka_protocol::protocol::StrBytes;

use super::RequestContext;
use super::describe_acls::NO_AUTHORIZER;
use crate::node::Node;

pub async fn handle(
    _node: &Arc<Node>,
    ctx: &RequestContext,
    request: CreateAclsRequest,
) -> CreateAclsResponse {
    let refused = |_| {
        AclCreationResult::default()
            .with_error_code(ctx.fail(ResponseError::SecurityDisabled))
            .with_error_message(Some(StrBytes::from_static_str(NO_AUTHORIZER)))
    };
    CreateAclsResponse::default().with_results(request.creations.iter().map(refused).collect())
}
