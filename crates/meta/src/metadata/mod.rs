//! The records of one cluster, typed, over any [`MetaStore`]: load, list, guarded writes.
//!
//! Every write that depends on what was read before is guarded by a revision, and says whether the guard held. Nothing is
//! cached here: who needs a live image lists, then watches from the revision after the list.

mod cluster;
mod controller;
mod groups;
mod topics;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use controller::Office;
pub use topics::NewTopic;

use tokio::task::{JoinError, JoinSet};

use crate::{
    Compare, Error, ErrorKind, KeyValue, MAX_TXN_BYTES, MAX_TXN_OPS, MetaStore, MetaStoreExt, Op, Result,
    Revision, Txn,
    records::{Keyspace, Record},
};

/// Transactions of one call that are under way at a time.
const TXNS_AT_ONCE: usize = 32;

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

    /// Does operations on different keys in as few transactions as the limits allow, several at once.
    async fn apply_all(&self, ops: Vec<Op>) -> Result<()> {
        let batches = in_batches(ops, MAX_TXN_OPS, |op| (1, op_bytes(op)));
        let metadata = self.clone();
        at_once(batches, move |then| {
            let store = Arc::clone(&metadata.store);
            async move {
                let outcome = store.txn(Txn { compares: Vec::new(), then }).await?;
                assert!(outcome.succeeded, "a transaction without compares succeeds");
                Ok(())
            }
        })
        .await
        .map(|_| ())
    }

    /// Does each item whose condition holds, and beside it the `common` one; several in a transaction and several transactions at
    /// once. Returns the revision of each that was done, in the order of the items.
    async fn apply_guarded(
        &self,
        common: Option<Compare>,
        items: Vec<Guarded>,
    ) -> Result<Vec<Option<Revision>>> {
        let weight = |item: &Guarded| {
            (item.then.len(), item.when.key.len() + item.then.iter().map(op_bytes).sum::<usize>())
        };
        // Compares are limited like operations, and the common one needs a place.
        let batches = in_batches(items, MAX_TXN_OPS - 1, weight);
        let metadata = self.clone();
        let done = at_once(batches, move |batch| {
            let (metadata, common) = (metadata.clone(), common.clone());
            async move { metadata.apply_guarded_batch(common.as_ref(), batch).await }
        });
        Ok(done.await?.concat())
    }

    async fn apply_guarded_batch(
        &self,
        common: Option<&Compare>,
        batch: Vec<Guarded>,
    ) -> Result<Vec<Option<Revision>>> {
        if batch.len() > 1
            && let Some(revision) = self.try_together(common, &batch).await?
        {
            return Ok(vec![Some(revision); batch.len()]);
        }
        // One of them does not hold: find out which.
        let mut done = Vec::with_capacity(batch.len());
        for item in batch {
            done.push(self.try_together(common, std::slice::from_ref(&item)).await?);
        }
        Ok(done)
    }

    async fn try_together(&self, common: Option<&Compare>, items: &[Guarded]) -> Result<Option<Revision>> {
        let mut txn = Txn { compares: common.into_iter().cloned().collect(), then: Vec::new() };
        for item in items {
            txn.compares.push(item.when.clone());
            txn.then.extend_from_slice(&item.then);
        }
        let outcome = self.store.txn(txn).await?;
        Ok(outcome.succeeded.then_some(outcome.revision))
    }
}

/// Runs `run` on each item, some at a time, so that the store can commit them together. Results are in the items' order.
async fn at_once<T, R, F>(items: Vec<T>, run: impl Fn(T) -> F) -> Result<Vec<R>>
where
    R: Send + 'static,
    F: Future<Output = Result<R>> + Send + 'static,
{
    if items.len() == 1 {
        let only = items.into_iter().map(run).next().expect("there is one");
        return Ok(vec![only.await?]);
    }
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let mut tasks = JoinSet::new();
    for (i, item) in items.into_iter().enumerate() {
        if tasks.len() == TXNS_AT_ONCE {
            store_result(&mut results, tasks.join_next().await)?;
        }
        let task = run(item);
        tasks.spawn(async move { (i, task.await) });
    }
    while !tasks.is_empty() {
        store_result(&mut results, tasks.join_next().await)?;
    }
    Ok(results.into_iter().map(|result| result.expect("every task was joined")).collect())
}

type Joined<R> = Option<std::result::Result<(usize, Result<R>), JoinError>>;

fn store_result<R>(results: &mut [Option<R>], joined: Joined<R>) -> Result<()> {
    let (i, result) = joined
        .expect("there are tasks")
        .map_err(|e| Error::new(ErrorKind::Internal, format!("a metadata transaction ended early: {e}")))?;
    results[i] = Some(result?);
    Ok(())
}

fn op_bytes(op: &Op) -> usize {
    match op {
        Op::Put { key, value, .. } => key.len() + value.len(),
        Op::Delete { key } | Op::DeletePrefix { prefix: key } => key.len(),
    }
}

/// Splits items into batches that fit into a transaction of `ops_max`, by their (operations, bytes). An item that is too large by itself
/// gets its own batch, which the store then refuses.
fn in_batches<T>(items: Vec<T>, ops_max: usize, weight: impl Fn(&T) -> (usize, usize)) -> Vec<Vec<T>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let (mut ops_total, mut bytes_total) = (0, 0);
    for item in items {
        let (ops, bytes) = weight(&item);
        if !batch.is_empty() && (ops_total + ops > ops_max || bytes_total + bytes > MAX_TXN_BYTES) {
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
