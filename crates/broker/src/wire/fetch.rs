//! Writing Fetch responses (versions 4–18) around the records instead of copying them: the generated encoder would copy every
//! batch. See FetchResponse.json of Apache Kafka.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::FetchResponse;
use kafka_protocol::protocol::HeaderVersion;
use tokio::sync::OwnedSemaphorePermit;

use super::Refusal;
use super::answer::Answer;
use super::produce::TopicRef;

/// A Fetch response. Transactions do not exist yet, so that no list of aborted ones is ever filled.
#[derive(Debug, Default)]
pub struct FetchAnswer {
    pub error_code: i16,
    pub session_id: i32,
    pub topics: Vec<FetchedTopic>,
    /// Where the leaders are that partitions name (KIP-951).
    pub node_endpoints: Vec<LeaderEndpoint>,
    /// Consumers that read only committed records get an empty list of aborted transactions, others get none at all.
    pub read_committed: bool,
}

/// Where a leader is reached.
#[derive(Debug)]
pub struct LeaderEndpoint {
    pub node_id: i32,
    pub host: String,
    pub port: i32,
    pub rack: Option<String>,
}

/// The partitions of one topic in a Fetch response.
#[derive(Debug)]
pub struct FetchedTopic {
    pub topic: TopicRef,
    pub partitions: Vec<FetchedPartition>,
}

/// One partition in a Fetch response.
#[derive(Debug)]
pub struct FetchedPartition {
    pub index: i32,
    pub error_code: i16,
    pub high_watermark: i64,
    pub log_start_offset: i64,
    /// Node id and leader epoch of the leader, where this broker is not it.
    pub current_leader: Option<(i32, i32)>,
    pub records: Vec<Bytes>,
}

/// Since this version partitions name their leaders (KIP-951).
pub const CURRENT_LEADER_SINCE: i16 = 16;

/// Encodes the response of a request; `budget` stays taken until the peer has it.
pub fn encode(
    correlation_id: i32,
    version: i16,
    fetched: FetchAnswer,
    budget: Option<OwnedSemaphorePermit>,
) -> Result<Answer, Refusal> {
    let out = Answer::begin(correlation_id, FetchResponse::header_version(version))?;
    let mut writer = Writer { out, first: None, rest: Vec::new(), version, flexible: version >= 12 };
    writer.response(fetched)?;
    let Writer { out, first, mut rest, .. } = writer;
    match first {
        None => Answer::finish(out, rest, budget),
        Some(first) => {
            rest.push(out.freeze());
            Answer::finish(first, rest, budget)
        }
    }
}

struct Writer {
    /// What is being written.
    out: BytesMut,
    /// What was written before the first records; the length of the whole is put in at the end.
    first: Option<BytesMut>,
    /// What follows: records, and what stands between them.
    rest: Vec<Bytes>,
    version: i16,
    flexible: bool,
}

impl Writer {
    fn response(&mut self, fetched: FetchAnswer) -> Result<(), Refusal> {
        self.out.put_i32(0); // throttle time
        if self.version >= 7 {
            self.out.put_i16(fetched.error_code);
            self.out.put_i32(fetched.session_id);
        }
        self.count(fetched.topics.len())?;
        for topic in fetched.topics {
            match &topic.topic {
                TopicRef::Name(name) => self.string(name)?,
                TopicRef::Id(id) => self.out.put_u128(id.as_u128()),
            }
            self.count(topic.partitions.len())?;
            for partition in topic.partitions {
                self.partition(partition, fetched.read_committed)?;
            }
            self.no_tagged_fields();
        }
        if fetched.node_endpoints.is_empty() || self.version < CURRENT_LEADER_SINCE {
            self.no_tagged_fields();
            return Ok(());
        }
        self.varint(1);
        let mut field = std::mem::take(&mut self.out);
        self.endpoints(&fetched.node_endpoints)?;
        std::mem::swap(&mut field, &mut self.out);
        self.tagged_field(0, &field)
    }

    fn endpoints(&mut self, endpoints: &[LeaderEndpoint]) -> Result<(), Refusal> {
        self.count(endpoints.len())?;
        for endpoint in endpoints {
            self.out.put_i32(endpoint.node_id);
            self.string(&endpoint.host)?;
            self.out.put_i32(endpoint.port);
            match &endpoint.rack {
                Some(rack) => self.string(rack)?,
                None => self.out.put_u8(0),
            }
            self.no_tagged_fields();
        }
        Ok(())
    }

    fn tagged_field(&mut self, tag: u32, field: &[u8]) -> Result<(), Refusal> {
        let size = u32::try_from(field.len()).map_err(|_| Refusal::Encode("a field is too long".into()))?;
        self.varint(tag);
        self.varint(size);
        self.out.put_slice(field);
        Ok(())
    }

