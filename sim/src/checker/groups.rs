//! Groups: a partition belongs to one member of a generation, an old generation commits nothing, and its members hear that it is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Rule, Violation};
use crate::history::{CallId, Entry, Event, TopicPartition};

pub fn check(entries: &[Entry], found: &mut Vec<Violation>) {
    generations(entries, found);
    heartbeats(entries, found);
}

fn generations(entries: &[Entry], found: &mut Vec<Violation>) {
    let mut owners: BTreeMap<(&Arc<str>, i32, &TopicPartition), u32> = BTreeMap::new();
    // The highest generation of which a member has heard, and when it was first heard of.
    let mut newest: BTreeMap<&Arc<str>, (i32, Duration)> = BTreeMap::new();
    let mut open: BTreeMap<CallId, (&Arc<str>, i32, i32, u32)> = BTreeMap::new();
    for Entry { at: now, event } in entries {
        match event {
            Event::Assigned { client, group, generation, partitions } => {
                for partition in partitions {
                    let owner = owners.entry((group, *generation, partition)).or_insert(*client);
                    if owner != client {
                        let what = format!(
                            "{group}: clients {owner} and {client} both have {partition} in generation {generation}"
                        );
                        found.push(Violation { rule: Rule::PartitionOfTwoMembers, what });
                        return;
                    }
                }
                let known = newest.entry(group).or_insert((*generation, *now));
                if *generation > known.0 {
                    *known = (*generation, *now);
                }
            }
            Event::Commit { call, client, group, generation, .. } => {
                let newest_then = newest.get(group).map_or(*generation, |(generation, _)| *generation);
                open.insert(*call, (group, *generation, newest_then, *client));
            }
            Event::CommitEnded { call, code: Some(0) } => {
                let Some((group, generation, newest_then, client)) = open.get(call) else { continue };
                if generation < newest_then {
                    let what = format!(
                        "{group}: client {client} committed in generation {generation} after {newest_then} had begun"
                    );
                    found.push(Violation { rule: Rule::OldGenerationCommitted, what });
                    return;
                }
            }
            _ => {}
        }
    }
}

/// A heartbeat that was begun when a member of a newer generation had its assignment must not succeed. (One that was only joined may be
/// forgotten with its coordinator.)
fn heartbeats(entries: &[Entry], found: &mut Vec<Violation>) {
    let mut newest: BTreeMap<&Arc<str>, i32> = BTreeMap::new();
    let mut open: BTreeMap<CallId, (&Arc<str>, i32, i32)> = BTreeMap::new();
    for entry in entries {
        match &entry.event {
            Event::Assigned { group, generation, .. } => {
                let known = newest.entry(group).or_insert(*generation);
                *known = (*known).max(*generation);
            }
            Event::Heartbeat { call, group, generation } => {
                let known = newest.get(group).copied().unwrap_or(*generation);
                open.insert(*call, (group, *generation, known));
            }
            Event::HeartbeatEnded { call, code: 0 } => {
                let Some((group, generation, known)) = open.get(call) else { continue };
                if generation < known {
                    let what = format!(
                        "{group}: a member of generation {generation} was told that all is well after {known} had begun, {entry}"
                    );
                    found.push(Violation { rule: Rule::OldGenerationAlive, what });
                    return;
                }
            }
            _ => {}
        }
    }
}
