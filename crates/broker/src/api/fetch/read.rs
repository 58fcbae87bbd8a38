//! Reading the partitions of a Fetch.
//!
//! What is in memory comes at once, in the order of the request; the rest is read beside each other. A partition whose read takes long
//! (an object that is not given, say) is answered with no records, so that the others need not wait for it; its read goes on, and the
//! next request has what came of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, Shared, join_all};
use kafka_protocol::error::ResponseError;
use kafscale_core::batch::{Codec, batches};
use kafscale_core::ids::{Offset, PartitionId};
use kafscale_storage::{PartitionOffsets, ReadBatches, ReadError};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Target, failed};
use crate::api::{RequestContext, lookup};
use crate::node::Node;
use crate::wire::fetch::FetchedPartition;

/// KIP-110: older clients cannot read zstd.
const ZSTD_SINCE: i16 = 10;
/// A response gets this much of the memory budget without asking whether others could use it.
const BUDGET_MIN_BYTES: usize = 1 << 20;
/// A partition among others is waited for so long.
const HOLD: Duration = Duration::from_millis(500);
/// What a read that took longer has found is kept for the next request for so long.
const KEEP: Duration = Duration::from_secs(5);
/// Reads that may be kept; where there are more, they are waited for.
const KEPT_MAX: usize = 32;
/// What such a read gives at most, so that all of them together are few.
const KEPT_MAX_BYTES: u32 = 4 << 20;

type Found = Result<ReadBatches, ReadError>;
type Reading = Shared<BoxFuture<'static, Found>>;

/// A read, by what it may give: whoever asks for the same gets the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ReadKey {
    partition: PartitionId,
    from: Offset,
    /// Whether its first batch is given even when that is larger than the limit.
    min_one: bool,
}

/// Reads that took longer than their requests could wait.
#[derive(Debug, Default)]
pub struct LateReads(Mutex<HashMap<ReadKey, Reading>>);

impl LateReads {
    fn get(&self, key: ReadKey) -> Option<Reading> {
        self.0.lock().get(&key).cloned()
    }

    /// Lets a read go on by itself, charged to the memory for answers. `false`: there are too many, or there is no memory for it.
    fn keep(
        self: &Arc<Self>,
        key: ReadKey,
        reading: &Reading,
        memory: &Arc<Semaphore>,
        stopping: &CancellationToken,
    ) -> bool {
        let mut kept = self.0.lock();
        if kept.contains_key(&key) {
            return true;
        }
        if kept.len() >= KEPT_MAX {
            return false;
        }
        let Ok(mut charge) = Arc::clone(memory).try_acquire_many_owned(KEPT_MAX_BYTES) else {
            return false;
        };
        kept.insert(key, reading.clone());
        let (late, reading, stopping) = (Arc::clone(self), reading.clone(), stopping.clone());
        tokio::spawn(async move {
            let finished = async {
                let found = reading.await;
                let size_bytes = found.as_ref().map_or(0, |read| read.size_bytes);
                drop(charge.split(charge.num_permits().saturating_sub(size_bytes)));
                // One whose limit was too small for a batch is no use to others.
                if found.is_err() || size_bytes > 0 {
                    sleep(KEEP).await;
                }
            };
            _ = stopping.run_until_cancelled(finished).await;
            late.0.lock().remove(&key);
        });
        true
    }
}

/// A partition that was not in memory: its place in the answer.
struct Slow {
    at: usize,
    key: ReadKey,
    offsets: PartitionOffsets,
    room: usize,
    reading: Reading,
}

/// Reads the partitions in their order until `max_bytes` are full.
pub(super) async fn read(
    node: &Node,
    ctx: &RequestContext,
    targets: &[Target],
    max_bytes: usize,
) -> (Vec<FetchedPartition>, Option<OwnedSemaphorePermit>) {
    let (mut budget, allowed) = take_budget(node, targets, max_bytes).await;
    // Bytes that were read, and those that are being read.
    let (mut used, mut promised) = (0, 0);
    let mut fetched = Vec::with_capacity(targets.len());
    let mut slow = Vec::new();
    for target in targets {
        // There may be many, and those that have nothing need no wait.
        consume_budget().await;
        let room = allowed.saturating_sub(used + promised);
        let begun = begin(node, target, room, used + promised == 0, targets.len() == 1).await;
        let partition = match begun {
            Ok(Begun::Read(offsets, found)) => answered(node, ctx, target, offsets, found),
            Ok(Begun::Slow { key, offsets, expected, reading }) => {
                promised += expected;
                let at = fetched.len();
                slow.push(Slow { at, key, offsets, room, reading });
                nothing(target, offsets)
            }
            Err(error) => failed(node, ctx, target, error),
        };
        used += size_of(&partition);
        fetched.push(partition);
    }
    if !slow.is_empty() {
        wait_for_slow(node, ctx, targets, slow, &mut fetched).await;
        used = fetched.iter().map(size_of).sum();
        if used == 0 {
            used = read_instead(node, ctx, targets, allowed, &mut fetched);
        }
    }
    // What was not used goes back at once, the rest when the peer has taken it.
    if let Some(budget) = &mut budget {
        let unused = budget.num_permits().saturating_sub(used);
        drop(budget.split(unused));
    }
    (fetched, budget)
}

