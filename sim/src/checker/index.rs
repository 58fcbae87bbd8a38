//! A history by calls and partitions.
//!
//! A topic that was deleted and made again is several topics here: each life has what happened surely within it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{STALE_LIFE_MAX, STALE_READ_MAX};
use crate::history::{CallId, Entry, Event, Produced, TopicPartition, Value};

/// A batch of a producer.
#[derive(Debug, Clone)]
pub struct Batch {
    pub client: u32,
    pub at: TopicPartition,
    pub first: u64,
    pub count: u32,
    pub idempotent: bool,
    pub begun: Duration,
    /// What came of it, and when.
    pub ended: Option<(Duration, Produced)>,
}

impl Batch {
    /// Its first offset and when it was acknowledged.
    pub fn acknowledged_at(&self) -> Option<(Duration, i64)> {
        match self.ended {
            Some((ended, Produced::At(base))) => Some((ended, base)),
            _ => None,
        }
    }

    pub fn is_acknowledged(&self) -> bool {
        matches!(self.ended, Some((_, Produced::At(_) | Produced::Before)))
    }

    pub fn values(&self) -> impl Iterator<Item = Value> + use<> {
        let (client, first) = (self.client, self.first);
        (0..u64::from(self.count)).map(move |i| Value { client, number: first + i })
    }
}

/// A fetch that brought something, or the end that ListOffsets told.
#[derive(Debug, Clone)]
pub struct Read {
    pub at: TopicPartition,
    pub offset: i64,
    pub begun: Duration,
    pub ended: Duration,
    pub log_start: Option<i64>,
    pub high_watermark: i64,
    pub records: Vec<(i64, Value)>,
}

/// The last look at a partition.
#[derive(Debug, Clone)]
pub struct Final {
    pub ended: Duration,
    pub log_start: i64,
    pub records: Vec<(i64, Value)>,
    /// Offsets at which it was said to be damaged.
    pub damaged: Vec<i64>,
}

impl Final {
    /// All offsets, in order.
    pub fn offsets(&self) -> Vec<i64> {
        let readable = self.records.iter().map(|(offset, _)| *offset);
        let mut offsets: Vec<i64> = readable.chain(self.damaged.iter().copied()).collect();
        offsets.sort_unstable();
        offsets
    }
}

/// A DeleteRecords.
#[derive(Debug, Clone)]
pub struct Deletion {
    pub at: TopicPartition,
    pub before: i64,
    pub ended: Option<(Duration, i64)>,
}

/// A commit of one group for one partition.
#[derive(Debug, Clone)]
pub struct Commit {
    pub offset: i64,
    pub begun: Duration,
    /// `None`: it is not known what came of it.
    pub ended: Option<(Duration, i16)>,
}

#[derive(Debug, Clone)]
pub struct CommittedRead {
    pub offset: i64,
    pub begun: Duration,
    pub ended: Duration,
}

#[derive(Debug, Clone, Default)]
pub struct Register {
    pub commits: Vec<Commit>,
    pub reads: Vec<CommittedRead>,
}

/// A life of a topic: what began and ended within is its own.
#[derive(Debug, Clone)]
struct Life {
    topic: Arc<str>,
    from: Duration,
    to: Option<Duration>,
    /// Nobody may read from it after this.
    gone: Option<Duration>,
}

#[derive(Debug, Default)]
pub struct Index {
    pub batches: Vec<Batch>,
    pub reads: Vec<Read>,
    pub finals: BTreeMap<TopicPartition, Final>,
    pub deletions: Vec<Deletion>,
    pub registers: BTreeMap<(Arc<str>, TopicPartition), Register>,
    /// By topic.
    pub retention_ms: BTreeMap<Arc<str>, i64>,
    pub producer_ids: Vec<(u32, i64, i16)>,
    /// Where values are whose batches were damaged.
    pub damaged: BTreeMap<Value, i64>,
    /// Of topics that came and went: values that were acknowledged in an earlier life, and reads after its end.
    pub resurrected: Vec<(TopicPartition, Value)>,
}

#[derive(Debug, Default)]
struct Open {
    batches: BTreeMap<CallId, usize>,
    fetches: BTreeMap<CallId, (TopicPartition, i64, Duration)>,
    deletions: BTreeMap<CallId, usize>,
    commits: BTreeMap<CallId, ((Arc<str>, TopicPartition), usize)>,
    committed: BTreeMap<CallId, (Arc<str>, Duration)>,
}

impl Index {
    pub fn new(entries: &[Entry]) -> Index {
        let mut index = Index::default();
        let mut open = Open::default();
        for Entry { at: now, event } in entries {
            index.add(&mut open, *now, event);
        }
        index.part_lives(&lives(entries));
        index
    }

    fn add(&mut self, open: &mut Open, now: Duration, event: &Event) {
        match event.clone() {
            Event::Produce { call, client, at, first, count, idempotent } => {
                open.batches.insert(call, self.batches.len());
                self.batches.push(Batch { client, at, first, count, idempotent, begun: now, ended: None });
            }
            Event::ProduceEnded { call, outcome } => {
                self.batches[open.batches[&call]].ended = Some((now, outcome));
            }
            Event::Fetch { call, at, offset, .. } => {
                open.fetches.insert(call, (at, offset, now));
            }
            Event::Fetched { call, log_start, high_watermark, records } => {
                let (at, offset, begun) = open.fetches[&call].clone();
                let log_start = Some(log_start);
                self.reads.push(Read { at, offset, begun, ended: now, log_start, high_watermark, records });
            }
            Event::EndOffset { call, at, offset } => {
                let begun = open.fetches[&call].2;
                let (log_start, records) = (None, Vec::new());
                self.reads.push(Read {
                    at,
                    offset,
                    begun,
                    ended: now,
                    log_start,
                    high_watermark: offset,
                    records,
                });
            }
            Event::Final { at, log_start, records, damaged } => {
                self.finals.insert(at, Final { ended: now, log_start, records, damaged });
            }
            Event::Retention { topic, retention_ms } => {
                self.retention_ms.insert(topic, retention_ms);
            }
            Event::Damaged { records, .. } => {
                self.damaged.extend(records.into_iter().map(|(offset, value)| (value, offset)));
            }
            Event::ProducerId { client, producer_id, epoch } => {
                self.producer_ids.push((client, producer_id, epoch));
            }
            other => self.add_change(open, now, other),
        }
    }

