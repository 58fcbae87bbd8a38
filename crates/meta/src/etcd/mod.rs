//! The etcd backend: the metadata of a cluster of brokers.
//!
//! What the trait promises is what etcd does; this translates ([`keyspace`]), asks ([`client`]) and keeps watches going ([`watch`]).
//! While etcd is away, requests fail with [`ErrorKind::Retry`] within the request timeout, watches wait, and both go on by
//! themselves when it is back.

mod client;
mod keyspace;
mod options;
pub(crate) mod proto;
mod reader;
mod watch;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{sync::watch as flag, time::Instant};

pub use options::{Credentials, EtcdOptions, TlsOptions};
pub use reader::{EtcdReader, RawKey, RawPage, Span};

use self::{
    client::{Client, Repeat, is_too_large},
    keyspace::{Keyspace, to_revision},
};
use crate::{
    Error, ErrorKind, KeyValue, Lease, LeaseId, Listing, MAX_PAGE_LIMIT, MetaStore, RangePage, RangeRequest,
    Result, Revision, Txn, TxnOutcome, Watch,
    local::socket::Socket,
    store::{lease_gone, validate_key, validate_ttl},
    url::EtcdUrl,
};

/// A listing that is compacted away while it is read begins again; so often.
const LISTING_ATTEMPTS: usize = 3;

/// The metadata store in an etcd cluster, of version 3.4 or later.
#[derive(Debug)]
pub struct EtcdStore {
    client: Arc<Client>,
    keyspace: Keyspace,
    closed: flag::Sender<bool>,
}

impl EtcdStore {
    /// The same over a Unix socket, on which a process of this machine serves its own store for reading.
    pub(crate) async fn connect_socket(socket: Socket, options: &EtcdOptions) -> Result<Self> {
        Self::ask_once(Client::over_socket(socket, options), "").await
    }

    /// Connects, and asks once: a cluster that cannot be reached, or does not know the user, is an error here.
    pub async fn connect(url: &EtcdUrl, options: &EtcdOptions) -> Result<Self> {
        Self::ask_once(Client::new(url, options).await?, &url.prefix).await
    }

    async fn ask_once(client: Client, prefix: &str) -> Result<Self> {
        let client = Arc::new(client);
        let store = Self { client, keyspace: Keyspace::new(prefix), closed: flag::Sender::new(false) };
        store.client.authenticate().await?;
        match store.revision("/").await {
            // A user may be allowed to do everything that we do, and not this.
            Err(error) if error.kind() == ErrorKind::Denied && store.client.has_credentials() => {}
            outcome => {
                outcome?;
            }
        }
        Ok(store)
    }

    fn check_open(&self) -> Result<()> {
        if *self.closed.borrow() { Err(closed()) } else { Ok(()) }
    }

    /// The store's revision, as new as any write that was answered. Asked for with a key under a prefix that the user may read.
    async fn revision(&self, prefix: &str) -> Result<Revision> {
        let (key, range_end) = self.keyspace.prefix_range(prefix);
        let request = proto::RangeRequest { key, range_end, limit: 1, ..Default::default() };
        let answer: proto::RangeResponse = self.client.unary(proto::RANGE, request, Repeat::Harmless).await?;
        header_revision(answer.header)
    }

    /// A page as of a revision; 0 is the newest. A page that is too large for an answer is made smaller.
    async fn page(&self, request: &RangeRequest, at: i64) -> Result<RangePage> {
        let (first, range_end) = self.keyspace.prefix_range(&request.prefix);
        let key = match &request.start_after {
            Some(after) if *after >= request.prefix => self.keyspace.key_after(after),
            _ => first,
        };
        if key >= range_end {
            return Ok(RangePage {
                kvs: Vec::new(),
                revision: self.revision(&request.prefix).await?,
                more: false,
            });
        }
        let mut limit = request.limit.clamp(1, MAX_PAGE_LIMIT);
        loop {
            let request = proto::RangeRequest {
                key: key.clone(),
                range_end: range_end.clone(),
                limit: i64::try_from(limit).expect("pages are small"),
                revision: at,
                keys_only: false,
            };
            match self.client.unary::<_, proto::RangeResponse>(proto::RANGE, request, Repeat::Harmless).await
            {
                Ok(answer) => {
                    let kvs = answer.kvs.into_iter().map(|kv| self.keyspace.key_value(kv));
                    return Ok(RangePage {
                        kvs: kvs.collect::<Result<_>>()?,
                        revision: header_revision(answer.header)?,
                        more: answer.more,
                    });
                }
                Err(error) if is_too_large(&error) && limit > 1 => limit = limit.div_ceil(8),
                Err(error) => return Err(error),
            }
        }
    }

