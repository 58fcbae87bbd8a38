//! DescribeQuorum (55), versions 0–2: who leads the metadata, and how far it is (KIP-595, KIP-836, KIP-853).
//!
//! The controller is the leader and the only voter; its epoch is that of its incarnation, and the end of the log is the revision of the
//! metadata store. So `kafka-metadata-quorum` shows a quorum without lag.
//!
//! Differs from Apache Kafka: the replicas of the metadata are those of the store (etcd has tools of its own for them). Brokers follow the
//! store by watches, of which nobody else knows how far they are: there are no observers.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_quorum_response::{
    Listener, Node as QuorumNode, PartitionData, ReplicaState, TopicData,
};
use kafka_protocol::messages::{BrokerId, DescribeQuorumRequest, DescribeQuorumResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::{RequestContext, message_bytes, str_bytes};
use crate::admin::AdminError;
use crate::cluster::LiveBroker;
use crate::node::Node;

const METADATA_TOPIC: &str = "__cluster_metadata";

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: DescribeQuorumRequest,
) -> DescribeQuorumResponse {
    let is_metadata = matches!(request.topics.as_slice(), [topic]
        if topic.topic_name.as_str() == METADATA_TOPIC
            && matches!(topic.partitions.as_slice(), [partition] if partition.partition_index == 0));
    if !is_metadata {
        return failed(
            ctx,
            ResponseError::UnknownTopicOrPartition,
            "Only the quorum of __cluster_metadata-0 can be described.",
        );
    }
    match describe(node, ctx).await {
        Ok(response) => response,
        Err(AdminError { error, message }) => failed(ctx, error, &message),
    }
}

async fn describe(node: &Node, ctx: &RequestContext) -> Result<DescribeQuorumResponse, AdminError> {
    // The store is asked, so that the answer is of now.
    let revision = node.metadata.list_brokers().await?.revision.0;
    let brokers = node.cluster.brokers();
    let leader = brokers.controller.and_then(|node_id| brokers.get(node_id)).ok_or_else(|| {
        let message = "No broker is the controller at the moment.";
        AdminError::new(ResponseError::NotLeaderOrFollower, message)
    })?;
    let log_end_offset = i64::try_from(revision).unwrap_or(i64::MAX);
    let partition = PartitionData::default()
        .with_error_message(None)
        .with_leader_id(BrokerId(leader.id.node_id.0))
        .with_leader_epoch(i32::try_from(leader.id.epoch).unwrap_or(i32::MAX))
        .with_high_watermark(log_end_offset)
        .with_current_voters(vec![voter(node, ctx, leader, log_end_offset)]);
    let topic = TopicData::default()
        .with_topic_name(TopicName(StrBytes::from_static_str(METADATA_TOPIC)))
        .with_partitions(vec![partition]);
    let response = DescribeQuorumResponse::default().with_error_message(None).with_topics(vec![topic]);
    Ok(if ctx.version < 2 { response } else { response.with_nodes(vec![quorum_node(ctx, leader)]) })
}

fn voter(node: &Node, ctx: &RequestContext, leader: &LiveBroker, log_end_offset: i64) -> ReplicaState {
    let state = ReplicaState::default()
        .with_replica_id(BrokerId(leader.id.node_id.0))
        .with_log_end_offset(log_end_offset);
    if ctx.version < 1 {
        return state;
    }
    let now_ms = node.clock.now_ms();
    state.with_last_fetch_timestamp(now_ms).with_last_caught_up_timestamp(now_ms)
}

fn quorum_node(ctx: &RequestContext, leader: &LiveBroker) -> QuorumNode {
    let listeners = leader.endpoint(&ctx.peer.listener).map(|endpoint| {
        Listener::default()
            .with_name(str_bytes(&endpoint.listener))
            .with_host(str_bytes(&endpoint.host))
            .with_port(endpoint.port)
    });
    QuorumNode::default()
        .with_node_id(BrokerId(leader.id.node_id.0))
        .with_listeners(listeners.into_iter().collect())
}

fn failed(ctx: &RequestContext, error: ResponseError, message: &str) -> DescribeQuorumResponse {
    let response =
        DescribeQuorumResponse::default().with_error_code(ctx.fail(error)).with_error_message(None);
    if ctx.version < 2 { response } else { response.with_error_message(Some(message_bytes(message))) }
}
