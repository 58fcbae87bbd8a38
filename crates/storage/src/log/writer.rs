//! The writer of a local chain: one thread that makes the open object durable, over and over. ([`super::objects::writer`] is its
//! sibling for object stores.)

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::flush::{Flush, OpenObject, PendingBatch, Work};
use super::shared::Shared;
use crate::wal::chain::{Chain, ChainError};
use crate::wal::files::Place;
use crate::wal::object::IndexEntry;

/// After a failed write, how often the disk is tried again.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// The rewriter looks whether there is too much after so many objects of a store.
const OBJECTS_PER_LOOK: u64 = 32;

/// Writes until the buffer is closed and empty. Runs on a thread of its own, as fdatasync blocks.
pub fn run(shared: &Shared, mut chain: Chain) {
    let mut last_write: Option<Instant> = None;
    loop {
        match shared.buffer.next(PROBE_INTERVAL) {
            Work::Stop => return chain.close(),
            Work::Write(object) => {
                keep_spacing(last_write, shared.config.wal_min_interval);
                last_write = Some(Instant::now());
                write(shared, &mut chain, object);
            }
            Work::Probe => match chain.probe() {
                Ok(()) => {
                    tracing::info!("the log takes writes again");
                    shared.buffer.accept();
                }
                Err(ChainError::Retry(_) | ChainError::Poisoned(_)) => {}
            },
        }
    }
}

/// Objects begin at least `interval` apart (`wal.min_interval`), which bounds what an object store charges.
fn keep_spacing(last_write: Option<Instant>, interval: Duration) {
    let wait = last_write.map(|last| interval.saturating_sub(last.elapsed()));
    if let Some(wait) = wait.filter(|w| !w.is_zero()) {
        std::thread::sleep(wait);
    }
}

/// The index of an object, and what it points to.
pub fn contents(object: &OpenObject) -> (Vec<IndexEntry>, Vec<Bytes>) {
    let mut position = 0;
    let mut index = Vec::with_capacity(object.batches.len());
    let mut bodies = Vec::with_capacity(object.batches.len());
    for PendingBatch { partition, batch, appended_ms } in &object.batches {
        index.push(IndexEntry::of(partition.id, batch, position, *appended_ms));
        position += batch.bytes.len() as u64;
        bodies.push(batch.bytes.clone());
    }
    (index, bodies)
}

fn write(shared: &Shared, chain: &mut Chain, object: OpenObject) {
    let (index, bodies) = contents(&object);
    let began = Instant::now();
    shared.pace.write_begins();
    let written = chain.append(&index, &bodies);
    shared.pace.write_ends();
    shared.counters.flushes.observe(
        began.elapsed(),
        object.bytes as u64,
        index.len() as u64,
        written.is_ok(),
    );
    match written {
        Ok((file_no, body_at)) => acknowledge(shared, object, bodies, &index, file_no, body_at),
        Err(error) => give_up(shared, object, &error),
    }
}

/// Makes the batches visible, then answers for them: a consumer never waits for what a producer was told.
pub fn acknowledge(
    shared: &Shared,
    object: OpenObject,
    bodies: Vec<Bytes>,
    index: &[IndexEntry],
    file_no: u64,
    body_at: u64,
) {
    let OpenObject { flush, batches, bytes: _ } = object;
    flush.keep(bodies);
    shared.files.hold(file_no, &flush);
    let mut kept = 0;
    // Retained before any of it can be released again.
    shared.files.retain(file_no, batches.len() as u64, flush.size_bytes() as u64);
    for (PendingBatch { partition, .. }, entry) in batches.iter().zip(index) {
        let mut state = partition.state.lock();
        if state.gone {
            continue;
        }
        state.make_durable(Place { file_no, position: body_at + entry.position });
        state.wake();
        kept += 1;
    }
    shared.files.release(file_no, batches.len() as u64 - kept);
    flush.succeed();
    let last_file = shared.last_file.swap(file_no, Ordering::Relaxed);
    // Each object of a store is a file; a look at all partitions is worth it now and then only, unless there is too much.
    let is_too_much = || shared.files.usage().0 > shared.config.wal_max_bytes;
    let look = shared.chain.is_none() || file_no.is_multiple_of(OBJECTS_PER_LOOK) || is_too_much();
    if look && last_file != file_no {
        shared.file_closed.notify_one();
    }
    if flush.size_bytes() > 0 {
        shared.remember(flush);
    }
}

/// Takes back what failed and everything placed after it, then refuses appends until the disk is sound again.
fn give_up(shared: &Shared, object: OpenObject, error: &ChainError) {
    tracing::error!(%error, "the log cannot be written; produce requests are refused until it can");
    if matches!(error, ChainError::Retry(_)) {
        shared.files.drop_spares();
    }
    let gathered = shared.buffer.refuse(error.to_string());
    let failed = |object: OpenObject| -> Arc<Flush> {
        for pending in &object.batches {
            let mut state = pending.partition.state.lock();
            state.roll_back();
            state.wake();
        }
        object.flush
    };
    let flushes = [failed(object), failed(gathered)];
    for flush in flushes {
        flush.fail(&error.to_string());
    }
}
