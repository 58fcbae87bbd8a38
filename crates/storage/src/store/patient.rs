//! A store on the network whose reads are repeated by themselves: a request that is refused or not answered, and an answer that
//! breaks off, stalls, or is shorter than it says.
//!
//! A read that broke off goes on where it ended, so that it gets there also where no answer arrives whole. Who reads many objects sees
//! an error only when one of them cannot be read for some seconds; without this, one broken read of a thousand would be the failure
//! of all of them.
//!
//! Writes and deletes are not repeated here: who sends them knows what a second attempt means.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use kafscale_core::backoff::Backoff;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result, coalesce_ranges,
};
use tokio::time::{Instant, sleep, timeout};

use super::backoff::waits;
use super::{StoreErrorKind, kind_of};
use crate::StoreUrl;

/// A request whose answer has not begun by then is sent again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer of which nothing arrives for so long is given up, and the rest asked for again.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A read that gets no further for so long fails, but not before the second attempt.
const PATIENCE: Duration = Duration::from_secs(3);
/// Attempts of one read at most, however little each of them brings.
const ATTEMPTS_MAX: u32 = 64;

#[derive(Debug, Clone)]
pub struct Patient {
    inner: Arc<dyn ObjectStore>,
    /// Tells this process's waits from those of others.
    seed: u64,
}

/// What is left of the patience of one read.
struct Attempts {
    backoff: Backoff,
    since: Instant,
    /// Since something was read, and in all.
    failures: u32,
    total: u32,
}

impl Attempts {
    /// Something was read: it is worth going on.
    fn progress(&mut self) {
        self.backoff.reset();
        (self.since, self.failures) = (Instant::now(), 0);
    }

    /// Waits before the next attempt; gives the error back when there is no point in one.
    async fn again(&mut self, location: &Path, error: Error) -> Result<()> {
        self.failures += 1;
        self.total += 1;
        let wait = self.backoff.pause();
        let waited = self.failures > 1 && self.since.elapsed() + wait > PATIENCE;
        let is_over = waited || self.total >= ATTEMPTS_MAX;
        if is_over || kind_of(&error) != StoreErrorKind::Retry {
            return Err(error);
        }
        tracing::debug!(%location, %error, "a read of the object store broke off; trying again");
        sleep(wait).await;
        Ok(())
    }
}

/// An error that is worth another attempt.
fn broken(why: &'static str) -> Error {
    Error::Generic { store: "network", source: why.into() }
}

async fn answered<T>(request: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(ANSWER_TIMEOUT, request).await.unwrap_or_else(|_| Err(broken("no answer in time")))
}

impl Patient {
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64) -> Patient {
        Patient { inner, seed }
    }

    /// The same store, patient where there is a network on the way to it.
    pub fn where_shared(url: &StoreUrl, store: Arc<dyn ObjectStore>, seed: u64) -> Arc<dyn ObjectStore> {
        if url.is_shared() { Arc::new(Patient::new(store, seed)) } else { store }
    }

    fn attempts(&self, location: &Path) -> Attempts {
        let mut hasher = DefaultHasher::new();
        (self.seed, location.as_ref()).hash(&mut hasher);
        Attempts { backoff: waits(hasher.finish()), since: Instant::now(), failures: 0, total: 0 }
    }
}

/// An answer on its way: what of it is still to come, and how to ask for that.
struct Body {
    store: Patient,
    location: Path,
    options: GetOptions,
    meta: ObjectMeta,
    left: Range<u64>,
    parts: Option<BoxStream<'static, Result<Bytes>>>,
    attempts: Attempts,
}

