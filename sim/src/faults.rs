//! What goes wrong, and when: the weather of the stores and of the network, and the steps at which a process dies.
//!
//! The weather is changed by the scenario while the simulation runs; whoever sends a request asks here what becomes of it.
//!
//! Invariant: every draw comes from the seed, in the order of the requests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::held_up::HoldUp;
use crate::rng::Rng;

/// A service that brokers send requests to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    Store,
    Metadata,
}

/// How a service behaves. Chances are per mille of its requests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// One way, in milliseconds.
    pub latency_ms: (u64, u64),
    /// The request never arrives; the caller gives up after its timeout.
    pub lost_requests: u32,
    /// It is carried out, but the caller never hears of it.
    pub lost_answers: u32,
    /// It is carried out after the caller has given up.
    pub late: u32,
    /// It is carried out twice, the second time late.
    pub doubled: u32,
    /// It is slow: tens of times the latency. Others overtake it.
    pub slow: u32,
    /// Refused at once: 503 SlowDown, or an etcd without a leader.
    pub refused: u32,
    /// A conditional put is answered by 409, a conflict with another one that is under way.
    pub conflicts: u32,
    /// A watch is told that it has missed changes.
    pub compacted: u32,
    /// An answer with a body breaks off in its middle.
    pub cut: u32,
}

/// How an answer breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The connection breaks.
    Broken,
    /// It ends, as if that had been all.
    Short,
    /// Nothing more arrives, ever.
    Stalled,
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// When it is carried out after it was sent, if at all.
    pub applied_after: Option<Duration>,
    /// When it is carried out once more.
    pub again_after: Option<Duration>,
    /// When the caller hears of it, and what.
    pub answered_after: Duration,
    pub answer: Answer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// What came of it.
    Outcome,
    /// Nothing in time: it may have been carried out, or may still be.
    Timeout,
    /// 503: it was not carried out.
    Refused,
    /// 409: it was not carried out.
    Conflict,
}

/// Before, in or after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The request was not sent.
    Before,
    /// It was carried out; the process dies before the answer.
    Unanswered,
    /// The process dies while the request is under way, and it is carried out afterwards.
    UnderWay,
}

pub const PHASES: [Phase; 3] = [Phase::Before, Phase::Unanswered, Phase::UnderWay];

/// A process dies at the `nth` request of a kind, counted over all processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    /// What [`step_name`] gives.
    pub step: &'static str,
    pub phase: Phase,
    pub nth: u32,
}

/// Where a crash happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doomed {
    No,
    At(Phase),
}

#[derive(Debug)]
struct State {
    rng: Rng,
    weather: BTreeMap<Service, Weather>,
    /// The service answers nobody.
    outages: BTreeSet<Service>,
    /// The service does not hear this host.
    cut: BTreeSet<(Service, i32)>,
    /// The service refuses everything: 503 SlowDown.
    refusing: BTreeSet<Service>,
    /// No bytes pass between clients and this host.
    silent: BTreeSet<i32>,
    /// For what came later than the first draws, so that a seed without any of it is what it was before.
    later: Rng,
    crash: Option<Crash>,
    hold_up: Option<HoldUp>,
    /// Requests that were held up and have not arrived.
    held_up: usize,
    /// What waits for a step of a process on another host than this.
    waiting: Vec<(&'static str, i32, oneshot::Sender<()>)>,
    steps: Steps,
    injected: BTreeMap<&'static str, u64>,
}

/// By step: how often it was taken, and how often a process died there.
pub type Steps = BTreeMap<String, (u64, u64)>;

/// Shared by everything that can fail.
#[derive(Debug, Clone)]
pub struct Faults {
    state: Arc<Mutex<State>>,
    healed: Arc<Notify>,
}

/// How long a caller waits for an answer.
const TIMEOUT_MS: (u64, u64) = (1500, 4000);

impl Faults {
    pub fn new(rng: Rng) -> Faults {
        let state = State {
            later: rng.fork(1),
            rng,
            refusing: BTreeSet::new(),
            weather: BTreeMap::new(),
            outages: BTreeSet::new(),
            cut: BTreeSet::new(),
            silent: BTreeSet::new(),
            crash: None,
            hold_up: None,
            held_up: 0,
            waiting: Vec::new(),
            steps: BTreeMap::new(),
            injected: BTreeMap::new(),
        };
        Faults { state: Arc::new(Mutex::new(state)), healed: Arc::new(Notify::new()) }
    }

