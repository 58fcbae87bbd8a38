//! An embedded store whose transactions can be held back or made to fail.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use kafscale_meta::{
    EmbeddedStore, Error, ErrorKind, KeyValue, Lease, LeaseId, Listing, MetaStore, RangePage, RangeRequest,
    Result, Revision, Txn, TxnOutcome, Watch,
};
use tokio::sync::Semaphore;

#[derive(Debug)]
pub struct FaultyStore {
    pub inner: EmbeddedStore,
    pub failing: AtomicBool,
    /// Transactions are done, but said to have failed.
    pub silent: AtomicBool,
    pub transactions: AtomicUsize,
    /// A transaction needs a permit, and gives it back.
    pub gate: Semaphore,
}

impl FaultyStore {
    pub fn new() -> FaultyStore {
        FaultyStore {
            inner: EmbeddedStore::memory(),
            failing: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            transactions: AtomicUsize::new(0),
            gate: Semaphore::new(1),
        }
    }

    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    pub fn be_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }

    pub fn transactions(&self) -> usize {
        self.transactions.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl MetaStore for FaultyStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        self.inner.get(key).await
    }

    async fn range(&self, request: RangeRequest) -> Result<RangePage> {
        self.inner.range(request).await
    }

    async fn range_all(&self, prefix: &str) -> Result<Listing> {
        self.inner.range_all(prefix).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        let _permit = self.gate.acquire().await.expect("never closed");
        if self.failing.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Retry, "made to fail"));
        }
        self.transactions.fetch_add(1, Ordering::SeqCst);
        let outcome = self.inner.txn(txn).await;
        if self.silent.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Retry, "done, but made to look failed"));
        }
        outcome
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Box<dyn Watch>> {
        self.inner.watch(prefix, from).await
    }

    async fn lease_grant(&self, ttl: std::time::Duration) -> Result<Lease> {
        self.inner.lease_grant(ttl).await
    }

    async fn lease_keepalive(&self, lease: LeaseId) -> Result<tokio::time::Instant> {
        self.inner.lease_keepalive(lease).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<()> {
        self.inner.lease_revoke(lease).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
