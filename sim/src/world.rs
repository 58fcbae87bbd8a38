//! The simulated world: one machine for the services and the clients, one for each broker, and the loop that runs them in turn.
//!
//! Invariant: everything happens on one thread, in an order that depends on the seed alone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kafscale_core::clock::Clock;
use kafscale_meta::EmbeddedStore;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::damage::Damages;
use crate::faults::Faults;
use crate::history::{Event, History};
use crate::machine::{Machine, Timeline};
use crate::meta::Registry;
use crate::net::Network;
use crate::node;
use crate::process::Process;
use crate::rng::Rng;
use crate::store::{Bucket, SimStore};

/// How long each machine runs before the next one has its turn; no message is faster.
const WINDOW: Duration = Duration::from_millis(2);
/// What the clocks on the wall say at the beginning.
const EPOCH_MS: i64 = 1_700_000_000_000;

/// The wall clock, `since_start` after the beginning.
pub fn wall_ms(since_start: Duration) -> i64 {
    EPOCH_MS + since_start.as_millis() as i64
}

/// The wall clock of a machine, which may go wrong by a constant.
#[derive(Debug)]
pub struct WallClock {
    pub timeline: Timeline,
    pub skew_ms: i64,
}

impl Clock for WallClock {
    fn now_ms(&self) -> i64 {
        wall_ms(self.timeline.now()) + self.skew_ms
    }
}

/// What is done to the processes of hosts, between two windows.
#[derive(Debug)]
pub enum Command {
    Boot {
        host: i32,
    },
    /// Kills the process; `at` says where, for the history.
    Crash {
        host: i32,
        at: String,
    },
    /// SIGSTOP.
    Pause {
        host: i32,
    },
    /// SIGCONT.
    Wake {
        host: i32,
    },
    /// SIGTERM.
    Stop {
        host: i32,
    },
}

/// Gives commands to the world.
#[derive(Debug, Clone, Default)]
pub struct Orders {
    commands: Arc<Mutex<VecDeque<Command>>>,
    states: Arc<Mutex<BTreeMap<i32, NodeState>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    Down,
    Running,
    Paused,
    /// It was told to stop, and has not ended yet.
    Stopping,
}

impl Orders {
    pub fn give(&self, command: Command) {
        self.commands.lock().push_back(command);
    }

    /// All hosts on which a process was ever started.
    pub fn hosts(&self) -> Vec<i32> {
        self.states.lock().keys().copied().collect()
    }

    pub fn state(&self, host: i32) -> NodeState {
        self.states.lock().get(&host).copied().unwrap_or(NodeState::Down)
    }
}

#[derive(Debug)]
struct Slot {
    machine: Machine,
    stop: CancellationToken,
    ended: CancellationToken,
}

/// Everything that a broker finds around it.
#[derive(Debug, Clone)]
pub struct Surroundings {
    pub bucket: Bucket,
    pub metadata: Registry,
    pub damages: Damages,
    pub network: Network,
    pub faults: Faults,
    pub history: History,
    pub orders: Orders,
    pub settings: node::Settings,
}

#[derive(Debug)]
pub struct World {
    now: Duration,
    services: Machine,
    slots: BTreeMap<i32, Slot>,
    around: Surroundings,
    rng: Rng,
}

impl World {
    pub fn new(rng: &Rng, settings: node::Settings) -> World {
        let services = Machine::boot(Duration::ZERO);
        let faults = Faults::new(rng.fork(1));
        let history = History::new(services.timeline());
        let metadata = {
            let handle = services.handle();
            let _entered = handle.enter();
            Registry::new(EmbeddedStore::memory())
        };
        let around = Surroundings {
            bucket: Bucket::new(services.timeline()),
            metadata,
            damages: Damages::default(),
            network: Network::new(services.handle(), faults.clone()),
            faults,
            history,
            orders: Orders::default(),
            settings,
        };
        World { now: Duration::ZERO, services, slots: BTreeMap::new(), around, rng: rng.fork(2) }
    }

