//! The embedded store: one process, no server. In memory only, or durable in a file.
//!
//! All reads and watches are served from an image in memory ([`image`]). With a file, one thread commits the transactions
//! that are waiting together ([`writer`]) to the disk ([`disk`]) and applies them to the image in that order; an answer
//! means that the commit is durable. A [`journal`] of the last commits stands beside the file, so that damage cannot roll one back
//! unnoticed. In memory, a transaction is applied where it is called, without a thread, so that a
//! simulation with a paused clock is exact.
//!
//! Leases run on tokio's clock and do not survive the store: its only client is the process that opened it, so keys that
//! were bound to a lease are removed when the file is opened again.

mod disk;
mod image;
mod journal;
mod tandem;
mod watch;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use self::{disk::Disk, image::Image, watch::EmbeddedWatch, watch::Watchers, writer::Mailbox};
use crate::{
    Error, KeyValue, Lease, LeaseId, Listing, MetaStore, RangePage, RangeRequest, Result, Revision, Txn,
    TxnOutcome, Watch,
    store::{lease_gone, validate_key, validate_ttl},
};

/// After a lease's keys could not be removed because the disk failed, try again so much later.
const EXPIRY_RETRY: Duration = Duration::from_secs(1);

/// What changes the state: staged, committed and applied in one order.
#[derive(Debug)]
pub(crate) enum Command {
    Txn(Txn),
    Revoke(LeaseId),
}

/// The embedded metadata store.
#[derive(Debug)]
pub struct EmbeddedStore {
    core: Arc<Core>,
    expiry: JoinHandle<()>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

#[derive(Debug)]
struct Core {
    shared: Arc<Shared>,
    engine: Engine,
    lease_changed: Notify,
}

/// How a command is made durable.
#[derive(Debug)]
enum Engine {
    Memory,
    File(Arc<Mailbox>),
}

/// What readers, watchers and the writer share.
#[derive(Debug)]
pub(crate) struct Shared {
    image: RwLock<Image>,
    watchers: Watchers,
}

impl Shared {
    fn new(image: Image) -> Arc<Self> {
        Arc::new(Self { image: RwLock::new(image), watchers: Watchers::default() })
    }

    fn apply(&self, staged: image::Staged) {
        self.apply_to(self.image.write(), staged);
    }

    fn apply_to(&self, mut image: RwLockWriteGuard<'_, Image>, staged: image::Staged) {
        let touches = |prefix: &str| staged.touches(prefix);
        let concerned = self.watchers.concerned(image.revision(), staged.revision(), touches);
        image.apply(staged);
        drop(image);
        concerned.iter().for_each(|watcher| watcher.wake());
    }
}

impl EmbeddedStore {
    /// A store that is gone when it is dropped. Must be called within a tokio runtime.
    pub fn memory() -> Self {
        let image = Image::new(Revision(0), Arc::default());
        Self::start(Shared::new(image), Engine::Memory, None)
    }

    /// Whether there is a store under a directory.
    pub fn exists(dir: &Path) -> bool {
        Self::path_in(dir).exists()
    }

    /// The file of the store under a directory.
    pub(crate) fn path_in(dir: &Path) -> PathBuf {
        disk::file_in(dir)
    }

    /// What the file under a directory holds, in memory; nothing is changed there. Must be called within a tokio runtime.
    pub(crate) async fn copy_of(dir: &Path) -> Result<Self> {
        let dir = dir.to_owned();
        let read = tokio::task::spawn_blocking(move || disk::read_copy(&dir)).await;
        let image =
            read.map_err(|panic| Error::corrupt(format!("reading the metadata store: {panic}")))??;
        Ok(Self::start(Shared::new(image), Engine::Memory, None))
    }

    /// What [`EmbeddedStore::file`] would open, in memory, for a look before that: an empty store where there is none yet. Nothing is
    /// changed under the directory. Must be called within a tokio runtime.
    pub async fn look(dir: &Path) -> Result<Self> {
        disk::check_unused(dir)?;
        if Self::exists(dir) { Self::copy_of(dir).await } else { Ok(Self::memory()) }
    }

    /// The same for one who goes on to open the store with what comes beside it; nobody else can do so meanwhile. It is read only once.
    pub async fn look_and_hold(dir: &Path) -> Result<(Self, HeldStore)> {
        let directory = dir.to_owned();
        let looked = tokio::task::spawn_blocking(move || disk::look(&directory)).await;
        let held = HeldStore { dir: dir.to_owned(), looked: None };
        match looked.map_err(|panic| Error::corrupt(format!("reading the metadata store: {panic}")))?? {
            Some((looked, image)) => {
                let copy = Self::start(Shared::new(image), Engine::Memory, None);
                Ok((copy, HeldStore { looked: Some(looked), ..held }))
            }
            None => Ok((Self::look(dir).await?, held)),
        }
    }

    /// Opens or creates the store in `meta/kafscale.redb` under a directory. Must be called within a tokio runtime.
    pub async fn file(dir: &Path) -> Result<Self> {
        HeldStore { dir: dir.to_owned(), looked: None }.open().await
    }

    fn with_disk(disk: Disk, image: Image) -> Result<Self> {
        let shared = Shared::new(image);
        let mailbox = Arc::new(Mailbox::new());
        let writer = writer::spawn(Arc::clone(&mailbox), Arc::clone(&shared), disk)?;
        Ok(Self::start(shared, Engine::File(mailbox), Some(writer)))
    }

