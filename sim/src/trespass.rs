//! Looks at what is written to the metadata: groups and offsets are changed only by the broker that coordinates them at that moment, however
//! late a request arrives (ADR 0007).
//!
//! Clients see a write of a former coordinator hardly ever: the one that took over has the later commits in memory, and its next one
//! writes over it. So each transaction is looked at where it is carried out.

use kafscale_core::group::slot_of;
use kafscale_meta::records::{COORDINATOR_SLOTS, CoordinatorRecord, Keyspace, Record as _};
use kafscale_meta::{EmbeddedStore, MetaStore as _, Op, Txn};

use crate::meta::ready;
use crate::node::CLUSTER;

/// What a transaction of a broker changes that is another one's at this moment. Asked before it is carried out.
pub fn found(store: &EmbeddedStore, txn: &Txn, node: i32) -> Option<String> {
    let keys = Keyspace::new(CLUSTER).expect("the name is a name");
    txn.then.iter().find_map(|op| {
        let (Op::Put { key, .. } | Op::Delete { key }) = op else { return None };
        let group = keys.parse_group(key).or_else(|| Some(keys.parse_offset(key)?.group))?;
        let of_slot = keys.coordinator(slot_of(&group, COORDINATOR_SLOTS));
        let read = ready(store.get(&of_slot)).ok().flatten();
        let record = read.and_then(|kv| CoordinatorRecord::decode(&kv.key, &kv.value).ok());
        let owner = record.and_then(|record| record.slot.owner);
        (owner != Some(node)).then(|| format!("{key}, which is coordinated by {owner:?}"))
    })
}

#[cfg(test)]
mod tests {
    use kafscale_meta::records::PartitionAssignment;

    use super::*;

    #[tokio::test]
    async fn a_group_is_written_by_its_coordinator_and_nobody_else() {
        let store = EmbeddedStore::memory();
        let keys = Keyspace::new(CLUSTER).unwrap();
        let of = |group: &str| keys.coordinator(slot_of(group, COORDINATOR_SLOTS));
        let record = CoordinatorRecord { slot: PartitionAssignment::new(2, 7, 1) };
        let written = store.txn(Txn::new().and_then(Op::put(of("g"), record.encode()))).await.unwrap();
        assert!(written.succeeded);
        let offset = kafscale_meta::records::OffsetKey { group: "g".into(), topic: "t".into(), partition: 0 };
        for key in [keys.group("g"), keys.offset(&offset)] {
            let txn = Txn::new().and_then(Op::put(&key, "x"));
            assert_eq!(found(&store, &txn, 2), None);
            assert!(found(&store, &txn, 1).is_some_and(|what| what.contains(&key)));
        }
        let elsewhere = Txn::new().and_then(Op::put(keys.topic("t"), "x"));
        assert_eq!(found(&store, &elsewhere, 1), None);
    }
}
