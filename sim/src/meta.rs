//! The metadata store: the embedded one, on a machine of its own, behind a network that fails.
//!
//! Its errors are those of the client of etcd: a request without an answer is worth another try, and may have been carried out.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use kafscale_meta::{
    EmbeddedStore, Error, ErrorKind, KeyValue, Lease, LeaseId, Listing, MetaStore, Op, RangePage,
    RangeRequest, Result, Revision, Txn, TxnOutcome, Watch, WatchBatch,
};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::faults::{Answer, Faults, Service};
use crate::process::Process;
use crate::trespass;

/// The metadata that processes are started with: that of the store with the log, or for a while another one.
#[derive(Debug, Clone)]
pub struct Registry {
    right: Arc<EmbeddedStore>,
    misplaced: Arc<Mutex<Option<Arc<EmbeddedStore>>>>,
}

impl Registry {
    pub fn new(right: EmbeddedStore) -> Registry {
        Registry { right: Arc::new(right), misplaced: Arc::default() }
    }

    /// The metadata that belongs to the store.
    pub fn right(&self) -> &Arc<EmbeddedStore> {
        &self.right
    }

    pub fn current(&self) -> Arc<EmbeddedStore> {
        self.misplaced.lock().clone().unwrap_or_else(|| Arc::clone(&self.right))
    }

    pub fn is_misplaced(&self) -> bool {
        self.misplaced.lock().is_some()
    }

    /// Gives other metadata to the processes that are started from now on.
    pub fn misplace(&self, other: EmbeddedStore) {
        *self.misplaced.lock() = Some(Arc::new(other));
    }

    /// Gives the right one again. `false` when it was there.
    pub fn put_back(&self) -> bool {
        self.misplaced.lock().take().is_some()
    }
}

/// The store as one process reaches it.
#[derive(Debug, Clone)]
pub struct SimMeta {
    store: Arc<EmbeddedStore>,
    process: Process,
}

impl SimMeta {
    pub fn new(store: Arc<EmbeddedStore>, process: Process) -> SimMeta {
        SimMeta { store, process }
    }

    async fn request<T: Send + 'static>(
        &self,
        verb: &str,
        kind: &str,
        apply: impl Fn(&EmbeddedStore) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = Arc::clone(&self.store);
        let step = format!("{verb} {kind}");
        let outcome = self.process.request(Service::Metadata, &step, false, move || apply(&store)).await;
        outcome.unwrap_or_else(|answer| Err(unanswered(answer)))
    }
}

fn unanswered(answer: Answer) -> Error {
    let why = match answer {
        Answer::Outcome | Answer::Timeout | Answer::Conflict => {
            "no answer from the metadata store in time; it may have been done"
        }
        Answer::Refused => "the metadata store has no leader at the moment",
    };
    Error::new(ErrorKind::Retry, why)
}

/// The embedded store never waits, except for changes.
pub fn ready<T>(outcome: impl Future<Output = Result<T>>) -> Result<T> {
    let waits = || Err(Error::new(ErrorKind::Internal, "the embedded store waits"));
    outcome.now_or_never().unwrap_or_else(waits)
}

/// The kind of record that a key is for: its segment after `/kafscale/{cluster}/`.
fn kind(key: &str) -> &str {
    key.split('/').nth(3).filter(|kind| !kind.is_empty()).unwrap_or("records")
}

fn kind_of(txn: &Txn) -> &str {
    match txn.then.first() {
        Some(Op::Put { key, .. } | Op::Delete { key }) => kind(key),
        Some(Op::DeletePrefix { prefix }) => kind(prefix),
        None => "nothing",
    }
}

#[async_trait]
impl MetaStore for SimMeta {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        let wanted = key.to_owned();
        self.request("read", kind(key), move |store| ready(store.get(&wanted))).await
    }

    async fn range(&self, request: RangeRequest) -> Result<RangePage> {
        let kind = kind(&request.prefix).to_owned();
        self.request("list", &kind, move |store| ready(store.range(request.clone()))).await
    }

    async fn range_all(&self, prefix: &str) -> Result<Listing> {
        let wanted = prefix.to_owned();
        self.request("list", kind(prefix), move |store| ready(store.range_all(&wanted))).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        let kind = kind_of(&txn).to_owned();
        let process = self.process.clone();
        let apply = move |store: &EmbeddedStore| {
            let trespass = trespass::found(store, &txn, process.node);
            let outcome = ready(store.txn(txn.clone()));
            if let (Some(what), Ok(TxnOutcome { succeeded: true, .. })) = (trespass, &outcome) {
                process.note_trespass(what);
            }
            outcome
        };
        self.request("write", &kind, apply).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Box<dyn Watch>> {
        let wanted = prefix.to_owned();
        let watch =
            self.request("watch", kind(prefix), move |store| ready(store.watch(&wanted, from))).await?;
        // What a watcher does not take is bounded by how much a simulation writes.
        let (sender, batches) = mpsc::unbounded_channel();
        let (faults, host) = (self.process.faults().clone(), self.process.host);
        self.process.services().spawn(deliver(watch, sender, faults, host));
        Ok(Box::new(SimWatch { batches }))
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease> {
        let asked = Instant::now();
        let lease = self.request("grant", "lease", move |store| ready(store.lease_grant(ttl))).await?;
        // By this process's clock, and from before the request.
        Ok(Lease { id: lease.id, valid_until: asked + ttl })
    }

    async fn lease_keepalive(&self, lease: LeaseId) -> Result<Instant> {
        let asked = Instant::now();
        let keep = move |store: &EmbeddedStore| {
            let now = Instant::now();
            ready(store.lease_keepalive(lease)).map(|until| until - now)
        };
        Ok(asked + self.request("keep", "lease", keep).await?)
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<()> {
        self.request("revoke", "lease", move |store| ready(store.lease_revoke(lease))).await
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// Brings the changes to a watcher, in order, whenever it can be reached.
async fn deliver(
    mut watch: Box<dyn Watch>,
    sender: mpsc::UnboundedSender<Result<WatchBatch>>,
    faults: Faults,
    host: i32,
) {
    loop {
        let batch = tokio::select! {
            batch = watch.next() => batch,
            () = sender.closed() => return,
        };
        let compacted = faults.compacts();
        sleep(faults.latency(1, 8)).await;
        faults.reachable(Service::Metadata, host).await;
        let over = batch.is_err() || compacted;
        let heard =
            if compacted { Err(Error::new(ErrorKind::Compacted, "changes were compacted")) } else { batch };
        if sender.send(heard).is_err() || over {
            return;
        }
    }
}

#[derive(Debug)]
struct SimWatch {
    batches: mpsc::UnboundedReceiver<Result<WatchBatch>>,
}

#[async_trait]
impl Watch for SimWatch {
    async fn next(&mut self) -> Result<WatchBatch> {
        let over = || Err(Error::new(ErrorKind::Retry, "the watch is over"));
        self.batches.recv().await.unwrap_or_else(over)
    }
}