    pub fn around(&self) -> &Surroundings {
        &self.around
    }

    pub fn services(&self) -> &Machine {
        &self.services
    }

    /// Runs until the scenario has ended, at most for `limit`. Returns whether it has.
    pub fn run(&mut self, limit: Duration, over: &CancellationToken) -> bool {
        while self.now < limit {
            let end = self.now + WINDOW;
            self.services.run_until(end);
            if over.is_cancelled() {
                return true;
            }
            for (host, slot) in &mut self.slots {
                if self.around.orders.state(*host) != NodeState::Paused {
                    slot.machine.run_until(end);
                }
            }
            self.now = end;
            self.bury();
            loop {
                // A lock over the execution would be taken again in it.
                let next = self.around.orders.commands.lock().pop_front();
                let Some(command) = next else { break };
                self.execute(command);
            }
        }
        false
    }

    /// Removes the processes that have ended by themselves.
    fn bury(&mut self) {
        let ended: Vec<i32> =
            self.slots.iter().filter(|(_, slot)| slot.ended.is_cancelled()).map(|(host, _)| *host).collect();
        for host in ended {
            self.slots.remove(&host);
            self.around.network.unlisten(host);
            self.set_state(host, NodeState::Down);
            self.note(Event::NodeEnded { node: host });
        }
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Boot { host } => self.boot(host),
            Command::Crash { host, at } => {
                if self.slots.remove(&host).is_some() {
                    self.around.faults.count("crash");
                    self.around.network.unlisten(host);
                    self.set_state(host, NodeState::Down);
                    self.note(Event::NodeCrashed { node: host, at });
                }
            }
            Command::Pause { host } => {
                if self.around.orders.state(host) == NodeState::Running {
                    self.around.faults.count("pause");
                    self.set_state(host, NodeState::Paused);
                    self.note(Event::NodePaused { node: host });
                }
            }
            Command::Wake { host } => {
                if self.around.orders.state(host) == NodeState::Paused
                    && let Some(slot) = self.slots.get_mut(&host)
                {
                    self.around.history.note_at(self.now, Event::NodeWoke { node: host });
                    slot.machine.leap(self.now);
                    self.set_state(host, NodeState::Running);
                }
            }
            Command::Stop { host } => {
                if self.around.orders.state(host) == NodeState::Running
                    && let Some(slot) = self.slots.get(&host)
                {
                    self.around.faults.count("planned stop");
                    slot.stop.cancel();
                    self.set_state(host, NodeState::Stopping);
                    self.note(Event::NodeStopping { node: host });
                }
            }
        }
    }

    fn boot(&mut self, host: i32) {
        if self.slots.contains_key(&host) {
            return;
        }
        let machine = Machine::boot(self.now);
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let around = &self.around;
        let process = Process::new(host, around.clone(), self.services.handle(), machine.timeline());
        let skew_ms = self.rng.below(2000) as i64 - 1000;
        let env = node::Env {
            store: SimStore::new(around.bucket.clone(), process.clone()),
            process,
            metadata: around.metadata.current(),
            listener: around.network.listen(host),
            clock: Arc::new(WallClock { timeline: machine.timeline(), skew_ms }),
            timeline: machine.timeline(),
            history: around.history.clone(),
            settings: around.settings.clone(),
            stop: stop.clone(),
            ended: ended.clone(),
        };
        machine.spawn(node::run(env));
        self.slots.insert(host, Slot { machine, stop, ended });
        self.set_state(host, NodeState::Running);
        self.note(Event::NodeBooted { node: host });
    }

    fn set_state(&self, host: i32, state: NodeState) {
        self.around.orders.states.lock().insert(host, state);
    }

    fn note(&self, event: Event) {
        self.around.history.note_at(self.now, event);
    }
}
