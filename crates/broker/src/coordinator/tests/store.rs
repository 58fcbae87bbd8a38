//! A way to an embedded store that can be slow, broken or deaf. Each coordinator of a test has one of its own to the same store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use kafscale_meta::{
    EmbeddedStore, Error, ErrorKind, KeyValue, Lease, LeaseId, Listing, MetaStore, RangePage, RangeRequest,
    Result, Revision, Txn, TxnOutcome, Watch, WatchBatch,
};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

#[derive(Debug)]
pub struct FaultyStore {
    pub inner: Arc<EmbeddedStore>,
    /// Everything but watches fails.
    pub failing: AtomicBool,
    /// Transactions are done, but said to have failed.
    pub silent: AtomicBool,
    /// Transactions seem to fail, and are kept to be done later.
    pub late: AtomicBool,
    kept: Mutex<Vec<Txn>>,
    pub transactions: AtomicUsize,
    listed: Mutex<Vec<String>>,
    /// A transaction needs a permit, and gives it back.
    pub gate: Semaphore,
    /// Nothing is heard of changes.
    deaf: watch::Sender<bool>,
}

impl FaultyStore {
    pub fn new(inner: Arc<EmbeddedStore>) -> FaultyStore {
        FaultyStore {
            inner,
            failing: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            late: AtomicBool::new(false),
            kept: Mutex::default(),
            transactions: AtomicUsize::new(0),
            listed: Mutex::default(),
            gate: Semaphore::new(1),
            deaf: watch::Sender::new(false),
        }
    }

    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    pub fn be_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }

    pub fn be_late(&self, late: bool) {
        self.late.store(late, Ordering::SeqCst);
    }

    pub fn be_deaf(&self, deaf: bool) {
        self.deaf.send_replace(deaf);
    }

    pub fn transactions(&self) -> usize {
        self.transactions.load(Ordering::SeqCst)
    }

    /// How often a prefix was listed.
    pub fn listings(&self, prefix: &str) -> usize {
        self.listed.lock().iter().filter(|listed| *listed == prefix).count()
    }

    /// Does what was kept, and tells how many of the transactions changed anything.
    pub async fn deliver_late(&self) -> usize {
        let kept = std::mem::take(&mut *self.kept.lock());
        let mut done = 0;
        for txn in kept {
            done += usize::from(self.inner.txn(txn).await.expect("done").succeeded);
        }
        done
    }

    fn check(&self) -> Result<()> {
        if self.failing.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Retry, "made to fail"));
        }
        Ok(())
    }
}

#[derive(Debug)]
struct HardOfHearing {
    inner: Box<dyn Watch>,
    deaf: watch::Receiver<bool>,
    /// Came in and was not heard yet.
    unheard: Option<WatchBatch>,
}

#[async_trait]
impl Watch for HardOfHearing {
    async fn next(&mut self) -> Result<WatchBatch> {
        if self.unheard.is_none() {
            self.unheard = Some(self.inner.next().await?);
        }
        self.deaf.wait_for(|deaf| !deaf).await.expect("the store is there");
        Ok(self.unheard.take().expect("there is one"))
    }
}

#[async_trait]
impl MetaStore for FaultyStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        self.check()?;
        self.inner.get(key).await
    }

    async fn range(&self, request: RangeRequest) -> Result<RangePage> {
        self.check()?;
        self.inner.range(request).await
    }

    async fn range_all(&self, prefix: &str) -> Result<Listing> {
        self.check()?;
        self.listed.lock().push(prefix.to_owned());
        self.inner.range_all(prefix).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        let _permit = self.gate.acquire().await.expect("never closed");
        self.check()?;
        if self.late.load(Ordering::SeqCst) {
            self.kept.lock().push(txn);
            return Err(Error::new(ErrorKind::Retry, "not done yet"));
        }
        self.transactions.fetch_add(1, Ordering::SeqCst);
        let outcome = self.inner.txn(txn).await;
        if self.silent.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Retry, "done, but made to look failed"));
        }
        outcome
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Box<dyn Watch>> {
        let inner = self.inner.watch(prefix, from).await?;
        Ok(Box::new(HardOfHearing { inner, deaf: self.deaf.subscribe(), unheard: None }))
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
