//! Keys of an etcd cluster as they are, whoever wrote them: for whoever only looks at them.
//!
//! Reads are linearizable. Nothing here writes.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    client::{Client, Repeat, is_too_large},
    header_revision,
    options::EtcdOptions,
    proto, to_i64,
};
use crate::{Result, Revision, url::EtcdUrl};

/// A connection to a cluster, made when it is needed.
#[derive(Clone, Debug)]
pub struct EtcdReader {
    client: Arc<Client>,
}

/// Keys to read, in the order of their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub from: Bytes,
    /// Without it. None: the one key `from`.
    pub until: Option<Bytes>,
    pub limit: usize,
    /// As of which all is read. None: the newest.
    pub revision: Option<Revision>,
    pub with_values: bool,
}

/// A key as etcd has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawKey {
    pub key: Bytes,
    /// Empty where values were not asked for.
    pub value: Bytes,
    /// How often it was written since it was created.
    pub version: i64,
    pub create_revision: i64,
    pub mod_revision: i64,
    /// 0 for none.
    pub lease: i64,
}

/// Keys of one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawPage {
    pub keys: Vec<RawKey>,
    /// Of the store when it answered.
    pub revision: Revision,
    /// There are more behind the last one.
    pub more: bool,
}

impl EtcdReader {
    /// Nothing is asked yet.
    pub async fn new(url: &EtcdUrl, options: &EtcdOptions) -> Result<Self> {
        Ok(Self { client: Arc::new(Client::new(url, options).await?) })
    }

    /// The first keys of a span; fewer than the limit where they would be too large for an answer.
    pub async fn read(&self, span: &Span) -> Result<RawPage> {
        let mut limit = span.limit.max(1);
        loop {
            let request = proto::RangeRequest {
                key: span.from.clone(),
                range_end: span.until.clone().unwrap_or_default(),
                limit: i64::try_from(limit).unwrap_or(i64::MAX),
                revision: span.revision.map_or(Ok(0), to_i64)?,
                keys_only: !span.with_values,
            };
            match self.client.unary::<_, proto::RangeResponse>(proto::RANGE, request, Repeat::Harmless).await
            {
                Ok(answer) => {
                    return Ok(RawPage {
                        revision: header_revision(answer.header)?,
                        more: answer.more,
                        keys: answer.kvs.into_iter().map(RawKey::from).collect(),
                    });
                }
                Err(error) if is_too_large(&error) && limit > 1 => limit = limit.div_ceil(8),
                Err(error) => return Err(error),
            }
        }
    }
}

impl From<proto::KeyValue> for RawKey {
    fn from(kv: proto::KeyValue) -> Self {
        let proto::KeyValue { key, value, version, create_revision, mod_revision, lease } = kv;
        Self { key, value, version, create_revision, mod_revision, lease }
    }
}