    pub fn set_weather(&self, service: Service, weather: Weather) {
        self.state.lock().weather.insert(service, weather);
    }

    pub fn set_outage(&self, service: Service, out: bool) {
        let mut state = self.state.lock();
        if out {
            state.outages.insert(service);
            *state.injected.entry("outage").or_default() += 1;
        } else {
            state.outages.remove(&service);
        }
        drop(state);
        self.healed.notify_waiters();
    }

    pub fn set_refusing(&self, service: Service, refusing: bool) {
        let mut state = self.state.lock();
        if refusing {
            state.refusing.insert(service);
            *state.injected.entry("storm").or_default() += 1;
        } else {
            state.refusing.remove(&service);
        }
    }

    /// Whether the answer to a read breaks off: after how many of its bytes, and how.
    pub fn cuts(&self, service: Service, bytes: usize) -> Option<(usize, Cut)> {
        let mut state = self.state.lock();
        let chance = state.weather.get(&service).map_or(0, |weather| weather.cut);
        if chance == 0 || bytes == 0 || !state.later.per_mille(chance) {
            return None;
        }
        *state.injected.entry("cut answer").or_default() += 1;
        let kept = state.later.below(bytes as u64) as usize;
        Some((kept, *state.later.pick(&[Cut::Broken, Cut::Broken, Cut::Short, Cut::Stalled])))
    }

    pub fn set_cut(&self, service: Service, host: i32, cut: bool) {
        let mut state = self.state.lock();
        if cut {
            state.cut.insert((service, host));
            *state.injected.entry("partition from a store").or_default() += 1;
        } else {
            state.cut.remove(&(service, host));
        }
        drop(state);
        self.healed.notify_waiters();
    }

    pub fn set_silent(&self, host: i32, silent: bool) {
        let mut state = self.state.lock();
        if silent {
            state.silent.insert(host);
            *state.injected.entry("partition from clients").or_default() += 1;
        } else {
            state.silent.remove(&host);
        }
        drop(state);
        self.healed.notify_waiters();
    }

    pub fn set_crash(&self, crash: Option<Crash>) {
        self.state.lock().crash = crash;
    }

    /// Whether the crash that was asked for is still to come.
    pub fn crash_pending(&self) -> bool {
        self.state.lock().crash.is_some()
    }

    /// Replaces one that has not come about.
    pub fn set_hold_up(&self, hold_up: HoldUp) {
        self.state.lock().hold_up = Some(hold_up);
    }

    /// Whether a request that is sent now is held up.
    pub fn hold_up(&self, step: &str) -> Option<HoldUp> {
        let mut state = self.state.lock();
        let due = state.hold_up.as_mut().filter(|due| due.step == step)?;
        due.nth -= 1;
        if due.nth > 0 {
            return None;
        }
        state.held_up += 1;
        *state.injected.entry("held up").or_default() += 1;
        state.hold_up.take()
    }

    /// One that was held up has arrived.
    pub fn arrived(&self) {
        self.state.lock().held_up -= 1;
    }

    pub fn is_anything_held_up(&self) -> bool {
        self.state.lock().held_up > 0
    }

    /// Returns when a process on another host takes a step.
    pub async fn step_of_another(&self, step: &'static str, host: i32) {
        let (sender, taken) = oneshot::channel();
        self.state.lock().waiting.push((step, host, sender));
        let _ = taken.await;
    }

    pub fn count(&self, what: &'static str) {
        *self.state.lock().injected.entry(what).or_default() += 1;
    }

    /// Everything is well from now on.
    pub fn heal(&self, weather: impl Fn(Service) -> Weather) {
        let mut state = self.state.lock();
        state.outages.clear();
        state.cut.clear();
        state.silent.clear();
        state.refusing.clear();
        state.crash = None;
        state.hold_up = None;
        for service in [Service::Store, Service::Metadata] {
            state.weather.insert(service, weather(service));
        }
        drop(state);
        self.healed.notify_waiters();
    }

    /// Returns when a process there and the service can hear each other.
    pub async fn reachable(&self, service: Service, host: i32) {
        loop {
            let healed = self.healed.notified();
            let reachable = {
                let state = self.state.lock();
                !state.outages.contains(&service) && !state.cut.contains(&(service, host))
            };
            if reachable {
                return;
            }
            healed.await;
        }
    }

