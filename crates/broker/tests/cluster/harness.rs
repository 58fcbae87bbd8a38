//! Brokers that share a metadata store and an object store, both in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{MetadataRequest, MetadataResponse};
use kafka_protocol::records::{
    Compression, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};
use kafscale_broker::{Broker, BrokerConfig, Candidate, Foundation, JoinError, Listeners, Membership};
use kafscale_core::clock::Clock;
use kafscale_core::ids::NodeId;
use kafscale_meta::{EmbeddedStore, MetaStore, Metadata};
use kafscale_storage::{Log, LogConfig, StoreUrl};
use tokio::time::timeout;

use crate::client::{Client, PATIENCE, name};

/// Tests must not depend on how fast the machine is, and those that need an end of a lease do not wait for it in real time.
const LEASE_TTL: Duration = Duration::from_secs(120);

/// The edge, then the log.
const STOP_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct WallClock;

impl Clock for WallClock {
    fn now_ms(&self) -> i64 {
        i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
    }
}

/// What the brokers share.
pub struct World {
    pub metadata: Metadata,
    store: StoreUrl,
}

/// One broker of the cluster.
pub struct Member {
    pub broker: Broker,
    pub membership: Membership,
    log: Log,
}

impl World {
    pub fn new() -> World {
        let store: Arc<dyn MetaStore> = Arc::new(EmbeddedStore::memory());
        World { metadata: Metadata::new(store, "test").unwrap(), store: StoreUrl::shared_memory() }
    }

    /// A cluster of brokers 1 to `count`.
    pub async fn with_brokers(count: i32) -> (World, Vec<Member>) {
        let world = World::new();
        let mut members = Vec::new();
        for node_id in 1..=count {
            members.push(world.join(node_id).await);
        }
        all_know(&members, members.len()).await;
        (world, members)
    }

    pub async fn join(&self, node_id: i32) -> Member {
        self.try_join(node_id, |_| {}).await.unwrap()
    }

    pub async fn try_join(
        &self,
        node_id: i32,
        adjust: impl FnOnce(&mut BrokerConfig),
    ) -> Result<Member, JoinError> {
        self.join_for(node_id, LEASE_TTL, adjust).await
    }

    /// Joins with a lease of its own length.
    pub async fn join_for(
        &self,
        node_id: i32,
        lease_ttl: Duration,
        adjust: impl FnOnce(&mut BrokerConfig),
    ) -> Result<Member, JoinError> {
        let clock: Arc<dyn Clock> = Arc::new(WallClock);
        let mut config = BrokerConfig::new("", NodeId(node_id));
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.rack = Some(format!("rack-{node_id}"));
        adjust(&mut config);
        let listeners = Listeners::bind(&config).unwrap();
        let candidate = Candidate {
            node_id: config.node_id,
            endpoints: listeners.endpoints(),
            rack: config.rack.clone(),
            version: "test".to_owned(),
            metrics_address: None,
            lease_ttl,
            store: None,
            has_chain: self.store.is_shared(),
        };
        let membership = Membership::join(&self.metadata, &candidate, &*clock).await?;
        config.cluster_id.clone_from(&membership.cluster_id);
        let log_config = LogConfig::new(self.store.clone(), node_id, membership.identity.epoch);
        let store = Arc::clone(self.metadata.store());
        let log =
            Log::open(log_config, store, self.metadata.keys().clone(), Arc::clone(&clock)).await.unwrap();
        let foundation = Foundation { log: log.clone(), metadata: self.metadata.clone(), clock };
        let broker = Broker::start(config, listeners, &membership, foundation).await.unwrap();
        timeout(PATIENCE, broker.ready()).await.expect("the broker does not become ready");
        Ok(Member { broker, membership, log })
    }
}

impl Member {
    pub async fn client(&self) -> Client {
        Client::connect(self.broker.kafka_addr()).await
    }

    /// The end of a process that is killed, and of its lease.
    pub async fn kill(self) {
        self.broker.kill();
        self.membership.leave().await;
    }

    /// A process that lost its connection to the metadata store: its lease runs out, and it does not know whether it is still needed.
    pub fn cut_off(self) -> Zombie {
        let Member { broker, membership, log } = self;
        drop(membership);
        Zombie { broker, log }
    }

    /// A planned stop.
    pub async fn stop(self) {
        self.broker.shutdown(STOP_WITHIN).await;
        self.log.seal_own(STOP_WITHIN).await.unwrap();
        self.log.shutdown().await;
        self.membership.leave().await;
    }
}

/// A broker that may have been taken for dead.
pub struct Zombie {
    pub broker: Broker,
    pub log: Log,
}

/// What a broker says of topics.
pub async fn metadata_of(client: &mut Client, topics: &[&str]) -> MetadataResponse {
    let topics = topics.iter().map(|topic| MetadataRequestTopic::default().with_name(Some(name(topic))));
    let request =
        MetadataRequest::default().with_topics(Some(topics.collect())).with_allow_auto_topic_creation(false);
    client.call(12, &request).await
}

/// The leader of each partition of a topic, as a broker sees it.
pub async fn leaders(client: &mut Client, topic: &str) -> Vec<i32> {
    let response = metadata_of(client, &[topic]).await;
    let mut partitions = response.topics[0].partitions.clone();
    partitions.sort_unstable_by_key(|partition| partition.partition_index);
    partitions.iter().map(|partition| partition.leader_id.0).collect()
}

/// Waits until each of these has heard of that many brokers.
pub async fn all_know(members: &[Member], brokers: usize) {
    for member in members {
        let mut client = member.client().await;
        until(async || metadata_of(&mut client, &[]).await.brokers.len(), |known| *known == brokers).await;
    }
}

/// Asks again until the answer is as wanted. There is nothing to be told by, from outside of a broker.
pub async fn until<T: std::fmt::Debug>(mut ask: impl AsyncFnMut() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let asking = async {
        loop {
            let answer = ask().await;
            if wanted(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match timeout(PATIENCE, asking).await {
        Ok(answer) => answer,
        Err(_) => panic!("it does not come to that: {:?}", ask().await),
    }
}

/// How many partitions each broker leads.
pub fn shares(leaders: &[i32]) -> BTreeMap<i32, usize> {
    let mut shares = BTreeMap::new();
    for leader in leaders {
        *shares.entry(*leader).or_default() += 1;
    }
    shares
}

/// One batch of these values.
pub fn batch(values: &[&str]) -> Bytes {
    let record = |(offset, value): (usize, &&str)| Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        timestamp_type: TimestampType::Creation,
        offset: offset as i64,
        sequence: NO_SEQUENCE + offset as i32,
        timestamp: WallClock.now_ms(),
        key: None,
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: Default::default(),
    };
    let records: Vec<Record> = values.iter().enumerate().map(record).collect();
    let mut out = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut out, &records, &options).unwrap();
    out.freeze()
}
