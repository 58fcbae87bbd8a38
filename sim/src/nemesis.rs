//! What is done to the cluster: processes that die, stop and wake up, links that are cut, services that fail; and the end of it.

use std::time::Duration;

use tokio::time::sleep;

use crate::damage::{self, Mending};
use crate::faults::{Crash, PHASES, Service, Weather};
use crate::held_up::HoldUp;
use crate::history::Event;
use crate::misplaced;
use crate::net::twin_of;
use crate::rng::Rng;
use crate::store::CALM_LATENCY_MS;
use crate::world::{Command, NodeState, Surroundings};

/// How a service behaves when all is well.
pub fn calm(service: Service) -> Weather {
    let latency_ms = match service {
        Service::Store => CALM_LATENCY_MS,
        Service::Metadata => (1, 5),
    };
    Weather { latency_ms, ..Weather::default() }
}

/// The steps of the write path, of handing over and of rewriting at which a process may die.
pub const STEPS: &[&str] = &[
    "put chain object",
    "get chain object",
    "list chain object",
    "delete chain object",
    "put segment",
    "delete segment",
    "write partitions",
    "write chains",
    "write assignments",
    "write coordinators",
    "write groups",
    "write offsets",
    "write topics",
    "write producer-ids",
    "write brokers",
    "write controller",
    "read partitions",
    "list chains",
    "keep lease",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trick {
    Crash,
    CrashAtStep,
    Pause,
    Stop,
    CutStore,
    CutMetadata,
    Isolate,
    StoreOutage,
    MetadataOutage,
    Silence,
    Reset,
}

const TRICKS: [Trick; 11] = [
    Trick::Crash,
    Trick::CrashAtStep,
    Trick::Pause,
    Trick::Stop,
    Trick::CutStore,
    Trick::CutMetadata,
    Trick::Isolate,
    Trick::StoreOutage,
    Trick::MetadataOutage,
    Trick::Silence,
    Trick::Reset,
];

/// What the nemesis of one simulation likes.
#[derive(Debug, Clone)]
pub struct Mischief {
    tricks: Vec<Trick>,
    pause_ms: (u64, u64),
    store: Weather,
    metadata: Weather,
    first_crash: Option<Crash>,
    holds_up: bool,
    twins: bool,
    storms: bool,
    damages: bool,
    misplaces: bool,
}

/// What becomes of a process for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plight {
    Well,
    Dead,
    /// SIGSTOP, and SIGCONT after a time.
    Stopped(Duration),
    CutOff(Service, Duration),
    /// It reaches neither store.
    Alone(Duration),
}

impl Plight {
    pub fn draw(rng: &mut Rng) -> Plight {
        let time = away(rng);
        match rng.below(6) {
            0 => Plight::Well,
            1 => Plight::Dead,
            2 | 3 => Plight::Stopped(time),
            4 => Plight::CutOff(Service::Metadata, time),
            _ => Plight::Alone(time),
        }
    }
}

impl Mischief {
    pub fn draw(rng: &mut Rng, first_crash: Option<Crash>) -> Mischief {
        let mut tricks: Vec<Trick> = TRICKS.into_iter().filter(|_| rng.per_mille(350)).collect();
        // Half of the simulations are about dying at one step; so is each that asks for one.
        if first_crash.is_some() || rng.per_mille(500) {
            tricks.push(Trick::CrashAtStep);
        }
        let chance = |rng: &mut Rng, often: u32, most: u64| {
            if rng.per_mille(often) { rng.between(1, most) as u32 } else { 0 }
        };
        let store = Weather {
            latency_ms: *rng.pick(&[CALM_LATENCY_MS, (2, 6), (10, 80)]),
            lost_requests: chance(rng, 300, 20),
            lost_answers: chance(rng, 400, 40),
            late: chance(rng, 400, 30),
            doubled: chance(rng, 300, 60),
            slow: chance(rng, 400, 100),
            refused: chance(rng, 400, 100),
            conflicts: chance(rng, 300, 60),
            compacted: 0,
            cut: 0,
        };
        let metadata = Weather {
            latency_ms: *rng.pick(&[(1, 5), (1, 3), (5, 40)]),
            lost_requests: chance(rng, 300, 15),
            lost_answers: chance(rng, 400, 30),
            late: chance(rng, 300, 15),
            doubled: 0,
            slow: chance(rng, 300, 60),
            refused: chance(rng, 300, 40),
            conflicts: 0,
            compacted: chance(rng, 200, 10),
            cut: 0,
        };
        let pause_ms = *rng.pick(&[(500, 3000), (1500, 6000), (4000, 9000)]);
        Mischief {
            tricks,
            pause_ms,
            store,
            metadata,
            first_crash,
            holds_up: false,
            twins: false,
            storms: false,
            damages: false,
            misplaces: false,
        }
    }

