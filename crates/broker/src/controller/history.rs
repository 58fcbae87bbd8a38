//! What changed in the cluster, written down for people and agents who ask: topics, configs, brokers, leaders. And which brokers are gone
//! without a planned stop, with what they led.
//!
//! The controller follows the records that tell of changes, compares each with what was there before, gathers for a moment, and writes.
//! What happens while there is no controller is not in the history, but for brokers that are missing and topics that are new.
//!
//! Invariant: the history is bounded in entries, age and the length of each entry; a burst of changes of one kind is one entry.
//! Invariant: nothing else waits for this, or goes by it. What cannot be written is tried again, and then left out.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use kafscale_core::clock::Clock;
use kafscale_core::placement::Incarnation;
use kafscale_meta::records::{
    AssignmentRecord, BrokerConfigRecord, BrokerRecord, ConfigScope, HistoryEntry, HistoryKind,
    HistoryRecord, LostRecord, MemberRecord, TopicRecord,
};
use kafscale_meta::{Event, KeyValue, Metadata, Office, Result, Versioned, Watch};
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

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

/// The records of before, to compare with.
#[derive(Debug, Default)]
struct Before {
    topics: BTreeMap<String, TopicRecord>,
    names: BTreeMap<Uuid, String>,
    owners: BTreeMap<Uuid, Vec<Option<(i32, u64)>>>,
    configs: BTreeMap<String, BTreeMap<String, String>>,
    brokers: BTreeMap<i32, u64>,
    /// Incarnations of which it is told already that they vanished.
    vanished: BTreeSet<(i32, u64)>,
}

/// A change that is not written yet.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    kind: HistoryKind,
    name: String,
    count: u64,
    detail: String,
}

/// What a broker that is gone led when it was given away.
type Led = BTreeMap<(i32, u64), (u64, Option<String>)>;

struct Watches {
    topics: Box<dyn Watch>,
    assignments: Box<dyn Watch>,
    configs: Box<dyn Watch>,
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
        changes.extend(self.since_the_last_term(&before).await?);
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
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    changes.extend(self.remember_the_lost(&mut before, &mut led).await?);
                    self.write(std::mem::take(&mut changes)).await?;
                }
            }
            if due.is_none() && (changes.len() > had || !led.is_empty()) {
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
        before.owners = listed.items.into_iter().map(|(id, read)| (id, owners(&read.record))).collect();
        let listed = metadata.list_broker_configs().await?;
        let configs = watch(&keys.broker_configs_prefix(), listed.revision).await?;
        before.configs =
            listed.items.into_iter().map(|(scope, read)| (scope_name(scope), read.record.configs)).collect();
        Ok((before, Watches { topics, assignments, configs, brokers }))
    }

    /// That this broker is the controller now, and what can be told of the time before.
    async fn since_the_last_term(&mut self, before: &Before) -> Result<Vec<Change>> {
        if std::mem::replace(&mut self.began, true) {
            return Ok(Vec::new());
        }
        let elected =
            Change::new(HistoryKind::ControllerElected, format!("broker {}", self.own.node_id.0), "");
        let history = self.metadata.load_history().await?;
        let Some(last) = history.and_then(|history| history.record.entries.last().map(|entry| entry.at_ms))
        else {
            return Ok(vec![elected]);
        };
        let new = before.topics.iter().filter(|(_, topic)| topic.created_ms > last);
        let created = new.map(|(name, topic)| created(name, topic));
        Ok(created.chain([elected]).collect())
    }

    async fn broker(&self, before: &mut Before, event: &Event) -> Result<Option<Change>> {
        let Some(node_id) = self.metadata.keys().parse_broker(event.key()) else { return Ok(None) };
        let name = format!("broker {node_id}");
        Ok(match event {
            Event::Put(kv) => {
                let broker = Versioned::<BrokerRecord>::decode(kv)?.record;
                before.brokers.insert(node_id, broker.epoch);
                let detail = format!("at {}:{}, release {}", broker.host, broker.port, broker.version);
                Some(Change::new(HistoryKind::BrokerStarted, name, &detail))
            }
            Event::Delete { .. } => {
                let epoch = before.brokers.remove(&node_id);
                let member: Option<Versioned<MemberRecord>> =
                    self.metadata.load(&self.metadata.keys().member(node_id)).await?;
                // One that is not the same any more has been there again already.
                let member = member.filter(|member| Some(member.record.epoch) == epoch);
                Some(match member.map(|member| member.record.left_ms.is_some()) {
                    Some(true) => Change::new(HistoryKind::BrokerStopped, name, "as planned"),
                    Some(false) | None => {
                        before.vanished.extend(epoch.map(|epoch| (node_id, epoch)));
                        vanished(node_id)
                    }
                })
            }
        })
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
            if member.left_ms.is_some() || before.brokers.contains_key(&node_id) {
                continue;
            }
            let given_away = led.remove(&(node_id, member.epoch));
            if member.lost.is_some() && given_away.is_none() {
                continue;
            }
            let mut lost =
                member.lost.clone().unwrap_or_else(|| before.led_by(node_id, member.epoch, now_ms));
            if let Some((partitions, topic)) = given_away {
                lost.partitions += partitions;
                lost.topic = lost.topic.or(topic);
            }
            if member.lost.is_none() && before.vanished.insert((node_id, member.epoch)) {
                unseen.push(vanished(node_id));
            }
            let record = MemberRecord { lost: Some(lost), ..member.clone() };
            self.metadata.swap_member(self.office, node_id, read.mod_revision, Some(&record)).await?;
        }
        led.clear();
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
        let mut entries = history.map(|history| history.record.entries).unwrap_or_default();
        entries.extend(gathered(changes).into_iter().map(|change| change.entry(now_ms)));
        entries.retain(|entry| now_ms - entry.at_ms <= AGE_MAX_MS);
        let over = entries.len().saturating_sub(ENTRIES_MAX);
        entries.drain(..over);
        // Not written: another one is the controller by now, and tells for itself.
        let _ = self.metadata.swap_history(self.office, expected, &HistoryRecord { entries }).await?;
        Ok(())
    }
}

