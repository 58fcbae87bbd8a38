//! The chain in an object store: what an incarnation's log writes there, how it learns that it was fenced, and how the chains of
//! others are sealed, read and collected (ADR 0007).
//!
//! Invariant: objects are only ever created ([`upload`]); what overwrites is a seal, and only below another seal ([`collect`]).
//! Invariant: what was appended is never taken back while this process lives: its object is sent again, with the same bytes, until
//! it is there or the chain is found sealed.

pub mod awaited;
pub mod birth;
pub mod collect;
pub mod footers;
pub mod free;
mod identity;
pub mod read;
pub mod seal;
mod upload;
pub mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kafscale_meta::records::{ChainRecord, Keyspace, Record};
use kafscale_meta::{Compare, MetaStore, Revision};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::wal::chain_id::ChainId;

/// No incarnation ever has more objects under way than this. So many objects below a seal are overwritten before a dead chain is
/// collected, for a writer that was paused may repeat any of them.
pub const UPLOADS_MAX: u64 = 16;

/// What all parts of the log know of its own chain in an object store.
#[derive(Debug)]
pub struct OwnChain {
    pub id: ChainId,
    /// Fires once, when the chain was found sealed by somebody else, or this incarnation ends for
    /// the sake of a lost object.
    pub fenced: CancellationToken,
    /// Wakes whoever frees objects.
    pub freed: Notify,
    pub footers: footers::Footers,
    pub awaited: awaited::Awaited,
    /// The record of the chain, as it was last seen.
    record: Mutex<(ChainRecord, Revision)>,
    proved_at: Mutex<Option<Instant>>,
    /// The number of the next object, once the writer has ended.
    end: Mutex<Option<u64>>,
    own_seal: AtomicBool,
}

/// The chain's record is not there, or says that the chain is sealed: nothing may be published any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended;

impl OwnChain {
    pub fn new(id: ChainId, record: ChainRecord, revision: Revision) -> Arc<OwnChain> {
        Arc::new(OwnChain {
            id,
            fenced: CancellationToken::new(),
            freed: Notify::new(),
            footers: footers::Footers::default(),
            awaited: awaited::Awaited::default(),
            record: Mutex::new((record, revision)),
            proved_at: Mutex::new(None),
            end: Mutex::new(None),
            own_seal: AtomicBool::new(false),
        })
    }

    /// Whether this process seals the chain itself, for a planned stop.
    pub fn is_own_seal(&self) -> bool {
        self.own_seal.load(Ordering::Acquire)
    }

    pub fn proved_at(&self) -> Option<Instant> {
        *self.proved_at.lock()
    }

    /// At `at` the chain was not sealed: an object was created then, and everything below it is there.
    fn prove(&self, at: Instant) {
        let mut proved = self.proved_at.lock();
        *proved = Some(proved.map_or(at, |before| before.max(at)));
    }

    /// What a transaction demands that only the owner of an unsealed chain may do: that nobody has sealed it.
    pub fn guard(&self, keys: &Keyspace) -> Compare {
        Compare::mod_revision(self.key(keys), self.record.lock().1)
    }

    fn key(&self, keys: &Keyspace) -> String {
        keys.chain(self.id.node_id, self.id.incarnation)
    }

    /// Looks at the record again, after a guard did not hold.
    pub async fn refresh(
        &self,
        meta: &dyn MetaStore,
        keys: &Keyspace,
    ) -> kafscale_meta::Result<Result<(), Ended>> {
        let key = self.key(keys);
        let Some(kv) = meta.get(&key).await? else { return Ok(Err(Ended)) };
        let record = ChainRecord::decode(&key, &kv.value)?;
        if record.sealed_at.is_some() {
            return Ok(Err(Ended));
        }
        let mut known = self.record.lock();
        if kv.mod_revision > known.1 {
            *known = (record, kv.mod_revision);
        }
        Ok(Ok(()))
    }
}
