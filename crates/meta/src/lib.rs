//! The metadata store: a small KV trait with etcd's semantics, its backends, one conformance suite that all of them
//! pass, and typed records on top.
//!
//! Invariant: this is the only crate that names a metadata backend.
//! Invariant: nothing here is written per produce request.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod embedded;
mod error;
mod etcd;
mod ext;
mod lease;
mod metadata;
pub mod records;
mod store;
mod url;

pub use embedded::EmbeddedStore;
pub use error::{Error, ErrorKind, Result};
pub use etcd::{Credentials, EtcdOptions, EtcdStore, TlsOptions};
pub use ext::MetaStoreExt;
pub use lease::{HeldLease, LeaseState, lost};
pub use metadata::{Metadata, NewTopic, Office, Records, Versioned};
pub use store::{
    Compare, CompareTarget, Event, KeyValue, Lease, LeaseId, Listing, MAX_KEY_BYTES, MAX_LEASE_TTL,
    MAX_PAGE_LIMIT, MAX_TXN_BYTES, MAX_TXN_OPS, MetaStore, Op, RangePage, RangeRequest, Revision, Txn,
    TxnOutcome, Watch, WatchBatch,
};
pub use url::{Endpoint, EtcdUrl, MetaUrl};

use std::sync::Arc;

/// Opens the metadata store at an address; `etcd` says what an etcd cluster needs beyond its address. Must be called within a
/// tokio runtime.
pub async fn open(url: &MetaUrl, etcd: &EtcdOptions) -> Result<Arc<dyn MetaStore>> {
    Ok(match url {
        MetaUrl::File(dir) => Arc::new(EmbeddedStore::file(dir).await?),
        MetaUrl::Memory => Arc::new(EmbeddedStore::memory()),
        MetaUrl::Etcd(url) => Arc::new(EtcdStore::connect(url, etcd).await?),
    })
}
