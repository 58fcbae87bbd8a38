//! Fetch (1), versions 4–18: reads batches, with long polls (KIP-74) and incremental sessions (KIP-227).
//!
//! min.bytes, max.bytes and max.wait hold for the whole request. A poll that waits is woken by the append. The first partition
//! that has records gives one batch at least, even when it is larger than every limit. What a response may hold is
//! taken from a budget of the broker, so that consumers which do not take their bytes cannot fill its memory.
//!
//! Differs from Apache Kafka: there are no followers, no transactions and no tiered storage; the last stable offset is the high
//! watermark, and the check of the last fetched epoch is left out, as brokers do for consumers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::protocol::StrBytes;
use kafscale_core::batch::{Codec, batches};
use kafscale_core::ids::{NodeId, Offset};
use kafscale_storage::Partition;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::{RequestContext, lookup, str_bytes};
use crate::cluster::reads;
use crate::fetch_sessions::{
    FetchPlan, Outcome, PartitionKey, PartitionRequest, PlanKind, SessionError, SessionRequest,
};
use crate::node::Node;
use crate::wire::fetch::{self, FetchAnswer, FetchedPartition, FetchedTopic, LeaderEndpoint};
use crate::wire::{Answer, Refusal, TopicRef};

/// KIP-110: older clients cannot read zstd.
const ZSTD_SINCE: i16 = 10;
const TOPIC_IDS_SINCE: i16 = 13;
/// A response gets this much of the memory budget without asking whether others could use it.
const BUDGET_MIN_BYTES: usize = 1 << 20;

/// A partition of the request.
struct Target {
    key: PartitionKey,
    request: PartitionRequest,
    partition: Result<Partition, ResponseError>,
}

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: FetchRequest,
) -> Result<Answer, Refusal> {
    let max_bytes = usize::try_from(request.max_bytes).unwrap_or(0).min(node.config.fetch_max_bytes);
    let min_bytes = usize::try_from(request.min_bytes).unwrap_or(0).min(max_bytes.max(1));
    let max_wait = Duration::from_millis(request.max_wait_ms.max(0).unsigned_abs().into());
    let read_committed = request.isolation_level == 1;
    let uses_topic_ids = ctx.version >= TOPIC_IDS_SINCE;
    let plan = match node.fetch_sessions.plan(session_request(request, uses_topic_ids), Instant::now()) {
        Ok(plan) => plan,
        Err(error) => return session_failed(ctx, error),
    };
    let FetchPlan { kind, partitions } = plan;
    let targets: Vec<Target> =
        partitions.into_iter().map(|(key, request)| target(node, key, request)).collect();
    if !targets.is_empty() {
        ctx.release_little_memory();
        wait_for_bytes(node, ctx, &targets, min_bytes, Instant::now() + max_wait).await;
    }
    let (mut fetched, budget) = read(node, ctx, &targets, max_bytes).await;
    if fetched.iter().any(|partition| partition.error_code == 0) && !reads::are_current(node).await {
        let refuse = |target| failed(node, ctx, target, ResponseError::NotLeaderOrFollower);
        fetched = targets.iter().map(refuse).collect();
    }
    node.metrics.fetched();
    let (session_id, told) = match conclude(node, kind, uses_topic_ids, &targets, &fetched) {
        Ok(concluded) => concluded,
        Err(error) => return session_failed(ctx, error),
    };
    let node_endpoints = leader_endpoints(node, ctx, &fetched);
    let answered = targets.into_iter().map(|target| target.key.topic).zip(fetched);
    let topics = by_topic(answered.zip(told).filter_map(|(answered, told)| told.then_some(answered)));
    fetch::encode(
        ctx.correlation_id,
        ctx.version,
        FetchAnswer { error_code: 0, session_id, topics, node_endpoints, read_committed },
        budget,
    )
}

fn session_request(request: FetchRequest, uses_topic_ids: bool) -> SessionRequest {
    // A session remembers the name, which must not keep the whole request in memory.
    let reference = |name: StrBytes, id| match uses_topic_ids {
        true => TopicRef::Id(id),
        false => TopicRef::Name(str_bytes(&name)),
    };
    let mut partitions = Vec::new();
    for topic in request.topics {
        let topic_ref = reference(topic.topic.0, topic.topic_id);
        partitions.extend(topic.partitions.into_iter().map(|p| {
            let key = PartitionKey { topic: topic_ref.clone(), index: p.partition };
            let request = PartitionRequest {
                fetch_offset: p.fetch_offset,
                max_bytes: p.partition_max_bytes,
                current_leader_epoch: p.current_leader_epoch,
            };
            (key, request)
        }));
    }
    let mut forgotten = Vec::new();
    for topic in request.forgotten_topics_data {
        let topic_ref = reference(topic.topic.0, topic.topic_id);
        let keys = topic.partitions.into_iter().map(|index| PartitionKey { topic: topic_ref.clone(), index });
        forgotten.extend(keys);
    }
    SessionRequest {
        id: request.session_id,
        epoch: request.session_epoch,
        uses_topic_ids,
        partitions,
        forgotten,
    }
}

