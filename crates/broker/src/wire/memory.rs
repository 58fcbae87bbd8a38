//! The memory for requests of all connections, in shares.
//!
//! A request is charged for the bytes that have arrived, and for what decoding them takes. These rules decide whether a charge may grow:
//! - what a peer and a connection hold may together be at most what is free. So one peer gets up to half of
//!   the memory, the next one half of the rest, and some of it is always free; the same holds among the connections of one peer.
//!   (Choudhury and Hahne: dynamic queue length thresholds in shared-memory packet switches, 1998.)
//! - a small request whose peer holds less than its fair share, and that finds nothing free, has the largest request given up of those
//!   that have not arrived yet and whose peers hold more than theirs. Its connection is closed. The same holds among the connections
//!   of one peer;
//! - as much as the largest request takes is kept aside for one request at a time, of those that wait, whose *turn* it
//!   is. It needs nothing that others hold, so that requests which have half arrived never wait for each other for ever;
//! - a turn is short: a request that has not arrived after [`TURN_MAX`] while others wait is given up.
//!
//! Peers are told apart by their addresses. With authentication, they will be by their principals.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use kafscale_storage::Requester;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What all requests but the largest need at least.
const SHARED_MIN_BYTES: usize = 16 << 20;
/// What a small request takes at most.
const SMALL_BYTES: usize = 64 << 10;
/// A request whose turn it is must arrive in this time, if others wait.
pub const TURN_MAX: Duration = Duration::from_secs(10);
/// How many of those who wait are looked at when memory comes back.
const LOOK_AT: usize = 16;

/// A budget of bytes.
#[derive(Debug)]
pub struct RequestMemory {
    total_bytes: usize,
    /// Without what is kept aside for a request whose turn it is.
    shared_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    parties: BTreeMap<Requester, Arc<Party>>,
    /// Parties that hold anything.
    holders: usize,
    /// All connections, by their numbers.
    connections: BTreeMap<u64, Arc<Connection>>,
    /// The connection whose request is being given up: one at a time.
    evicting: Option<u64>,
    /// Bounded by the number of connections: each has one request that has not arrived yet.
    waiting: VecDeque<Waiting>,
    turn: Option<HeldTurn>,
    last_turn: Option<Requester>,
    last_id: u64,
}

#[derive(Debug, Clone, Copy)]
struct HeldTurn {
    id: u64,
    since: Instant,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    connection: Arc<Connection>,
    /// It goes on with so many bytes.
    min_bytes: usize,
    notify: Arc<Notify>,
}

/// All connections of one requester. Changed under the lock of the state.
#[derive(Debug, Default)]
struct Party {
    used: AtomicUsize,
    connections: AtomicUsize,
    /// Connections that hold anything.
    holders: AtomicUsize,
}

/// One connection: whoever drops it gives its place up.
pub struct Account {
    memory: Arc<RequestMemory>,
    of: Arc<Connection>,
}

/// What one connection holds. Changed under the lock of the state.
#[derive(Debug)]
struct Connection {
    requester: Requester,
    party: Arc<Party>,
    number: u64,
    used: AtomicUsize,
    /// Of that, what the request holds that has not arrived yet; there is one at a time.
    arriving: AtomicUsize,
    /// Its request is given up.
    evicted: AtomicBool,
    told: Notify,
}

/// What one request holds; given back when it is dropped.
#[derive(Debug)]
pub struct Charge {
    account: Arc<Account>,
    bytes: usize,
    /// 0 until it has to wait.
    id: u64,
    is_arriving: bool,
}

impl RequestMemory {
    /// What a broker needs whose largest request takes `largest` bytes.
    pub fn needed_bytes(largest: usize) -> usize {
        largest.saturating_add(SHARED_MIN_BYTES)
    }

    /// `total_bytes` must be enough for `largest`.
    pub fn new(total_bytes: usize, largest: usize) -> RequestMemory {
        assert!(total_bytes >= Self::needed_bytes(largest), "a request would wait for ever");
        RequestMemory { total_bytes, shared_bytes: total_bytes - largest, state: Mutex::default() }
    }

