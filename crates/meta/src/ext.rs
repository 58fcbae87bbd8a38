//! What callers write often, on top of the narrow trait: changes of a single key.

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Compare, MetaStore, Op, Result, Revision, Txn, TxnOutcome};

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
}

impl<S: MetaStore + ?Sized> MetaStoreExt for S {}
