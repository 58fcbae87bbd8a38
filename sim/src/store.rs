//! The object store: what `object_store` keeps in memory, behind a network that loses, delays, repeats and reorders.
//!
//! Conditional puts are decided when they are carried out, not when they are sent, as in S3.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

use crate::faults::{Answer, Cut, Service};
use crate::machine::Timeline;
use crate::process::Process;
use crate::world::wall_ms;

/// The bucket that all brokers share.
#[derive(Debug, Clone)]
pub struct Bucket {
    objects: Arc<InMemory>,
    modified_ms: Arc<Mutex<BTreeMap<Path, i64>>>,
    /// Of the machine that the store runs on.
    timeline: Timeline,
}

impl Bucket {
    pub fn new(timeline: Timeline) -> Bucket {
        Bucket { objects: Arc::default(), modified_ms: Arc::default(), timeline }
    }

    fn put(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let put = ready(self.objects.put_opts(location, payload, options))?;
        self.modified_ms.lock().insert(location.clone(), wall_ms(self.timeline.now()));
        Ok(put)
    }

    fn get(&self, location: &Path, options: GetOptions) -> Result<Got> {
        let GetResult { payload, mut meta, range, attributes } =
            ready(self.objects.get_opts(location, options))?;
        let GetResultPayload::Stream(stream) = payload else {
            return Err(failed("the store in memory answers with a stream"));
        };
        let bytes = ready(stream.try_fold(Vec::new(), |mut all, part| {
            all.extend_from_slice(&part);
            std::future::ready(Ok(all))
        }))?;
        meta.last_modified = self.modified(&meta.location);
        Ok(Got { bytes: bytes.into(), meta, range, attributes })
    }

    /// The bytes of an object, past everything that brokers find on the way.
    pub fn peek(&self, location: &Path) -> Option<Bytes> {
        self.get(location, GetOptions::default()).ok().map(|got| got.bytes)
    }

    /// Replaces an object, or removes it, as a disk does that fails: its time stays.
    pub fn tamper(&self, location: &Path, bytes: Option<Bytes>) {
        let modified_ms = self.modified_ms.lock().get(location).copied();
        let done = match bytes {
            Some(bytes) => self.put(location, bytes.into(), PutOptions::default()).map(drop),
            None => self.delete(location),
        };
        done.expect("the store in memory takes everything");
        self.modified_ms.lock().extend(modified_ms.map(|ms| (location.clone(), ms)));
    }

    fn delete(&self, location: &Path) -> Result<()> {
        let one = stream::once(std::future::ready(Ok(location.clone()))).boxed();
        ready(self.objects.delete_stream(one).try_collect::<Vec<_>>())?;
        self.modified_ms.lock().remove(location);
        Ok(())
    }

    pub fn list(&self, prefix: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let mut found: Vec<ObjectMeta> = ready(self.objects.list(prefix).try_collect())?;
        for meta in &mut found {
            meta.last_modified = self.modified(&meta.location);
        }
        Ok(found)
    }

    fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut found = ready(self.objects.list_with_delimiter(prefix))?;
        for meta in &mut found.objects {
            meta.last_modified = self.modified(&meta.location);
        }
        Ok(found)
    }

    fn modified(&self, location: &Path) -> DateTime<Utc> {
        let ms = self.modified_ms.lock().get(location).copied().unwrap_or_default();
        DateTime::from_timestamp_millis(ms).unwrap_or_default()
    }
}

/// The store in memory never waits.
fn ready<T>(outcome: impl Future<Output = Result<T>>) -> Result<T> {
    outcome.now_or_never().unwrap_or_else(|| Err(failed("the store in memory waits")))
}

fn failed(why: &'static str) -> Error {
    Error::Generic { store: "sim", source: why.into() }
}

#[derive(Debug, Clone)]
struct Got {
    bytes: Bytes,
    meta: ObjectMeta,
    range: Range<u64>,
    attributes: object_store::Attributes,
}

impl Got {
    /// What arrives of it, and how that ends.
    fn broken_off(self, kept: usize, cut: Cut) -> GetResult {
        let arrived = stream::iter([Ok(self.bytes.slice(..kept))]);
        let parts = match cut {
            Cut::Short => arrived.boxed(),
            Cut::Stalled => arrived.chain(stream::pending()).boxed(),
            Cut::Broken => {
                let source = Box::new(io::Error::from(io::ErrorKind::UnexpectedEof));
                arrived.chain(stream::iter([Err(Error::Generic { store: "sim", source })])).boxed()
            }
        };
        let Got { meta, range, attributes, .. } = self;
        GetResult { payload: GetResultPayload::Stream(parts), meta, range, attributes }
    }
}

