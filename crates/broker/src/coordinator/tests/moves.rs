//! Three coordinators, slots that move between them, and all that can go wrong on the way to the store: an acknowledged commit is
//! never lost, a committed offset never moves back.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const NODES: usize = 3;
const GROUPS: usize = 4;

#[derive(Debug, Clone)]
enum Step {
    /// A client commits the next offset, at whichever broker says that it coordinates the group.
    Commit {
        group: usize,
    },
    /// A client that holds on to a broker commits there.
    CommitAt {
        group: usize,
        node: usize,
    },
    /// The slot is asked for, and given to somebody else once it is let go.
    Ask {
        group: usize,
        to: usize,
    },
    /// A broker loses its lease, knowing it or not, and everything that it coordinates is given to another one. It starts again.
    Die {
        node: usize,
        to: usize,
        knows: bool,
    },
    Fault {
        node: usize,
        fault: Fault,
        on: bool,
    },
    /// What seemed to fail is done now.
    Deliver {
        node: usize,
    },
    Pass {
        ms: u64,
    },
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Failing,
    Silent,
    Late,
    Deaf,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (group, node) = (0..GROUPS, 0..NODES);
    let fault = prop_oneof![Just(Fault::Failing), Just(Fault::Silent), Just(Fault::Late), Just(Fault::Deaf)];
    let step = prop_oneof![
        8 => group.clone().prop_map(|group| Step::Commit { group }),
        4 => (group.clone(), node.clone()).prop_map(|(group, node)| Step::CommitAt { group, node }),
        2 => (group, node.clone()).prop_map(|(group, to)| Step::Ask { group, to }),
        1 => (node.clone(), node.clone(), any::<bool>()).prop_map(|(node, to, knows)| Step::Die { node, to, knows }),
        4 => (node.clone(), fault, any::<bool>()).prop_map(|(node, fault, on)| Step::Fault { node, fault, on }),
        2 => node.prop_map(|node| Step::Deliver { node }),
        2 => (0..3_000_u64).prop_map(|ms| Step::Pass { ms }),
    ];
    proptest::collection::vec(step, 1..60)
}

struct World {
    bench: Bench,
    running: Vec<Running>,
    /// Brokers that were stopped and may wake up.
    former: Vec<Running>,
    /// Slots that were asked for, and for whom.
    asked: Vec<(i32, usize)>,
    acknowledged: HashMap<usize, i64>,
    /// What the store had at the last look.
    seen: HashMap<usize, i64>,
    next: i64,
}

fn group_id(group: usize) -> String {
    format!("group-{group}")
}

