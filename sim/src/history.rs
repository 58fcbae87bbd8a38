//! What clients did and saw, and what was done to the cluster, in order. The checker reads it, people read it, and two runs of one seed
//! have the same bytes of it.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::machine::Timeline;

/// A topic, as it was made once: one that is deleted and made again is another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub partition: i32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A value, which one client writes once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    pub client: u32,
    /// Grows with each record of the client.
    pub number: u64,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.client, self.number)
    }
}

/// Names a request in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// What came of a produce, to the knowledge of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Produced {
    /// Stored from this offset on.
    At(i64),
    /// Stored by an earlier attempt.
    Before,
    Refused(i16),
    Unknown,
}

/// Of a process, `node` is its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    NodeBooted {
        node: i32,
    },
    /// A new incarnation within a process.
    NodeJoined {
        node: i32,
        incarnation: u64,
    },
    NodeEnded {
        node: i32,
    },
    NodeFailed {
        node: i32,
        why: String,
    },
    /// The process ended, as it must.
    NodeRefused {
        node: i32,
        why: String,
    },
    /// The process ended, although there was no need.
    NodeGaveUp {
        node: i32,
        why: String,
    },
    /// A process has done what it must not: its metadata is not that of the store.
    Foreign {
        node: i32,
        what: String,
    },
    /// A write of a process was carried out that is about what another one coordinates.
    Trespass {
        node: i32,
        what: String,
    },
    NodeCrashed {
        node: i32,
        at: String,
    },
    NodePaused {
        node: i32,
    },
    NodeWoke {
        node: i32,
    },
    NodeStopping {
        node: i32,
    },
    Nemesis {
        what: String,
    },
    /// An object was damaged: these records, with whose batches it has bytes in common, may be unreadable in it.
    Damaged {
        object: String,
        records: Vec<(i64, Value)>,
    },
    /// The object is what it was, and all of these are readable.
    Mended {
        object: String,
        records: Vec<(i64, Value)>,
    },

    TopicCreated {
        topic: Arc<str>,
        partitions: i32,
    },
    /// Nobody may have it any more after this.
    TopicDeleting {
        topic: Arc<str>,
    },
    TopicDeleted {
        topic: Arc<str>,
    },
    /// A topic whose old records may go.
    Retention {
        topic: Arc<str>,
        retention_ms: i64,
    },

    /// A producer got its id.
    ProducerId {
        client: u32,
        producer_id: i64,
        epoch: i16,
    },
    /// The first attempt at a batch; `in_order`: whether its client keeps the order of its batches, and sends none twice.
    Produce {
        call: CallId,
        client: u32,
        at: TopicPartition,
        first: u64,
        count: u32,
        idempotent: bool,
    },
    /// What came of it in the end.
    ProduceEnded {
        call: CallId,
        outcome: Produced,
    },
    /// An idempotent producer was told that a batch is missing before the first one that it waits for.
    SequenceLost {
        client: u32,
        at: TopicPartition,
        code: i16,
    },

    Fetch {
        call: CallId,
        client: u32,
        at: TopicPartition,
        offset: i64,
    },
    Fetched {
        call: CallId,
        log_start: i64,
        high_watermark: i64,
        records: Vec<(i64, Value)>,
    },
    FetchFailed {
        call: CallId,
        code: i16,
    },
    /// A fetch brought bytes that nobody wrote.
    Garbled {
        call: CallId,
        why: String,
    },
    /// The end of a partition as ListOffsets tells it, asked for at `call`.
    EndOffset {
        call: CallId,
        at: TopicPartition,
        offset: i64,
    },

    DeleteRecords {
        call: CallId,
        at: TopicPartition,
        before: i64,
    },
    RecordsDeleted {
        call: CallId,
        log_start: i64,
    },

    Joined {
        client: u32,
        group: Arc<str>,
        member: String,
        generation: i32,
    },
    Assigned {
        client: u32,
        group: Arc<str>,
        generation: i32,
        partitions: Vec<TopicPartition>,
    },
    Commit {
        call: CallId,
        client: u32,
        group: Arc<str>,
        generation: i32,
        at: TopicPartition,
        offset: i64,
    },
    CommitEnded {
        call: CallId,
        code: Option<i16>,
    },
    /// A member says that it is there.
    Heartbeat {
        call: CallId,
        group: Arc<str>,
        generation: i32,
    },
    HeartbeatEnded {
        call: CallId,
        code: i16,
    },
    ReadCommitted {
        call: CallId,
        group: Arc<str>,
    },
    /// The committed offset; -1 is none.
    Committed {
        call: CallId,
        at: TopicPartition,
        offset: i64,
    },

    /// All is well from now on, and clients come to an end.
    Healed,
    /// The last look at a partition: everything that it holds.
    Final {
        at: TopicPartition,
        log_start: i64,
        records: Vec<(i64, Value)>,
        /// Offsets at which it was said to be damaged.
        damaged: Vec<i64>,
    },
    /// A task of the program panicked.
    Panicked {
        what: String,
    },
    /// A client did not come to its end in time.
    Stuck {
        who: String,
    },
}

