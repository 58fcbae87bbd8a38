//! Looks for a data subject in every table of every collection, with the operator's authority, table by table.
//!
//! Each table that the rules do not except is either searched whole or a gap: what has gaps is incomplete, and never nothing.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimeUnit};
use datafusion::catalog::TableProvider;
use datafusion::common::{Column, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::utils::disjunction;
use datafusion::logical_expr::{Expr, lit};
use datafusion::prelude::SessionContext;
use futures_util::StreamExt as _;
use kafscale_core::utc;
use kafscale_sql::topic::layout::MetaColumn;
use serde::{Deserialize, Serialize};

use super::hashes::{SubjectHash, SubjectHasher, is_compared};
use super::register::State;
use super::steps;
use super::suppressed::identifies;
use crate::caller::Caller;
use crate::catalog::Collections;
use crate::collection::{Collection, CollectionError, Keeping, find};
use crate::labelled::Labelled;
use crate::rules::{DataSubject, Rulebook};
use crate::shape::TableName;

/// For what a collection has, and for the columns of a table.
const LONGEST_TO_OPEN: Duration = Duration::from_secs(30);
/// For all rows of a table, or of a file.
const LONGEST_TO_READ: Duration = Duration::from_secs(1_800);
/// Of one search; what is beyond them is a gap.
const PLACES_MAX: usize = 400;
const GAPS_MAX: usize = 400;
const LINKED_MAX: usize = 1_000;

/// What is looked for in columns of a label.
pub struct Target {
    pub hasher: SubjectHasher,
    pub hashes: HashSet<SubjectHash>,
    /// Where they are known: a source with an index then finds them sooner.
    pub values: Option<Vec<String>>,
}

/// By label.
pub type Targets = BTreeMap<String, Target>;

/// Rows of the subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// `collection.table`
    pub table: String,
    pub kind: String,
    /// A file, or a partition of a topic with the first and the last offset.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub part: Option<String>,
    pub columns: Vec<String>,
    pub rows: u64,
    /// What erases it.
    pub erased_by: String,
    /// When it is gone without that, as far as its source says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<String>,
}

/// What was not searched, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub table: String,
    pub why: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub places: Vec<Place>,
    pub gaps: Vec<Gap>,
    /// Tables that were read whole.
    pub searched: u64,
    /// Tables that the rules say have nothing of such subjects.
    pub excepted: u64,
}

impl Found {
    pub fn is_complete(&self) -> bool {
        self.gaps.is_empty()
    }

    /// Where a request stands, of which this is what there is.
    pub fn state(&self) -> State {
        let ends: Option<Vec<&String>> = self.places.iter().map(|place| place.until.as_ref()).collect();
        match ends {
            Some(_) if !self.is_complete() => State::Open,
            None => State::Open,
            Some(ends) => match ends.into_iter().max() {
                None => State::Closed,
                Some(until) => State::ClosedUntil { until: until.clone() },
            },
        }
    }

    pub fn in_words(&self) -> String {
        let rows: u64 = self.places.iter().map(|place| place.rows).sum();
        let found = match (self.places.len(), self.is_complete()) {
            (0, true) => "nothing found".to_owned(),
            (0, false) => "nothing found in what was searched".to_owned(),
            (places, _) => format!("{rows} rows in {places} places"),
        };
        let gaps = match self.gaps.len() {
            0 => "complete".to_owned(),
            gaps => format!("INCOMPLETE: {gaps} not searched"),
        };
        format!("{found}; {} tables searched, {} excepted by the rules; {gaps}", self.searched, self.excepted)
    }

    fn gap(&mut self, table: &TableName, why: impl std::fmt::Display) {
        if self.gaps.len() < GAPS_MAX {
            self.gaps.push(Gap { table: table.to_string(), why: why.to_string() });
        }
    }
}

/// What a collection says for itself has no values of rows in it; what the engine says may have.
fn failed(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::External(inner) if inner.is::<CollectionError>() => inner.to_string(),
        _ => "reading it failed".to_owned(),
    }
}

