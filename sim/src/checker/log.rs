//! What partitions hold: nothing lost, no offset with two values, no gap, nothing old, nothing foreign.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::index::{Batch, Deletion, Final, Index, Read};
use super::{Rule, STALE_READ_MAX, Violation};
use crate::history::{TopicPartition, Value};
use crate::world::wall_ms;

/// What is known of one partition.
#[derive(Default)]
struct Part<'a> {
    batches: Vec<&'a Batch>,
    reads: Vec<&'a Read>,
    last: Option<&'a Final>,
    deletions: Vec<&'a Deletion>,
    retention_ms: Option<i64>,
}

pub fn check(index: &Index, found: &mut Vec<Violation>) {
    let mut parts: BTreeMap<&TopicPartition, Part<'_>> = BTreeMap::new();
    for batch in &index.batches {
        parts.entry(&batch.at).or_default().batches.push(batch);
    }
    for read in &index.reads {
        parts.entry(&read.at).or_default().reads.push(read);
    }
    for deletion in &index.deletions {
        parts.entry(&deletion.at).or_default().deletions.push(deletion);
    }
    for (at, last) in &index.finals {
        parts.entry(at).or_default().last = Some(last);
    }
    for (at, part) in &mut parts {
        part.retention_ms = index.retention_ms.get(&at.topic).copied();
        let mut add = |rule, what: String| found.push(Violation { rule, what: format!("{at}: {what}") });
        values(part, &mut add);
        gaps(part, &mut add);
        if let Some(last) = part.last {
            losses(part, last, &index.damaged, &mut add);
            disappearances(part, last, &mut add);
        }
        staleness(part, &index.damaged, &mut add);
        deletions(part, &mut add);
    }
    foreign(index, found);
    for (at, value) in &index.resurrected {
        let what = format!("{at}: {value} was in the topic before it was deleted and made again");
        found.push(Violation { rule: Rule::DeletedRecordBack, what });
    }
}

/// Every value that is known to be, or to have been, at an offset.
fn sightings<'a>(part: &Part<'a>) -> impl Iterator<Item = (i64, Value, &'static str)> + use<'a> {
    let acknowledged: Vec<_> = part
        .batches
        .iter()
        .filter_map(|batch| batch.acknowledged_at().map(|(_, base)| (*batch, base)))
        .flat_map(|(batch, base)| batch.values().enumerate().map(move |(i, value)| (base + i as i64, value)))
        .map(|(offset, value)| (offset, value, "acknowledged"))
        .collect();
    let reads: Vec<_> = part.reads.iter().flat_map(|read| &read.records).collect();
    let last: Vec<_> = part.last.iter().flat_map(|last| &last.records).collect();
    acknowledged
        .into_iter()
        .chain(reads.into_iter().map(|(offset, value)| (*offset, *value, "read")))
        .chain(last.into_iter().map(|(offset, value)| (*offset, *value, "there at the end")))
}

fn values(part: &Part<'_>, add: &mut impl FnMut(Rule, String)) {
    let mut by_offset: BTreeMap<i64, (Value, &str)> = BTreeMap::new();
    let mut by_value: BTreeMap<Value, (i64, &str)> = BTreeMap::new();
    for (offset, value, how) in sightings(part) {
        let (first, first_how) = by_offset.entry(offset).or_insert((value, how));
        if *first != value {
            let what = format!("offset {offset} is {first} ({first_how}) and {value} ({how})");
            return add(Rule::OffsetWithTwoValues, what);
        }
        let (first, first_how) = by_value.entry(value).or_insert((offset, how));
        if *first != offset {
            let what = format!("{value} is at {first} ({first_how}) and at {offset} ({how})");
            return add(Rule::ValueTwice, what);
        }
    }
}

fn gaps(part: &Part<'_>, add: &mut impl FnMut(Rule, String)) {
    for read in &part.reads {
        let Some((first, _)) = read.records.first() else { continue };
        let (last, _) = read.records.last().expect("there is a first one");
        let rows = read.records.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1);
        if *first != read.offset || !rows {
            let what = format!("a fetch at {} brought {first} to {last}, with others left out", read.offset);
            return add(Rule::Gap, what);
        }
        if *last >= read.high_watermark {
            let what = format!("a fetch brought {last}, above the end {}", read.high_watermark);
            return add(Rule::Gap, what);
        }
    }
    if let Some(last) = part.last
        && let Some((offset, _)) =
            last.offsets().into_iter().zip(last.log_start..).find(|(offset, expected)| offset != expected)
    {
        add(Rule::Gap, format!("at the end something is missing before {offset}"));
    }
}

