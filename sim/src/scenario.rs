//! One simulation: a cluster, its clients, what goes wrong, and the end, when everything is well again and all is read.
//!
//! Everything is drawn from the seed: how many brokers and clients, what they do, which faults there are and how many of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kafscale_meta::records::{ChainRecord, Keyspace, Record};
use kafscale_meta::{KeyValue, MetaStore};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::client::producer::{Habits, PATIENCE, partitions_of};
use crate::client::{Client, Setting, admin, committer, consumer, member, observer, producer, reader};
use crate::history::{Entry, Event, TopicPartition};
use crate::nemesis::{self, Mischief};
use crate::node;
use crate::rng::Rng;
use crate::world::{Command, Surroundings, World};

/// No simulation takes longer than this, in its own time.
const LIMIT: Duration = Duration::from_secs(400);
/// How long the cluster may take, when all is well again, to give back a partition.
const READING_PATIENCE: Duration = Duration::from_secs(60);
/// How long dead chains may take to go.
const COLLECTING_PATIENCE: Duration = Duration::from_secs(90);

/// What a simulation is, besides its seed.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A crash to be tried instead of the one that the seed draws: step, phase and number.
    pub crash: Option<crate::faults::Crash>,
}

/// What came out of a simulation.
#[derive(Debug)]
pub struct Outcome {
    pub entries: Vec<Entry>,
    pub steps: BTreeMap<String, (u64, u64)>,
    pub injected: BTreeMap<&'static str, u64>,
    /// How much time was simulated.
    pub simulated: Duration,
}

/// Runs a simulation. The random numbers that the program itself asks the system for must be seeded as well.
pub fn run(seed: u64, options: Options) -> Outcome {
    let panics = collect_panics();
    let rng = Rng::new(seed);
    let plan =
        Plan::draw(&mut rng.fork(10), [&mut rng.fork(19), &mut rng.fork(26), &mut rng.fork(27)], options);
    let mut world = World::new(&rng, plan.settings.clone());
    let over = CancellationToken::new();
    let around = world.around().clone();
    let scenario = play(around.clone(), rng.fork(11), plan, over.clone());
    world.services().spawn(scenario);
    if !world.run(LIMIT, &over) {
        let at = LIMIT;
        let who = "the simulation does not come to its end".to_owned();
        around.history.note_at(at, Event::Stuck { who });
    }
    let (steps, injected) = around.faults.coverage();
    for what in std::mem::take(&mut *panics.lock()) {
        around.history.note_at(LIMIT, Event::Panicked { what });
    }
    let entries = around.history.entries();
    let simulated = entries.last().map_or(Duration::ZERO, |entry| entry.at);
    Outcome { entries, steps, injected, simulated }
}

/// A task that panics ends, and its runtime goes on as if nothing had happened.
fn collect_panics() -> Arc<Mutex<Vec<String>>> {
    let panics = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&panics);
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!("{panic}");
        sink.lock().push(panic.to_string().replace('\n', " "));
    }));
    panics
}

/// What the seed draws.
#[derive(Debug, Clone)]
struct Plan {
    nodes: i32,
    settings: node::Settings,
    /// How long things go wrong.
    trouble: Duration,
    mischief: Mischief,
    topics: Vec<Topic>,
    idempotent: u64,
    plain: u64,
    consumers: u64,
    members: u64,
    observers: u64,
    comes_and_goes: bool,
    /// There are a group without members and somebody who insists on the coordinator that it once found for it.
    insists: bool,
}

