//! Produce (0), versions 3–13: appends batches.
//!
//! Batches are checked and appended when the request is read, in the order of arrival; the answer waits until they are durable,
//! for acks=1 and acks=all alike. acks=0 is not answered; when it fails, the connection is closed, as by Apache Kafka.
//!
//! Differs from Apache Kafka: versions 0 to 2, which are advertised for librdkafka's sake, are answered with
//! UNSUPPORTED_VERSION; transactional batches are refused with TRANSACTIONAL_ID_AUTHORIZATION_FAILED, which clients
//! give up on, because there are no transactions yet. The timeout of the request holds for acks=1 too, and is a second at least.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{BrokerId, ProduceResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use kafscale_core::batch::{BatchHeader, BatchRejection, Codec, ValidBatch};
use kafscale_core::ids::NodeId;
use kafscale_storage::{AppendError, Appended};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::{Pending, RequestContext, lookup, str_bytes};
use crate::cluster::reads;
use crate::node::Node;
use crate::topics::Topic;
use crate::wire::produce::{self, PartitionBatch, TopicBatches, TopicRef};
use crate::wire::{Answer, Refusal};

/// A client that waits for less than a disk may take would never get an answer.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// KIP-110 lets older clients not see zstd.
const ZSTD_SINCE: i16 = 7;
/// Who is not the leader tells who is (KIP-951).
const CURRENT_LEADER_SINCE: i16 = 10;

/// Why a partition's batch is not stored.
struct Failure {
    error: ResponseError,
    /// The record at fault.
    record: Option<i32>,
    message: Option<String>,
}

impl From<ResponseError> for Failure {
    fn from(error: ResponseError) -> Failure {
        Failure { error, record: None, message: None }
    }
}

struct Part {
    index: i32,
    outcome: Result<Appended, Failure>,
}

/// Appends what the request brings, and gives the answer to wait for.
pub fn admit(
    node: &Arc<Node>,
    ctx: RequestContext,
    body: BytesMut,
    budget: OwnedSemaphorePermit,
) -> Result<Pending, Refusal> {
    let started = Instant::now();
    if ctx.version < 3 {
        return unsupported_version(&ctx, &body);
    }
    let frame_bytes = body.len();
    let frame = produce::parse(body, ctx.version)?;
    let acks = frame.acks;
    let refused = if frame.transactional_id.is_some() {
        Some(ResponseError::TransactionalIdAuthorizationFailed)
    } else {
        (!(-1..=1).contains(&acks)).then_some(ResponseError::InvalidRequiredAcks)
    };
    let appended: Vec<_> = frame
        .topics
        .into_iter()
        .map(|topic| (topic.topic.clone(), append_topic(node, &ctx, topic, refused, frame_bytes)))
        .collect();
    let wait = Duration::from_millis(frame.timeout_ms.max(0).unsigned_abs().into()).max(TIMEOUT_MIN);
    let node = Arc::clone(node);
    Ok(Box::pin(async move {
        let answer = if acks == 0 {
            silent_answer(&ctx, appended)
        } else {
            let topics = await_durable(&node, &ctx, appended, started, wait).await;
            let endpoints = node_endpoints(&node, &ctx, &topics);
            ctx.answer(&ProduceResponse::default().with_responses(topics).with_node_endpoints(endpoints))
        };
        node.metrics.produced(started.elapsed());
        node.metrics.handled(ctx.api, started.elapsed());
        drop(budget);
        answer
    }))
}

fn append_topic(
    node: &Node,
    ctx: &RequestContext,
    batches: TopicBatches,
    refused: Option<ResponseError>,
    frame_bytes: usize,
) -> Vec<Part> {
    let topic = lookup::topic(node, &batches.topic);
    let append = |PartitionBatch { index, records }| {
        let outcome = match (refused, &topic) {
            (Some(error), _) => Err(Failure::from(error)),
            (None, Err(error)) => Err(Failure::from(*error)),
            (None, Ok(topic)) => {
                append(node, ctx, topic, index, records.map(|records| detached(records, frame_bytes)))
            }
        };
        if let Err(Failure { error, message, .. }) = &outcome {
            tracing::debug!(topic = ?batches.topic, index, %error, message, "a batch was refused");
        }
        Part { index, outcome }
    };
    batches.partitions.into_iter().map(append).collect()
}

