//! Ending a chain: a SEAL at the first missing seq, then its position in the chain's record.
//!
//! Whoever seals comes to the same result: the first seal in the chain is its end, and what stands above it is dead.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use kafscale_meta::Revision;
use kafscale_meta::records::{ChainRecord, Record};
use kafscale_meta::{Compare, Op, Txn};
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::{OwnChain, UPLOADS_MAX};
use crate::log::shared::Shared;
use crate::store::backoff::persist;
use crate::wal::chain_id::ChainId;
use crate::wal::object::{self, HEADER_BYTES, ObjectHeader};
use crate::wal::salvage;

/// One operation is tried again for this long.
const PATIENCE: Duration = Duration::from_secs(5);
pub const SEAL_BYTES: u64 = object::SEAL_BYTES as u64;

/// Seals the chain of an incarnation that is gone. Nothing to do where that is done already.
pub async fn seal(shared: &Shared, id: ChainId) -> Result<(), String> {
    loop {
        let Some((record, revision)) = load(shared, id).await? else { return Ok(()) };
        if record.sealed_at.is_some() {
            return Ok(());
        }
        let objects = list(&*shared.store, id).await?;
        let sealed_at = place_seal(&*shared.store, id, record.first_seq, &objects).await?;
        if note(shared, id, record, revision, sealed_at).await? {
            return Ok(());
        }
        // Its owner freed objects at the same moment, or another controller was faster.
    }
}

/// Seals this process's own chain, behind its last object; what was not acknowledged is left to [`seal`].
pub async fn seal_own(shared: &Shared, chain: &OwnChain) -> Result<(), String> {
    if chain.fenced.is_cancelled() {
        return Ok(());
    }
    chain.own_seal.store(true, Ordering::Release);
    let from = *chain.end.lock();
    loop {
        let Some((record, revision)) = load(shared, chain.id).await? else { return Ok(()) };
        if record.sealed_at.is_some() {
            return Ok(());
        }
        let sealed_at = match from {
            Some(end) => create_seal(&*shared.store, chain.id, end).await?,
            None => {
                let objects = list(&*shared.store, chain.id).await?;
                place_seal(&*shared.store, chain.id, record.first_seq, &objects).await?
            }
        };
        if note(shared, chain.id, record, revision, sealed_at).await? {
            return Ok(());
        }
    }
}

async fn load(shared: &Shared, id: ChainId) -> Result<Option<(ChainRecord, Revision)>, String> {
    let key = shared.keys.chain(id.node_id, id.incarnation);
    let Some(kv) = shared.meta.get(&key).await.map_err(|e| e.to_string())? else { return Ok(None) };
    let record = ChainRecord::decode(&key, &kv.value).map_err(|e| e.to_string())?;
    Ok(Some((record, kv.mod_revision)))
}

/// Writes where the seal is; `false` when the record was changed meanwhile.
async fn note(
    shared: &Shared,
    id: ChainId,
    record: ChainRecord,
    revision: Revision,
    sealed_at: u64,
) -> Result<bool, String> {
    let key = shared.keys.chain(id.node_id, id.incarnation);
    let sealed = ChainRecord { sealed_at: Some(sealed_at), ..record };
    let txn = Txn::new().when(Compare::mod_revision(&key, revision)).and_then(Op::put(&key, sealed.encode()));
    let outcome = shared.meta.txn(txn).await.map_err(|e| e.to_string())?;
    Ok(outcome.succeeded)
}

/// Where a chain ends, among the objects that were listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub seq: u64,
    pub is_sealed: bool,
}

/// Finds the first place from `first_seq` on that has a seal, or is free and was never acknowledged. Objects that were acknowledged and
/// are missing are passed by: whoever reads the chain says what that means for each partition.
pub async fn find_end(
    store: &dyn ObjectStore,
    id: ChainId,
    first_seq: u64,
    objects: &BTreeMap<u64, u64>,
) -> Result<End, String> {
    let (mut seq, mut acknowledged) = (first_seq, None);
    loop {
        if let Some(size) = objects.get(&seq) {
            if *size == SEAL_BYTES && is_seal(store, id, seq).await? == Some(true) {
                return Ok(End { seq, is_sealed: true });
            }
            seq += 1;
            continue;
        }
        let below = match acknowledged {
            Some(below) => below,
            None => *acknowledged.insert(acknowledged_below(store, id, seq, objects).await?),
        };
        if seq >= below {
            return Ok(End { seq, is_sealed: false });
        }
        let path = id.object(seq);
        if store.head(&path).await.is_ok() {
            return Err(format!("{path} came while the chain was looked at; to be looked at again"));
        }
        tracing::error!(
            object = %path, node_id = id.node_id, incarnation = id.incarnation,
            "an object of the write-ahead log is missing, and was acknowledged, as later ones say: the records in it are lost unless it is put \
             back from a copy or an earlier version"
        );
        seq += 1;
    }
}

/// Below which number objects were acknowledged, as those behind a `missing` one say. Up to [`UPLOADS_MAX`] objects may stand behind one
/// that was still under way when its owner died; but one that was made after this one was acknowledged says so.
async fn acknowledged_below(
    store: &dyn ObjectStore,
    id: ChainId,
    missing: u64,
    objects: &BTreeMap<u64, u64>,
) -> Result<u64, String> {
    let below = said_behind(store, id, missing, objects).await?;
    if below.is_some_and(|below| below <= missing) {
        let (count, first) = (objects.range(missing + 1..).count(), id.object(missing));
        tracing::warn!(
            node_id = id.node_id, incarnation = id.incarnation, missing = %first, behind = count,
            "the chain ends where an upload was under way; objects behind it were never acknowledged, and are left out"
        );
    }
    Ok(below.unwrap_or(0))
}

