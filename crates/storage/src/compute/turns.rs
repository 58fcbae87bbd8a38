//! Turns that are given to requesters in a circle: who asks often waits behind itself only.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Requester;

/// Who gave up waiting is swept out of a queue when that has grown by so many.
const SWEEP_EVERY: usize = 64;

#[derive(Debug)]
struct State {
    free: usize,
    /// Of those who hold or wait for a turn.
    by_requester: BTreeMap<Requester, Queue>,
    /// Who waits, in the order of turns.
    circle: VecDeque<Requester>,
}

#[derive(Debug, Default)]
struct Queue {
    held: usize,
    in_circle: bool,
    /// Bounded by what may ask at once: connections, each for one thing at a time.
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

/// A number of turns, and at most so many for each requester at a time.
#[derive(Debug, Clone)]
pub struct Turns {
    each_max: usize,
    state: Arc<Mutex<State>>,
}

/// The right to go on; given back when it is dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    requester: Requester,
}

impl Turns {
    pub fn new(count: usize, each_max: usize) -> Turns {
        let state = State { free: count, by_requester: BTreeMap::new(), circle: VecDeque::new() };
        Turns { each_max, state: Arc::new(Mutex::new(state)) }
    }

    /// Waits for a turn. Cancel-safe.
    pub async fn take(&self, requester: Requester) -> Turn {
        let waiting = {
            let mut state = self.state.lock();
            let queue = state.by_requester.entry(requester).or_default();
            if queue.waiting.len() % SWEEP_EVERY == SWEEP_EVERY - 1 {
                queue.waiting.retain(|waiting| !waiting.is_closed());
            }
            let (sender, receiver) = oneshot::channel();
            queue.waiting.push_back(sender);
            if !std::mem::replace(&mut queue.in_circle, true) {
                state.circle.push_back(requester);
            }
            receiver
        };
        self.give();
        waiting.await.expect("whoever waits stays in the queue")
    }

    /// Gives the turns that are free.
    fn give(&self) {
        loop {
            let next = self.state.lock().next(self.each_max);
            let Some((requester, waiting)) = next else { return };
            // Without the lock: a turn that nobody takes gives itself back.
            let _ = waiting.send(Turn { turns: self.clone(), requester });
        }
    }
}

impl State {
    /// Takes a turn for the next in the circle that may have one.
    fn next(&mut self, each_max: usize) -> Option<(Requester, oneshot::Sender<Turn>)> {
        if self.free == 0 {
            return None;
        }
        for _ in 0..self.circle.len() {
            let requester = self.circle.pop_front()?;
            let queue = self.by_requester.get_mut(&requester).expect("who is in the circle has a queue");
            if queue.held >= each_max {
                self.circle.push_back(requester);
                continue;
            }
            let waiting = loop {
                match queue.waiting.pop_front() {
                    Some(waiting) if waiting.is_closed() => {}
                    found => break found,
                }
            };
            queue.in_circle = !queue.waiting.is_empty();
            if queue.in_circle {
                self.circle.push_back(requester);
            }
            if let Some(waiting) = waiting {
                queue.held += 1;
                self.free -= 1;
                return Some((requester, waiting));
            }
            self.forget(requester);
        }
        None
    }

    fn forget(&mut self, requester: Requester) {
        if self.by_requester.get(&requester).is_some_and(|queue| queue.held == 0 && queue.waiting.is_empty())
        {
            self.by_requester.remove(&requester);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut state = self.turns.state.lock();
            state.free += 1;
            if let Some(queue) = state.by_requester.get_mut(&self.requester) {
                queue.held -= 1;
            }
            state.forget(self.requester);
        }
        self.turns.give();
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn peer(n: u8) -> Requester {
        Requester::Peer(IpAddr::from([10, 0, 0, n]))
    }

    type Taking = Pin<Box<dyn Future<Output = Turn>>>;

    fn asking(turns: &Turns, n: u8) -> Taking {
        let turns = turns.clone();
        let mut taking: Taking = Box::pin(async move { turns.take(peer(n)).await });
        assert!(granted(&mut taking).is_none());
        taking
    }

    fn granted(taking: &mut Taking) -> Option<Turn> {
        match taking.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn who_asks_often_waits_behind_itself_only() {
        let turns = Turns::new(1, 1);
        let first = turns.take(peer(1)).await;
        let mut greedy: Vec<_> = (0..100).map(|_| asking(&turns, 1)).collect();
        let mut modest = asking(&turns, 2);
        drop(first);
        let second = granted(&mut greedy[0]).expect("it asked first");
        assert!(granted(&mut modest).is_none());
        drop(second);
        drop(granted(&mut modest).expect("the other requester is next"));
        drop(granted(&mut greedy[1]).expect("and then the first one again"));
    }

    #[tokio::test]
    async fn nobody_holds_more_than_its_part() {
        let turns = Turns::new(4, 2);
        let _held = [turns.take(peer(1)).await, turns.take(peer(1)).await];
        let mut third = asking(&turns, 1);
        let other = turns.take(peer(2)).await;
        assert!(granted(&mut third).is_none());
        drop(_held);
        assert!(granted(&mut third).is_some());
        drop(other);
    }

    #[tokio::test]
    async fn who_gave_up_gets_no_turn_and_leaves_nothing_behind() {
        let turns = Turns::new(1, 1);
        let first = turns.take(peer(1)).await;
        for n in 0..200 {
            drop(asking(&turns, n));
        }
        let mut last = asking(&turns, 7);
        drop(first);
        drop(granted(&mut last).expect("nobody else waits"));
        let state = turns.state.lock();
        assert_eq!((state.free, state.by_requester.len(), state.circle.len()), (1, 0, 0));
    }
}
