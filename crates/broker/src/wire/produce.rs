//! Reading Produce requests (versions 3–13) without copying the records: every batch stays a part of the frame that it came
//! in, and can be changed in place. See ProduceRequest.json of Apache Kafka.

use std::collections::HashSet;

use bytes::{BufMut, BytesMut};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::cursor::{Cursor, Malformed};
use super::{Answer, Refusal};

/// A Produce request.
#[derive(Debug)]
pub struct ProduceFrame {
    pub transactional_id: Option<StrBytes>,
    pub acks: i16,
    pub timeout_ms: i32,
    pub topics: Vec<TopicBatches>,
}

/// What a Produce request brings for one topic.
#[derive(Debug)]
pub struct TopicBatches {
    pub topic: TopicRef,
    pub partitions: Vec<PartitionBatch>,
}

/// How a request names a topic: by its name, or by its id in newer versions (KIP-516).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TopicRef {
    Name(StrBytes),
    Id(Uuid),
}

/// What a Produce request brings for one partition.
#[derive(Debug)]
pub struct PartitionBatch {
    pub index: i32,
    pub records: Option<BytesMut>,
}

/// So many partitions are compared with each other; more are put into a set.
const COMPARED_MAX: usize = 16;

/// Whether a request has two batches for one partition.
pub fn names_a_partition_twice(topics: &[TopicBatches]) -> bool {
    let mut named =
        topics.iter().flat_map(|topic| topic.partitions.iter().map(move |p| (&topic.topic, p.index)));
    let count: usize = topics.iter().map(|topic| topic.partitions.len()).sum();
    if count <= 1 {
        return false;
    }
    if count <= COMPARED_MAX {
        return (0..count).any(|_| named.next().is_some_and(|one| named.clone().any(|other| one == other)));
    }
    let mut seen = HashSet::with_capacity(count);
    !named.all(|partition| seen.insert(partition))
}

/// Takes a request apart.
pub fn parse(body: BytesMut, version: i16) -> Result<ProduceFrame, Refusal> {
    parse_fields(body, version).map_err(|e| Refusal::Protocol(format!("malformed produce request: {e}")))
}

fn parse_fields(body: BytesMut, version: i16) -> Result<ProduceFrame, Malformed> {
    let mut cursor = Cursor { bytes: body, flexible: version >= 9 };
    let transactional_id = cursor.string()?;
    let acks = cursor.i16()?;
    let timeout_ms = cursor.i32()?;
    let mut topics = Vec::new();
    for _ in 0..cursor.count()? {
        topics.push(parse_topic(&mut cursor, version)?);
    }
    cursor.tagged_fields()?;
    Ok(ProduceFrame { transactional_id, acks, timeout_ms, topics })
}

fn parse_topic(cursor: &mut Cursor, version: i16) -> Result<TopicBatches, Malformed> {
    let topic = if version >= 13 {
        TopicRef::Id(cursor.uuid()?)
    } else {
        TopicRef::Name(cursor.string()?.ok_or(Malformed("a topic name is null"))?)
    };
    let mut partitions = Vec::new();
    for _ in 0..cursor.count()? {
        let index = cursor.i32()?;
        let records = cursor.byte_field()?;
        cursor.tagged_fields()?;
        partitions.push(PartitionBatch { index, records });
    }
    cursor.tagged_fields()?;
    Ok(TopicBatches { topic, partitions })
}

