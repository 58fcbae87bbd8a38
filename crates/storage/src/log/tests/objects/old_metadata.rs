//! Metadata that was put back from an old copy is refused by every broker of the cluster, in
//! whichever order and however often they start on it; and the right metadata is never taken for an
//! old copy.

use kafscale_meta::Metadata;
use kafscale_meta::records::{BrokerRecord, ClusterRecord};
use object_store::ObjectStoreExt;

use super::*;
use crate::IdentityError;
use crate::log::identity::Trace;

impl Cluster {
    /// Joins as a broker does, and opens the log.
    async fn start(&self, node_id: i32) -> Result<Log, OpenError> {
        let incarnation = self.join(node_id).await;
        self.open(node_id, incarnation).await
    }

    /// Takes a number, in the place of whoever has the node id.
    async fn join(&self, node_id: i32) -> u64 {
        let metadata = self.metadata();
        let cluster = ClusterRecord { cluster_id: "c".into(), created_ms: NOW_MS, store: None };
        metadata.found_cluster(&cluster).await.unwrap();
        self.meta.delete(&Self::keys().broker(node_id)).await.unwrap();
        let lease = self.meta.lease_grant(Duration::from_secs(3600)).await.unwrap().id;
        let record = BrokerRecord {
            host: "b".into(),
            port: 9092,
            listeners: Vec::new(),
            rack: None,
            version: "test".into(),
            metrics_address: None,
            epoch: 0,
            started_ms: NOW_MS,
        };
        let chain = Some(ChainRecord::default());
        metadata.register_broker(node_id, lease, record, chain).await.unwrap().unwrap()
    }

    async fn open(&self, node_id: i32, incarnation: u64) -> Result<Log, OpenError> {
        let config = LogConfig { node_id, incarnation, ..self.config.clone() };
        Log::open(config, self.meta.clone(), Self::keys(), self.clock.clone()).await
    }

    fn metadata(&self) -> Metadata {
        Metadata::new(self.meta.clone(), "test").unwrap()
    }

    /// What a backup holds: all but what is bound to leases.
    async fn copy(&self, counted_on: u64) -> Arc<dyn MetaStore> {
        let (copy, listed) = (EmbeddedStore::memory(), self.meta.range_all("/").await.unwrap());
        for kv in listed.kvs.into_iter().filter(|kv| kv.lease.is_none()) {
            copy.put(&kv.key, kv.value).await.unwrap();
        }
        while copy.put("/padding", "".into()).await.unwrap().0 < listed.revision.0 + counted_on {}
        Arc::new(copy)
    }

    async fn is_outdated(&self) -> bool {
        self.meta.get(&Self::keys().outdated()).await.unwrap().is_some()
    }
}

