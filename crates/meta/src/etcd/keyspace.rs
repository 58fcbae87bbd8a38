//! Between our keys, revisions and conditions and those of etcd.
//!
//! Every key has the prefix of the address before it, in etcd only: several installations can share one etcd.

use bytes::Bytes;

use super::{proto, to_i64};
use crate::{Compare, CompareTarget, Error, Event, KeyValue, LeaseId, Op, Result, Revision, Txn};

/// Keys under the prefix of an address.
#[derive(Clone, Debug)]
pub(super) struct Keyspace {
    prefix: String,
}

impl Keyspace {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn key(&self, key: &str) -> Bytes {
        Bytes::from(format!("{}{key}", self.prefix))
    }

    /// The first key after this one.
    pub(super) fn key_after(&self, key: &str) -> Bytes {
        Bytes::from(format!("{}{key}\0", self.prefix))
    }

    /// From the first key that starts with the prefix to the first one after them.
    pub(super) fn prefix_range(&self, prefix: &str) -> (Bytes, Bytes) {
        let first = self.key(prefix);
        let mut end = first.to_vec();
        // Text in UTF-8 has no byte 0xff that could overflow.
        *end.last_mut().expect("prefixes are not empty") += 1;
        (first, Bytes::from(end))
    }

    pub(super) fn key_value(&self, kv: proto::KeyValue) -> Result<KeyValue> {
        Ok(KeyValue {
            key: self.ours(&kv.key)?,
            value: kv.value,
            create_revision: to_revision(kv.create_revision)?,
            mod_revision: to_revision(kv.mod_revision)?,
            lease: (kv.lease != 0).then_some(LeaseId(kv.lease)),
        })
    }

    pub(super) fn event(&self, event: proto::Event) -> Result<Event> {
        let kind = event.r#type();
        let kv = event.kv.ok_or_else(|| Error::corrupt("etcd sent an event without a key"))?;
        match kind {
            proto::EventType::Put => Ok(Event::Put(self.key_value(kv)?)),
            proto::EventType::Delete => {
                Ok(Event::Delete { key: self.ours(&kv.key)?, revision: to_revision(kv.mod_revision)? })
            }
        }
    }

    pub(super) fn txn(&self, txn: &Txn) -> Result<proto::TxnRequest> {
        let compare = txn.compares.iter().map(|compare| self.compare(compare)).collect::<Result<_>>()?;
        let success = txn.then.iter().map(|op| self.op(op)).collect();
        Ok(proto::TxnRequest { compare, success })
    }

    /// To etcd, a key that does not exist has the revision 0 and no value, which equals none, not even the empty one.
    fn compare(&self, compare: &Compare) -> Result<proto::Compare> {
        use proto::{CompareResult as Is, CompareTarget as Target, TargetUnion as Than};
        // Keys that exist have higher ones: it never holds.
        let never = (Target::Create, Is::Less, Than::CreateRevision(0));
        let (target, result, than) = match &compare.target {
            CompareTarget::Absent => (Target::Create, Is::Equal, Than::CreateRevision(0)),
            CompareTarget::ModRevision(Revision(0)) | CompareTarget::CreateRevision(Revision(0)) => never,
            CompareTarget::ModRevision(revision) => {
                (Target::Mod, Is::Equal, Than::ModRevision(to_i64(*revision)?))
            }
            CompareTarget::CreateRevision(revision) => {
                (Target::Create, Is::Equal, Than::CreateRevision(to_i64(*revision)?))
            }
            CompareTarget::Value(value) => (Target::Value, Is::Equal, Than::Value(value.clone())),
        };
        Ok(proto::Compare {
            result: result.into(),
            target: target.into(),
            key: self.key(&compare.key),
            target_union: Some(than),
        })
    }

    fn op(&self, op: &Op) -> proto::RequestOp {
        let request = match op {
            Op::Put { key, value, lease } => proto::Request::Put(proto::PutRequest {
                key: self.key(key),
                value: value.clone(),
                lease: lease.map_or(0, |lease| lease.0),
            }),
            Op::Delete { key } => proto::Request::DeleteRange(proto::DeleteRangeRequest {
                key: self.key(key),
                range_end: Bytes::new(),
            }),
            Op::DeletePrefix { prefix } => {
                let (key, range_end) = self.prefix_range(prefix);
                proto::Request::DeleteRange(proto::DeleteRangeRequest { key, range_end })
            }
        };
        proto::RequestOp { request: Some(request) }
    }

    fn ours(&self, key: &[u8]) -> Result<String> {
        let not_ours =
            || Error::corrupt(format!("{} is no key of ours", String::from_utf8_lossy(key).escape_debug()));
        let key = key.strip_prefix(self.prefix.as_bytes()).ok_or_else(not_ours)?;
        String::from_utf8(key.to_vec()).map_err(|_| not_ours())
    }
}

pub(super) fn to_revision(revision: i64) -> Result<Revision> {
    u64::try_from(revision)
        .map(Revision)
        .map_err(|_| Error::corrupt(format!("etcd sent the revision {revision}")))
}