impl Found {
    /// As the register keeps it: names of files may be those of subjects.
    #[must_use]
    pub fn without_subjects(mut self, targets: &Targets) -> Found {
        let is_one =
            |text: &str| targets.values().any(|target| target.hashes.contains(&target.hasher.hash(text)));
        let values = || targets.values().filter_map(|target| target.values.as_ref()).flatten();
        let clean = |text: &mut String| {
            let cut = values().fold(text.clone(), |text, value| text.replace(value.as_str(), ":subject"));
            let words = cut.split_inclusive(|c: char| !c.is_alphanumeric() && c != '-' && c != '_');
            *text = words.fold(String::new(), |made, word| {
                let bare = word.trim_end_matches(|c: char| !c.is_alphanumeric() && c != '-' && c != '_');
                made + &if !bare.is_empty() && is_one(bare) {
                    word.replace(bare, ":subject")
                } else {
                    word.to_owned()
                }
            });
        };
        for place in self.places.iter_mut().filter(|place| place.kind == "files") {
            place.part.iter_mut().for_each(clean);
            clean(&mut place.erased_by);
        }
        self
    }
}

/// Where is looked.
pub struct Search<'a> {
    pub collections: &'a Collections,
    pub rules: &'a Rulebook,
    /// Labels that stick to topics to which answers were written.
    pub labelled: &'a Labelled,
    pub subject: &'a DataSubject,
    pub progress: &'a dyn Fn(&str),
}

/// A table, and which of its columns identify subjects, with their labels.
struct Opened {
    name: TableName,
    provider: Arc<dyn TableProvider>,
    identifying: Vec<(String, Vec<String>)>,
}

impl Search<'_> {
    pub async fn run(&self, targets: &Targets) -> Found {
        let mut found = Found::default();
        for (name, collection) in self.collections {
            let whole = TableName::new(name, "*");
            let operator = Caller::operator();
            let begun = async {
                let begun = collection.begin(&operator).await?.unwrap_or_else(|| Arc::clone(collection));
                let tables = begun.tables().await?;
                Ok::<_, CollectionError>((begun, tables))
            };
            let (begun, tables) = match tokio::time::timeout(LONGEST_TO_OPEN, begun).await {
                Ok(Ok(begun)) => begun,
                Ok(Err(error)) => {
                    found.gap(&whole, error);
                    continue;
                }
                Err(_) => {
                    found.gap(&whole, format!("it did not answer within {LONGEST_TO_OPEN:?}"));
                    continue;
                }
            };
            for table in tables {
                self.table(begun.as_ref(), &TableName::new(name, table), targets, &mut found).await;
            }
        }
        found
    }

    async fn table(
        &self,
        collection: &dyn Collection,
        name: &TableName,
        targets: &Targets,
        found: &mut Found,
    ) {
        if self.subject.is_not_in(name) {
            found.excepted += 1;
            return;
        }
        (self.progress)(&format!("searching {name}"));
        let opened = match self.opened(collection, name).await {
            Ok(opened) => opened,
            Err(why) => return found.gap(name, why),
        };
        let parts = collection.parts(&name.table).await;
        let keeping = collection.keeping(&name.table).await;
        let (parts, keeping) = match (parts, keeping) {
            (Ok(parts), Ok(keeping)) => (parts, keeping),
            (Err(error), _) | (_, Err(error)) => return found.gap(name, error),
        };
        let whole = parts.is_empty().then(|| (None, Arc::clone(&opened.provider)));
        for (part, provider) in parts.into_iter().map(|(part, p)| (Some(part), p)).chain(whole) {
            let read = tokio::time::timeout(LONGEST_TO_READ, rows(provider, &opened.identifying, targets));
            let tallies = match read.await {
                Ok(Ok(tallies)) => tallies,
                Ok(Err(error)) => return found.gap(name, failed(&error)),
                Err(_) => return found.gap(name, format!("it took longer than {LONGEST_TO_READ:?}")),
            };
            for (partition, tally) in tallies.into_iter().filter(|(_, tally)| tally.rows > 0) {
                if found.places.len() >= PLACES_MAX {
                    return found
                        .gap(name, format!("more than {PLACES_MAX} places are found: erase these first"));
                }
                found.places.push(place(
                    collection.kind(),
                    name,
                    part.as_deref(),
                    partition,
                    &tally,
                    keeping,
                ));
            }
        }
        found.searched += 1;
    }

    async fn opened(
        &self,
        collection: &dyn Collection,
        name: &TableName,
    ) -> std::result::Result<Opened, String> {
        let operator = Caller::operator();
        let opened = tokio::time::timeout(LONGEST_TO_OPEN, find(collection, &name.table, &operator)).await;
        let opened = opened.map_err(|_| format!("it did not answer within {LONGEST_TO_OPEN:?}"))?;
        let source = opened.map_err(|e| e.to_string())?.ok_or("it is not there any more")?;
        let columns = self.labelled.columns(collection.kind(), &name.table, source.columns);
        let labels = self.rules.labels_of(name, &columns);
        let mut identifying = Vec::new();
        for (column, mut labels) in columns.into_iter().zip(labels).filter(|(column, _)| identifies(column)) {
            labels.retain(|label| self.subject.labels.contains(label));
            if labels.is_empty() {
                continue;
            }
            if !is_compared(&column.data_type) {
                return Err(format!("its column {} is of a type whose values are not compared", column.name));
            }
            identifying.push((column.name, labels));
        }
        if identifying.is_empty() {
            let subject = &self.subject.name;
            return Err(format!(
                "no column identifies a {subject}: label one, or name the table in `without` of [[subject]]"
            ));
        }
        Ok(Opened { name: name.clone(), provider: source.provider, identifying })
    }

    /// Other identifiers of the same subjects, by tables that link them. The error says which table cannot be read.
    pub async fn linked(&self, values: &mut BTreeMap<String, Vec<String>>) -> std::result::Result<(), Gap> {
        // Each round may follow one link more.
        for _ in 0..=self.subject.links.len() {
            let before: usize = values.values().map(Vec::len).sum();
            for link in &self.subject.links {
                self.follow(link, values).await.map_err(|why| Gap { table: link.table.clone(), why })?;
            }
            if values.values().map(Vec::len).sum::<usize>() == before {
                break;
            }
        }
        Ok(())
    }

    async fn follow(
        &self,
        link: &crate::rules::Link,
        values: &mut BTreeMap<String, Vec<String>>,
    ) -> std::result::Result<(), String> {
        let named = crate::rules::cases::table_of(&link.table)?;
        let collection = self.collections.get(&named.collection).ok_or("there is no such collection")?;
        let opened = self.opened(collection.as_ref(), &named).await?;
        let label = |column: &str| {
            let found = opened.identifying.iter().find(|(name, _)| name == column);
            let found = found.and_then(|(_, labels)| labels.first().cloned());
            found.ok_or_else(|| format!("{}: `{column}` has no label of the subject", opened.name))
        };
        let (from, to) = (label(&link.from)?, label(&link.to)?);
        let known = values.get(&from).cloned().unwrap_or_default();
        let read = linked_values(&opened.provider, link, &known).await;
        let all = values.entry(to).or_default();
        for value in read.map_err(|e| failed(&e))? {
            if !all.contains(&value) {
                all.push(value);
            }
        }
        if all.len() > LINKED_MAX {
            Err(format!("more than {LINKED_MAX} identifiers are linked"))
        } else {
            Ok(())
        }
    }
}

