//! The state of an embedded store in memory: what reads see, what watchers are told, and how transactions are evaluated.
//!
//! A transaction is first staged ([`Staged`]) against the image and the transactions staged before it, and applied only
//! when the backend has made it durable. So readers never see what could still be lost.
//!
//! Invariant: history holds one batch for every revision after `compacted`, in order and without a gap.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque, btree_map},
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::Command;
use crate::{
    Compare, CompareTarget, Error, ErrorKind, Event, KeyValue, LeaseId, Listing, Op, RangePage, RangeRequest,
    Result, Revision, Txn, TxnOutcome, WatchBatch,
    store::{MAX_PAGE_LIMIT, lease_gone},
};

/// How much history is kept for watchers that lag behind.
const MAX_HISTORY_EVENTS: usize = 1 << 16;
const MAX_HISTORY_BYTES: usize = 16 << 20;
/// A watcher takes about as many events at a time; it never splits a revision.
const MAX_WATCH_BATCH: usize = 1024;

/// The value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) value: Bytes,
    pub(super) create_revision: Revision,
    pub(super) mod_revision: Revision,
    pub(super) lease: Option<LeaseId>,
}

impl Entry {
    fn with_key(&self, key: &str) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: self.value.clone(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            lease: self.lease,
        }
    }
}

/// A lease. It lives in memory only: whoever held it is gone when an embedded store is opened again.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) ttl: std::time::Duration,
    pub(super) deadline: Instant,
    /// Ran out, but its keys are not removed yet.
    pub(super) expired: bool,
    keys: BTreeSet<String>,
}

/// The state that readers see.
#[derive(Debug)]
pub(super) struct Image {
    /// Shared with what was read from a file, while nothing has changed.
    entries: Arc<BTreeMap<String, Entry>>,
    revision: Revision,
    pub(super) leases: HashMap<LeaseId, Lease>,
    next_lease: i64,
    history: VecDeque<WatchBatch>,
    history_events: usize,
    history_bytes: usize,
    /// The last revision that history does not hold any more.
    compacted: Revision,
    pub(super) closed: bool,
}

