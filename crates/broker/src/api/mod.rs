//! Which requests are served, in which versions, and who handles each.
//!
//! A new API is one file, its `mod` line and one line in the table.

mod alter_configs;
mod alter_partition_reassignments;
mod alter_replica_log_dirs;
mod answer_size;
mod api_versions;
mod config_resource;
mod create_acls;
mod create_partitions;
mod create_topics;
mod delete_acls;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_acls;
mod describe_client_quotas;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_log_dirs;
mod describe_producers;
mod describe_quorum;
mod describe_topic_partitions;
mod describe_transactions;
mod describe_user_scram_credentials;
mod elect_leaders;
mod features;
mod fetch;
mod find_coordinator;
mod group_error;
mod heartbeat;
mod incremental_alter_configs;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_config_resources;
mod list_groups;
mod list_offsets;
mod list_partition_reassignments;
mod list_transactions;
mod lookup;
mod metadata;
mod not_offered;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod produce;
mod sync_group;
mod unregister_broker;
mod update_features;

pub use fetch::LateReads;

use std::collections::HashSet;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterPartitionReassignmentsRequest, AlterReplicaLogDirsRequest, ApiKey,
    ApiVersionsRequest, CreateAclsRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteAclsRequest,
    DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest, DescribeAclsRequest,
    DescribeClientQuotasRequest, DescribeClusterRequest, DescribeConfigsRequest, DescribeGroupsRequest,
    DescribeLogDirsRequest, DescribeProducersRequest, DescribeQuorumRequest, DescribeTopicPartitionsRequest,
    DescribeTransactionsRequest, DescribeUserScramCredentialsRequest, ElectLeadersRequest, FetchRequest,
    FindCoordinatorRequest, HeartbeatRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest,
    JoinGroupRequest, LeaveGroupRequest, ListConfigResourcesRequest, ListGroupsRequest, ListOffsetsRequest,
    ListPartitionReassignmentsRequest, ListTransactionsRequest, MetadataRequest, OffsetCommitRequest,
    OffsetDeleteRequest, OffsetFetchRequest, OffsetForLeaderEpochRequest, ProduceRequest, SyncGroupRequest,
    UnregisterBrokerRequest, UpdateFeaturesRequest,
};
use kafka_protocol::protocol::{Encodable, HeaderVersion, Request, StrBytes, VersionRange};
use kafscale_storage::compute_for;
use parking_lot::Mutex;
use tokio::sync::{MutexGuard, OwnedSemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admin::TopicAdmin;
use crate::answer_memory::{AnswerTooLarge, Room};
use crate::connection::Peer;
use crate::log_limit::Line;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::wire::{self, Answer, Charge, Frame, Refusal};

pub use answer_size::DESCRIBED_PARTITION_BYTES;

/// An answer that is worked out when its turn comes.
pub type Pending = Pin<Box<dyn Future<Output = Result<Answer, Refusal>> + Send>>;

/// A request that was taken in, or that has work to do first before the next one of its connection may be.
pub enum Admission {
    Ready(Pending),
    Checking(Pin<Box<dyn Future<Output = Result<Pending, Refusal>> + Send>>),
}

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
                ApiKey::Fetch => {
                    let version = ctx.version;
                    let poll = decode(ctx, body, move |request| fetch::prepare(request, version)).await?;
                    fetch::handle(node, ctx, poll).await
                }
                // Each in memory of its own: else every Fetch would move, and wait in, as much as the largest of them needs.
                $(ApiKey::$key => Box::pin(call(ctx, body, |q: $request| $module::handle(node, ctx, q))).await,)*
                other => Err(Refusal::Protocol(format!("{other:?} is not supported"))),
            }
        }

        /// Decodes the body of a request and does nothing with it.
        pub fn decode_only(api: ApiKey, version: i16, body: BytesMut) -> Result<(), Refusal> {
            let version = form(api, version);
            match api {
                ApiKey::Produce => wire::produce::parse(body, version).map(drop),
                ApiKey::Fetch => wire::decode::<FetchRequest>(body.freeze(), version).map(drop),
                $(ApiKey::$key => wire::decode::<$request>(body.freeze(), form(api, version)).map(drop),)*
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
        Q::default().encode(&mut body, form(api, version)).ok().map(|()| (api, version, body))
    };
    versions.filter_map(encode).collect()
}

