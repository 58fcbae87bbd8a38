//! Metadata that does not belong to the store: it was lost, is that of another cluster, or an old copy. Processes that are started with
//! it must refuse, and leave everything as it is, however often they are started.

use kafscale_meta::records::{Keyspace, Record, StoreRecord};
use kafscale_meta::{EmbeddedStore, MetaStore, Op, Revision, Txn};
use object_store::path::Path;
use tokio::time::sleep;

use crate::history::Event;
use crate::node::CLUSTER;
use crate::rng::Rng;
use crate::world::{Command, Surroundings};

/// Operations of one transaction of a copy.
const OPS: usize = 100;

/// Ends all processes, and starts them with metadata that is not theirs, for a while.
pub async fn run(around: &Surroundings, mut rng: Rng) {
    loop {
        sleep(rng.ms(2000, 9000)).await;
        let (what, other) = match rng.below(3) {
            0 => ("lost", EmbeddedStore::memory()),
            1 => ("that of another cluster", of_another().await),
            _ => {
                let (copy, revision) = copy(around.metadata.right()).await;
                sleep(rng.ms(2000, 9000)).await;
                // What tells it from the newest is that it cannot have given out a number that the store has seen.
                if newest_incarnation(around) <= revision.0 {
                    continue;
                }
                ("an old copy", copy)
            }
        };
        around.faults.count("misplaced metadata");
        around.history.note(Event::Nemesis { what: format!("the metadata is {what}") });
        around.metadata.misplace(other);
        end_all(around, "the metadata is misplaced");
        sleep(rng.ms(1000, 10_000)).await;
        put_back(around);
    }
}

/// Ends all processes, and starts them with their own metadata again.
pub fn put_back(around: &Surroundings) {
    if around.metadata.put_back() {
        around.history.note(Event::Nemesis { what: "the metadata is put back".into() });
        end_all(around, "the metadata is put back");
    }
}

fn end_all(around: &Surroundings, at: &str) {
    for host in around.orders.hosts() {
        around.orders.give(Command::Crash { host, at: at.into() });
    }
}

async fn of_another() -> EmbeddedStore {
    let (store, keys) = (EmbeddedStore::memory(), Keyspace::new(CLUSTER).expect("the name is a name"));
    let record = StoreRecord { store_id: "of another cluster".into() };
    write(&store, vec![Op::put(keys.store(), record.encode())]).await;
    store
}

async fn write(store: &EmbeddedStore, then: Vec<Op>) -> Revision {
    let outcome = store.txn(Txn { compares: Vec::new(), then }).await;
    outcome.expect("a store in memory takes everything").revision
}

/// What a backup holds, which has no leases. It counts on from where the original was.
async fn copy(of: &EmbeddedStore) -> (EmbeddedStore, Revision) {
    let listed = of.range_all("/").await.expect("a store in memory gives everything");
    let copy = EmbeddedStore::memory();
    let lasting = listed.kvs.into_iter().filter(|kv| kv.lease.is_none());
    let puts: Vec<Op> = lasting.map(|kv| Op::put(kv.key, kv.value)).collect();
    let mut revision = Revision(0);
    for some in puts.chunks(OPS) {
        revision = write(&copy, some.to_vec()).await;
    }
    while revision < listed.revision {
        revision = write(&copy, vec![Op::put("/padding", "")]).await;
    }
    (copy, revision)
}

/// The highest incarnation that has marked the store.
fn newest_incarnation(around: &Surroundings) -> u64 {
    let marks = around.bucket.list(Some(&Path::from("incarnations"))).expect("the store in memory lists");
    let number = |path: &Path| path.as_ref().rsplit_once('-')?.1.parse().ok();
    marks.iter().filter_map(|mark| number(&mark.location)).max().unwrap_or(0)
}
