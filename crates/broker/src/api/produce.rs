//! Produce (0), versions 3–13: appends batches.
//!
//! Batches are checked and appended when the request is read, in the order of arrival; the answer waits until they are durable,
//! for acks=1 and acks=all alike. acks=0 is not answered; when it fails, the connection is closed, as by Apache Kafka.
//!
//! All records for which a batch is refused are named (KIP-467), so that a client can send the others again; the first
//! of them with a message each.
//!
//! Batches that inflate to much, or have many records, are checked beside the event loop, in turns with other clients, and the connection
//! is not read meanwhile. What all batches of a request may inflate to has a limit: what is beyond is MESSAGE_TOO_LARGE.
//! A request that names a partition twice is INVALID_REQUEST (Apache Kafka appends one of the batches).
//!
//! Differs from Apache Kafka: versions 0 to 2, which are advertised for librdkafka's sake, are answered with
//! UNSUPPORTED_VERSION, and so are transactional batches, because there are no transactions yet. Of a batch with more bad records
//! than bytes only the first ones are named. The timeout of the request holds for acks=1 too, and is a second at least.

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
use kafscale_core::batch::{BatchHeader, BatchRejection, Checked, Codec, RecordFault, ValidBatch};
use kafscale_core::ids::NodeId;
use kafscale_core::records::{DECOMPRESSED_MAX_BYTES, WalkLimit};
use kafscale_storage::{AppendError, Appended, ComputeEnded, Partition, compute_for};
use tokio::time::{Instant, timeout_at};

use super::not_offered::NO_TRANSACTIONS;
use super::{Admission, Pending, RequestContext, lookup, str_bytes};
use crate::cluster::reads;
use crate::node::Node;
use crate::topics::Topic;
use crate::wire::produce::{self, PartitionBatch, TopicBatches, TopicRef};
use crate::wire::{Answer, Charge, Refusal};

/// A client that waits for less than a disk may take would never get an answer.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// What is checked of one request here and now: some tenths of a millisecond's work.
const HERE: WalkLimit = WalkLimit { inflated_bytes: 256 << 10, records: 32 << 10 };
/// A request whose batches inflate to more than the largest batch may, and to so many times its own size, is refused in part.
const INFLATED_FACTOR: u64 = 16;
const ALL_CHECKED: &str = "an answer is awaited when all batches were checked";
/// KIP-110 lets older clients not see zstd.
const ZSTD_SINCE: i16 = 7;
/// Who is not the leader tells who is (KIP-951).
const CURRENT_LEADER_SINCE: i16 = 10;

/// Bad records behind these are named without a message; clients then show the batch's.
const RECORD_MESSAGES_MAX: usize = 100;

/// Why a partition's batch is not stored.
struct Failure {
    error: ResponseError,
    /// The records at fault.
    records: Vec<(i32, RecordFault)>,
    message: Option<String>,
}

impl Failure {
    fn log(&self, topic: &TopicRef, index: i32) {
        let Failure { error, message, .. } = self;
        tracing::debug!(?topic, index, %error, message, "a batch was refused");
    }
}

impl From<ResponseError> for Failure {
    fn from(error: ResponseError) -> Failure {
        Failure { error, records: Vec::new(), message: None }
    }
}

impl Failure {
    fn new(error: ResponseError, message: impl Into<String>) -> Failure {
        Failure { error, records: Vec::new(), message: Some(message.into()) }
    }
}

struct Part {
    index: i32,
    /// `None` while the batch is being checked.
    outcome: Option<Result<Appended, Failure>>,
}

type TopicParts = (TopicRef, Vec<Part>);

/// A batch that is not checked on the event loop.
struct LongBatch {
    /// Where its outcome belongs: the topic, and the part of it.
    at: (usize, usize),
    topic: Topic,
    partition: Partition,
    records: BytesMut,
}

/// A request that is being taken in.
struct Intake<'a> {
    node: &'a Node,
    ctx: &'a RequestContext,
    refused: Option<(ResponseError, Option<&'static str>)>,
    frame_bytes: usize,
    /// What may still be checked here and now.
    here: WalkLimit,
    long: Vec<LongBatch>,
}

