//! The metadata store: a small KV trait with etcd's semantics, its backends, one conformance suite that all of them
//! pass, and typed records on top.
//!
//! Invariant: this is the only crate that names a metadata backend.
//! Invariant: nothing here is written per produce request.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod embedded;
mod error;
mod ext;
mod metadata;
pub mod records;
mod store;
mod url;

pub use embedded::EmbeddedStore;
pub use error::{Error, ErrorKind, Result};
pub use ext::{Listing, MetaStoreExt};
pub use metadata::{Metadata, NewTopic, Office, Records, Versioned};
pub use store::{
    Compare, CompareTarget, Event, KeyValue, LeaseId, MAX_KEY_BYTES, MAX_LEASE_TTL, MAX_PAGE_LIMIT,
    MAX_TXN_BYTES, MAX_TXN_OPS, MetaStore, Op, RangePage, RangeRequest, Revision, Txn, TxnOutcome, Watch,
    WatchBatch,
};
pub use url::{Endpoint, MetaUrl};

use std::sync::Arc;

/// Opens the metadata store at an address. Must be called within a tokio runtime.
pub async fn open(url: &MetaUrl) -> Result<Arc<dyn MetaStore>> {
    match url {
        MetaUrl::File(dir) => Ok(Arc::new(EmbeddedStore::file(dir).await?)),
        MetaUrl::Memory => Ok(Arc::new(EmbeddedStore::memory())),
        MetaUrl::Etcd(_) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("{url}: this build has no etcd backend yet; use file:///absolute/dir for one process"),
        )),
    }
}
