//! A publication that was done and whose answer was lost, while the chain that its records came from is collected.

use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use kafscale_meta::{
    Error, ErrorKind, KeyValue, Lease, LeaseId, Listing, RangePage, RangeRequest, Result, Revision, Txn,
    TxnOutcome, Watch,
};

use super::*;

/// Does transactions, and says while it is silent that there was no answer.
#[derive(Debug)]
struct Silent {
    inner: Arc<dyn MetaStore>,
    silent: AtomicBool,
}

#[async_trait]
impl MetaStore for Silent {
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        let outcome = self.inner.txn(txn).await?;
        match self.silent.load(Ordering::Relaxed) {
            true => Err(Error::new(ErrorKind::Retry, "no answer in time; it may have been done")),
            false => Ok(outcome),
        }
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        self.inner.get(key).await
    }

    async fn range(&self, request: RangeRequest) -> Result<RangePage> {
        self.inner.range(request).await
    }

    async fn range_all(&self, prefix: &str) -> Result<Listing> {
        self.inner.range_all(prefix).await
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

#[tokio::test(start_paused = true)]
async fn an_owner_goes_on_where_its_publication_was_done_without_an_answer() {
    let mut cluster = Cluster::new();
    cluster.config.tail_cache_bytes = 0;
    let first = cluster.owner(1, 0).await;
    let p = partition(&first, 0);
    let wrote: Vec<_> = (0..5).map(|tag| (2, tag)).collect();
    for (records, tag) in &wrote {
        append(&p, *records, *tag).await;
    }
    let plain = cluster.meta.clone();
    let deaf = Arc::new(Silent { inner: plain.clone(), silent: AtomicBool::new(false) });
    cluster.meta = deaf.clone();
    let second = cluster.broker(2).await;
    cluster.meta = plain;
    let third = cluster.broker(3).await;
    seal(&third, &first).await;
    deaf.silent.store(true, Ordering::Relaxed);
    for (_, outcome) in second.acquire(hosted(1)).await {
        assert_eq!(outcome, Ok(()));
    }
    while cluster.record(&first).await.is_some() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        third.collect().await.unwrap();
    }
    // The next attempt to rewrite finds that there is nothing to do.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let p = partition(&second, 0);
    assert_eq!(read_all(&p, 0).await, expected(&wrote));
    deaf.silent.store(false, Ordering::Relaxed);
    assert_eq!(append(&p, 1, 9).await, Offset(10));
    assert_eq!(p.delete_records(Offset(4)).await, Ok(Offset(4)));
    second.release(p.id()).await.unwrap();
    third.acquire(hosted(2)).await;
    let rest: Vec<_> = wrote.iter().copied().chain([(1, 9)]).collect();
    assert_eq!(read_all(&partition(&third, 0), 4).await, expected(&rest)[4..]);
}
