//! The records as they were, and what a change of one of them comes to.

use std::collections::{BTreeMap, BTreeSet};

use kafscale_meta::records::{
    AssignmentRecord, BrokerConfigRecord, ConfigScope, GroupRecord, HistoryKind, LostRecord, TopicRecord,
};
use kafscale_meta::{Event, KeyValue, Result, Versioned};
use uuid::Uuid;

use super::Change;

/// A group without members takes less, whatever its name.
const EMPTY_GROUP_MAX_BYTES: usize = 4 << 10;

/// What incarnations that are gone led when it was given away: how many partitions, and a topic of those.
pub type Led = BTreeMap<(i32, u64), (u64, Option<String>)>;

/// The records of before, to compare with.
#[derive(Debug, Default)]
pub struct Before {
    pub topics: BTreeMap<String, TopicRecord>,
    pub names: BTreeMap<Uuid, String>,
    pub owners: BTreeMap<Uuid, Vec<Option<(i32, u64)>>>,
    pub configs: BTreeMap<String, BTreeMap<String, String>>,
    pub brokers: BTreeMap<i32, u64>,
    /// Partitions that were let go by these brokers a moment ago, or longer.
    released: BTreeMap<(Uuid, usize), (i32, bool)>,
    /// Groups that are known to have no members.
    emptied: BTreeSet<String>,
    /// Incarnations of which it is told already that they vanished.
    pub vanished: BTreeSet<(i32, u64)>,
}

impl Before {
    pub fn topic(&mut self, name: String, event: &Event) -> Result<Vec<Change>> {
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
    /// count, nor does a broker that was started again and gets what it had.
    pub fn assignment(&mut self, topic: Uuid, event: &Event, led: &mut Led) -> Result<Vec<Change>> {
        let now = match event {
            Event::Put(kv) => owners(&Versioned::<AssignmentRecord>::decode(kv)?.record),
            Event::Delete { .. } => {
                self.owners.remove(&topic);
                self.released.retain(|(of, _), _| *of != topic);
                return Ok(Vec::new());
            }
        };
        let mut moved: BTreeMap<(i32, i32), u64> = BTreeMap::new();
        let then = self.owners.insert(topic, now.clone()).unwrap_or_default();
        for (index, (then, now)) in
            then.into_iter().zip(now).enumerate().filter(|(_, (then, now))| then != now)
        {
            if let Some(of) = then {
                self.note_led(of, now, topic, led);
            }
            let released = self.released.remove(&(topic, index));
            let from = then.map(|(from, _)| from).or(released.map(|(from, _)| from));
            match (from, now) {
                (Some(from), Some((to, _))) if from != to => *moved.entry((from, to)).or_default() += 1,
                (Some(from), None) => drop(self.released.insert((topic, index), (from, false))),
                (Some(_) | None, Some(_)) | (None, None) => {}
            }
        }
        let change =
            |((from, to), count): ((i32, i32), u64)| self.moved(topic, from, &format!("broker {to}"), count);
        Ok(moved.into_iter().map(change).collect())
    }

    /// Notes that an incarnation does not own a partition any more that it led when it ended. Only one that has ended loses it to another
    /// one directly; those that live let go first.
    fn note_led(&self, of: (i32, u64), now: Option<(i32, u64)>, topic: Uuid, led: &mut Led) {
        if now.is_some() || self.brokers.get(&of.0) != Some(&of.1) {
            let (partitions, example) = led.entry(of).or_default();
            *partitions += 1;
            *example = example.take().or_else(|| self.names.get(&topic).cloned());
        }
    }

    fn moved(&self, topic: Uuid, from: i32, to: &str, count: u64) -> Change {
        let name = self.names.get(&topic).cloned().unwrap_or_else(|| topic.to_string());
        let detail = format!("from broker {from} to {to}");
        Change { count, ..Change::new(HistoryKind::LeadersMoved, name, &detail) }
    }

    /// Whether there are partitions that were let go, and that nobody has got yet.
    pub fn has_let_go(&self) -> bool {
        !self.released.is_empty()
    }

    /// Those of them that have waited since the last time. They are told once.
    pub fn let_go(&mut self) -> Vec<Change> {
        let mut of: BTreeMap<(Uuid, i32), u64> = BTreeMap::new();
        self.released.retain(|(topic, _), (from, waited)| {
            if *waited {
                *of.entry((*topic, *from)).or_default() += 1;
            }
            !std::mem::replace(waited, true)
        });
        of.into_iter()
            .map(|((topic, from), count)| self.moved(topic, from, "nobody for the moment", count))
            .collect()
    }

    /// Tells when the last member is gone, and when the group is.
    pub fn group(&mut self, name: String, event: &Event) -> Result<Option<Change>> {
        let kv = match event {
            Event::Put(kv) => kv,
            Event::Delete { .. } => {
                self.emptied.remove(&name);
                return Ok(Some(Change::new(HistoryKind::GroupDeleted, name, "")));
            }
        };
        // One with members may be large, and is not read.
        let group = match kv.value.len() <= EMPTY_GROUP_MAX_BYTES {
            true => Some(Versioned::<GroupRecord>::decode(kv)?.record),
            false => None,
        };
        let Some(group) = group.filter(|group| group.members.is_empty() && group.generation > 0) else {
            self.emptied.remove(&name);
            return Ok(None);
        };
        let detail = format!("after generation {}", group.generation);
        let is_new = self.emptied.insert(name.clone());
        Ok(is_new.then(|| Change::new(HistoryKind::GroupEmptied, name, &detail)))
    }

    pub fn config(&mut self, scope: ConfigScope, event: &Event) -> Result<Option<Change>> {
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
    pub fn led_by(&self, node_id: i32, epoch: u64, at_ms: i64) -> LostRecord {
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

pub fn created(name: &str, topic: &TopicRecord) -> Change {
    let configs: Vec<String> =
        topic.configs.iter().map(|(name, value)| format!(", {name}={value}")).collect();
    let detail = format!("{} partitions{}", topic.partitions, configs.concat());
    Change::new(HistoryKind::TopicCreated, name, &detail)
}

pub fn owners(assignment: &AssignmentRecord) -> Vec<Option<(i32, u64)>> {
    assignment.partitions.iter().map(|slot| Some((slot.owner?, slot.incarnation))).collect()
}

pub fn scope_name(scope: ConfigScope) -> String {
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
    use super::super::DETAIL_MAX_CHARS;
    use super::*;

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
        assert!(
            Change::new(HistoryKind::TopicConfig, "t", &"ü".repeat(500)).detail.chars().count()
                == DETAIL_MAX_CHARS
        );
    }
}
