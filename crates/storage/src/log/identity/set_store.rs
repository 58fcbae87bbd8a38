//! Giving a cluster another store. Brokers are stopped meanwhile.

use std::sync::Arc;

use kafscale_meta::records::{ClusterRecord, Record};
use kafscale_meta::{Compare, Metadata, Op, Txn};

use super::{known_id, one, recorded};
use crate::log::StoreUrl;
use crate::store::open_store;

/// Makes `place` the store of a cluster that has no topics, or whose topics are there already because it is a copy of the store before.
/// Gives the place before. Errors are for a person.
pub async fn set_store(url: &StoreUrl, metadata: &Metadata, place: &str) -> Result<Option<String>, String> {
    let failed = |e: kafscale_meta::Error| e.to_string();
    let (meta, keys) = (&**metadata.store(), metadata.keys());
    let key = keys.cluster();
    let Some(kv) = meta.get(&key).await.map_err(failed)? else {
        return Err("there is no such cluster in the metadata store; its first broker founds it".into());
    };
    let cluster = ClusterRecord::decode(&key, &kv.value).map_err(failed)?;
    if meta.get(&keys.restoring()).await.map_err(failed)?.is_some() {
        return Err("the metadata of this cluster is being restored; finish that first".into());
    }
    if !meta.range(one(&keys.brokers_prefix())).await.map_err(failed)?.kvs.is_empty() {
        return Err(
            "the cluster has live brokers: stop them, or wait until their sessions have run out".into()
        );
    }
    let store = open_store(url, &Arc::default()).map_err(|e| format!("{place}: {e}"))?;
    let found = known_id(&*store).await.map_err(|e| format!("{place}: {e}"))?;
    let recorded = recorded(meta, keys).await.map_err(failed)?;
    let same = recorded.is_some() && recorded == found;
    if !same && !meta.range(one(&keys.topics_prefix())).await.map_err(failed)?.kvs.is_empty() {
        return Err(format!(
            "the cluster has topics, whose records are in {}; {place} is not a copy of that store. Delete the topics, or give the \
             brokers another --cluster-name",
            cluster.store.as_deref().unwrap_or("another store")
        ));
    }
    let before = cluster.store.clone();
    let cluster = ClusterRecord { store: Some(place.to_owned()), ..cluster };
    let txn = Txn::new()
        .when(Compare::mod_revision(&key, kv.mod_revision))
        .and_then(Op::put(&key, cluster.encode()));
    // The next broker that starts gives the store and the metadata a common id.
    let txn = if same { txn } else { txn.and_then(Op::delete(keys.store())) };
    match meta.txn(txn).await.map_err(failed)?.succeeded {
        true => Ok(before),
        false => Err("the cluster was changed meanwhile; try again".into()),
    }
}
