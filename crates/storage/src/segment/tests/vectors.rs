//! The vectors in docs/test-vectors: today's writer gives these bytes, the reader reads them, and so does a program that
//! was written from docs/format.md alone.
//!
//! `UPDATE_VECTORS=1 cargo test -p kafscale-storage vectors` writes them anew. A change of existing vectors is a change
//! of the format: objects in people's buckets would no longer be read.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use kafscale_core::crc;
use serde_json::{Value, json};

use super::super::format::{Footer, INDEX_ENTRY_BYTES};
use super::super::statistics;
use super::damage::v1_object;
use super::*;

/// The objects, by the names of their files.
fn vectors() -> Vec<(&'static str, Vec<u8>)> {
    let several = [
        batch(1000, 3, 5, NOW),
        batch(1003, 1, 1500, NOW + 1000),
        batch(1010, 2, 20, NOW + 500),
        batch(1012, 1, 20, -1),
    ];
    let body: Vec<u8> = several.iter().flat_map(|b| b.bytes.clone()).collect();
    let gone = SegmentBuilder::new(PARTITION, NOW, 4096).covering(Offset(20), Offset(29)).finish();
    let mut mixed = SegmentBuilder::new(PARTITION, NOW, 1024).covering(Offset(990), Offset(1019));
    for b in several {
        mixed.append(b).unwrap();
    }
    vec![
        ("v2-one-batch", build(&[batch(0, 2, 3, NOW)], 4096).payload.concat()),
        ("v2-gaps-and-groups", mixed.finish().unwrap().payload.concat()),
        ("v2-no-records", gone.unwrap().payload.concat()),
        ("v1", v1_object(Offset(1000), Offset(1012), &body)),
    ]
}

fn directory() -> PathBuf {
    PathBuf::from("../../docs/test-vectors")
}

fn describe(bytes: &[u8]) -> Value {
    if bytes.ends_with(b"END!") { describe_v1(bytes) } else { describe_v2(bytes) }
}

fn describe_v2(bytes: &[u8]) -> Value {
    let header = Header::decode(bytes).unwrap();
    let footer = Footer::decode(bytes.last_chunk().unwrap(), bytes.len() as u64).unwrap();
    let index_end = (footer.index_position + u64::from(footer.index_bytes)) as usize;
    let index = footer.decode_index(&bytes[footer.index_position as usize..index_end]).unwrap();
    let statistics = &bytes[footer.statistics_position as usize..footer.index_position as usize];
    let statistics = statistics::decode(&footer, &index, statistics).unwrap();
    assert_eq!(u64::from(footer.index_bytes), index.len() as u64 * INDEX_ENTRY_BYTES);
    json!({
        "version": 2,
        "topic_id": header.partition.topic.to_string(),
        "partition": header.partition.index,
        "base_offset": header.base_offset,
        "last_offset": footer.last_offset,
        "created_ms": header.created_ms,
        "size_bytes": footer.size_bytes,
        "body_crc": footer.body_crc,
        "records": statistics.records,
        "min_timestamp_ms": statistics.min_timestamp_ms,
        "max_timestamp_ms": statistics.max_timestamp_ms,
        "index": index.iter().map(|e| json!({
            "base_offset": e.base_offset,
            "position": e.position,
            "max_timestamp_ms": e.max_timestamp_ms,
            "crc": e.crc,
            "table_position": e.table_position,
        })).collect::<Vec<_>>(),
        "batches": statistics.batches.iter().map(|b| json!({
            "base_offset": b.base_offset,
            "last_offset": b.last_offset,
            "position": b.position,
            "size_bytes": b.size_bytes,
            "max_timestamp_ms": b.max_timestamp_ms,
            "records_count": b.records_count,
            "leader_epoch": b.leader_epoch,
            "crc": b.crc,
        })).collect::<Vec<_>>(),
    })
}