/// The log keeps recent batches in memory, and each keeps the whole frame that it is a part of. A batch that is the smaller part
/// of its frame is copied out, so that what the log counts is what is held.
fn detached(records: BytesMut, frame_bytes: usize) -> BytesMut {
    if records.len() * 2 < frame_bytes { BytesMut::from(&records[..]) } else { records }
}

fn append(
    node: &Node,
    ctx: &RequestContext,
    topic: &Topic,
    index: i32,
    records: Option<BytesMut>,
) -> Result<Appended, Failure> {
    let partition = lookup::partition(node, topic, index)?;
    let records = records.filter(|r| !r.is_empty()).ok_or_else(|| Failure {
        error: ResponseError::InvalidRecord,
        record: None,
        message: Some("a produce request must hold exactly one record batch per partition".into()),
    })?;
    if ctx.version < ZSTD_SINCE && BatchHeader::parse(&records).is_ok_and(|h| h.codec() == Codec::Zstd) {
        return Err(ResponseError::UnsupportedCompressionType.into());
    }
    let size_bytes = records.len();
    let batch = ValidBatch::check(records, &partition.config().batch_rules, node.clock.now_ms())?;
    let count = batch.records_count();
    let appended = partition.append(batch)?;
    node.metrics.appended(&topic.name, count, size_bytes);
    Ok(appended)
}

impl From<BatchRejection> for Failure {
    fn from(rejection: BatchRejection) -> Failure {
        let message = Some(rejection.to_string());
        let (error, record) = match rejection {
            BatchRejection::Corrupt(_) => (ResponseError::CorruptMessage, None),
            BatchRejection::TooLarge { .. } => (ResponseError::MessageTooLarge, None),
            BatchRejection::InvalidBatch(_) => (ResponseError::InvalidRecord, None),
            BatchRejection::InvalidRecord { index, .. } => (ResponseError::InvalidRecord, Some(index)),
            BatchRejection::InvalidTimestamp { index, .. } => (ResponseError::InvalidTimestamp, Some(index)),
        };
        Failure { error, record, message }
    }
}

impl From<AppendError> for Failure {
    fn from(error: AppendError) -> Failure {
        Failure { error: lookup::append_error(&error), record: None, message: Some(error.to_string()) }
    }
}

async fn await_durable(
    node: &Node,
    ctx: &RequestContext,
    appended: Vec<(TopicRef, Vec<Part>)>,
    started: Instant,
    wait: Duration,
) -> Vec<TopicProduceResponse> {
    let mut topics = Vec::with_capacity(appended.len());
    for (topic, parts) in appended {
        let mut partitions = Vec::with_capacity(parts.len());
        for Part { index, outcome } in parts {
            let outcome = match outcome {
                Ok(appended) => await_part(node, ctx, appended, started + wait).await,
                Err(failure) => Err(of_owner(node, started, failure).await),
            };
            partitions.push(match outcome {
                Ok(response) => response.with_index(index),
                Err(failure) => failed(node, ctx, &topic, index, failure),
            });
        }
        topics.push(topic_response(topic, partitions));
    }
    topics
}

/// What is wrong with a producer's sequence only the owner can say: one that was deposed does not know what was written since, and a
/// producer must not take its word.
async fn of_owner(node: &Node, started: Instant, failure: Failure) -> Failure {
    let of_sequence = matches!(
        failure.error,
        ResponseError::OutOfOrderSequenceNumber | ResponseError::InvalidProducerEpoch
    );
    if !of_sequence || reads::were_current(node, started).await {
        return failure;
    }
    ResponseError::NotLeaderOrFollower.into()
}

