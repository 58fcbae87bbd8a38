//! Whether a log would open, found out without changing anything: not in its directory, and not in its store.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use kafscale_meta::MetaStore;
use kafscale_meta::records::Keyspace;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::identity::{self, Binding, Decided};
use super::recover::{claim_to_look, wal_dir};
use super::{LogConfig, StoreUrl, other_nodes};
use crate::error::OpenError;
use crate::store::{open_store, open_to_look};
use crate::wal::recovery::{self, RecoveredFile};

/// What was found in a directory, which is kept for this process until the log is opened with it: nothing is read twice.
#[derive(Debug)]
pub struct Looked {
    pub(super) lock: File,
    pub(super) recovered: Vec<RecoveredFile>,
    pub(super) decided: Decided,
}

/// Fails as [`Log::open`](super::Log::open) would, where the directory or the identities of the store and of the metadata are the
/// reason. `meta` may be a copy of the metadata, of which the incarnation that is to open the log is no part yet.
pub async fn look(
    config: &LogConfig,
    meta: &dyn MetaStore,
    keys: &Keyspace,
    now_ms: i64,
) -> Result<Option<Looked>, OpenError> {
    let unopened = |e: kafscale_meta::Error| OpenError::Meta(e.to_string());
    let incarnation = identity::last_epoch(meta, keys).await.map_err(unopened)? + 1;
    let config = LogConfig { incarnation, ..config.clone() };
    let (store, lock, recovered): (Arc<dyn ObjectStore>, _, _) = match &config.store {
        StoreUrl::Memory => return Ok(None),
        url @ (StoreUrl::S3(_) | StoreUrl::Shared(_)) => {
            (open_store(url, &Arc::default()).map_err(|e| OpenError::Store(e.to_string()))?, None, Vec::new())
        }
        StoreUrl::File(dir) => {
            let (directory, wal) = (dir.clone(), wal_dir(dir, config.node_id));
            let recovered = tokio::task::spawn_blocking(move || recovered(&directory, &wal));
            let (lock, recovered) = recovered.await.expect("recovery does not panic")?;
            let store: Arc<dyn ObjectStore> = match dir.is_dir() {
                true => open_to_look(dir).map_err(|e| OpenError::Store(e.to_string()))?,
                false => Arc::new(InMemory::new()),
            };
            (store, lock, recovered)
        }
    };
    let binding = Binding { config: &config, store: &*store, meta, keys, recovered: &recovered, now_ms };
    let decided = binding.check().await?;
    if let StoreUrl::File(dir) = &config.store {
        other_nodes::check(dir, config.node_id, meta, keys).await?;
    }
    Ok(lock.map(|lock| Looked { lock, recovered, decided }))
}

/// The write-ahead files of a directory that nobody has open and that is of a known version, where it is one at all.
fn recovered(dir: &Path, wal: &Path) -> Result<(Option<File>, Vec<RecoveredFile>), OpenError> {
    let lock = match claim_to_look(dir) {
        Err(OpenError::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => None,
        claimed => claimed?,
    };
    Ok((lock, recovery::recover(wal)?))
}
