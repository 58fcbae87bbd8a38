//! Looks for a data subject in every table of every collection, with the operator's authority, table by table.
//!
//! Each table that the rules do not except is either searched whole or a gap: what has gaps is incomplete, and never nothing. Values
//! are compared here, by their hashes, and no source is asked for one: it could not compare all of their forms, and would log it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimeUnit};
use datafusion::catalog::TableProvider;
use datafusion::common::Column;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::Expr;
use datafusion::prelude::SessionContext;
use futures_util::StreamExt as _;
use kafscale_core::utc;
use kafscale_sql::error::SqlError;
use kafscale_sql::topic::layout::MetaColumn;
use serde_json::Value;

use super::found::{Found, Gap, PLACES_MAX, Place, Records};
use super::hashes::{SubjectHash, SubjectHasher, forms, forms_given, is_compared, spellings};
use super::names::Names;
use super::register::{Named, Request};
use crate::caller::Caller;
use crate::catalog::Collections;
use crate::collection::{Collection, CollectionError, Keeping, SourceTable, find};
use crate::labelled::Labelled;
use crate::rules::{ColumnInfo, DataSubject, Holds, Rulebook, folded};
use crate::shape::TableName;

/// For what a collection has, for the columns of a table, and for what it is made of.
pub const LONGEST_TO_OPEN: Duration = Duration::from_secs(30);
/// For all rows of a table, or of a file.
pub const LONGEST_TO_READ: Duration = Duration::from_secs(1_800);
/// A hundred years: who keeps records for longer means for ever.
const RETENTION_MS_MAX: i64 = 100 * 366 * 86_400_000;
/// Of files that are in no table.
const NAMES_TOLD: usize = 20;

/// What is looked for in columns of a label.
#[derive(Clone)]
pub struct Target {
    pub hasher: SubjectHasher,
    pub hashes: HashSet<SubjectHash>,
    /// Identifiers that were given or linked just now. The register does not keep them.
    pub known: BTreeSet<String>,
    /// All forms of those.
    pub values: BTreeSet<String>,
}

impl Target {
    pub fn has(&self, form: &str) -> bool {
        self.hashes.contains(&self.hasher.hash(form))
    }
}

/// By label. A label that is not there is one whose identifiers of the subject are not known; one without any is known to have none.
pub type Targets = BTreeMap<String, Target>;

/// Why a table is not searched, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum Unsearched {
    #[error("{0}")]
    Collection(#[from] CollectionError),
    #[error("it did not answer within {0:?}")]
    TimedOut(Duration),
    #[error("it is not there any more")]
    Gone,
    #[error("it has no tables: it may be another place than it was, or the perimeter may not look into it")]
    NoTables,
    #[error("there are no collections in the configuration")]
    NoCollections,
    #[error("no column identifies a {0}: label one, or name the table in `without` of [[subject]]")]
    NoColumn(String),
    #[error("its column {0} is of a type whose values are not compared")]
    Type(String),
    #[error(
        "its column {column} was not compared: no identifier with the label {label} is known; give it, or name a link to it"
    )]
    NoIdentifier { column: String, label: String },
    #[error("{count} values do not fit the type of {column}, and were not compared")]
    Misfits { column: String, count: u64 },
    #[error("{}", told(.0))]
    Reading(#[source] DataFusionError),
    #[error("more than {PLACES_MAX} places are found: erase these first")]
    TooManyPlaces,
}

impl From<DataFusionError> for Unsearched {
    fn from(error: DataFusionError) -> Self {
        Unsearched::Reading(error)
    }
}

/// What a collection says for itself has no values of rows in it; what the engine says may have.
fn told(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::External(inner) if inner.is::<CollectionError>() => inner.to_string(),
        DataFusionError::External(inner)
            if matches!(inner.downcast_ref(), Some(SqlError::TooMuch { .. })) =>
        {
            "it is larger than the scan_limit of its collection: raise it while you search".to_owned()
        }
        _ => "reading it failed".to_owned(),
    }
}

pub async fn within<T, E: Into<Unsearched>>(
    limit: Duration,
    work: impl Future<Output = std::result::Result<T, E>>,
) -> std::result::Result<T, Unsearched> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(Unsearched::TimedOut(limit)),
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

