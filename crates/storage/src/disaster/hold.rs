//! Keeping brokers out of a cluster while its metadata is being written, by the key `restoring`.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafscale_meta::records::Keyspace;
use kafscale_meta::{
    Compare, MAX_TXN_BYTES, MAX_TXN_OPS, MetaStore, MetaStoreExt, Op, RangeRequest, Revision, Txn,
};

use super::error::RestoreError;

/// The kinds of records that are written anew.
const KINDS: [&str; 11] = [
    "topics",
    "deleted-topics",
    "assignments",
    "partitions",
    "producers",
    "groups",
    "offsets",
    "broker-configs",
    "chains",
    "coordinators",
    "wal-ends",
];

/// This attempt at restoring, as long as no other one has begun.
#[derive(Debug)]
pub struct Hold {
    key: String,
    revision: Revision,
    /// Whether an attempt before it was cut off, and may have written something.
    resumed: bool,
}

/// Refuses where there is a cluster that is not to be replaced, or that has live brokers. Gives whether an attempt was cut off.
pub async fn check(meta: &dyn MetaStore, keys: &Keyspace, replace: bool) -> Result<bool, RestoreError> {
    let resumed = is_resumed(meta, keys).await?;
    if !resumed && !replace && holds_anything(meta, keys).await? {
        return Err(RestoreError::Exists);
    }
    refuse_brokers(meta, keys).await?;
    Ok(resumed)
}

/// Whether an attempt was cut off.
pub async fn is_resumed(meta: &dyn MetaStore, keys: &Keyspace) -> kafscale_meta::Result<bool> {
    Ok(meta.get(&keys.restoring()).await?.is_some())
}

impl Hold {
    /// Keeps brokers out, where [`check`] allows it.
    pub async fn take(meta: &dyn MetaStore, keys: &Keyspace, replace: bool) -> Result<Hold, RestoreError> {
        let (key, resumed) = (keys.restoring(), check(meta, keys, replace).await?);
        let revision = meta.put(&key, Bytes::new()).await?;
        let hold = Hold { key, revision, resumed };
        // One may have joined just before.
        if let Err(why) = refuse_brokers(meta, keys).await {
            hold.give_up(meta).await;
            return Err(why);
        }
        Ok(hold)
    }

    /// Lets brokers in again, unless something may have been written.
    pub async fn give_up(&self, meta: &dyn MetaStore) {
        if self.resumed {
            return;
        }
        let txn = self.guarded().and_then(Op::delete(&self.key));
        if let Err(error) = meta.txn(txn).await {
            tracing::warn!(%error, "brokers are still kept out; restore again");
        }
    }

    fn guarded(&self) -> Txn {
        Txn::new().when(Compare::mod_revision(&self.key, self.revision))
    }

    async fn commit(&self, meta: &dyn MetaStore, txn: Txn) -> Result<(), RestoreError> {
        match meta.txn(txn).await {
            Ok(outcome) if outcome.succeeded => Ok(()),
            Ok(_) => Err(RestoreError::Overtaken),
            Err(e) => Err(RestoreError::CutOff(e)),
        }
    }

    /// Writes the records in the place of all that are there, and lets brokers in.
    pub async fn write(
        &self,
        meta: &dyn MetaStore,
        keys: &Keyspace,
        mut records: BTreeMap<String, String>,
    ) -> Result<(), RestoreError> {
        let root = keys.root();
        let cluster = keys.cluster();
        let last = records.remove(cluster.strip_prefix(root).unwrap_or(&cluster)).unwrap_or_default();
        let clear = KINDS
            .iter()
            .fold(self.guarded(), |txn, kind| txn.and_then(Op::delete_prefix(format!("{root}{kind}/"))));
        let clear = [cluster.clone(), keys.store(), keys.outdated()]
            .into_iter()
            .fold(clear, |txn, key| txn.and_then(Op::delete(key)));
        self.commit(meta, clear).await?;
        let (mut txn, mut bytes) = (self.guarded(), 0);
        for (key, value) in records {
            let size = root.len() + key.len() + value.len();
            if txn.then.len() == MAX_TXN_OPS || (bytes > 0 && bytes + size > MAX_TXN_BYTES) {
                self.commit(meta, std::mem::replace(&mut txn, self.guarded())).await?;
                bytes = 0;
            }
            bytes += size;
            txn.then.push(Op::put(format!("{root}{key}"), value));
        }
        self.commit(meta, txn).await?;
        self.commit(meta, self.guarded().and_then(Op::put(cluster, last)).and_then(Op::delete(&self.key)))
            .await
    }
}

/// Whether there is something to lose. A broker that was refused because its metadata was lost has founded the cluster anew already.
async fn holds_anything(meta: &dyn MetaStore, keys: &Keyspace) -> kafscale_meta::Result<bool> {
    for kind in ["topics", "partitions", "groups", "offsets"] {
        let prefix = format!("{}{kind}/", keys.root());
        if !meta.range(RangeRequest { prefix, start_after: None, limit: 1 }).await?.kvs.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn refuse_brokers(meta: &dyn MetaStore, keys: &Keyspace) -> Result<(), RestoreError> {
    let live = meta.range_all(&keys.brokers_prefix()).await?;
    let ids: Vec<_> =
        live.kvs.iter().filter_map(|kv| keys.parse_broker(&kv.key)).map(|id| id.to_string()).collect();
    match ids.is_empty() {
        true => Ok(()),
        false => Err(RestoreError::LiveBrokers(ids.join(", "))),
    }
}
