//! DescribeConfigs (32), versions 1–4: the settings of topics and brokers, with their sources, synonyms and documentation.
//!
//! The empty broker name describes what was altered for all brokers.
//!
//! Differs from Apache Kafka: groups and client metrics have no settings, and loggers cannot be asked for (INVALID_REQUEST).
//! Settings that have no effect here say so in their documentation.

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};

use super::config_resource::{CLIENT_METRICS, ConfigResource, GROUP};
use super::{RequestContext, message_bytes, str_bytes};
use crate::admin::AdminError;
use crate::node::Node;
use crate::settings::ConfigEntry;

/// The memory for the settings of one resource, with their documentation, three names each and values as short as they usually are.
const RESOURCE_BYTES: usize = 64 << 10;
/// How often an answer has each value: as that of the setting and as that of its synonym, in what is built and in what is sent.
const VALUE_COPIES: usize = 4;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let row = |entry: ConfigEntry| {
        let synonyms = entry.synonyms.into_iter().filter(|_| request.include_synonyms).map(|synonym| {
            DescribeConfigsSynonym::default()
                .with_name(str_bytes(synonym.name))
                .with_value(synonym.value.as_deref().map(str_bytes))
                .with_source(synonym.source as i8)
        });
        let result = DescribeConfigsResourceResult::default()
            .with_name(str_bytes(entry.name))
            .with_value(entry.value.as_deref().map(str_bytes))
            .with_read_only(entry.read_only)
            .with_config_source(entry.source as i8)
            .with_synonyms(synonyms.collect());
        if ctx.version < 3 {
            return result;
        }
        let documentation = request.include_documentation.then(|| str_bytes(entry.documentation));
        result.with_config_type(entry.config_type as i8).with_documentation(documentation)
    };
    let describe = |resource: &DescribeConfigsResource| {
        let result = DescribeConfigsResult::default()
            .with_error_message(None)
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match entries(node, resource) {
            Ok(entries) => result.with_configs(entries.into_iter().map(row).collect()),
            Err(AdminError { error, message }) => {
                result.with_error_code(ctx.fail(error)).with_error_message(Some(message_bytes(&message)))
            }
        }
    };
    // Each resource once, as Apache Kafka answers: a row takes a hundred times the bytes that asked for it.
    let mut seen = HashSet::new();
    let distinct =
        request.resources.iter().filter(|r| seen.insert((r.resource_type, r.resource_name.clone())));
    let distinct: Vec<_> = distinct.collect();
    if let Err(error) = ctx.make_room(node, distinct.iter().map(|r| resource_bytes(node, r)).sum()).await {
        let refused = |resource: &DescribeConfigsResource| {
            DescribeConfigsResult::default()
                .with_error_code(ctx.fail(ResponseError::PolicyViolation))
                .with_error_message(Some(message_bytes(&error.to_string())))
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone())
        };
        return DescribeConfigsResponse::default().with_results(distinct.into_iter().map(refused).collect());
    }
    DescribeConfigsResponse::default().with_results(distinct.into_iter().map(describe).collect())
}

/// What the description of a resource takes, about.
fn resource_bytes(node: &Node, resource: &DescribeConfigsResource) -> usize {
    let topic = match ConfigResource::parse(node, resource.resource_type, &resource.resource_name) {
        Ok(ConfigResource::Topic(topic)) => topic,
        Ok(ConfigResource::ThisBroker | ConfigResource::AllBrokers) | Err(_) => return RESOURCE_BYTES,
    };
    RESOURCE_BYTES + VALUE_COPIES * topic.overrides.values().map(String::len).sum::<usize>()
}

fn entries(node: &Node, resource: &DescribeConfigsResource) -> Result<Vec<ConfigEntry>, AdminError> {
    if matches!(resource.resource_type, CLIENT_METRICS | GROUP) {
        return Ok(Vec::new());
    }
    let all = match ConfigResource::parse(node, resource.resource_type, &resource.resource_name)? {
        ConfigResource::Topic(topic) => node.settings.describe_topic(&topic.overrides),
        ConfigResource::ThisBroker => node.settings.describe_broker(),
        ConfigResource::AllBrokers => node.settings.describe_all_brokers(),
    };
    Ok(match &resource.configuration_keys {
        Some(keys) => all.into_iter().filter(|e| keys.iter().any(|key| key.as_str() == e.name)).collect(),
        None => all,
    })
}
