//! Range, as etcd answers it: one key, or the keys with a prefix, page by page.
//!
//! Pages of one revision: the embedded store has the present one only. So a listing of which more than a page is asked for is kept for
//! a while, a few at most, and its later pages come from it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::server::UnaryService;
use tonic::{Request, Response, Status};

use crate::etcd::proto;
use crate::{ErrorKind, KeyValue, Listing, MAX_PAGE_LIMIT, MetaStore, RangeRequest, Revision};

/// A page has no more bytes of keys and values than this, but for its last entry.
const PAGE_BYTES: usize = 1 << 20;
const LISTINGS_KEPT: usize = 4;
const KEPT_FOR: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Kept {
    prefix: String,
    listing: Arc<Listing>,
    used: Instant,
}

#[derive(Debug)]
pub(super) struct Ranges {
    store: Arc<dyn MetaStore>,
    kept: Mutex<VecDeque<Kept>>,
}

/// One request.
pub(super) struct Asked(Arc<Ranges>);

impl UnaryService<proto::RangeRequest> for Asked {
    type Response = proto::RangeResponse;
    type Future = BoxFuture<'static, Result<Response<proto::RangeResponse>, Status>>;

    fn call(&mut self, request: Request<proto::RangeRequest>) -> Self::Future {
        let ranges = Arc::clone(&self.0);
        Box::pin(async move { ranges.answer(request.into_inner()).await.map(Response::new) })
    }
}

impl Ranges {
    pub fn new(store: Arc<dyn MetaStore>) -> Ranges {
        Ranges { store, kept: Mutex::default() }
    }

    pub fn asked(self: &Arc<Self>) -> Asked {
        Asked(Arc::clone(self))
    }

    async fn answer(&self, asked: proto::RangeRequest) -> Result<proto::RangeResponse, Status> {
        let key = text(&asked.key)?;
        if asked.range_end.is_empty() {
            return self.one(key, asked.revision).await;
        }
        let prefix = prefix_of(&asked.range_end)?;
        let start_after = match key.strip_prefix(&*prefix) {
            Some("") => None,
            Some(rest) if rest.ends_with('\0') => Some(key[..key.len() - 1].to_owned()),
            Some(_) | None => return Err(Status::unimplemented("only keys with a prefix are served")),
        };
        let limit = usize::try_from(asked.limit).ok().filter(|limit| *limit > 0).unwrap_or(MAX_PAGE_LIMIT);
        let limit = limit.min(MAX_PAGE_LIMIT);
        if asked.revision != 0
            && let Some(listing) = self.kept(&prefix, asked.revision)
        {
            return Ok(page_of(&listing, start_after.as_deref(), limit));
        }
        let request = RangeRequest { prefix: prefix.clone(), start_after: start_after.clone(), limit };
        let page = self.store.range(request).await.map_err(status)?;
        check_revision(asked.revision, page.revision)?;
        let listing = Listing { kvs: page.kvs, revision: page.revision };
        let first = page_of(&listing, None, limit);
        if !first.more && !page.more {
            return Ok(first);
        }
        // Whoever wants little does not ask for the rest.
        if limit < MAX_PAGE_LIMIT && !first.more {
            return Ok(proto::RangeResponse { more: true, ..first });
        }
        let listing = Arc::new(self.store.range_all(&prefix).await.map_err(status)?);
        check_revision(asked.revision, listing.revision)?;
        let page = page_of(&listing, start_after.as_deref(), limit);
        self.keep(prefix, listing);
        Ok(page)
    }

    async fn one(&self, key: &str, revision: i64) -> Result<proto::RangeResponse, Status> {
        let request = RangeRequest { prefix: key.to_owned(), start_after: None, limit: 1 };
        let page = self.store.range(request).await.map_err(status)?;
        check_revision(revision, page.revision)?;
        // It comes before all longer ones.
        let kvs = page.kvs.into_iter().filter(|kv| kv.key == key).map(|kv| message(&kv)).collect();
        Ok(proto::RangeResponse { header: header(page.revision), kvs, more: false })
    }

