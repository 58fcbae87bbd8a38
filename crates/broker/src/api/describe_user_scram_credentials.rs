//! DescribeUserScramCredentials (50), version 0 (KIP-554): no user has credentials, because SASL is not offered yet.

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_user_scram_credentials_response::DescribeUserScramCredentialsResult;
use kafka_protocol::messages::{DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse};

use super::RequestContext;
use crate::node::Node;

pub async fn handle(
    _node: &Arc<Node>,
    ctx: &RequestContext,
    request: DescribeUserScramCredentialsRequest,
) -> DescribeUserScramCredentialsResponse {
    let mut seen = HashSet::new();
    let asked = request.users.unwrap_or_default();
    let distinct = asked.into_iter().filter(|user| seen.insert(user.name.clone()));
    let unknown = |name| {
        DescribeUserScramCredentialsResult::default()
            .with_user(name)
            .with_error_code(ctx.fail(ResponseError::ResourceNotFound))
            .with_error_message(None)
    };
    DescribeUserScramCredentialsResponse::default()
        .with_error_message(None)
        .with_results(distinct.map(|user| unknown(user.name)).collect())
}
