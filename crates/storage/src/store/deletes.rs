//! Deletion in a bucket, also where the server has no DeleteObjects.
//!
//! The client deletes with DeleteObjects only, up to 1000 objects in a request. Some servers do not have it (Google Cloud Storage,
//! some gateways). When a server refuses it, this store deletes the objects one by one, with presigned DELETE requests, and
//! remembers that.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3;
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{
    ClientOptions, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::status_of;

/// What DeleteObjects takes at most.
const BULK_MAX: usize = 1000;
const SINGLE_AT_ONCE: usize = 16;
/// How long a presigned request is valid; the clocks of the server and of this machine may differ.
const VALID: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, Clone)]
pub struct Deletes {
    inner: AmazonS3,
    client: HttpClient,
    /// Set once the server has refused DeleteObjects and has taken a single request.
    one_by_one: Arc<AtomicBool>,
}

impl Deletes {
    pub fn new(inner: AmazonS3, options: &ClientOptions) -> Result<Deletes> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(Deletes { inner, client, one_by_one: Arc::default() })
    }

    async fn delete_many(self, paths: Vec<Path>) -> Vec<Result<Path>> {
        if self.one_by_one.load(Ordering::Relaxed) {
            return self.delete_each(paths).await;
        }
        let asked = stream::iter(paths.clone().into_iter().map(Ok)).boxed();
        let outcomes: Vec<_> = self.inner.delete_stream(asked).collect().await;
        let Some(refusal) =
            outcomes.iter().find_map(|outcome| outcome.as_ref().err().filter(|e| is_refusal(e)))
        else {
            return outcomes;
        };
        let refusal = refusal.to_string();
        let each = self.delete_each(paths).await;
        if each.iter().any(deleted) && !self.one_by_one.swap(true, Ordering::Relaxed) {
            tracing::warn!(refusal, "the object store has no DeleteObjects; objects are deleted one by one");
        }
        each
    }

    async fn delete_each(&self, paths: Vec<Path>) -> Vec<Result<Path>> {
        let delete = |path: Path| async move { self.delete_one(&path).await.map(|()| path) };
        stream::iter(paths).map(delete).buffered(SINGLE_AT_ONCE).collect().await
    }

    async fn delete_one(&self, path: &Path) -> Result<()> {
        let method = || "DELETE".parse().expect("DELETE is a method");
        let url = self.inner.signed_url(method(), path, VALID).await?;
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method();
        *request.uri_mut() = url.as_str().parse().map_err(|e| failed(path, Box::new(e)))?;
        let answer = self.client.execute(request).await.map_err(|e| failed(path, Box::new(e)))?;
        let status = answer.status().as_u16();
        // An answer that is read to its end leaves the connection for the next request.
        let body = answer.into_body().bytes().await.unwrap_or_default();
        match status {
            200..300 => Ok(()),
            404 => Err(Error::NotFound { path: path.to_string(), source: "status code: 404".into() }),
            401 | 403 => Err(Error::PermissionDenied {
                path: path.to_string(),
                source: format!("status code: {status}: {}", String::from_utf8_lossy(&body)).into(),
            }),
            _ => {
                Err(failed(path, format!("status code: {status}: {}", String::from_utf8_lossy(&body)).into()))
            }
        }
    }
}

fn failed(path: &Path, source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::Generic { store: "S3", source: format!("cannot delete {path}: {source}").into() }
}

/// Something is gone, or was not there any more.
fn deleted(outcome: &Result<Path>) -> bool {
    matches!(outcome, Ok(_) | Err(Error::NotFound { .. }))
}

/// Whether the server refused the request as such. It is then worth trying single requests, which cost little when they are
/// refused as well. Not for what passes: throttling, a broken connection, a server that restarts.
fn is_refusal(error: &Error) -> bool {
    match status_of(error) {
        Some(408 | 409 | 429) => false,
        Some(status) => (400..500).contains(&status) || status == 501,
        None => matches!(error, Error::NotImplemented { .. } | Error::NotSupported { .. }),
    }
}

