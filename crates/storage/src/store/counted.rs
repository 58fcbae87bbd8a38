//! A store that counts what is asked of it: each request with its outcome and its time.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::{StoreErrorKind, kind_of};
use crate::log::stats::StoreCounters;

/// The counters of each kind of request.
#[derive(Debug, Default)]
pub struct RequestCounters {
    pub puts: StoreCounters,
    pub gets: StoreCounters,
    pub lists: StoreCounters,
    pub deletes: StoreCounters,
}

#[derive(Debug)]
pub struct Counted {
    inner: Arc<dyn ObjectStore>,
    counters: Arc<RequestCounters>,
}

impl Counted {
    pub fn new(inner: Arc<dyn ObjectStore>, counters: Arc<RequestCounters>) -> Counted {
        Counted { inner, counters }
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Whether the store did its part: that something is not there, or there already, is an answer like others.
fn answered<T>(result: &Result<T>) -> bool {
    match result {
        Ok(_) => true,
        Err(e) => matches!(kind_of(e), StoreErrorKind::NotFound | StoreErrorKind::Exists),
    }
}

/// Counts a read when it is dropped, with its answer.
struct Counting {
    counters: Arc<RequestCounters>,
    began: Instant,
    whole: bool,
}

impl Counting {
    fn note(&mut self, arrived: bool) {
        self.whole &= arrived;
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.counters.gets.observe(self.began.elapsed(), self.whole);
    }
}

async fn counted<T>(counters: &StoreCounters, request: impl Future<Output = Result<T>>) -> Result<T> {
    let began = Instant::now();
    let result = request.await;
    counters.observe(began.elapsed(), answered(&result));
    result
}

#[async_trait]
impl ObjectStore for Counted {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        counted(&self.counters.puts, self.inner.put_opts(location, payload, options)).await
    }

    /// Nothing writes in parts.
    async fn put_multipart_opts(
        &self,
        _location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "`put_multipart_opts`".into(), implementer: self.to_string() })
    }

    /// Counted when all of the answer has arrived, or has broken off.
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let began = Instant::now();
        let mut got = match self.inner.get_opts(location, options).await {
            Ok(got) => got,
            failed => {
                self.counters.gets.observe(began.elapsed(), answered(&failed));
                return failed;
            }
        };
        let mut counting = Counting { counters: Arc::clone(&self.counters), began, whole: true };
        if let GetResultPayload::Stream(parts) = got.payload {
            let parts = parts.inspect(move |part| counting.note(part.is_ok()));
            got.payload = GetResultPayload::Stream(parts.boxed());
        }
        Ok(got)
    }

    /// Counted as one, though ranges far from each other are several requests.
    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        counted(&self.counters.gets, self.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (counters, began) = (Arc::clone(&self.counters), Instant::now());
        let outcomes = self.inner.delete_stream(locations);
        // A thousand objects go in one request; each counts.
        outcomes.inspect(move |outcome| counters.deletes.observe(began.elapsed(), answered(outcome))).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        count_pages(self.inner.list(prefix), Arc::clone(&self.counters))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        count_pages(self.inner.list_with_offset(prefix, offset), Arc::clone(&self.counters))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        counted(&self.counters.lists, self.inner.list_with_delimiter(prefix)).await
    }

    /// Nothing copies objects.
    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "`copy_opts`".into(), implementer: self.to_string() })
    }
}

/// A listing comes in pages of a thousand, each of which is a request.
fn count_pages(
    listed: BoxStream<'static, Result<ObjectMeta>>,
    counters: Arc<RequestCounters>,
) -> BoxStream<'static, Result<ObjectMeta>> {
    const PAGE: u64 = 1000;
    let began = Instant::now();
    let mut listed = listed;
    let mut count = 0u64;
    let mut ended = false;
    futures_util::stream::poll_fn(move |cx| {
        let next = listed.poll_next_unpin(cx);
        if let std::task::Poll::Ready(item) = &next
            && !ended
        {
            match item {
                Some(Ok(_)) => count += 1,
                Some(Err(_)) | None => {
                    ended = true;
                    counters.lists.observe(began.elapsed(), item.is_none());
                }
            }
            if count == PAGE {
                count = 0;
                counters.lists.observe(began.elapsed(), true);
            }
        }
        next
    })
    .boxed()
}