    /// Adds what came later, from a stream of its own: a seed that draws nothing of it is what it was before.
    pub fn with_later(self, rng: &mut Rng) -> Mischief {
        Mischief { holds_up: rng.per_mille(500), twins: rng.per_mille(300), ..self }
    }

    /// The same for answers of the store that break off, and starts while it refuses everything.
    pub fn with_broken_reads(self, rng: &mut Rng) -> Mischief {
        let cut = if rng.per_mille(400) { rng.between(1, 200) as u32 } else { 0 };
        Mischief { store: Weather { cut, ..self.store }, storms: rng.per_mille(300), ..self }
    }

    /// The same for objects that are damaged, and metadata that is lost.
    pub fn with_damage(self, rng: &mut Rng) -> Mischief {
        Mischief { damages: rng.per_mille(300), misplaces: rng.per_mille(200), ..self }
    }
}

/// Does mischief until it is dropped. What came later has its own stream.
pub async fn run(around: Surroundings, mut rng: Rng, later: Rng, nodes: i32, mischief: Mischief) {
    around.faults.set_weather(Service::Store, mischief.store);
    around.faults.set_weather(Service::Metadata, mischief.metadata);
    around.faults.set_crash(mischief.first_crash.clone());
    let keeper = keep_up(&around, rng.fork(1), nodes);
    let tricks = async {
        loop {
            sleep(rng.ms(mischief.pause_ms.0, mischief.pause_ms.1)).await;
            if mischief.tricks.is_empty() {
                continue;
            }
            let trick = *rng.pick(&mischief.tricks);
            let node = rng.between(1, nodes as u64) as i32;
            play(&around, &mut rng, trick, node).await;
        }
    };
    let holds_up = async {
        if mischief.holds_up {
            hold_up(&around, later.fork(1)).await;
        }
    };
    let twins = async {
        if mischief.twins {
            start_twins(&around, later.fork(2), nodes).await;
        }
    };
    let storms = async {
        if mischief.storms {
            start_in_storms(&around, later.fork(3), nodes).await;
        }
    };
    let damages = async {
        if mischief.damages {
            damage::run(&around, later.fork(4)).await;
        }
    };
    let misplaces = async {
        if mischief.misplaces {
            misplaced::run(&around, later.fork(5)).await;
        }
    };
    tokio::join!(keeper, tricks, holds_up, twins, storms, damages, misplaces);
}

/// Kills a broker, or all of them, and starts them while the store refuses everything for a while, as one does that is throttled. A process
/// that gave up would be started again by [`keep_up`], and add to the load: so none may.
async fn start_in_storms(around: &Surroundings, mut rng: Rng, nodes: i32) {
    let tell = |what: String| around.history.note(Event::Nemesis { what });
    loop {
        sleep(rng.ms(1500, 9000)).await;
        let only = rng.between(0, nodes as u64) as i32;
        let hosts: Vec<i32> = (1..=nodes).filter(|host| only == 0 || only == *host).collect();
        tell(format!("the store refuses everything while brokers {hosts:?} start"));
        around.faults.set_refusing(Service::Store, true);
        for host in &hosts {
            around.orders.give(Command::Crash { host: *host, at: "a storm".into() });
        }
        sleep(rng.ms(100, 500)).await;
        for host in &hosts {
            if around.orders.state(*host) == NodeState::Down {
                around.orders.give(Command::Boot { host: *host });
            }
        }
        sleep(rng.ms(2000, 20_000)).await;
        around.faults.set_refusing(Service::Store, false);
        tell("the store takes requests again".into());
    }
}

