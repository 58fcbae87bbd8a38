//! Records of JSON in one record batch (magic 2, KIP-98) of an idempotent producer.

use kafscale_core::batch::Codec;
use kafscale_core::compress::{CompressError, Compression};
use kafscale_core::crc::crc32c;

use super::wire::Producer;

/// A broker takes a batch of 1,048,588 bytes (`max.message.bytes`), unless it is told otherwise.
pub const BATCH_MAX_BYTES: usize = 1_000_000;
const HEADER_BYTES: usize = 61;
const ZSTD: i16 = 4;

/// A batch of records that have no key, and all the same header. An error: it is larger than a broker takes.
pub fn batch(
    values: &[&[u8]],
    header: (&str, &[u8]),
    producer: Producer,
    now_ms: i64,
) -> Result<Vec<u8>, CompressError> {
    let mut records = Vec::new();
    let mut record = Vec::new();
    for (delta, value) in values.iter().enumerate() {
        record.clear();
        record.push(0);
        put_varint(&mut record, 0);
        put_varint(&mut record, delta as i64);
        put_varint(&mut record, -1);
        put_bytes(&mut record, value);
        put_varint(&mut record, 1);
        put_bytes(&mut record, header.0.as_bytes());
        put_bytes(&mut record, header.1);
        put_bytes(&mut records, &record);
    }
    let room = BATCH_MAX_BYTES - HEADER_BYTES;
    let records = Compression::default_of(Codec::Zstd).compress(records.as_slice(), room)?;
    let count = i32::try_from(values.len()).map_err(|_| CompressError::TooLarge(room))?;
    let mut checked = Vec::with_capacity(HEADER_BYTES + records.len());
    checked.extend(ZSTD.to_be_bytes());
    checked.extend((count - 1).to_be_bytes());
    checked.extend(now_ms.to_be_bytes());
    checked.extend(now_ms.to_be_bytes());
    checked.extend(producer.id.to_be_bytes());
    checked.extend(producer.epoch.to_be_bytes());
    // The first batch of this producer, and the last.
    checked.extend(0_i32.to_be_bytes());
    checked.extend(count.to_be_bytes());
    checked.extend(records);
    let mut batch = Vec::with_capacity(HEADER_BYTES + checked.len());
    batch.extend(0_i64.to_be_bytes());
    // What follows: the epoch of the leader, the format, the checksum, and what that is over.
    batch.extend((4 + 1 + 4 + checked.len() as i32).to_be_bytes());
    batch.extend((-1_i32).to_be_bytes());
    batch.push(2);
    batch.extend(crc32c(&checked).to_be_bytes());
    batch.extend(checked);
    Ok(batch)
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as i64);
    out.extend(bytes);
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

#[cfg(test)]
mod tests {
    use kafscale_core::batch::BatchHeader;
    use kafscale_core::record_view::views;
    use kafscale_core::records::inflate;

    use super::*;

    const PRODUCER: Producer = Producer { id: 7, epoch: 1 };

    #[test]
    fn a_batch_is_one_that_brokers_take() {
        let values: Vec<Vec<u8>> = (0..300).map(|n| format!("{{\"n\":{n}}}").into_bytes()).collect();
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let bytes = batch(&values, ("acp", b"{\"v\":1}"), PRODUCER, 1_700_000_000_000).unwrap();
        let header = BatchHeader::parse(&bytes).unwrap();
        assert!(header.crc_matches(&bytes) && header.size_bytes == bytes.len());
        assert_eq!((header.records_count, header.last_offset_delta, header.producer_id), (300, 299, 7));
        let body = inflate(&header, &bytes).unwrap();
        for (n, record) in views(&body, 300).enumerate() {
            let record = record.unwrap();
            assert_eq!((record.offset_delta, record.key, record.value), (n as i64, None, Some(values[n])));
            let mut headers = Vec::new();
            record.for_each_header(|key, value| headers.push((key, value))).unwrap();
            assert_eq!(headers, [(&b"acp"[..], Some(&b"{\"v\":1}"[..]))]);
        }
    }

    #[test]
    fn what_no_broker_takes_in_one_piece_is_an_error() {
        let mut state = 1_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        };
        let value: Vec<u8> = (0..BATCH_MAX_BYTES + 100_000).map(|_| noise()).collect();
        assert!(matches!(batch(&[&value], ("acp", b""), PRODUCER, 1), Err(CompressError::TooLarge(_))));
    }
}
