//! Topics of a plan on their way: their ranges and columns go along with the plan, and the worker opens precisely
//! these, or says why it cannot.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use datafusion::error::Result;
use kafscale_core::sql_schema::SqlColumn;
use kafscale_storage::scan::{Bounds, ScanError, Snapshot};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::wire::{Column, TopicAsOf};
use crate::catalog::Cluster;
use crate::error::SqlError;
use crate::query::{Counters, Query};
use crate::topic::exec::{Part, Scan, TopicExec, Totals};
use crate::topic::layout::{Layout, Sample, ValueFormat};
use crate::topic::reader::{Origin, Source};

/// Metadata may be a little behind that of the process that planned.
const LOOKS: u32 = 30;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// More is no plan of this program.
const STREAMS_MAX: usize = 4096;

/// A topic that is read.
#[derive(Debug, Clone)]
pub struct Opened {
    pub snapshot: Snapshot,
    pub layout: Arc<Layout>,
    pub counters: Arc<Counters>,
}

impl Opened {
    pub fn of(scan: &Scan) -> Opened {
        Opened {
            snapshot: scan.snapshot.clone(),
            layout: Arc::clone(&scan.layout),
            counters: Arc::clone(&scan.counters),
        }
    }

    pub fn as_of(&self) -> TopicAsOf {
        let Layout { format, columns, inferred, source, .. } = &*self.layout;
        let column = |column: &SqlColumn| Column { name: column.name.clone(), sql_type: column.sql_type };
        let topic = self.snapshot.topic();
        TopicAsOf {
            name: topic.name.clone(),
            id: topic.id,
            ranges: self.snapshot.ranges(),
            format: format.name().to_owned(),
            columns: columns.iter().map(column).collect(),
            sampled: inferred.map(|sample| sample.records),
            schema: source.as_ref().map(fingerprint),
        }
    }

    /// Opens at a worker what another process sees.
    pub async fn open(
        topic: &TopicAsOf,
        cluster: &Cluster,
        query: &Query,
    ) -> std::result::Result<Opened, SqlError> {
        let snapshot = snapshot(topic, cluster).await?;
        let format = ValueFormat::of(&topic.format)
            .ok_or_else(|| SqlError::BadValue(format!("{} is no format of values", topic.format)))?;
        let layout = match &topic.schema {
            None => {
                let column =
                    |column: &Column| SqlColumn { name: column.name.clone(), sql_type: column.sql_type };
                let columns = topic.columns.iter().map(column).collect();
                let sampled = topic.sampled.map(|records| Sample { records });
                Arc::new(Layout::new(&topic.name, format, columns, sampled))
            }
            Some(wanted) => {
                let own = cluster.layouts.of(&snapshot).await?;
                let is_same = own.source.as_ref().is_some_and(|source| fingerprint(source) == *wanted);
                if !is_same {
                    let why = "this worker has another schema for it than the server that asks: --schema-registry, \
                               --schema-dir and --topics-file must say the same on both"
                        .to_owned();
                    return Err(SqlError::Schema { topic: topic.name.clone(), why });
                }
                own
            }
        };
        let counters = query.uses(&topic.name, topic.ranges.clone(), topic.sampled);
        Ok(Opened { snapshot, layout, counters })
    }
}

