//! An object store in memory that fails as a test asks it to: requests that never arrive, answers that get lost, conflicts, refusals,
//! and requests that are held until the test lets them go.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Put,
    Get,
    List,
    Delete,
}

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Fault {
    None,
    /// It is not done, and the connection breaks.
    LostRequest,
    /// It is done, and the connection breaks before the answer.
    LostAnswer,
    /// 503, not done.
    SlowDown,
    /// 409, not done: another request for the same name is under way.
    Conflict,
    /// It never gets an answer, and is not done.
    Silence,
    /// It is done when the test adds a permit.
    HeldBefore(Arc<Semaphore>),
    /// It is done at once; the connection breaks when the test adds a permit.
    HeldAnswer(Arc<Semaphore>),
}

type Rule = Box<dyn FnMut(Asked, &Path) -> Fault + Send>;

pub struct Faulty {
    pub inner: InMemory,
    rule: Mutex<Rule>,
    asked: Mutex<Vec<(Asked, Path)>>,
    overwrites: AtomicBool,
}

impl Faulty {
    pub fn new() -> Arc<Faulty> {
        let rule: Rule = Box::new(|_, _| Fault::None);
        Arc::new(Faulty {
            inner: InMemory::new(),
            rule: Mutex::new(rule),
            asked: Mutex::default(),
            overwrites: AtomicBool::new(false),
        })
    }

    /// From now on, this decides what happens to each request.
    pub fn rule(&self, rule: impl FnMut(Asked, &Path) -> Fault + Send + 'static) {
        *self.rule.lock() = Box::new(rule);
    }

    /// From now on it creates what is there already, as stores do that do not know of conditions.
    pub fn ignore_conditions(&self) {
        self.overwrites.store(true, Ordering::Relaxed);
    }

    pub fn heal(&self) {
        self.rule(|_, _| Fault::None);
    }

    /// How many requests of a kind there were for paths that begin so.
    pub fn count(&self, kind: Asked, prefix: &str) -> usize {
        self.asked.lock().iter().filter(|(k, path)| *k == kind && path.as_ref().starts_with(prefix)).count()
    }

    pub fn total(&self) -> usize {
        self.asked.lock().len()
    }

    async fn ask<T>(&self, kind: Asked, path: &Path, request: impl Future<Output = Result<T>>) -> Result<T> {
        self.asked.lock().push((kind, path.clone()));
        let fault = (self.rule.lock())(kind, path);
        match fault {
            Fault::None => request.await,
            Fault::LostRequest => Err(broken()),
            Fault::LostAnswer => {
                let _ = request.await;
                Err(broken())
            }
            Fault::SlowDown => Err(slow_down()),
            Fault::Conflict => {
                Err(Error::AlreadyExists { path: path.to_string(), source: "status code: 409".into() })
            }
            Fault::Silence => std::future::pending().await,
            Fault::HeldBefore(gate) => {
                gate.acquire().await.expect("never closed").forget();
                request.await
            }
            Fault::HeldAnswer(gate) => {
                let _ = request.await;
                gate.acquire().await.expect("never closed").forget();
                Err(broken())
            }
        }
    }
}

fn broken() -> Error {
    Error::Generic { store: "S3", source: "connection reset".into() }
}

fn slow_down() -> Error {
    let source = "Server returned non-2xx status code: 503 Service Unavailable: SlowDown".into();
    Error::Generic { store: "S3", source }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").finish_non_exhaustive()
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let options = if self.overwrites.load(Ordering::Relaxed) { PutOptions::default() } else { options };
        self.ask(Asked::Put, location, self.inner.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.ask(Asked::Get, location, self.inner.get_opts(location, options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.ask(Asked::Get, location, self.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        // Each by itself, and only what the rule lets through.
        let inner = self.inner.clone();
        let (mut allowed, mut refused) = (Vec::new(), Vec::new());
        let mut locations = locations;
        while let Some(Some(location)) = futures_util::FutureExt::now_or_never(locations.next()) {
            let Ok(path) = location else { continue };
            self.asked.lock().push((Asked::Delete, path.clone()));
            match (self.rule.lock())(Asked::Delete, &path) {
                Fault::None => allowed.push(Ok(path)),
                _ => refused.push(Err(slow_down())),
            }
        }
        inner.delete_stream(stream::iter(allowed).boxed()).chain(stream::iter(refused)).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let path = prefix.cloned().unwrap_or_default();
        self.asked.lock().push((Asked::List, path.clone()));
        match (self.rule.lock())(Asked::List, &path) {
            Fault::None => self.inner.list(prefix),
            _ => stream::iter([Err(slow_down())]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
