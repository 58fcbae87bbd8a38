//! Batches of records and Produce requests that hold them, encoded once before the measurement begins.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::ProduceResponse;
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record,
    RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use kafscale_core::batch::BatchHeader;

use crate::topics;
use crate::wire::{self, check};

/// What a record takes beside its value, at most: its length, deltas and empty fields.
const RECORD_OVERHEAD_BYTES: usize = 14;

/// A batch, and what it counts for.
#[derive(Debug, Clone)]
pub struct Batch {
    pub bytes: Bytes,
    pub records: u64,
    /// Values only, without headers and lengths.
    pub payload_bytes: u64,
    pub crc: u32,
}

impl Batch {
    /// A batch of at most `batch_bytes`, or of one record. The values are noise, another one for each seed.
    pub fn encode(batch_bytes: usize, record_bytes: usize, seed: u64) -> Result<Self> {
        let room = batch_bytes.saturating_sub(BatchHeader::SIZE_BYTES);
        let count = (room / (record_bytes + RECORD_OVERHEAD_BYTES)).max(1);
        let now_ms = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        let mut noise = Noise(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let records: Vec<Record> = (0..count)
            .map(|index| {
                record(i64::try_from(index).expect("few records"), now_ms, noise.bytes(record_bytes))
            })
            .collect();
        let mut bytes = BytesMut::with_capacity(batch_bytes);
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        RecordBatchEncoder::encode(&mut bytes, &records, &options)?;
        let crc = BatchHeader::parse(&bytes)?.crc;
        let (records, payload_bytes) = (count as u64, (count * record_bytes) as u64);
        Ok(Self { bytes: bytes.freeze(), records, payload_bytes, crc })
    }

    /// A Produce request with this batch for each of these partitions.
    pub fn request(&self, topic: &str, partitions: &[i32], acks: i16, version: i16) -> Result<Bytes> {
        let data = partitions
            .iter()
            .map(|p| PartitionProduceData::default().with_index(*p).with_records(Some(self.bytes.clone())))
            .collect();
        let topic = TopicProduceData::default().with_name(topics::name(topic)).with_partition_data(data);
        let request =
            ProduceRequest::default().with_acks(acks).with_timeout_ms(60_000).with_topic_data(vec![topic]);
        wire::encode(&request, version)
    }
}

/// Fails if a partition was refused.
pub fn check_produced(frame: Bytes, version: i16) -> Result<()> {
    let answer: ProduceResponse = wire::decode(frame, version)?;
    for partition in answer.responses.iter().flat_map(|topic| &topic.partition_responses) {
        check(partition.error_code).with_context(|| format!("Produce to partition {}", partition.index))?;
    }
    Ok(())
}

fn record(offset: i64, timestamp: i64, value: Bytes) -> Record {
    Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        timestamp_type: TimestampType::Creation,
        offset,
        sequence: NO_SEQUENCE + i32::try_from(offset).expect("few records"),
        timestamp,
        key: None,
        value: Some(value),
        headers: indexmap::IndexMap::new(),
    }
}

/// Bytes that do not compress (xorshift64).
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, size: usize) -> Bytes {
        let mut out = Vec::with_capacity(size + 8);
        while out.len() < size {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            out.extend_from_slice(&self.0.to_le_bytes());
        }
        out.truncate(size);
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_fits_and_its_checksum_is_right() {
        for (batch_bytes, record_bytes) in [(65_536, 1024), (1_048_588, 1024), (100, 100), (0, 1)] {
            let batch = Batch::encode(batch_bytes, record_bytes, 7).unwrap();
            let header = BatchHeader::parse(&batch.bytes).unwrap();
            assert!(header.crc_matches(&batch.bytes));
            assert_eq!(header.records_count as u64, batch.records);
            assert_eq!(i64::from(header.last_offset_delta), batch.records as i64 - 1);
            assert_eq!((header.producer_id, header.base_sequence), (-1, -1));
            assert!(batch.records == 1 || batch.bytes.len() <= batch_bytes);
        }
    }
}
