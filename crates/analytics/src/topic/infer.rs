//! The columns of topics: declared by topic settings, or inferred from some of the records, and remembered for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, pin_mut};
use indexmap::IndexMap;
use kafscale_core::batch::BatchHeader;
use kafscale_core::record_view::views;
use kafscale_core::records::inflate;
use kafscale_core::sql_schema::{self, SqlColumn, SqlType};
use kafscale_storage::scan::{Bounds, ScanError, ScannedBatch, Snapshot};
use parking_lot::Mutex;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::layout::{Layout, MetaColumn, Sample, ValueFormat};
use crate::error::SqlError;

/// What was inferred is inferred again after this long: a topic that was empty may have records now, others new fields.
const REMEMBERED: Duration = Duration::from_secs(60);
/// The sample: so many partitions, and so many records at the beginning and the end of each.
const PARTITIONS: usize = 8;
const FIRST_RECORDS: i64 = 50;
const LAST_RECORDS: i64 = 150;
/// More columns than anybody looks at; the other fields are in `_value`.
const COLUMNS_MAX: usize = 500;

const FORMAT: &str = "kafscale.sql.format";
const SCHEMA: &str = "kafscale.sql.schema";

#[derive(Debug)]
struct Known {
    /// What decides, as it was then.
    settings: [Option<String>; 2],
    at: Instant,
    layout: Arc<Layout>,
}

/// The layouts of topics that were looked at.
#[derive(Debug, Default)]
pub struct Layouts {
    known: Mutex<HashMap<Uuid, Known>>,
}

impl Layouts {
    pub async fn of(&self, snapshot: &Snapshot) -> Result<Arc<Layout>, SqlError> {
        let topic = snapshot.topic();
        let settings = [FORMAT, SCHEMA].map(|name| topic.configs.get(name).cloned());
        if let Some(known) = self.known.lock().get(&topic.id)
            && known.settings == settings
            && (known.layout.inferred.is_none() || known.at.elapsed() < REMEMBERED)
        {
            return Ok(Arc::clone(&known.layout));
        }
        let layout = Arc::new(look(snapshot, &settings).await?);
        let known = Known { settings, at: Instant::now(), layout: Arc::clone(&layout) };
        self.known.lock().insert(topic.id, known);
        Ok(layout)
    }
}

async fn look(snapshot: &Snapshot, settings: &[Option<String>; 2]) -> Result<Layout, SqlError> {
    let topic = snapshot.topic();
    let [format, schema] = settings;
    let format = format.as_deref().and_then(|name| ValueFormat::of(name.trim()));
    let declared = sql_schema::parse(schema.as_deref().unwrap_or_default()).map_err(|e| {
        SqlError::BadValue(format!("the topic {} has a {SCHEMA} that is none: {e}", topic.name))
    })?;
    match (format, declared) {
        (Some(format @ (ValueFormat::Text | ValueFormat::Raw)), _) => {
            Ok(Layout::new(&topic.name, format, Vec::new(), None))
        }
        (Some(format), columns) if !columns.is_empty() => Ok(Layout::new(&topic.name, format, columns, None)),
        // Columns without a format are those of JSON.
        (None, columns) if !columns.is_empty() => {
            Ok(Layout::new(&topic.name, ValueFormat::Json, columns, None))
        }
        (format, _) => {
            let mut seen = Seen::default();
            sample(snapshot, &mut seen).await?;
            let format = format.unwrap_or_else(|| seen.format());
            let sample = Sample { records: seen.records };
            Ok(Layout::new(&topic.name, format, seen.columns(format), Some(sample)))
        }
    }
}

/// Looks at some of the records. What was deleted or cleaned away meanwhile is no reason against it.
async fn sample(snapshot: &Snapshot, seen: &mut Seen) -> Result<(), SqlError> {
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
                    Ok(batch) => seen.add(&batch, &offsets),
                    Err(ScanError::Removed { .. } | ScanError::Cleaned { .. }) => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    Ok(())
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
    /// Batches that cannot be read are for the query to complain about.
    fn add(&mut self, batch: &ScannedBatch, offsets: &std::ops::Range<i64>) {
        let header: &BatchHeader = &batch.header;
        if header.is_control() {
            return;
        }
        let Ok(body) = inflate(header, &batch.data) else { return };
        for record in views(&body, header.records_count).map_while(Result::ok) {
            if offsets.contains(&(header.base_offset.0.saturating_add(record.offset_delta))) {
                self.records += 1;
                let key_is_text = record.key.is_none_or(|key| std::str::from_utf8(key).is_ok());
                if let Some(value) = record.value {
                    self.add_value(value, key_is_text);
                }
            }
        }
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
            ValueFormat::Text | ValueFormat::Raw => Vec::new(),
            ValueFormat::Csv => (1..=self.csv_fields.min(COLUMNS_MAX))
                .map(|i| column(format!("c{i}"), SqlType::Text))
                .collect(),
            ValueFormat::Json => {
                let taken = |name: &String| MetaColumn::ALL.iter().any(|meta| meta.name() == name);
                let fields = self.fields.into_iter().filter(|(name, _)| !name.is_empty() && !taken(name));
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
