//! What changed in the cluster, written down for people and agents who ask: topics, configs, brokers, leaders, groups. And which brokers are
//! gone without a planned stop, with what they led.
//!
//! The controller follows the records that tell of changes, compares each with what was there [`before`], gathers for a moment, and writes.
//! Of what happens while there is no controller the history has brokers that are missing or were started, how those ended before, and
//! topics that are new.
//!
//! Invariant: the history is bounded in entries, age and the length of each entry; a burst of changes of one kind is one entry, and where
//! there is no room the kind makes way of which there is most.
//! Invariant: nothing else waits for this, or goes by it. What cannot be written is tried again, and then left out.

mod before;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use kafscale_core::clock::Clock;
use kafscale_core::placement::Incarnation;
use kafscale_core::utc;
use kafscale_meta::records::{
    BrokerRecord, HistoryEntry, HistoryKind, HistoryRecord, MemberRecord, PreviousRecord,
};
use kafscale_meta::{Event, Metadata, Office, Result, Versioned, Watch};
use tokio::time::{Instant, sleep, sleep_until};

use self::before::{Before, Led, scope_name};

/// Changes are gathered for this long before they are written.
const GATHER: Duration = Duration::from_secs(1);
const ENTRIES_MAX: usize = 200;
const AGE_MAX_MS: i64 = 24 * 3600 * 1000;
/// More changes of one kind that come together are one entry.
const SINGLE_MAX: usize = 5;
const DETAIL_MAX_CHARS: usize = 200;
/// Who left, or vanished, so long ago is forgotten.
const MEMBERS_AGE_MAX_MS: i64 = 7 * 24 * 3600 * 1000;
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// See the file's comment.
#[derive(Debug)]
pub struct History<'a> {
    metadata: &'a Metadata,
    office: Office,
    own: Incarnation,
    clock: &'a dyn Clock,
    /// An entry of this term's beginning is written.
    began: bool,
}

/// A change that is not written yet.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    /// None: now.
    at_ms: Option<i64>,
    kind: HistoryKind,
    name: String,
    count: u64,
    detail: String,
}

struct Watches {
    topics: Box<dyn Watch>,
    assignments: Box<dyn Watch>,
    configs: Box<dyn Watch>,
    groups: Box<dyn Watch>,
    brokers: Box<dyn Watch>,
}

impl<'a> History<'a> {
    pub fn new(metadata: &'a Metadata, office: Office, own: Incarnation, clock: &'a dyn Clock) -> Self {
        Self { metadata, office, own, clock, began: false }
    }

    /// Follows and writes for as long as the term lasts.
    pub async fn keep(mut self) -> Infallible {
        loop {
            let Err(error) = self.follow().await;
            tracing::debug!(%error, "the history of changes was interrupted; going on from now");
            sleep(RETRY_INTERVAL).await;
        }
    }

    async fn follow(&mut self) -> Result<Infallible> {
        let (mut before, mut watches) = self.begin().await?;
        let (mut changes, mut led) = (Vec::new(), Led::new());
        changes.extend(self.since_the_last_entry(&before).await?);
        // Once at the beginning: who is missing may have vanished while there was no controller.
        let mut due = Some(Instant::now() + GATHER);
        loop {
            let had = changes.len();
            tokio::select! {
                batch = watches.brokers.next() => for event in batch?.events {
                    changes.extend(self.broker(&mut before, &event).await?);
                },
                batch = watches.topics.next() => for event in batch?.events {
                    let name = self.metadata.keys().parse_topic(event.key());
                    changes.extend(name.map(|name| before.topic(name, &event)).transpose()?.into_iter().flatten());
                },
                batch = watches.assignments.next() => for event in batch?.events {
                    let topic = self.metadata.keys().parse_assignment(event.key());
                    changes.extend(topic.map(|id| before.assignment(id, &event, &mut led)).transpose()?.into_iter().flatten());
                },
                batch = watches.configs.next() => for event in batch?.events {
                    let scope = self.metadata.keys().parse_broker_config(event.key());
                    changes.extend(scope.map(|scope| before.config(scope, &event)).transpose()?.flatten());
                },
                batch = watches.groups.next() => for event in batch?.events {
                    let group = self.metadata.keys().parse_group(event.key());
                    changes.extend(group.map(|group| before.group(group, &event)).transpose()?.flatten());
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    changes.extend(before.let_go());
                    changes.extend(self.remember_the_lost(&mut before, &mut led).await?);
                    self.write(std::mem::take(&mut changes)).await?;
                }
            }
            if due.is_none() && (changes.len() > had || before.has_let_go()) {
                due = Some(Instant::now() + GATHER);
            }
        }
    }