fn found_old(outcome: Result<Log, OpenError>) -> Trace {
    match outcome {
        Err(OpenError::Identity(IdentityError::OldMetadata { found, .. })) => found,
        other => panic!("not refused as old: {:?}", other.map(drop)),
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_copy_is_refused_whoever_has_counted_it_up() {
    // The copy is just behind the last start, or has counted far beyond it; the broker that started
    // last is the first or the last to start on it, and the others have taken higher numbers before
    // any of them looks at the store.
    for (counted_on, order) in [(0, [3, 1, 2]), (0, [1, 2, 3]), (1000, [3, 1, 2]), (1000, [1, 2, 3])] {
        let mut cluster = Cluster::new();
        for node_id in 1..=3 {
            cluster.start(node_id).await.unwrap();
        }
        let old = cluster.copy(counted_on).await;
        let last = cluster.join(3).await;
        cluster.open(3, last).await.unwrap();
        let right = std::mem::replace(&mut cluster.meta, old);
        for attempt in 0..3 {
            let mut joined = Vec::new();
            for node_id in order {
                joined.push((node_id, cluster.join(node_id).await));
            }
            for (node_id, incarnation) in joined {
                // Who was cut off before it could leave a word for the others leaves the finding to
                // them.
                cluster.meta.delete(&Cluster::keys().outdated()).await.unwrap();
                let found = found_old(cluster.open(node_id, incarnation).await);
                let newest = ChainId { node_id: 3, incarnation: last };
                assert_eq!(found, Trace::Writer(newest), "{order:?}, attempt {attempt}, broker {node_id}");
            }
        }
        let refused = std::mem::replace(&mut cluster.meta, right);
        for node_id in order {
            cluster.start(node_id).await.unwrap();
        }
        assert!(!cluster.is_outdated().await);
        drop(refused);
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_from_before_the_newest_snapshot_is_refused_whoever_has_counted_it_up() {
    for counted_on in [0, 1000] {
        let mut cluster = Cluster::new();
        let log = cluster.start(1).await.unwrap();
        let old = cluster.copy(counted_on).await;
        cluster
            .meta
            .put(&format!("{}offsets/g/orders/0", Cluster::keys().root()), "{}".into())
            .await
            .unwrap();
        log.snapshot().await.unwrap();
        cluster.meta = old;
        for _ in 0..20 {
            cluster.join(2).await;
        }
        for node_id in [1, 2] {
            assert!(matches!(found_old(cluster.start(node_id).await), Trace::Snapshot(_)));
        }
    }
}

/// The second process with a node id looks at the store first: the first one then finds a number
/// there that is higher than its own.
#[tokio::test(start_paused = true)]
async fn metadata_is_not_called_old_by_a_process_that_was_overtaken() {
    let cluster = Cluster::new();
    let overtaken = cluster.join(1).await;
    let second = cluster.start(1).await.unwrap();
    second.seal(1, overtaken).await.unwrap();
    assert!(matches!(cluster.open(1, overtaken).await, Err(OpenError::Fenced)));
    // Unsealed, it even lowers nothing.
    let (slow, fast) = (cluster.join(1).await, cluster.join(1).await);
    cluster.open(1, fast).await.unwrap();
    cluster.open(1, slow).await.unwrap();
    assert!(!cluster.is_outdated().await);
    cluster.start(1).await.unwrap();
    cluster.start(2).await.unwrap();
    assert!(!cluster.is_outdated().await);
}

#[tokio::test(start_paused = true)]
async fn brokers_that_join_later_or_are_forgotten_do_not_make_metadata_old() {
    let cluster = Cluster::new();
    let early = cluster.join(1).await;
    let forgotten = cluster.join(2).await;
    let log = cluster.open(2, forgotten).await.unwrap();
    log.shutdown().await;
    cluster.open(1, early).await.unwrap();
    let keys = Cluster::keys();
    cluster.meta.delete(&keys.broker(2)).await.unwrap();
    assert!(cluster.metadata().forget_member(2).await.unwrap());
    cluster.meta.delete(&keys.chain(2, forgotten)).await.unwrap();
    cluster.meta.delete(&keys.incarnation(2)).await.unwrap();
    for node_id in [1, 3, 2] {
        cluster.start(node_id).await.unwrap();
    }
    assert!(!cluster.is_outdated().await);
}

/// They made no notes, and do not while a cluster is upgraded, or after a step back.
#[tokio::test(start_paused = true)]
async fn marks_of_earlier_releases_are_compared_with_what_the_metadata_has_counted_to() {
    let mut cluster = Cluster::new();
    let newer = cluster.start(1).await.unwrap();
    let old = cluster.copy(0).await;
    for _ in 0..9 {
        cluster.join(3).await;
    }
    let earlier = cluster.join(1).await;
    let mark = Path::from(format!("incarnations/{:020}-{earlier:020}", 1));
    cluster.store.inner.put(&mark, "".into()).await.unwrap();
    let snapshot = format!(r#"{{"v":1,"number":{earlier},"taken_ms":1,"records":{{}}}}"#);
    let name = Path::from(format!("snapshots/{earlier:020}.json"));
    cluster.store.inner.put(&name, snapshot.into()).await.unwrap();
    for node_id in [1, 2] {
        cluster.start(node_id).await.unwrap();
    }
    cluster.meta = old;
    let first = cluster.join(2).await;
    assert!(first <= earlier);
    found_old(cluster.open(2, first).await);
    drop(newer);
}