fn session_failed(ctx: &RequestContext, error: SessionError) -> Result<Answer, Refusal> {
    let error = match error {
        SessionError::NotFound => ResponseError::FetchSessionIdNotFound,
        SessionError::InvalidEpoch => ResponseError::InvalidFetchSessionEpoch,
        SessionError::TopicIds => ResponseError::FetchSessionTopicIdError,
    };
    let answer = FetchAnswer { error_code: ctx.fail(error), ..FetchAnswer::default() };
    fetch::encode(ctx.correlation_id, ctx.version, answer, None)
}

fn target(node: &Node, key: PartitionKey, request: PartitionRequest) -> Target {
    let partition = lookup::topic(node, &key.topic).and_then(|t| lookup::partition(node, &t, key.index));
    Target { key, request, partition }
}

impl Target {
    /// The partition, when it can be read from where the request wants it.
    fn readable(&self) -> Result<(&Partition, Offset), ResponseError> {
        let partition = self.partition.as_ref().map_err(|e| *e)?;
        if partition.is_gone() {
            return Err(ResponseError::NotLeaderOrFollower);
        }
        lookup::check_leader_epoch(partition, self.request.current_leader_epoch)?;
        let (from, offsets) = (Offset(self.request.fetch_offset), partition.offsets());
        if from < offsets.log_start || from > offsets.log_end {
            return Err(ResponseError::OffsetOutOfRange);
        }
        Ok((partition, from))
    }
}

/// Returns when `min_bytes` are there, a partition fails, the deadline passed, or the broker stops.
async fn wait_for_bytes(
    node: &Node,
    ctx: &RequestContext,
    targets: &[Target],
    min_bytes: usize,
    deadline: Instant,
) {
    let wake = &ctx.peer.wake;
    loop {
        let woken = wake.notified();
        tokio::pin!(woken);
        // From here on no change is missed: what happens before the look is seen, what happens after it wakes.
        woken.as_mut().enable();
        for target in targets {
            if let Ok(partition) = &target.partition {
                partition.wake_on_change(wake);
            }
        }
        if is_enough(targets, min_bytes) {
            return;
        }
        tokio::select! {
            () = woken => {}
            () = tokio::time::sleep_until(deadline) => return,
            () = node.stopping.cancelled() => return,
        }
    }
}

fn is_enough(targets: &[Target], min_bytes: usize) -> bool {
    let mut missing = min_bytes;
    for target in targets {
        let Ok((partition, from)) = target.readable() else { return true };
        missing = missing.saturating_sub(partition.available_bytes(from, missing));
        if missing == 0 {
            return true;
        }
    }
    missing == 0
}

/// Reads the partitions in their order until `max_bytes` are full.
async fn read(
    node: &Node,
    ctx: &RequestContext,
    targets: &[Target],
    max_bytes: usize,
) -> (Vec<FetchedPartition>, Option<OwnedSemaphorePermit>) {
    let (mut budget, allowed) = take_budget(node, targets, max_bytes).await;
    let mut used = 0;
    let mut fetched = Vec::with_capacity(targets.len());
    for target in targets {
        let room = allowed.saturating_sub(used);
        let partition = match read_partition(ctx, target, room, used == 0).await {
            Ok(partition) => partition,
            Err(error) => failed(node, ctx, target, error),
        };
        let size: usize = partition.records.iter().map(Bytes::len).sum();
        if let Ok(source) = &target.partition
            && size > 0
        {
            node.metrics.sent(source.topic_name(), records_in(&partition.records), size);
        }
        used += size;
        fetched.push(partition);
    }
    // What was not used goes back at once, the rest when the peer has taken it.
    if let Some(budget) = &mut budget {
        let unused = budget.num_permits().saturating_sub(used);
        drop(budget.split(unused));
    }
    (fetched, budget)
}

/// How many records the batches hold, as their headers say.
fn records_in(fetched: &[Bytes]) -> u64 {
    let headers = fetched.iter().flat_map(|bytes| batches(bytes)).flatten();
    let data = headers.filter(|(_, header)| !header.is_control());
    data.map(|(_, header)| u64::try_from(header.records_count).unwrap_or(0)).sum()
}

