//! Places for work that takes long, so many at once for all: a fair share for each principal, and some left for whoever comes next.
//!
//! A principal may take a place as long as it holds fewer than are free (the dynamic threshold of Choudhury and Hahne, 1998). One alone has
//! half of them, and of `n` that want more than there is each has a part in `n + 1`: the rest is free, so that the small question of
//! somebody new does not wait for the long ones of others. A place that becomes free goes to who holds the fewest, and among those to who
//! waits longest.
//!
//! Some work has steps that nothing ends from outside. A place is held by the work itself and not by whoever waits for it: a caller is
//! answered when its time is over, and the place stays taken until the work is done.
//!
//! Invariant: nothing is kept of a principal that neither holds a place nor waits.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// See the file's comment.
#[derive(Debug)]
pub struct Places(Mutex<State>);

#[derive(Debug)]
struct State {
    free: usize,
    held: HashMap<Arc<str>, usize>,
    /// In the order in which they came.
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    principal: Arc<str>,
    granted: oneshot::Sender<Place>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    of: Arc<Places>,
    principal: Arc<str>,
}

impl Places {
    /// So many for all, and at least one.
    pub fn new(at_once: usize) -> Arc<Self> {
        let state = State { free: at_once.max(1), held: HashMap::new(), waiting: Vec::new() };
        Arc::new(Self(Mutex::new(state)))
    }

    /// Waits for a place.
    pub async fn take(self: &Arc<Self>, principal: &Arc<str>) -> Place {
        let granted = {
            let mut state = self.0.lock();
            if state.may_take(principal) {
                return self.place(&mut state, principal);
            }
            let (granted, receiver) = oneshot::channel();
            state.waiting.push(Waiting { principal: Arc::clone(principal), granted });
            receiver
        };
        granted.await.expect("whoever waits is granted a place, and the places outlive who waits for them")
    }

    fn place(self: &Arc<Self>, state: &mut State, principal: &Arc<str>) -> Place {
        state.free -= 1;
        *state.held.entry(Arc::clone(principal)).or_default() += 1;
        Place { of: Arc::clone(self), principal: Arc::clone(principal) }
    }

    /// Gives what is free to those who wait and may have it.
    fn grant(self: &Arc<Self>) {
        loop {
            let (waiting, place) = {
                let mut state = self.0.lock();
                let Some(waiting) = state.next() else { return };
                let place = self.place(&mut state, &waiting.principal);
                (waiting, place)
            };
            // Who has just given up gives the place back.
            drop(waiting.granted.send(place));
        }
    }
}

impl State {
    fn held_by(&self, principal: &str) -> usize {
        self.held.get(principal).copied().unwrap_or(0)
    }

    fn may_take(&self, principal: &str) -> bool {
        self.held_by(principal) < self.free
    }

    fn next(&mut self) -> Option<Waiting> {
        self.waiting.retain(|waiting| !waiting.granted.is_closed());
        let may = self.waiting.iter().enumerate().filter(|(_, waiting)| self.may_take(&waiting.principal));
        let (at, _) = may.min_by_key(|(_, waiting)| self.held_by(&waiting.principal))?;
        Some(self.waiting.remove(at))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut state = self.of.0.lock();
            state.free += 1;
            match state.held.get_mut(&self.principal) {
                Some(held) if *held > 1 => *held -= 1,
                Some(_) | None => drop(state.held.remove(&self.principal)),
            }
        }
        self.of.grant();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Taking = Pin<Box<dyn Future<Output = Place>>>;

    fn taking(places: &Arc<Places>, principal: &str) -> Taking {
        let (places, principal) = (Arc::clone(places), Arc::from(principal));
        Box::pin(async move { places.take(&principal).await })
    }

    fn taken(taking: &mut Taking) -> Option<Place> {
        match taking.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(place) => Some(place),
            Poll::Pending => None,
        }
    }

    #[test]
    fn somebody_new_is_not_kept_waiting_by_those_who_want_all() {
        let tables = [(8, vec![4, 2, 1, 1]), (4, vec![2, 1, 1]), (3, vec![2, 1]), (1, vec![1])];
        for (at_once, shares) in tables {
            let places = Places::new(at_once);
            let mut held = Vec::new();
            for (n, share) in shares.iter().enumerate() {
                let take = || taken(&mut taking(&places, &format!("p{n}")));
                let own: Vec<Place> = std::iter::from_fn(take).collect();
                assert_eq!(own.len(), *share, "{n} of {at_once}");
                held.extend(own);
            }
            assert!(taken(&mut taking(&places, "one more")).is_none(), "{at_once}");
            drop(held);
            let state = places.0.lock();
            assert_eq!((state.free, state.held.len()), (at_once, 0));
        }
        assert!(taken(&mut taking(&Places::new(0), "ada")).is_some());
    }

    #[test]
    fn a_place_goes_to_who_holds_the_fewest_and_waits_longest() {
        let places = Places::new(4);
        let take = |principal| taken(&mut taking(&places, principal)).unwrap();
        let (first, _second, of_bob, _of_eve) = (take("ada"), take("ada"), take("bob"), take("eve"));
        let [mut gave_up, mut ada, mut eve, mut dan] =
            ["ada", "ada", "eve", "dan"].map(|principal| taking(&places, principal));
        for waiting in [&mut gave_up, &mut ada, &mut eve, &mut dan] {
            assert!(taken(waiting).is_none());
        }
        drop(gave_up);
        // Dan came last, and holds nothing.
        drop(first);
        let of_dan = taken(&mut dan).unwrap();
        // Who holds one does not get the last one.
        drop(of_dan);
        assert!(taken(&mut ada).is_none() && taken(&mut eve).is_none());
        drop(of_bob);
        assert!(taken(&mut eve).is_none());
        assert!(taken(&mut ada).is_some());
    }

    #[test]
    fn those_who_give_up_leave_nothing() {
        let places = Places::new(2);
        let first = taken(&mut taking(&places, "p")).unwrap();
        let given_up: Vec<Taking> = (0..3_000).map(|n| taking(&places, &format!("p{}", n % 7))).collect();
        for mut one in given_up {
            drop(taken(&mut one));
        }
        // Granted, and never looked at.
        let mut granted = taking(&places, "p");
        assert!(taken(&mut granted).is_none());
        drop(first);
        drop(granted);
        let state = places.0.lock();
        assert_eq!((state.free, state.held.len(), state.waiting.len()), (2, 0, 0));
    }
}
