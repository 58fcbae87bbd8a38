//! IncrementalAlterConfigs (44), versions 0–1: sets, resets, and adds to settings of topics and brokers (KIP-339).
//!
//! Differs from Apache Kafka in what DescribeConfigs says.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

use super::config_resource::{ConfigResource, check_keys, resource_twice};
use super::{RequestContext, message_bytes, named_twice};
use crate::admin::{AdminError, TopicAdmin};
use crate::node::Node;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let name = |resource: &AlterConfigsResource| (resource.resource_type, resource.resource_name.clone());
    let twice = named_twice(request.resources.iter().map(name));
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in &request.resources {
        let altered = if twice.contains(&name(resource)) {
            Err(resource_twice())
        } else if let Some(admin) = ctx.turn(node).await {
            alter(node, &admin, resource, request.validate_only).await
        } else {
            Err(AdminError::not_begun())
        };
        let response = AlterConfigsResourceResponse::default()
            .with_error_message(None)
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        responses.push(match altered {
            Ok(()) => response,
            Err(AdminError { error, message }) => {
                response.with_error_code(ctx.fail(error)).with_error_message(Some(message_bytes(&message)))
            }
        });
    }
    IncrementalAlterConfigsResponse::default().with_responses(responses)
}

async fn alter(
    node: &Node,
    admin: &TopicAdmin,
    resource: &AlterConfigsResource,
    validate_only: bool,
) -> Result<(), AdminError> {
    let target = ConfigResource::parse(node, resource.resource_type, &resource.resource_name)?;
    let mut values = target.altered(node);
    check_keys(resource.configs.iter().map(|change| &change.name))?;
    for change in &resource.configs {
        apply(node, &target, &mut values, change)?;
    }
    if validate_only { target.check(node, &values) } else { target.replace(node, admin, values).await }
}

fn apply(
    node: &Node,
    target: &ConfigResource,
    values: &mut BTreeMap<String, String>,
    change: &AlterableConfig,
) -> Result<(), AdminError> {
    let name = change.name.as_str();
    let invalid = |message: String| Err(AdminError::new(ResponseError::InvalidRequest, message));
    let Some(value) = change.value.as_deref().or((change.config_operation == DELETE).then_some("")) else {
        return invalid(format!("Null value not supported for : {name}"));
    };
    match change.config_operation {
        SET => {
            values.insert(name.to_owned(), value.to_owned());
        }
        DELETE => {
            target.check_name(node, name)?;
            values.remove(name);
        }
        APPEND | SUBTRACT => {
            let what = if change.config_operation == APPEND { "APPEND to" } else { "SUBTRACT from" };
            if !target.is_list(name) {
                let message = format!("Can't {what} key {name} because its type is not LIST.");
                return Err(AdminError::new(ResponseError::InvalidConfig, message));
            }
            let current = values.get(name).cloned().unwrap_or_else(|| target.default_of(node, name));
            values.insert(name.to_owned(), change_list(&current, value, change.config_operation == APPEND));
        }
        other => return invalid(format!("Unknown operation {other} for key {name}.")),
    }
    Ok(())
}

fn change_list(current: &str, change: &str, append: bool) -> String {
    let items = |text| str::split(text, ',').map(str::trim).filter(|item| !item.is_empty());
    let kept: Vec<&str> = if append {
        let mut seen: HashSet<&str> = items(current).collect();
        items(current).chain(items(change).filter(|item| seen.insert(item))).collect()
    } else {
        let taken: HashSet<&str> = items(change).collect();
        items(current).filter(|item| !taken.contains(item)).collect()
    };
    kept.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_grow_and_shrink() {
        assert_eq!(change_list("delete", "compact", true), "delete,compact");
        assert_eq!(change_list("delete", "delete", true), "delete");
        assert_eq!(change_list("delete, compact", "delete", false), "compact");
        assert_eq!(change_list("delete", "delete", false), "");
        assert_eq!(change_list("a", "b,b, a,c", true), "a,b,c");
    }

    #[test]
    fn a_long_list_is_changed_in_one_pass() {
        let many = (0..200_000).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
        let began = std::time::Instant::now();
        assert_eq!(change_list("", &many, true), many);
        assert_eq!(change_list(&many, &many, false), "");
        // Well below a second; where each item was compared with all others, minutes.
        assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    }
}
