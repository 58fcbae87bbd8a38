//! Places on the threads of queries: so many for all, and for each principal fewer, so that one principal keeps no other waiting.
//!
//! Planning and execution have steps that nothing ends from outside. A place is held by the work itself and not by whoever waits for
//! it: a caller is answered when its time is over, and the place stays taken until the thread is free.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Beyond these, principals without work are forgotten.
const PRINCIPALS_MAX: usize = 1_000;

#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    of: Mutex<HashMap<String, Arc<Semaphore>>>,
    of_one: usize,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    _of_one: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Places {
    /// `at_once` for all; half of them, and at least one, for each principal.
    pub fn new(at_once: usize) -> Places {
        let at_once = at_once.clamp(1, Semaphore::MAX_PERMITS);
        Places { all: Arc::new(Semaphore::new(at_once)), of: Mutex::default(), of_one: at_once.div_ceil(2) }
    }

    /// Waits for a place. The principal's own comes first: who waits for that waits in nobody's way.
    pub async fn take(&self, principal: &str) -> Place {
        let of_one = self.of(principal).acquire_owned().await.expect("it is never closed");
        let of_all = Arc::clone(&self.all).acquire_owned().await.expect("it is never closed");
        Place { _of_one: of_one, _of_all: of_all }
    }

    fn of(&self, principal: &str) -> Arc<Semaphore> {
        let mut of = self.of.lock();
        if of.len() >= PRINCIPALS_MAX {
            of.retain(|_, places| Arc::strong_count(places) > 1);
        }
        let new = || Arc::new(Semaphore::new(self.of_one));
        Arc::clone(of.entry(principal.to_owned()).or_insert_with(new))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn one_principal_has_half_of_the_places() {
        let places = Places::new(4);
        let take = |principal: &str| places.take(principal).now_or_never();
        let ada = [take("ada"), take("ada")];
        assert!(ada.iter().all(Option::is_some) && take("ada").is_none());
        let bob = take("bob");
        assert!(bob.is_some() && take("eve").is_some());
        drop(ada);
        assert!(take("ada").is_some());
        for n in 0..3_000 {
            assert!(take(&format!("p{n}")).is_some());
        }
        assert!(places.of.lock().len() <= PRINCIPALS_MAX);
        assert!(Places::new(0).take("ada").now_or_never().is_some());
    }
}
