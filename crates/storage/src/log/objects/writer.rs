//! The writer of a chain in an object store: a task that sends what has gathered, up to so many objects at a time, and
//! acknowledges them in the order of the chain.
//!
//! Invariant: object `seq` is sent only when `seq - k` and everything below is there, so that never more than k are uncertain.
//! Invariant: an append is acknowledged when its object and all lower ones are there: a seal may cut the chain below it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use object_store::PutPayload;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::identity::Identity;
use super::upload::{OnTrouble, Outcome, Upload, upload};
use super::{OwnChain, UPLOADS_MAX};
use crate::log::flush::OpenObject;
use crate::log::shared::Shared;
use crate::log::writer::{acknowledge, contents};
use crate::wal::files::StoredObject;
use crate::wal::object::{
    HEADER_BYTES, INDEX_ENTRY_BYTES, IndexEntry, ObjectHeader, ObjectId, encode_footer, encode_index,
};
use kafscale_core::batch::BatchHeader;
use kafscale_core::crc;

const NO_ANSWER: &str = "the broker stopped before the object store answered";

/// An object that was sent and is not acknowledged.
struct InFlight {
    object: OpenObject,
    bodies: Vec<Bytes>,
    index: Vec<IndexEntry>,
    size_bytes: u64,
    sent: Instant,
    /// Set when the object is there.
    durable: Option<Instant>,
}

struct Writer<'a> {
    shared: &'a Shared,
    chain: &'a OwnChain,
    /// Sent, oldest first; the first one is object `first`.
    in_flight: VecDeque<InFlight>,
    first: u64,
    uploads: JoinSet<(u64, Outcome)>,
    last_sent: Option<Instant>,
    trouble: OnTrouble,
}

/// Writes until the buffer is closed and empty, or the chain is fenced.
pub async fn run(shared: Arc<Shared>, chain: Arc<OwnChain>) {
    let trouble = on_trouble(&shared);
    let mut writer = Writer {
        shared: &shared,
        chain: &chain,
        in_flight: VecDeque::new(),
        first: 0,
        uploads: JoinSet::new(),
        last_sent: None,
        trouble,
    };
    let is_silent = tokio::select! {
        () = chain.fenced.cancelled() => false,
        () = writer.work() => false,
        () = stopped_for_long(&shared) => true,
    };
    if is_silent {
        tracing::error!(
            "the object store does not answer; what it was not known to have is not acknowledged"
        );
        writer.give_up_unsent().await;
    }
    writer.end();
}

/// Returns when the log is to stop, and waits for its store no longer.
async fn stopped_for_long(shared: &Shared) {
    shared.stopping.cancelled().await;
    sleep_until(shared.stop_by().accepted).await;
}

/// Failed attempts make the log say that it is in trouble; they are logged from time to time.
fn on_trouble(shared: &Arc<Shared>) -> OnTrouble {
    let (shared, failures) = (Arc::downgrade(shared), AtomicU64::new(0));
    Arc::new(move |why: &str| {
        let Some(shared) = shared.upgrade() else { return };
        shared.counters.flushes.failures.fetch_add(1, Ordering::Relaxed);
        shared.buffer.stall(Some(why.to_owned()));
        if failures.fetch_add(1, Ordering::Relaxed).is_multiple_of(16) {
            tracing::warn!(
                why,
                "an object of the chain could not be written; trying again until it is there"
            );
        }
    })
}

/// The CRC of the batches' own CRCs. The index tells of everything else in them, so that two objects with the same header and the
/// same index are the same.
fn fingerprint(batches: &[Bytes]) -> u64 {
    let crc = |crc, batch: &Bytes| crc::append(crc, batch.get(BatchHeader::CRC).unwrap_or_default());
    u64::from(batches.iter().fold(0, crc))
}

