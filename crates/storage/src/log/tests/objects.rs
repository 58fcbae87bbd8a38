//! The log over an object store that several brokers share, and that fails in every way that stores do: what was acknowledged is
//! there for the next owner, a fenced writer acknowledges nothing, and no offset gets two values.

mod chains;
mod damage;
mod disaster;
mod faults;
mod old_metadata;
mod orphans;
mod scan;
mod server;
mod takeover;
mod unsettled;

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use kafscale_core::ids::{LeaderEpoch, Offset, PartitionId};
use kafscale_meta::records::{ChainRecord, Keyspace, Record};
use kafscale_meta::{EmbeddedStore, MetaStore, MetaStoreExt};
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::sync::Semaphore;

use super::*;
use crate::error::{AcquireError, AppendError, ReleaseError};
use crate::log::partition::Appended;
use crate::testing::faulty::{Asked, Fault, Faulty};
use crate::wal::chain_id::ChainId;

/// For a planned stop.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A cluster: one store, one metadata, brokers that come and go.
struct Cluster {
    store: Arc<Faulty>,
    meta: Arc<dyn MetaStore>,
    clock: Arc<TestClock>,
    incarnations: u64,
    config: LogConfig,
}

impl Cluster {
    fn new() -> Cluster {
        let store = Faulty::new();
        let mut config = LogConfig::new(StoreUrl::Shared(store.clone()), 1, 0);
        config.retention_check_interval = Duration::from_millis(200);
        Cluster {
            store,
            meta: Arc::new(EmbeddedStore::memory()),
            clock: Arc::new(TestClock(AtomicI64::new(NOW_MS))),
            incarnations: 0,
            config,
        }
    }

    fn keys() -> Keyspace {
        Keyspace::new("test").unwrap()
    }

    /// A new incarnation of a broker, which serves nothing yet.
    async fn broker(&mut self, node_id: i32) -> Log {
        self.incarnations += 1;
        let config = LogConfig { node_id, incarnation: self.incarnations, ..self.config.clone() };
        let key = Self::keys().chain(node_id, self.incarnations);
        self.meta.put(&key, ChainRecord::default().encode()).await.unwrap();
        self.meta.put(&Self::keys().assignment(TOPIC.0), "{}".into()).await.unwrap();
        Log::open(config, self.meta.clone(), Self::keys(), self.clock.clone()).await.unwrap()
    }

    /// A new incarnation that serves everything.
    async fn owner(&mut self, node_id: i32, epoch: i32) -> Log {
        let log = self.broker(node_id).await;
        for (id, outcome) in log.acquire(hosted(epoch)).await {
            assert_eq!(outcome, Ok(()), "{id}");
        }
        log
    }

    async fn record(&self, log: &Log) -> Option<ChainRecord> {
        let id = chain(log);
        let key = Self::keys().chain(id.node_id, id.incarnation);
        let kv = self.meta.get(&key).await.unwrap()?;
        Some(ChainRecord::decode(&key, &kv.value).unwrap())
    }

    /// The names of all objects under a prefix.
    async fn objects(&self, prefix: &Path) -> Vec<String> {
        let listed: Vec<_> = self.store.inner.list(Some(prefix)).try_collect().await.unwrap();
        listed.into_iter().map(|o| o.location.to_string()).collect()
    }
}

fn hosted(epoch: i32) -> Vec<HostedPartition> {
    let partition = |index| HostedPartition {
        topic_name: "orders".into(),
        id: PartitionId { topic: TOPIC, index },
        leader_epoch: LeaderEpoch(epoch),
        config: Arc::default(),
    };
    (0..3).map(partition).collect()
}

fn chain(log: &Log) -> ChainId {
    log.shared.chain.as_ref().unwrap().id
}

/// What the controller does when a broker is gone.
async fn seal(by: &Log, dead: &Log) {
    let id = chain(dead);
    by.seal(id.node_id, id.incarnation).await.unwrap();
}

/// An append that is not waited for.
fn begin(p: &Partition, records: i32, tag: u8) -> Result<Appended, AppendError> {
    p.append(valid_batch(records, 100, tag, NOW_MS, None))
}

/// Puts to objects of chains fail like this, others do not.
fn on_chain_puts(fault: Fault) -> impl FnMut(Asked, &Path) -> Fault + Send {
    move |asked, path| match asked == Asked::Put && path.as_ref().starts_with("wal/") {
        true => fault.clone(),
        false => Fault::None,
    }
}

/// Lets everything run that can run at this moment.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