/// Appends what the request brings, and gives the answer to wait for.
pub fn admit(
    node: &Arc<Node>,
    ctx: RequestContext,
    body: BytesMut,
    charge: Charge,
) -> Result<Admission, Refusal> {
    let started = Instant::now();
    if ctx.version < 3 {
        return unsupported_version(&ctx, &body).map(Admission::Ready);
    }
    let frame_bytes = body.len();
    let frame = produce::parse(body, ctx.version)?;
    let (acks, timeout_ms) = (frame.acks, frame.timeout_ms);
    let refused = if frame.transactional_id.is_some() {
        Some((ResponseError::UnsupportedVersion, Some(NO_TRANSACTIONS)))
    } else if !(-1..=1).contains(&acks) {
        Some((ResponseError::InvalidRequiredAcks, None))
    } else {
        let repeats = produce::names_a_partition_twice(&frame.topics);
        repeats.then_some((ResponseError::InvalidRequest, Some("a partition is named twice")))
    };
    let mut intake = Intake { node, ctx: &ctx, refused, frame_bytes, here: HERE, long: Vec::new() };
    let mut parts: Vec<TopicParts> = Vec::with_capacity(frame.topics.len());
    for topic in frame.topics {
        let reference = topic.topic.clone();
        let of_topic = intake.append_topic(parts.len(), topic);
        parts.push((reference, of_topic));
    }
    let long = intake.long;
    let wait = Duration::from_millis(timeout_ms.max(0).unsigned_abs().into()).max(TIMEOUT_MIN);
    let request = Request { ctx, acks, started, wait, charge };
    let node = Arc::clone(node);
    if long.is_empty() {
        return Ok(Admission::Ready(request.answer_later(node, parts)));
    }
    let inflated_max = DECOMPRESSED_MAX_BYTES.max(frame_bytes as u64 * INFLATED_FACTOR);
    Ok(Admission::Checking(Box::pin(async move {
        check_long(&node, &request.ctx, long, inflated_max, &mut parts).await;
        Ok(request.answer_later(node, parts))
    })))
}

/// A request whose batches were appended.
struct Request {
    ctx: RequestContext,
    acks: i16,
    started: Instant,
    wait: Duration,
    charge: Charge,
}

impl Request {
    fn answer_later(self, node: Arc<Node>, parts: Vec<TopicParts>) -> Pending {
        let Request { ctx, acks, started, wait, charge } = self;
        Box::pin(async move {
            let answer = if acks == 0 {
                silent_answer(&ctx, parts)
            } else {
                let topics = await_durable(&node, &ctx, parts, started, wait).await;
                let endpoints = node_endpoints(&node, &ctx, &topics);
                let response = ProduceResponse::default().with_responses(topics);
                ctx.answer(&response.with_node_endpoints(endpoints))
            };
            node.metrics.produced(started.elapsed());
            node.metrics.handled(ctx.api, started.elapsed());
            drop(charge);
            answer
        })
    }
}