    /// Lists everything, and watches from there on.
    async fn begin(&self) -> Result<(Before, Watches)> {
        let (metadata, keys) = (self.metadata, self.metadata.keys());
        let watch = async |prefix: &str, from: kafscale_meta::Revision| {
            metadata.store().watch(prefix, from.next()).await
        };
        let mut before = Before::default();
        let listed = metadata.list_brokers().await?;
        let brokers = watch(&keys.brokers_prefix(), listed.revision).await?;
        before.brokers = listed.items.into_iter().map(|(id, read)| (id, read.record.epoch)).collect();
        let listed = metadata.list_topics().await?;
        let topics = watch(&keys.topics_prefix(), listed.revision).await?;
        for (name, read) in listed.items {
            before.names.insert(read.record.topic_id, name.clone());
            before.topics.insert(name, read.record);
        }
        let listed = metadata.list_assignments().await?;
        let assignments = watch(&keys.assignments_prefix(), listed.revision).await?;
        before.owners =
            listed.items.into_iter().map(|(id, read)| (id, before::owners(&read.record))).collect();
        let listed = metadata.list_broker_configs().await?;
        let configs = watch(&keys.broker_configs_prefix(), listed.revision).await?;
        before.configs =
            listed.items.into_iter().map(|(scope, read)| (scope_name(scope), read.record.configs)).collect();
        // What groups there are is not asked: there may be many, and only who has no member any more is told.
        let groups = watch(&keys.groups_prefix(), listed.revision).await?;
        Ok((before, Watches { topics, assignments, configs, groups, brokers }))
    }

    /// That this broker is the controller now, and what can be told of the time when nobody wrote.
    async fn since_the_last_entry(&mut self, before: &Before) -> Result<Vec<Change>> {
        let entries = self.metadata.load_history().await?.map(|history| history.record.entries);
        let entries = entries.unwrap_or_default();
        let last_ms = entries.iter().map(|entry| entry.at_ms).max();
        let is_new = |at_ms: i64| last_ms.is_none_or(|last_ms| at_ms > last_ms);
        let mut changes = Vec::new();
        for (node_id, read) in self.metadata.list_members().await?.items {
            let member = read.record;
            if before.brokers.get(&node_id) != Some(&member.epoch) || !is_new(member.started_ms) {
                continue;
            }
            if let Some(previous) = &member.previous {
                // At the very time at which it was started it is told how the one before ended.
                let is_told =
                    entries.iter().any(|entry| ends(entry, node_id) && entry.at_ms > previous.started_ms);
                changes.extend(unseen_end(node_id, previous, member.started_ms).filter(|_| !is_told));
            }
            changes.push(started(node_id, &member).at(member.started_ms));
        }
        let new = before.topics.iter().filter(|(_, topic)| last_ms.is_some() && is_new(topic.created_ms));
        changes.extend(new.map(|(name, topic)| before::created(name, topic).at(topic.created_ms)));
        if !std::mem::replace(&mut self.began, true) {
            changes.push(Change::new(HistoryKind::ControllerElected, broker(self.own.node_id.0), ""));
        }
        Ok(changes)
    }

    async fn broker(&self, before: &mut Before, event: &Event) -> Result<Vec<Change>> {
        let Some(node_id) = self.metadata.keys().parse_broker(event.key()) else { return Ok(Vec::new()) };
        let member = self.metadata.load::<MemberRecord>(&self.metadata.keys().member(node_id)).await?;
        let member = member.map(|member| member.record);
        match event {
            Event::Put(kv) => {
                let registered = Versioned::<BrokerRecord>::decode(kv)?.record;
                let seen = before.brokers.insert(node_id, registered.epoch);
                let mut changes = Vec::new();
                let member = member.filter(|member| member.epoch == registered.epoch).unwrap_or_else(|| {
                    MemberRecord {
                        host: registered.host,
                        port: registered.port,
                        version: Some(registered.version),
                        ..MemberRecord::default()
                    }
                });
                if let (Some(_), Some(previous)) = (seen, &member.previous) {
                    changes.extend(unseen_end(node_id, previous, member.started_ms));
                }
                changes.push(started(node_id, &member));
                Ok(changes)
            }
            Event::Delete { .. } => {
                let epoch = before.brokers.remove(&node_id);
                // One that is not the same any more has been there again already, and knows of the one before it.
                let ended = member.map(|member| match Some(member.epoch) == epoch {
                    true => (member.left_ms, member.alive_ms),
                    false => {
                        member.previous.map_or((None, None), |previous| (previous.left_ms, previous.alive_ms))
                    }
                });
                let (left_ms, alive_ms) = ended.unwrap_or_default();
                if left_ms.is_some() {
                    return Ok(vec![Change::new(HistoryKind::BrokerStopped, broker(node_id), "as planned")]);
                }
                before.vanished.extend(epoch.map(|epoch| (node_id, epoch)));
                Ok(vec![vanished(node_id, alive_ms)])
            }
        }
    }

