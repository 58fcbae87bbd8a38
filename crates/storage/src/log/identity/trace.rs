//! What a store has of its metadata, and what the metadata knows of that: incarnations that have
//! written, and snapshots.
//!
//! Invariant: the metadata has a note of each before the store has anything of it. So what the
//! store has, and the metadata lacks, was made with other metadata, or with later one.

use std::collections::HashMap;
use std::fmt;

use kafscale_meta::records::{IncarnationBaseRecord, Keyspace, Record, TraceRecord};
use kafscale_meta::{Compare, Error, MetaStore, Op, Revision, Txn};

use crate::wal::chain_id::ChainId;

/// What a store has of some revision of the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trace {
    Writer(ChainId),
    Snapshot(u64),
}

impl Trace {
    pub fn number(self) -> u64 {
        match self {
            Trace::Writer(id) => id.incarnation,
            Trace::Snapshot(number) => number,
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trace::Writer(ChainId { node_id, incarnation }) => {
                write!(f, "the incarnation {incarnation} of broker {node_id} has written to the store")
            }
            Trace::Snapshot(number) => write!(f, "the store has the snapshot {number} of it"),
        }
    }
}

/// What the metadata knows.
#[derive(Debug, Default)]
pub struct Known {
    /// What was there when the metadata was rebuilt has lower numbers.
    base: u64,
    writers: HashMap<i32, u64>,
    snapshot: u64,
}

impl Known {
    pub async fn load(meta: &dyn MetaStore, keys: &Keyspace) -> Result<Known, Error> {
        let mut known = Known { base: base(meta, keys).await?, ..Known::default() };
        for kv in meta.range_all(&keys.traces_prefix()).await?.kvs {
            let TraceRecord { number } = TraceRecord::decode(&kv.key, &kv.value)?;
            if let Some(node_id) = keys.parse_writer_trace(&kv.key) {
                known.writers.insert(node_id, number);
            } else if kv.key == keys.snapshot_trace() {
                known.snapshot = number;
            }
        }
        Ok(known)
    }

    /// The highest number of this kind of trace, of the same broker.
    pub fn newest_like(&self, trace: Trace) -> u64 {
        let noted = match trace {
            Trace::Writer(id) => self.writers.get(&id.node_id).copied().unwrap_or(0),
            Trace::Snapshot(_) => self.snapshot,
        };
        noted.max(self.base)
    }
}

/// What is added to revisions to make numbers.
pub async fn base(meta: &dyn MetaStore, keys: &Keyspace) -> Result<u64, Error> {
    let key = keys.incarnation_base();
    match meta.get(&key).await? {
        Some(kv) => Ok(IncarnationBaseRecord::decode(&key, &kv.value)?.base),
        None => Ok(0),
    }
}

/// Notes a number, unless a higher one is noted already: a process that was overtaken lowers
/// nothing. Gives the revision of the note.
pub async fn note(meta: &dyn MetaStore, key: &str, number: u64) -> Result<Revision, Error> {
    loop {
        let noted = meta.get(key).await?;
        let guard = match &noted {
            Some(kv) if TraceRecord::decode(key, &kv.value)?.number >= number => return Ok(kv.mod_revision),
            Some(kv) => Compare::mod_revision(key, kv.mod_revision),
            None => Compare::absent(key),
        };
        let txn = Txn::new().when(guard).and_then(Op::put(key, TraceRecord { number }.encode()));
        let outcome = meta.txn(txn).await?;
        if outcome.succeeded {
            return Ok(outcome.revision);
        }
    }
}
