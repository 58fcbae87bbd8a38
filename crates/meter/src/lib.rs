//! Counts what each statement holds in memory, by the allocator: exact, whatever library allocates, and cheap.
//!
//! A statement has a [`Meter`]. While a thread works for it ([`Meter::enter`], and [`Current`] for tasks that it starts),
//! what is allocated is counted for it. All statements together are to hold no more than [`limit`] says; [`check`] tells the one
//! that holds most that it is too much, wherever it asks. The allocator itself refuses nothing: it cannot, but by ending the
//! process.
//!
//! Without [`Metered`] as the allocator of the program nothing is counted, and nothing is too much.

mod allocator;
mod count;

use std::marker::PhantomData;

pub use allocator::Metered;
pub use count::{TooMuch, check, limit};

/// Of one statement. What it holds when it is dropped is counted no more, and much that it has freed goes back to the system.
#[derive(Debug)]
pub struct Meter(count::Owner);

impl Default for Meter {
    fn default() -> Meter {
        let (owner, is_freed) = count::open();
        if is_freed {
            allocator::give_back();
        }
        Meter(owner)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if count::close(self.0) {
            allocator::give_back();
        }
    }
}

impl Meter {
    /// The thread works for this one until the guard is dropped.
    pub fn enter(&self) -> Entered {
        self.current().enter()
    }

    /// To enter it from elsewhere, also when it is gone: then nothing is counted.
    pub fn current(&self) -> Current {
        Current(self.0)
    }

    pub fn held_bytes(&self) -> u64 {
        count::held(self.0)
    }
}

/// Whom a thread works for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current(count::Owner);

impl Current {
    pub fn of_thread() -> Current {
        Current(count::current())
    }

    pub fn is_nobody(self) -> bool {
        self.0 == 0
    }

    pub fn enter(self) -> Entered {
        Entered { before: count::turn_to(self.0), of_thread: PhantomData }
    }
}

/// While it is there, the thread works for a statement.
#[derive(Debug)]
#[must_use]
pub struct Entered {
    before: count::Owner,
    of_thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        count::turn_to(self.before);
    }
}

/// Counts `bytes` before they are allocated, where the statement may have them. What the thread allocates while the guard
/// is there is part of them.
pub fn reserve(bytes: u64) -> Result<Reserved, TooMuch> {
    count::reserve(bytes)?;
    Ok(Reserved(PhantomData))
}

/// See [`reserve`].
#[derive(Debug)]
#[must_use]
pub struct Reserved(PhantomData<*const ()>);