/// Asks again and again for a request to be held up.
async fn hold_up(around: &Surroundings, mut rng: Rng) {
    loop {
        sleep(rng.ms(300, 2500)).await;
        around.faults.set_hold_up(HoldUp::draw(&mut rng));
    }
}

/// Starts second processes with the numbers of brokers, as an orchestrator does that takes the first for gone.
async fn start_twins(around: &Surroundings, mut rng: Rng, nodes: i32) {
    loop {
        sleep(rng.ms(1000, 8000)).await;
        let node = rng.between(1, nodes as u64) as i32;
        let twin = twin_of(node);
        let plight = Plight::draw(&mut rng);
        let start = async {
            sleep(rng.ms(0, 4000)).await;
            if around.orders.state(twin) == NodeState::Down {
                around.faults.count("twin");
                around.orders.give(Command::Boot { host: twin });
            }
            sleep(rng.ms(500, 20_000)).await;
            // One of the two goes, or both stay.
            match rng.below(5) {
                0 => around.orders.give(Command::Crash { host: twin, at: "a second process".into() }),
                1 => around.orders.give(Command::Stop { host: twin }),
                2 => around.orders.give(Command::Crash { host: node, at: "the first process".into() }),
                3 => around.orders.give(Command::Stop { host: node }),
                _ => {}
            }
        };
        tokio::join!(suffer(around, node, plight), start);
    }
}

/// Lets something happen to a process, until it is over.
pub async fn suffer(around: &Surroundings, host: i32, plight: Plight) {
    match plight {
        Plight::Well => {}
        Plight::Dead => around.orders.give(Command::Crash { host, at: "with a request under way".into() }),
        Plight::Stopped(time) => {
            around.orders.give(Command::Pause { host });
            sleep(time).await;
            around.orders.give(Command::Wake { host });
        }
        Plight::CutOff(service, time) => cut_off(around, host, &[service], time).await,
        Plight::Alone(time) => cut_off(around, host, &[Service::Store, Service::Metadata], time).await,
    }
}

async fn cut_off(around: &Surroundings, host: i32, services: &[Service], time: Duration) {
    let tell = |what: String| around.history.note(Event::Nemesis { what });
    tell(format!("broker {host} is cut off from {services:?}"));
    for service in services {
        around.faults.set_cut(*service, host, true);
    }
    sleep(time).await;
    for service in services {
        around.faults.set_cut(*service, host, false);
    }
    tell(format!("broker {host} reaches {services:?} again"));
}

/// Starts processes again that have ended, also where a second one with the same number lives.
pub async fn keep_up(around: &Surroundings, mut rng: Rng, nodes: i32) {
    loop {
        sleep(rng.ms(300, 4000)).await;
        for node in 1..=nodes {
            if around.orders.state(node) == NodeState::Down {
                around.orders.give(Command::Boot { host: node });
            }
        }
    }
}