impl Intake<'_> {
    fn append_topic(&mut self, topic_at: usize, batches: TopicBatches) -> Vec<Part> {
        let topic = lookup::topic(self.node, &batches.topic);
        let mut parts = Vec::with_capacity(batches.partitions.len());
        for PartitionBatch { index, records } in batches.partitions {
            let outcome = match (self.refused, &topic) {
                (Some((error, message)), _) => {
                    Some(Err(Failure { message: message.map(str::to_owned), ..Failure::from(error) }))
                }
                (None, Err(error)) => Some(Err(Failure::from(*error))),
                (None, Ok(topic)) => {
                    let records = records.map(|records| detached(records, self.frame_bytes));
                    self.append(topic, index, records, (topic_at, parts.len())).transpose()
                }
            };
            if let Some(Err(failure)) = &outcome {
                failure.log(&batches.topic, index);
            }
            parts.push(Part { index, outcome });
        }
        parts
    }

    /// Appends a batch, or puts it aside, when checking it may take long.
    fn append(
        &mut self,
        topic: &Topic,
        index: i32,
        records: Option<BytesMut>,
        at: (usize, usize),
    ) -> Result<Option<Appended>, Failure> {
        let partition = lookup::partition(self.node, topic, index)?;
        let records = records.filter(|r| !r.is_empty()).ok_or_else(|| {
            let message = "a produce request must hold exactly one record batch per partition";
            Failure::new(ResponseError::InvalidRecord, message)
        })?;
        let is_zstd = |records| BatchHeader::parse(records).is_ok_and(|h| h.codec() == Codec::Zstd);
        if self.ctx.version < ZSTD_SINCE && is_zstd(&records) {
            return Err(ResponseError::UnsupportedCompressionType.into());
        }
        let rules = &partition.config().batch_rules;
        match ValidBatch::check_within(records, rules, self.node.clock.now_ms(), self.here)? {
            Checked::Valid(batch) => {
                self.here = batch.left_of(self.here);
                append_checked(self.node, topic, &partition, batch).map(Some)
            }
            Checked::NotWithin(records) => {
                self.long.push(LongBatch { at, topic: topic.clone(), partition, records });
                Ok(None)
            }
        }
    }
}

fn append_checked(
    node: &Node,
    topic: &Topic,
    partition: &Partition,
    batch: ValidBatch,
) -> Result<Appended, Failure> {
    let (count, size_bytes) = (batch.records_count(), batch.size_bytes());
    let appended = partition.append(batch)?;
    node.metrics.appended(&topic.name, count, size_bytes);
    Ok(appended)
}

/// Checks batches beside the event loop, one after the other, and appends them.
async fn check_long(
    node: &Node,
    ctx: &RequestContext,
    batches: Vec<LongBatch>,
    inflated_max: u64,
    parts: &mut [TopicParts],
) {
    let mut left = inflated_max;
    for LongBatch { at: (topic_at, part_at), topic, partition, records } in batches {
        let outcome = if left == 0 {
            let message = format!("the batches of this request inflate to more than {inflated_max} bytes");
            Err(Failure::new(ResponseError::MessageTooLarge, message))
        } else {
            let checked = check_one(node, ctx, &partition, records).await;
            let (walked, checked) = checked.unwrap_or_else(|error| (0, Err(error)));
            left = left.saturating_sub(walked);
            checked.and_then(|batch| append_checked(node, &topic, &partition, batch))
        };
        let (reference, of_topic) = &mut parts[topic_at];
        let part = &mut of_topic[part_at];
        if let Err(failure) = &outcome {
            failure.log(reference, part.index);
        }
        part.outcome = Some(outcome);
    }
}

/// Checks a batch, and gives how many bytes were inflated for that, at most.
async fn check_one(
    node: &Node,
    ctx: &RequestContext,
    partition: &Partition,
    records: BytesMut,
) -> Result<(u64, Result<ValidBatch, Failure>), Failure> {
    let (rules, now_ms) = (partition.config().batch_rules, node.clock.now_ms());
    let mut records = Some(records);
    let check = move |limit: WalkLimit| {
        let bytes = records.take()?;
        if limit == WalkLimit::FULL {
            return Some((limit.inflated_bytes, ValidBatch::check(bytes, &rules, now_ms)));
        }
        match ValidBatch::check_within(bytes, &rules, now_ms, limit) {
            Ok(Checked::Valid(batch)) => Some((limit.inflated_bytes, Ok(batch))),
            Ok(Checked::NotWithin(bytes)) => {
                records = Some(bytes);
                None
            }
            Err(rejection) => Some((limit.inflated_bytes, Err(rejection))),
        }
    };
    match compute_for(ctx.peer.requester(), check).await {
        Ok((_, Ok(batch))) => Ok((batch.inflated_bytes(), Ok(batch))),
        Ok((limit, Err(rejection))) => Ok((limit, Err(rejection.into()))),
        Err(ComputeEnded) => Err(ResponseError::UnknownServerError.into()),
    }
}

