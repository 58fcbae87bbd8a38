//! The records of one cluster, typed, over any [`MetaStore`]: load, list, guarded writes.
//!
//! Every write that depends on what was read before is guarded by a revision, and says whether the guard held. Nothing is
//! cached here: who needs a live image lists, then watches from the revision after the list.

mod cluster;
mod groups;
mod topics;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use topics::NewTopic;

use crate::{
    Compare, Error, KeyValue, MAX_TXN_BYTES, MAX_TXN_OPS, MetaStore, MetaStoreExt, Op, Result, Revision, Txn,
    records::{Keyspace, Record},
};

/// The metadata of one cluster.
#[derive(Clone, Debug)]
pub struct Metadata {
    store: Arc<dyn MetaStore>,
    keys: Keyspace,
}

/// A record with its place in history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<R> {
    pub record: R,
    pub create_revision: Revision,
    /// What guards a write that replaces this record.
    pub mod_revision: Revision,
}

impl<R: Record> Versioned<R> {
    /// Decodes an entry of the store, as a get or a watch gives it.
    pub fn decode(kv: &KeyValue) -> Result<Self> {
        let record = R::decode(&kv.key, &kv.value)?;
        Ok(Self { record, create_revision: kv.create_revision, mod_revision: kv.mod_revision })
    }
}

/// All records of a kind.
#[derive(Clone, Debug)]
pub struct Records<K, R> {
    /// In the order of their keys in the store.
    pub items: Vec<(K, Versioned<R>)>,
    /// Watch from `revision.next()` to follow the changes.
    pub revision: Revision,
}

/// Operations that are done if a condition holds.
#[derive(Clone, Debug)]
struct Guarded {
    when: Compare,
    then: Vec<Op>,
}

impl Metadata {
    /// The metadata of the named cluster.
    pub fn new(store: Arc<dyn MetaStore>, cluster: &str) -> Result<Self> {
        Ok(Self { store, keys: Keyspace::new(cluster)? })
    }

    /// For watches and leases.
    pub fn store(&self) -> &Arc<dyn MetaStore> {
        &self.store
    }

    /// The keys of the cluster.
    pub fn keys(&self) -> &Keyspace {
        &self.keys
    }

    /// Reads the record at a key.
    pub async fn load<R: Record>(&self, key: &str) -> Result<Option<Versioned<R>>> {
        self.store.get(key).await?.map(|kv| Versioned::decode(&kv)).transpose()
    }

    /// Writes a record, whatever was there.
    pub async fn save<R: Record + Sync>(&self, key: &str, record: &R) -> Result<Revision> {
        self.store.put(key, record.encode()).await
    }

    /// Replaces the record that was written at `expected` (`None`: there must be none). Returns the new revision, or
    /// `None` if the guard did not hold and nothing was written.
    pub async fn swap<R: Record + Sync>(
        &self,
        key: &str,
        expected: Option<Revision>,
        record: &R,
    ) -> Result<Option<Revision>> {
        let outcome = self.store.compare_and_swap(key, expected, record.encode()).await?;
        Ok(outcome.succeeded.then_some(outcome.revision))
    }

    /// Reads all records under a prefix.
    pub async fn list<K, R: Record>(
        &self,
        prefix: &str,
        parse: impl Fn(&str) -> Option<K>,
    ) -> Result<Records<K, R>> {
        let listing = self.store.range_all(prefix).await?;
        let mut items = Vec::with_capacity(listing.kvs.len());
        for kv in &listing.kvs {
            let name = parse(&kv.key).ok_or_else(|| {
                Error::corrupt(format!("{} is not the key of a {} record", kv.key, R::KIND))
            })?;
            items.push((name, Versioned::decode(kv)?));
        }
        Ok(Records { items, revision: listing.revision })
    }

    /// Does operations in as few transactions as the limits allow, in order.
    async fn apply_all(&self, ops: Vec<Op>) -> Result<()> {
        for then in in_batches(ops, |op| (1, op_bytes(op))) {
            let outcome = self.store.txn(Txn { compares: Vec::new(), then }).await?;
            assert!(outcome.succeeded, "a transaction without compares succeeds");
        }
        Ok(())
    }

    /// Does each item whose condition holds, several in a transaction. Returns the revision of each that was done.
    async fn apply_guarded(&self, items: Vec<Guarded>) -> Result<Vec<Option<Revision>>> {
        let weight = |item: &Guarded| {
            (item.then.len(), item.when.key.len() + item.then.iter().map(op_bytes).sum::<usize>())
        };
        let mut done = Vec::with_capacity(items.len());
        for batch in in_batches(items, weight) {
            if batch.len() > 1
                && let Some(revision) = self.try_together(&batch).await?
            {
                done.resize(done.len() + batch.len(), Some(revision));
                continue;
            }
            // One of them does not hold: find out which.
            for item in batch {
                done.push(self.try_together(std::slice::from_ref(&item)).await?);
            }
        }
        Ok(done)
    }

    async fn try_together(&self, items: &[Guarded]) -> Result<Option<Revision>> {
        let mut txn = Txn::new();
        for item in items {
            txn.compares.push(item.when.clone());
            txn.then.extend_from_slice(&item.then);
        }
        let outcome = self.store.txn(txn).await?;
        Ok(outcome.succeeded.then_some(outcome.revision))
    }
}

fn op_bytes(op: &Op) -> usize {
    match op {
        Op::Put { key, value, .. } => key.len() + value.len(),
        Op::Delete { key } | Op::DeletePrefix { prefix: key } => key.len(),
    }
}

/// Splits items into batches that fit into a transaction, by their (operations, bytes). An item that is too large by itself
/// gets its own batch, which the store then refuses.
fn in_batches<T>(items: Vec<T>, weight: impl Fn(&T) -> (usize, usize)) -> Vec<Vec<T>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let (mut ops_total, mut bytes_total) = (0, 0);
    for item in items {
        let (ops, bytes) = weight(&item);
        if !batch.is_empty() && (ops_total + ops > MAX_TXN_OPS || bytes_total + bytes > MAX_TXN_BYTES) {
            batches.push(std::mem::take(&mut batch));
            (ops_total, bytes_total) = (0, 0);
        }
        (ops_total, bytes_total) = (ops_total + ops, bytes_total + bytes);
        batch.push(item);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}
