//! Fetch (1), versions 4–18: reads batches, with long polls (KIP-74) and incremental sessions (KIP-227).
//!
//! min.bytes, max.bytes and max.wait hold for the whole request; nobody waits for longer than 30 seconds. A poll that waits is woken by the append. The first partition
//! that has records gives one batch at least, even when it is larger than every limit. What a response may hold is
//! taken from a budget of the broker, so that consumers which do not take their bytes cannot fill its memory. [`read`] has how partitions are read beside each other.
//!
//! Differs from Apache Kafka: max.wait has a limit; there are no followers, no transactions and no tiered storage; the last stable offset is the high
//! watermark, a partition whose records cannot be read is answered with its offsets beside the error, and the check of the last fetched epoch is left out, as brokers do for consumers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::protocol::StrBytes;
use kafscale_core::ids::{NodeId, Offset};
use kafscale_storage::{Partition, Watcher};
use tokio::time::Instant;

mod read;

pub use read::LateReads;

use super::{RequestContext, lookup, str_bytes};
use crate::cluster::reads;
use crate::fetch_sessions::{
    FetchPlan, Outcome, PartitionKey, PartitionRequest, PlanKind, SessionError, SessionRequest,
};
use crate::node::Node;
use crate::wire::fetch::{self, FetchAnswer, FetchedPartition, FetchedTopic, LeaderEndpoint};
use crate::wire::{Answer, Refusal, TopicRef};

const TOPIC_IDS_SINCE: i16 = 13;
/// No client waits for longer; librdkafka gives up a request after 60 s, the Java client after 30.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A partition of the request.
struct Target {
    key: PartitionKey,
    request: PartitionRequest,
    partition: Result<Partition, ResponseError>,
    /// The bytes that a waiting poll has found, as many as it waits for at most.
    available: usize,
}

/// What a request asks for. Nothing of the request itself is kept.
pub struct Poll {
    max_bytes: usize,
    min_bytes: usize,
    max_wait: Duration,
    read_committed: bool,
    session: SessionRequest,
}

/// Takes a request apart, which takes long when it names many partitions.
pub fn prepare(request: FetchRequest, version: i16) -> Poll {
    Poll {
        max_bytes: usize::try_from(request.max_bytes).unwrap_or(0),
        min_bytes: usize::try_from(request.min_bytes).unwrap_or(0),
        max_wait: Duration::from_millis(request.max_wait_ms.max(0).unsigned_abs().into()).min(WAIT_MAX),
        read_committed: request.isolation_level == 1,
        session: session_request(request, version >= TOPIC_IDS_SINCE),
    }
}