/// An event and its time.
#[derive(Debug, Clone)]
pub struct Entry {
    pub at: Duration,
    pub event: Event,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.at.as_millis();
        write!(f, "{:>4}.{:03} ", ms / 1000, ms % 1000)?;
        match &self.event {
            Event::Fetched { call, log_start, high_watermark, records } => {
                write!(f, "Fetched {} start {log_start} high {high_watermark}{}", call.0, Runs(records))
            }
            Event::Final { at, log_start, records, damaged } => {
                write!(f, "Final {at} start {log_start}{} damaged {damaged:?}", Runs(records))
            }
            Event::Damaged { object, records } => write!(f, "Damaged {object}{}", Runs(records)),
            Event::Mended { object, records } => write!(f, "Mended {object}{}", Runs(records)),
            other => write!(f, "{other:?}"),
        }
    }
}

/// Records, in short: runs of one client's values at offsets in a row.
struct Runs<'a>(&'a [(i64, Value)]);

impl fmt::Display for Runs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let follows = |a: &(i64, Value), b: &(i64, Value)| {
            b.0 == a.0 + 1 && b.1.client == a.1.client && b.1.number == a.1.number + 1
        };
        for run in self.0.chunk_by(follows) {
            let ((offset, value), last) = (run[0], run[run.len() - 1].1);
            write!(f, " {offset}={value}")?;
            if run.len() > 1 {
                write!(f, "..{}", last.number)?;
            }
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Recorded {
    entries: Vec<Entry>,
    next_call: u64,
}

/// Where everybody writes.
#[derive(Debug, Clone)]
pub struct History {
    timeline: Timeline,
    recorded: Arc<Mutex<Recorded>>,
}

impl History {
    /// A history by the clock of a machine, which those who call [`History::note`] run on.
    pub fn new(timeline: Timeline) -> History {
        History { timeline, recorded: Arc::default() }
    }

    pub fn now(&self) -> Duration {
        self.timeline.now()
    }

    pub fn note(&self, event: Event) {
        self.note_at(self.timeline.now(), event);
    }

    pub fn note_at(&self, at: Duration, event: Event) {
        let entry = Entry { at, event };
        tracing::info!(target: "history", "{entry}");
        self.recorded.lock().entries.push(entry);
    }

    /// Notes the beginning of a call.
    pub fn begin(&self, event: impl FnOnce(CallId) -> Event) -> CallId {
        let call = {
            let mut recorded = self.recorded.lock();
            recorded.next_call += 1;
            CallId(recorded.next_call)
        };
        self.note(event(call));
        call
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.recorded.lock().entries.clone()
    }
}

/// The history as text: the bytes that two runs of a seed have in common.
pub fn to_text(entries: &[Entry]) -> String {
    let mut text = String::new();
    for entry in entries {
        writeln!(text, "{entry}").expect("a string takes everything");
    }
    text
}
