//! Reading: one fetch, the ends of a partition, and a partition from its start to its end.

use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, ListOffsetsRequest};
use tokio::time::Instant;

use super::records::decode;
use super::{Client, topic_name};
use crate::history::{Event, TopicPartition, Value};

pub const EARLIEST: i64 = -2;
pub const LATEST: i64 = -1;
/// What a client hears where a batch is damaged. It gets past that by seeking.
pub const CORRUPT: i16 = 2;

/// What one fetch brought.
#[derive(Debug)]
pub struct Fetched {
    pub log_start: i64,
    pub high_watermark: i64,
    pub records: Vec<(i64, Value)>,
}

/// Fetches once. The error is the broker's, or `None` when there was no answer.
pub async fn fetch(
    client: &mut Client,
    at: &TopicPartition,
    offset: i64,
    wait_ms: i32,
) -> Result<Fetched, Option<i16>> {
    let Some(leader) = client.leader(at).await else {
        client.back_off().await;
        return Err(None);
    };
    let call =
        client.history().begin(|call| Event::Fetch { call, client: client.id, at: at.clone(), offset });
    let partition = FetchPartition::default()
        .with_partition(at.partition)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(64 << 10);
    let topic = FetchTopic::default().with_topic(topic_name(&at.topic)).with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    let Ok(answer) = client.call(leader, &request, 12).await else {
        client.forget_leader(at);
        return Err(None);
    };
    let data = &answer.responses[0].partitions[0];
    if data.error_code != 0 {
        client.history().note(Event::FetchFailed { call, code: data.error_code });
        client.forget_leader(at);
        return Err(Some(data.error_code));
    }
    let bytes = data.records.clone().unwrap_or_default();
    let records = match decode(bytes, offset) {
        Ok(records) => records,
        Err(why) => {
            client.history().note(Event::Garbled { call, why });
            return Err(Some(CORRUPT));
        }
    };
    let fetched = Fetched { log_start: data.log_start_offset, high_watermark: data.high_watermark, records };
    client.history().note(Event::Fetched {
        call,
        log_start: fetched.log_start,
        high_watermark: fetched.high_watermark,
        records: fetched.records.clone(),
    });
    Ok(fetched)
}

/// Asks for an end of a partition, once.
pub async fn end_offset(client: &mut Client, at: &TopicPartition, which: i64) -> Option<i64> {
    let leader = client.leader(at).await?;
    let call = client.history().begin(|call| Event::Fetch {
        call,
        client: client.id,
        at: at.clone(),
        offset: which,
    });
    let partition = ListOffsetsPartition::default().with_partition_index(at.partition).with_timestamp(which);
    let topic = ListOffsetsTopic::default().with_name(topic_name(&at.topic)).with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
    let Ok(answer) = client.call(leader, &request, 6).await else {
        client.forget_leader(at);
        return None;
    };
    let data = &answer.topics[0].partitions[0];
    if data.error_code != 0 {
        client.forget_leader(at);
        return None;
    }
    if which == LATEST {
        client.history().note(Event::EndOffset { call, at: at.clone(), offset: data.offset });
    }
    Some(data.offset)
}

/// Reads a partition from its start to its end, as they are when it is asked, and notes it as the final state.
/// `None` when the cluster does not give it in time.
pub async fn read_all(client: &mut Client, at: &TopicPartition, patience: Duration) -> Option<()> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        let ends = (end_offset(client, at, EARLIEST).await, end_offset(client, at, LATEST).await);
        let (Some(start), Some(end)) = ends else {
            client.back_off().await;
            continue;
        };
        let (mut records, mut damaged, mut next) = (Vec::new(), Vec::new(), start);
        while next < end && Instant::now() < deadline {
            match fetch(client, at, next, 100).await {
                Ok(fetched) => {
                    next = fetched.records.last().map_or(next, |(offset, _)| offset + 1);
                    records.extend(fetched.records);
                }
                // Retention has moved the start meanwhile.
                Err(Some(code)) if code == ResponseError::OffsetOutOfRange.code() => break,
                Err(Some(CORRUPT)) => {
                    damaged.push(next);
                    next += 1;
                }
                Err(_) => client.back_off().await,
            }
        }
        if next >= end {
            client.history().note(Event::Final { at: at.clone(), log_start: start, records, damaged });
            return Some(());
        }
    }
    None
}