pub async fn handle(node: &Arc<Node>, ctx: &RequestContext, poll: Poll) -> Result<Answer, Refusal> {
    let Poll { max_bytes, min_bytes, max_wait, read_committed, session } = poll;
    let max_bytes = max_bytes.min(node.config.fetch_max_bytes);
    let min_bytes = min_bytes.min(max_bytes.max(1));
    let uses_topic_ids = session.uses_topic_ids;
    let plan = match node.fetch_sessions.plan(session, Instant::now()) {
        Ok(plan) => plan,
        Err(error) => return session_failed(ctx, error),
    };
    let FetchPlan { kind, partitions } = plan;
    let mut targets: Vec<Target> =
        partitions.into_iter().map(|(key, request)| target(node, key, request)).collect();
    if !targets.is_empty() {
        // The request itself is gone.
        ctx.keep_memory(targets.iter().map(Target::size_bytes).sum());
        wait_for_bytes(node, ctx, &mut targets, min_bytes, Instant::now() + max_wait).await;
    }
    let (mut fetched, budget) = read::read(node, ctx, &targets, max_bytes).await;
    if fetched.iter().any(|partition| partition.high_watermark >= 0) && !reads::are_current(node).await {
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
    let is_told = |at: usize| told.as_ref().is_none_or(|told| told[at]);
    let topics = by_topic(answered.enumerate().filter_map(|(at, answered)| is_told(at).then_some(answered)));
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
    let partitions = without_repeats(partitions);
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

/// Each partition once, with what was asked for last, as in Apache Kafka: every append that a poll waits for looks at all of them.
fn without_repeats(
    partitions: Vec<(PartitionKey, PartitionRequest)>,
) -> Vec<(PartitionKey, PartitionRequest)> {
    if partitions.len() <= 1 {
        return partitions;
    }
    partitions.into_iter().collect::<IndexMap<_, _>>().into_iter().collect()
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
    Target { key, request, partition, available: 0 }
}

impl Target {
    /// What it takes in memory.
    fn size_bytes(&self) -> usize {
        let name = match &self.key.topic {
            TopicRef::Name(name) => name.len(),
            TopicRef::Id(_) => 0,
        };
        size_of::<Target>() + name
    }

    /// Looks how much there is, of which `sum` is that of all targets, and watches for more. Gives whether the poll need not wait any
    /// longer: a partition fails, or there is enough.
    fn is_enough(&mut self, at: usize, watcher: &Arc<Watcher>, sum: &mut usize, min_bytes: usize) -> bool {
        if let Ok(partition) = &self.partition {
            // From here on no change is missed: what happens before the look is seen, what happens after it wakes.
            partition.wake_on_change(watcher, at as u32);
        }
        let Ok((partition, from)) = self.readable() else { return true };
        let available = partition.available_bytes(from, min_bytes);
        *sum = sum.saturating_sub(self.available).saturating_add(available);
        self.available = available;
        *sum >= min_bytes
    }

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
    targets: &mut [Target],
    min_bytes: usize,
    deadline: Instant,
) {
    let watcher = &ctx.peer.watcher;
    watcher.clear();
    let mut sum = 0;
    for (at, target) in targets.iter_mut().enumerate() {
        if target.is_enough(at, watcher, &mut sum, min_bytes) {
            return;
        }
    }
    loop {
        let changed = tokio::select! {
            changed = watcher.changed() => changed,
            () = tokio::time::sleep_until(deadline) => return,
            () = node.stopping.cancelled() => return,
        };
        for name in changed {
            let at = name as usize;
            let Some(target) = targets.get_mut(at) else { continue };
            if target.is_enough(at, watcher, &mut sum, min_bytes) {
                return;
            }
        }
    }
}

fn failed(node: &Node, ctx: &RequestContext, target: &Target, error: ResponseError) -> FetchedPartition {
    let PartitionKey { topic, index } = &target.key;
    let leader = lookup::current_leader(node, &ctx.peer.listener, topic, *index, error);
    // Whose records cannot be read knows its offsets nevertheless.
    let is_unreadable = matches!(error, ResponseError::KafkaStorageError | ResponseError::CorruptMessage);
    let offsets = target.partition.as_ref().ok().filter(|_| is_unreadable).map(Partition::offsets);
    FetchedPartition {
        current_leader: leader.map(|leader| (leader.node_id.0, leader.leader_epoch)),
        index: target.key.index,
        error_code: ctx.fail(error),
        high_watermark: offsets.map_or(-1, |offsets| offsets.high_watermark.0),
        log_start_offset: offsets.map_or(-1, |offsets| offsets.log_start.0),
        records: Vec::new(),
    }
}

/// The session's id for the response, and which partitions the response tells, if not all.
fn conclude(
    node: &Node,
    kind: PlanKind,
    uses_topic_ids: bool,
    targets: &[Target],
    fetched: &[FetchedPartition],
) -> Result<(i32, Option<Vec<bool>>), SessionError> {
    let outcome = |p: &FetchedPartition| Outcome {
        failed: p.error_code != 0,
        has_records: !p.records.is_empty(),
        high_watermark: p.high_watermark,
        log_start_offset: p.log_start_offset,
    };
    match kind {
        PlanKind::Sessionless => Ok((0, None)),
        PlanKind::New => {
            let answered = targets.iter().zip(fetched).map(|(t, f)| (t.key.clone(), t.request, outcome(f)));
            Ok((node.fetch_sessions.create(uses_topic_ids, answered, Instant::now()), None))
        }
        PlanKind::Incremental { id, epoch } => {
            let outcomes: Vec<_> =
                targets.iter().zip(fetched).map(|(t, f)| (t.key.clone(), outcome(f))).collect();
            Ok((id, Some(node.fetch_sessions.select(id, epoch, &outcomes)?)))
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
