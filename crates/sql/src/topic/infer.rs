//! The columns of topics: declared by topic settings, or inferred from some of the records, and remembered for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, pin_mut};
use indexmap::IndexMap;
use kafscale_core::batch::BatchHeader;
use kafscale_core::record_view::{RecordView, views};
use kafscale_core::records::inflate;
use kafscale_core::sql_schema::{self, Declared, SqlColumn, SqlType};
use kafscale_core::topic_config::SQL_SCHEMA;
use kafscale_storage::scan::{Bounds, ScanError, ScannedBatch, Snapshot};
use parking_lot::Mutex;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::layout::{Layout, MetaColumn, Sample, ValueFormat};
use super::schemas::{Schemas, Settings};
use crate::error::SqlError;

/// What was inferred is inferred again after this long: a topic that was empty may have records now, others new fields.
const REMEMBERED: Duration = Duration::from_secs(60);
/// The same where there was no record: with the first one there are columns.
const REMEMBERED_EMPTY: Duration = Duration::from_secs(1);
/// What was refused is not tried again at once.
const REFUSED: Duration = Duration::from_secs(5);
/// Of a value, what says which schema it has.
const HEAD_BYTES: usize = 400;
/// The sample: so many partitions, and so many records at the beginning and the end of each.
const PARTITIONS: usize = 8;
const FIRST_RECORDS: i64 = 50;
const LAST_RECORDS: i64 = 150;
/// More columns than anybody looks at; the other fields are in `_value`.
const COLUMNS_MAX: usize = 500;

#[derive(Debug)]
struct Known {
    /// What decides, as it was then.
    settings: Settings,
    at: Instant,
    layout: Result<Arc<Layout>, SqlError>,
}

impl Known {
    fn is_fresh(&self) -> bool {
        match &self.layout {
            Ok(layout) if layout.inferred.is_none() && layout.source.is_none() => true,
            Ok(layout) if layout.inferred.as_ref().is_some_and(|sample| sample.records == 0) => {
                self.at.elapsed() < REMEMBERED_EMPTY
            }
            Ok(_) => self.at.elapsed() < REMEMBERED,
            Err(_) => self.at.elapsed() < REFUSED,
        }
    }
}

/// The layouts of topics that were looked at.
#[derive(Debug, Default)]
pub struct Layouts {
    schemas: Schemas,
    known: Mutex<HashMap<Uuid, Known>>,
}

impl Layouts {
    pub fn new(schemas: Schemas) -> Layouts {
        Layouts { schemas, known: Mutex::default() }
    }

    pub async fn of(&self, snapshot: &Snapshot) -> Result<Arc<Layout>, SqlError> {
        let topic = snapshot.topic();
        let settings = self.schemas.settings(topic);
        let mut before = None;
        if let Some(known) = self.known.lock().get(&topic.id)
            && known.settings == settings
        {
            if known.is_fresh() {
                return known.layout.clone();
            }
            before = known.layout.as_ref().ok().cloned();
        }
        let layout = match (look(&self.schemas, snapshot, &settings).await, before) {
            // While a registry is away, what it has said is still true.
            (Err(SqlError::Registry(_)), Some(before)) => Ok(before),
            (Err(error @ (SqlError::Registry(_) | SqlError::Schema { .. })), _) => Err(error),
            (looked, _) => Ok(Arc::new(looked?)),
        };
        let known = Known { settings, at: Instant::now(), layout: layout.clone() };
        self.known.lock().insert(topic.id, known);
        layout
    }

    /// For lists of topics: one whose schema is not to be had has no columns there, and the others have theirs.
    pub async fn listed(&self, snapshot: &Snapshot) -> Result<Arc<Layout>, SqlError> {
        match self.of(snapshot).await {
            Err(SqlError::Registry(_) | SqlError::Schema { .. }) => {
                let topic = snapshot.topic();
                let format = self.schemas.settings(topic).format.as_deref().and_then(ValueFormat::of);
                let format = format.unwrap_or(ValueFormat::Raw);
                Ok(Arc::new(Layout::new(&topic.name, format, Vec::new(), None)))
            }
            found => found,
        }
    }
}

