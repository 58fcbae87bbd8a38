//! A part of the memory for all queries, which belongs to one step of a plan.
//!
//! The pool of all queries gives each of those that can spill an equal part, and whoever cannot spill whatever is left.
//! A step that does both, one after the other, needs what it has given back for the first when it goes on to the second.
//! A share keeps it: towards the pool it is one consumer that can spill, and so gets an equal part, and it gives nothing
//! back until the step needs nothing at all, as between two runs that a sort writes to disk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// See the file's comment.
#[derive(Debug)]
pub struct Share {
    outer: Arc<dyn MemoryPool>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What was got from the pool of all.
    held: MemoryReservation,
    /// What the step needs of it now.
    used: usize,
}

impl Share {
    pub fn of(pool: &Arc<dyn MemoryPool>, name: String) -> Share {
        let held = MemoryConsumer::new(name).with_can_spill(true).register(pool);
        Share { outer: Arc::clone(pool), state: Mutex::new(State { held, used: 0 }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryPool for Share {
    fn name(&self) -> &str {
        "share"
    }

    fn grow(&self, _: &MemoryReservation, additional: usize) {
        let mut state = self.state();
        state.used += additional;
        state.held.grow(state.used.saturating_sub(state.held.size()));
    }

    fn shrink(&self, _: &MemoryReservation, shrink: usize) {
        let mut state = self.state();
        state.used = state.used.saturating_sub(shrink);
        if state.used == 0 {
            state.held.free();
        }
    }

    fn try_grow(&self, _: &MemoryReservation, additional: usize) -> Result<()> {
        let mut state = self.state();
        let used = state.used.saturating_add(additional);
        state.held.try_grow(used.saturating_sub(state.held.size()))?;
        state.used = used;
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.state().used
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.outer.memory_limit()
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a share of {}", self.outer)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::FairSpillPool;

    use super::*;

    #[test]
    fn a_share_keeps_what_its_step_gives_back_for_its_step() {
        let pool: Arc<dyn MemoryPool> = Arc::new(FairSpillPool::new(1000));
        let shares: [Arc<dyn MemoryPool>; 2] =
            ["one", "two"].map(|name| Arc::new(Share::of(&pool, name.to_owned())) as _);
        let [sorter, merge] = [true, false]
            .map(|spills| MemoryConsumer::new("step").with_can_spill(spills).register(&shares[0]));
        sorter.try_grow(500).unwrap();
        assert!(sorter.try_grow(1).is_err() && merge.try_grow(1).is_err(), "it took more than its share");
        sorter.shrink(300);
        let other = MemoryConsumer::new("step").register(&shares[1]);
        assert!(other.try_grow(501).is_err(), "the other one took what was given back");
        other.try_grow(500).unwrap();
        merge.try_grow(300).unwrap();
        assert_eq!((shares[0].reserved(), pool.reserved()), (500, 1000));

        merge.free();
        assert_eq!(pool.reserved(), 1000);
        sorter.free();
        assert_eq!(pool.reserved(), 500, "a step that needs nothing holds memory");
        drop((sorter, merge, shares));
        drop(other);
        assert_eq!(pool.reserved(), 0);
    }
}