    /// Writes down what those led who are gone without leaving, and forgets who has been gone for long. Gives those who vanished unseen:
    /// while there was no controller, or together with the one that there was.
    async fn remember_the_lost(&self, before: &mut Before, led: &mut Led) -> Result<Vec<Change>> {
        let (now_ms, mut unseen) = (self.clock.now_ms(), Vec::new());
        for (node_id, read) in self.metadata.list_members().await?.items {
            let member = &read.record;
            if before.brokers.get(&node_id) == Some(&member.epoch) {
                continue;
            }
            let gone_ms = member.left_ms.or(member.lost.as_ref().map(|lost| lost.at_ms));
            if gone_ms.is_some_and(|gone| now_ms - gone > MEMBERS_AGE_MAX_MS) {
                self.metadata.swap_member(self.office, node_id, read.mod_revision, None).await?;
                continue;
            }
            if gone_ms.is_some() || before.brokers.contains_key(&node_id) {
                continue;
            }
            // What it still has and what it had until a moment ago. The first is given away later, and is not counted again then.
            let mut lost = before.led_by(node_id, member.epoch, now_ms);
            if let Some((partitions, topic)) = led.remove(&(node_id, member.epoch)) {
                lost.partitions += partitions;
                lost.topic = lost.topic.or(topic);
            }
            if before.vanished.insert((node_id, member.epoch)) {
                unseen.push(vanished(node_id, member.alive_ms));
            }
            let record = MemberRecord { lost: Some(lost), ..member.clone() };
            self.metadata.swap_member(self.office, node_id, read.mod_revision, Some(&record)).await?;
        }
        // That a broker is gone may come in later than what became of its partitions.
        led.retain(|(node_id, epoch), _| before.brokers.get(node_id) == Some(epoch));
        before.vanished.clear();
        Ok(unseen)
    }

    async fn write(&self, changes: Vec<Change>) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let now_ms = self.clock.now_ms();
        let history = self.metadata.load_history().await?;
        let expected = history.as_ref().map(|history| history.mod_revision);
        let mut record = history.map(|history| history.record).unwrap_or_default();
        record.entries.extend(gathered(changes).into_iter().map(|change| change.entry(now_ms)));
        bound(&mut record, now_ms);
        // Not written: another one is the controller by now, and tells for itself.
        let _ = self.metadata.swap_history(self.office, expected, &record).await?;
        Ok(())
    }
}

impl Change {
    fn new(kind: HistoryKind, name: impl Into<String>, detail: &str) -> Self {
        let detail = detail.chars().take(DETAIL_MAX_CHARS).collect();
        Self { at_ms: None, kind, name: name.into(), count: 1, detail }
    }

    /// When it was, where that is known.
    fn at(self, at_ms: i64) -> Self {
        Self { at_ms: Some(at_ms), ..self }
    }

    /// Clocks differ: nothing is told of the future.
    fn entry(self, now_ms: i64) -> HistoryEntry {
        let Self { at_ms, kind, name, count, detail } = self;
        HistoryEntry { at_ms: at_ms.map_or(now_ms, |at_ms| at_ms.min(now_ms)), kind, name, count, detail }
    }
}

/// Many changes of one kind become one, which names the first.
fn gathered(changes: Vec<Change>) -> Vec<Change> {
    let mut of_kind: BTreeMap<HistoryKind, usize> = BTreeMap::new();
    for change in &changes {
        *of_kind.entry(change.kind).or_default() += 1;
    }
    let mut gathered: Vec<Change> = Vec::new();
    for change in changes {
        let many = of_kind[&change.kind] > SINGLE_MAX;
        match gathered.iter_mut().find(|first| many && first.kind == change.kind) {
            Some(first) => {
                first.count += change.count;
                if first.detail != change.detail {
                    "and others".clone_into(&mut first.detail);
                }
            }
            None => gathered.push(change),
        }
    }
    gathered
}

