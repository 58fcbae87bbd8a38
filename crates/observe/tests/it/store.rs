//! A metadata store between the server and the real one: it counts what is asked, and can be made to fail or to hang.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kafscale_meta::{
    Error, ErrorKind, KeyValue, Lease, LeaseId, Listing, MetaStore, RangePage, RangeRequest, Result,
    Revision, Txn, TxnOutcome, Watch,
};
use parking_lot::Mutex;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Well,
    /// Answers with an error, at once.
    Failing,
    /// Never answers.
    Hanging,
}

#[derive(Debug)]
pub struct Between {
    inner: Arc<dyn MetaStore>,
    pub mood: Mutex<Mood>,
    pub reads: AtomicUsize,
    pub writes: AtomicUsize,
}

impl Between {
    pub fn new(inner: Arc<dyn MetaStore>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            mood: Mutex::default(),
            reads: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
        })
    }

    async fn pass(&self, counter: &AtomicUsize) -> Result<()> {
        counter.fetch_add(1, Ordering::Relaxed);
        let mood = *self.mood.lock();
        match mood {
            Mood::Well => Ok(()),
            Mood::Failing => Err(Error::new(ErrorKind::Retry, "no member of etcd can be reached")),
            Mood::Hanging => std::future::pending().await,
        }
    }
}

#[async_trait::async_trait]
impl MetaStore for Between {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        self.pass(&self.reads).await?;
        self.inner.get(key).await
    }

    async fn range(&self, request: RangeRequest) -> Result<RangePage> {
        self.pass(&self.reads).await?;
        self.inner.range(request).await
    }

    async fn range_all(&self, prefix: &str) -> Result<Listing> {
        self.pass(&self.reads).await?;
        self.inner.range_all(prefix).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        self.pass(&self.writes).await?;
        self.inner.txn(txn).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Box<dyn Watch>> {
        self.inner.watch(prefix, from).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease> {
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