impl fmt::Display for Deletes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Deletes {
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
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .try_chunks(BULK_MAX)
            .then(move |paths| {
                let store = store.clone();
                async move {
                    match paths {
                        Ok(paths) => store.delete_many(paths).await,
                        Err(error) => vec![Err(error.1)],
                    }
                }
            })
            .flat_map(stream::iter)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    use object_store::ObjectStoreExt;
    use parking_lot::Mutex;

    use super::*;
    use crate::store::s3::{S3Config, S3Credentials, open};

    type Seen = Arc<Mutex<Vec<String>>>;

    /// A server that answers DeleteObjects with this status and deletes single objects, but for those with `denied` in their names.
    fn server(bulk_status: u16) -> (Arc<dyn ObjectStore>, Seen) {
        let (listener, seen) = (TcpListener::bind("127.0.0.1:0").unwrap(), Seen::default());
        let config = S3Config {
            endpoint: Some(format!("http://{}", listener.local_addr().unwrap())),
            credentials: Some(S3Credentials {
                access_key_id: "id".into(),
                secret_access_key: "secret".into(),
                session_token: None,
            }),
            prefix: "p".into(),
            ..S3Config::new("bucket")
        };
        let asked = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(std::result::Result::ok) {
                let asked = Arc::clone(&asked);
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(&stream);
                    let (mut first, mut line, mut size) = (String::new(), String::new(), 0);
                    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                        if first.is_empty() {
                            first.clone_from(&line);
                        }
                        let lower = line.to_ascii_lowercase();
                        if let Some(length) = lower.strip_prefix("content-length:") {
                            size = length.trim().parse().unwrap();
                        }
                        line.clear();
                    }
                    reader.read_exact(&mut vec![0; size]).unwrap();
                    let status = match first.starts_with("POST") {
                        true => bulk_status,
                        false if first.contains("denied") => 403,
                        false => 204,
                    };
                    asked.lock().push(first);
                    let answer =
                        format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                    (&stream).write_all(answer.as_bytes()).unwrap();
                });
            }
        });
        (open(&config).unwrap(), seen)
    }

    async fn delete(store: &dyn ObjectStore, names: &[&str]) -> Vec<Result<Path>> {
        let paths: Vec<_> = names.iter().map(|name| Ok(Path::from(*name))).collect();
        store.delete_stream(stream::iter(paths).boxed()).collect().await
    }

    fn count(seen: &Seen, method: &str) -> usize {
        seen.lock().iter().filter(|line| line.starts_with(method)).count()
    }

    #[tokio::test]
    async fn a_store_without_bulk_deletes_is_asked_once_and_then_for_single_ones() {
        for status in [501, 400, 405, 403] {
            let (store, seen) = server(status);
            let outcomes = delete(&*store, &["a", "b/c", "denied"]).await;
            let deleted: Vec<_> = outcomes.iter().take(2).map(|o| o.as_ref().unwrap().to_string()).collect();
            assert_eq!(deleted, ["a", "b/c"], "{status}");
            assert!(matches!(outcomes[2], Err(Error::PermissionDenied { .. })), "{status}: {outcomes:?}");
            assert!(
                seen.lock()
                    .iter()
                    .any(|line| line.contains("/bucket/p/b/c?") && line.contains("X-Amz-Signature"))
            );
            store.delete(&Path::from("d")).await.unwrap();
            assert_eq!((count(&seen, "POST"), count(&seen, "DELETE")), (1, 4), "{status}");
        }
    }

    #[tokio::test]
    async fn what_passes_is_no_reason_for_single_requests() {
        for status in [500, 503, 429] {
            let (store, seen) = server(status);
            assert!(delete(&*store, &["a", "b"]).await.iter().all(Result::is_err), "{status}");
            assert_eq!(count(&seen, "DELETE"), 0, "{status}");
        }
    }
}