    fn kept(&self, prefix: &str, revision: i64) -> Option<Arc<Listing>> {
        let mut kept = self.kept.lock();
        kept.retain(|kept| kept.used.elapsed() < KEPT_FOR);
        let is_it = |kept: &&mut Kept| kept.prefix == prefix && number(kept.listing.revision) == revision;
        let found = kept.iter_mut().find(is_it)?;
        found.used = Instant::now();
        Some(Arc::clone(&found.listing))
    }

    fn keep(&self, prefix: String, listing: Arc<Listing>) {
        let mut kept = self.kept.lock();
        kept.retain(|kept| kept.used.elapsed() < KEPT_FOR);
        if kept.len() == LISTINGS_KEPT {
            kept.pop_front();
        }
        kept.push_back(Kept { prefix, listing, used: Instant::now() });
    }
}

/// The entries behind `start_after`, as many as a page takes.
fn page_of(listing: &Listing, start_after: Option<&str>, limit: usize) -> proto::RangeResponse {
    let from = start_after.map_or(0, |after| listing.kvs.partition_point(|kv| kv.key.as_str() <= after));
    let (mut kvs, mut bytes) = (Vec::new(), 0);
    for kv in &listing.kvs[from..] {
        if kvs.len() == limit || bytes >= PAGE_BYTES {
            break;
        }
        bytes += kv.key.len() + kv.value.len();
        kvs.push(message(kv));
    }
    let more = from + kvs.len() < listing.kvs.len();
    proto::RangeResponse { header: header(listing.revision), kvs, more }
}

pub(super) fn message(kv: &KeyValue) -> proto::KeyValue {
    proto::KeyValue {
        key: Bytes::copy_from_slice(kv.key.as_bytes()),
        create_revision: number(kv.create_revision),
        mod_revision: number(kv.mod_revision),
        value: kv.value.clone(),
        lease: kv.lease.map_or(0, |lease| lease.0),
        ..Default::default()
    }
}

fn header(revision: Revision) -> Option<proto::ResponseHeader> {
    Some(proto::ResponseHeader { revision: number(revision) })
}

pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn check_revision(asked: i64, present: Revision) -> Result<(), Status> {
    match asked == 0 || asked == number(present) {
        true => Ok(()),
        false => Err(Status::out_of_range("etcdserver: mvcc: required revision has been compacted")),
    }
}

pub(super) fn text(bytes: &[u8]) -> Result<&str, Status> {
    std::str::from_utf8(bytes).map_err(|_| Status::invalid_argument("keys are text"))
}

/// The prefix whose keys end before `range_end`.
pub(super) fn prefix_of(range_end: &[u8]) -> Result<String, Status> {
    let mut prefix = range_end.to_vec();
    match prefix.last_mut() {
        Some(last) if *last > 0 => *last -= 1,
        // A zero stands for everything from a key on.
        Some(_) | None => return Err(Status::unimplemented("only keys with a prefix are served")),
    }
    String::from_utf8(prefix).map_err(|_| Status::invalid_argument("keys are text"))
}

pub(super) fn status(error: crate::Error) -> Status {
    let why = error.to_string();
    match error.kind() {
        ErrorKind::Retry | ErrorKind::Full => Status::unavailable(why),
        ErrorKind::Compacted => Status::out_of_range(why),
        ErrorKind::Invalid => Status::invalid_argument(why),
        ErrorKind::Corrupt => Status::data_loss(why),
        ErrorKind::Denied => Status::permission_denied(why),
        ErrorKind::Unsupported => Status::unimplemented(why),
        ErrorKind::Fenced | ErrorKind::NewerVersion | ErrorKind::InUse | ErrorKind::Internal => {
            Status::internal(why)
        }
    }
}
