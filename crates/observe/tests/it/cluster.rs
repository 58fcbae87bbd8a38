//! A cluster made of a metadata store in memory and of endpoints that answer canned metrics, and a server over it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::routing::get;
use kafscale_core::clock::Clock;
use kafscale_meta::records::{
    AssignmentRecord, BrokerRecord, GroupMember, GroupRecord, OffsetKey, OffsetRecord, PartitionAssignment,
    TopicRecord,
};
use kafscale_meta::{EmbeddedStore, MetaStore, Metadata, NewTopic};
use kafscale_observe::{ObserveConfig, ObserveSettings, Server, start};
use parking_lot::Mutex;
use uuid::Uuid;

pub const TOKEN: &str = "local-dev-token";

#[derive(Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
    }
}

/// A partition's log end is `1000 * (partition + 1)`.
pub struct Cluster {
    pub metadata: Metadata,
    pub metrics: Arc<Mutex<String>>,
    topics: Vec<(String, i32, Uuid)>,
}

impl Cluster {
    /// One broker, whose metrics are whatever `metrics` holds.
    pub async fn new() -> Self {
        Self::over(Arc::new(EmbeddedStore::memory())).await
    }

    /// The same, with its metadata in a store of the test's own.
    pub async fn over(store: Arc<dyn MetaStore>) -> Self {
        let metadata = Metadata::new(store, "test").unwrap();
        let metrics = Arc::new(Mutex::new(String::new()));
        let cluster = Self { metadata, metrics: Arc::clone(&metrics), topics: Vec::new() };
        let served = Router::new().route("/metrics", get(async move || metrics.lock().clone()));
        let address = serve(served).await;
        cluster.register(1, Some(address)).await;
        cluster.add_metrics("kafscale_broker_uptime_seconds 100\nkafscale_connections 3\n");
        cluster
    }

    pub async fn register(&self, node_id: i32, metrics: Option<SocketAddr>) {
        let lease = self.metadata.store().lease_grant(std::time::Duration::from_secs(3600)).await.unwrap().id;
        let record = BrokerRecord {
            host: "127.0.0.1".into(),
            port: 9092,
            rack: None,
            version: "0.1.0".into(),
            listeners: Vec::new(),
            metrics_address: metrics.map(|address| address.to_string()),
            epoch: 0,
            started_ms: 1_700_000_000_000,
        };
        self.metadata.register_broker(node_id, lease, record, None).await.unwrap().unwrap();
    }

    pub fn add_metrics(&self, text: &str) {
        self.metrics.lock().push_str(text);
    }

    /// Replaces what a series says.
    pub fn set_metric(&self, series: &str, value: f64) {
        let mut metrics = self.metrics.lock();
        let mut lines: Vec<String> = metrics
            .lines()
            .filter(|line| !line.starts_with(&format!("{series} ")))
            .map(str::to_owned)
            .collect();
        lines.push(format!("{series} {value}"));
        *metrics = lines.join("\n") + "\n";
    }

    /// A topic owned by broker 1, with its metrics.
    pub async fn topic(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let topic_id = Uuid::new_v4();
        let topic = TopicRecord {
            topic_id,
            partitions,
            configs: configs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            created_ms: 1,
            internal: false,
        };
        let one = PartitionAssignment::new(1, 0, 4);
        let assignment = AssignmentRecord { partitions: vec![one; partitions.try_into().unwrap()] };
        let new = NewTopic { name: name.to_owned(), topic, assignment };
        self.metadata.create_topic(&new).await.unwrap().unwrap();
        self.topics.push((name.to_owned(), partitions, topic_id));
        let mut text = String::new();
        for partition in 0..partitions {
            let labels = format!("topic=\"{name}\",partition=\"{partition}\"");
            let end = 1000 * (partition + 1);
            writeln!(text, "kafscale_partition_log_end_offset{{{labels}}} {end}").unwrap();
            writeln!(text, "kafscale_partition_log_start_offset{{{labels}}} 0").unwrap();
            writeln!(text, "kafscale_partition_size_bytes{{{labels}}} {}", end * 100).unwrap();
        }
        self.add_metrics(&text);
    }

    /// A group that lags by `lag` on every partition of a topic.
    pub async fn group(&self, group: &str, topic: &str, lag: i64, members: usize) {
        let (_, partitions, topic_id) = self.topics.iter().find(|(name, ..)| name == topic).unwrap();
        let offsets = (0..*partitions).map(|partition| {
            let offset = 1000 * (i64::from(partition) + 1) - lag;
            let key = OffsetKey { group: group.to_owned(), topic: topic.to_owned(), partition };
            let record = OffsetRecord {
                offset,
                leader_epoch: -1,
                metadata: String::new(),
                commit_time_ms: 1_700_000_000_000,
                expires_at_ms: None,
                topic_id: *topic_id,
            };
            (key, record)
        });
        self.metadata.commit_offsets(offsets).await.unwrap();
        let member = |i: usize| GroupMember {
            member_id: format!("member-{i}-{}", Uuid::nil()),
            instance_id: None,
            client_id: format!("client-{i}"),
            client_host: "/127.0.0.1".into(),
            session_timeout_ms: 45_000,
            rebalance_timeout_ms: 300_000,
            protocols: Vec::new(),
            assignment: assignment(topic, (0..*partitions).filter(|p| *p as usize % members == i)),
        };
        let record = GroupRecord {
            protocol_type: "consumer".into(),
            protocol_name: (members > 0).then(|| "range".into()),
            generation: 3,
            leader: (members > 0).then(|| "member-0".into()),
            state_timestamp_ms: 1,
            members: (0..members).map(member).collect(),
        };
        self.metadata.save_group(group, &record).await.unwrap();
    }

    pub async fn serve(&self) -> Server {
        self.serve_with(|settings| settings.edge.identity.auth_token = Some(TOKEN.into())).await
    }

    pub async fn serve_with(&self, change: impl FnOnce(&mut ObserveSettings)) -> Server {
        let mut settings = ObserveSettings::default();
        settings.edge.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        settings.edge.calls_per_second = 100_000;
        settings.edge.calls_burst = 100_000;
        change(&mut settings);
        let config = ObserveConfig::new(settings).unwrap();
        start(config, self.metadata.clone(), Arc::new(SystemClock)).await.unwrap()
    }
}

/// `ConsumerProtocolAssignment`, version 0.
fn assignment(topic: &str, partitions: impl Iterator<Item = i32>) -> bytes::Bytes {
    let partitions: Vec<i32> = partitions.collect();
    let mut bytes = vec![0, 0, 0, 0, 0, 1];
    bytes.extend(u16::try_from(topic.len()).unwrap().to_be_bytes());
    bytes.extend(topic.as_bytes());
    bytes.extend(i32::try_from(partitions.len()).unwrap().to_be_bytes());
    partitions.iter().for_each(|p| bytes.extend(p.to_be_bytes()));
    bytes.extend((-1_i32).to_be_bytes());
    bytes.into()
}

/// Serves until the test ends.
pub async fn serve(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}
