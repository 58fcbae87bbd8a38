//! ListConfigResources (74), versions 0–1: what has settings (KIP-714, KIP-1142). Version 0 asks for client metrics.
//!
//! Differs from Apache Kafka: client metrics, groups and loggers have no settings here, so that none of them is listed.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_config_resources_response::ConfigResource;
use kafka_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};

use super::config_resource::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC};
use super::{RequestContext, answer_size, str_bytes};
use crate::node::Node;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    let types: BTreeSet<i8> = match request.resource_types.as_slice() {
        _ if ctx.version == 0 => BTreeSet::from([CLIENT_METRICS]),
        [] => BTreeSet::from([TOPIC, BROKER]),
        asked => asked.iter().copied().collect(),
    };
    let all = if types.contains(&TOPIC) { node.topics.all() } else { Vec::new() };
    let bytes = all.iter().map(|topic| answer_size::STRUCTURE_BYTES + 2 * topic.name.len());
    if ctx.make_room(node, bytes.sum()).await.is_err() {
        let error = ctx.fail(ResponseError::PolicyViolation);
        return ListConfigResourcesResponse::default().with_error_code(error);
    }
    let mut resources = Vec::new();
    for resource_type in types {
        let resource = |name: &str| {
            ConfigResource::default().with_resource_name(str_bytes(name)).with_resource_type(resource_type)
        };
        match resource_type {
            TOPIC => resources.extend(all.iter().map(|topic| resource(&topic.name))),
            BROKER => {
                resources.extend(node.cluster.brokers().all().map(|b| resource(&b.id.node_id.to_string())));
            }
            BROKER_LOGGER | CLIENT_METRICS | GROUP => {}
            _ => {
                let error = ctx.fail(ResponseError::UnsupportedVersion);
                return ListConfigResourcesResponse::default().with_error_code(error);
            }
        }
    }
    if ctx.version == 0 {
        return ListConfigResourcesResponse::default();
    }
    ListConfigResourcesResponse::default().with_config_resources(resources)
}
