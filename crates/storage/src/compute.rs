//! Work that keeps a processor busy for longer than a task should: decompression, and walks through many records.
//!
//! What peers ask for is done by a few threads of low priority, which leave a processor to the runtime. Work that inflates
//! little goes first, on threads of its own; the rest is begun anew on others. Requesters take turns, so that many
//! jobs of one keep only that one waiting.
//!
//! The threads are the process's, as its processors are. They start with the first work and never end.
//!
//! Invariant: where the runtime has one thread only, the work is done in place, in its turn: a simulation depends on no scheduling
//! of the operating system (docs/adr/0009).

mod threads;
mod turns;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::LazyLock;
use std::thread::available_parallelism;

use bytes::Bytes;
use kafscale_core::batch::BatchHeader;
use kafscale_core::ids::Offset;
use kafscale_core::records::{self, RecordsError, WalkLimit};
use kafscale_core::times::Times;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{JoinError, spawn_blocking};

use threads::Threads;
pub use turns::Turn;
use turns::Turns;

/// What is first tried. A batch of the usual size is within it.
const SHORT: WalkLimit = WalkLimit { inflated_bytes: 8 << 20, records: 1 << 20 };
/// Lookups under way, each of which holds a batch in memory; of all, and of one requester.
const LOOKUPS_MAX: usize = 64;
const LOOKUPS_EACH_MAX: usize = 16;

/// Who asks for work: whose turn it is goes by that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requester {
    /// The broker itself.
    Broker,
    /// A client. With authentication it will be its principal.
    Peer(IpAddr),
}

impl Requester {
    /// Whoever has a network of its own has many addresses in IPv6: the network counts.
    pub fn peer(address: IpAddr) -> Requester {
        match address.to_canonical() {
            IpAddr::V6(v6) => Requester::Peer((v6 & Ipv6Addr::from_bits(!0 << 64)).into()),
            v4 @ IpAddr::V4(_) => Requester::Peer(v4),
        }
    }
}

/// The work panicked.
#[derive(Debug, thiserror::Error)]
#[error("the work ended early")]
pub struct ComputeEnded;

/// Work of one kind.
struct Class {
    threads: Threads,
    turns: Turns,
}

impl Class {
    fn new(name: &'static str, threads: usize, nice: i32) -> Class {
        // One job more than there are threads is ready when a thread becomes free.
        Class { threads: Threads::new(name, threads, nice), turns: Turns::new(threads + 1, threads + 1) }
    }

    async fn run<T: Send + 'static>(
        &self,
        requester: Requester,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ComputeEnded> {
        let turn = self.turns.take(requester).await;
        // The turn is the job's: whoever stops waiting does not make room for more work before this one is done.
        self.threads.run(turn, work).await.ok_or(ComputeEnded)
    }
}

struct Classes {
    short: Class,
    long: Class,
    lookups: Turns,
}

static CLASSES: LazyLock<Classes> = LazyLock::new(|| {
    let processors = available_parallelism().map_or(2, usize::from);
    Classes {
        short: Class::new("compute-short", (processors - 1).max(1), 5),
        long: Class::new("compute-long", (processors / 4).max(1), 15),
        lookups: Turns::new(LOOKUPS_MAX, LOOKUPS_EACH_MAX),
    }
});

/// Whether work is done in place.
fn in_place() -> bool {
    matches!(Handle::current().runtime_flavor(), RuntimeFlavor::CurrentThread)
}

/// Does the work beside the runtime's own threads, so that it keeps no task waiting. The error means that the runtime is going down, or
/// that the work panicked. For work that no peer can make large or frequent.
pub async fn compute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    if in_place() { Ok(work()) } else { spawn_blocking(work).await }
}

/// Does work that may inflate much. `work` gets a limit, and gives itself back when that is too low; at [`WalkLimit::FULL`]
/// it must come to an end. Dropping the future takes work back that was not begun.
pub async fn compute_for<W, T>(requester: Requester, mut work: W) -> Result<T, ComputeEnded>
where
    W: FnMut(WalkLimit) -> Option<T> + Send + 'static,
    T: Send + 'static,
{
    const AT_FULL: &str = "nothing is beyond the full limit";
    if in_place() {
        return Ok(work(WalkLimit::FULL).expect(AT_FULL));
    }
    let tried = CLASSES.short.run(requester, move || match work(SHORT) {
        Some(done) => Ok(done),
        None => Err(work),
    });
    match tried.await? {
        Ok(done) => Ok(done),
        Err(mut work) => CLASSES.long.run(requester, move || work(WalkLimit::FULL).expect(AT_FULL)).await,
    }
}

/// The first record of a batch at or after a time, as [`records::first_at_or_after`].
pub async fn first_at_or_after(
    requester: Requester,
    header: BatchHeader,
    batch: Bytes,
    target_ms: i64,
) -> Result<Result<Option<(Offset, i64)>, RecordsError>, ComputeEnded> {
    if header.max_timestamp_ms < target_ms || header.is_log_append_time() {
        return Ok(records::first_at_or_after(&header, &batch, target_ms));
    }
    let work = move |limit: WalkLimit| {
        if limit != WalkLimit::FULL && limit.is_exceeded_by(&header) {
            return None;
        }
        match records::first_within(&header, &batch, target_ms, limit.inflated_bytes) {
            Err(RecordsError::TooLarge { .. }) if limit != WalkLimit::FULL => None,
            found => Some(found),
        }
    };
    compute_for(requester, work).await
}

/// The timestamps of a batch's records, as [`Times::of_batch`].
pub async fn times_of_batch(
    header: BatchHeader,
    batch: Bytes,
) -> Result<Result<Times, RecordsError>, ComputeEnded> {
    let work = move |limit: WalkLimit| {
        if limit != WalkLimit::FULL && limit.is_exceeded_by(&header) {
            return None;
        }
        match Times::of_batch(&header, &batch, limit.inflated_bytes) {
            Err(RecordsError::TooLarge { .. }) if limit != WalkLimit::FULL => None,
            found => Some(found),
        }
    };
    compute_for(Requester::Broker, work).await
}

/// Waits until this requester may look something up that takes a batch into memory. `None` where nothing is limited.
pub async fn lookup_turn(requester: Requester) -> Option<Turn> {
    if in_place() { None } else { Some(CLASSES.lookups.take(requester).await) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn peer(n: u8) -> Requester {
        Requester::Peer(IpAddr::from([10, 0, 0, n]))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn long_work_keeps_no_short_work_waiting() {
        let (release, held) = mpsc::channel::<()>();
        let mut held = Some(held);
        let long = tokio::spawn(compute_for(peer(1), move |limit| {
            (limit == WalkLimit::FULL).then(|| held.take().unwrap().recv().unwrap())
        }));
        for n in 2..20 {
            let short = compute_for(peer(n), move |limit| (limit == SHORT).then_some(n));
            assert_eq!(tokio::time::timeout(Duration::from_secs(20), short).await.unwrap().unwrap(), n);
        }
        release.send(()).unwrap();
        long.await.unwrap().unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_panic_ends_its_own_work_only() {
        let panicking = compute_for(peer(30), |_| -> Option<()> { panic!("on purpose") });
        assert!(panicking.await.is_err());
        assert_eq!(compute_for(peer(30), |_| Some(1)).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn one_thread_does_the_work_in_place() {
        let here = std::thread::current().id();
        let there = compute_for(peer(1), |limit| Some((limit, std::thread::current().id()))).await.unwrap();
        assert_eq!(there, (WalkLimit::FULL, here));
    }
}