    fn partition(&mut self, partition: FetchedPartition, read_committed: bool) -> Result<(), Refusal> {
        self.out.put_i32(partition.index);
        self.out.put_i16(partition.error_code);
        self.out.put_i64(partition.high_watermark);
        self.out.put_i64(partition.high_watermark); // the last stable offset
        if self.version >= 5 {
            self.out.put_i64(partition.log_start_offset);
        }
        match (read_committed, self.flexible) {
            (true, _) => self.count(0)?,
            (false, true) => self.out.put_u8(0),
            (false, false) => self.out.put_i32(-1),
        }
        if self.version >= 11 {
            self.out.put_i32(-1); // preferred read replica
        }
        self.count(partition.records.iter().map(Bytes::len).sum())?;
        if !partition.records.is_empty() {
            let before = self.out.split();
            match self.first {
                None => self.first = Some(before),
                Some(_) => self.rest.push(before.freeze()),
            }
            self.rest.extend(partition.records);
        }
        match partition.current_leader.filter(|_| self.version >= CURRENT_LEADER_SINCE) {
            None => self.no_tagged_fields(),
            Some((leader_id, leader_epoch)) => {
                let mut field = [0; 9];
                field[..4].copy_from_slice(&leader_id.to_be_bytes());
                field[4..8].copy_from_slice(&leader_epoch.to_be_bytes());
                self.varint(1);
                self.tagged_field(1, &field)?;
            }
        }
        Ok(())
    }

    /// The length of an array or of bytes.
    fn count(&mut self, count: usize) -> Result<(), Refusal> {
        let count = i32::try_from(count).map_err(|_| Refusal::Encode(format!("{count} is too many")))?;
        if self.flexible {
            self.varint(count.unsigned_abs() + 1)
        } else {
            self.out.put_i32(count)
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), Refusal> {
        let length = i16::try_from(text.len()).map_err(|_| Refusal::Encode("a name is too long".into()))?;
        if self.flexible {
            self.varint(u32::from(length.unsigned_abs()) + 1);
        } else {
            self.out.put_i16(length);
        }
        self.out.put_slice(text.as_bytes());
        Ok(())
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.put_u8(value as u8);
    }

    fn no_tagged_fields(&mut self) {
        if self.flexible {
            self.out.put_u8(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf;
    use kafka_protocol::messages::ResponseHeader;
    use kafka_protocol::protocol::{Decodable, StrBytes};
    use uuid::Uuid;

    use super::*;

    fn fetched(version: i16) -> FetchAnswer {
        let partition = |index, chunks: &[&'static [u8]]| FetchedPartition {
            index,
            error_code: 0,
            high_watermark: 40,
            log_start_offset: 3,
            current_leader: (index == 1).then_some((7, 5)),
            records: chunks.iter().map(|c| Bytes::from_static(c)).collect(),
        };
        let topic = if version >= 13 {
            TopicRef::Id(Uuid::from_u128(5))
        } else {
            TopicRef::Name(StrBytes::from_static_str("orders"))
        };
        let partitions = vec![partition(0, &[b"one ", b"two"]), partition(1, &[]), partition(2, &[b"three"])];
        FetchAnswer {
            session_id: if version >= 7 { 99 } else { 0 },
            topics: vec![FetchedTopic { topic, partitions }],
            node_endpoints: vec![LeaderEndpoint { node_id: 7, host: "h".into(), port: 9, rack: None }],
            ..FetchAnswer::default()
        }
    }

    #[test]
    fn every_version_reads_back_with_the_reference_decoder() {
        for version in 4..=18 {
            let mut answer = encode(1234, version, fetched(version), None).unwrap();
            let mut bytes = answer.copy_to_bytes(answer.remaining());
            assert_eq!(bytes.get_i32() as usize, bytes.len(), "version {version}");
            let header = ResponseHeader::decode(&mut bytes, FetchResponse::header_version(version)).unwrap();
            assert_eq!(header.correlation_id, 1234);
            let response = FetchResponse::decode(&mut bytes, version).unwrap();
            assert!(bytes.is_empty(), "version {version} leaves {} bytes", bytes.len());
            assert_eq!(response.session_id, if version >= 7 { 99 } else { 0 });
            let topic = &response.responses[0];
            match version {
                13.. => assert_eq!(topic.topic_id, Uuid::from_u128(5)),
                _ => assert_eq!(topic.topic.as_str(), "orders"),
            }
            let records: Vec<_> = topic.partitions.iter().map(|p| p.records.clone().unwrap()).collect();
            assert_eq!(records, [&b"one two"[..], b"", b"three"]);
            let told = version >= CURRENT_LEADER_SINCE;
            let leader = &topic.partitions[1].current_leader;
            assert_eq!((leader.leader_id.0, leader.leader_epoch), if told { (7, 5) } else { (-1, -1) });
            let endpoints: Vec<_> =
                response.node_endpoints.iter().map(|e| (e.node_id.0, e.host.to_string(), e.port)).collect();
            assert_eq!(endpoints, if told { vec![(7, "h".to_owned(), 9)] } else { Vec::new() });
            assert!(
                topic.partitions.iter().all(|p| p.high_watermark == 40 && p.aborted_transactions.is_none())
            );
        }
    }
}
