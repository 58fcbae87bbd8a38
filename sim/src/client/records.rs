//! Batches of values, as producers write and consumers read them.

use bytes::{Bytes, BytesMut};
use kafka_protocol::records::{
    Compression, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record, RecordBatchDecoder,
    RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

use crate::history::Value;

/// The identity of an idempotent producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequenced {
    pub producer_id: i64,
    pub epoch: i16,
    pub first: i32,
}

/// One batch of `count` values, of about `padding` more bytes each.
pub fn encode(first: Value, count: u32, padding: usize, sequenced: Option<Sequenced>, now_ms: i64) -> Bytes {
    let record = |i: u32| {
        let value = Value { client: first.client, number: first.number + u64::from(i) };
        let mut text = value.to_string();
        text.push(' ');
        text.extend(std::iter::repeat_n('.', padding));
        Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: sequenced.map_or(NO_PRODUCER_ID, |s| s.producer_id),
            producer_epoch: sequenced.map_or(NO_PRODUCER_EPOCH, |s| s.epoch),
            timestamp_type: TimestampType::Creation,
            offset: i64::from(i),
            // The encoder begins a new batch where offsets and sequences do not go along.
            sequence: sequenced.map_or(NO_SEQUENCE, |s| s.first) + i as i32,
            timestamp: now_ms,
            key: None,
            value: Some(Bytes::from(text)),
            headers: Default::default(),
        }
    };
    let records: Vec<Record> = (0..count).map(record).collect();
    let mut out = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut out, &records, &options).expect("records can be encoded");
    out.freeze()
}

/// The offsets and values at `from` and after. The error says what is wrong with the bytes.
pub fn decode(mut batches: Bytes, from: i64) -> Result<Vec<(i64, Value)>, String> {
    let sets = RecordBatchDecoder::decode_all(&mut batches).map_err(|error| error.to_string())?;
    let mut values = Vec::new();
    for record in sets.into_iter().flat_map(|set| set.records) {
        let text = record.value.ok_or("a record without a value")?;
        let text = std::str::from_utf8(&text).map_err(|error| error.to_string())?;
        let named = text.split(' ').next().unwrap_or_default();
        let (client, number) = named.split_once(':').ok_or_else(|| format!("no value: {text:?}"))?;
        let number = number.parse().map_err(|_| format!("no value: {text:?}"))?;
        let client = client.parse().map_err(|_| format!("no value: {text:?}"))?;
        if record.offset >= from {
            values.push((record.offset, Value { client, number }));
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were_written() {
        let sequenced = Some(Sequenced { producer_id: 7, epoch: 0, first: 5 });
        for sequenced in [None, sequenced] {
            let batch = encode(Value { client: 3, number: 40 }, 3, 10, sequenced, 1);
            let values: Vec<_> = decode(batch, 1).unwrap().into_iter().map(|(o, v)| (o, v.number)).collect();
            assert_eq!(values, [(1, 41), (2, 42)]);
        }
    }
}