enum Begun {
    Read(PartitionOffsets, Found),
    /// With the bytes that it will bring at most.
    Slow {
        key: ReadKey,
        offsets: PartitionOffsets,
        expected: usize,
        reading: Reading,
    },
}

/// Reads what is in memory, and begins to read what is not. One that is alone holds up nobody, and is read to its end.
async fn begin(
    node: &Node,
    target: &Target,
    room: usize,
    is_first: bool,
    is_alone: bool,
) -> Result<Begun, ResponseError> {
    let (partition, from) = target.readable()?;
    let offsets = partition.offsets();
    let limit = usize::try_from(target.request.max_bytes).unwrap_or(0).min(room);
    if from >= offsets.high_watermark || (limit == 0 && !is_first) {
        return Ok(Begun::Read(offsets, Ok(ReadBatches::default())));
    }
    if is_alone {
        return Ok(Begun::Read(offsets, partition.read(from, limit, is_first).await));
    }
    match partition.read_now(from, limit, is_first) {
        Ok(None) => {}
        Ok(Some(found)) => return Ok(Begun::Read(offsets, Ok(found))),
        Err(error) => return Ok(Begun::Read(offsets, Err(error))),
    }
    let limit = limit.min(KEPT_MAX_BYTES as usize);
    let expected = partition.available_bytes(from, limit).min(limit).max(1);
    let key = ReadKey { partition: partition.id(), from, min_one: is_first };
    let reading = node.late_reads.get(key).unwrap_or_else(|| {
        let partition = partition.clone();
        async move { partition.read(from, limit, is_first).await }.boxed().shared()
    });
    Ok(Begun::Slow { key, offsets, expected, reading })
}

/// Puts what the slow ones give into the answer, as far as it comes in time.
async fn wait_for_slow(
    node: &Node,
    ctx: &RequestContext,
    targets: &[Target],
    slow: Vec<Slow>,
    fetched: &mut [FetchedPartition],
) {
    let deadline = Instant::now() + HOLD;
    let waits = slow.iter().map(|slow| async move {
        if let Ok(found) = timeout_at(deadline, slow.reading.clone()).await {
            return Some(found);
        }
        if node.late_reads.keep(slow.key, &slow.reading, &node.response_memory, &node.stopping) {
            return None;
        }
        Some(slow.reading.clone().await)
    });
    for (slow, found) in slow.iter().zip(join_all(waits).await) {
        let Some(found) = found else { continue };
        // It was read for an earlier request, and there is no room for it in this one.
        if found.as_ref().is_ok_and(|read| read.size_bytes > slow.room) && !slow.key.min_one {
            continue;
        }
        fetched[slow.at] = answered(node, ctx, &targets[slow.at], slow.offsets, found);
    }
}

/// What is in memory of the other partitions, where the slow ones had the room and brought nothing. Gives its bytes.
fn read_instead(
    node: &Node,
    ctx: &RequestContext,
    targets: &[Target],
    allowed: usize,
    fetched: &mut [FetchedPartition],
) -> usize {
    let mut used = 0;
    for (target, fetched) in targets.iter().zip(fetched) {
        let Ok((partition, from)) = target.readable() else { continue };
        let offsets = partition.offsets();
        let limit = usize::try_from(target.request.max_bytes).unwrap_or(0).min(allowed.saturating_sub(used));
        if from >= offsets.high_watermark || (limit == 0 && used > 0) {
            continue;
        }
        if let Ok(Some(found)) = partition.read_now(from, limit, used == 0) {
            *fetched = answered(node, ctx, target, offsets, Ok(found));
            used += size_of(fetched);
        }
    }
    used
}

fn answered(
    node: &Node,
    ctx: &RequestContext,
    target: &Target,
    offsets: PartitionOffsets,
    found: Found,
) -> FetchedPartition {
    let read = match found {
        Ok(read) => read,
        Err(error) => return failed(node, ctx, target, lookup::read_error(&error)),
    };
    if ctx.version < ZSTD_SINCE && read.chunks.iter().any(|chunk| has_zstd(chunk)) {
        return failed(node, ctx, target, ResponseError::UnsupportedCompressionType);
    }
    if let Ok(source) = &target.partition
        && read.size_bytes > 0
    {
        node.metrics.sent(source.topic_name(), records_in(&read.chunks), read.size_bytes);
    }
    FetchedPartition { records: read.chunks, ..nothing(target, offsets) }
}

