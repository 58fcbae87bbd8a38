//! Damage of stored objects, and metadata that is not that of the store: what may be said to be damaged was damaged, and nothing comes
//! of metadata that does not belong.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Rule, Violation};
use crate::client::reader::CORRUPT;
use crate::history::{CallId, Entry, Event, TopicPartition, Value};
use crate::nemesis::THE_END;

/// A broker that has taken over the neighbours of a lost object looks for it every ten seconds, and
/// joins anew when it is there.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);

/// Where damage is.
#[derive(Default)]
struct Damaged<'a> {
    /// When all processes began anew, which look at everything.
    begun_anew: Option<Duration>,
    /// Of whom values are, by their client and first number: the number behind, and the partition.
    homes: BTreeMap<(u32, u64), (u64, TopicPartition)>,
    /// By object, as a record may be in two: since when it was mended.
    offsets: BTreeMap<(TopicPartition, i64), BTreeMap<&'a str, Option<Duration>>>,
}

impl<'a> Damaged<'a> {
    fn home(&self, value: Value) -> Option<&TopicPartition> {
        let batches = self.homes.range(..=(value.client, value.number));
        let (first, (end, at)) = batches.last()?;
        (first.0 == value.client && value.number < *end).then_some(at)
    }

    fn note(&mut self, object: &'a str, records: &[(i64, Value)], mended: Option<Duration>) {
        for (offset, value) in records {
            if let Some(at) = self.home(*value).cloned() {
                self.offsets.entry((at, *offset)).or_default().insert(object, mended);
            }
        }
    }

    /// Whether an offset was damaged at any time since then.
    fn is_damaged(&self, at: &TopicPartition, offset: i64, since: Duration) -> bool {
        let found = self.offsets.get(&(at.clone(), offset));
        let is_noticed = |object: &str, mended: Duration| {
            let patience = if object.starts_with("wal/") { NOTICED_WITHIN } else { Duration::ZERO };
            let begun_anew = self.begun_anew.filter(|begun| *begun >= mended);
            since > begun_anew.map_or(mended + patience, |begun| begun.min(mended + patience))
        };
        let is_left = |(object, mended): (&&str, &Option<Duration>)| {
            mended.is_none_or(|mended| !is_noticed(object, mended))
        };
        found.is_some_and(|by| by.iter().any(is_left))
    }
}

pub fn check(entries: &[Entry], found: &mut Vec<Violation>) {
    let mut damaged = Damaged::default();
    let mut fetches: BTreeMap<CallId, (&TopicPartition, i64, Duration)> = BTreeMap::new();
    for entry in entries {
        let mut add = |rule, what: String| found.push(Violation { rule, what });
        match &entry.event {
            Event::Produce { client, at, first, count, .. } => {
                damaged.homes.insert((*client, *first), (first + u64::from(*count), at.clone()));
            }
            Event::Damaged { object, records } => damaged.note(object, records, None),
            Event::Mended { object, records } => damaged.note(object, records, Some(entry.at)),
            Event::NodeCrashed { at, .. } if at == THE_END => damaged.begun_anew = Some(entry.at),
            Event::Fetch { call, at, offset, .. } => {
                fetches.insert(*call, (at, *offset, entry.at));
            }
            Event::FetchFailed { call, code: CORRUPT } => {
                let (at, offset, begun) = fetches[call];
                if !damaged.is_damaged(at, offset, begun) {
                    add(
                        Rule::HealthyBatchHidden,
                        format!("{at}: offset {offset} is said to be damaged, {entry}"),
                    );
                }
            }
            Event::Garbled { call, why } => {
                let (at, offset, _) = fetches[call];
                add(Rule::Garbled, format!("{at}: a fetch at {offset} brought {why}, {entry}"));
            }
            Event::Foreign { .. } => add(Rule::ForeignMetadata, format!("{entry}")),
            Event::NodeGaveUp { .. } => add(Rule::GaveUp, format!("{entry}")),
            _ => {}
        }
    }
}
