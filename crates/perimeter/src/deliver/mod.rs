//! `deliver: topic`: an answer, as it would be shown, is written to a topic.
//!
//! It is one record batch of one partition, so that all of it is there or nothing. The producer is idempotent: a batch whose
//! acknowledgement was lost is sent again and stored once.
//!
//! Invariant: nothing is written before the answer has passed all checks, and before what is written has its labels in
//! [`crate::labelled`].

mod batch;
pub mod envelope;
mod wire;

use std::collections::BTreeSet;
use std::time::Duration;

use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use kafscale_agent::schemars::{self, JsonSchema};
use kafscale_core::compress::CompressError;
use kafscale_core::names::check_topic_name;
use serde::Serialize;
use tokio::time::Instant;

use crate::engine::Rows;
use crate::shape::TableName;
use batch::BATCH_MAX_BYTES;
use envelope::{Envelope, HEADER};
use wire::{Connection, Producer, Topic, WireError};

const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);
/// JSON that is longer does not fit into a batch, however well it is compressed.
const JSON_MAX_BYTES: usize = 32 << 20;
const ENVELOPE_MAX_BYTES: usize = 64 << 10;

/// Where an answer was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Delivered {
    pub topic: String,
    pub partition: i32,
    /// Left out where an attempt had written it whose acknowledgement was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_offset: Option<i64>,
    pub records: u64,
    /// As in the envelope of each record.
    pub delivery: String,
}

/// Why an answer is not in a topic. Its text is fit for the caller.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    #[error("deliver=topic wants topic=COLLECTION.TOPIC, and nothing else does")]
    Name,
    #[error(
        "the collection {0} has no topics that the perimeter can write: its operator has not set `brokers`"
    )]
    NotWritable(String),
    #[error("two columns are called {0}: give each a name of its own with AS")]
    Ambiguous(String),
    #[error("there is nothing to deliver: the answer has no rows")]
    Nothing,
    #[error(
        "the answer takes more than the {BATCH_MAX_BYTES} bytes that are written to a topic in one piece, and nothing was written: ask for \
         fewer rows or columns"
    )]
    TooLarge,
    #[error("the answer has values that have no form in JSON, and nothing was written: cast them to text")]
    Form(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("nothing was written: the topic is not there, or its broker cannot be reached now")]
    Unwritten(#[source] WireError),
    #[error("nothing was written: the labels of the topic cannot be kept; tell the operator of this server")]
    Unlabelled,
    #[error(
        "whether the answer is in the topic is not known: its broker did not answer in time. Records of it have delivery={0}"
    )]
    Unknown(String),
}

/// Where topics of a collection are written.
#[derive(Debug, Clone)]
pub struct Brokers(pub Vec<(String, u16)>);

impl Brokers {
    /// `host:port`, with commas between several. None: it is not of this form.
    pub fn parse(text: &str) -> Option<Brokers> {
        let one = |text: &str| {
            let (host, port) = text.trim().rsplit_once(':')?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            (!host.is_empty()).then_some((host.to_owned(), port.parse().ok()?))
        };
        text.split(',').map(one).collect::<Option<Vec<_>>>().map(Brokers)
    }
}

/// The table that is meant by `COLLECTION.TOPIC`.
pub fn target(name: &str) -> Result<TableName, DeliverError> {
    let (collection, topic) = name.split_once('.').ok_or(DeliverError::Name)?;
    // Topics with two underscores belong to the cluster.
    let is_topic = check_topic_name(topic).is_ok() && !topic.starts_with("__");
    if is_topic { Ok(TableName::new(collection, topic)) } else { Err(DeliverError::Name) }
}

/// An answer as it is written: a line of JSON for each row.
#[derive(Debug)]
pub struct Records {
    json: Vec<u8>,
    count: u64,
}

impl Records {
    pub fn of(rows: &Rows) -> Result<Records, DeliverError> {
        let mut names = BTreeSet::new();
        if let Some(field) = rows.schema.fields().iter().find(|field| !names.insert(field.name())) {
            return Err(DeliverError::Ambiguous(field.name().clone()));
        }
        if rows.rows == 0 {
            return Err(DeliverError::Nothing);
        }
        let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
        for batch in &rows.batches {
            writer.write(batch).map_err(|error| DeliverError::Form(error.into()))?;
            if writer.get_ref().len() > JSON_MAX_BYTES {
                return Err(DeliverError::TooLarge);
            }
        }
        writer.finish().map_err(|error| DeliverError::Form(error.into()))?;
        Ok(Records { json: writer.into_inner(), count: rows.rows })
    }

    fn lines(&self) -> Vec<&[u8]> {
        self.json.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect()
    }
}

