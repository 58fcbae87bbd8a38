//! The narrow trait that every metadata backend implements, and the types that it speaks.
//!
//! The semantics are etcd's, so that etcd itself is one of the backends:
//! - every transaction that changes something gets the next [`Revision`]; revisions survive restarts and never repeat;
//! - reads are linearizable: they see every transaction that was answered before they began;
//! - a transaction is atomic, and its limits ([`MAX_TXN_OPS`], [`MAX_TXN_BYTES`], a key at most once) hold for all
//!   backends alike, so that code tested on one of them runs on the others;
//! - a key bound to a lease vanishes when the lease expires or is revoked.
//!
//! Conveniences are in [`crate::MetaStoreExt`], not here.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use crate::{Error, ErrorKind, Result};

/// Compares, and operations, in one transaction: etcd's default `--max-txn-ops`.
pub const MAX_TXN_OPS: usize = 128;
/// Bytes of keys and values in one transaction: below etcd's default `--max-request-bytes` of 1.5 MiB, with room
/// for its framing.
pub const MAX_TXN_BYTES: usize = 1400 * 1024;
/// Longest key in bytes. Group ids and topic names are percent-encoded, so a key can be three times as long.
pub const MAX_KEY_BYTES: usize = 4096;
/// Most entries in one [`RangePage`].
pub const MAX_PAGE_LIMIT: usize = 2048;
/// The longest time to live of a lease.
pub const MAX_LEASE_TTL: Duration = Duration::from_secs(24 * 3600);

/// A point in the history of the store. 0 is before the first write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision after this one: where to watch from after a list.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a lease. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// A lease that was just granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    /// Until then it cannot have run out. Counted from before the request was sent, so that it is too early rather than
    /// too late; by this process's monotonic clock, which must not run slower than the store's.
    pub valid_until: Instant,
}

/// A key with its value and its place in history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: Bytes,
    /// When the key came to be; another one after a delete and a new put.
    pub create_revision: Revision,
    /// When the value was last put.
    pub mod_revision: Revision,
    /// The lease with which the key vanishes.
    pub lease: Option<LeaseId>,
}

/// A request for one page of the keys that start with a prefix, in byte order.
#[derive(Clone, Debug)]
pub struct RangeRequest {
    pub prefix: String,
    /// Only keys greater than this one: the last key of the page before.
    pub start_after: Option<String>,
    /// Most entries wanted; at least 1, and no more than [`MAX_PAGE_LIMIT`] are returned.
    pub limit: usize,
}

/// One page of a range.
#[derive(Clone, Debug)]
pub struct RangePage {
    pub kvs: Vec<KeyValue>,
    /// The store's revision when the page was read.
    pub revision: Revision,
    /// Whether keys follow after the last one.
    pub more: bool,
}

/// All keys under a prefix, as of one revision.
#[derive(Clone, Debug)]
pub struct Listing {
    /// In byte order of their keys.
    pub kvs: Vec<KeyValue>,
    /// Watch from `revision.next()` to see everything that changed after this listing, and nothing that is in it.
    pub revision: Revision,
}

/// A condition of a transaction on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    pub key: String,
    pub target: CompareTarget,
}

/// What a [`Compare`] demands of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    /// The key does not exist.
    Absent,
    /// The key exists and was last put at this revision.
    ModRevision(Revision),
    /// The key exists and came to be at this revision: it was not deleted in between.
    CreateRevision(Revision),
    /// The key exists and has this value.
    Value(Bytes),
}

impl Compare {
    pub fn absent(key: impl Into<String>) -> Self {
        Self { key: key.into(), target: CompareTarget::Absent }
    }

    pub fn mod_revision(key: impl Into<String>, revision: Revision) -> Self {
        Self { key: key.into(), target: CompareTarget::ModRevision(revision) }
    }

    pub fn create_revision(key: impl Into<String>, revision: Revision) -> Self {
        Self { key: key.into(), target: CompareTarget::CreateRevision(revision) }
    }

    pub fn value(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self { key: key.into(), target: CompareTarget::Value(value.into()) }
    }
}

/// A change that a transaction makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets the value. A put without a lease releases the key from the lease it had.
    Put { key: String, value: Bytes, lease: Option<LeaseId> },
    /// Removes the key, if it exists.
    Delete { key: String },
    /// Removes every key that starts with the prefix.
    DeletePrefix { prefix: String },
}

impl Op {
    pub fn put(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: None }
    }

    pub fn put_leased(key: impl Into<String>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: Some(lease) }
    }

    pub fn delete(key: impl Into<String>) -> Self {
        Self::Delete { key: key.into() }
    }

    pub fn delete_prefix(prefix: impl Into<String>) -> Self {
        Self::DeletePrefix { prefix: prefix.into() }
    }

    fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
            Self::DeletePrefix { prefix } => prefix,
        }
    }
}

/// An atomic transaction: if all `compares` hold, all of `then` is done, otherwise nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub then: Vec<Op>,
}

impl Txn {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Adds a change.
    pub fn and_then(mut self, op: Op) -> Self {
        self.then.push(op);
        self
    }