// Produce and Fetch are read and written by hand, the others by the generated messages.
apis! {
    ListOffsets 1..=11 ListOffsetsRequest list_offsets;
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
    DescribeAcls 1..=3 DescribeAclsRequest describe_acls;
    CreateAcls 1..=3 CreateAclsRequest create_acls;
    DeleteAcls 1..=3 DeleteAclsRequest delete_acls;
    DescribeConfigs 1..=4 DescribeConfigsRequest describe_configs;
    AlterConfigs 0..=2 AlterConfigsRequest alter_configs;
    AlterReplicaLogDirs 1..=2 AlterReplicaLogDirsRequest alter_replica_log_dirs;
    DescribeLogDirs 1..=4 DescribeLogDirsRequest describe_log_dirs;
    CreatePartitions 0..=3 CreatePartitionsRequest create_partitions;
    DeleteGroups 0..=2 DeleteGroupsRequest delete_groups;
    ElectLeaders 0..=2 ElectLeadersRequest elect_leaders;
    IncrementalAlterConfigs 0..=1 IncrementalAlterConfigsRequest incremental_alter_configs;
    AlterPartitionReassignments 0..=1 AlterPartitionReassignmentsRequest alter_partition_reassignments;
    ListPartitionReassignments 0..=0 ListPartitionReassignmentsRequest list_partition_reassignments;
    OffsetDelete 0..=0 OffsetDeleteRequest offset_delete;
    DescribeClientQuotas 0..=1 DescribeClientQuotasRequest describe_client_quotas;
    DescribeUserScramCredentials 0..=0 DescribeUserScramCredentialsRequest describe_user_scram_credentials;
    DescribeQuorum 0..=2 DescribeQuorumRequest describe_quorum;
    UpdateFeatures 0..=2 UpdateFeaturesRequest update_features;
    DescribeCluster 0..=2 DescribeClusterRequest describe_cluster;
    DescribeProducers 0..=0 DescribeProducersRequest describe_producers;
    DescribeTransactions 0..=0 DescribeTransactionsRequest describe_transactions;
    ListTransactions 0..=2 ListTransactionsRequest list_transactions;
    ListConfigResources 0..=1 ListConfigResourcesRequest list_config_resources;
    UnregisterBroker 0..=0 UnregisterBrokerRequest unregister_broker;
    DescribeTopicPartitions 0..=0 DescribeTopicPartitionsRequest describe_topic_partitions;
}

/// A request of an API that is not offered may have so many bytes. Its refusal repeats what it names.
const NOT_OFFERED_MAX_BYTES: usize = 64 << 10;

/// So many topics are changed at once: a transaction or two.
const CHANGES_AT_ONCE: usize = 100;

