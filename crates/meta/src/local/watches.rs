//! Watch, as etcd answers it, for one watch in each stream.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use tonic::server::StreamingService;
use tonic::{Request, Response, Status, Streaming};

use super::ranges::{message, number, prefix_of, status, text};
use crate::etcd::proto;
use crate::{ErrorKind, Event, MetaStore, Revision, Watch, WatchBatch};

/// Events that are sent at a time. A revision may have more of them; the client puts its parts together.
const EVENTS_MAX: usize = 256;

type Answers = BoxStream<'static, Result<proto::WatchResponse, Status>>;

#[derive(Debug, Clone)]
pub(super) struct Watches {
    store: Arc<dyn MetaStore>,
}

impl Watches {
    pub fn new(store: Arc<dyn MetaStore>) -> Watches {
        Watches { store }
    }
}

impl StreamingService<proto::WatchRequest> for Watches {
    type Response = proto::WatchResponse;
    type ResponseStream = Answers;
    type Future = BoxFuture<'static, Result<Response<Answers>, Status>>;

    fn call(&mut self, request: Request<Streaming<proto::WatchRequest>>) -> Self::Future {
        let store = Arc::clone(&self.store);
        Box::pin(async move { open(&*store, request.into_inner()).await.map(Response::new) })
    }
}

async fn open(
    store: &dyn MetaStore,
    mut requests: Streaming<proto::WatchRequest>,
) -> Result<Answers, Status> {
    let create = requests.message().await?.and_then(|request| request.create_request);
    let create = create.ok_or_else(|| Status::invalid_argument("a stream begins with a watch to create"))?;
    let prefix = prefix_of(&create.range_end)?;
    if text(&create.key)? != prefix {
        return Err(Status::unimplemented("only keys with a prefix are watched"));
    }
    let from = Revision(u64::try_from(create.start_revision).unwrap_or_default());
    let watch = store.watch(&prefix, from).await.map_err(status)?;
    let created = proto::WatchResponse { created: true, ..Default::default() };
    let changes =
        stream::try_unfold(Some(watch), next).map_ok(stream::iter).map_ok(|s| s.map(Ok)).try_flatten();
    Ok(stream::iter([Ok(created)]).chain(changes).boxed())
}

type Next = Option<(Vec<proto::WatchResponse>, Option<Box<dyn Watch>>)>;

/// The next changes; the watch is over after an error.
async fn next(watch: Option<Box<dyn Watch>>) -> Result<Next, Status> {
    let Some(mut watch) = watch else { return Ok(None) };
    match watch.next().await {
        Ok(batch) => Ok(Some((answers(&batch), Some(watch)))),
        Err(error) if error.kind() == ErrorKind::Compacted => {
            let cancel_reason = error.to_string();
            // Any number but 0 says that the watcher is too late.
            let over = proto::WatchResponse {
                canceled: true,
                compact_revision: 1,
                cancel_reason,
                ..Default::default()
            };
            Ok(Some((vec![over], None)))
        }
        Err(error) => Err(status(error)),
    }
}

fn answers(batch: &WatchBatch) -> Vec<proto::WatchResponse> {
    let parts = batch.events.chunks(EVENTS_MAX);
    let last = parts.len() - 1;
    let answer = |(i, events): (usize, &[Event])| proto::WatchResponse {
        fragment: i < last,
        events: events.iter().map(event).collect(),
        ..Default::default()
    };
    parts.enumerate().map(answer).collect()
}

fn event(event: &Event) -> proto::Event {
    let (kind, kv) = match event {
        Event::Put(kv) => (proto::EventType::Put, message(kv)),
        Event::Delete { key, revision } => {
            let key = bytes::Bytes::copy_from_slice(key.as_bytes());
            let kv = proto::KeyValue { key, mod_revision: number(*revision), ..Default::default() };
            (proto::EventType::Delete, kv)
        }
    };
    proto::Event { r#type: kind.into(), kv: Some(kv) }
}