#[derive(Debug, Clone)]
struct Topic {
    name: Arc<str>,
    partitions: i32,
    configs: Vec<(&'static str, String)>,
    deletes_records: bool,
    retention_ms: Option<i64>,
}

impl Plan {
    fn draw(rng: &mut Rng, [later, reads, damage]: [&mut Rng; 3], options: Options) -> Plan {
        let topic = |name: &str, partitions| Topic {
            name: name.into(),
            partitions,
            configs: Vec::new(),
            deletes_records: false,
            retention_ms: None,
        };
        let mut topics = vec![topic("orders", rng.between(1, 5) as i32)];
        if rng.per_mille(500) {
            topics.push(Topic { deletes_records: true, ..topic("audit", rng.between(1, 2) as i32) });
        }
        if rng.per_mille(400) {
            let retention_ms = rng.between(3000, 15_000) as i64;
            let configs =
                vec![("retention.ms", retention_ms.to_string()), ("segment.bytes", "1048576".to_owned())];
            topics.push(Topic { retention_ms: Some(retention_ms), configs, ..topic("metrics", 1) });
        }
        Plan {
            nodes: 3,
            settings: node::Settings::draw(rng),
            trouble: rng.ms(8000, 30_000),
            // Seeds 231 and 624, which are named in seeds.txt, draw nothing from the later stream.
            mischief: Mischief::draw(rng, options.crash)
                .with_later(later)
                .with_broken_reads(reads)
                .with_damage(damage),
            topics,
            idempotent: rng.between(1, 3),
            plain: rng.between(0, 2),
            consumers: rng.between(1, 2),
            members: *rng.pick(&[0, 1, 2, 3]),
            observers: rng.between(0, 1),
            comes_and_goes: rng.per_mille(300),
            insists: later.per_mille(400),
        }
    }

    fn groups(&self) -> impl Iterator<Item = &'static str> {
        let mut groups: Vec<_> = (0..self.members).map(group_of).collect();
        groups.dedup();
        groups.into_iter().chain(self.insists.then_some(JOBS))
    }
}

/// A group without members.
const JOBS: &str = "jobs";

/// The group of a member.
fn group_of(member: u64) -> &'static str {
    if member < 2 { "readers" } else { "others" }
}

async fn play(around: Surroundings, rng: Rng, plan: Plan, over: CancellationToken) {
    let closing = CancellationToken::new();
    let setting = Setting {
        network: around.network.clone(),
        history: around.history.clone(),
        nodes: plan.nodes,
        closing: closing.clone(),
    };
    around.faults.heal(nemesis::calm);
    for node in 1..=plan.nodes {
        around.orders.give(Command::Boot { host: node });
    }
    let mut clients = Clients { setting, rng: rng.fork(20), next: 0 };
    let mut admin = clients.next();
    for topic in &plan.topics {
        let configs: Vec<(&str, &str)> = topic.configs.iter().map(|(k, v)| (*k, v.as_str())).collect();
        if let Some(retention_ms) = topic.retention_ms {
            around.history.note(Event::Retention { topic: Arc::clone(&topic.name), retention_ms });
        }
        admin::create_topic(&mut admin, &topic.name, topic.partitions, &configs).await;
    }
    let mut running = JoinSet::new();
    for (name, task) in clients.all(&plan) {
        running.spawn(task.map(move |()| name));
    }
    let trouble = nemesis::run(around.clone(), rng.fork(21), rng.fork(22), plan.nodes, plan.mischief.clone());
    let _ = timeout(plan.trouble, trouble).await;
    nemesis::end(&around, plan.nodes).await;
    around.history.note(Event::Healed);
    closing.cancel();
    let end = async {
        finish(&around, running).await;
        look_at_all(&around, &plan, &mut admin).await;
        collected(&around).await;
        nemesis::begin_anew(&around, plan.nodes).await;
        look_at_all(&around, &plan, &mut admin).await;
    };
    tokio::select! {
        // Without a draw.
        biased;
        () = end => {}
        () = nemesis::keep_up(&around, rng.fork(23), plan.nodes) => {}
    }
    over.cancel();
}

/// Waits until the chains of all who are gone are collected, as they must be once new owners have rewritten what was in them.
async fn collected(around: &Surroundings) {
    let keys = Keyspace::new(node::CLUSTER).expect("the name is a name");
    let is_dead =
        |kv: &KeyValue| ChainRecord::decode(&kv.key, &kv.value).is_ok_and(|chain| chain.sealed_at.is_some());
    let all = async {
        while let Ok(chains) = around.metadata.right().range_all(&keys.chains_prefix()).await
            && chains.kvs.iter().any(is_dead)
        {
            sleep(Duration::from_millis(500)).await;
        }
    };
    if timeout(COLLECTING_PATIENCE, all).await.is_err() {
        around.history.note(Event::Stuck { who: "a dead chain is not collected".to_owned() });
    }
}

