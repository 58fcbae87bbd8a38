//! What each batch of a Produce request goes through: `cargo bench -p kafscale-core`. Times, throughput and allocations.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on stops, as a test does")]

use bytes::{BufMut, Bytes, BytesMut};
use divan::counter::BytesCount;
use divan::{AllocProfiler, Bencher, black_box};
use kafscale_core::batch::{BatchHeader, BatchRules, Codec, TimestampType, ValidBatch, batches};
use kafscale_core::crc;
use kafscale_core::ids::{LeaderEpoch, Offset};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const NOW_MS: i64 = 1_700_000_000_000;
const RULES: BatchRules = BatchRules {
    max_message_bytes: 2 << 20,
    timestamp_type: TimestampType::CreateTime,
    timestamp_before_max_ms: i64::MAX,
    timestamp_after_max_ms: i64::MAX,
    key_required: false,
    compression: None,
};
/// Records and the bytes of each value: one small record, what clients send in a busy batch of 64 KiB and of 1 MiB, small records.
const SHAPES: [(i32, usize); 4] = [(1, 100), (62, 1024), (1000, 1024), (500, 100)];

fn main() {
    divan::main();
}

/// Zigzag, as records have their numbers.
fn varint(out: &mut Vec<u8>, value: i32) {
    let mut rest = ((value << 1) ^ (value >> 31)) as u32;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn encoded(records: i32, value_bytes: usize, codec: Codec) -> BytesMut {
    let mut body = Vec::new();
    for delta in 0..records {
        let mut record = vec![0, 0];
        varint(&mut record, delta);
        varint(&mut record, -1);
        varint(&mut record, value_bytes as i32);
        record.extend((0..value_bytes).map(|i| (i * 7 + delta as usize) as u8));
        record.push(0);
        varint(&mut body, record.len() as i32);
        body.extend(record);
    }
    let (attributes, body) = match codec {
        Codec::Lz4 => (3, {
            let mut writer = lz4_flex::frame::FrameEncoder::new(Vec::new());
            std::io::Write::write_all(&mut writer, &body).unwrap();
            writer.finish().unwrap()
        }),
        Codec::Zstd => (4, zstd::encode_all(&body[..], 3).unwrap()),
        _ => (0, body),
    };
    let mut checked = BytesMut::new();
    checked.put_i16(attributes);
    checked.put_i32(records - 1);
    checked.put_i64(NOW_MS);
    checked.put_i64(NOW_MS);
    checked.put_i64(-1);
    checked.put_i16(-1);
    checked.put_i32(-1);
    checked.put_i32(records);
    checked.put_slice(&body);
    let mut batch = BytesMut::new();
    batch.put_i64(0);
    batch.put_i32(9 + checked.len() as i32);
    batch.put_i32(-1);
    batch.put_u8(2);
    batch.put_u32(crc::crc32c(&checked));
    batch.put_slice(&checked);
    batch
}

fn check_all(bencher: Bencher<'_, '_>, (records, value_bytes): (i32, usize), codec: Codec) {
    let batch = encoded(records, value_bytes, codec);
    bencher
        .counter(BytesCount::from(records as usize * value_bytes))
        .with_inputs(|| batch.clone())
        .bench_values(|batch| ValidBatch::check(batch, &RULES, NOW_MS).unwrap());
}

#[divan::bench(args = SHAPES)]
fn check(bencher: Bencher<'_, '_>, shape: (i32, usize)) {
    check_all(bencher, shape, Codec::None);
}

#[divan::bench(args = SHAPES)]
fn check_lz4(bencher: Bencher<'_, '_>, shape: (i32, usize)) {
    check_all(bencher, shape, Codec::Lz4);
}

#[divan::bench(args = SHAPES)]
fn check_zstd(bencher: Bencher<'_, '_>, shape: (i32, usize)) {
    check_all(bencher, shape, Codec::Zstd);
}

#[divan::bench]
fn parse_a_header(bencher: Bencher<'_, '_>) {
    let batch = encoded(1, 100, Codec::None);
    bencher.bench(|| BatchHeader::parse(black_box(&batch)).unwrap());
}

#[divan::bench]
fn place(bencher: Bencher<'_, '_>) {
    let batch = encoded(62, 1024, Codec::None);
    bencher
        .with_inputs(|| ValidBatch::check(batch.clone(), &RULES, NOW_MS).unwrap())
        .bench_values(|batch| batch.place(Offset(7_000_000), LeaderEpoch(3), NOW_MS));
}

/// What a reader goes over: 1 MiB in batches of one record.
#[divan::bench]
fn walk_small_batches(bencher: Bencher<'_, '_>) {
    let one = encoded(1, 100, Codec::None).freeze();
    let count = (1 << 20) / one.len();
    let log: Bytes = vec![one; count].concat().into();
    bencher.counter(BytesCount::from(log.len())).bench(|| {
        let walked = batches(black_box(&log)).filter(Result::is_ok).count();
        assert_eq!(walked, count);
    });
}
