//! What is done to the cluster: processes that die, stop and wake up, links that are cut, services that fail; and the end of it.

use std::time::Duration;

use tokio::time::sleep;

use crate::faults::{Crash, PHASES, Service, Weather};
use crate::history::Event;
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
        };
        let pause_ms = *rng.pick(&[(500, 3000), (1500, 6000), (4000, 9000)]);
        Mischief { tricks, pause_ms, store, metadata, first_crash }
    }
}

/// Does mischief until it is dropped.
pub async fn run(around: Surroundings, mut rng: Rng, nodes: i32, mischief: Mischief) {
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
    tokio::join!(keeper, tricks);
}

/// Starts processes again that have ended.
async fn keep_up(around: &Surroundings, mut rng: Rng, nodes: i32) {
    loop {
        sleep(rng.ms(300, 4000)).await;
        for node in 1..=nodes {
            if around.orders.state(node) == NodeState::Down {
                around.orders.give(Command::Boot { node });
            }
        }
    }
}

async fn play(around: &Surroundings, rng: &mut Rng, trick: Trick, node: i32) {
    let faults = &around.faults;
    let tell = |what: String| around.history.note(Event::Nemesis { what });
    match trick {
        Trick::Crash => around.orders.give(Command::Crash { node, at: "any".into() }),
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
            around.orders.give(Command::Pause { node });
            sleep(away(rng)).await;
            around.orders.give(Command::Wake { node });
        }
        Trick::Stop => around.orders.give(Command::Stop { node }),
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
    loop {
        let mut well = true;
        for node in 1..=nodes {
            match around.orders.state(node) {
                NodeState::Running => continue,
                NodeState::Paused => around.orders.give(Command::Wake { node }),
                NodeState::Down => around.orders.give(Command::Boot { node }),
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