    fn start(shared: Arc<Shared>, engine: Engine, writer: Option<std::thread::JoinHandle<()>>) -> Self {
        let core = Arc::new(Core { shared, engine, lease_changed: Notify::new() });
        let expiry = tokio::spawn(expire_leases(Arc::clone(&core)));
        Self { core, expiry, writer: Mutex::new(writer) }
    }

    /// Refuses further calls. What was accepted is still committed.
    fn shut(&self) {
        self.core.shared.image.write().closed = true;
        self.core.shared.watchers.wake_all();
        self.expiry.abort();
        if let Engine::File(mailbox) = &self.core.engine {
            mailbox.close();
        }
    }
}

/// A store that was looked at, and was not changed so far.
pub struct HeldStore {
    dir: PathBuf,
    looked: Option<disk::Looked>,
}

impl HeldStore {
    /// Opens or creates it. Must be called within a tokio runtime.
    pub async fn open(self) -> Result<EmbeddedStore> {
        let Self { dir, looked } = self;
        let open = move || looked.map_or_else(|| disk::open(&dir), disk::Looked::open);
        let opened = tokio::task::spawn_blocking(open).await;
        let (disk, image) =
            opened.map_err(|panic| Error::corrupt(format!("opening the metadata store: {panic}")))??;
        EmbeddedStore::with_disk(disk, image)
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.shut();
        // Wait for the last commit, which is short: the file can be opened again when this returns.
        if let Some(writer) = self.writer.lock().take() {
            let _ = writer.join();
        }
    }
}

impl Core {
    async fn submit(&self, command: Command) -> Result<TxnOutcome> {
        match &self.engine {
            Engine::Memory => {
                let image = self.shared.image.write();
                image.check_open()?;
                let mut staged = image::Staged::new(&image);
                let outcome = staged.stage(&image, &command)?;
                self.shared.apply_to(image, staged);
                Ok(outcome)
            }
            Engine::File(mailbox) => mailbox.submit(command).await,
        }
    }

    /// Marks the leases that have run out, so that nothing more is done under them, and returns them with the time of
    /// the next one.
    fn run_out_leases(&self, now: Instant) -> (Vec<LeaseId>, Option<Instant>) {
        let mut image = self.shared.image.write();
        let mut expired = Vec::new();
        let mut next = None;
        for (id, lease) in &mut image.leases {
            if lease.deadline <= now {
                lease.expired = true;
                lease.deadline = now + EXPIRY_RETRY;
                expired.push(*id);
            }
            next = Some(next.map_or(lease.deadline, |next: Instant| next.min(lease.deadline)));
        }
        expired.sort_unstable();
        (expired, next)
    }
}

async fn expire_leases(core: Arc<Core>) {
    loop {
        let (expired, next) = core.run_out_leases(Instant::now());
        for lease in expired {
            tracing::info!(lease = lease.0, "lease expired");
            if let Err(error) = core.submit(Command::Revoke(lease)).await {
                tracing::warn!(lease = lease.0, %error, "the keys of an expired lease remain for now");
            }
        }
        let timer = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = timer => {}
            () = core.lease_changed.notified() => {}
        }
    }
}

#[async_trait]
impl MetaStore for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        validate_key(key)?;
        let image = self.core.shared.image.read();
        image.check_open()?;
        Ok(image.get(key))
    }

    async fn range(&self, request: RangeRequest) -> Result<RangePage> {
        validate_key(&request.prefix)?;
        let image = self.core.shared.image.read();
        image.check_open()?;
        Ok(image.range(&request))
    }

    async fn range_all(&self, prefix: &str) -> Result<Listing> {
        validate_key(prefix)?;
        let image = self.core.shared.image.read();
        image.check_open()?;
        Ok(image.list(prefix))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        txn.validate()?;
        self.core.submit(Command::Txn(txn)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Box<dyn Watch>> {
        validate_key(prefix)?;
        Ok(Box::new(EmbeddedWatch::new(Arc::clone(&self.core.shared), prefix, from)?))
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease> {
        validate_ttl(ttl)?;
        let now = Instant::now();
        let id = {
            let mut image = self.core.shared.image.write();
            image.check_open()?;
            image.grant(ttl, now)
        };
        self.core.lease_changed.notify_one();
        Ok(Lease { id, valid_until: now + ttl })
    }

    async fn lease_keepalive(&self, lease: LeaseId) -> Result<Instant> {
        let now = Instant::now();
        let mut image = self.core.shared.image.write();
        image.check_open()?;
        match image.leases.get_mut(&lease) {
            // A lease ends at its deadline, also when the task that removes its keys is late.
            Some(known) if !known.expired && known.deadline > now => {
                known.deadline = now + known.ttl;
                Ok(known.deadline)
            }
            _ => Err(lease_gone(lease)),
        }
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<()> {
        self.core.submit(Command::Revoke(lease)).await.map(|_| ())
    }

    async fn close(&self) -> Result<()> {
        self.shut();
        let writer = self.writer.lock().take();
        if let Some(writer) = writer {
            let joined = tokio::task::spawn_blocking(move || writer.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                return Err(writer::stopped());
            }
        }
        Ok(())
    }
}
