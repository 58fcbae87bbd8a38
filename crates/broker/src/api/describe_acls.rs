//! DescribeAcls (29), versions 1–3 (KIP-140): SECURITY_DISABLED, as by an Apache Kafka broker without an authorizer.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{DescribeAclsRequest, DescribeAclsResponse};
use kafka_protocol::protocol::StrBytes;

use super::RequestContext;
use crate::node::Node;

/// Apache Kafka's words.
pub const NO_AUTHORIZER: &str = "No Authorizer is configured on the broker";

pub async fn handle(
    _node: &Arc<Node>,
    ctx: &RequestContext,
    _request: DescribeAclsRequest,
) -> DescribeAclsResponse {
    DescribeAclsResponse::default()
        .with_error_code(ctx.fail(ResponseError::SecurityDisabled))
        .with_error_message(Some(StrBytes::from_static_str(NO_AUTHORIZER)))
}