impl World {
    async fn new() -> World {
        let bench = Bench::new();
        bench.topics(&[("orders", TOPIC)]).await;
        let mut running = Vec::new();
        for node in 0..NODES {
            running.push(bench.join_over(node as i32, bench.own_store()).await);
        }
        bench.give(ALL_SLOTS, &running[0]).await;
        let (former, asked) = (Vec::new(), Vec::new());
        let (acknowledged, seen) = (HashMap::new(), HashMap::new());
        World { bench, running, former, asked, acknowledged, seen, next: 0 }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Commit { group } => {
                let offset = self.next_offset();
                for node in 0..NODES {
                    if self.commit(group, node, offset).await {
                        break;
                    }
                }
            }
            Step::CommitAt { group, node } => {
                let offset = self.next_offset();
                self.commit(group, node, offset).await;
            }
            Step::Ask { group, to } => {
                let slot = only(&group_id(group)).start;
                if self.bench.slot(slot).await.owner.is_some() {
                    self.bench.ask_for(slot..slot + 1).await;
                    self.asked.push((slot, to));
                }
            }
            Step::Die { node, to, knows } => self.die(node, to, knows).await,
            Step::Fault { node, fault, on } => {
                let store = &self.running[node].store;
                match fault {
                    Fault::Failing => store.fail(on),
                    Fault::Silent => store.be_silent(on),
                    Fault::Late => store.be_late(on),
                    Fault::Deaf => store.be_deaf(on),
                }
            }
            Step::Deliver { node } => {
                self.running[node].store.deliver_late().await;
                for former in &self.former {
                    former.store.deliver_late().await;
                }
            }
            Step::Pass { ms } => sleep(Duration::from_millis(ms)).await,
        }
        self.give_what_was_released().await;
        self.check().await;
    }

    fn next_offset(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    /// Whether the broker coordinates the group and took the commit.
    async fn commit(&mut self, group: usize, node: usize, offset: i64) -> bool {
        let commits = vec![commit_of("orders", 0, offset, &self.bench.clock)];
        let committed = self.running[node].commit(&group_id(group), outside(), commits).await.is_ok();
        if committed {
            self.acknowledged.insert(group, offset);
        }
        committed
    }

    async fn die(&mut self, node: usize, to: usize, knows: bool) {
        let reborn = self.bench.join_over(node as i32, self.bench.own_store()).await;
        let dead = std::mem::replace(&mut self.running[node], reborn);
        let end = if knows { LeaseState::Lost } else { LeaseState::Until(Instant::now()) };
        dead.lease.send_replace(end);
        for slot in ALL_SLOTS {
            let owner = self.bench.slot(slot).await;
            if owner.owner == Some(node as i32) && owner.incarnation == dead.id.epoch {
                self.bench.give(slot..slot + 1, &self.running[to]).await;
            }
        }
        self.former.push(dead);
    }

    async fn give_what_was_released(&mut self) {
        for (slot, to) in std::mem::take(&mut self.asked) {
            if self.bench.slot(slot).await.owner.is_none() {
                self.bench.give(slot..slot + 1, &self.running[to]).await;
            } else {
                self.asked.push((slot, to));
            }
        }
    }

    async fn check(&mut self) {
        for group in 0..GROUPS {
            let id = group_id(group);
            let stored = self.bench.stored(&id, "orders", 0).await.unwrap_or(-1);
            let acknowledged = self.acknowledged.get(&group).copied().unwrap_or(-1);
            let seen = self.seen.insert(group, stored).unwrap_or(-1);
            assert!(stored >= acknowledged, "{id}: {acknowledged} was acknowledged, {stored} is there");
            assert!(stored >= seen, "{id}: {seen} was there, now {stored} is");
            for running in self.running.iter().chain(&self.former) {
                let shown = running.offsets(&id, |o| o.get("orders", 0).map_or(-1, |c| c.offset.0));
                if let Ok(shown) = shown {
                    let node = running.id;
                    assert!(
                        (acknowledged..=stored).contains(&shown),
                        "{id} at {node:?}: {shown} is not within {acknowledged} and {stored}"
                    );
                }
            }
        }
    }

    /// All is well again: every group is served, and shows what the store has.
    async fn end(mut self) {
        for running in self.running.iter().chain(&self.former) {
            for heal in
                [FaultyStore::fail, FaultyStore::be_silent, FaultyStore::be_late, FaultyStore::be_deaf]
            {
                heal(&running.store, false);
            }
            running.store.deliver_late().await;
        }
        self.check().await;
        self.bench.give(ALL_SLOTS, &self.running[0]).await;
        for group in 0..GROUPS {
            // As clients do, until its new owner has heard of it and read the groups.
            let mut attempts = 0;
            while {
                let offset = self.next_offset();
                !self.commit(group, 0, offset).await
            } {
                attempts += 1;
                assert!(attempts < 1_000, "all is well, but {} is not served", group_id(group));
                sleep(Duration::from_millis(10)).await;
            }
        }
        self.check().await;
        for running in self.running.iter().chain(&self.former) {
            running.shutdown().await;
        }
    }
}

async fn run(steps: Vec<Step>) {
    let mut world = World::new().await;
    for step in steps {
        world.step(step).await;
    }
    world.end().await;
}

proptest! {
    // Each case starts and stops coordinators many times.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_committed_offset_never_moves_back(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(run(steps));
    }
}