/// The log keeps recent batches in memory, and each keeps the whole frame that it is a part of. A batch that is the smaller part
/// of its frame is copied out, so that what the log counts is what is held.
fn detached(records: BytesMut, frame_bytes: usize) -> BytesMut {
    if records.len() * 2 < frame_bytes { BytesMut::from(&records[..]) } else { records }
}

impl From<BatchRejection> for Failure {
    fn from(rejection: BatchRejection) -> Failure {
        let message = match rejection {
            BatchRejection::Transactional => NO_TRANSACTIONS.to_owned(),
            _ => rejection.to_string(),
        };
        let error = match &rejection {
            BatchRejection::Corrupt(_) => ResponseError::CorruptMessage,
            BatchRejection::TooLarge { .. } | BatchRejection::RecompressedTooLarge { .. } => {
                ResponseError::MessageTooLarge
            }
            BatchRejection::InvalidBatch(_) => ResponseError::InvalidRecord,
            BatchRejection::Transactional => ResponseError::UnsupportedVersion,
            BatchRejection::InvalidTimestampType(_) => ResponseError::InvalidTimestamp,
            // As in Apache Kafka, one bad timestamp decides for the batch.
            BatchRejection::InvalidRecords(bad) if bad.by_timestamp => ResponseError::InvalidTimestamp,
            BatchRejection::InvalidRecords(_) => ResponseError::InvalidRecord,
        };
        let records = match rejection {
            BatchRejection::InvalidRecords(bad) => bad.named,
            _ => Vec::new(),
        };
        Failure { error, records, message: Some(message) }
    }
}

impl From<AppendError> for Failure {
    fn from(error: AppendError) -> Failure {
        Failure::new(lookup::append_error(&error), error.to_string())
    }
}

async fn await_durable(
    node: &Node,
    ctx: &RequestContext,
    appended: Vec<TopicParts>,
    started: Instant,
    wait: Duration,
) -> Vec<TopicProduceResponse> {
    let mut topics = Vec::with_capacity(appended.len());
    for (topic, parts) in appended {
        let mut partitions = Vec::with_capacity(parts.len());
        for Part { index, outcome } in parts {
            let outcome = match outcome.expect(ALL_CHECKED) {
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
    let Failure { error, records, message } = failure;
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
    let at_fault = |(place, (index, fault)): (usize, (i32, RecordFault))| {
        let message = (place < RECORD_MESSAGES_MAX).then(|| StrBytes::from_string(fault.to_string()));
        BatchIndexAndErrorMessage::default().with_batch_index(index).with_batch_index_error_message(message)
    };
    response
        .with_record_errors(records.into_iter().enumerate().map(at_fault).collect())
        .with_error_message(message.map(StrBytes::from_string))
}

/// The addresses of the leaders that the answer names.
fn node_endpoints(node: &Node, ctx: &RequestContext, topics: &[TopicProduceResponse]) -> Vec<NodeEndpoint> {
    let parts = topics.iter().flat_map(|topic| &topic.partition_responses);
    let leaders = parts.map(|partition| partition.current_leader.leader_id.0);
    // Most answers name nobody, and take no memory for it.
    let named: BTreeSet<i32> = leaders.filter(|id| *id >= 0).collect();
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
    named.into_iter().filter_map(endpoint).collect()
}

fn topic_response(topic: TopicRef, partitions: Vec<PartitionProduceResponse>) -> TopicProduceResponse {
    let response = TopicProduceResponse::default().with_partition_responses(partitions);
    match topic {
        TopicRef::Name(name) => response.with_name(TopicName(name)),
        TopicRef::Id(id) => response.with_topic_id(id),
    }
}

fn silent_answer(ctx: &RequestContext, appended: Vec<TopicParts>) -> Result<Answer, Refusal> {
    let failures = appended.into_iter().flat_map(|(_, parts)| parts);
    let failures = failures.filter_map(|part| part.outcome.expect(ALL_CHECKED).err());
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