impl From<Got> for GetResult {
    fn from(got: Got) -> GetResult {
        let payload = GetResultPayload::Stream(stream::once(std::future::ready(Ok(got.bytes))).boxed());
        GetResult { payload, meta: got.meta, range: got.range, attributes: got.attributes }
    }
}

/// The bucket as one process reaches it.
#[derive(Debug, Clone)]
pub struct SimStore {
    bucket: Bucket,
    process: Process,
}

/// Where a process may write before it knows whose store it is.
const PROBES: &str = "probe/";

impl SimStore {
    pub fn new(bucket: Bucket, process: Process) -> SimStore {
        SimStore { bucket, process }
    }

    async fn request<T: Send + 'static>(
        &self,
        verb: &str,
        location: &str,
        conditional: bool,
        apply: impl Fn(&Bucket) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if matches!(verb, "put" | "delete") && !location.starts_with(PROBES) {
            self.process.note_if_foreign(|| format!("{verb} {location}"));
        }
        let bucket = self.bucket.clone();
        let step = format!("{verb} {}", kind(location));
        let outcome = self.process.request(Service::Store, &step, conditional, move || apply(&bucket)).await;
        outcome.unwrap_or_else(|answer| Err(unanswered(answer, location)))
    }
}

/// What kind of object a path names.
fn kind(location: &str) -> &'static str {
    const KINDS: [(&str, &str); 5] = [
        ("wal/", "chain object"),
        (".kfs", "segment"),
        ("probe", "probe"),
        ("snapshot", "snapshot"),
        ("topics/", "topic"),
    ];
    KINDS.iter().find(|(part, _)| location.contains(part)).map_or("other", |(_, kind)| kind)
}

/// As the client of S3 in `object_store` puts it.
fn unanswered(answer: Answer, location: &str) -> Error {
    let io = |kind, why: &str| Error::Generic { store: "sim", source: Box::new(io::Error::new(kind, why)) };
    match answer {
        Answer::Outcome | Answer::Timeout => io(io::ErrorKind::TimedOut, "no answer in time"),
        Answer::Refused => io(io::ErrorKind::ResourceBusy, "503 SlowDown"),
        // It does not tell 409 from 412.
        Answer::Conflict => Error::AlreadyExists {
            path: location.to_owned(),
            source: "409 ConditionalRequestConflict".into(),
        },
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sim")
    }
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let conditional = !matches!(options.mode, PutMode::Overwrite);
        let at = location.clone();
        let apply = move |bucket: &Bucket| bucket.put(&at, payload.clone(), options.clone());
        self.request("put", location.as_ref(), conditional, apply).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "put_multipart_opts".into(), implementer: "SimStore".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let at = location.clone();
        let is_read = !options.head;
        let apply = move |bucket: &Bucket| bucket.get(&at, options.clone());
        let got = self.request("get", location.as_ref(), false, apply).await?;
        match self.process.faults().cuts(Service::Store, got.bytes.len()).filter(|_| is_read) {
            Some((kept, cut)) => Ok(got.broken_off(kept, cut)),
            None => Ok(got.into()),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |location: Path| {
            let store = store.clone();
            async move {
                let at = location.clone();
                store.request("delete", location.as_ref(), false, move |bucket| bucket.delete(&at)).await?;
                Ok(location)
            }
        };
        locations.map_ok(delete).try_buffered(10).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            let at = prefix.as_ref().map_or(String::new(), Path::to_string);
            let found = store.request("list", &at, false, move |bucket| bucket.list(prefix.as_ref())).await?;
            Ok::<_, Error>(stream::iter(found.into_iter().map(Ok)))
        };
        stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned();
        let at = prefix.as_ref().map_or(String::new(), Path::to_string);
        self.request("list", &at, false, move |bucket| bucket.list_with_delimiter(prefix.as_ref())).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (source, target) = (from.clone(), to.clone());
        let conditional = matches!(options.mode, CopyMode::Create);
        let mode = if conditional { PutMode::Create } else { PutMode::Overwrite };
        let apply = move |bucket: &Bucket| {
            let got = bucket.get(&source, GetOptions::default())?;
            bucket.put(&target, got.bytes.into(), mode.clone().into()).map(|_| ())
        };
        self.request("copy", to.as_ref(), conditional, apply).await
    }
}

/// How long a service takes when all is well.
pub const CALM_LATENCY_MS: (u64, u64) = (4, 15);

/// The longest that a request which was given up may take to have its effect.
pub const LATEST_EFFECT: Duration = Duration::from_secs(12);