/// Writes records to a topic, until `deadline`.
pub async fn deliver(
    brokers: &Brokers,
    topic: &str,
    records: &Records,
    mut envelope: Envelope<'_>,
    delivery: &str,
    (now_ms, deadline): (i64, Instant),
) -> Result<(Delivered, u32), DeliverError> {
    let (mut sent, mut partition) = (None::<(Producer, Vec<u8>)>, None);
    let mut attempt = 0;
    loop {
        attempt += 1;
        envelope.attempt = attempt;
        let work = write(brokers, topic, records, &envelope, &mut sent, &mut partition, delivery, now_ms);
        let written = match tokio::time::timeout_at(deadline, work).await {
            Ok(written) => written,
            Err(_) => Err(Failed::Wire(std::io::Error::from(std::io::ErrorKind::TimedOut).into())),
        };
        let error = match written {
            Ok((partition, first_offset)) => {
                let (topic, delivery) = (topic.to_owned(), delivery.to_owned());
                let records = records.count;
                return Ok((Delivered { topic, partition, first_offset, records, delivery }, attempt));
            }
            Err(Failed::Deliver(error)) => return Err(error),
            Err(Failed::Wire(error)) => error,
        };
        tracing::warn!(topic, attempt, %error, "an answer could not be written to a topic");
        let again = error.is_retriable() && attempt < ATTEMPTS && Instant::now() + PAUSE < deadline;
        if again {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        // A broker that refuses has not written it. One that did not answer may have, at any attempt.
        return Err(match (&sent, &error) {
            (None, _) => DeliverError::Unwritten(error),
            (Some(_), WireError::Refused { .. }) if attempt == 1 => DeliverError::Unwritten(error),
            (Some(_), _) => DeliverError::Unknown(delivery.to_owned()),
        });
    }
}

enum Failed {
    Wire(WireError),
    Deliver(DeliverError),
}

impl From<WireError> for Failed {
    fn from(error: WireError) -> Self {
        Failed::Wire(error)
    }
}

/// One attempt. What was sent once is sent again as it was: only so it is known as the same.
#[expect(clippy::too_many_arguments, reason = "an attempt goes on with what the one before has left")]
async fn write(
    brokers: &Brokers,
    topic: &str,
    records: &Records,
    envelope: &Envelope<'_>,
    sent: &mut Option<(Producer, Vec<u8>)>,
    chosen: &mut Option<usize>,
    delivery: &str,
    now_ms: i64,
) -> Result<(i32, Option<i64>), Failed> {
    let mut first = connect(brokers).await?;
    let Topic { leaders } = first.topic(topic).await?;
    // All of an answer is in one partition, and answers are spread.
    let spread =
        delivery.bytes().fold(7_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    let place = *chosen.get_or_insert_with(|| spread % leaders.len().max(1));
    let leader = leaders.get(place).cloned().flatten();
    let leader = leader.ok_or(WireError::Refused { request: "Metadata", code: 5 })?;
    if sent.is_none() {
        let producer = first.producer().await?;
        let envelope = serde_json::to_vec(envelope).map_err(|error| DeliverError::Form(error.into()));
        let envelope = envelope.map_err(Failed::Deliver)?;
        if envelope.len() > ENVELOPE_MAX_BYTES {
            return Err(Failed::Deliver(DeliverError::TooLarge));
        }
        let batch = batch::batch(&records.lines(), (HEADER, &envelope), producer, now_ms);
        let batch = batch.map_err(|error| match error {
            CompressError::TooLarge(_) => Failed::Deliver(DeliverError::TooLarge),
            CompressError::Io(error) => Failed::Wire(error.into()),
        })?;
        *sent = Some((producer, batch));
    }
    // In a cluster of one, what the broker advertises may be meant for others.
    let mut to = match brokers.0.len() == 1 && leaders.iter().all(|other| other.as_ref() == Some(&leader)) {
        true => first,
        false => Connection::open((&leader.0, leader.1)).await?,
    };
    let partition = i32::try_from(place).map_err(|_| WireError::Answer)?;
    let Some((_, batch)) = sent else { return Err(WireError::Answer.into()) };
    Ok((partition, to.produce(topic, partition, batch).await?))
}

async fn connect(brokers: &Brokers) -> Result<Connection, WireError> {
    let mut last = WireError::Answer;
    for (host, port) in &brokers.0 {
        match Connection::open((host, *port)).await {
            Ok(connection) => return Ok(connection),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_topics_and_none_of_the_cluster() {
        assert_eq!(target("events.a.b").unwrap(), TableName::new("events", "a.b"));
        for wrong in
            ["events", "events.", "events.__consumer_offsets", "events.a b", "events.a@0", "events.\"a\""]
        {
            assert!(target(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Brokers::parse("a:1, [::1]:2").unwrap().0, [("a".to_owned(), 1), ("::1".to_owned(), 2)]);
        assert!(
            Brokers::parse("a").is_none()
                && Brokers::parse(":9092").is_none()
                && Brokers::parse("").is_none()
        );
    }
}