/// In the order of time, without what is old or finds no room. The oldest of the kind of which there is most goes first: what happens all
/// the time does not hide what happened once.
fn bound(record: &mut HistoryRecord, now_ms: i64) {
    let is_young = |at_ms: i64| now_ms - at_ms <= AGE_MAX_MS;
    record.entries.retain(|entry| is_young(entry.at_ms));
    record.entries.sort_by_key(|entry| entry.at_ms);
    record.left_out_ms = record.left_out_ms.filter(|at_ms| is_young(*at_ms));
    while record.entries.len() > ENTRIES_MAX {
        let mut of_kind: BTreeMap<HistoryKind, usize> = BTreeMap::new();
        record.entries.iter().for_each(|entry| *of_kind.entry(entry.kind).or_default() += 1);
        let most = of_kind.into_iter().max_by_key(|(_, count)| *count).map(|(kind, _)| kind);
        let at = record.entries.iter().position(|entry| Some(entry.kind) == most).unwrap_or(0);
        let left_out = record.entries.remove(at);
        record.left_out_ms = record.left_out_ms.max(Some(left_out.at_ms));
    }
}

fn broker(node_id: i32) -> String {
    format!("broker {node_id}")
}

fn vanished(node_id: i32, alive_ms: Option<i64>) -> Change {
    let known = alive_ms.map(|at_ms| format!("; last known to live at {}", utc::seconds(at_ms)));
    let detail = format!("without a planned stop{}", known.unwrap_or_default());
    Change::new(HistoryKind::BrokerVanished, broker(node_id), &detail)
}

/// Whether an entry tells that a broker ended.
fn ends(entry: &HistoryEntry, node_id: i32) -> bool {
    matches!(entry.kind, HistoryKind::BrokerStopped | HistoryKind::BrokerVanished)
        && entry.name == broker(node_id)
}

/// How a broker ended that nobody saw end, and that is back. None: the controller saw it.
fn unseen_end(node_id: i32, previous: &PreviousRecord, back_ms: i64) -> Option<Change> {
    if let Some(left_ms) = previous.left_ms {
        return Some(Change::new(HistoryKind::BrokerStopped, broker(node_id), "as planned").at(left_ms));
    }
    let lived_ms = previous.alive_ms.unwrap_or(previous.started_ms);
    let change = vanished(node_id, Some(lived_ms));
    let detail = format!("{}; back since {}", change.detail, utc::seconds(back_ms));
    previous.lost_ms.is_none().then(|| Change { detail, ..change }.at(back_ms))
}

/// With the release before this one, if it was another.
fn started(node_id: i32, member: &MemberRecord) -> Change {
    let version = member.version.as_deref().unwrap_or("unknown");
    let before = member.previous.as_ref().and_then(|previous| previous.version.as_deref());
    let before =
        before.filter(|before| *before != version).map(|before| format!(", before: release {before}"));
    let detail =
        format!("at {}:{}, release {version}{}", member.host, member.port, before.unwrap_or_default());
    Change::new(HistoryKind::BrokerStarted, broker(node_id), &detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_one_kind_is_one_entry() {
        let many = (0..1000).map(|i| Change::new(HistoryKind::TopicCreated, format!("t{i}"), "3 partitions"));
        let changes = many.chain([Change::new(HistoryKind::TopicDeleted, "old", "1 partitions")]).collect();
        let gathered = gathered(changes);
        assert_eq!(gathered.len(), 2);
        assert_eq!((gathered[0].name.as_str(), gathered[0].count), ("t0", 1000));
        assert_eq!((gathered[1].name.as_str(), gathered[1].count), ("old", 1));
    }

    #[test]
    fn what_happens_all_the_time_does_not_hide_what_happened_once() {
        let entry = |at_ms: i64, kind| Change::new(kind, "x", "").entry(at_ms);
        let often = (0..ENTRIES_MAX as i64 + 50).map(|at_ms| entry(at_ms, HistoryKind::TopicConfig));
        let mut entries: Vec<HistoryEntry> = often.collect();
        entries.push(entry(0, HistoryKind::BrokerVanished));
        let mut record = HistoryRecord { entries, left_out_ms: Some(-2 * AGE_MAX_MS) };
        bound(&mut record, 1_000);
        assert_eq!(record.entries.len(), ENTRIES_MAX);
        assert_eq!(record.entries[0].kind, HistoryKind::BrokerVanished);
        // 51 had to go, and the first that is there is the one after them.
        assert_eq!((record.left_out_ms, record.entries[1].at_ms), (Some(50), 51));
    }
}