    fn add_change(&mut self, open: &mut Open, now: Duration, event: Event) {
        match event {
            Event::DeleteRecords { call, at, before } => {
                open.deletions.insert(call, self.deletions.len());
                self.deletions.push(Deletion { at, before, ended: None });
            }
            Event::RecordsDeleted { call, log_start } => {
                self.deletions[open.deletions[&call]].ended = Some((now, log_start));
            }
            Event::Commit { call, group, at, offset, .. } => {
                let key = (group, at);
                let register = self.registers.entry(key.clone()).or_default();
                open.commits.insert(call, (key, register.commits.len()));
                register.commits.push(Commit { offset, begun: now, ended: None });
            }
            Event::CommitEnded { call, code } => {
                let (key, i) = &open.commits[&call];
                let register = self.registers.get_mut(key).expect("a commit was begun");
                register.commits[*i].ended = code.map(|code| (now, code));
            }
            Event::ReadCommitted { call, group } => {
                open.committed.insert(call, (group, now));
            }
            Event::Committed { call, at, offset } => {
                let (group, begun) = open.committed[&call].clone();
                let read = CommittedRead { offset, begun, ended: now };
                self.registers.entry((group, at)).or_default().reads.push(read);
            }
            _ => {}
        }
    }

    /// Gives what happened to topics that came and went to their lives.
    fn part_lives(&mut self, lives: &[Life]) {
        if lives.is_empty() {
            return;
        }
        let is_mortal = |at: &TopicPartition| lives.iter().any(|life| life.topic == at.topic);
        let life_of = |at: &TopicPartition, begun: Duration, ended: Duration| {
            let life = lives.iter().position(|life| {
                life.topic == at.topic && life.from <= begun && life.to.is_none_or(|to| ended < to)
            })?;
            let topic = format!("{}#{life}", at.topic).into();
            Some(TopicPartition { topic, partition: at.partition })
        };
        self.find_resurrected(lives);
        self.batches.retain_mut(|batch| {
            if !is_mortal(&batch.at) {
                return true;
            }
            let ended = batch.ended.map_or(Duration::MAX, |(ended, _)| ended);
            let part = life_of(&batch.at, batch.begun, ended);
            part.map(|at| batch.at = at).is_some()
        });
        self.reads.retain_mut(|read| {
            if !is_mortal(&read.at) {
                return true;
            }
            let part = life_of(&read.at, read.begun, read.ended);
            // Its records may be of producers that began before this life was known to have begun.
            part.map(|at| read.at = at).is_some()
        });
        self.finals.retain(|at, _| !is_mortal(at));
    }

    /// A value that was acknowledged before its topic was deleted must not be read after the deletion.
    fn find_resurrected(&mut self, lives: &[Life]) {
        for life in lives {
            let (Some(to), Some(gone)) = (life.to, life.gone) else { continue };
            let dead: std::collections::BTreeSet<Value> = self
                .batches
                .iter()
                .filter(|batch| batch.at.topic == life.topic)
                .filter(|batch| batch.acknowledged_at().is_some_and(|(ended, _)| ended < to))
                .flat_map(Batch::values)
                .collect();
            let later = self.reads.iter().filter(|read| read.at.topic == life.topic && read.begun > gone);
            for read in later {
                let back = read.records.iter().filter(|(_, value)| dead.contains(value));
                self.resurrected.extend(back.map(|(_, value)| (read.at.clone(), *value)));
            }
        }
    }
}

/// The lives of the topics that were deleted at least once.
fn lives(entries: &[Entry]) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    let mut mortal = Vec::new();
    let is_trouble = |event: &Event| {
        matches!(event, Event::Nemesis { .. } | Event::NodePaused { .. } | Event::NodeCrashed { .. })
    };
    let troubled = entries.iter().any(|entry| is_trouble(&entry.event));
    let stale = if troubled { STALE_LIFE_MAX } else { STALE_READ_MAX };
    for Entry { at: now, event } in entries {
        match event {
            Event::TopicCreated { topic, .. } => lives.push(Life {
                topic: Arc::clone(topic),
                // A broker that has not heard yet of the end of the life before may still serve that.
                from: *now + stale,
                to: None,
                gone: None,
            }),
            Event::TopicDeleting { topic } => {
                mortal.push(Arc::clone(topic));
                if let Some(life) = lives.iter_mut().rfind(|life| life.topic == *topic) {
                    life.to = Some(*now);
                }
            }
            Event::TopicDeleted { topic } => {
                if let Some(life) = lives.iter_mut().rfind(|life| life.topic == *topic) {
                    life.gone = Some(*now + stale);
                }
            }
            _ => {}
        }
    }
    lives.retain(|life| mortal.contains(&life.topic));
    lives
}