    /// Returns when a process there and clients can hear each other.
    pub async fn audible(&self, host: i32) {
        loop {
            let healed = self.healed.notified();
            if !self.state.lock().silent.contains(&host) {
                return;
            }
            healed.await;
        }
    }

    pub fn latency(&self, from: u64, to: u64) -> Duration {
        self.state.lock().rng.ms(from, to)
    }

    /// Whether a watch is to miss changes now.
    pub fn compacts(&self) -> bool {
        let mut state = self.state.lock();
        let chance = state.weather.get(&Service::Metadata).map_or(0, |weather| weather.compacted);
        let compacts = state.rng.per_mille(chance);
        if compacts {
            *state.injected.entry("compacted watch").or_default() += 1;
        }
        compacts
    }

    /// Takes a step: counts it, and says whether the process dies there.
    pub fn step(&self, step: &str, host: i32) -> Doomed {
        let mut state = self.state.lock();
        for (.., taken) in state.waiting.extract_if(.., |(name, of, _)| *name == step && *of != host) {
            // Whoever waited may have lost patience.
            let _ = taken.send(());
        }
        let counts = state.steps.entry(step.to_owned()).or_default();
        counts.0 += 1;
        let due = match &mut state.crash {
            Some(crash) if crash.step == step => {
                crash.nth = crash.nth.saturating_sub(1);
                (crash.nth == 0).then_some(crash.phase)
            }
            _ => None,
        };
        let Some(phase) = due else { return Doomed::No };
        state.crash = None;
        state.steps.entry(step.to_owned()).or_default().1 += 1;
        Doomed::At(phase)
    }

    /// What becomes of a request that is sent from a host now.
    pub fn fate(&self, service: Service, host: i32, conditional: bool) -> Fate {
        let mut state = self.state.lock();
        let weather = state.weather.get(&service).copied().unwrap_or_default();
        let out = state.outages.contains(&service) || state.cut.contains(&(service, host));
        let refuses = state.refusing.contains(&service);
        let State { rng, injected, .. } = &mut *state;
        let (from, to) = weather.latency_ms;
        let mut there = rng.ms(from, to);
        let back = rng.ms(from, to);
        let timeout = rng.ms(TIMEOUT_MS.0, TIMEOUT_MS.1);
        let refused =
            |answer| Fate { applied_after: None, again_after: None, answered_after: there + back, answer };
        if out {
            return Fate { answered_after: timeout, ..refused(Answer::Timeout) };
        }
        if refuses {
            return refused(Answer::Refused);
        }
        let mut below = u64::from(weather.lost_requests);
        let draw = rng.below(1000);
        let mut falls = |name: &'static str, until: u64| {
            let falls = draw < until;
            if falls {
                *injected.entry(name).or_default() += 1;
            }
            falls
        };
        if falls("lost request", below) {
            return Fate { answered_after: timeout, ..refused(Answer::Timeout) };
        }
        below += u64::from(weather.lost_answers);
        if falls("lost answer", below) {
            let applied_after = Some(there);
            return Fate { applied_after, answered_after: timeout, ..refused(Answer::Timeout) };
        }
        below += u64::from(weather.late);
        if falls("late effect", below) {
            let applied_after = Some(timeout + rng.ms(100, 6000));
            return Fate {
                applied_after,
                again_after: None,
                answered_after: timeout,
                answer: Answer::Timeout,
            };
        }
        below += u64::from(weather.refused);
        if falls("refused", below) {
            return refused(Answer::Refused);
        }
        below += u64::from(weather.conflicts);
        if conditional && falls("conflict", below) {
            return refused(Answer::Conflict);
        }
        below += u64::from(weather.slow);
        if falls("slow", below) {
            there = rng.ms(50, 1200);
        }
        // On its own: what is slow is not for that reason carried out twice.
        let doubled = rng.per_mille(weather.doubled);
        if doubled {
            *injected.entry("doubled").or_default() += 1;
        }
        let again_after = doubled.then(|| there + rng.ms(1, 3000));
        Fate {
            applied_after: Some(there),
            again_after,
            answered_after: there + back,
            answer: Answer::Outcome,
        }
    }

    /// The steps, and how often anything else was injected.
    pub fn coverage(&self) -> (Steps, BTreeMap<&'static str, u64>) {
        let state = self.state.lock();
        (state.steps.clone(), state.injected.clone())
    }
}