async fn snapshot(topic: &TopicAsOf, cluster: &Cluster) -> std::result::Result<Snapshot, SqlError> {
    let mut look = 1;
    loop {
        let now = cluster.scanner.snapshot(&topic.name).await?;
        if now.topic().id != topic.id {
            return Err(ScanError::TopicGone { topic: topic.name.clone() }.into());
        }
        match now.as_of(&topic.ranges) {
            Err(ScanError::BeyondEnd { .. } | ScanError::NoPartition { .. }) if look < LOOKS => {
                look += 1;
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
            narrowed => return Ok(narrowed?),
        }
    }
}

/// Tells schemas apart, for the same version of the program.
fn fingerprint(source: &Source) -> String {
    let (from, text) = match source {
        Source::Avro { table, from } => (from, format!("{table:?}")),
        Source::Protobuf { table, from, .. } => (from, table.described()),
    };
    let from = match from {
        Origin::Registry(registry) => registry.url().to_owned(),
        Origin::Here { framed } => format!("{framed}"),
    };
    Sha256::digest(format!("{from}\n{text}")).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// What a step reads of one of the topics of its plan.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its place in the list that goes along with the plan.
    topic: usize,
    projection: Vec<usize>,
    parts: Vec<StepPart>,
    streams: usize,
    limit: Option<usize>,
    bytes: u64,
    records: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepPart {
    partition: i32,
    start: i64,
    end: i64,
    min_timestamp: Option<i64>,
    max_timestamp: Option<i64>,
    bytes: u64,
    tail: Option<u64>,
}

impl Step {
    pub fn of(exec: &TopicExec, topic: usize) -> Step {
        let scan = exec.scan();
        let part = |part: &Part| StepPart {
            partition: part.partition,
            start: part.bounds.offsets.start,
            end: part.bounds.offsets.end,
            min_timestamp: part.bounds.min_timestamp,
            max_timestamp: part.bounds.max_timestamp,
            bytes: part.bytes,
            tail: part.tail,
        };
        Step {
            topic,
            projection: scan.projection.clone(),
            parts: scan.parts.iter().map(part).collect(),
            streams: exec.streams(),
            limit: scan.limit,
            bytes: scan.totals.bytes,
            records: scan.totals.records,
        }
    }

    /// The step, if it reads no more than what was opened.
    pub fn exec(self, topics: &[Opened]) -> Result<TopicExec> {
        let refused = || SqlError::BadValue("a step of a plan reads what its topics do not hold".to_owned());
        let opened = topics.get(self.topic).ok_or_else(refused)?;
        let ranges = opened.snapshot.ranges();
        let within = |part: &StepPart| {
            ranges.iter().any(|range| {
                range.partition == part.partition
                    && range.start <= part.start
                    && part.start <= part.end
                    && part.end <= range.end
            })
        };
        let fields = opened.layout.schema.fields().len();
        let is_known = self.parts.iter().all(within)
            && self.projection.iter().all(|column| *column < fields)
            && (1..=STREAMS_MAX).contains(&self.streams);
        if !is_known {
            return Err(refused().into());
        }
        let part = |part: StepPart| Part {
            partition: part.partition,
            bounds: Bounds {
                offsets: part.start..part.end,
                min_timestamp: part.min_timestamp,
                max_timestamp: part.max_timestamp,
            },
            bytes: part.bytes,
            tail: part.tail,
        };
        let schema = Arc::new(opened.layout.schema.project(&self.projection)?);
        let totals = Totals { bytes: self.bytes, records: self.records, ..Totals::default() };
        let scan = Scan {
            snapshot: opened.snapshot.clone(),
            layout: Arc::clone(&opened.layout),
            projection: self.projection,
            schema,
            parts: self.parts.into_iter().map(part).collect(),
            at_once: self.streams,
            limit: self.limit,
            totals,
            counters: Arc::clone(&opened.counters),
        };
        Ok(TopicExec::part(scan, self.streams))
    }
}

/// A step that reads a topic, as the steps of so many tasks: together they read the same.
pub fn divided(exec: &TopicExec, tasks: usize, part_bytes_min: u64) -> Vec<TopicExec> {
    let scan = exec.scan();
    let wanted = u64::try_from(tasks * scan.at_once.max(1)).unwrap_or(u64::MAX).max(1);
    let total: u64 = scan.parts.iter().map(|part| part.bytes).sum();
    let part_bytes = (total / wanted).max(part_bytes_min).max(1);
    let mut parts: Vec<Part> = scan.parts.iter().flat_map(|part| cut(part, part_bytes, scan.limit)).collect();
    parts.sort_by_key(|part| (std::cmp::Reverse(part.bytes), part.partition, part.bounds.offsets.start));
    let mut shares: Vec<(u64, Vec<Part>)> = vec![(0, Vec::new()); tasks.max(1)];
    for part in parts {
        let least = shares.iter_mut().min_by_key(|(bytes, share)| (*bytes, share.len()));
        let (bytes, share) = least.expect("there is one");
        *bytes += part.bytes;
        share.push(part);
    }
    let most = shares.iter().map(|(_, share)| share.len()).max().unwrap_or(1);
    let streams = most.clamp(1, scan.at_once.max(1));
    let of_share = |(bytes, parts): (u64, Vec<Part>)| {
        let records = scan.totals.records.map(|records| scaled(records, bytes, total));
        let totals = Totals { bytes, records, ..Totals::default() };
        let scan = Scan {
            snapshot: scan.snapshot.clone(),
            layout: Arc::clone(&scan.layout),
            projection: scan.projection.clone(),
            schema: Arc::clone(&scan.schema),
            parts,
            at_once: streams,
            limit: scan.limit,
            totals,
            counters: Arc::clone(&scan.counters),
        };
        TopicExec::part(scan, streams)
    };
    shares.into_iter().map(of_share).collect()
}

fn scaled(whole: u64, bytes: u64, total: u64) -> u64 {
    u64::try_from(u128::from(whole) * u128::from(bytes) / u128::from(total.max(1))).unwrap_or(whole)
}

/// One part as several of about this size.
fn cut(part: &Part, part_bytes: u64, limit: Option<usize>) -> Vec<Part> {
    let offsets = &part.bounds.offsets;
    let count = match (part.tail, limit) {
        (None, None) => i64::try_from(part.bytes / part_bytes).unwrap_or(1).max(1),
        _ => 1,
    };
    let step = ((offsets.end - offsets.start) / count).max(1);
    let mut cut = Vec::new();
    let mut start = offsets.start;
    for at in 1..=count {
        let end = if at == count { offsets.end } else { (start + step).min(offsets.end) };
        if start < end {
            let bounds = Bounds { offsets: start..end, ..part.bounds.clone() };
            let bytes = part.bytes / u64::try_from(count).unwrap_or(1);
            cut.push(Part { bounds, bytes, ..part.clone() });
        }
        start = end;
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_part_are_all_of_it() {
        let part = Part { partition: 3, bounds: Bounds::offsets(10..1010), bytes: 1000, tail: None };
        for (size, count) in [(100, 10), (1000, 1), (5000, 1), (333, 3)] {
            let found = cut(&part, size, None);
            assert_eq!(found.len(), count, "{size}");
            let mut next = 10;
            for one in &found {
                assert_eq!((one.partition, one.bounds.offsets.start), (3, next));
                next = one.bounds.offsets.end;
            }
            assert_eq!(next, 1010);
        }
        let tail = Part { tail: Some(5), ..part.clone() };
        assert_eq!((cut(&tail, 100, None).len(), cut(&part, 100, Some(1)).len()), (1, 1));
    }

    #[test]
    fn a_share_of_records_is_that_of_bytes() {
        assert_eq!((scaled(100, 1, 4), scaled(100, 0, 0), scaled(u64::MAX, 2, 2)), (25, 0, u64::MAX));
    }
}
