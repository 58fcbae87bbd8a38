//! Deleting segments that a published manifest does not name any more, and trying again where that fails.
//!
//! What cannot be deleted is remembered, and tried again with each round of retention. What is forgotten, because the process ends or
//! too much fails, is an orphan from then on, and [`super::orphans`] collects it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use object_store::path::Path;
use object_store::{Error, ObjectStoreExt};
use parking_lot::Mutex;

use super::identity::still_bound;
use super::shared::Shared;

/// More objects than this are not remembered.
const UNDELETED_MAX: usize = 10_000;

/// Objects whose deletion failed, oldest first.
#[derive(Debug, Default)]
pub struct Undeleted(Mutex<VecDeque<Path>>);

impl Undeleted {
    fn remember(&self, path: Path) {
        let mut paths = self.0.lock();
        if paths.len() < UNDELETED_MAX {
            paths.push_back(path);
        }
    }
}

/// Deletes an object that is not needed any more.
pub async fn delete_object(shared: &Shared, object: &str) {
    shared.damages().forget(object);
    let path = Path::from(object);
    if let Err(error) = delete(shared, &path).await {
        tracing::warn!(object, %error, "cannot delete an object; trying again with the next round of retention");
        shared.undeleted.remember(path);
    }
}

/// Counts only what is gone.
async fn delete(shared: &Shared, path: &Path) -> Result<(), Error> {
    match shared.store.delete(path).await {
        Ok(()) | Err(Error::NotFound { .. }) => {
            shared.counters.segments_deleted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        Err(error) => {
            shared.counters.segment_delete_failures.fetch_add(1, Ordering::Relaxed);
            Err(error)
        }
    }
}

/// Tries again what failed, until something fails again.
pub async fn retry_deletes(shared: &Shared) {
    let waiting = shared.undeleted.0.lock().len();
    // A cluster that was restored meanwhile may name an object again.
    if waiting == 0 || !matches!(still_bound(shared).await, Ok(true)) {
        return;
    }
    for _ in 0..waiting {
        let Some(path) = shared.undeleted.0.lock().pop_front() else { return };
        if let Err(error) = delete(shared, &path).await {
            tracing::warn!(%path, %error, waiting, "objects that are not needed any more cannot be deleted");
            shared.undeleted.remember(path);
            return;
        }
    }
}