async fn look(schemas: &Schemas, snapshot: &Snapshot, settings: &Settings) -> Result<Layout, SqlError> {
    let topic = snapshot.topic();
    let refused = |why: sql_schema::SchemaError| SqlError::Schema {
        topic: topic.name.clone(),
        why: format!("its {SQL_SCHEMA} is none: {why}"),
    };
    let declared = Declared::parse(settings.schema.as_deref().unwrap_or_default()).map_err(refused)?;
    declared.check(settings.format.as_deref()).map_err(refused)?;
    let format = settings.format.as_deref().and_then(|name| ValueFormat::of(name.trim()));
    match (format, declared) {
        (Some(format @ (ValueFormat::Text | ValueFormat::Raw)), _) => {
            Ok(Layout::new(&topic.name, format, Vec::new(), None))
        }
        (Some(format @ (ValueFormat::Avro | ValueFormat::Protobuf)), declared) => {
            let newest = async || newest_value(snapshot).await;
            match schemas.source(&topic.name, format, declared, newest).await? {
                Some(source) => Ok(Layout::of_schema(&topic.name, source)),
                None => Ok(Layout::new(&topic.name, format, Vec::new(), Some(Sample { records: 0 }))),
            }
        }
        // Columns without a format are those of JSON.
        (format, Declared::Columns(columns)) => {
            Ok(Layout::new(&topic.name, format.unwrap_or(ValueFormat::Json), columns, None))
        }
        (format, _) => {
            let mut seen = Seen::default();
            sample(snapshot, |batch, offsets| seen.add(batch, offsets)).await?;
            let format = format.unwrap_or_else(|| seen.format());
            let sample = Sample { records: seen.records };
            Ok(Layout::new(&topic.name, format, seen.columns(format), Some(sample)))
        }
    }
}

/// The newest value in the sample, by its time.
async fn newest_value(snapshot: &Snapshot) -> Result<Option<Vec<u8>>, SqlError> {
    let mut newest: Option<(i64, Vec<u8>)> = None;
    let add = |batch: &ScannedBatch, offsets: &std::ops::Range<i64>| {
        each_record(batch, offsets, |record| {
            let at = batch.header.base_timestamp_ms.saturating_add(record.timestamp_delta);
            if let Some(value) = record.value.filter(|value| value.first() == Some(&0))
                && newest.as_ref().is_none_or(|(other, _)| *other <= at)
            {
                // The id and the place of the message are at the beginning.
                newest = Some((at, value[..value.len().min(HEAD_BYTES)].to_vec()));
            }
        });
    };
    sample(snapshot, add).await?;
    Ok(newest.map(|(_, value)| value))
}