/// No records, and no error.
fn nothing(target: &Target, offsets: PartitionOffsets) -> FetchedPartition {
    FetchedPartition {
        index: target.key.index,
        error_code: 0,
        high_watermark: offsets.high_watermark.0,
        log_start_offset: offsets.log_start.0,
        current_leader: None,
        records: Vec::new(),
    }
}

fn size_of(partition: &FetchedPartition) -> usize {
    partition.records.iter().map(Bytes::len).sum()
}

/// How many records the batches hold, as their headers say.
fn records_in(fetched: &[Bytes]) -> u64 {
    let headers = fetched.iter().flat_map(|bytes| batches(bytes)).flatten();
    let data = headers.filter(|(_, header)| !header.is_control());
    data.map(|(_, header)| u64::try_from(header.records_count).unwrap_or(0)).sum()
}

fn has_zstd(chunk: &[u8]) -> bool {
    batches(chunk).any(|batch| batch.is_ok_and(|(_, header)| header.codec() == Codec::Zstd))
}

/// Takes from the memory for responses what the request can use, but no more than a part of what is left.
async fn take_budget(
    node: &Node,
    targets: &[Target],
    max_bytes: usize,
) -> (Option<OwnedSemaphorePermit>, usize) {
    let mut useful = 0;
    for target in targets {
        if let Ok((partition, from)) = target.readable() {
            let limit = usize::try_from(target.request.max_bytes).unwrap_or(0).max(1);
            useful += partition.available_bytes(from, limit).min(limit);
        }
        if useful >= max_bytes {
            break;
        }
    }
    if useful == 0 {
        return (None, max_bytes);
    }
    let left = node.response_memory.available_permits();
    let fair = (left / 4).max(BUDGET_MIN_BYTES.min(node.config.response_memory_bytes));
    let share = useful.min(max_bytes).clamp(1, fair);
    let permits = u32::try_from(share).expect("a response is below 2 GiB");
    let memory = Arc::clone(&node.response_memory);
    let budget = memory.acquire_many_owned(permits).await.expect("the budget is never closed");
    (Some(budget), share)
}

#[cfg(test)]
mod tests {
    use kafscale_core::ids::TopicId;
    use uuid::Uuid;

    use super::*;

    const MEMORY_BYTES: usize = 4 << 20;

    fn key(from: i64) -> ReadKey {
        ReadKey {
            partition: PartitionId { topic: TopicId(Uuid::from_u128(1)), index: 0 },
            from: Offset(from),
            min_one: false,
        }
    }

    fn of(size_bytes: usize) -> Reading {
        let found = ReadBatches { size_bytes, ..ReadBatches::default() };
        async move { Ok(found) }.boxed().shared()
    }

    fn endless() -> Reading {
        std::future::pending().boxed().shared()
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_read_is_charged_until_it_is_given_up() {
        let (late, stopping) = (Arc::<LateReads>::default(), CancellationToken::new());
        let memory = Arc::new(Semaphore::new(MEMORY_BYTES + 100));
        assert!(late.keep(key(0), &of(1000), &memory, &stopping));
        assert!(!late.keep(key(1), &endless(), &memory, &stopping), "there is no memory for another one");
        sleep(Duration::from_millis(1)).await;
        assert_eq!(
            memory.available_permits(),
            MEMORY_BYTES + 100 - 1000,
            "what it did not need is given back"
        );
        sleep(KEEP * 2).await;
        assert_eq!(memory.available_permits(), MEMORY_BYTES + 100);
        assert!(late.get(key(0)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn late_reads_are_few_and_end_with_the_broker() {
        let (late, stopping) = (Arc::<LateReads>::default(), CancellationToken::new());
        let memory = Arc::new(Semaphore::new(MEMORY_BYTES * KEPT_MAX * 2));
        for from in 0..KEPT_MAX {
            assert!(late.keep(key(from as i64), &endless(), &memory, &stopping));
        }
        assert!(!late.keep(key(-1), &endless(), &memory, &stopping));
        assert!(late.keep(key(0), &endless(), &memory, &stopping), "it is kept already");
        stopping.cancel();
        sleep(Duration::from_millis(1)).await;
        assert_eq!(memory.available_permits(), MEMORY_BYTES * KEPT_MAX * 2);
    }
}