impl Before {
    fn topic(&mut self, name: String, event: &Event) -> Result<Vec<Change>> {
        let kv: &KeyValue = match event {
            Event::Put(kv) => kv,
            Event::Delete { .. } => {
                let Some(topic) = self.topics.remove(&name) else { return Ok(Vec::new()) };
                self.names.remove(&topic.topic_id);
                let detail = format!("{} partitions", topic.partitions);
                return Ok(vec![Change::new(HistoryKind::TopicDeleted, name, &detail)]);
            }
        };
        let topic = Versioned::<TopicRecord>::decode(kv)?.record;
        self.names.insert(topic.topic_id, name.clone());
        let then = self.topics.insert(name.clone(), topic.clone());
        let Some(then) = then.filter(|then| then.topic_id == topic.topic_id) else {
            return Ok(vec![created(&name, &topic)]);
        };
        let mut changes = Vec::new();
        if then.partitions != topic.partitions {
            let detail = format!("{} -> {}", then.partitions, topic.partitions);
            changes.push(Change::new(HistoryKind::PartitionsAdded, name.clone(), &detail));
        }
        if let Some(detail) = difference(&then.configs, &topic.configs) {
            changes.push(Change::new(HistoryKind::TopicConfig, name, &detail));
        }
        Ok(changes)
    }

    /// A change for each pair of brokers between which partitions of the topic moved. New partitions and those of a deleted topic do not
    /// count.
    fn assignment(&mut self, topic: Uuid, event: &Event, led: &mut Led) -> Result<Vec<Change>> {
        let now = match event {
            Event::Put(kv) => owners(&Versioned::<AssignmentRecord>::decode(kv)?.record),
            Event::Delete { .. } => {
                self.owners.remove(&topic);
                return Ok(Vec::new());
            }
        };
        let name = self.names.get(&topic).cloned();
        let mut moved: BTreeMap<(i32, Option<i32>), u64> = BTreeMap::new();
        let then = self.owners.insert(topic, now.clone()).unwrap_or_default();
        for (then, now) in then.iter().zip(&now).filter(|(then, now)| then != now) {
            let Some((from, epoch)) = *then else { continue };
            *moved.entry((from, now.map(|(to, _)| to))).or_default() += 1;
            if self.brokers.get(&from) != Some(&epoch) {
                let (partitions, of) = led.entry((from, epoch)).or_default();
                *partitions += 1;
                *of = of.take().or_else(|| name.clone());
            }
        }
        let name = name.unwrap_or_else(|| topic.to_string());
        let change = |((from, to), count): ((i32, Option<i32>), u64)| {
            let to = to.map_or_else(|| "nobody for the moment".to_owned(), |to| format!("broker {to}"));
            let detail = format!("from broker {from} to {to}");
            Change { count, ..Change::new(HistoryKind::LeadersMoved, name.clone(), &detail) }
        };
        Ok(moved.into_iter().map(change).collect())
    }

