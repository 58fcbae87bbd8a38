//! AlterConfigs (33), versions 0–2: replaces all altered settings of topics and brokers by the given ones.
//!
//! Deprecated since Apache Kafka 2.3 in favour of IncrementalAlterConfigs, but older clients know nothing else.
//! Differs from Apache Kafka in what DescribeConfigs says.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};

use super::config_resource::{ConfigResource, check_keys, resource_twice};
use super::{RequestContext, message_bytes, named_twice};
use crate::admin::{AdminError, TopicAdmin};
use crate::node::Node;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: AlterConfigsRequest,
) -> AlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    let name = |resource: &AlterConfigsResource| (resource.resource_type, resource.resource_name.clone());
    let twice = named_twice(request.resources.iter().map(name));
    for resource in request.resources {
        let altered = if twice.contains(&name(&resource)) {
            Err(resource_twice())
        } else if let Some(admin) = ctx.turn(node).await {
            alter(node, &admin, &resource, request.validate_only).await
        } else {
            Err(AdminError::not_begun())
        };
        let response = AlterConfigsResourceResponse::default()
            .with_error_message(None)
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name);
        responses.push(match altered {
            Ok(()) => response,
            Err(AdminError { error, message }) => {
                response.with_error_code(ctx.fail(error)).with_error_message(Some(message_bytes(&message)))
            }
        });
    }
    AlterConfigsResponse::default().with_responses(responses)
}

async fn alter(
    node: &Node,
    admin: &TopicAdmin,
    resource: &AlterConfigsResource,
    validate_only: bool,
) -> Result<(), AdminError> {
    let target = ConfigResource::parse(node, resource.resource_type, &resource.resource_name)?;
    check_keys(resource.configs.iter().map(|config| &config.name))?;
    let mut values = BTreeMap::new();
    for config in &resource.configs {
        let value = config.value.as_ref().ok_or_else(|| {
            let message = format!("Null value not supported for : {}", config.name.as_str());
            AdminError::new(ResponseError::InvalidRequest, message)
        })?;
        values.insert(config.name.to_string(), value.to_string());
    }
    if validate_only { target.check(node, &values) } else { target.replace(node, admin, values).await }
}
