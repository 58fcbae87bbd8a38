//! Writes the corpora that the targets begin with: `cargo run --example seeds` in this directory. They are made by the
//! code that writes these formats, so that they never fall behind it.

use std::fs;
use std::io::Write;
use std::path::Path;

use bytes::Bytes;
use kafscale_core::crc;
use kafscale_core::batch::PlacedBatch;
use kafscale_core::ids::{Offset, PartitionId, TopicId};
use kafscale_storage::segment::SegmentBuilder;

const NOW: i64 = 1_700_000_000_000;
const CODECS: [i16; 5] = [0, 1, 2, 3, 4];

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut v = ((value << 1) ^ (value >> 63)) as u64;
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn records(count: i32) -> Vec<u8> {
    let mut out = Vec::new();
    for i in 0..count {
        let mut body = vec![0];
        varint(&mut body, i64::from(i) * 10);
        varint(&mut body, i.into());
        varint(&mut body, 3);
        body.extend(b"key");
        varint(&mut body, 5);
        body.extend(b"value");
        varint(&mut body, 1);
        varint(&mut body, 1);
        body.push(b'h');
        varint(&mut body, -1);
        varint(&mut out, body.len() as i64);
        out.extend(body);
    }
    out
}

fn compress(codec: i16, data: &[u8]) -> std::io::Result<Vec<u8>> {
    Ok(match codec {
        1 => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(data)?;
            gzip.finish()?
        }
        2 => snap::raw::Encoder::new().compress_vec(data)?,
        3 => {
            let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
            lz4.write_all(data)?;
            lz4.finish()?
        }
        4 => zstd::encode_all(data, 3)?,
        _ => data.to_vec(),
    })
}

fn batch(base_offset: i64, codec: i16, count: i32, producer_id: i64) -> std::io::Result<Bytes> {
    let records = compress(codec, &records(count))?;
    let mut out = Vec::new();
    out.extend(base_offset.to_be_bytes());
    out.extend((49 + records.len() as i32).to_be_bytes());
    out.extend(0i32.to_be_bytes());
    out.push(2);
    out.extend([0; 4]);
    out.extend(codec.to_be_bytes());
    out.extend((count - 1).to_be_bytes());
    out.extend(NOW.to_be_bytes());
    out.extend((NOW + i64::from(count - 1) * 10).to_be_bytes());
    out.extend(producer_id.to_be_bytes());
    out.extend(0i16.to_be_bytes());
    out.extend(0i32.to_be_bytes());
    out.extend(count.to_be_bytes());
    out.extend(records);
    let crc = crc::crc32c(&out[21..]);
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    Ok(out.into())
}

fn version_1(batches: &[PlacedBatch]) -> Vec<u8> {
    let body: Vec<u8> = batches.iter().flat_map(|b| b.bytes.to_vec()).collect();
    let (first, last) = (batches[0].base_offset, batches[batches.len() - 1].last_offset);
    let mut out = b"KAFS\0\x01\0\0".to_vec();
    out.extend(first.0.to_be_bytes());
    out.extend(0i32.to_be_bytes());
    out.extend(NOW.to_be_bytes());
    out.extend([0; 4]);
    out.extend(&body);
    out.extend(crc::crc32c(&body).to_be_bytes());
    out.extend(last.0.to_be_bytes());
    out.extend(b"END!");
    out
}

fn write(target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&directory)?;
    fs::write(directory.join(format!("seed-{name}")), bytes)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut placed = Vec::new();
    for (i, codec) in CODECS.into_iter().enumerate() {
        let bytes = batch(i as i64 * 10, codec, 10, codec.into())?;
        write("batch", &codec.to_string(), &bytes)?;
        placed.push(PlacedBatch::from_log(bytes)?);
    }
    let partition = PartitionId { topic: TopicId(uuid::Uuid::nil()), index: 0 };
    let mut whole = SegmentBuilder::new(partition, NOW, 0);
    for batch in &placed {
        whole.append(batch.clone())?;
    }
    let gaps = SegmentBuilder::new(partition, NOW, 0).covering(Offset(0), Offset(99));
    for (name, builder) in [("whole", whole), ("empty", gaps)] {
        let segment = builder.finish().ok_or("a segment of no offsets")?;
        write("segment", name, &segment.payload.concat())?;
    }
    write("segment", "version-1", &version_1(&placed))?;
    write("wal_object", "several", &kafscale_storage::fuzz::wal_object_seed(&placed))?;
    write("wal_object", "one", &kafscale_storage::fuzz::wal_object_seed(&placed[..1]))?;
    for (i, frame) in kafscale_broker::fuzz::seeds().iter().enumerate() {
        write("request_frame", &i.to_string(), frame)?;
    }
    Ok(())
}
