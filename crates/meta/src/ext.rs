//! What callers write often, on top of the narrow trait: single-key compare-and-swap, and listings over all pages.

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    Compare, KeyValue, MAX_PAGE_LIMIT, MetaStore, Op, RangeRequest, Result, Revision, Txn, TxnOutcome,
};

/// All keys under a prefix.
#[derive(Clone, Debug)]
pub struct Listing {
    pub kvs: Vec<KeyValue>,
    /// Watch from `revision.next()` to see everything that this listing may have missed.
    pub revision: Revision,
}

/// Conveniences that every [`MetaStore`] has.
#[async_trait]
pub trait MetaStoreExt: MetaStore {
    /// Sets a key, whatever it held.
    async fn put(&self, key: &str, value: Bytes) -> Result<Revision> {
        Ok(self.txn(Txn::new().and_then(Op::put(key, value))).await?.revision)
    }

    /// Sets a key that does not exist yet.
    async fn put_if_absent(&self, key: &str, value: Bytes) -> Result<TxnOutcome> {
        self.txn(Txn::new().when(Compare::absent(key)).and_then(Op::put(key, value))).await
    }

    /// Replaces the value that was put at `expected`; `None` means that the key must not exist.
    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<Revision>,
        value: Bytes,
    ) -> Result<TxnOutcome> {
        let compare = match expected {
            Some(revision) => Compare::mod_revision(key, revision),
            None => Compare::absent(key),
        };
        self.txn(Txn::new().when(compare).and_then(Op::put(key, value))).await
    }

    /// Removes a key, if it exists.
    async fn delete(&self, key: &str) -> Result<Revision> {
        Ok(self.txn(Txn::new().and_then(Op::delete(key))).await?.revision)
    }

    /// Reads all pages under a prefix. The revision is that of the first page, so that a watch from the next one
    /// misses nothing that changed while the later pages were read.
    async fn range_all(&self, prefix: &str) -> Result<Listing> {
        let mut listing: Option<Listing> = None;
        let mut start_after = None;
        loop {
            let page = self
                .range(RangeRequest { prefix: prefix.to_owned(), start_after, limit: MAX_PAGE_LIMIT })
                .await?;
            let so_far = listing.get_or_insert(Listing { kvs: Vec::new(), revision: page.revision });
            so_far.kvs.extend(page.kvs);
            start_after = so_far.kvs.last().map(|kv| kv.key.clone());
            if !page.more {
                break;
            }
        }
        Ok(listing.expect("the loop reads at least one page"))
    }
}

impl<S: MetaStore + ?Sized> MetaStoreExt for S {}