/// The tables of each collection that told them, each with the columns that are compared in it, if it was read. Identifiers are not in
/// the names.
type Listed<'a> = BTreeMap<&'a str, BTreeMap<String, Option<Named>>>;

/// A table, and which of its columns identify subjects, with their labels.
pub struct Opened {
    pub source: SourceTable,
    pub identifying: Vec<(String, Vec<String>)>,
}

impl Search<'_> {
    /// Looks in all tables. What was found before, and what were gaps, is looked for where it was, also if rules or collections are
    /// others now.
    pub async fn run(&self, targets: &Targets, before: Option<&Request>) -> Found {
        let (mut found, mut listed) = (Found::default(), Listed::new());
        let names = Names::new(targets);
        if self.collections.is_empty() {
            found.gap(Gap::new("*", Unsearched::NoCollections));
        }
        for (name, collection) in self.collections {
            let whole = TableName::new(name, "*");
            if self.subject.is_in_none_of(name) {
                found.excepted += 1;
                continue;
            }
            let operator = Caller::operator();
            let begun = within(LONGEST_TO_OPEN, async {
                let begun = collection.begin(&operator).await?.unwrap_or_else(|| Arc::clone(collection));
                let tables = begun.tables().await?;
                Ok::<_, CollectionError>((begun, tables))
            });
            let (begun, tables) = match begun.await {
                Ok((begun, tables)) if !tables.is_empty() => (begun, tables),
                // Such as where a disk is not mounted, or a right was revoked.
                Ok(_) => {
                    found.gap(Gap::new(&whole, Unsearched::NoTables));
                    listed.entry(name).or_default();
                    continue;
                }
                Err(why) => {
                    found.gap(Gap::new(&whole, why));
                    continue;
                }
            };
            let listed = listed.entry(name).or_default();
            for table in tables {
                let cleaned = names.clean(&table);
                let compared =
                    self.table(begun.as_ref(), &TableName::new(name, table), targets, &mut found).await;
                let clean = |(column, label): (String, String)| (names.clean(&column), label);
                listed.insert(cleaned, compared.map(|compared| compared.into_iter().map(clean).collect()));
            }
            match within(LONGEST_TO_OPEN, begun.left_out()).await {
                Ok(names) if names.is_empty() => {}
                Ok(mut names) => {
                    let mut gap = Gap::new(&whole, format!("{} files are in no table", names.len()));
                    names.truncate(NAMES_TOLD);
                    gap.names = names;
                    found.gap(gap);
                }
                Err(why) => found.gap(Gap::new(&whole, why)),
            }
        }
        if let Some(before) = before {
            self.look_back(before, &listed, &mut found);
        }
        found.looked_for =
            targets.iter().map(|(label, target)| (label.clone(), target.known.len() as u64)).collect();
        found.looked_for.retain(|_, count| *count > 0);
        found
    }

    /// Tables that had rows of the subject, or were gaps, and are not looked at any more, or not by the columns that named it. What is not
    /// there may be erased, or hidden from the perimeter: somebody has to say so.
    fn look_back(&self, before: &Request, listed: &Listed<'_>, found: &mut Found) {
        for (table, columns) in &before.seen {
            let of_collection = listed.get(table.collection.as_str());
            let compared = of_collection.map(|tables| tables.get(&table.table));
            let why = if !self.collections.contains_key(&table.collection) {
                "its collection is not in the configuration any more"
            } else if self.subject.is_not_in(table) {
                "it had rows of the subject, and the rules except it now"
            } else if matches!(compared, Some(None)) {
                "it had rows of the subject, and is not there any more: accept it if it was erased"
            } else if matches!(compared, Some(Some(Some(compared))) if !columns.is_subset(compared)) {
                "it had rows of the subject, and a column that named it there is not compared now"
            } else {
                continue;
            };
            found.gap(Gap::new(table, why));
        }
        for gap in before.found.gaps.iter().chain(&before.last_found().gaps) {
            let (collection, table) = gap.table.split_once('.').unwrap_or(("", "*"));
            let is_gone = match (self.collections.contains_key(collection), table) {
                // Of what was beyond a bound nobody knows where it was.
                (false, _) => true,
                (true, "*") => false,
                (true, table) => {
                    listed.get(collection).is_some_and(|tables| !tables.contains_key(table))
                        && !self.subject.is_not_in(&TableName::new(collection, table))
                }
            };
            if is_gone && !found.gaps.iter().any(|known| known.table == gap.table) {
                found.gap(gap.clone());
            }
        }
    }

    async fn table(
        &self,
        collection: &dyn Collection,
        name: &TableName,
        targets: &Targets,
        found: &mut Found,
    ) -> Option<Vec<(String, String)>> {
        if self.subject.is_not_in(name) {
            found.excepted += 1;
            return None;
        }
        (self.progress)(&format!("searching {name}"));
        match self.read(collection, name, targets, found).await {
            Ok(compared) => {
                found.searched += 1;
                Some(compared)
            }
            Err(why) => {
                found.gap(Gap::new(name, why));
                None
            }
        }
    }

    /// Returns the columns that were compared, each with its label.
    async fn read(
        &self,
        collection: &dyn Collection,
        name: &TableName,
        targets: &Targets,
        found: &mut Found,
    ) -> std::result::Result<Vec<(String, String)>, Unsearched> {
        let Opened { source, identifying } = self.opened(collection, name).await?;
        for (column, label) in identifying.iter().flat_map(|(c, all)| all.iter().map(move |l| (c, l))) {
            if !targets.contains_key(label) {
                let (column, label) = (column.clone(), label.clone());
                found.gap(Gap::new(name, Unsearched::NoIdentifier { column, label }));
            }
        }
        let parts = within(LONGEST_TO_OPEN, collection.parts(&name.table)).await?;
        let keeping = within(LONGEST_TO_OPEN, collection.keeping(&name.table)).await?;
        let whole = parts.is_empty().then_some((None, source));
        for (file, source) in parts.into_iter().map(|(file, s)| (Some(file), s)).chain(whole) {
            let provider = Arc::clone(&source.provider);
            let tallies = within(LONGEST_TO_READ, rows(provider, &identifying, targets)).await?;
            for (column, count) in misfits(&(source.provenance.0)(), &identifying) {
                found.gap(Gap::new(name, Unsearched::Misfits { column, count }));
            }
            for (partition, tally) in tallies.into_iter().filter(|(_, tally)| tally.rows > 0) {
                if found.places.len() >= PLACES_MAX {
                    return Err(Unsearched::TooManyPlaces);
                }
                found.places.push(place(collection.kind(), name, file.as_ref(), partition, tally, keeping));
            }
        }
        let pairs = |(column, labels): (String, Vec<String>)| {
            labels.into_iter().map(move |label| (column.clone(), label))
        };
        Ok(identifying.into_iter().flat_map(pairs).collect())
    }

    pub async fn opened(
        &self,
        collection: &dyn Collection,
        name: &TableName,
    ) -> std::result::Result<Opened, Unsearched> {
        let operator = Caller::operator();
        let source = within(LONGEST_TO_OPEN, find(collection, &name.table, &operator)).await?;
        let source = source.ok_or(Unsearched::Gone)?;
        let columns = self.labelled.columns(collection.kind(), &name.table, source.columns.clone());
        let labels = self.rules.labels_of(name, &columns);
        let mut identifying = Vec::new();
        for (column, mut labels) in columns.into_iter().zip(labels).filter(|(column, _)| identifies(column)) {
            labels = labels.iter().map(|label| folded(label)).collect();
            labels.retain(|label| self.subject.labels.contains(label));
            if labels.is_empty() {
                continue;
            }
            if !is_compared(&column.data_type) {
                return Err(Unsearched::Type(column.name));
            }
            identifying.push((column.name, labels));
        }
        if identifying.is_empty() {
            return Err(Unsearched::NoColumn(self.subject.name.clone()));
        }
        Ok(Opened { source, identifying })
    }

    /// The tables to which answers were written.
    fn written_to(&self) -> Vec<TableName> {
        let topics = self.labelled.topics();
        let tables = self.collections.iter().flat_map(|(name, collection)| {
            let written = topics.iter().filter(|topic| self.labelled.is_written_to(collection.kind(), topic));
            written.map(move |topic| TableName::new(name, topic))
        });
        tables.collect()
    }

    /// Adds an identifier that somebody gave, or that is linked, with what masks make of it.
    pub fn add(&self, targets: &mut Targets, label: &str, value: &str) {
        let mut all = forms_given(value);
        all.insert(value.to_owned());
        let written_to = self.written_to();
        let masked: Vec<String> =
            spellings(value).iter().flat_map(|spelt| self.rules.pseudonyms(spelt, &written_to)).collect();
        all.extend(masked.iter().flat_map(|masked| forms(masked)));
        let target = self.entry(targets, label);
        target.known.insert(value.to_owned());
        for form in all {
            target.hashes.insert(target.hasher.hash(&form));
            target.values.insert(form);
        }
    }

    pub fn entry<'t>(&self, targets: &'t mut Targets, label: &str) -> &'t mut Target {
        targets.entry(label.to_owned()).or_insert_with(|| Target {
            hasher: SubjectHasher::new(&self.subject.key, label),
            hashes: HashSet::new(),
            known: BTreeSet::new(),
            values: BTreeSet::new(),
        })
    }
}

