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
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
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
    /// 403, not done.
    Denied,
    /// 404, not done.
    NoBucket,
    /// 409, not done: another request for the same name is under way.
    Conflict,
    /// It never gets an answer, and is not done.
    Silence,
    /// A read: half of the answer arrives, then the connection breaks.
    Cut,
    /// A read: half of the answer arrives, and that was all.
    Short,
    /// A read: half of the answer arrives, and then nothing more.
    Stall,
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

    fn fault(&self, kind: Asked, path: &Path) -> Fault {
        self.asked.lock().push((kind, path.clone()));
        (self.rule.lock())(kind, path)
    }

    async fn ask<T>(&self, kind: Asked, path: &Path, request: impl Future<Output = Result<T>>) -> Result<T> {
        carry_out(self.fault(kind, path), path, request).await
    }
}

async fn carry_out<T>(fault: Fault, path: &Path, request: impl Future<Output = Result<T>>) -> Result<T> {
    match fault {
        // What becomes of a body is not decided here.
        Fault::None | Fault::Cut | Fault::Short | Fault::Stall => request.await,
        Fault::LostRequest => Err(broken()),
        Fault::LostAnswer => {
            let _ = request.await;
            Err(broken())
        }
        Fault::SlowDown => Err(slow_down()),
        Fault::Denied => Err(refused("403 Forbidden: AccessDenied")),
        Fault::NoBucket => Err(refused("404 Not Found: NoSuchBucket")),
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

/// The half of an answer that arrives, and what comes after it.
async fn half(got: GetResult, fault: &Fault) -> Result<GetResult> {
    let GetResult { meta, range, attributes, .. } = &got;
    let (meta, range, attributes) = (meta.clone(), range.clone(), attributes.clone());
    let bytes = got.bytes().await?;
    let arrived = stream::iter([Ok(bytes.slice(..bytes.len() / 2))]);
    let eof = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    let parts = match fault {
        Fault::Cut => {
            // As the client of S3 says it.
            let cut = Error::Generic { store: "S3", source: Box::new(eof()) };
            arrived.chain(stream::iter([Err(cut)])).boxed()
        }
        Fault::Stall => arrived.chain(stream::pending()).boxed(),
        _ => arrived.boxed(),
    };
    Ok(GetResult { payload: GetResultPayload::Stream(parts), meta, range, attributes })
}

fn broken() -> Error {
    Error::Generic { store: "S3", source: "connection reset".into() }
}

fn slow_down() -> Error {
    refused("503 Service Unavailable: SlowDown")
}

fn refused(status: &str) -> Error {
    let source = format!("Server returned non-2xx status code: {status}").into();
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
        let fault = self.fault(Asked::Get, location);
        let got = carry_out(fault.clone(), location, self.inner.get_opts(location, options)).await?;
        match fault {
            Fault::Cut | Fault::Short | Fault::Stall => half(got, &fault).await,
            _ => Ok(got),
        }
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
            // A page arrives, and the next one does not.
            Fault::Cut => {
                let page = self.inner.list(prefix).take(7);
                page.chain(stream::iter([Err(slow_down())])).boxed()
            }
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
