//! An idempotent producer: every batch carries a producer id and a sequence number, so that a batch that is sent
//! again after a lost answer is stored once.
//!
//! Batches are kept until they are acknowledged, and sent again as they were.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest, ProduceResponse, ProducerId};
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

use super::cluster::Cluster;
use super::connection::{ClientError, check};
use super::topics::topic_name;

const CLIENT_ID: &str = "demo-producer";
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// A record to be sent. The key decides the partition.
pub struct Message {
    pub topic: &'static str,
    pub key: String,
    pub value: Vec<u8>,
    pub timestamp_ms: i64,
}

type Partition = (&'static str, i32);

pub struct Producer {
    broker: SocketAddr,
    /// None after an error: everything is found out anew.
    cluster: Option<Cluster>,
    producer_id: ProducerId,
    producer_epoch: i16,
    partitions: BTreeMap<&'static str, i32>,
    next_sequence: BTreeMap<Partition, i32>,
}

impl Producer {
    /// A producer for `topics`, which must exist.
    pub async fn open(broker: SocketAddr, topics: &[&'static str]) -> Result<Self, ClientError> {
        let mut cluster = Cluster::open(broker, CLIENT_ID).await?;
        let mut partitions = BTreeMap::new();
        for topic in topics {
            partitions.insert(*topic, cluster.learn(topic).await?);
        }
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let answer = cluster.any().call("InitProducerId", request, 2..=4).await?;
        check("InitProducerId", answer.error_code)?;
        Ok(Self {
            broker,
            cluster: Some(cluster),
            producer_id: answer.producer_id,
            producer_epoch: answer.producer_epoch,
            partitions,
            next_sequence: BTreeMap::new(),
        })
    }

    /// Sends the messages and returns when all are acknowledged. What may succeed later is tried until it does.
    pub async fn send(&mut self, messages: Vec<Message>) -> Result<(), ClientError> {
        let mut unacknowledged = self.batches(messages)?;
        while !unacknowledged.is_empty() {
            match self.attempt(&unacknowledged).await {
                Ok(done) => unacknowledged.retain(|partition, _| !done.contains(partition)),
                Err(ClientError::Io(_) | ClientError::Timeout(_)) => self.cluster = None,
                Err(error) => return Err(error),
            }
            if !unacknowledged.is_empty() {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
        Ok(())
    }

    /// One Produce request to each leader with everything that is open; gives the partitions that were acknowledged.
    async fn attempt(&mut self, batches: &BTreeMap<Partition, Bytes>) -> Result<Vec<Partition>, ClientError> {
        if self.cluster.is_none() {
            let mut cluster = Cluster::open(self.broker, CLIENT_ID).await?;
            for topic in self.partitions.keys() {
                cluster.learn(topic).await?;
            }
            self.cluster = Some(cluster);
        }
        let cluster = self.cluster.as_mut().expect("it was opened");
        let mut by_leader: BTreeMap<i32, BTreeMap<Partition, Bytes>> = BTreeMap::new();
        for ((topic, index), batch) in batches {
            let leader = cluster.leader(topic, *index)?;
            by_leader.entry(leader).or_default().insert((topic, *index), batch.clone());
        }
        let (mut done, mut moved) = (Vec::new(), false);
        for (leader, batches) in by_leader {
            let request = produce_request(&batches);
            let answer = cluster.broker(leader).await?.call("Produce", request, 7..=12).await?;
            moved |= acknowledged(&answer, &batches, &mut done)?;
        }
        if moved {
            // Another broker leads it by now.
            self.cluster = None;
        }
        Ok(done)
    }

    /// One batch for each partition that gets records, in the order of the messages.
    fn batches(&mut self, messages: Vec<Message>) -> Result<BTreeMap<Partition, Bytes>, ClientError> {
        let mut records: BTreeMap<Partition, Vec<Record>> = BTreeMap::new();
        for message in messages {
            let count = self.partitions.get(message.topic).copied().unwrap_or(1);
            let partition = (message.topic, partition_of(message.key.as_bytes(), count));
            let batch = records.entry(partition).or_default();
            let index = i32::try_from(batch.len()).expect("a batch of the demo has some thousand records");
            let sequence = self.next_sequence.get(&partition).copied().unwrap_or(0) + index;
            batch.push(self.record(message, index, sequence));
        }
        let mut batches = BTreeMap::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        for (partition, records) in records {
            let mut bytes = BytesMut::new();
            RecordBatchEncoder::encode(&mut bytes, &records, &options)
                .map_err(|e| ClientError::Protocol(e.to_string()))?;
            let last = records.last().map_or(-1, |record| record.sequence);
            self.next_sequence.insert(partition, last + 1);
            batches.insert(partition, bytes.freeze());
        }
        Ok(batches)
    }

    fn record(&self, message: Message, index: i32, sequence: i32) -> Record {
        Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
            producer_id: self.producer_id.0,
            producer_epoch: self.producer_epoch,
            timestamp_type: TimestampType::Creation,
            offset: i64::from(index),
            sequence,
            timestamp: message.timestamp_ms,
            key: Some(Bytes::from(message.key)),
            value: Some(Bytes::from(message.value)),
            headers: Default::default(),
        }
    }
}

/// Adds the partitions that were acknowledged to `done`. Returns whether others are to be sent again.
fn acknowledged(
    answer: &ProduceResponse,
    batches: &BTreeMap<Partition, Bytes>,
    done: &mut Vec<Partition>,
) -> Result<bool, ClientError> {
    let mut again = false;
    for topic in &answer.responses {
        for partition in &topic.partition_responses {
            let known = batches
                .keys()
                .find(|(name, index)| *name == topic.name.as_str() && *index == partition.index);
            let Some(key) = known else { continue };
            match check("Produce", partition.error_code) {
                Ok(()) => done.push(*key),
                // Stored by an earlier attempt whose answer was lost.
                Err(e) if e.code() == Some(ResponseError::DuplicateSequenceNumber) => done.push(*key),
                Err(e) if e.code().is_some_and(|code| code.is_retriable()) => {
                    tracing::debug!(topic = key.0, partition = key.1, error = %e, "demo produce is tried again");
                    again = true;
                }
                Err(e) => return Err(e),
            }
        }
    }
    Ok(again)
}

fn produce_request(batches: &BTreeMap<Partition, Bytes>) -> ProduceRequest {
    let mut topics: BTreeMap<&'static str, Vec<PartitionProduceData>> = BTreeMap::new();
    for ((topic, index), batch) in batches {
        let data = PartitionProduceData::default().with_index(*index).with_records(Some(batch.clone()));
        topics.entry(topic).or_default().push(data);
    }
    let topics = topics
        .into_iter()
        .map(|(name, data)| TopicProduceData::default().with_name(topic_name(name)).with_partition_data(data))
        .collect();
    ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(topics)
}

/// The partition that the Java client's default partitioner chooses, so that keys of the demo and of other producers
/// with this partitioner meet in the same partitions.
fn partition_of(key: &[u8], partitions: i32) -> i32 {
    ((murmur2(key) & 0x7fff_ffff) as i32) % partitions
}

/// MurmurHash2 as in `org.apache.kafka.common.utils.Utils`.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| tail << 8 | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_gives_the_values_of_the_java_client() {
        // From Kafka's UtilsTest.testMurmur2.
        let cases: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (key, hash) in cases {
            assert_eq!(murmur2(key) as i32, hash, "{key:?}");
        }
    }
}