    /// An account for a new connection.
    pub fn account(self: &Arc<Self>, requester: Requester) -> Arc<Account> {
        let mut state = self.state.lock();
        let party = Arc::clone(state.parties.entry(requester).or_default());
        party.connections.fetch_add(1, Relaxed);
        state.last_id += 1;
        let connection = Arc::new(Connection {
            requester,
            party,
            number: state.last_id,
            used: AtomicUsize::new(0),
            arriving: AtomicUsize::new(0),
            evicted: AtomicBool::new(false),
            told: Notify::new(),
        });
        state.connections.insert(connection.number, Arc::clone(&connection));
        Arc::new(Account { memory: Arc::clone(self), of: connection })
    }

    pub fn used_bytes(&self) -> usize {
        self.state.lock().used
    }
}

impl State {
    /// What a charge may grow by.
    fn allowed(&self, memory: &RequestMemory, connection: &Connection, id: u64) -> usize {
        if id != 0 && self.turn.is_some_and(|turn| turn.id == id) {
            return memory.total_bytes.saturating_sub(self.used);
        }
        let free = memory.shared_bytes.saturating_sub(self.used);
        free.saturating_sub(connection.party.used.load(Relaxed) + connection.used.load(Relaxed))
    }

    /// Memory came back, or somebody began to wait.
    fn wake(&mut self, memory: &RequestMemory) {
        for _ in 0..self.waiting.len().min(LOOK_AT) {
            let Some(first) = self.waiting.pop_front() else { break };
            if self.allowed(memory, &first.connection, first.id) >= first.min_bytes {
                first.notify.notify_one();
            } else {
                self.make_room_for(memory, &first);
                self.waiting.push_back(first);
            }
        }
        self.give_turn(memory);
    }

    /// Has a large request given up for a small one, whose peer holds less than its fair share. Large ones wait for their turn instead:
    /// all of them may be honest.
    fn make_room_for(&mut self, memory: &RequestMemory, waiting: &Waiting) {
        if self.evicting.is_some() {
            return;
        }
        let Waiting { connection, min_bytes, .. } = waiting;
        let (of_party, of_connection) = (connection.party.used.load(Relaxed), connection.used.load(Relaxed));
        if of_connection + min_bytes > SMALL_BYTES {
            return;
        }
        let share = memory.shared_bytes / (self.holders + usize::from(of_party == 0)).max(1);
        let holders = connection.party.holders.load(Relaxed) + usize::from(of_connection == 0);
        let above_share = |other: &Connection| other.party.used.load(Relaxed) > share;
        let of_others = if of_party + min_bytes <= share { self.largest(above_share) } else { None };
        let more = of_connection + min_bytes;
        let of_own =
            |other: &Connection| other.requester == connection.requester && other.used.load(Relaxed) > more;
        let within_own = more <= of_party / holders.max(1);
        let victim = of_others.or_else(|| if within_own { self.largest(of_own) } else { None });
        if let Some(victim) = victim {
            self.evicting = Some(victim.number);
            victim.evicted.store(true, Relaxed);
            victim.told.notify_one();
        }
    }

    /// The connection whose arriving request holds most, of those that qualify.
    fn largest(&self, qualifies: impl Fn(&Connection) -> bool) -> Option<Arc<Connection>> {
        let arriving = |connection: &&Arc<Connection>| connection.arriving.load(Relaxed);
        let qualifying = self.connections.values().filter(|c| arriving(c) > 0 && qualifies(c));
        qualifying.max_by_key(arriving).cloned()
    }

    /// Gives the turn to who waits, but not twice in a row to the same requester.
    fn give_turn(&mut self, memory: &RequestMemory) {
        if self.turn.is_some() || self.used > memory.shared_bytes || self.waiting.is_empty() {
            return;
        }
        let other = self.waiting.iter().position(|w| Some(w.connection.requester) != self.last_turn);
        let Some(next) = self.waiting.remove(other.unwrap_or(0)) else { return };
        self.turn = Some(HeldTurn { id: next.id, since: Instant::now() });
        self.last_turn = Some(next.connection.requester);
        next.notify.notify_one();
    }

    /// Another may be given up next.
    fn is_given_up(&mut self, connection: &Connection) {
        if self.evicting == Some(connection.number) {
            self.evicting = None;
        }
    }

    fn end_turn(&mut self, memory: &RequestMemory, id: u64) {
        if self.turn.is_some_and(|turn| turn.id == id) {
            self.turn = None;
            self.give_turn(memory);
        }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the memory: that holds connections.
        f.debug_tuple("Account").field(&self.of).finish()
    }
}

