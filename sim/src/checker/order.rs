//! The order of records, and the ids of producers.

use std::collections::BTreeMap;

use super::index::{Batch, Index};
use super::{Rule, Violation};
use crate::history::{TopicPartition, Value};

pub fn check(index: &Index, found: &mut Vec<Violation>) {
    producers(index, found);
    real_time(index, found);
    let mut owners: BTreeMap<(i64, i16), u32> = BTreeMap::new();
    for (client, producer_id, epoch) in &index.producer_ids {
        let owner = owners.entry((*producer_id, *epoch)).or_insert(*client);
        if owner != client {
            let what = format!("clients {owner} and {client} have producer id {producer_id}, epoch {epoch}");
            found.push(Violation { rule: Rule::ProducerIdTwice, what });
        }
    }
}

/// What an idempotent producer has sent one after the other lies one after the other.
fn producers(index: &Index, found: &mut Vec<Violation>) {
    let ordered: std::collections::BTreeSet<u32> =
        index.batches.iter().filter(|batch| batch.idempotent).map(|batch| batch.client).collect();
    for (at, last) in &index.finals {
        let mut latest: BTreeMap<u32, Value> = BTreeMap::new();
        for (offset, value) in last.records.iter().filter(|(_, value)| ordered.contains(&value.client)) {
            if let Some(before) = latest.insert(value.client, *value)
                && before.number > value.number
            {
                let what = format!("{at}: {value} at {offset} comes after {before}");
                found.push(Violation { rule: Rule::OutOfOrder, what });
                return;
            }
        }
    }
}

/// A batch that was begun after another was acknowledged lies behind it.
fn real_time(index: &Index, found: &mut Vec<Violation>) {
    let mut by_partition: BTreeMap<&TopicPartition, Vec<(&Batch, i64)>> = BTreeMap::new();
    for batch in &index.batches {
        if let Some((_, base)) = batch.acknowledged_at() {
            by_partition.entry(&batch.at).or_default().push((batch, base));
        }
    }
    for (at, batches) in by_partition {
        let mut ended: Vec<_> = batches.iter().filter_map(|(b, _)| b.acknowledged_at()).collect();
        ended.sort_unstable();
        let mut begun = batches;
        begun.sort_by_key(|(batch, _)| batch.begun);
        let (mut next, mut highest) = (0, -1);
        for (batch, base) in begun {
            while let Some((_, base)) = ended.get(next).filter(|(ended, _)| *ended < batch.begun) {
                highest = highest.max(*base);
                next += 1;
            }
            if base < highest {
                let what = format!(
                    "{at}: {}:{} was begun after offset {highest} was acknowledged, and is at {base}",
                    batch.client, batch.first
                );
                found.push(Violation { rule: Rule::OutOfOrder, what });
                return;
            }
        }
    }
}
