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
pub mod files;
mod lease;
mod local;
mod metadata;
pub mod records;
mod store;
mod url;

pub use embedded::{EmbeddedStore, HeldStore};
pub use error::{Error, ErrorKind, Result};
pub use etcd::{Credentials, EtcdOptions, EtcdReader, EtcdStore, RawKey, RawPage, Span, TlsOptions};
pub use ext::MetaStoreExt;
pub use lease::{HeldLease, LeaseState, lost};
pub use local::{LocalReader, MetaSocket};
pub use metadata::{Metadata, NewTopic, Office, Records, Versioned};
pub use store::{
    Compare, CompareTarget, Event, KeyValue, Lease, LeaseId, Listing, MAX_KEY_BYTES, MAX_LEASE_TTL,
    MAX_PAGE_LIMIT, MAX_TXN_BYTES, MAX_TXN_OPS, MetaStore, Op, RangePage, RangeRequest, Revision, Txn,
    TxnOutcome, Watch, WatchBatch,
};
pub use url::{Endpoint, EtcdUrl, MetaUrl};

use std::sync::Arc;

/// [`open`] for whoever only reads: where there is nothing, nothing is made, and that is an error.
pub async fn open_existing(url: &MetaUrl, etcd: &EtcdOptions) -> Result<Arc<dyn MetaStore>> {
    match url {
        MetaUrl::File(dir) if !EmbeddedStore::exists(dir) => Err(Error::invalid(format!(
            "there is no metadata in {}: no broker has kept it there",
            dir.display()
        ))),
        // An empty one, for trying out; nothing of it stays.
        MetaUrl::File(_) | MetaUrl::Memory | MetaUrl::Etcd(_) => open(url, etcd).await,
    }
}

/// [`open_existing`] for whoever changes nothing, beside a broker that may have embedded metadata open.
pub async fn open_for_reading(url: &MetaUrl, etcd: &EtcdOptions) -> Result<Arc<dyn MetaStore>> {
    match url {
        MetaUrl::File(dir) => Ok(Arc::new(LocalReader::open(dir).await?)),
        MetaUrl::Memory | MetaUrl::Etcd(_) => open(url, etcd).await,
    }
}

/// Opens the metadata store at an address; `etcd` says what an etcd cluster needs beyond its address. Must be called within a
/// tokio runtime.
pub async fn open(url: &MetaUrl, etcd: &EtcdOptions) -> Result<Arc<dyn MetaStore>> {
    Ok(match url {
        MetaUrl::File(dir) => Arc::new(EmbeddedStore::file(dir).await?),
        MetaUrl::Memory => Arc::new(EmbeddedStore::memory()),
        MetaUrl::Etcd(url) => Arc::new(EtcdStore::connect(url, etcd).await?),
    })
}
