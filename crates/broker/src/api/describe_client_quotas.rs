//! DescribeClientQuotas (48), versions 0–1 (KIP-546): there are no quotas, so that none matches.
//!
//! Differs from Apache Kafka: they cannot be set either; AlterClientQuotas is not offered.

use std::sync::Arc;

use kafka_protocol::messages::{DescribeClientQuotasRequest, DescribeClientQuotasResponse};

use super::RequestContext;
use crate::node::Node;

pub async fn handle(
    _node: &Arc<Node>,
    _ctx: &RequestContext,
    _request: DescribeClientQuotasRequest,
) -> DescribeClientQuotasResponse {
    DescribeClientQuotasResponse::default().with_error_message(None).with_entries(Some(Vec::new()))
}