/// An answer that takes more is built and encoded beside the runtime's own threads.
const BUILT_HERE_MAX_BYTES: usize = 256 << 10;

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
    memory: Mutex<Option<Charge>>,
    /// The part of the answer that grows with the request.
    proportional_bytes: usize,
    /// What the answer holds of the memory for answers, until it is encoded.
    room: Mutex<Room>,
    /// Cancelled when nobody waits for the answer any more; only of requests that change topics or settings.
    gone: Option<CancellationToken>,
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

    /// Gives memory back before a long wait, but for `bytes`: nothing else of the request is in memory any more.
    pub fn keep_memory(&self, bytes: usize) {
        if let Some(charge) = &mut *self.memory.lock() {
            charge.shrink_to(bytes);
        }
    }

    /// The right to change topics and settings, or `None` when whoever asked is gone or the broker stops. A request for many
    /// changes gives it back after each batch of [`CHANGES_AT_ONCE`], so that others get their turn.
    pub async fn turn<'a>(&self, node: &'a Node) -> Option<MutexGuard<'a, TopicAdmin>> {
        self.while_wanted(node, node.admin.lock()).await
    }

    /// Whether nobody waits for the answer any more, so that there is no use in building it.
    pub fn is_abandoned(&self) -> bool {
        self.gone.as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    /// Runs `work` unless whoever asked is gone or the broker stops, or until then.
    pub async fn while_wanted<T>(&self, node: &Node, work: impl Future<Output = T>) -> Option<T> {
        let work = node.stopping.run_until_cancelled(work);
        match &self.gone {
            Some(gone) => gone.run_until_cancelled(work).await.flatten(),
            None => work.await,
        }
    }

    /// Waits for memory for an answer that takes `bytes` beside what grows with the request. To be called once, before the answer
    /// is built: whoever waits must not hold a part.
    pub async fn make_room(&self, node: &Node, bytes: usize) -> Result<(), AnswerTooLarge> {
        let bytes = self.proportional_bytes.saturating_add(bytes);
        let room = node.answer_memory.take(bytes).await.inspect_err(|error| {
            self.note_refused_answer(node, error.bytes);
        })?;
        *self.room.lock() = room;
        Ok(())
    }

    /// Refuses what asks for so many things that half of the largest answer would be taken by repeating them; and makes room for an answer
    /// that depends on nothing else.
    async fn make_room_for_elements(&self, node: &Node) -> Result<(), Refusal> {
        let (bytes, max) = (self.proportional_bytes, node.answer_memory.largest_bytes() / 2);
        if bytes > max {
            self.note_refused_answer(node, bytes);
            return Err(Refusal::Protocol(AnswerTooLarge { bytes, max }.to_string()));
        }
        if !answer_size::depends_on_state(self.api) {
            let _ = self.make_room(node, 0).await;
        }
        Ok(())
    }

    /// The most that an answer may take beside what grows with the request.
    pub fn answer_max_bytes(&self, node: &Node) -> usize {
        node.answer_memory.largest_bytes().saturating_sub(self.proportional_bytes)
    }

    /// Counts a request that is refused, in whole or in part, for the size of its answer.
    pub fn note_refused_answer(&self, node: &Node, bytes: usize) {
        node.metrics.answers_refused.inc();
        if node.lines.allow(Line::AnswerRefused) {
            let (address, api, max) = (self.peer.address, self.api, node.answer_memory.largest_bytes());
            tracing::warn!(%address, ?api, bytes, max, "the answer to a request would take too much memory");
        }
    }

    /// Encodes the response of this request; a large one beside the runtime's own threads.
    async fn encode<M>(&self, message: M) -> Result<Answer, Refusal>
    where
        M: Encodable + HeaderVersion + Send + 'static,
    {
        let room = self.room.lock().take();
        let Some(held) = room.as_ref().map(OwnedSemaphorePermit::num_permits) else {
            return Answer::encode(self.correlation_id, self.version, &message);
        };
        let (correlation_id, version) = (self.correlation_id, self.version);
        let encode = move || Answer::encode(correlation_id, version, &message);
        let encoded = if held > BUILT_HERE_MAX_BYTES { self.beside(encode).await? } else { encode() };
        Ok(encoded?.holding(room))
    }

    /// Does work beside the runtime's own threads.
    async fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let mut work = Some(work);
        let done = compute_for(self.peer.requester(), move |_| work.take().map(|work| work()));
        done.await.map_err(|ended| Refusal::Internal(ended.to_string()))
    }

    /// Encodes the response of this request.
    pub fn answer<M: Encodable + HeaderVersion>(&self, message: &M) -> Result<Answer, Refusal> {
        let answer = Answer::encode(self.correlation_id, self.version, message)?;
        Ok(match self.room.lock().take() {
            None => answer,
            room => answer.holding(room),
        })
    }
}

/// Takes a request in. What must happen in the order of arrival happens here, the rest when the answer is awaited.
pub fn admit(node: &Arc<Node>, peer: &Arc<Peer>, frame: Frame) -> Result<Admission, Refusal> {
    let Frame { api, version, correlation_id, client_id, body, charge, .. } = frame;
    let (peer, metrics) = (Arc::clone(peer), Arc::clone(&node.metrics));
    let (memory, room) = (Mutex::new(None), Mutex::new(None));
    let proportional_bytes = body.len().saturating_mul(answer_size::per_request_byte(api));
    let supported = is_supported(api, version);
    let version = form(api, version);
    let client_id = client_id.and_then(|id| kept_client_id(api, id));
    let ctx = RequestContext {
        api,
        version,
        correlation_id,
        client_id,
        peer,
        metrics,
        memory,
        proportional_bytes,
        room,
        gone: changes_topics(api).then(CancellationToken::new),
    };
    if !supported {
        if api == ApiKey::ApiVersions {
            let answer = api_versions::unsupported_version(&ctx);
            return Ok(Admission::Ready(Box::pin(std::future::ready(answer))));
        }
        let is_offered = SUPPORTED.iter().any(|(key, _)| *key == api);
        let unsupported = Refusal::Protocol(format!("{api:?} version {version} is not supported"));
        if is_offered || body.len() > NOT_OFFERED_MAX_BYTES {
            return Err(unsupported);
        }
        return Ok(Admission::Ready(Box::pin(async move {
            let answer = not_offered::answer(&ctx, body.freeze()).unwrap_or(Err(unsupported));
            drop(charge);
            answer
        })));
    }
    if api == ApiKey::Produce {
        return produce::admit(node, ctx, body, charge);
    }
    *ctx.memory.lock() = Some(charge);
    let (node, changes) = (Arc::clone(node), node.changes.clone());
    let body = body.freeze();
    let wanted = ctx.gone.clone().map(CancellationToken::drop_guard);
    let work = async move {
        let started = Instant::now();
        ctx.make_room_for_elements(&node).await?;
        let answer = handle(&node, &ctx, body).await;
        node.metrics.handled(api, started.elapsed());
        ctx.release_memory();
        answer
    };
    if !changes_topics(api) {
        return Ok(Admission::Ready(Box::pin(work)));
    }
    // A peer that disconnects must not stop a change between the metadata store and what this broker serves. But what was not begun by
    // then is not begun any more.
    Ok(Admission::Ready(Box::pin(async move {
        let _wanted = wanted;
        changes.spawn(work).await.map_err(|e| Refusal::Internal(e.to_string()))?
    })))
}

