//! DescribeCluster (60), versions 0–2: the cluster's id, its controller and its brokers (KIP-700, KIP-919).
//!
//! Differs from Apache Kafka: there are no separate controllers, so that asking for their endpoints is
//! MISMATCHED_ENDPOINT_TYPE, as by any Kafka broker.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};
use kafka_protocol::protocol::StrBytes;

use super::metadata::{CLUSTER_OPERATIONS, OPERATIONS_OMITTED};
use super::{RequestContext, str_bytes};
use crate::cluster::LiveBroker;
use crate::node::Node;

const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    let failed = |error, message: &'static str| {
        DescribeClusterResponse::default()
            .with_error_code(ctx.fail(error))
            .with_error_message(Some(StrBytes::from_static_str(message)))
    };
    match request.endpoint_type {
        BROKERS => {}
        CONTROLLERS => {
            let message = "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER";
            return failed(ResponseError::MismatchedEndpointType, message);
        }
        _ => return failed(ResponseError::UnsupportedEndpointType, "This endpoint type is not supported."),
    }
    let brokers = node.cluster.brokers();
    let describe = |broker: &LiveBroker| {
        let endpoint = broker.endpoint(&ctx.peer.listener)?;
        let described = DescribeClusterBroker::default()
            .with_broker_id(BrokerId(broker.id.node_id.0))
            .with_host(str_bytes(&endpoint.host))
            .with_port(i32::from(endpoint.port))
            .with_rack(broker.rack.as_deref().map(str_bytes));
        Some(described)
    };
    let operations =
        if request.include_cluster_authorized_operations { CLUSTER_OPERATIONS } else { OPERATIONS_OMITTED };
    let controller = brokers.controller_for_clients(node.config.node_id);
    DescribeClusterResponse::default()
        .with_cluster_id(str_bytes(&node.config.cluster_id))
        .with_controller_id(BrokerId(controller.map_or(-1, |node_id| node_id.0)))
        .with_brokers(brokers.all().filter_map(describe).collect())
        .with_cluster_authorized_operations(operations)
}