impl Writer<'_> {
    /// Returns when the buffer is closed, and everything is there; or when the chain is not ours any more.
    async fn work(&mut self) {
        let at_once = self.shared.config.wal_uploads.clamp(1, UPLOADS_MAX as usize);
        loop {
            let not_before =
                self.last_sent.map_or_else(Instant::now, |at| at + self.shared.config.wal_min_interval);
            let may_send = self.in_flight.len() < at_once;
            tokio::select! {
                biased;
                Some(joined) = self.uploads.join_next() => {
                    let (seq, outcome) = joined.expect("an upload does not panic");
                    if !self.landed(seq, outcome) {
                        return;
                    }
                }
                object = self.shared.buffer.next_object(not_before), if may_send => match object {
                    Some(object) => self.send(object),
                    None => return self.drain().await,
                },
            }
        }
    }

    async fn drain(&mut self) {
        while let Some(joined) = self.uploads.join_next().await {
            let (seq, outcome) = joined.expect("an upload does not panic");
            if !self.landed(seq, outcome) {
                return;
            }
        }
    }

    fn send(&mut self, object: OpenObject) {
        let seq = self.first + self.in_flight.len() as u64;
        let (mut index, bodies) = contents(&object);
        // The copy of the index comes first.
        let copy_bytes = (index.len() * INDEX_ENTRY_BYTES) as u64;
        index.iter_mut().for_each(|entry| entry.position += copy_bytes);
        let id = ObjectId {
            node_id: self.chain.id.node_id,
            incarnation: self.chain.id.incarnation,
            seq,
            salt: fingerprint(&bodies),
        };
        let (body_bytes, entries) = (copy_bytes + object.bytes as u64, index.len() as u32);
        let header = ObjectHeader {
            id,
            seal: false,
            body_bytes,
            entries,
            has_index_copy: entries > 0,
            durable_below: self.first,
        };
        let encoded = encode_index(&index);
        let index_crc = crc::crc32c(&encoded);
        let front = Bytes::copy_from_slice(&header.encode());
        let end = Bytes::copy_from_slice(&encode_footer(&header, index_crc));
        let bodies_first = [front, encoded.clone()].into_iter().chain(bodies.iter().cloned());
        let payload: PutPayload = bodies_first.chain([encoded, end]).collect();
        let identity = Identity { header, index_crc };
        let sent = Upload { path: self.chain.id.object(seq), payload, identity };
        let (store, trouble) = (Arc::clone(&self.shared.store), Arc::clone(&self.trouble));
        self.uploads.spawn(async move { (seq, upload(store, sent, trouble).await) });
        let now = Instant::now();
        self.last_sent = Some(now);
        let size_bytes = header.object_bytes();
        self.in_flight.push_back(InFlight { object, bodies, index, size_bytes, sent: now, durable: None });
    }

    /// Takes note of an object's end. `false` when the chain is not ours any more.
    fn landed(&mut self, seq: u64, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Durable(at) => {
                let place = usize::try_from(seq - self.first).expect("few are under way");
                self.in_flight[place].durable = Some(at);
                self.acknowledge();
                true
            }
            Outcome::Fenced => {
                self.shared.fence("its chain was sealed");
                false
            }
        }
    }

    /// Acknowledges what is there with all below it.
    fn acknowledge(&mut self) {
        while let Some(proved) = self.in_flight.front().and_then(|first| first.durable) {
            let InFlight { object, bodies, index, size_bytes, sent, .. } =
                self.in_flight.pop_front().expect("looked at above");
            let seq = self.first;
            self.first += 1;
            self.chain.prove(proved);
            self.shared.buffer.stall(None);
            let bytes = object.bytes;
            self.shared.counters.flushes.observe(sent.elapsed(), bytes as u64, index.len() as u64, true);
            let path = self.chain.id.object(seq);
            let stored = StoredObject { path, size_bytes, own_seq: Some(seq), lost: None };
            let file_no = self.shared.files.add_object(stored);
            acknowledge(self.shared, object, bodies, &index, file_no, HEADER_BYTES as u64);
            self.shared.buffer.settle(bytes);
        }
    }

    /// Fails what gathers in the closed buffer, and was not sent.
    async fn give_up_unsent(&self) {
        while let Some(object) = self.shared.buffer.next_object(Instant::now()).await {
            object.flush.fail(NO_ANSWER);
            self.shared.buffer.settle(object.bytes);
        }
    }

    /// Fails what is under way, where there is anything: the chain is fenced, or the broker stops without an answer.
    fn end(self) {
        let fenced = self.chain.fenced.is_cancelled();
        let answered = self.in_flight.is_empty();
        for InFlight { object, .. } in self.in_flight {
            match fenced {
                true => object.flush.fence(),
                // Its requests time out or fail, and may be sent again: whether it counts is not known.
                false => object.flush.fail(NO_ANSWER),
            }
            self.shared.buffer.settle(object.bytes);
        }
        if answered && !fenced {
            *self.chain.end.lock() = Some(self.first);
        }
    }
}