    /// Checks the limits that hold for all backends. Every backend calls this first.
    pub fn validate(&self) -> Result<()> {
        if self.compares.len() > MAX_TXN_OPS || self.then.len() > MAX_TXN_OPS {
            return Err(Error::invalid(format!(
                "a transaction may have {MAX_TXN_OPS} compares and {MAX_TXN_OPS} operations, this one has {} and {}",
                self.compares.len(),
                self.then.len()
            )));
        }
        let mut bytes = 0;
        for compare in &self.compares {
            validate_key(&compare.key)?;
            bytes += compare.key.len();
            if let CompareTarget::Value(value) = &compare.target {
                bytes += value.len();
            }
        }
        for op in &self.then {
            validate_key(op.key())?;
            bytes += op.key().len();
            if let Op::Put { value, .. } = op {
                bytes += value.len();
            }
        }
        if bytes > MAX_TXN_BYTES {
            return Err(Error::invalid(format!(
                "a transaction may carry {MAX_TXN_BYTES} bytes of keys and values, this one has {bytes}"
            )));
        }
        self.validate_no_key_twice()
    }

    /// etcd refuses a transaction that puts a key twice, or puts one that the same transaction deletes.
    fn validate_no_key_twice(&self) -> Result<()> {
        let mut puts: Vec<&str> = Vec::with_capacity(self.then.len());
        for op in &self.then {
            if let Op::Put { key, .. } = op {
                puts.push(key);
            }
        }
        puts.sort_unstable();
        let twice = |key: &str| Error::invalid(format!("a transaction changes the key {key:?} twice"));
        if let Some(pair) = puts.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(twice(pair[0]));
        }
        for op in &self.then {
            match op {
                Op::Put { .. } => {}
                Op::Delete { key } => {
                    if puts.binary_search(&key.as_str()).is_ok() {
                        return Err(twice(key));
                    }
                }
                Op::DeletePrefix { prefix } => {
                    let first = puts.partition_point(|put| *put < prefix.as_str());
                    if let Some(put) = puts.get(first).filter(|put| put.starts_with(prefix)) {
                        return Err(twice(put));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Checks a key or a prefix. The empty prefix is refused too: nobody lists or deletes the store of all clusters.
pub(crate) fn validate_key(key: &str) -> Result<()> {
    if key.is_empty() {
        return Err(Error::invalid("a key or prefix must not be empty"));
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(Error::invalid(format!(
            "a key may have {MAX_KEY_BYTES} bytes, this one has {}",
            key.len()
        )));
    }
    Ok(())
}

/// Checks the time to live of a lease.
pub(crate) fn validate_ttl(ttl: Duration) -> Result<()> {
    if ttl.is_zero() || ttl > MAX_LEASE_TTL {
        return Err(Error::invalid(format!("a lease may live up to {MAX_LEASE_TTL:?}, not {ttl:?}")));
    }
    Ok(())
}

/// What a request under a lease is answered that ran out or was revoked.
pub(crate) fn lease_gone(lease: LeaseId) -> Error {
    Error::new(ErrorKind::Fenced, format!("the lease {} has run out or was revoked", lease.0))
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a transaction whose compares did not hold has changed nothing"]
pub struct TxnOutcome {
    /// Whether all compares held, so that the operations were done.
    pub succeeded: bool,
    /// The store's revision after the transaction. If it succeeded and changed something, this is the revision of
    /// its changes.
    pub revision: Revision,
}

/// A change that a watcher sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Put(KeyValue),
    Delete { key: String, revision: Revision },
}

impl Event {
    pub fn key(&self) -> &str {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// Changes in order of their revisions. A revision is never split over two batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// The highest revision among the events.
    pub revision: Revision,
    /// Never empty.
    pub events: Vec<Event>,
}

/// The changes under a prefix, without a gap. Dropping it ends the watch.
#[async_trait]
pub trait Watch: Send + fmt::Debug {
    /// Waits for the next changes. Cancel-safe: a dropped call loses nothing.
    ///
    /// [`crate::ErrorKind::Compacted`] means that changes were lost because this watcher is too far behind: list again and
    /// open a new watch. After any error the watch is over.
    async fn next(&mut self) -> Result<WatchBatch>;
}

/// A metadata store. Shared as `Arc<dyn MetaStore>`.
#[async_trait]
pub trait MetaStore: Send + Sync + fmt::Debug + 'static {
    /// The current value of a key.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>>;

    /// One page of the keys under a prefix, as they are now: pages that are asked for one after the other may be of
    /// different revisions.
    async fn range(&self, request: RangeRequest) -> Result<RangePage>;

    /// All keys under a prefix, as of one revision.
    async fn range_all(&self, prefix: &str) -> Result<Listing>;

    /// Does a transaction. When this returns, the change is as durable as the backend makes it.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome>;

    /// Watches the keys under a prefix for changes at `from` and after; `Revision(0)` means from now on.
    /// The watch is in place when this returns. It outlives the loss of a connection: it goes on with the revision after
    /// the last one that it delivered.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Box<dyn Watch>>;

    /// Grants a lease that ends `ttl` after its last keepalive. Backends may round up to whole seconds. Who has to keep
    /// it alive uses [`crate::HeldLease`].
    async fn lease_grant(&self, ttl: Duration) -> Result<Lease>;

    /// Extends a lease by its time to live, or [`crate::ErrorKind::Fenced`] if it is gone. Returns until when it surely is
    /// valid, as [`Lease::valid_until`] does.
    async fn lease_keepalive(&self, lease: LeaseId) -> Result<Instant>;

    /// Ends a lease and removes its keys in one revision. A lease that is gone already is fine.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<()>;

    /// Finishes what is under way and releases the store. Later calls fail with [`crate::ErrorKind::Retry`].
    async fn close(&self) -> Result<()>;
}
