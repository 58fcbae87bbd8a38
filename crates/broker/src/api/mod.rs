//! Which requests are served, in which versions, and who handles each.
//!
//! A new API is one file, its `mod` line and one line in the table.

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

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{
    AlterConfigsRequest, ApiKey, ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest, DescribeClusterRequest,
    DescribeConfigsRequest, DescribeGroupsRequest, DescribeLogDirsRequest, DescribeProducersRequest,
    DescribeTopicPartitionsRequest, FetchRequest, FindCoordinatorRequest, HeartbeatRequest,
    IncrementalAlterConfigsRequest, InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest,
    ListGroupsRequest, ListOffsetsRequest, MetadataRequest, OffsetCommitRequest, OffsetDeleteRequest,
    OffsetFetchRequest, OffsetForLeaderEpochRequest, ProduceRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::{Encodable, HeaderVersion, Request, StrBytes, VersionRange};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
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

macro_rules! apis {
    ($($key:ident $min:literal..=$max:literal $request:ident $module:ident;)*) => {
        /// What ApiVersions advertises. The versions are those of Apache Kafka 4, less what is not finished there.
        pub static SUPPORTED: &[(ApiKey, VersionRange)] = &[
            (ApiKey::Produce, versions(0, 13)),
            (ApiKey::Fetch, versions(4, 18)),
            $((ApiKey::$key, versions($min, $max))),*
        ];

        async fn handle(node: &Arc<Node>, ctx: &RequestContext, body: Bytes) -> Result<Answer, Refusal> {
            match ctx.api {
                ApiKey::Fetch => fetch::handle(node, ctx, wire::decode(body, ctx.version)?).await,
                $(ApiKey::$key => call(ctx, body, |q: $request| $module::handle(node, ctx, q)).await,)*
                other => Err(Refusal::Protocol(format!("{other:?} is not supported"))),
            }
        }

        /// Decodes the body of a request and does nothing with it.
        pub fn decode_only(api: ApiKey, version: i16, body: BytesMut) -> Result<(), Refusal> {
            match api {
                ApiKey::Produce => wire::produce::parse(body, version).map(drop),
                ApiKey::Fetch => wire::decode::<FetchRequest>(body.freeze(), version).map(drop),
                $(ApiKey::$key => wire::decode::<$request>(body.freeze(), version).map(drop),)*
                other => Err(Refusal::Protocol(format!("{other:?} is not supported"))),
            }
        }

        /// A request of each API in each version, with nothing in it: what fuzzers begin with.
        pub fn samples() -> Vec<(ApiKey, i16, BytesMut)> {
            let mut samples = sample::<ProduceRequest>(ApiKey::Produce, 3..=13);
            samples.extend(sample::<FetchRequest>(ApiKey::Fetch, 4..=18));
            $(samples.extend(sample::<$request>(ApiKey::$key, $min..=$max));)*
            samples
        }
    };
}

fn sample<Q: Request + Default>(
    api: ApiKey,
    versions: std::ops::RangeInclusive<i16>,
) -> Vec<(ApiKey, i16, BytesMut)> {
    let encode = |version| {
        let mut body = BytesMut::new();
        // A version that cannot express the defaults has no sample.
        Q::default().encode(&mut body, version).ok().map(|()| (api, version, body))
    };
    versions.filter_map(encode).collect()
}

// Produce and Fetch are read and written by hand, the others by the generated messages.
apis! {
    ListOffsets 1..=10 ListOffsetsRequest list_offsets;
    Metadata 0..=13 MetadataRequest metadata;
    OffsetCommit 2..=9 OffsetCommitRequest offset_commit;
    OffsetFetch 1..=9 OffsetFetchRequest offset_fetch;
    FindCoordinator 0..=6 FindCoordinatorRequest find_coordinator;
    JoinGroup 0..=9 JoinGroupRequest join_group;
    Heartbeat 0..=4 HeartbeatRequest heartbeat;
    LeaveGroup 0..=5 LeaveGroupRequest leave_group;
    SyncGroup 0..=5 SyncGroupRequest sync_group;
    DescribeGroups 0..=6 DescribeGroupsRequest describe_groups;
    ListGroups 0..=5 ListGroupsRequest list_groups;
    ApiVersions 0..=4 ApiVersionsRequest api_versions;
    CreateTopics 2..=7 CreateTopicsRequest create_topics;
    DeleteTopics 1..=6 DeleteTopicsRequest delete_topics;
    DeleteRecords 0..=2 DeleteRecordsRequest delete_records;
    InitProducerId 0..=5 InitProducerIdRequest init_producer_id;
    OffsetForLeaderEpoch 2..=4 OffsetForLeaderEpochRequest offset_for_leader_epoch;
    DescribeConfigs 1..=4 DescribeConfigsRequest describe_configs;
    AlterConfigs 0..=2 AlterConfigsRequest alter_configs;
    DescribeLogDirs 1..=4 DescribeLogDirsRequest describe_log_dirs;
    CreatePartitions 0..=3 CreatePartitionsRequest create_partitions;
    DeleteGroups 0..=2 DeleteGroupsRequest delete_groups;
    IncrementalAlterConfigs 0..=1 IncrementalAlterConfigsRequest incremental_alter_configs;
    OffsetDelete 0..=0 OffsetDeleteRequest offset_delete;
    DescribeCluster 0..=2 DescribeClusterRequest describe_cluster;
    DescribeProducers 0..=0 DescribeProducersRequest describe_producers;
    DescribeTopicPartitions 0..=0 DescribeTopicPartitionsRequest describe_topic_partitions;
}

/// What a waiting request may hold of memory that is not counted.
const LITTLE_BYTES: usize = 16 << 10;

/// What a handler knows of a request besides its body.
#[derive(Debug)]
pub struct RequestContext {
    pub api: ApiKey,
    pub version: i16,
    pub correlation_id: i32,
    pub client_id: Option<StrBytes>,
    pub peer: Arc<Peer>,
    metrics: Arc<Metrics>,
    /// What the request holds of the memory for requests, until it is answered.
    memory: Mutex<Option<OwnedSemaphorePermit>>,
}

impl RequestContext {
    /// Counts an error and gives its code. Every code that leaves the broker comes from here.
    pub fn fail(&self, error: ResponseError) -> i16 {
        self.metrics.failed(self.api, error);
        error.code()
    }

    /// Gives the memory of the request back before it is answered, because whoever has taken it over accounts for it.
    pub fn release_memory(&self) {
        drop(self.memory.lock().take());
    }

    /// Gives little memory back before a long wait: thousands of waiting consumers must not keep producers waiting. What they
    /// hold is bounded by the number of connections.
    pub fn release_little_memory(&self) {
        let mut memory = self.memory.lock();
        if memory.as_ref().is_some_and(|held| held.num_permits() <= LITTLE_BYTES) {
            memory.take();
        }
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
    let memory = Mutex::new(None);
    let ctx = RequestContext { api, version, correlation_id, client_id, peer, metrics, memory };
    if !is_supported(api, version) {
        if api == ApiKey::ApiVersions {
            let answer = api_versions::unsupported_version(&ctx);
            return Ok(Box::pin(std::future::ready(answer)));
        }
        return Err(Refusal::Protocol(format!("{api:?} version {version} is not supported")));
    }
    if api == ApiKey::Produce {
        return produce::admit(node, ctx, body, budget);
    }
    *ctx.memory.lock() = Some(budget);
    let (node, changes) = (Arc::clone(node), node.changes.clone());
    let body = body.freeze();
    let work = async move {
        let started = Instant::now();
        let answer = handle(&node, &ctx, body).await;
        node.metrics.handled(api, started.elapsed());
        ctx.release_memory();
        answer
    };
    if !changes_topics(api) {
        return Ok(Box::pin(work));
    }
    // A peer that disconnects must not stop a change between the metadata store and what this broker serves.
    Ok(Box::pin(async move { changes.spawn(work).await.map_err(|e| Refusal::Internal(e.to_string()))? }))
}

/// Whether requests of this version are served.
pub fn is_supported(api: ApiKey, version: i16) -> bool {
    let known = SUPPORTED.iter().find(|(key, _)| *key == api);
    known.is_some_and(|(_, range)| (range.min..=range.max).contains(&version))
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