/// Reads all that is there.
async fn look_at_all(around: &Surroundings, plan: &Plan, client: &mut Client) {
    let stuck = |who: String| around.history.note(Event::Stuck { who });
    let partitions = plan.topics.iter().flat_map(|topic| partitions_of(&topic.name, topic.partitions));
    for at in partitions {
        if reader::read_all(client, &at, READING_PATIENCE).await.is_none() {
            stuck(format!("{at} cannot be read to its end"));
        }
    }
    let observed = partitions_of(&plan.topics[0].name, plan.topics[0].partitions);
    for group in plan.groups() {
        if !observer::look_once(client, &group.into(), &observed, READING_PATIENCE).await {
            stuck(format!("nobody tells how far the group {group} has come"));
        }
    }
}

/// Waits until the clients have come to their end.
async fn finish(around: &Surroundings, mut running: JoinSet<String>) {
    let mut open = running.len();
    let all = async {
        while let Some(ended) = running.join_next().await {
            open -= 1;
            if let Err(error) = ended {
                around.history.note(Event::Panicked { what: format!("a client: {error}") });
            }
        }
    };
    if timeout(PATIENCE, all).await.is_err() {
        let who = format!("{open} clients do not come to their end");
        around.history.note(Event::Stuck { who });
    }
    running.shutdown().await;
    sleep(Duration::from_millis(100)).await;
}

struct Clients {
    setting: Setting,
    rng: Rng,
    next: u32,
}

impl Clients {
    fn next(&mut self) -> Client {
        self.next += 1;
        Client::new(self.next, self.rng.fork(u64::from(self.next)), self.setting.clone())
    }

    fn all(&mut self, plan: &Plan) -> Vec<(String, BoxFuture<'static, ()>)> {
        let mut all: Vec<(String, BoxFuture<'static, ()>)> = Vec::new();
        let lasting: Vec<TopicPartition> =
            plan.topics.iter().flat_map(|topic| partitions_of(&topic.name, topic.partitions)).collect();
        for _ in 0..plan.idempotent {
            let habits = self.habits(lasting.clone());
            all.push(("producer".into(), producer::idempotent(self.next(), habits).boxed()));
        }
        for _ in 0..plan.plain {
            let habits = self.habits(lasting.clone());
            let acks = *self.rng.pick(&[-1, 1, 0]);
            all.push(("plain producer".into(), producer::plain(self.next(), habits, acks).boxed()));
        }
        for _ in 0..plan.consumers {
            all.push(("consumer".into(), consumer::follow(self.next(), lasting.clone()).boxed()));
        }
        for i in 0..plan.members {
            let group = group_of(i);
            let member = member::take_part(self.next(), group.into(), Arc::clone(&plan.topics[0].name));
            all.push(("member".into(), member.boxed()));
        }
        for _ in 0..plan.observers.min(plan.members) {
            let observed = partitions_of(&plan.topics[0].name, plan.topics[0].partitions);
            let observer = observer::observe(self.next(), "readers".into(), observed);
            all.push(("observer".into(), observer.boxed()));
        }
        for topic in plan.topics.iter().filter(|topic| topic.deletes_records) {
            let partitions = partitions_of(&topic.name, topic.partitions);
            all.push(("deleter".into(), admin::delete_records(self.next(), partitions).boxed()));
        }
        if plan.comes_and_goes {
            let name: Arc<str> = "sessions".into();
            let habits = Habits { pause_ms: (50, 250), ..self.habits(partitions_of(&name, 2)) };
            all.push(("plain producer".into(), producer::plain(self.next(), habits, -1).boxed()));
            all.push(("consumer".into(), consumer::follow(self.next(), partitions_of(&name, 2)).boxed()));
            let life = (1500, 7000);
            all.push(("come and go".into(), admin::come_and_go(self.next(), name, 2, life).boxed()));
        }
        if plan.insists {
            let mut observed = partitions_of(&plan.topics[0].name, 1);
            let observer = observer::insist(self.next(), JOBS.into(), observed.clone());
            all.push(("stubborn observer".into(), observer.boxed()));
            let committer = committer::commit(self.next(), JOBS.into(), observed.remove(0));
            all.push(("committer".into(), committer.boxed()));
        }
        all
    }

    fn habits(&mut self, partitions: Vec<TopicPartition>) -> Habits {
        let rng = &mut self.rng;
        Habits {
            partitions,
            pause_ms: *rng.pick(&[(5, 60), (20, 150), (100, 400)]),
            records_max: rng.between(1, 6),
            padding_max: *rng.pick(&[0, 50, 2000]),
            in_flight: rng.between(1, 5) as usize,
        }
    }
}
