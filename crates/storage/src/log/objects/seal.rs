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
use object_store::{Error, ObjectMeta, ObjectStore, PutMode, PutOptions};

use super::OwnChain;
use super::identity::{InspectError, inspect};
use crate::log::shared::Shared;
use crate::store::backoff::persist;
use crate::wal::chain_id::ChainId;
use crate::wal::object::{FOOTER_BYTES, HEADER_BYTES, ObjectId, encode_seal};

/// One operation is tried again for this long.
const PATIENCE: Duration = Duration::from_secs(5);
const SEAL_BYTES: u64 = (HEADER_BYTES + FOOTER_BYTES) as u64;

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

/// Finds the first place from `first_seq` on that is free, or has a seal.
pub async fn find_end(
    store: &dyn ObjectStore,
    id: ChainId,
    first_seq: u64,
    objects: &BTreeMap<u64, u64>,
) -> Result<End, String> {
    let mut seq = first_seq;
    while let Some(size) = objects.get(&seq) {
        if *size == SEAL_BYTES && is_seal(store, id, seq).await? == Some(true) {
            return Ok(End { seq, is_sealed: true });
        }
        seq += 1;
    }
    Ok(End { seq, is_sealed: false })
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
        let create = || Box::pin(try_create(store, path.clone(), seal_bytes(id, seq))) as BoxFuture<'_, _>;
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
    let look = || Box::pin(look_for_seal(store, path.clone())) as BoxFuture<'_, _>;
    persist(PATIENCE, seq, look).await.map_err(|e| format!("{path}: {e}"))?
}

async fn look_for_seal(store: &dyn ObjectStore, path: Path) -> Result<Result<Option<bool>, String>, Error> {
    match inspect(store, &path).await {
        Ok(found) => Ok(Ok(found.map(|identity| identity.header.seal))),
        Err(InspectError::Store(e)) => Err(e),
        Err(e @ InspectError::Object { .. }) => Ok(Err(e.to_string())),
    }
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

/// A seal's bytes: it says whose chain it ends, not who made it.
pub fn seal_bytes(id: ChainId, seq: u64) -> Bytes {
    encode_seal(ObjectId { node_id: id.node_id, incarnation: id.incarnation, seq, salt: 0 })
}
