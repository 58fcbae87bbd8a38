//! DeleteAcls (31), versions 1–3 (KIP-140): SECURITY_DISABLED for each, as by an Apache Kafka broker without an authorizer.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_acls_response::DeleteAclsFilterResult;
use kafka_protocol::messages::{DeleteAclsRequest, DeleteAclsResponse};
use kafka_protocol::protocol::StrBytes;

use super::RequestContext;
use super::describe_acls::NO_AUTHORIZER;
use crate::node::Node;

pub async fn handle(
    _node: &Arc<Node>,
    ctx: &RequestContext,
    request: DeleteAclsRequest,
) -> DeleteAclsResponse {
    let refused = |_| {
        DeleteAclsFilterResult::default()
            .with_error_code(ctx.fail(ResponseError::SecurityDisabled))
            .with_error_message(Some(StrBytes::from_static_str(NO_AUTHORIZER)))
    };
    DeleteAclsResponse::default().with_filter_results(request.filters.iter().map(refused).collect())
}