async fn await_part(
    node: &Node,
    ctx: &RequestContext,
    appended: Appended,
    deadline: Instant,
) -> Result<PartitionProduceResponse, Failure> {
    let Appended { base_offset, log_append_time_ms, log_start_offset, durable } = appended;
    match timeout_at(deadline, durable.wait()).await {
        Ok(Ok(())) => Ok(PartitionProduceResponse::default()
            .with_base_offset(base_offset.0)
            .with_log_append_time_ms(log_append_time_ms)
            .with_log_start_offset(if ctx.version >= 5 { log_start_offset.0 } else { -1 })),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => {
            node.metrics.produce_timed_out();
            Err(ResponseError::RequestTimedOut.into())
        }
    }
}

fn failed(
    node: &Node,
    ctx: &RequestContext,
    topic: &TopicRef,
    index: i32,
    failure: Failure,
) -> PartitionProduceResponse {
    let Failure { error, record, message } = failure;
    let mut response = PartitionProduceResponse::default()
        .with_index(index)
        .with_error_code(ctx.fail(error))
        .with_base_offset(-1)
        .with_log_append_time_ms(-1)
        .with_log_start_offset(-1);
    if ctx.version < 8 {
        return response;
    }
    if ctx.version >= CURRENT_LEADER_SINCE
        && let Some(current) = lookup::current_leader(node, &ctx.peer.listener, topic, index, error)
    {
        let leader = LeaderIdAndEpoch::default().with_leader_id(BrokerId(current.node_id.0));
        response = response.with_current_leader(leader.with_leader_epoch(current.leader_epoch));
    }
    let message = message.map(StrBytes::from_string);
    let at_fault = |index| {
        BatchIndexAndErrorMessage::default()
            .with_batch_index(index)
            .with_batch_index_error_message(message.clone())
    };
    response
        .with_record_errors(record.map(at_fault).into_iter().collect())
        .with_error_message(message.clone())
}

/// The addresses of the leaders that the answer names.
fn node_endpoints(node: &Node, ctx: &RequestContext, topics: &[TopicProduceResponse]) -> Vec<NodeEndpoint> {
    let named = topics.iter().flat_map(|topic| &topic.partition_responses);
    let named: BTreeSet<i32> = named.map(|partition| partition.current_leader.leader_id.0).collect();
    let brokers = node.cluster.brokers();
    let endpoint = |id: i32| {
        let broker = brokers.get(NodeId(id))?;
        let endpoint = broker.endpoint(&ctx.peer.listener)?;
        let described = NodeEndpoint::default()
            .with_node_id(BrokerId(id))
            .with_host(str_bytes(&endpoint.host))
            .with_port(i32::from(endpoint.port))
            .with_rack(broker.rack.as_deref().map(str_bytes));
        Some(described)
    };
    named.into_iter().filter(|id| *id >= 0).filter_map(endpoint).collect()
}

fn topic_response(topic: TopicRef, partitions: Vec<PartitionProduceResponse>) -> TopicProduceResponse {
    let response = TopicProduceResponse::default().with_partition_responses(partitions);
    match topic {
        TopicRef::Name(name) => response.with_name(TopicName(name)),
        TopicRef::Id(id) => response.with_topic_id(id),
    }
}

fn silent_answer(ctx: &RequestContext, appended: Vec<(TopicRef, Vec<Part>)>) -> Result<Answer, Refusal> {
    let failures = appended.into_iter().flat_map(|(_, parts)| parts).filter_map(|p| p.outcome.err());
    let failed: Vec<_> = failures.map(|failure| ctx.fail(failure.error)).collect();
    if failed.is_empty() { Ok(Answer::none()) } else { Err(Refusal::SilentProduceFailed) }
}

/// Versions 0 to 2 share one shape: acks, timeout, topics with partitions. The answer repeats the partitions.
fn unsupported_version(ctx: &RequestContext, body: &BytesMut) -> Result<Pending, Refusal> {
    if (&body[..]).try_get_i16().is_ok_and(|acks| acks == 0) {
        return Err(Refusal::SilentProduceFailed);
    }
    let answer = produce::unsupported_version(
        body.clone(),
        ctx.correlation_id,
        ctx.version,
        ctx.fail(ResponseError::UnsupportedVersion),
    );
    Ok(Box::pin(std::future::ready(answer)))
}