/// The answer to versions 0 to 2, which nothing encodes any more: every partition fails with `error_code`.
pub fn unsupported_version(
    body: BytesMut,
    correlation_id: i32,
    version: i16,
    error_code: i16,
) -> Result<Answer, Refusal> {
    let malformed = |e: Malformed| Refusal::Protocol(format!("malformed produce request: {e}"));
    let mut cursor = Cursor { bytes: body, flexible: false };
    cursor.i16().and_then(|_acks| cursor.i32()).map_err(malformed)?;
    let mut out = Answer::begin(correlation_id, 0)?;
    let topics = cursor.count().map_err(malformed)?;
    out.put_i32(topics as i32);
    for _ in 0..topics {
        let TopicBatches { topic, partitions } = parse_topic(&mut cursor, version).map_err(malformed)?;
        let TopicRef::Name(name) = topic else { unreachable!("only newer versions use ids") };
        out.put_i16(name.len() as i16);
        out.put_slice(name.as_bytes());
        out.put_i32(partitions.len() as i32);
        for partition in partitions {
            out.put_i32(partition.index);
            out.put_i16(error_code);
            out.put_i64(-1); // base offset
            if version >= 2 {
                out.put_i64(-1); // log append time
            }
        }
    }
    if version >= 1 {
        out.put_i32(0); // throttle time
    }
    Answer::finish(out, Vec::new(), None)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
    use kafka_protocol::messages::{ProduceRequest, TopicName, TransactionalId};
    use kafka_protocol::protocol::Encodable;
    use proptest::prelude::*;

    use super::*;

    fn request(version: i16) -> ProduceRequest {
        let partition = |index, records: &'static [u8]| {
            PartitionProduceData::default().with_index(index).with_records(Some(Bytes::from_static(records)))
        };
        let empty = PartitionProduceData::default().with_index(9).with_records(None);
        let topic = TopicProduceData::default().with_partition_data(vec![
            partition(0, b"first batch"),
            partition(7, b"second"),
            empty,
        ]);
        let topic = if version >= 13 {
            topic.with_topic_id(Uuid::from_u128(77))
        } else {
            topic.with_name(TopicName(StrBytes::from_static_str("orders")))
        };
        ProduceRequest::default()
            .with_transactional_id(Some(TransactionalId(StrBytes::from_static_str("tx"))))
            .with_acks(-1)
            .with_timeout_ms(1500)
            .with_topic_data(vec![topic])
    }

    fn encode(version: i16) -> BytesMut {
        let mut out = BytesMut::new();
        request(version).encode(&mut out, version).unwrap();
        out
    }

    #[test]
    fn every_version_reads_as_the_reference_encoder_wrote_it() {
        for version in 3..=13 {
            let frame = parse(encode(version), version).unwrap();
            assert_eq!(frame.transactional_id.as_deref(), Some("tx"), "version {version}");
            assert_eq!((frame.acks, frame.timeout_ms), (-1, 1500));
            let name = match &frame.topics[0].topic {
                TopicRef::Name(name) => name.to_string(),
                TopicRef::Id(id) => id.as_u128().to_string(),
            };
            assert_eq!(name, if version >= 13 { "77" } else { "orders" });
            let batches: Vec<_> =
                frame.topics[0].partitions.iter().map(|p| (p.index, p.records.as_deref())).collect();
            assert_eq!(batches, [(0, Some(&b"first batch"[..])), (7, Some(b"second")), (9, None)]);
        }
    }

    #[test]
    fn a_partition_that_is_named_twice_is_seen() {
        let topic = |name: &'static str, partitions: &mut dyn Iterator<Item = i32>| TopicBatches {
            topic: TopicRef::Name(StrBytes::from_static_str(name)),
            partitions: partitions.map(|index| PartitionBatch { index, records: None }).collect(),
        };
        for count in [1, 2, 16, 17, 1000] {
            let mut topics = vec![topic("a", &mut (0..count)), topic("b", &mut (0..count))];
            assert!(!names_a_partition_twice(&topics), "{count}");
            topics.push(topic("a", &mut (count - 1..count)));
            assert!(names_a_partition_twice(&topics), "{count}");
        }
    }

    #[test]
    fn records_are_a_part_of_the_frame() {
        let body = encode(9);
        let (start, end) = (body.as_ptr() as usize, body.as_ptr() as usize + body.len());
        let frame = parse(body, 9).unwrap();
        let at = frame.topics[0].partitions[0].records.as_ref().unwrap().as_ptr() as usize;
        assert!((start..end).contains(&at), "the records were copied");
    }

    #[test]
    fn a_request_that_is_cut_off_is_refused() {
        for version in 3..=13 {
            let whole = encode(version);
            for length in 0..whole.len() {
                assert!(parse(BytesMut::from(&whole[..length]), version).is_err(), "{version} at {length}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 3i16..=13) {
            let _ = parse(BytesMut::from(&bytes[..]), version);
        }
    }
}
