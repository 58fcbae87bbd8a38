//! Metadata that does not belong to the store: it was lost, is that of another cluster, or an old copy. Processes that are started with
//! it must refuse, and leave everything as it is, however often they are started.

use kafscale_meta::records::{Keyspace, Record, StoreRecord, TraceRecord};
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
                let copy = copy(around.metadata.right(), &mut rng).await;
                sleep(rng.ms(2000, 9000)).await;
                if !is_shown_to_be_old(around, &copy).await {
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

/// What a backup holds, which has no leases. It counts on from where the original was, or from
/// further on: others have written to the same etcd meanwhile, or whoever restored it has raised
/// its revision.
async fn copy(of: &EmbeddedStore, rng: &mut Rng) -> EmbeddedStore {
    let listed = of.range_all("/").await.expect("a store in memory gives everything");
    let copy = EmbeddedStore::memory();
    let lasting = listed.kvs.into_iter().filter(|kv| kv.lease.is_none());
    let puts: Vec<Op> = lasting.map(|kv| Op::put(kv.key, kv.value)).collect();
    let mut revision = Revision(0);
    for some in puts.chunks(OPS) {
        revision = write(&copy, some.to_vec()).await;
    }
    let counts_to = listed.revision.0 + *rng.pick(&[0, 0, 20, 200]);
    while revision.0 < counts_to {
        revision = write(&copy, vec![Op::put("/padding", "")]).await;
    }
    copy
}

/// Whether the store has what a copy of its metadata does not know: the mark of an incarnation, or
/// a snapshot.
async fn is_shown_to_be_old(around: &Surroundings, copy: &EmbeddedStore) -> bool {
    let keys = Keyspace::new(CLUSTER).expect("the name is a name");
    for (directory, number) in [("incarnations", mark as fn(&str) -> _), ("snapshots", snapshot)] {
        let listed = around.bucket.list(Some(&Path::from(directory))).expect("the store in memory lists");
        for name in listed.iter().filter_map(|object| object.location.filename()) {
            let Some((node_id, number)) = number(name) else { continue };
            let key = node_id.map_or_else(|| keys.snapshot_trace(), |id| keys.writer_trace(id));
            let noted = copy.get(&key).await.expect("a store in memory gives everything");
            let noted = noted.map(|kv| TraceRecord::decode(&key, &kv.value).expect("it is a note"));
            if noted.is_none_or(|noted| noted.number < number) {
                return true;
            }
        }
    }
    false
}

/// The broker and the number that the name of a mark states.
fn mark(name: &str) -> Option<(Option<i32>, u64)> {
    let (node_id, number) = name.split_once('-')?;
    Some((Some(node_id.parse().ok()?), number.parse().ok()?))
}

fn snapshot(name: &str) -> Option<(Option<i32>, u64)> {
    Some((None, name.strip_suffix(".json")?.parse().ok()?))
}