/// What the last object behind a place says of how far its chain was there when it was made.
pub async fn said_behind(
    store: &dyn ObjectStore,
    id: ChainId,
    place: u64,
    objects: &BTreeMap<u64, u64>,
) -> Result<Option<u64>, String> {
    // A later one never says less. Seals, and what is unreadable, say nothing.
    let behind = objects.range(place + 1..).rev().filter(|(_, size)| **size > 0);
    for (seq, _) in behind.take(2 * UPLOADS_MAX as usize) {
        if let Some(below) = durable_below(store, id.object(*seq)).await? {
            return Ok(Some(below));
        }
    }
    Ok(None)
}

/// Up to where an object says that its chain was there; `None` for a seal, and for what is not readable.
async fn durable_below(store: &dyn ObjectStore, path: Path) -> Result<Option<u64>, String> {
    let read = || -> BoxFuture<'_, object_store::Result<Option<ObjectHeader>>> {
        Box::pin(read_header(store, path.clone()))
    };
    let header = persist(PATIENCE, 0, read).await.map_err(|e| format!("{path}: {e}"))?;
    Ok(header.filter(|header| !header.seal).map(|header| header.durable_below))
}

async fn read_header(store: &dyn ObjectStore, path: Path) -> Result<Option<ObjectHeader>, Error> {
    match store.get_range(&path, 0..HEADER_BYTES as u64).await {
        Ok(front) => Ok(ObjectHeader::decode(&front).ok()),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The same, and makes sure that there is a seal.
pub async fn place_seal(
    store: &dyn ObjectStore,
    id: ChainId,
    first_seq: u64,
    objects: &BTreeMap<u64, u64>,
) -> Result<u64, String> {
    match find_end(store, id, first_seq, objects).await? {
        End { seq, is_sealed: true } => Ok(seq),
        End { seq, is_sealed: false } => create_seal(store, id, seq).await,
    }
}

/// Creates a seal at `seq`, or above it as long as objects are found there. Gives where the chain ends.
async fn create_seal(store: &dyn ObjectStore, id: ChainId, mut seq: u64) -> Result<u64, String> {
    loop {
        let path = id.object(seq);
        let create =
            || Box::pin(try_create(store, path.clone(), object::encode_seal_of(id, seq))) as BoxFuture<'_, _>;
        if persist(PATIENCE, seq, create).await.map_err(|e| format!("{path}: {e}"))? {
            return Ok(seq);
        }
        match is_seal(store, id, seq).await? {
            // Another controller, or an earlier attempt.
            Some(true) => return Ok(seq),
            // The owner's last object came first.
            Some(false) => seq += 1,
            // A conflict with a request that is under way: once more.
            None => {}
        }
    }
}

/// Whether a seal stands there; `None` when nothing does.
async fn is_seal(store: &dyn ObjectStore, id: ChainId, seq: u64) -> Result<Option<bool>, String> {
    let path = id.object(seq);
    let look = || Box::pin(look_for_seal(store, id, seq)) as BoxFuture<'_, _>;
    persist(PATIENCE, seq, look).await.map_err(|e| format!("{path}: {e}"))
}

/// One that is damaged so far that nobody can tell is taken for an object without records: what is above it is read then, and was
/// acknowledged or not.
async fn look_for_seal(store: &dyn ObjectStore, id: ChainId, seq: u64) -> Result<Option<bool>, Error> {
    let path = id.object(seq);
    match store.head(&path).await {
        Ok(found) if found.size != SEAL_BYTES => return Ok(Some(false)),
        Ok(_) => {}
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(e) => return Err(e),
    }
    let is_seal = salvage::is_seal(&store.get(&path).await?.bytes().await?, id, seq);
    if is_seal.is_none() {
        tracing::error!(object = %path, "an object of the write-ahead log is damaged: it may be the end of its chain, and is not taken for it");
    }
    Ok(Some(is_seal.unwrap_or(false)))
}

/// Whether the object was created; `false` when something is there, or is about to be.
async fn try_create(store: &dyn ObjectStore, path: Path, bytes: Bytes) -> Result<bool, Error> {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match store.put_opts(&path, bytes.into(), options).await {
        Ok(_) => Ok(true),
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The objects of a chain with their sizes.
pub async fn list(store: &dyn ObjectStore, id: ChainId) -> Result<BTreeMap<u64, u64>, String> {
    let directory = id.directory();
    let list = || {
        Box::pin(async {
            let listed: Vec<_> = store.list(Some(&directory)).try_collect().await?;
            let seq = |object: &ObjectMeta| {
                ChainId::parse(&object.location)
                    .filter(|(of, _)| *of == id)
                    .map(|(_, seq)| (seq, object.size))
            };
            Ok(listed.iter().filter_map(seq).collect())
        }) as BoxFuture<'_, _>
    };
    persist(PATIENCE, id.incarnation, list).await.map_err(|e| format!("{directory}: {e}"))
}
