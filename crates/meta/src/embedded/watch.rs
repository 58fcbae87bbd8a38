//! Who waits for changes below a prefix. A commit wakes those whom it concerns, and nobody else: a broker has a dozen watchers, and
//! makes thousands of commits of offsets a second that none of them waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Shared;
use crate::{Result, Revision, Watch, WatchBatch};

/// The watchers of a store.
#[derive(Debug, Default)]
pub(super) struct Watchers(Mutex<Vec<Arc<Watcher>>>);

/// What a watcher and the store have in common.
#[derive(Debug)]
pub(super) struct Watcher {
    prefix: String,
    wake: Notify,
    /// The first revision that it has not seen, nor anybody for it. Read and written with the image locked.
    next: AtomicU64,
}

impl Watchers {
    /// Those whom a change of the store concerns, to be woken. The others need not look at it, if they have seen what was before. The
    /// image is locked for writing.
    pub(super) fn concerned(
        &self,
        before: Revision,
        after: Revision,
        touches: impl Fn(&str) -> bool,
    ) -> Vec<Arc<Watcher>> {
        let mut concerned = Vec::new();
        for watcher in &*self.0.lock() {
            if touches(&watcher.prefix) {
                concerned.push(Arc::clone(watcher));
            } else if watcher.next.load(Ordering::Relaxed) == before.next().0 {
                watcher.next.store(after.next().0, Ordering::Relaxed);
            }
        }
        concerned
    }

    pub(super) fn wake_all(&self) {
        self.0.lock().iter().for_each(|watcher| watcher.wake());
    }

    fn add(&self, prefix: &str, from: Revision) -> Arc<Watcher> {
        let (wake, next) = (Notify::new(), AtomicU64::new(from.0));
        let watcher = Arc::new(Watcher { prefix: prefix.to_owned(), wake, next });
        self.0.lock().push(Arc::clone(&watcher));
        watcher
    }

    fn remove(&self, watcher: &Arc<Watcher>) {
        self.0.lock().retain(|other| !Arc::ptr_eq(other, watcher));
    }
}

impl Watcher {
    /// Also if it is not waiting yet.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }
}

/// A cursor into the history of the image: it holds nothing, so a slow watcher costs nothing.
#[derive(Debug)]
pub(super) struct EmbeddedWatch {
    shared: Arc<Shared>,
    watcher: Arc<Watcher>,
}

impl EmbeddedWatch {
    /// From a revision on, or from the next one, if that is 0.
    pub(super) fn new(shared: Arc<Shared>, prefix: &str, from: Revision) -> Result<Self> {
        let image = shared.image.read();
        image.check_open()?;
        let from = if from == Revision(0) { image.revision().next() } else { from };
        let watcher = shared.watchers.add(prefix, from);
        drop(image);
        Ok(Self { shared, watcher })
    }
}

impl Drop for EmbeddedWatch {
    fn drop(&mut self) {
        self.shared.watchers.remove(&self.watcher);
    }
}

#[async_trait]
impl Watch for EmbeddedWatch {
    async fn next(&mut self) -> Result<WatchBatch> {
        let Watcher { prefix, wake, next } = &*self.watcher;
        loop {
            {
                let image = self.shared.image.read();
                let mut seen_to = Revision(next.load(Ordering::Relaxed));
                let found = image.changes(prefix, &mut seen_to)?;
                next.store(seen_to.0, Ordering::Relaxed);
                if let Some(batch) = found {
                    return Ok(batch);
                }
                image.check_open()?;
            }
            // What happened since wakes it as well.
            wake.notified().await;
        }
    }
}