    fn config(&mut self, scope: ConfigScope, event: &Event) -> Result<Option<Change>> {
        let name = scope_name(scope);
        let now = match event {
            Event::Put(kv) => Versioned::<BrokerConfigRecord>::decode(kv)?.record.configs,
            Event::Delete { .. } => BTreeMap::new(),
        };
        let then = self.configs.insert(name.clone(), now.clone()).unwrap_or_default();
        let detail = difference(&then, &now);
        Ok(detail.map(|detail| Change::new(HistoryKind::BrokerConfig, name, &detail)))
    }

    /// What a broker that is gone still has to its name.
    fn led_by(&self, node_id: i32, epoch: u64, at_ms: i64) -> LostRecord {
        let mut lost = LostRecord { at_ms, partitions: 0, topic: None };
        for (topic, owners) in &self.owners {
            let of_it = owners.iter().filter(|owner| **owner == Some((node_id, epoch))).count() as u64;
            if of_it > 0 {
                lost.partitions += of_it;
                lost.topic = lost.topic.or_else(|| self.names.get(topic).cloned());
            }
        }
        lost
    }
}

impl Change {
    fn new(kind: HistoryKind, name: impl Into<String>, detail: &str) -> Self {
        Self { kind, name: name.into(), count: 1, detail: detail.chars().take(DETAIL_MAX_CHARS).collect() }
    }

    fn entry(self, at_ms: i64) -> HistoryEntry {
        let Self { kind, name, count, detail } = self;
        HistoryEntry { at_ms, kind, name, count, detail }
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

fn vanished(node_id: i32) -> Change {
    Change::new(HistoryKind::BrokerVanished, format!("broker {node_id}"), "without a planned stop")
}

fn created(name: &str, topic: &TopicRecord) -> Change {
    let configs: Vec<String> =
        topic.configs.iter().map(|(name, value)| format!(", {name}={value}")).collect();
    let detail = format!("{} partitions{}", topic.partitions, configs.concat());
    Change::new(HistoryKind::TopicCreated, name, &detail)
}

fn owners(assignment: &AssignmentRecord) -> Vec<Option<(i32, u64)>> {
    assignment.partitions.iter().map(|slot| Some((slot.owner?, slot.incarnation))).collect()
}

fn scope_name(scope: ConfigScope) -> String {
    match scope {
        ConfigScope::Default => "all brokers".to_owned(),
        ConfigScope::Broker(node_id) => format!("broker {node_id}"),
    }
}

/// `name: value -> value` of each config that differs.
fn difference(then: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Option<String> {
    let names: BTreeSet<&String> = then.keys().chain(now.keys()).collect();
    let value = |of: &BTreeMap<String, String>, name: &String| {
        of.get(name).map_or("default".to_owned(), Clone::clone)
    };
    let changed = names.into_iter().filter(|name| then.get(*name) != now.get(*name));
    let changed: Vec<String> =
        changed.map(|name| format!("{name}: {} -> {}", value(then, name), value(now, name))).collect();
    (!changed.is_empty()).then(|| changed.join(", "))
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
    fn what_differs_is_told() {
        let configs = |list: &[(&str, &str)]| {
            list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let then = configs(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let now = configs(&[("a", "1"), ("b", "5"), ("d", "4")]);
        let text = "b: 2 -> 5, c: 3 -> default, d: default -> 4";
        assert_eq!(difference(&then, &now).as_deref(), Some(text));
        assert_eq!(difference(&then, &then), None);
        assert!(Change::new(HistoryKind::TopicConfig, "t", &"ü".repeat(500)).detail.chars().count() == 200);
    }
}