/// Takes from the memory for responses what the request can use, but no more than a part of what is left.
async fn take_budget(
    node: &Node,
    targets: &[Target],
    max_bytes: usize,
) -> (Option<OwnedSemaphorePermit>, usize) {
    let mut useful = 0;
    for target in targets {
        if let Ok((partition, from)) = target.readable() {
            let limit = usize::try_from(target.request.max_bytes).unwrap_or(0).max(1);
            useful += partition.available_bytes(from, limit).min(limit);
        }
        if useful >= max_bytes {
            break;
        }
    }
    if useful == 0 {
        return (None, max_bytes);
    }
    let left = node.response_memory.available_permits();
    let fair = (left / 4).max(BUDGET_MIN_BYTES.min(node.config.response_memory_bytes));
    let share = useful.min(max_bytes).clamp(1, fair);
    let permits = u32::try_from(share).expect("a response is below 2 GiB");
    let memory = Arc::clone(&node.response_memory);
    let budget = memory.acquire_many_owned(permits).await.expect("the budget is never closed");
    (Some(budget), share)
}

async fn read_partition(
    ctx: &RequestContext,
    target: &Target,
    room: usize,
    is_first: bool,
) -> Result<FetchedPartition, ResponseError> {
    let (partition, from) = target.readable()?;
    let offsets = partition.offsets();
    let limit = usize::try_from(target.request.max_bytes).unwrap_or(0).min(room);
    let read = if from >= offsets.high_watermark || (limit == 0 && !is_first) {
        kafscale_storage::ReadBatches::default()
    } else {
        partition.read(from, limit, is_first).await.map_err(|e| lookup::read_error(&e))?
    };
    if ctx.version < ZSTD_SINCE && read.chunks.iter().any(|chunk| has_zstd(chunk)) {
        return Err(ResponseError::UnsupportedCompressionType);
    }
    Ok(FetchedPartition {
        index: target.key.index,
        error_code: 0,
        high_watermark: offsets.high_watermark.0,
        log_start_offset: offsets.log_start.0,
        current_leader: None,
        records: read.chunks,
    })
}

fn has_zstd(chunk: &[u8]) -> bool {
    batches(chunk).any(|batch| batch.is_ok_and(|(_, header)| header.codec() == Codec::Zstd))
}

fn failed(node: &Node, ctx: &RequestContext, target: &Target, error: ResponseError) -> FetchedPartition {
    let PartitionKey { topic, index } = &target.key;
    let leader = lookup::current_leader(node, &ctx.peer.listener, topic, *index, error);
    FetchedPartition {
        current_leader: leader.map(|leader| (leader.node_id.0, leader.leader_epoch)),
        index: target.key.index,
        error_code: ctx.fail(error),
        high_watermark: -1,
        log_start_offset: -1,
        records: Vec::new(),
    }
}

/// The session's id for the response, and which partitions the response tells.
fn conclude(
    node: &Node,
    kind: PlanKind,
    uses_topic_ids: bool,
    targets: &[Target],
    fetched: &[FetchedPartition],
) -> Result<(i32, Vec<bool>), SessionError> {
    let outcome = |p: &FetchedPartition| Outcome {
        failed: p.error_code != 0,
        has_records: !p.records.is_empty(),
        high_watermark: p.high_watermark,
        log_start_offset: p.log_start_offset,
    };
    let everything = vec![true; targets.len()];
    match kind {
        PlanKind::Sessionless => Ok((0, everything)),
        PlanKind::New => {
            let answered = targets.iter().zip(fetched).map(|(t, f)| (t.key.clone(), t.request, outcome(f)));
            Ok((node.fetch_sessions.create(uses_topic_ids, answered, Instant::now()), everything))
        }
        PlanKind::Incremental { id, epoch } => {
            let outcomes: Vec<_> =
                targets.iter().zip(fetched).map(|(t, f)| (t.key.clone(), outcome(f))).collect();
            Ok((id, node.fetch_sessions.select(id, epoch, &outcomes)?))
        }
    }
}

/// Where the leaders are that the answer names.
fn leader_endpoints(node: &Node, ctx: &RequestContext, fetched: &[FetchedPartition]) -> Vec<LeaderEndpoint> {
    let named: BTreeSet<i32> =
        fetched.iter().filter_map(|p| p.current_leader.map(|(node_id, _)| node_id)).collect();
    let brokers = node.cluster.brokers();
    let endpoint = |node_id: i32| {
        let broker = brokers.get(NodeId(node_id))?;
        let endpoint = broker.endpoint(&ctx.peer.listener)?;
        let (host, port) = (endpoint.host.clone(), i32::from(endpoint.port));
        Some(LeaderEndpoint { node_id, host, port, rack: broker.rack.as_deref().map(str::to_owned) })
    };
    named.into_iter().filter_map(endpoint).collect()
}

/// Neighbours of one topic share its entry.
fn by_topic(partitions: impl Iterator<Item = (TopicRef, FetchedPartition)>) -> Vec<FetchedTopic> {
    let mut topics: Vec<FetchedTopic> = Vec::new();
    for (topic, partition) in partitions {
        match topics.last_mut().filter(|last| last.topic == topic) {
            Some(last) => last.partitions.push(partition),
            None => topics.push(FetchedTopic { topic, partitions: vec![partition] }),
        }
    }
    topics
}