impl Drop for Reserved {
    fn drop(&mut self) {
        count::release();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[global_allocator]
    static ALLOCATOR: Metered = Metered;

    /// The limit is of the process, and so tests take turns.
    static TURN: Mutex<()> = Mutex::new(());
    const MIB: usize = 1 << 20;

    #[test]
    fn a_block_is_given_back_by_whoever_frees_it() {
        let _turn = TURN.lock();
        let (one, other) = (Meter::default(), Meter::default());
        let entered = one.enter();
        let kept = vec![0_u8; 3 * MIB];
        let mut grown = Vec::<u64>::with_capacity(1);
        (0..MIB as u64).for_each(|i| grown.push(i));
        drop(entered);
        assert!((11 * MIB..12 * MIB).contains(&(one.held_bytes() as usize)), "{}", one.held_bytes());
        assert!(grown.iter().copied().eq(0..MIB as u64));
        let entered = other.enter();
        drop(kept);
        grown.shrink_to(10);
        grown.truncate(10);
        grown.shrink_to_fit();
        drop(entered);
        assert!(other.held_bytes() < 1024 && one.held_bytes() < 9 * MIB as u64);
        std::thread::spawn(move || drop(grown)).join().unwrap();
        assert!(one.held_bytes() < 1024, "{}", one.held_bytes());
    }

    #[test]
    fn small_blocks_are_counted_for_whom_the_thread_works() {
        let _turn = TURN.lock();
        let meter = Meter::default();
        let entered = meter.enter();
        let blocks: Vec<Box<[u8; 100]>> = (0..100_000).map(|i| Box::new([i as u8; 100])).collect();
        assert!((10_000_000..12_000_000).contains(&meter.held_bytes()), "{}", meter.held_bytes());
        drop(blocks);
        drop(entered);
        assert!(meter.held_bytes() < 1024);
    }

    #[test]
    fn whoever_holds_most_is_told_and_others_go_on() {
        let _turn = TURN.lock();
        limit(10 * MIB as u64);
        let (large, small) = (Meter::default(), Meter::default());
        let entered = large.enter();
        let block = vec![0_u8; 9 * MIB];
        assert_eq!(check(), Ok(()));
        drop(entered);
        let entered = small.enter();
        let other = vec![0_u8; 2 * MIB];
        assert_eq!(check(), Ok(()));
        assert!(reserve(MIB as u64).is_ok());
        drop(entered);
        let entered = large.enter();
        let told = check().unwrap_err();
        assert_eq!(told.limit_bytes, 10 * MIB as u64);
        assert!(told.held_bytes >= 9 * MIB as u64);
        drop(block);
        assert!(check().is_err(), "a statement that has failed goes on");
        drop(entered);
        drop((large, other));
        limit(u64::MAX);
    }

    #[test]
    fn what_is_reserved_is_not_there_for_others() {
        let _turn = TURN.lock();
        limit(10 * MIB as u64);
        let (one, other) = (Meter::default(), Meter::default());
        let entered = one.enter();
        let reserved = reserve(8 * MIB as u64).unwrap();
        let of_other = std::thread::spawn(move || {
            let _entered = other.enter();
            reserve(4 * MIB as u64).map(drop)
        });
        let of_other = of_other.join().unwrap();
        // The other one holds less, and so the first is told to end.
        assert!(of_other.is_ok() && check().is_err());
        drop(reserved);
        drop(entered);
        drop(one);
        let one = Meter::default();
        let entered = one.enter();
        let reserved = reserve(8 * MIB as u64).unwrap();
        let block = vec![0_u8; 7 * MIB];
        assert_eq!(check(), Ok(()), "what was reserved is counted twice");
        drop(reserved);
        assert!((7 * MIB..8 * MIB).contains(&(one.held_bytes() as usize)));
        assert!(reserve(4 * MIB as u64).is_err());
        assert_eq!(check(), Ok(()), "a call that was refused ends the statement");
        drop(block);
        drop(entered);
        limit(u64::MAX);
    }

    #[test]
    fn what_tasks_hold_of_a_statement_that_is_gone_is_counted_until_they_end() {
        let _turn = TURN.lock();
        limit(20 * MIB as u64);
        let gone = Meter::default();
        let entered = gone.enter();
        let block = vec![0_u8; 25 * MIB];
        drop(entered);
        drop(gone);
        let next = Meter::default();
        let entered = next.enter();
        let small = vec![0_u8; 2 * MIB];
        assert_eq!(check(), Ok(()), "what goes soon ends nobody");
        let other = vec![0_u8; 6 * MIB];
        assert!(check().is_err(), "all together hold half as much again");
        let bystander = Meter::default();
        {
            let _entered = bystander.enter();
            let _little = vec![0_u8; MIB];
            assert_eq!(check(), Ok(()), "whoever holds little is ended");
        }
        drop((block, small, other, entered, next));
        let next = Meter::default();
        let _entered = next.enter();
        let block = vec![0_u8; 19 * MIB];
        assert_eq!(check(), Ok(()));
        drop(block);
        limit(u64::MAX);
    }

    #[test]
    fn blocks_that_outlive_their_statement_are_nobodys() {
        let _turn = TURN.lock();
        let first = Meter::default();
        let entered = first.enter();
        let block = vec![0_u8; MIB];
        drop(entered);
        let gone = first.current();
        drop(first);
        let second = Meter::default();
        {
            let _entered = gone.enter();
            assert!(check().is_err() && reserve(MIB as u64).is_err(), "a task of it goes on");
        }
        let entered = second.enter();
        drop(block);
        drop(entered);
        assert!(second.held_bytes() < 1024);
        assert_eq!(check(), Ok(()), "who works for nobody is told nothing");
    }
}