fn describe_v1(bytes: &[u8]) -> Value {
    let batches = kafscale_core::batch::batches(&bytes[32..bytes.len() - 16]).map(Result::unwrap);
    json!({
        "version": 1,
        "base_offset": 1000,
        "last_offset": 1012,
        "created_ms": NOW,
        "size_bytes": bytes.len(),
        "body_crc": crc::crc32c(&bytes[32..bytes.len() - 16]),
        "records": 9,
        "batches": batches.map(|(at, b)| json!({
            "base_offset": b.base_offset,
            "last_offset": b.last_offset(),
            "position": at + 32,
            "size_bytes": b.size_bytes,
            "max_timestamp_ms": b.max_timestamp_ms,
            "records_count": b.records_count,
            "leader_epoch": b.leader_epoch,
            "crc": b.crc,
        })).collect::<Vec<_>>(),
    })
}

#[test]
fn todays_writer_gives_the_same_bytes() {
    for (name, bytes) in vectors() {
        let (object, expected) =
            (directory().join(format!("{name}.kfs")), directory().join(format!("{name}.json")));
        if std::env::var_os("UPDATE_VECTORS").is_some() {
            fs::write(&object, &bytes).unwrap();
            fs::write(&expected, format!("{:#}\n", describe(&bytes))).unwrap();
        }
        assert!(fs::read(&object).unwrap() == bytes, "{name}: the writer's bytes are others");
        let expected: Value = serde_json::from_str(&fs::read_to_string(&expected).unwrap()).unwrap();
        assert_eq!(describe(&bytes), expected, "{name}");
    }
}

#[test]
fn the_reader_reads_them() {
    run(async {
        for (name, _) in vectors() {
            let bytes = fs::read(directory().join(format!("{name}.kfs"))).unwrap();
            let description = describe(&bytes);
            let number = |key: &str| description[key].as_i64().unwrap();
            let bucket = Bucket::new(1 << 20);
            let (base, last) = (Offset(number("base_offset")), Offset(number("last_offset")));
            let segment = bucket.put(base, last, bytes.clone()).await;
            let read = bucket.reader.read(&segment, base, usize::MAX, true).await.unwrap();
            assert_eq!(read.next, last.plus(1), "{name}");
            let batches = description["batches"].as_array().unwrap();
            let size_bytes: u64 = batches.iter().map(|b| b["size_bytes"].as_u64().unwrap()).sum();
            assert_eq!(read.size_bytes as u64, size_bytes, "{name}");
        }
    });
}

#[test]
fn the_specification_shows_the_first_vector() {
    let text = fs::read_to_string(directory().join("../format.md")).unwrap();
    let example = text.split("```hex\n").nth(1).unwrap().split("```").next().unwrap();
    // Position, bytes, and what they mean behind a semicolon.
    let digits: String =
        example.lines().flat_map(|line| line.split(';').next().unwrap().split_whitespace().skip(1)).collect();
    let (_, bytes) = &vectors()[0];
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(digits, hex);
}

#[test]
fn another_program_reads_them() {
    let python = Command::new("python3").arg("--version").output();
    if !python.is_ok_and(|p| p.status.success()) {
        eprintln!("SKIPPED: python3 is not installed, docs/test-vectors/read_segment.py was not run");
        return;
    }
    let script = directory().join("read_segment.py");
    let read = |file: &PathBuf| Command::new("python3").arg(&script).arg(file).output().unwrap();
    for (name, _) in vectors() {
        let output = read(&directory().join(format!("{name}.kfs")));
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let expected = fs::read_to_string(directory().join(format!("{name}.json"))).unwrap();
        let expected: Value = serde_json::from_str(&expected).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), expected, "{name}");
    }
    let scratch = tempfile::tempdir().unwrap();
    let damaged = scratch.path().join("damaged.kfs");
    let mut bytes = fs::read(directory().join("v2-one-batch.kfs")).unwrap();
    bytes[100] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    assert!(!read(&damaged).status.success());
}