impl Image {
    pub(super) fn new(revision: Revision, entries: Arc<BTreeMap<String, Entry>>) -> Self {
        Self {
            entries,
            revision,
            leases: HashMap::new(),
            next_lease: 1,
            history: VecDeque::new(),
            history_events: 0,
            history_bytes: 0,
            compacted: revision,
            closed: false,
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed {
            return Err(Error::new(ErrorKind::Retry, "the metadata store is closed"));
        }
        Ok(())
    }

    pub(super) fn get(&self, key: &str) -> Option<KeyValue> {
        self.entries.get(key).map(|entry| entry.with_key(key))
    }

    pub(super) fn range(&self, request: &RangeRequest) -> RangePage {
        let limit = request.limit.clamp(1, MAX_PAGE_LIMIT);
        let start = match &request.start_after {
            Some(after) if *after >= request.prefix => Excluded(after.as_str()),
            _ => Included(request.prefix.as_str()),
        };
        let mut matching = self
            .entries
            .range::<str, _>((start, Unbounded))
            .take_while(|(key, _)| key.starts_with(&request.prefix));
        let kvs = matching.by_ref().take(limit).map(|(key, entry)| entry.with_key(key)).collect();
        RangePage { kvs, revision: self.revision, more: matching.next().is_some() }
    }

    pub(super) fn list(&self, prefix: &str) -> Listing {
        let matching = self
            .entries
            .range::<str, _>((Included(prefix), Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix));
        let kvs = matching.map(|(key, entry)| entry.with_key(key)).collect();
        Listing { kvs, revision: self.revision }
    }

    pub(super) fn grant(&mut self, ttl: std::time::Duration, now: Instant) -> LeaseId {
        let id = LeaseId(self.next_lease);
        self.next_lease += 1;
        self.leases.insert(id, Lease { ttl, deadline: now + ttl, expired: false, keys: BTreeSet::new() });
        id
    }

    /// The changes from `*next` on under a prefix; advances `*next` behind what was looked at.
    pub(super) fn changes(&self, prefix: &str, next: &mut Revision) -> Result<Option<WatchBatch>> {
        if *next <= self.compacted {
            return Err(Error::new(
                ErrorKind::Compacted,
                format!("changes at revision {next} are not kept any more: list again and watch from there"),
            ));
        }
        let skip = usize::try_from(next.0 - self.compacted.0 - 1).unwrap_or(usize::MAX);
        let mut events = Vec::new();
        for batch in self.history.iter().skip(skip) {
            events.extend(batch.events.iter().filter(|event| event.key().starts_with(prefix)).cloned());
            *next = batch.revision.next();
            if events.len() >= MAX_WATCH_BATCH {
                break;
            }
        }
        let revision = events.last().map(Event::revision);
        Ok(revision.map(|revision| WatchBatch { revision, events }))
    }

    /// Makes staged changes visible.
    pub(super) fn apply(&mut self, staged: Staged) {
        for (key, entry) in staged.changes {
            self.set(key, entry);
        }
        for lease in staged.revoked {
            self.leases.remove(&lease);
        }
        assert!(staged.revision >= self.revision, "revisions only grow");
        self.revision = staged.revision;
        for batch in staged.history {
            self.remember(batch);
        }
        self.forget_old_history();
    }

    fn set(&mut self, key: String, new: Option<Entry>) {
        let old_lease = self.entries.get(&key).and_then(|old| old.lease);
        let new_lease = new.as_ref().and_then(|new| new.lease);
        if old_lease != new_lease {
            if let Some(lease) = old_lease.and_then(|id| self.leases.get_mut(&id)) {
                lease.keys.remove(&key);
            }
            if let Some(lease) = new_lease.and_then(|id| self.leases.get_mut(&id)) {
                lease.keys.insert(key.clone());
            }
        }
        let entries = Arc::make_mut(&mut self.entries);
        match new {
            Some(entry) => drop(entries.insert(key, entry)),
            None => drop(entries.remove(&key)),
        }
    }

    fn remember(&mut self, batch: WatchBatch) {
        self.history_events += batch.events.len();
        self.history_bytes += batch_bytes(&batch);
        self.history.push_back(batch);
    }

    fn forget_old_history(&mut self) {
        while self.history_events > MAX_HISTORY_EVENTS || self.history_bytes > MAX_HISTORY_BYTES {
            let oldest = self.history.pop_front().expect("an empty history has no events");
            self.history_events -= oldest.events.len();
            self.history_bytes -= batch_bytes(&oldest);
            self.compacted = oldest.revision;
        }
    }
}

fn batch_bytes(batch: &WatchBatch) -> usize {
    let one = |event: &Event| match event {
        Event::Put(kv) => kv.key.len() + kv.value.len(),
        Event::Delete { key, .. } => key.len(),
    };
    batch.events.iter().map(one).sum()
}

/// Transactions that were evaluated, in order, but are not applied yet.
#[derive(Debug)]
pub(super) struct Staged {
    /// The final state of every key that changed; `None` is deleted.
    changes: BTreeMap<String, Option<Entry>>,
    history: Vec<WatchBatch>,
    revoked: Vec<LeaseId>,
    revision: Revision,
}

impl Staged {
    pub(super) fn new(image: &Image) -> Self {
        Self { changes: BTreeMap::new(), history: Vec::new(), revoked: Vec::new(), revision: image.revision }
    }

    pub(super) fn changes(&self) -> &BTreeMap<String, Option<Entry>> {
        &self.changes
    }

