//! Embedded metadata for one who only reads, whether or not a broker has it open.
//!
//! A broker is asked over its socket. Without a broker, and where its socket is for another user, the file is read, into memory, and again whenever it has changed; no lock is taken, which would stand in the way of a broker that
//! starts.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use kafscale_core::backoff::Backoff;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::socket::Socket;
use crate::embedded::EmbeddedStore;
use crate::etcd::{EtcdOptions, EtcdStore};
use crate::{
    Error, ErrorKind, KeyValue, Lease, LeaseId, Listing, MetaStore, RangePage, RangeRequest, Result,
    Revision, Txn, TxnOutcome, Watch,
};

/// A broker that starts or stops has the file for so long at most, with nobody on its socket.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What changes when somebody writes a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    size_bytes: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Result<Stamp> {
        let meta = std::fs::metadata(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::invalid(format!(
                "there is no metadata in {}: no broker has kept it there",
                path.parent().and_then(Path::parent).unwrap_or(path).display()
            )),
            io::ErrorKind::PermissionDenied => {
                Error::new(ErrorKind::Denied, format!("cannot read {}: {e}", path.display()))
            }
            _ => Error::new(ErrorKind::Retry, format!("cannot read {}: {e}", path.display())),
        })?;
        Ok(Stamp { modified: meta.modified().ok(), size_bytes: meta.len(), inode: meta.ino() })
    }
}

#[derive(Clone)]
enum Current {
    Broker(Arc<EtcdStore>),
    Copy(Arc<EmbeddedStore>, Stamp),
}

/// The embedded store under a directory, for reading.
pub struct LocalReader {
    dir: PathBuf,
    options: EtcdOptions,
    /// Held while it is looked for, so that one looks and the others wait.
    current: Mutex<Option<Current>>,
}

impl fmt::Debug for LocalReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalReader").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl LocalReader {
    /// Finds the metadata under a directory. Must be called within a tokio runtime.
    pub async fn open(dir: &Path) -> Result<LocalReader> {
        let reader =
            LocalReader { dir: dir.to_owned(), options: EtcdOptions::default(), current: Mutex::default() };
        reader.store().await?;
        Ok(reader)
    }

    /// Whether a broker was asked the last time.
    pub async fn is_served(&self) -> bool {
        matches!(&*self.current.lock().await, Some(Current::Broker(_)))
    }

    /// What is to be asked now.
    async fn store(&self) -> Result<Arc<dyn MetaStore>> {
        let mut current = self.current.lock().await;
        if let Some(Current::Copy(_, stamp)) = &*current
            && (Stamp::of(&EmbeddedStore::path_in(&self.dir)).ok() != Some(*stamp)
                || self.is_listening().await)
        {
            *current = None;
        }
        if current.is_none() {
            *current = Some(self.find().await?);
        }
        Ok(match current.as_ref().expect("it was just found") {
            Current::Broker(store) => Arc::clone(store) as Arc<dyn MetaStore>,
            Current::Copy(store, _) => Arc::clone(store) as Arc<dyn MetaStore>,
        })
    }

    async fn is_listening(&self) -> bool {
        match Socket::of(&self.dir) {
            Ok(socket) => socket.connect().await.is_ok(),
            Err(_) => false,
        }
    }

    async fn find(&self) -> Result<Current> {
        let (since, mut waits) = (Instant::now(), Backoff::new(PAUSE, PAUSE_MAX, std::process::id().into()));
        loop {
            let error = match self.try_find().await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            // A file that is being written looks damaged. One that is damaged stays so.
            let may_pass = matches!(error.kind(), ErrorKind::Retry | ErrorKind::Corrupt | ErrorKind::InUse);
            if !may_pass || since.elapsed() > PATIENCE {
                return Err(error);
            }
            tokio::time::sleep(waits.pause()).await;
        }
    }

    async fn try_find(&self) -> Result<Current> {
        let path = EmbeddedStore::path_in(&self.dir);
        let before = Stamp::of(&path)?;
        if self.is_listening().await {
            let away = |e: io::Error| Error::new(ErrorKind::Retry, format!("{}: {e}", self.dir.display()));
            let socket = Socket::of(&self.dir).map_err(away)?;
            let store = EtcdStore::connect_socket(socket, &self.options).await?;
            return Ok(Current::Broker(Arc::new(store)));
        }
        let copy = EmbeddedStore::copy_of(&self.dir).await?;
        // A broker may have started, and even have stopped again.
        if Stamp::of(&path)? != before || self.is_listening().await {
            return Err(Error::new(ErrorKind::Retry, format!("{} is being written", path.display())));
        }
        Ok(Current::Copy(Arc::new(copy), before))
    }

    /// Asks, and where a broker is gone, once more.
    async fn ask<T>(
        &self,
        ask: impl Fn(Arc<dyn MetaStore>) -> BoxFuture<'static, Result<T>> + Send + Sync,
    ) -> Result<T> {
        let store = self.store().await?;
        let error = match ask(store).await {
            Err(error) if error.kind() == ErrorKind::Retry => error,
            outcome => return outcome,
        };
        {
            let mut current = self.current.lock().await;
            match &*current {
                Some(Current::Broker(_)) if !self.is_listening().await => *current = None,
                Some(_) | None => return Err(error),
            }
        }
        ask(self.store().await?).await
    }
}

fn for_reading() -> Error {
    Error::new(ErrorKind::Denied, "the metadata was opened for reading only")
}

#[async_trait]
impl MetaStore for LocalReader {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        let key = key.to_owned();
        self.ask(move |store| {
            let key = key.clone();
            Box::pin(async move { store.get(&key).await })
        })
        .await
    }

    async fn range(&self, request: RangeRequest) -> Result<RangePage> {
        self.ask(move |store| {
            let request = request.clone();
            Box::pin(async move { store.range(request).await })
        })
        .await
    }

    async fn range_all(&self, prefix: &str) -> Result<Listing> {
        let prefix = prefix.to_owned();
        self.ask(move |store| {
            let prefix = prefix.clone();
            Box::pin(async move { store.range_all(&prefix).await })
        })
        .await
    }

    async fn txn(&self, _: Txn) -> Result<TxnOutcome> {
        Err(for_reading())
    }

    /// Of a broker that runs. Without one nothing changes, and a broker that starts is not noticed by a watch.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Box<dyn Watch>> {
        let store = self.store().await?;
        if !self.is_served().await {
            return Err(Error::new(
                ErrorKind::Retry,
                "no broker has the metadata open, so that nothing changes",
            ));
        }
        store.watch(prefix, from).await
    }

    async fn lease_grant(&self, _: Duration) -> Result<Lease> {
        Err(for_reading())
    }

    async fn lease_keepalive(&self, _: LeaseId) -> Result<Instant> {
        Err(for_reading())
    }

    async fn lease_revoke(&self, _: LeaseId) -> Result<()> {
        Err(for_reading())
    }

    async fn close(&self) -> Result<()> {
        *self.current.lock().await = None;
        Ok(())
    }
}
