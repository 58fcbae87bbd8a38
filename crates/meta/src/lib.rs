//! The metadata store: a small KV trait with etcd's semantics, its backends, one conformance suite that all of them
//! pass, and typed records on top.
//!
//! Invariant: this is the only crate that names a metadata backend.
//! Invariant: nothing here is written per produce request.

mod error;
mod ext;
pub mod records;
mod store;
mod url;

pub use error::{Error, ErrorKind, Result};
pub use ext::{Listing, MetaStoreExt};
pub use store::{
    Compare, CompareTarget, Event, KeyValue, LeaseId, MAX_KEY_BYTES, MAX_LEASE_TTL, MAX_PAGE_LIMIT,
    MAX_TXN_BYTES, MAX_TXN_OPS, MetaStore, Op, RangePage, RangeRequest, Revision, Txn, TxnOutcome, Watch,
    WatchBatch,
};
pub use url::{Endpoint, MetaUrl};