async fn play(around: &Surroundings, rng: &mut Rng, trick: Trick, node: i32) {
    let faults = &around.faults;
    let tell = |what: String| around.history.note(Event::Nemesis { what });
    match trick {
        Trick::Crash => around.orders.give(Command::Crash { host: node, at: "any".into() }),
        Trick::CrashAtStep => {
            if !faults.crash_pending() {
                let crash = Crash {
                    step: STEPS[rng.below(STEPS.len() as u64) as usize],
                    phase: *rng.pick(&PHASES),
                    nth: rng.between(1, 4) as u32,
                };
                tell(format!("the next process to {} dies: {crash:?}", crash.step));
                faults.set_crash(Some(crash));
            }
        }
        Trick::Pause => {
            around.orders.give(Command::Pause { host: node });
            sleep(away(rng)).await;
            around.orders.give(Command::Wake { host: node });
        }
        Trick::Stop => around.orders.give(Command::Stop { host: node }),
        Trick::CutStore | Trick::CutMetadata => {
            let service = if trick == Trick::CutStore { Service::Store } else { Service::Metadata };
            tell(format!("broker {node} is cut off from {service:?}"));
            faults.set_cut(service, node, true);
            sleep(rng.ms(300, 14_000)).await;
            faults.set_cut(service, node, false);
            tell(format!("broker {node} reaches {service:?} again"));
        }
        Trick::Isolate => isolate(around, rng, node).await,
        Trick::StoreOutage | Trick::MetadataOutage => {
            let service = if trick == Trick::StoreOutage { Service::Store } else { Service::Metadata };
            tell(format!("{service:?} answers nobody"));
            faults.set_outage(service, true);
            sleep(rng.ms(300, 10_000)).await;
            faults.set_outage(service, false);
            tell(format!("{service:?} answers again"));
        }
        Trick::Silence => {
            tell(format!("broker {node} and clients do not hear each other"));
            faults.set_silent(node, true);
            sleep(rng.ms(300, 8000)).await;
            faults.set_silent(node, false);
            tell(format!("broker {node} and clients hear each other again"));
        }
        Trick::Reset => {
            tell(format!("the connections of broker {node} break"));
            around.network.reset(node);
        }
    }
}

/// How long a broker is away: often longer than its lease, and sometimes until its chain was collected.
fn away(rng: &mut Rng) -> Duration {
    let (from_ms, to_ms) = *rng.pick(&[(200, 14_000), (6000, 22_000)]);
    rng.ms(from_ms, to_ms)
}

/// A broker reaches neither store, as nobody but clients hears it; then one of them, and the other one only later.
async fn isolate(around: &Surroundings, rng: &mut Rng, node: i32) {
    let tell = |what: String| around.history.note(Event::Nemesis { what });
    let mut services = [Service::Store, Service::Metadata];
    if rng.per_mille(250) {
        services.reverse();
    }
    tell(format!("broker {node} is cut off from both stores"));
    for service in services {
        around.faults.set_cut(service, node, true);
    }
    sleep(away(rng)).await;
    for service in services {
        around.faults.set_cut(service, node, false);
        tell(format!("broker {node} reaches {service:?} again"));
        sleep(rng.ms(0, 9000)).await;
    }
}

/// Makes everything well, and returns when every process is running.
pub async fn end(around: &Surroundings, nodes: i32) {
    around.faults.heal(calm);
    misplaced::put_back(around);
    around.damages.mend(around, Mending::Heals);
    loop {
        let mut well = true;
        for host in around.orders.hosts() {
            match around.orders.state(host) {
                NodeState::Running => continue,
                NodeState::Paused => around.orders.give(Command::Wake { host }),
                NodeState::Down if host > nodes => continue,
                NodeState::Down => around.orders.give(Command::Boot { host }),
                NodeState::Stopping => {}
            }
            well = false;
        }
        if well {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Why all processes die before everything is read once more.
pub const THE_END: &str = "the end";

/// Waits for what is still held up, then kills all processes, and starts one for each broker: what is remembered now is what is stored.
pub async fn begin_anew(around: &Surroundings, nodes: i32) {
    while around.faults.is_anything_held_up() {
        sleep(Duration::from_millis(50)).await;
    }
    around.damages.mend(around, Mending::BeginsAnew);
    for host in around.orders.hosts() {
        around.orders.give(Command::Crash { host, at: THE_END.into() });
    }
    for host in 1..=nodes {
        around.orders.give(Command::Boot { host });
    }
}
