//! Reading without a broker, beside one: what a scan gives is what a consumer fetches, with the metadata from the broker's socket.

use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt;
use kafscale_core::batch::batches;
use kafscale_meta::{EmbeddedStore, EtcdOptions, MetaSocket, MetaUrl, Metadata, open_for_reading};
use kafscale_storage::StoreUrl;
use kafscale_storage::scan::{Bounds, ScanOptions, Scanner};

use crate::client::Client;
use crate::harness::{Harness, batch};

async fn start(dir: &Path) -> (Harness, MetaSocket) {
    let store = Arc::new(EmbeddedStore::file(dir).await.unwrap());
    let socket = MetaSocket::serve(dir, store.clone()).unwrap();
    (Harness::start_on(store, StoreUrl::File(dir.to_owned()), |_| {}).await, socket)
}

async fn scanner(dir: &Path) -> Scanner {
    let store = open_for_reading(&MetaUrl::File(dir.to_owned()), &EtcdOptions::default()).await.unwrap();
    let metadata = Metadata::new(store, "test").unwrap();
    Scanner::open(&StoreUrl::File(dir.to_owned()), metadata, ScanOptions::default()).await.unwrap()
}

/// The batches of a partition, one after the other, and how many records they have.
type Read = (Vec<u8>, i32);

async fn scanned(scanner: &Scanner, topic: &str, partition: i32) -> Read {
    let snapshot = scanner.snapshot(topic).await.unwrap();
    let mut read = std::pin::pin!(snapshot.read(partition, Bounds::all()));
    let (mut bytes, mut records) = (Vec::new(), 0);
    while let Some(batch) = read.next().await {
        let batch = batch.unwrap();
        bytes.extend_from_slice(&batch.data);
        records += batch.header.records_count;
    }
    (bytes, records)
}

async fn consumed(client: &mut Client, topic: &str, partition: i32) -> Read {
    let (mut at, mut bytes, mut records) = (0, Vec::new(), 0);
    loop {
        let fetched = client.fetch(topic, partition, at).await.records.unwrap_or_default();
        if fetched.is_empty() {
            return (bytes, records);
        }
        for parsed in batches(&fetched) {
            let header = parsed.unwrap().1;
            records += header.records_count;
            at = header.last_offset().0 + 1;
        }
        bytes.extend_from_slice(&fetched);
    }
}

#[tokio::test]
async fn a_scan_beside_a_broker_and_after_it_is_what_a_consumer_fetches() {
    let dir = tempfile::tempdir().unwrap();
    let (harness, socket) = start(dir.path()).await;
    let mut client = harness.client().await;
    let codecs = ["producer", "gzip", "snappy", "lz4", "zstd"];
    for codec in codecs {
        client.create_topic(codec, 2, &[("compression.type", codec)]).await;
    }
    let scanner = scanner(dir.path()).await;
    assert_eq!(scanner.topics().await.unwrap().len(), codecs.len());
    for round in 0..5 {
        for codec in codecs {
            for partition in 0..2 {
                let value = format!("{codec} {round} {}", "x".repeat(round * 100));
                let produced = client.produce(codec, partition, batch(&[&value, "y", &value])).await;
                assert_eq!(produced.error_code, 0);
                let seen = scanned(&scanner, codec, partition).await;
                assert_eq!(seen.1 as usize, (round + 1) * 3, "what was acknowledged is there");
                assert!(seen == consumed(&mut client, codec, partition).await, "{codec}");
            }
        }
    }
    let before = scanned(&scanner, "zstd", 1).await;
    harness.stop().await;
    drop(socket);
    assert!(scanned(&scanner, "zstd", 1).await == before, "nobody runs any more");
}