fn place(
    kind: &str,
    name: &TableName,
    part: Option<&str>,
    partition: Option<i32>,
    tally: &Tally,
    keeping: Option<Keeping>,
) -> Place {
    let columns: Vec<String> = tally.columns.iter().cloned().collect();
    let until = keeping.and_then(|keeping| keeping.retention_ms);
    let until =
        until.zip(tally.newest_ms).map(|(retention, newest)| utc::seconds(newest.saturating_add(retention)));
    let of_topic = partition
        .map(|partition| format!("partition {partition}, offsets {} to {}", tally.first, tally.last));
    Place {
        table: name.to_string(),
        kind: kind.to_owned(),
        erased_by: steps::what_erases(
            kind,
            name,
            part,
            &columns,
            partition.map(|p| (p, tally.last)),
            keeping,
        ),
        part: part.map(str::to_owned).or(of_topic),
        columns,
        rows: tally.rows,
        until,
    }
}

/// What was found of one partition, or of a table without any.
#[derive(Debug, Default)]
struct Tally {
    rows: u64,
    columns: std::collections::BTreeSet<String>,
    first: i64,
    last: i64,
    /// Of all records of the partition: older ones go first.
    newest_ms: Option<i64>,
}

fn column(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

async fn rows(
    provider: Arc<dyn TableProvider>,
    identifying: &[(String, Vec<String>)],
    targets: &Targets,
) -> Result<BTreeMap<Option<i32>, Tally>> {
    let schema = provider.schema();
    let places = [MetaColumn::Partition, MetaColumn::Offset, MetaColumn::Timestamp].map(MetaColumn::name);
    let is_topic = places.iter().all(|name| schema.column_with_name(name).is_some());
    let mut wanted: Vec<Expr> = identifying.iter().map(|(name, _)| column(name)).collect();
    if is_topic {
        wanted.extend(places.iter().map(|name| column(name)));
    }
    let narrowed = if is_topic { None } else { narrowed(&provider, identifying, targets) };
    let mut frame = SessionContext::new().read_table(provider)?;
    if let Some(condition) = narrowed {
        frame = frame.filter(condition)?;
    }
    let mut stream = frame.select(wanted)?.execute_stream().await?;
    let mut tallies = BTreeMap::new();
    while let Some(batch) = stream.next().await {
        tally(&batch?, identifying, targets, is_topic, &mut tallies)?;
    }
    Ok(tallies)
}

fn tally(
    batch: &RecordBatch,
    identifying: &[(String, Vec<String>)],
    targets: &Targets,
    is_topic: bool,
    tallies: &mut BTreeMap<Option<i32>, Tally>,
) -> Result<()> {
    let mut hits: BTreeMap<usize, Vec<&String>> = BTreeMap::new();
    for (at, (name, labels)) in identifying.iter().enumerate() {
        for target in labels.iter().filter_map(|label| targets.get(label)) {
            target.hasher.each(batch.column(at).as_ref(), |row, hash| {
                if target.hashes.contains(&hash) {
                    hits.entry(row).or_default().push(name);
                }
            })?;
        }
    }
    if !is_topic {
        let tally: &mut Tally = tallies.entry(None).or_default();
        tally.rows += hits.len() as u64;
        tally.columns.extend(hits.into_values().flatten().cloned());
        return Ok(());
    }
    let at = identifying.len();
    let partitions = batch.column(at).as_primitive::<Int32Type>();
    let offsets = batch.column(at + 1).as_primitive::<Int64Type>();
    let times = cast(batch.column(at + 2), &DataType::Timestamp(TimeUnit::Millisecond, None))?;
    let times = cast(&times, &DataType::Int64)?;
    let times = times.as_primitive::<Int64Type>();
    for row in 0..batch.num_rows() {
        let tally = tallies.entry(Some(partitions.value(row))).or_default();
        if times.is_valid(row) {
            tally.newest_ms = tally.newest_ms.max(Some(times.value(row)));
        }
        let Some(names) = hits.remove(&row) else { continue };
        let offset = offsets.value(row);
        tally.first = if tally.rows == 0 { offset } else { tally.first.min(offset) };
        tally.last = tally.last.max(offset);
        tally.rows += 1;
        tally.columns.extend(names.into_iter().cloned());
    }
    Ok(())
}

/// A condition that a source can use. It lets through every row that is looked for. None: there is none that surely does.
fn narrowed(
    provider: &Arc<dyn TableProvider>,
    identifying: &[(String, Vec<String>)],
    targets: &Targets,
) -> Option<Expr> {
    let schema = provider.schema();
    let mut parts = Vec::new();
    for (name, labels) in identifying {
        let (_, field) = schema.column_with_name(name)?;
        for target in labels.iter().filter_map(|label| targets.get(label)) {
            let literals = literals(target.values.as_ref()?, field.data_type())?;
            parts.push(match literals.is_empty() {
                true => lit(false),
                false => column(name).in_list(literals, false),
            });
        }
    }
    disjunction(parts)
}

/// Values that a column of a type may have. None: its texts are not always the values' own.
fn literals(values: &[String], data_type: &DataType) -> Option<Vec<Expr>> {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let literal = |value: &String| lit(ScalarValue::Utf8(Some(value.clone())));
            Some(values.iter().map(literal).collect())
        }
        DataType::Int64 => {
            Some(values.iter().filter_map(|value| value.parse::<i64>().ok()).map(lit).collect())
        }
        DataType::Int32 => {
            Some(values.iter().filter_map(|value| value.parse::<i32>().ok()).map(lit).collect())
        }
        _ => None,
    }
}

async fn linked_values(
    provider: &Arc<dyn TableProvider>,
    link: &crate::rules::Link,
    known: &[String],
) -> Result<Vec<String>> {
    let text = |name: &str| datafusion::logical_expr::cast(column(name), DataType::Utf8);
    let literals = known.iter().map(|value| lit(value.as_str())).collect();
    let frame = SessionContext::new().read_table(Arc::clone(provider))?;
    let frame = frame.filter(text(&link.from).in_list(literals, false))?.select(vec![text(&link.to)])?;
    let limited = frame.limit(0, Some(LINKED_MAX + 1))?;
    let mut values = Vec::new();
    for batch in tokio::time::timeout(LONGEST_TO_READ, limited.collect())
        .await
        .map_err(|e| DataFusionError::External(Box::new(e)))??
    {
        let texts = cast(batch.column(0), &DataType::Utf8)?;
        values.extend(texts.as_string::<i32>().iter().flatten().map(str::to_owned));
    }
    Ok(values)
}