fn losses(part: &Part<'_>, last: &Final, damaged: &BTreeMap<Value, i64>, add: &mut impl FnMut(Rule, String)) {
    let mut there: BTreeSet<Value> = last.records.iter().map(|(_, value)| *value).collect();
    // What is damaged is there as long as that is said where it was.
    let is_told = |offset: &i64| last.damaged.binary_search(offset).is_ok();
    there.extend(damaged.iter().filter(|(_, offset)| is_told(offset)).map(|(value, _)| *value));
    let end = last.log_start + last.offsets().len() as i64;
    for batch in part.batches.iter().filter(|batch| batch.is_acknowledged()) {
        let base = batch.acknowledged_at().map(|(_, base)| base);
        for (i, value) in batch.values().enumerate() {
            let offset = base.map(|base| base + i as i64);
            // Without an offset it may have been deleted.
            let may_be_gone = offset.map_or(last.log_start > 0, |offset| offset < last.log_start);
            if !may_be_gone && !there.contains(&value) {
                let begun = batch.begun.as_millis();
                let what = format!(
                    "{value}, begun at {begun} ms and acknowledged at offset {offset:?}, is not among {} to {end}",
                    last.log_start
                );
                return add(Rule::AcknowledgedRecordLost, what);
            }
        }
    }
    for read in &part.reads {
        for (offset, value) in &read.records {
            if *offset >= last.log_start && !there.contains(value) {
                let what =
                    format!("{value} was read at {offset}, and is not among {} to {end}", last.log_start);
                return add(Rule::ReadRecordLost, what);
            }
        }
    }
}

/// Whether the log begins where it does for a reason.
fn disappearances(part: &Part<'_>, last: &Final, add: &mut impl FnMut(Rule, String)) {
    let allowed = part.deletions.iter().map(|deletion| deletion.before).max().unwrap_or(0);
    if last.log_start <= allowed {
        return;
    }
    let Some(retention_ms) = part.retention_ms else {
        let what = format!("the log begins at {}, but only {allowed} may be deleted", last.log_start);
        return add(Rule::RecordsGone, what);
    };
    // Clocks of brokers may be a second fast.
    let expired_before_ms = wall_ms(last.ended) - retention_ms + 1500;
    let young = part.batches.iter().find(|batch| {
        batch.acknowledged_at().is_some_and(|(_, base)| base >= allowed && base < last.log_start)
            && wall_ms(batch.begun) > expired_before_ms
    });
    if let Some(batch) = young {
        let what = format!("{}:{} was deleted before its time", batch.client, batch.first);
        add(Rule::RecordsGone, what);
    }
}

fn staleness(part: &Part<'_>, damaged: &BTreeMap<Value, i64>, add: &mut impl FnMut(Rule, String)) {
    // Where the last records of a partition are in an object that is lost, nothing shows that the
    // log has them.
    let is_sound = |batch: &&&Batch| !batch.values().any(|value| damaged.contains_key(&value));
    let mut acknowledged: Vec<(Duration, i64)> = part
        .batches
        .iter()
        .filter(is_sound)
        .filter_map(|b| b.acknowledged_at().map(|(ended, base)| (ended, base + i64::from(b.count))))
        .collect();
    acknowledged.sort_unstable();
    let mut reads = part.reads.clone();
    reads.sort_by_key(|read| read.begun);
    let (mut next, mut end) = (0, 0);
    for read in reads {
        while let Some((ended, upto)) = acknowledged.get(next).filter(|a| a.0 + STALE_READ_MAX < read.begun) {
            debug_assert!(*ended <= read.begun);
            end = end.max(*upto);
            next += 1;
        }
        if read.high_watermark < end {
            let what = format!(
                "a read that began at {} ms ends at {}, although {end} was acknowledged long before",
                read.begun.as_millis(),
                read.high_watermark
            );
            return add(Rule::StaleRead, what);
        }
    }
}

fn deletions(part: &Part<'_>, add: &mut impl FnMut(Rule, String)) {
    for deletion in &part.deletions {
        let Some((ended, log_start)) = deletion.ended else { continue };
        if log_start < deletion.before {
            let what = format!("records before {} were deleted up to {log_start} only", deletion.before);
            return add(Rule::DeletedRecordBack, what);
        }
        let later = part.reads.iter().filter(|read| read.begun > ended + STALE_READ_MAX);
        let mut starts = later.filter_map(|read| read.log_start).chain(part.last.map(|last| last.log_start));
        if let Some(start) = starts.find(|start| *start < log_start) {
            let what =
                format!("records before {log_start} were deleted, and the log begins at {start} again");
            return add(Rule::DeletedRecordBack, what);
        }
    }
}

/// Values where nobody wrote them.
fn foreign(index: &Index, found: &mut Vec<Violation>) {
    let mut homes: BTreeMap<Value, &TopicPartition> = BTreeMap::new();
    for batch in &index.batches {
        homes.extend(batch.values().map(|value| (value, &batch.at)));
    }
    for read in &index.reads {
        let stray =
            read.records.iter().find(|(_, value)| homes.get(value).is_some_and(|home| **home != read.at));
        if let Some((offset, value)) = stray {
            let home = homes[value];
            // A life of a topic that comes and goes is told by its time, not surely.
            if home.topic.contains('#') {
                continue;
            }
            let what = format!("{value} was written to {home}, and read from {} at {offset}", read.at);
            found.push(Violation { rule: Rule::ForeignRecord, what });
            return;
        }
    }
}
