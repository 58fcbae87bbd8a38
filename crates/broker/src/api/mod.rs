//! Which requests are served, in which versions, and who handles each.
//!
//! A new API is one file, one line in [`SUPPORTED`] and one in [`handle`].

mod alter_configs;
mod api_versions;
mod config_resource;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_log_dirs;
mod describe_producers;
mod describe_topic_partitions;
mod fetch;
mod find_coordinator;
mod group_error;
mod heartbeat;
mod incremental_alter_configs;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_groups;
mod list_offsets;
mod lookup;
mod metadata;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod produce;
mod sync_group;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Encodable, HeaderVersion, Request, StrBytes, VersionRange};
use tokio::time::Instant;

use crate::connection::Peer;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::wire::{self, Answer, Frame, Refusal};

/// An answer that is worked out when its turn comes.
pub type Pending = Pin<Box<dyn Future<Output = Result<Answer, Refusal>> + Send>>;

const fn versions(min: i16, max: i16) -> VersionRange {
    VersionRange { min, max }
}

/// What ApiVersions advertises. The versions are those of Apache Kafka 4, less what is not finished there.
pub static SUPPORTED: &[(ApiKey, VersionRange)] = &[
    (ApiKey::Produce, versions(0, 13)),
    (ApiKey::Fetch, versions(4, 18)),
    (ApiKey::ListOffsets, versions(1, 10)),
    (ApiKey::Metadata, versions(0, 13)),
    (ApiKey::OffsetCommit, versions(2, 9)),
    (ApiKey::OffsetFetch, versions(1, 9)),
    (ApiKey::FindCoordinator, versions(0, 6)),
    (ApiKey::JoinGroup, versions(0, 9)),
    (ApiKey::Heartbeat, versions(0, 4)),
    (ApiKey::LeaveGroup, versions(0, 5)),
    (ApiKey::SyncGroup, versions(0, 5)),
    (ApiKey::DescribeGroups, versions(0, 6)),
    (ApiKey::ListGroups, versions(0, 5)),
    (ApiKey::ApiVersions, versions(0, 4)),
    (ApiKey::CreateTopics, versions(2, 7)),
    (ApiKey::DeleteTopics, versions(1, 6)),
    (ApiKey::DeleteRecords, versions(0, 2)),
    (ApiKey::InitProducerId, versions(0, 5)),
    (ApiKey::OffsetForLeaderEpoch, versions(2, 4)),
    (ApiKey::DescribeConfigs, versions(1, 4)),
    (ApiKey::AlterConfigs, versions(0, 2)),
    (ApiKey::DescribeLogDirs, versions(1, 4)),
    (ApiKey::CreatePartitions, versions(0, 3)),
    (ApiKey::DeleteGroups, versions(0, 2)),
    (ApiKey::IncrementalAlterConfigs, versions(0, 1)),
    (ApiKey::OffsetDelete, versions(0, 0)),
    (ApiKey::DescribeCluster, versions(0, 2)),
    (ApiKey::DescribeProducers, versions(0, 0)),
    (ApiKey::DescribeTopicPartitions, versions(0, 0)),
];

/// What a handler knows of a request besides its body.
#[derive(Debug)]
pub struct RequestContext {
    pub api: ApiKey,
    pub version: i16,
    pub correlation_id: i32,
    pub client_id: Option<StrBytes>,
    pub peer: Arc<Peer>,
    metrics: Arc<Metrics>,
}

impl RequestContext {
    /// Counts an error and gives its code. Every code that leaves the broker comes from here.
    pub fn fail(&self, error: ResponseError) -> i16 {
        self.metrics.failed(self.api, error);
        error.code()
    }

    /// Encodes the response of this request.
    pub fn answer<M: Encodable + HeaderVersion>(&self, message: &M) -> Result<Answer, Refusal> {
        Answer::encode(self.correlation_id, self.version, message)
    }
}

/// Takes a request in. What must happen in the order of arrival happens here, the rest when the answer is awaited.
pub fn admit(node: &Arc<Node>, peer: &Arc<Peer>, frame: Frame) -> Result<Pending, Refusal> {
    let Frame { api, version, correlation_id, client_id, body, budget, .. } = frame;
    let (peer, metrics) = (Arc::clone(peer), Arc::clone(&node.metrics));
    let ctx = RequestContext { api, version, correlation_id, client_id, peer, metrics };
    let supported = SUPPORTED.iter().find(|(key, _)| *key == api).map(|(_, range)| *range);
    if !supported.is_some_and(|range| (range.min..=range.max).contains(&version)) {
        if api == ApiKey::ApiVersions {
            let answer = api_versions::unsupported_version(&ctx);
            return Ok(Box::pin(std::future::ready(answer)));
        }
        return Err(Refusal::Protocol(format!("{api:?} version {version} is not supported")));
    }
    if api == ApiKey::Produce {
        return produce::admit(node, ctx, body, budget);
    }
    let (node, changes) = (Arc::clone(node), node.changes.clone());
    let body = body.freeze();
    let work = async move {
        let started = Instant::now();
        let answer = handle(&node, &ctx, body).await;
        node.metrics.handled(api, started.elapsed());
        drop(budget);
        answer
    };
    if !changes_topics(api) {
        return Ok(Box::pin(work));
    }
    // A peer that disconnects must not stop a change between the metadata store and what this broker serves.
    Ok(Box::pin(async move { changes.spawn(work).await.map_err(|e| Refusal::Internal(e.to_string()))? }))
}

