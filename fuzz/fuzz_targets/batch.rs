//! A batch that a producer sent. What passes the checks must be what the log relies on.

#![no_main]

use bytes::BytesMut;
use kafscale_core::crc;
use kafscale_core::batch::{BatchHeader, BatchRules, Codec, PlacedBatch, TimestampType, ValidBatch};
use kafscale_core::compress::Compression;
use kafscale_core::ids::{LeaderEpoch, Offset};
use kafscale_core::records;
use libfuzzer_sys::fuzz_target;

const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const NOW: i64 = 1_700_000_000_000;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // No fuzzer finds a right CRC by itself, and everything of interest is behind it.
    if bytes.len() > ATTRIBUTES_AT {
        let mut repaired = bytes.to_vec();
        let crc = crc::crc32c(&repaired[ATTRIBUTES_AT..]);
        repaired[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
        check(&repaired);
    }
});

const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

fn check(bytes: &[u8]) {
    for timestamp_type in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
        let rules = BatchRules {
            max_message_bytes: 1 << 20,
            timestamp_type,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 3_600_000,
            key_required: bytes.len() % 2 == 0,
            compression: CODECS.get(bytes.len() % 8).map(|codec| Compression::default_of(*codec)),
        };
        let Ok(valid) = ValidBatch::check(BytesMut::from(bytes), &rules, NOW) else { continue };
        let count = valid.records_count();
        let placed = valid.place(Offset(1000), LeaderEpoch(1), NOW);
        assert_eq!(placed.last_offset, Offset(999 + i64::from(count)));
        let header = BatchHeader::parse(&placed.bytes).expect("a valid batch has a header");
        assert!(header.crc_matches(&placed.bytes));
        let mut seen = 0;
        records::walk(&header, &placed.bytes, |_, _| {
            seen += 1;
            true
        })
        .expect("a valid batch can be walked");
        assert_eq!(seen, count);
        let again = PlacedBatch::from_log(placed.bytes).expect("what is stored is read back");
        assert_eq!((again.base_offset, again.records_count), (Offset(1000), count));
    }
}
