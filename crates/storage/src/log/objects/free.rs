//! Freeing objects of the own chain that nothing needs any more: first the chain's record says so, then they are deleted.
//!
//! Invariant: the last [`UPLOADS_MAX`] objects are never deleted. Who has lost the chain's record can tell by them where the chain
//! ends, and that what is missing further down was deleted.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use kafscale_meta::records::{ChainRecord, Record};
use kafscale_meta::{Compare, Op, Txn};
use object_store::ObjectStore;

use super::{Ended, OwnChain, UPLOADS_MAX};
use crate::log::shared::Shared;

/// At most one write to metadata in this time, however many objects are freed.
const INTERVAL: Duration = Duration::from_secs(5);

/// Runs until the log is shut down.
pub async fn run(shared: Arc<Shared>, chain: Arc<OwnChain>) {
    let mut deleted = 0;
    loop {
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            () = chain.freed.notified() => {}
        }
        match free(&shared, &chain, deleted).await {
            Ok(to) => deleted = to,
            Err(error) => {
                tracing::warn!(%error, "objects that are not needed any more were not deleted; trying again");
                chain.freed.notify_one();
            }
        }
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Frees what can be freed. Objects below `deleted` are gone already; gives the new such position.
pub async fn free(shared: &Shared, chain: &OwnChain, deleted: u64) -> kafscale_meta::Result<u64> {
    let first_seq = shared.files.own_freed();
    if first_seq <= deleted || !publish(shared, chain, first_seq).await? {
        return Ok(deleted);
    }
    let id = chain.id;
    let to = deleted.max(first_seq.saturating_sub(UPLOADS_MAX));
    let paths = (deleted..to).map(move |seq| Ok(id.object(seq)));
    let mut outcomes = shared.store.delete_stream(stream::iter(paths).boxed());
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            // It is deleted with the chain, when that is collected.
            Err(error) => tracing::warn!(%error, "an object of the chain was not deleted"),
        }
    }
    Ok(to)
}

/// Says in the chain's record that recovery begins at `first_seq`; `false` when the chain is not ours any more.
async fn publish(shared: &Shared, chain: &OwnChain, first_seq: u64) -> kafscale_meta::Result<bool> {
    let key = chain.key(&shared.keys);
    loop {
        let revision = chain.record.lock().1;
        let record = ChainRecord { first_seq, ..ChainRecord::default() };
        let txn =
            Txn::new().when(Compare::mod_revision(&key, revision)).and_then(Op::put(&key, record.encode()));
        let outcome = shared.meta.txn(txn).await?;
        if outcome.succeeded {
            *chain.record.lock() = (record, outcome.revision);
            return Ok(true);
        }
        if chain.refresh(&*shared.meta, &shared.keys).await? == Err(Ended) {
            shared.fence("the record of its chain says so");
            return Ok(false);
        }
        if chain.record.lock().1 == revision {
            return Ok(false);
        }
    }
}