impl Body {
    /// The next part; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while !self.left.is_empty() {
            let error = match self.part().await {
                Ok(part) if part.is_empty() => continue,
                Ok(part) => {
                    // A store that gives more than was asked for.
                    let wanted = usize::try_from(self.left.end - self.left.start).unwrap_or(usize::MAX);
                    let part = if part.len() > wanted { part.slice(..wanted) } else { part };
                    self.left.start += part.len() as u64;
                    self.attempts.progress();
                    return Ok(Some(part));
                }
                Err(error) => error,
            };
            self.parts = None;
            self.attempts.again(&self.location, error).await?;
        }
        Ok(None)
    }

    async fn part(&mut self) -> Result<Bytes> {
        if self.parts.is_none() {
            self.parts = Some(self.ask_for_rest().await?);
        }
        let parts = self.parts.as_mut().expect("asked for just before");
        match timeout(STALL_TIMEOUT, parts.next()).await {
            Ok(Some(Ok(part))) => Ok(part),
            // Whatever the client makes of it, an answer that began well and broke off is worth another attempt.
            Ok(Some(Err(error))) if kind_of(&error) == StoreErrorKind::Internal => {
                Err(Error::Generic { store: "network", source: error.to_string().into() })
            }
            Ok(Some(Err(error))) => Err(error),
            Ok(None) => Err(broken("the answer ended early")),
            Err(_) => Err(broken("the answer stalled")),
        }
    }

    async fn ask_for_rest(&mut self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let options =
            GetOptions { range: Some(GetRange::Bounded(self.left.clone())), ..self.options.clone() };
        let rest = answered(self.store.inner.get_opts(&self.location, options)).await?;
        if rest.range != self.left || rest.meta.size != self.meta.size || rest.meta.e_tag != self.meta.e_tag {
            let (path, source) = (self.location.to_string(), "it was replaced while it was read".into());
            return Err(Error::Precondition { path, source });
        }
        Ok(rest.into_stream())
    }
}

impl fmt::Display for Patient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Patient {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut attempts = self.attempts(location);
        let mut got = loop {
            match answered(self.inner.get_opts(location, options.clone())).await {
                Ok(got) => break got,
                Err(error) => attempts.again(location, error).await?,
            }
        };
        if options.head {
            return Ok(got);
        }
        if let GetResultPayload::Stream(parts) = got.payload {
            let body = Body {
                store: self.clone(),
                location: location.clone(),
                options,
                meta: got.meta.clone(),
                left: got.range.clone(),
                parts: Some(parts),
                attempts,
            };
            let parts = stream::try_unfold(body, async |mut body| {
                let part = body.next().await?;
                Ok(part.map(|part| (part, body)))
            });
            got.payload = GetResultPayload::Stream(parts.boxed());
        }
        Ok(got)
    }

    /// One request for those that are close together, each repeated by itself.
    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let get = |range| self.get_range(location, range);
        coalesce_ranges(ranges, get, OBJECT_STORE_COALESCE_DEFAULT).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        listed(self.clone(), prefix.cloned(), None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        listed(self.clone(), prefix.cloned(), Some(offset.clone()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let location = prefix.cloned().unwrap_or_default();
        let mut attempts = self.attempts(&location);
        loop {
            match answered(self.inner.list_with_delimiter(prefix)).await {
                Ok(found) => return Ok(found),
                Err(error) => attempts.again(&location, error).await?,
            }
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A listing on its way.
struct Listing {
    store: Patient,
    prefix: Option<Path>,
    /// The last name that came, after which a listing that broke off goes on.
    last: Option<Path>,
    /// Names came in the order of their bytes, as S3 gives them. Where they do not, a listing cannot go on in its middle.
    in_order: bool,
    names: Option<BoxStream<'static, Result<ObjectMeta>>>,
    attempts: Attempts,
}

fn listed(
    store: Patient,
    prefix: Option<Path>,
    after: Option<Path>,
) -> BoxStream<'static, Result<ObjectMeta>> {
    let attempts = store.attempts(prefix.as_ref().unwrap_or(&Path::default()));
    let listing = Listing { store, prefix, last: after, in_order: true, names: None, attempts };
    let names = stream::try_unfold(listing, async |mut listing| {
        let next = listing.next().await?;
        Ok(next.map(|next| (next, listing)))
    });
    names.into_stream().boxed()
}

impl Listing {
    async fn next(&mut self) -> Result<Option<ObjectMeta>> {
        loop {
            let names = self.names.get_or_insert_with(|| match &self.last {
                Some(last) => self.store.inner.list_with_offset(self.prefix.as_ref(), last),
                None => self.store.inner.list(self.prefix.as_ref()),
            });
            let error = match answered(names.next().map(Ok)).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(found))) => {
                    self.in_order &= self.last.as_ref().is_none_or(|last| *last < found.location);
                    self.last = Some(found.location.clone());
                    self.attempts.progress();
                    return Ok(Some(found));
                }
                Ok(Some(Err(error))) | Err(error) => error,
            };
            if !self.in_order {
                return Err(error);
            }
            self.names = None;
            let location = self.prefix.clone().unwrap_or_default();
            self.attempts.again(&location, error).await?;
        }
    }
}

#[cfg(test)]
#[path = "patient_tests.rs"]
mod tests;