/// Of columns that identify subjects, how many values do not fit; topics count those of all columns together.
pub fn misfits(told: &Value, identifying: &[(String, Vec<String>)]) -> Vec<(String, u64)> {
    match &told["misfits"] {
        Value::Object(by_column) => {
            let of = |(name, _): &(String, Vec<String>)| Some((name.clone(), by_column.get(name)?.as_u64()?));
            identifying.iter().filter_map(of).collect()
        }
        Value::Number(all) => vec![("its columns".to_owned(), all.as_u64().unwrap_or(u64::MAX))],
        _ => Vec::new(),
    }
}

fn place(
    kind: &str,
    name: &TableName,
    file: Option<&String>,
    partition: Option<i32>,
    tally: Tally,
    keeping: Option<Keeping>,
) -> Place {
    let until = keeping.and_then(|keeping| keeping.retention_ms).filter(|ms| *ms <= RETENTION_MS_MAX);
    let until = until.zip(tally.newest_ms);
    Place {
        table: name.clone(),
        kind: kind.to_owned(),
        file: file.cloned(),
        files: None,
        records: partition.map(|partition| Records { partition, first: tally.first, last: tally.last }),
        columns: tally.columns,
        rows: tally.rows,
        keeping,
        until: until.map(|(retention, newest)| utc::seconds(newest.saturating_add(retention))),
    }
}

