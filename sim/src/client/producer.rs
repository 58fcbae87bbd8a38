//! Producers: idempotent ones, which send a batch again until it is stored, and plain ones, which send each batch once.
//!
//! An idempotent producer has up to five batches of a partition under way. When one of them fails, it and those after it are sent
//! again in their order, as they were.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest, ProducerId};
use tokio::time::{sleep, timeout};

use super::records::{Sequenced, encode};
use super::{ANSWER_TIMEOUT, CallError, Client, is_retriable, topic_name};
use crate::history::{CallId, Event, Produced, TopicPartition, Value};
use crate::world::wall_ms;

const PRODUCE_VERSION: i16 = 9;

/// How a producer works.
#[derive(Debug, Clone)]
pub struct Habits {
    pub partitions: Vec<TopicPartition>,
    /// Between rounds of batches, in milliseconds.
    pub pause_ms: (u64, u64),
    pub records_max: u64,
    pub padding_max: u64,
    /// Batches of a partition that are under way at once.
    pub in_flight: usize,
}

struct Batch {
    call: CallId,
    bytes: Bytes,
}

fn request(at: &TopicPartition, records: Bytes, acks: i16) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(at.partition).with_records(Some(records));
    let topic = TopicProduceData::default().with_name(topic_name(&at.topic)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(3000).with_topic_data(vec![topic])
}

/// Writes until the end, and then until everything that was begun is stored.
pub async fn idempotent(mut client: Client, habits: Habits) {
    let Some((producer_id, epoch)) = init(&mut client).await else { return };
    let mut next = 0;
    let mut sequences = vec![0; habits.partitions.len()];
    while !client.setting.closing.is_cancelled() {
        let which = client.rng.below(habits.partitions.len() as u64) as usize;
        let at = &habits.partitions[which];
        let mut window = VecDeque::new();
        for _ in 0..client.rng.between(1, habits.in_flight as u64) {
            let count = client.rng.between(1, habits.records_max) as u32;
            let first = Value { client: client.id, number: next };
            next += u64::from(count);
            let padding = client.rng.below(habits.padding_max + 1) as usize;
            let sequenced = Sequenced { producer_id, epoch, first: sequences[which] };
            sequences[which] += count as i32;
            let now_ms = wall_ms(client.history().now());
            let bytes = encode(first, count, padding, Some(sequenced), now_ms);
            let call = client.history().begin(|call| Event::Produce {
                call,
                client: client.id,
                at: at.clone(),
                first: first.number,
                count,
                idempotent: true,
            });
            window.push_back(Batch { call, bytes });
        }
        while !window.is_empty() {
            round(&mut client, at, &mut window).await;
        }
        let pause = client.rng.ms(habits.pause_ms.0, habits.pause_ms.1);
        let closing = client.setting.closing.clone();
        let _ = closing.run_until_cancelled(sleep(pause)).await;
    }
}

/// Asks for a producer id until there is one.
async fn init(client: &mut Client) -> Option<(i64, i16)> {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    loop {
        let node = client.any();
        match client.call(node, &request, 4).await {
            Ok(answer) if answer.error_code == 0 => {
                let (producer_id, epoch) = (answer.producer_id.0, answer.producer_epoch);
                client.history().note(Event::ProducerId { client: client.id, producer_id, epoch });
                return Some((producer_id, epoch));
            }
            Ok(_) | Err(_) if client.setting.closing.is_cancelled() => return None,
            Ok(_) | Err(_) => client.back_off().await,
        }
    }
}

/// Sends all batches of a window, and takes those out of it that are stored.
async fn round(client: &mut Client, at: &TopicPartition, window: &mut VecDeque<Batch>) {
    let Some(leader) = client.leader(at).await else {
        client.back_off().await;
        return;
    };
    let sent = {
        let Ok(connection) = client.connection(leader).await else {
            client.forget_leader(at);
            client.back_off().await;
            return;
        };
        let mut sent = 0;
        for batch in window.iter() {
            let request = request(at, batch.bytes.clone(), -1);
            let sending = connection.send(&request, PRODUCE_VERSION);
            if !matches!(timeout(ANSWER_TIMEOUT, sending).await, Ok(Ok(()))) {
                break;
            }
            sent += 1;
        }
        sent
    };
    let mut outcomes = Vec::new();
    for _ in 0..sent {
        let connection = client.connection(leader).await;
        let answer = match connection {
            Ok(connection) => {
                timeout(ANSWER_TIMEOUT, connection.receive::<ProduceRequest>(PRODUCE_VERSION)).await
            }
            Err(_) => break,
        };
        match answer {
            Ok(Ok(answer)) => {
                let partition = &answer.responses[0].partition_responses[0];
                outcomes.push((partition.error_code, partition.base_offset));
            }
            Ok(Err(_)) | Err(_) => break,
        }
    }
    if outcomes.len() < window.len() {
        // Answers to what is sent again must not be taken for those that are still to come.
        client.disconnect(leader);
    }
    if !settle(client, at, window, &outcomes) {
        client.forget_leader(at);
        client.back_off().await;
    }
}