impl Connection {
    fn add(&self, state: &mut State, bytes: usize) {
        if bytes == 0 {
            return;
        }
        state.used += bytes;
        state.holders += usize::from(self.party.used.fetch_add(bytes, Relaxed) == 0);
        if self.used.fetch_add(bytes, Relaxed) == 0 {
            self.party.holders.fetch_add(1, Relaxed);
        }
    }

    fn subtract(&self, state: &mut State, bytes: usize) {
        if bytes == 0 {
            return;
        }
        state.used -= bytes;
        state.holders -= usize::from(self.party.used.fetch_sub(bytes, Relaxed) == bytes);
        if self.used.fetch_sub(bytes, Relaxed) == bytes {
            self.party.holders.fetch_sub(1, Relaxed);
        }
    }
}

impl Account {
    /// A charge of nothing, for a request that begins to arrive.
    pub fn charge(self: &Arc<Self>) -> Charge {
        Charge { account: Arc::clone(self), bytes: 0, id: 0, is_arriving: true }
    }

    /// Returns when the request that arrives is to be given up.
    pub async fn evicted(&self) {
        while !self.of.evicted.load(Relaxed) {
            self.of.told.notified().await;
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut state = self.memory.state.lock();
        state.connections.remove(&self.of.number);
        state.is_given_up(&self.of);
        if self.of.party.connections.fetch_sub(1, Relaxed) == 1 {
            state.parties.remove(&self.of.requester);
        }
    }
}

impl Charge {
    /// Grows by `max` bytes, or by what may be had if that is `min` at least. Gives by how much.
    pub fn try_grow(&mut self, min: usize, max: usize) -> Option<usize> {
        let memory = &self.account.memory;
        let mut state = memory.state.lock();
        let granted = max.min(state.allowed(memory, &self.account.of, self.id));
        if granted < min {
            return None;
        }
        self.account.of.add(&mut state, granted);
        self.bytes += granted;
        if self.is_arriving {
            self.account.of.arriving.store(self.bytes, Relaxed);
        }
        Some(granted)
    }

    /// Waits until it is likely that the charge can grow by `bytes`. Cancel-safe.
    pub async fn wait(&mut self, bytes: usize) {
        let notify = Arc::new(Notify::new());
        {
            let memory = &self.account.memory;
            let mut state = memory.state.lock();
            if self.id == 0 {
                state.last_id += 1;
                self.id = state.last_id;
            }
            let id = self.id;
            state.waiting.retain(|waiting| waiting.id != id);
            let connection = Arc::clone(&self.account.of);
            state.waiting.push_back(Waiting {
                id,
                connection,
                min_bytes: bytes,
                notify: Arc::clone(&notify),
            });
            state.wake(memory);
        }
        notify.notified().await;
    }

    /// Gives back what is above `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let Some(less) = self.bytes.checked_sub(bytes).filter(|less| *less > 0) else { return };
        let memory = &self.account.memory;
        let mut state = memory.state.lock();
        self.account.of.subtract(&mut state, less);
        self.bytes = bytes;
        if self.is_arriving {
            self.account.of.arriving.store(bytes, Relaxed);
        }
        if !state.waiting.is_empty() {
            state.wake(memory);
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The request has arrived: it is not given up any more, and whoever waits may have the turn.
    pub fn arrived(&mut self) {
        self.is_arriving = false;
        self.account.of.arriving.store(0, Relaxed);
        if self.account.of.evicted.swap(false, Relaxed) || self.id != 0 {
            let memory = &self.account.memory;
            let mut state = memory.state.lock();
            state.is_given_up(&self.account.of);
            state.end_turn(memory, self.id);
        }
    }

    /// Whether it has had the turn for so long that others should have it.
    pub fn is_overdue(&self) -> bool {
        if self.id == 0 {
            return false;
        }
        let state = self.account.memory.state.lock();
        let overdue = |turn: HeldTurn| turn.id == self.id && turn.since.elapsed() > TURN_MAX;
        state.turn.is_some_and(overdue) && !state.waiting.is_empty()
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let memory = &self.account.memory;
        let mut state = memory.state.lock();
        self.account.of.subtract(&mut state, self.bytes);
        if self.is_arriving {
            self.account.of.arriving.store(0, Relaxed);
            state.is_given_up(&self.account.of);
        }
        if self.id != 0 {
            let id = self.id;
            state.waiting.retain(|waiting| waiting.id != id);
            state.end_turn(memory, id);
        }
        if !state.waiting.is_empty() {
            state.wake(memory);
        }
    }
}

#[cfg(test)]
mod tests;
