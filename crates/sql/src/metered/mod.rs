//! Memory of statements, whatever takes it.
//!
//! The engine's memory pool knows what operators say that they hold, and so decides who writes to disk. It does not know
//! of values while they are made, of windows' results, of what a plan takes while it is made. The allocator does
//! ([`kafscale_meter`]): each statement has a meter, and its tasks work for it on whatever thread they run. Between the
//! batches of every step, the calls of every aggregate and window function, the columns of a projection and the rules of
//! the planner it is looked at. Where all statements together hold more than [`limit`] says, the one that holds most
//! fails, and the others go on.
//!
//! What one call makes before anything looks again is worked out before, where it may be large ([`crate::growth`]).

mod aggregates;
mod copies;
mod plans;
mod windows;

use std::any::Any;
use std::pin::pin;

use datafusion::common::runtime::{JoinSetTracer, set_join_set_tracer};
use datafusion::error::Result;
use futures_util::future::BoxFuture;
use kafscale_meter::{Current, Reserved, TooMuch};

pub use aggregates::aggregates;
pub use copies::with_small_batches;
pub use plans::{metered, without_checks};
pub use windows::windows;

use crate::error::SqlError;

/// What statements may hold together besides the memory for queries, which is what operators account for: batches on
/// their way, values while they are made, hash tables while they grow.
pub const BESIDES_BYTES: u64 = 256 << 20;
/// Less than this is not worth asking before it is allocated.
const LARGE_BYTES: f64 = (256 << 10) as f64;

/// From now on, statements together hold hardly more than this besides the memory for queries, and tasks of a statement
/// are counted for it.
pub fn limit(memory: u64) {
    kafscale_meter::limit(memory.saturating_add(BESIDES_BYTES));
    // One is enough for the process: a second engine, as tests have it, finds it there.
    let _ = set_join_set_tracer(&Carried);
}

/// Fails where the statement that the thread works for holds too much.
pub fn check() -> Result<()> {
    kafscale_meter::check().map_err(|held| refused(held).into())
}

/// Asks for what a call will allocate. It is counted at once, and not twice while the guard is there.
pub fn reserve(bytes: f64) -> Result<Option<Reserved>> {
    if bytes < LARGE_BYTES {
        return Ok(None);
    }
    // Beyond what any machine has, every number is the same.
    let whole = if bytes < 1e18 { bytes as u64 } else { u64::MAX };
    kafscale_meter::reserve(whole).map(Some).map_err(|held| refused(held).into())
}

fn refused(held: TooMuch) -> SqlError {
    SqlError::NoMemory { held_bytes: held.held_bytes, limit_bytes: held.limit_bytes }
}

/// Works for a statement, on whatever threads that is.
pub async fn working<T>(of: Current, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    std::future::poll_fn(|context| {
        let _entered = of.enter();
        work.as_mut().poll(context)
    })
    .await
}

/// Tasks that the engine starts work for whom the thread works that starts them.
struct Carried;

impl JoinSetTracer for Carried {
    fn trace_future(
        &self,
        task: BoxFuture<'static, Box<dyn Any + Send>>,
    ) -> BoxFuture<'static, Box<dyn Any + Send>> {
        match Current::of_thread() {
            nobody if nobody.is_nobody() => task,
            of => Box::pin(working(of, task)),
        }
    }

    fn trace_block(
        &self,
        work: Box<dyn FnOnce() -> Box<dyn Any + Send> + Send>,
    ) -> Box<dyn FnOnce() -> Box<dyn Any + Send> + Send> {
        let of = Current::of_thread();
        Box::new(move || {
            let _entered = of.enter();
            work()
        })
    }
}

#[cfg(test)]
mod tests {
    use datafusion::common::runtime::SpawnedTask;
    use kafscale_meter::{Meter, Metered};

    use super::*;

    #[global_allocator]
    static ALLOCATOR: Metered = Metered;

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn tasks_work_for_the_statement_that_starts_them() {
        limit(64 << 30);
        let meter = Meter::default();
        let work = async {
            let task = SpawnedTask::spawn(async { vec![1_u8; 3 << 20] }).join().await.unwrap();
            let block = SpawnedTask::spawn_blocking(|| vec![1_u8; 4 << 20]).join().await.unwrap();
            (task, block)
        };
        let made = working(meter.current(), work).await;
        assert!((7 * MIB..8 * MIB).contains(&meter.held_bytes()), "{}", meter.held_bytes());
        let others = SpawnedTask::spawn(async { vec![1_u8; 5 << 20] }).join().await.unwrap();
        assert!(meter.held_bytes() < 8 * MIB);
        drop((made, others));
        assert!(meter.held_bytes() < MIB);
    }

    #[test]
    fn a_call_that_would_take_too_much_is_refused_with_a_code_and_a_hint() {
        limit(64 << 30);
        let meter = Meter::default();
        let _entered = meter.enter();
        assert!(reserve(100.0).unwrap().is_none() && reserve(1e9).unwrap().is_some());
        let error = SqlError::from(reserve(1e12).unwrap_err());
        assert_eq!(error.code(), "53200");
        assert!(error.hint().is_some_and(|hint| hint.contains("--memory")), "{error}");
        assert!(check().is_ok(), "what was refused is not held");
    }
}