#[cfg(test)]
pub fn place_of_topic(keeping: Keeping, newest_ms: i64) -> Place {
    let tally = Tally { newest_ms: Some(newest_ms), ..Tally::default() };
    place("topics", &TableName::new("events", "alarms"), None, Some(0), tally, Some(keeping))
}

/// What was found of one partition, or of a table without any.
#[derive(Debug, Default)]
struct Tally {
    rows: u64,
    columns: BTreeMap<String, String>,
    first: i64,
    last: i64,
    /// Of all records of the partition: older ones go first.
    newest_ms: Option<i64>,
}

/// A whole record has all labels of its topic, and is compared with no identifier.
fn identifies(column: &ColumnInfo) -> bool {
    column.holds != Holds::Everything || column.name == MetaColumn::Key.name()
}

pub fn column(name: &str) -> Expr {
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
    let frame = SessionContext::new().read_table(provider)?;
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
    let mut hits: BTreeMap<usize, BTreeMap<&String, &String>> = BTreeMap::new();
    for (at, (name, labels)) in identifying.iter().enumerate() {
        for (label, target) in labels.iter().filter_map(|label| Some((label, targets.get(label)?))) {
            target.hasher.each(batch.column(at).as_ref(), &mut |row, hash| {
                if target.hashes.contains(&hash) {
                    hits.entry(row).or_default().insert(name, label);
                }
            })?;
        }
    }
    let owned = |(name, label): (&String, &String)| (name.clone(), label.clone());
    if !is_topic {
        let tally: &mut Tally = tallies.entry(None).or_default();
        tally.rows += hits.len() as u64;
        tally.columns.extend(hits.into_values().flatten().map(owned));
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
        let Some(columns) = hits.remove(&row) else { continue };
        let offset = offsets.value(row);
        tally.first = if tally.rows == 0 { offset } else { tally.first.min(offset) };
        tally.last = tally.last.max(offset);
        tally.rows += 1;
        tally.columns.extend(columns.into_iter().map(owned));
    }
    Ok(())
}
