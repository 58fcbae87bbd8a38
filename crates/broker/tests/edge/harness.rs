//! A broker in memory, and the batches that tests send to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use kafka_protocol::records::{
    Compression, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record, RecordBatchDecoder,
    RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use kafscale_broker::{Broker, BrokerConfig, Candidate, Foundation, Listeners, Membership, MetricsServer};
use kafscale_core::clock::Clock;
use kafscale_core::ids::NodeId;
use kafscale_meta::{EmbeddedStore, MetaStore, Metadata};
use kafscale_storage::{Log, LogConfig, StoreUrl};

use crate::client::{Client, PATIENCE};

#[derive(Debug)]
struct WallClock;

impl Clock for WallClock {
    fn now_ms(&self) -> i64 {
        now_ms()
    }
}

pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// A running broker with the stores below it.
pub struct Harness {
    pub broker: Broker,
    pub metrics: MetricsServer,
    log: Log,
    membership: Membership,
}

impl Harness {
    pub async fn start() -> Harness {
        Harness::start_with(|_| {}).await
    }

    pub async fn start_with(adjust: impl FnOnce(&mut BrokerConfig)) -> Harness {
        let store: Arc<dyn MetaStore> = Arc::new(EmbeddedStore::memory());
        Harness::start_on(store, StoreUrl::Memory, adjust).await
    }

    /// A broker with these stores below it.
    pub async fn start_on(
        store: Arc<dyn MetaStore>,
        log_store: StoreUrl,
        adjust: impl FnOnce(&mut BrokerConfig),
    ) -> Harness {
        let metadata = Metadata::new(Arc::clone(&store), "test").unwrap();
        let clock: Arc<dyn Clock> = Arc::new(WallClock);
        let mut config = BrokerConfig::new("test-cluster-id-0123456", NodeId(1));
        config.listen = "127.0.0.1:0".parse().unwrap();
        adjust(&mut config);
        let listeners = Listeners::bind(&config).unwrap();
        let candidate = Candidate {
            node_id: config.node_id,
            endpoints: listeners.endpoints(),
            rack: config.rack.clone(),
            version: "test".to_owned(),
            metrics_address: None,
            lease_ttl: Duration::from_secs(600),
            store: None,
            has_chain: false,
        };
        let membership = Membership::join(&metadata, &candidate, &*clock).await.unwrap();
        let mut log_config = LogConfig::new(log_store, 1, membership.identity.epoch);
        // Small, so that a test has segments soon.
        (log_config.wal_file_bytes, log_config.wal_max_bytes) = (256 << 10, 512 << 10);
        let log = Log::open(log_config, store, metadata.keys().clone(), Arc::clone(&clock)).await.unwrap();
        let foundation = Foundation { log: log.clone(), metadata, clock };
        let broker = Broker::start(config, listeners, &membership, foundation).await.unwrap();
        broker.ready().await;
        let metrics = MetricsServer::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        metrics.show(&broker);
        Harness { broker, metrics, log, membership }
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.broker.kafka_addr()).await
    }

    pub async fn stop(self) {
        self.broker.shutdown(PATIENCE).await;
        self.log.shutdown().await;
        self.membership.leave().await;
    }
}

/// The first segment below a directory.
fn segment(dir: &Path) -> Option<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir).ok()?.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let found = |path: PathBuf| if path.is_dir() { segment(&path) } else { Some(path) };
    paths.into_iter().find_map(|path| found(path).filter(|path| path.extension().is_some_and(|e| e == "kfs")))
}

/// Writes thirty records to partition 0, and waits until the first of them are in a segment.
pub async fn first_segment(client: &mut Client, topic: &str, dir: &Path) -> PathBuf {
    let record = "x".repeat(100_000);
    for _ in 0..30 {
        assert_eq!(client.produce(topic, 0, batch(&[&record])).await.error_code, 0);
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(segment) = segment(&dir.join("topics").join(topic)) {
            return segment;
        }
        assert!(tokio::time::Instant::now() < deadline, "nothing was rewritten");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A record without producer state.
pub fn record(offset: i64, value: &str) -> Record {
    Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        timestamp_type: TimestampType::Creation,
        offset,
        // The encoder starts a new batch where offsets and sequences do not go along.
        sequence: NO_SEQUENCE + offset as i32,
        timestamp: now_ms(),
        key: Some(Bytes::from_static(b"key")),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: Default::default(),
    }
}

/// One batch of these values.
pub fn batch(values: &[&str]) -> Bytes {
    encode(values.iter().enumerate().map(|(i, value)| record(i as i64, value)).collect())
}

/// One batch of an idempotent producer.
pub fn sequenced(values: &[&str], producer_id: i64, epoch: i16, first: i32) -> Bytes {
    let records = values.iter().enumerate().map(|(i, value)| Record {
        producer_id,
        producer_epoch: epoch,
        sequence: first + i as i32,
        ..record(i as i64, value)
    });
    encode(records.collect())
}

pub fn encode(records: Vec<Record>) -> Bytes {
    let mut out = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut out, &records, &options).unwrap();
    out.freeze()
}

/// Offsets and values of fetched records.
pub fn values(records: &Bytes) -> Vec<(i64, String)> {
    let mut records = records.clone();
    let sets = RecordBatchDecoder::decode_all(&mut records).unwrap();
    let value = |r: Record| (r.offset, String::from_utf8(r.value.unwrap().to_vec()).unwrap());
    sets.into_iter().flat_map(|set| set.records).map(value).collect()
}