/// Looks at some of the records. What was deleted or cleaned away meanwhile is no reason against it.
async fn sample(
    snapshot: &Snapshot,
    mut add: impl FnMut(&ScannedBatch, &std::ops::Range<i64>),
) -> Result<(), SqlError> {
    let mut ranges = snapshot.ranges();
    ranges.sort_by_key(|range| std::cmp::Reverse(range.end - range.start));
    for range in ranges.iter().filter(|range| range.start < range.end).take(PARTITIONS) {
        let first = range.start..range.end.min(range.start + FIRST_RECORDS);
        let last = (range.end - LAST_RECORDS).max(first.end)..range.end;
        for offsets in [first, last] {
            let batches = snapshot.read(range.partition, Bounds::offsets(offsets.clone()));
            pin_mut!(batches);
            while let Some(batch) = batches.next().await {
                match batch {
                    Ok(batch) => add(&batch, &offsets),
                    Err(ScanError::Removed { .. } | ScanError::Cleaned { .. }) => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    Ok(())
}

/// Batches that cannot be read are for the query to complain about.
fn each_record(batch: &ScannedBatch, offsets: &std::ops::Range<i64>, mut add: impl FnMut(&RecordView<'_>)) {
    let header: &BatchHeader = &batch.header;
    if header.is_control() {
        return;
    }
    let Ok(body) = inflate(header, &batch.data) else { return };
    for record in views(&body, header.records_count).map_while(Result::ok) {
        if offsets.contains(&(header.base_offset.0.saturating_add(record.offset_delta))) {
            add(&record);
        }
    }
}

/// What the sampled values look like.
#[derive(Debug, Default)]
struct Seen {
    records: usize,
    /// Those with a value.
    values: usize,
    objects: usize,
    texts: usize,
    fields: IndexMap<String, SqlKind>,
    /// Of the longest line, where the values are lines.
    csv_fields: usize,
}

/// What the values of one field have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SqlKind {
    /// Only nulls so far.
    Nothing,
    Boolean,
    Whole,
    Number,
    Text,
    Nested,
    Mixed,
}

impl SqlKind {
    fn of(raw: &str) -> SqlKind {
        match raw.as_bytes().first() {
            Some(b'n') => SqlKind::Nothing,
            Some(b't' | b'f') => SqlKind::Boolean,
            Some(b'"') => SqlKind::Text,
            Some(b'{' | b'[') => SqlKind::Nested,
            _ if raw.parse::<i64>().is_ok() => SqlKind::Whole,
            _ => SqlKind::Number,
        }
    }

    fn and(self, other: SqlKind) -> SqlKind {
        match (self, other) {
            (SqlKind::Nothing, kind) | (kind, SqlKind::Nothing) => kind,
            (SqlKind::Whole, SqlKind::Number) | (SqlKind::Number, SqlKind::Whole) => SqlKind::Number,
            (one, two) if one == two => one,
            _ => SqlKind::Mixed,
        }
    }

    fn sql_type(self) -> SqlType {
        match self {
            SqlKind::Boolean => SqlType::Boolean,
            SqlKind::Whole => SqlType::Int8,
            SqlKind::Number => SqlType::Float8,
            SqlKind::Nothing | SqlKind::Text => SqlType::Text,
            SqlKind::Nested | SqlKind::Mixed => SqlType::Json,
        }
    }
}

impl Seen {
    fn add(&mut self, batch: &ScannedBatch, offsets: &std::ops::Range<i64>) {
        each_record(batch, offsets, |record| {
            self.records += 1;
            let key_is_text = record.key.is_none_or(|key| std::str::from_utf8(key).is_ok());
            if let Some(value) = record.value {
                self.add_value(value, key_is_text);
            }
        });
    }

    fn add_value(&mut self, value: &[u8], key_is_text: bool) {
        self.values += 1;
        let Ok(text) = std::str::from_utf8(value) else { return };
        self.texts += usize::from(key_is_text);
        self.csv_fields =
            self.csv_fields.max(super::decode::split_csv(text).map_or(0, |fields| fields.len()));
        let Ok(object) = serde_json::from_str::<IndexMap<String, &RawValue>>(text) else { return };
        self.objects += 1;
        for (name, raw) in object {
            let kind = SqlKind::of(raw.get());
            let is_full = self.fields.len() >= COLUMNS_MAX;
            if let Some(known) = self.fields.get_mut(&name) {
                *known = known.and(kind);
            } else if !is_full {
                self.fields.insert(name, kind);
            }
        }
    }

    /// JSON where most values are objects; text where all are text, keys included; bytes otherwise.
    fn format(&self) -> ValueFormat {
        match self {
            seen if seen.objects > 0 && seen.objects * 2 >= seen.values => ValueFormat::Json,
            seen if seen.texts == seen.values => ValueFormat::Text,
            _ => ValueFormat::Raw,
        }
    }

    fn columns(self, format: ValueFormat) -> Vec<SqlColumn> {
        let column = |name: String, sql_type: SqlType| SqlColumn { name, sql_type };
        match format {
            ValueFormat::Text | ValueFormat::Raw | ValueFormat::Avro | ValueFormat::Protobuf => Vec::new(),
            ValueFormat::Csv => (1..=self.csv_fields.min(COLUMNS_MAX))
                .map(|i| column(format!("c{i}"), SqlType::Text))
                .collect(),
            ValueFormat::Json => {
                let taken = |name: &String| MetaColumn::ALL.iter().any(|meta| meta.name() == name);
                // Nobody could write these: NUL ends a statement, and U+0001 is the engine's own mark.
                let has_mark = |name: &String| name.contains(['\0', '\u{1}']);
                let is_name = |name: &String| !name.is_empty() && !taken(name) && !has_mark(name);
                let fields = self.fields.into_iter().filter(|(name, _)| is_name(name));
                fields.map(|(name, kind)| column(name, kind.sql_type())).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(values: &[&[u8]]) -> Seen {
        let mut seen = Seen::default();
        for value in values {
            seen.add_value(value, true);
        }
        seen
    }

    #[test]
    fn columns_are_those_of_the_fields() {
        let seen = seen(&[
            br#"{"id":1,"price":2,"ok":null,"n":null,"m":1,"_offset":3,"tags":[1]}"#,
            br#"{"x\u0000y":1,"x\u0001y":1}"#,
            br#"{"price":2.5,"id":7,"ok":true,"m":"x","note":"a","tags":{}}"#,
        ]);
        assert_eq!(seen.format(), ValueFormat::Json);
        let columns: Vec<_> =
            seen.columns(ValueFormat::Json).into_iter().map(|c| (c.name, c.sql_type)).collect();
        let expected = [
            ("id", SqlType::Int8),
            ("price", SqlType::Float8),
            ("ok", SqlType::Boolean),
            ("n", SqlType::Text),
            ("m", SqlType::Json),
            ("tags", SqlType::Json),
            ("note", SqlType::Text),
        ];
        assert_eq!(columns, expected.map(|(name, sql_type)| (name.to_owned(), sql_type)));
    }

    #[test]
    fn the_format_is_that_of_most_values() {
        for (values, format) in [
            (vec![&b"{}"[..], b"x"], ValueFormat::Json),
            (vec![b"{}", b"x", b"y"], ValueFormat::Text),
            (vec![b"a,b", b""], ValueFormat::Text),
            (vec![b"a", b"\xff"], ValueFormat::Raw),
            (vec![], ValueFormat::Text),
        ] {
            assert_eq!(seen(&values).format(), format, "{values:?}");
        }
    }
}