    /// Whether a key below a prefix changes.
    pub(super) fn touches(&self, prefix: &str) -> bool {
        let first = self.changes.range::<str, _>((Included(prefix), Unbounded)).next();
        first.is_some_and(|(key, _)| key.starts_with(prefix))
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// Evaluates one more command. After an error nothing of it is staged.
    pub(super) fn stage(&mut self, image: &Image, command: &Command) -> Result<TxnOutcome> {
        match command {
            Command::Txn(txn) => self.stage_txn(image, txn),
            Command::Revoke(lease) => Ok(self.stage_revoke(image, *lease)),
        }
    }

    fn stage_txn(&mut self, image: &Image, txn: &Txn) -> Result<TxnOutcome> {
        if !txn.compares.iter().all(|compare| self.holds(image, compare)) {
            return Ok(TxnOutcome { succeeded: false, revision: self.revision });
        }
        for op in &txn.then {
            if let Op::Put { lease: Some(lease), .. } = op {
                self.check_lease(image, *lease)?;
            }
        }
        let revision = self.revision.next();
        let mut events = Vec::new();
        for op in &txn.then {
            match op {
                Op::Put { key, value, lease } => {
                    let create_revision = self.get(image, key).map_or(revision, |old| old.create_revision);
                    let entry = Entry {
                        value: value.clone(),
                        create_revision,
                        mod_revision: revision,
                        lease: *lease,
                    };
                    events.push(Event::Put(entry.with_key(key)));
                    self.changes.insert(key.clone(), Some(entry));
                }
                Op::Delete { key } => self.stage_delete(image, key, revision, &mut events),
                Op::DeletePrefix { prefix } => {
                    for key in self.keys_under(image, prefix) {
                        self.stage_delete(image, &key, revision, &mut events);
                    }
                }
            }
        }
        self.finish(events);
        Ok(TxnOutcome { succeeded: true, revision: self.revision })
    }

    fn stage_revoke(&mut self, image: &Image, lease: LeaseId) -> TxnOutcome {
        let known = image.leases.get(&lease).filter(|_| !self.revoked.contains(&lease));
        if let Some(known) = known {
            let mut keys = known.keys.clone();
            keys.extend(self.changes.keys().cloned());
            keys.retain(|key| self.get(image, key).is_some_and(|entry| entry.lease == Some(lease)));
            let revision = self.revision.next();
            let mut events = Vec::new();
            for key in keys {
                self.stage_delete(image, &key, revision, &mut events);
            }
            self.revoked.push(lease);
            self.finish(events);
        }
        TxnOutcome { succeeded: known.is_some(), revision: self.revision }
    }

    fn stage_delete(&mut self, image: &Image, key: &str, revision: Revision, events: &mut Vec<Event>) {
        if self.get(image, key).is_some() {
            events.push(Event::Delete { key: key.to_owned(), revision });
            self.changes.insert(key.to_owned(), None);
        }
    }

    /// A command that changed nothing takes no revision, as in etcd.
    fn finish(&mut self, events: Vec<Event>) {
        if !events.is_empty() {
            self.revision = self.revision.next();
            self.history.push(WatchBatch { revision: self.revision, events });
        }
    }

    fn get<'a>(&'a self, image: &'a Image, key: &str) -> Option<&'a Entry> {
        match self.changes.get(key) {
            Some(change) => change.as_ref(),
            None => image.entries.get(key),
        }
    }

    /// The keys under a prefix that exist, or that a staged transaction deleted.
    fn keys_under(&self, image: &Image, prefix: &str) -> BTreeSet<String> {
        fn under<'a, V>(map: &'a BTreeMap<String, V>, prefix: &'a str) -> impl Iterator<Item = &'a String> {
            let from: btree_map::Range<'a, String, V> = map.range::<str, _>((Included(prefix), Unbounded));
            from.map(|(key, _)| key).take_while(move |key| key.starts_with(prefix))
        }
        under(&image.entries, prefix).chain(under(&self.changes, prefix)).cloned().collect()
    }

    fn holds(&self, image: &Image, compare: &Compare) -> bool {
        let entry = self.get(image, &compare.key);
        match &compare.target {
            CompareTarget::Absent => entry.is_none(),
            CompareTarget::ModRevision(revision) => entry.is_some_and(|e| e.mod_revision == *revision),
            CompareTarget::CreateRevision(revision) => entry.is_some_and(|e| e.create_revision == *revision),
            CompareTarget::Value(value) => entry.is_some_and(|e| e.value == *value),
        }
    }

    fn check_lease(&self, image: &Image, lease: LeaseId) -> Result<()> {
        match image.leases.get(&lease) {
            Some(known) if !known.expired && !self.revoked.contains(&lease) => Ok(()),
            _ => Err(lease_gone(lease)),
        }
    }
}