/// Takes what is stored out of the window. Returns whether everything was.
fn settle(
    client: &Client,
    at: &TopicPartition,
    window: &mut VecDeque<Batch>,
    outcomes: &[(i16, i64)],
) -> bool {
    let mut open = VecDeque::new();
    let mut outcomes = outcomes.iter();
    for batch in window.drain(..) {
        let stored = match outcomes.next() {
            Some((0, base)) => Some(if *base >= 0 { Produced::At(*base) } else { Produced::Before }),
            Some((code, _)) => {
                let error = ResponseError::try_from_code(*code);
                let is_first = open.is_empty();
                match error {
                    Some(ResponseError::DuplicateSequenceNumber) => Some(Produced::Before),
                    Some(ResponseError::OutOfOrderSequenceNumber | ResponseError::UnknownProducerId)
                        if !is_first =>
                    {
                        None
                    }
                    _ if is_retriable(*code) && error != Some(ResponseError::OutOfOrderSequenceNumber) => {
                        None
                    }
                    // Everything before it was acknowledged, and is not there.
                    _ => {
                        let event = Event::SequenceLost { client: client.id, at: at.clone(), code: *code };
                        client.history().note(event);
                        Some(Produced::Refused(*code))
                    }
                }
            }
            None => None,
        };
        match stored {
            Some(outcome) => client.history().note(Event::ProduceEnded { call: batch.call, outcome }),
            None => open.push_back(batch),
        }
    }
    *window = open;
    window.is_empty()
}

/// Writes without an id and without retries: each batch is sent once.
pub async fn plain(mut client: Client, habits: Habits, acks: i16) {
    let mut next = 0;
    while !client.setting.closing.is_cancelled() {
        let which = client.rng.below(habits.partitions.len() as u64) as usize;
        let at = &habits.partitions[which];
        let Some(leader) = client.leader(at).await else {
            client.back_off().await;
            continue;
        };
        let count = client.rng.between(1, habits.records_max) as u32;
        let first = Value { client: client.id, number: next };
        next += u64::from(count);
        let padding = client.rng.below(habits.padding_max + 1) as usize;
        let bytes = encode(first, count, padding, None, wall_ms(client.history().now()));
        let call = client.history().begin(|call| Event::Produce {
            call,
            client: client.id,
            at: at.clone(),
            first: first.number,
            count,
            idempotent: false,
        });
        let outcome = send_once(&mut client, leader, request(at, bytes, acks), acks).await;
        client.history().note(Event::ProduceEnded { call, outcome });
        if !matches!(outcome, Produced::At(_)) {
            client.forget_leader(at);
            client.back_off().await;
        }
        let pause = client.rng.ms(habits.pause_ms.0, habits.pause_ms.1);
        let closing = client.setting.closing.clone();
        let _ = closing.run_until_cancelled(sleep(pause)).await;
    }
}

async fn send_once(client: &mut Client, leader: i32, request: ProduceRequest, acks: i16) -> Produced {
    if acks == 0 {
        let Ok(connection) = client.connection(leader).await else { return Produced::Unknown };
        // Nothing is answered.
        let _ = timeout(ANSWER_TIMEOUT, connection.send_unanswered(&request, PRODUCE_VERSION)).await;
        return Produced::Unknown;
    }
    match client.call(leader, &request, PRODUCE_VERSION).await {
        Ok(answer) => {
            let partition = &answer.responses[0].partition_responses[0];
            match partition.error_code {
                0 => Produced::At(partition.base_offset),
                // The broker does not know either.
                code if code == ResponseError::RequestTimedOut.code() => Produced::Unknown,
                code => Produced::Refused(code),
            }
        }
        Err(CallError::NotSent | CallError::Unknown) => Produced::Unknown,
    }
}

/// The partitions of a topic.
pub fn partitions_of(topic: &Arc<str>, count: i32) -> Vec<TopicPartition> {
    (0..count).map(|partition| TopicPartition { topic: Arc::clone(topic), partition }).collect()
}

/// The pause of a producer that hardly rests.
pub const BUSY_MS: (u64, u64) = (5, 60);

/// How long a producer may take to come to its end.
pub const PATIENCE: Duration = Duration::from_secs(60);