/// Requests that change topics or settings; Metadata may create a topic.
fn changes_topics(api: ApiKey) -> bool {
    matches!(
        api,
        ApiKey::Metadata
            | ApiKey::CreateTopics
            | ApiKey::DeleteTopics
            | ApiKey::CreatePartitions
            | ApiKey::DeleteRecords
            | ApiKey::AlterConfigs
            | ApiKey::IncrementalAlterConfigs
    )
}

/// A connection that is closed when this one's turn comes.
pub fn refuse(why: Refusal) -> Pending {
    Box::pin(std::future::ready(Err(why)))
}

async fn handle(node: &Arc<Node>, ctx: &RequestContext, body: Bytes) -> Result<Answer, Refusal> {
    match ctx.api {
        ApiKey::Fetch => fetch::handle(node, ctx, body).await,
        ApiKey::ListOffsets => call(ctx, body, |q| list_offsets::handle(node, ctx, q)).await,
        ApiKey::Metadata => call(ctx, body, |q| metadata::handle(node, ctx, q)).await,
        ApiKey::OffsetCommit => call(ctx, body, |q| offset_commit::handle(node, ctx, q)).await,
        ApiKey::OffsetFetch => call(ctx, body, |q| offset_fetch::handle(node, ctx, q)).await,
        ApiKey::FindCoordinator => call(ctx, body, |q| find_coordinator::handle(node, ctx, q)).await,
        ApiKey::JoinGroup => call(ctx, body, |q| join_group::handle(node, ctx, q)).await,
        ApiKey::Heartbeat => call(ctx, body, |q| heartbeat::handle(node, ctx, q)).await,
        ApiKey::LeaveGroup => call(ctx, body, |q| leave_group::handle(node, ctx, q)).await,
        ApiKey::SyncGroup => call(ctx, body, |q| sync_group::handle(node, ctx, q)).await,
        ApiKey::DescribeGroups => call(ctx, body, |q| describe_groups::handle(node, ctx, q)).await,
        ApiKey::ListGroups => call(ctx, body, |q| list_groups::handle(node, ctx, q)).await,
        ApiKey::ApiVersions => call(ctx, body, |q| api_versions::handle(node, ctx, q)).await,
        ApiKey::CreateTopics => call(ctx, body, |q| create_topics::handle(node, ctx, q)).await,
        ApiKey::DeleteTopics => call(ctx, body, |q| delete_topics::handle(node, ctx, q)).await,
        ApiKey::DeleteRecords => call(ctx, body, |q| delete_records::handle(node, ctx, q)).await,
        ApiKey::InitProducerId => call(ctx, body, |q| init_producer_id::handle(node, ctx, q)).await,
        ApiKey::OffsetForLeaderEpoch => {
            call(ctx, body, |q| offset_for_leader_epoch::handle(node, ctx, q)).await
        }
        ApiKey::DescribeConfigs => call(ctx, body, |q| describe_configs::handle(node, ctx, q)).await,
        ApiKey::AlterConfigs => call(ctx, body, |q| alter_configs::handle(node, ctx, q)).await,
        ApiKey::DescribeLogDirs => call(ctx, body, |q| describe_log_dirs::handle(node, ctx, q)).await,
        ApiKey::CreatePartitions => call(ctx, body, |q| create_partitions::handle(node, ctx, q)).await,
        ApiKey::IncrementalAlterConfigs => {
            call(ctx, body, |q| incremental_alter_configs::handle(node, ctx, q)).await
        }
        ApiKey::DeleteGroups => call(ctx, body, |q| delete_groups::handle(node, ctx, q)).await,
        ApiKey::OffsetDelete => call(ctx, body, |q| offset_delete::handle(node, ctx, q)).await,
        ApiKey::DescribeCluster => call(ctx, body, |q| describe_cluster::handle(node, ctx, q)).await,
        ApiKey::DescribeProducers => call(ctx, body, |q| describe_producers::handle(node, ctx, q)).await,
        ApiKey::DescribeTopicPartitions => {
            call(ctx, body, |q| describe_topic_partitions::handle(node, ctx, q)).await
        }
        other => Err(Refusal::Protocol(format!("{other:?} is not supported"))),
    }
}

/// Decodes a request, has it handled, and encodes the response.
async fn call<Q, F, H>(ctx: &RequestContext, body: Bytes, handler: H) -> Result<Answer, Refusal>
where
    Q: Request,
    F: Future<Output = Q::Response>,
    H: FnOnce(Q) -> F,
{
    let request = wire::decode::<Q>(body, ctx.version)?;
    ctx.answer(&handler(request).await)
}

/// Text as the messages hold it.
pub fn str_bytes(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