    async fn list(&self, prefix: &str) -> Result<Listing> {
        let mut request =
            RangeRequest { prefix: prefix.to_owned(), start_after: None, limit: MAX_PAGE_LIMIT };
        let first = self.page(&request, 0).await?;
        let mut listing = Listing { kvs: first.kvs, revision: first.revision };
        let at = to_i64(first.revision)?;
        let mut more = first.more;
        while more {
            request.start_after = listing.kvs.last().map(|kv| kv.key.clone());
            let page = self.page(&request, at).await?;
            listing.kvs.extend(page.kvs);
            more = page.more;
        }
        Ok(listing)
    }
}

#[async_trait]
impl MetaStore for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        validate_key(key)?;
        self.check_open()?;
        let request = proto::RangeRequest { key: self.keyspace.key(key), ..Default::default() };
        let answer: proto::RangeResponse = self.client.unary(proto::RANGE, request, Repeat::Harmless).await?;
        answer.kvs.into_iter().next().map(|kv| self.keyspace.key_value(kv)).transpose()
    }

    async fn range(&self, request: RangeRequest) -> Result<RangePage> {
        validate_key(&request.prefix)?;
        self.check_open()?;
        self.page(&request, 0).await
    }

    async fn range_all(&self, prefix: &str) -> Result<Listing> {
        validate_key(prefix)?;
        self.check_open()?;
        for _ in 0..LISTING_ATTEMPTS {
            match self.list(prefix).await {
                Err(error) if error.kind() == ErrorKind::Compacted => {}
                outcome => return outcome,
            }
        }
        let why =
            format!("the listing of {prefix} was compacted while it was read, {LISTING_ATTEMPTS} times");
        Err(Error::new(ErrorKind::Retry, why))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        txn.validate()?;
        self.check_open()?;
        let request = self.keyspace.txn(&txn)?;
        let answer: proto::TxnResponse = self.client.unary(proto::TXN, request, Repeat::OnlyIfUnsent).await?;
        Ok(TxnOutcome { succeeded: answer.succeeded, revision: header_revision(answer.header)? })
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Box<dyn Watch>> {
        validate_key(prefix)?;
        self.check_open()?;
        // Asked for, since "now" for a member that lags behind is before what was answered already.
        let from = if from == Revision(0) { self.revision(prefix).await?.next() } else { from };
        let (client, keyspace) = (Arc::clone(&self.client), self.keyspace.clone());
        Ok(Box::new(watch::open(client, keyspace, prefix, from, self.closed.subscribe()).await?))
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease> {
        validate_ttl(ttl)?;
        self.check_open()?;
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let request = proto::LeaseGrantRequest { ttl: i64::try_from(seconds).expect("validated") };
        let asked = Instant::now();
        let answer: proto::LeaseGrantResponse =
            self.client.unary(proto::LEASE_GRANT, request, Repeat::Harmless).await?;
        Ok(Lease { id: LeaseId(answer.id), valid_until: asked + seconds_of(answer.ttl) })
    }

    async fn lease_keepalive(&self, lease: LeaseId) -> Result<Instant> {
        self.check_open()?;
        let request = proto::LeaseKeepAliveRequest { id: lease.0 };
        let asked = Instant::now();
        let answer: proto::LeaseKeepAliveResponse =
            self.client.first_answer(proto::LEASE_KEEP_ALIVE, request).await?;
        if answer.ttl <= 0 {
            return Err(lease_gone(lease));
        }
        Ok(asked + seconds_of(answer.ttl))
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<()> {
        self.check_open()?;
        let request = proto::LeaseRevokeRequest { id: lease.0 };
        let outcome = self.client.unary(proto::LEASE_REVOKE, request, Repeat::Harmless).await;
        match outcome {
            Ok(proto::LeaseRevokeResponse {}) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Fenced => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn close(&self) -> Result<()> {
        self.closed.send_replace(true);
        Ok(())
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Retry, "the metadata store is closed")
}

fn seconds_of(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}

fn header_revision(header: Option<proto::ResponseHeader>) -> Result<Revision> {
    let header = header.ok_or_else(|| Error::corrupt("etcd sent an answer without a revision"))?;
    to_revision(header.revision)
}

fn to_i64(revision: Revision) -> Result<i64> {
    i64::try_from(revision.0).map_err(|_| Error::invalid(format!("there is no revision {revision}")))
}