/// Versions before KIP-482 have room for 32,767 bytes.
const MESSAGE_MAX_BYTES: usize = 8 << 10;

/// The client id is a part of the frame: who waits for long gives the frame's memory back, and must not keep all of it for that.
fn kept_client_id(api: ApiKey, id: StrBytes) -> Option<StrBytes> {
    match api {
        ApiKey::Fetch => None,
        ApiKey::JoinGroup | ApiKey::SyncGroup => Some(str_bytes(&id)),
        _ => Some(id),
    }
}

/// The version whose form a request and its answer have, as far as the generated messages know: ListOffsets 11 adds a meaning to
/// version 10 and nothing else (KIP-1023).
fn form(api: ApiKey, version: i16) -> i16 {
    if api == ApiKey::ListOffsets { version.min(10) } else { version }
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

/// What there is more than once: where a request means two things by one name, neither is done.
pub fn named_twice<T: Clone + Eq + Hash>(named: impl IntoIterator<Item = T>) -> HashSet<T> {
    let mut seen = HashSet::new();
    named.into_iter().filter(|name| !seen.insert(name.clone())).collect()
}

/// Until when a request for many changes goes on, by what its client says of its patience.
fn request_deadline(timeout_ms: i32) -> Instant {
    Instant::now() + Duration::from_millis(timeout_ms.max(0).unsigned_abs().into())
}

/// Things that are described before others get the thread.
const DESCRIBED_AT_ONCE: usize = 256;

/// Lets other connections have the thread after many things were described; `done` counts them.
async fn breathe(done: &mut usize) {
    if *done >= DESCRIBED_AT_ONCE {
        *done = 0;
        tokio::task::yield_now().await;
    }
}

/// A connection that is closed when this one's turn comes.
pub fn refuse(why: Refusal) -> Pending {
    Box::pin(std::future::ready(Err(why)))
}

/// Decodes a request, has it handled, and encodes the response.
async fn call<Q, F, H>(ctx: &RequestContext, body: Bytes, handler: H) -> Result<Answer, Refusal>
where
    Q: Request + Send + 'static,
    Q::Response: Send + 'static,
    F: Future<Output = Q::Response>,
    H: FnOnce(Q) -> F,
{
    let request = decode::<Q, _>(ctx, body, |request| request).await?;
    let response = handler(request).await;
    ctx.encode(response).await
}

/// What is decoded on the event loop; few requests are larger, and 100 KiB may hold 6,000 partitions.
const DECODED_HERE_MAX_BYTES: usize = 16 << 10;

/// Decodes a request, and makes of it what its handler begins with.
async fn decode<Q, T>(
    ctx: &RequestContext,
    body: Bytes,
    prepare: impl FnOnce(Q) -> T + Send + 'static,
) -> Result<T, Refusal>
where
    Q: Request,
    T: Send + 'static,
{
    let version = ctx.version;
    if body.len() <= DECODED_HERE_MAX_BYTES {
        return wire::decode(body, version).map(prepare);
    }
    let mut work = Some(move || wire::decode(body, version).map(prepare));
    let decoding = compute_for(ctx.peer.requester(), move |_| work.take().map(|work| work()));
    decoding.await.map_err(|ended| Refusal::Internal(ended.to_string()))?
}

/// A message for people, which may quote what a client sent: cut off, so that answers of all versions have room for it.
pub fn message_bytes(text: &str) -> StrBytes {
    match text.floor_char_boundary(MESSAGE_MAX_BYTES) {
        end if end < text.len() => StrBytes::from_string(format!("{}…", &text[..end])),
        _ => str_bytes(text),
    }
}

/// Text as the messages hold it.
pub fn str_bytes(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
