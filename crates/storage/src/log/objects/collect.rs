//! Deleting chains whose incarnations are gone, when manifests cover everything in them.
//!
//! A writer that was paused may still repeat the creation of any of the last objects below the seal. So they are overwritten with
//! seals before anything is deleted, and seals stay for ever.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use kafscale_core::ids::{Offset, PartitionId, TopicId};
use kafscale_meta::records::{ChainRecord, Record};
use kafscale_meta::{Compare, Op, Revision, Txn};
use object_store::ObjectStoreExt;

use super::UPLOADS_MAX;
use super::footers::ChainIndex;
use super::seal::list;
use crate::log::load::load_records;
use crate::log::shared::Shared;
use crate::store::backoff::persist;
use crate::wal::chain_id::ChainId;
use crate::wal::object::encode_seal_of;

const PATIENCE: Duration = Duration::from_secs(5);

/// Collects every dead chain that can be.
pub async fn collect(shared: &Shared) -> Result<(), String> {
    let listed = shared.meta.range_all(&shared.keys.chains_prefix()).await.map_err(|e| e.to_string())?;
    let Some(own) = &shared.chain else { return Ok(()) };
    // Read once for all, and remembered between attempts.
    let chains = own.footers.all(shared).await.map_err(|e| e.to_string())?;
    let mut failed = None;
    for kv in listed.kvs {
        let Some((node_id, incarnation)) = shared.keys.parse_chain(&kv.key) else { continue };
        let record = ChainRecord::decode(&kv.key, &kv.value).map_err(|e| e.to_string())?;
        let id = ChainId { node_id, incarnation };
        let Some(sealed_at) = record.sealed_at else { continue };
        // One that was sealed just now is for the next time.
        let Some(index) = chains.iter().find(|chain| chain.id == id) else { continue };
        let chain = Dead { index, record, sealed_at, revision: kv.mod_revision };
        if let Err(error) = collect_one(shared, chain).await {
            failed = Some(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

struct Dead<'a> {
    index: &'a ChainIndex,
    record: ChainRecord,
    sealed_at: u64,
    revision: Revision,
}

async fn collect_one(shared: &Shared, chain: Dead<'_>) -> Result<(), String> {
    let Dead { index, record, sealed_at, revision } = chain;
    let id = index.id;
    let revision = match record.first_seq < sealed_at {
        // What is lost may be put back, and then it is to be read.
        true if index.missed().next().is_some() || !is_covered(shared, index).await? => return Ok(()),
        true => match forget(shared, id, sealed_at, revision).await? {
            Some(revision) => revision,
            None => return Ok(()),
        },
        // Where an earlier attempt was cut off, the record says already that nothing is needed.
        false => revision,
    };
    let store = &*shared.store;
    let kept = sealed_at.saturating_sub(UPLOADS_MAX)..=sealed_at;
    for seq in kept.clone() {
        let path = id.object(seq);
        let overwrite = || -> BoxFuture<'_, object_store::Result<()>> {
            Box::pin(async { store.put(&path, encode_seal_of(id, seq).into()).await.map(drop) })
        };
        persist(PATIENCE, seq, overwrite).await.map_err(|e| format!("{path}: {e}"))?;
    }
    let others = list(store, id).await?.into_keys().filter(|seq| !kept.contains(seq));
    let paths: Vec<_> = others.map(|seq| Ok(id.object(seq))).collect();
    let objects = paths.len();
    index.damaged.keys().for_each(|seq| shared.damages().forget(id.object(*seq).as_ref()));
    let mut outcomes = store.delete_stream(stream::iter(paths).boxed());
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    let key = shared.keys.chain(id.node_id, id.incarnation);
    let txn = Txn::new().when(Compare::mod_revision(&key, revision)).and_then(Op::delete(key));
    // Where somebody else was faster, there is nothing left to do.
    let _ = shared.meta.txn(txn).await.map_err(|e| e.to_string())?;
    tracing::info!(node_id = id.node_id, incarnation = id.incarnation, objects, "collected a dead chain");
    Ok(())
}

/// Says in the record that nothing of the chain is needed, before anything in it is touched: who reads it then reads nothing.
async fn forget(
    shared: &Shared,
    id: ChainId,
    sealed_at: u64,
    revision: Revision,
) -> Result<Option<Revision>, String> {
    let key = shared.keys.chain(id.node_id, id.incarnation);
    let record = ChainRecord { first_seq: sealed_at, sealed_at: Some(sealed_at), given_up: false };
    let txn = Txn::new().when(Compare::mod_revision(&key, revision)).and_then(Op::put(&key, record.encode()));
    let outcome = shared.meta.txn(txn).await.map_err(|e| e.to_string())?;
    Ok(outcome.succeeded.then_some(outcome.revision))
}

/// Whether manifests have everything that a chain has, of topics that exist.
async fn is_covered(shared: &Shared, index: &ChainIndex) -> Result<bool, String> {
    let ids: HashSet<PartitionId> = index.by_partition.keys().copied().collect();
    let records = load_records(&*shared.meta, &shared.keys, &ids).await.map_err(|e| e.to_string())?;
    let mut missing = HashSet::new();
    for (id, found) in &index.by_partition {
        let needed = found.iter().map(|f| f.entry.last_offset).max().map_or(Offset::ZERO, |o| o.plus(1));
        let record = records.get(id).and_then(|r| r.partition.as_ref()).map(|(record, _)| record);
        let end = record.map_or(0, |r| {
            let segments = r.segments.last().map_or(0, |s| s.last_offset.saturating_add(1));
            segments.max(r.log_start_offset)
        });
        if end < needed.0 {
            missing.insert(id.topic);
        }
    }
    // Read after the manifests: a topic that does not exist now is not created again under this id.
    Ok(missing.is_empty() || !any_exists(shared, &missing).await?)
}

async fn any_exists(shared: &Shared, topics: &HashSet<TopicId>) -> Result<bool, String> {
    for topic in topics {
        let key = shared.keys.assignment(topic.0);
        if shared.meta.get(&key).await.map_err(|e| e.to_string())?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
