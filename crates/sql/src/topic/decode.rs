//! Stored batches to Arrow: only the columns that are wanted, straight into arrays.
//!
//! Left to others: which batches are read, and in which thread this runs.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::builder::{
    BinaryViewBuilder, Int64Builder, StringViewBuilder, TimestampMillisecondBuilder,
};
use arrow::array::{ArrayRef, Int32Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use kafscale_core::batch::{BatchHeader, Codec, NO_TIMESTAMP};
use kafscale_core::record_view::{RecordView, views};
use kafscale_core::records::{RecordsError, inflate};
use kafscale_storage::scan::ScannedBatch;

use super::cell::{Cell, hex, push_json};
use super::layout::{Column, Layout, MetaColumn};
use super::reader::{NoValue, Reader};
use super::registry::RegistryError;
use super::values::ValueBuilder;

/// Reasons why values do not fit that are told; others are only counted.
const REASONS: usize = 5;
/// Nested values of one stretch, as JSON. Hostile ones could be a hundred times what is stored.
const MAX_NESTED_BYTES: usize = 512 << 20;

/// Rows, and what did not become rows as one would expect.
#[derive(Debug)]
pub struct Decoded {
    pub rows: RecordBatch,
    /// Values, or fields of values, that do not fit the columns.
    pub misfits: u64,
    /// Why so many of them do not.
    pub reasons: BTreeMap<String, u64>,
    /// The offset behind the last row.
    pub next_offset: i64,
}

/// Why stored batches cannot be made into rows.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error(
        "the records of {topic}, partition {partition}, from offset {offset} on cannot be read: {source}"
    )]
    Records { topic: Arc<str>, partition: i32, offset: i64, source: RecordsError },
    #[error(transparent)]
    Registry(RegistryError),
    #[error(
        "the nested values of {topic}, partition {partition}, at offset {offset} take more than {MAX_NESTED_BYTES} bytes as JSON; \
         ask for other columns, or without these offsets"
    )]
    TooLarge { topic: Arc<str>, partition: i32, offset: i64 },
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

/// What is wanted of a topic's records.
#[derive(Debug)]
pub struct Decoder {
    layout: Arc<Layout>,
    projection: Vec<Column>,
    schema: SchemaRef,
    reader: Reader,
    /// The places of the wanted values among all of them, in the order of the projection.
    values: Vec<usize>,
    /// Whether the records must be looked at, and not only the headers of their batches.
    opens_records: bool,
}

impl Decoder {
    pub fn new(layout: Arc<Layout>, projection: &[usize], schema: SchemaRef) -> Decoder {
        let projection: Vec<Column> = projection.iter().map(|index| layout.column(*index)).collect();
        let value = |column: &Column| match column {
            Column::Value(place) => Some(*place),
            Column::Meta(_) => None,
        };
        let values: Vec<usize> = projection.iter().filter_map(value).collect();
        let reader = Reader::new(&layout, &values);
        let opens_records = projection.iter().any(|column| match column {
            Column::Meta(meta) => match meta {
                MetaColumn::Timestamp | MetaColumn::Key | MetaColumn::Value | MetaColumn::Headers => true,
                MetaColumn::Topic | MetaColumn::Partition | MetaColumn::Offset | MetaColumn::Segment => false,
            },
            Column::Value(_) => true,
        });
        Decoder { layout, projection, schema, reader, values, opens_records }
    }

    /// The records of batches of one partition that have offsets in a range.
    pub fn decode(&self, batches: &[ScannedBatch], offsets: &Range<i64>) -> Result<Decoded, DecodeError> {
        let expected: i32 = batches.iter().map(|batch| batch.header.records_count).sum();
        let mut rows = Rows::new(self, usize::try_from(expected).unwrap_or_default());
        for batch in batches {
            self.add_batch(batch, offsets, &mut rows)?;
        }
        let partition = batches.first().map_or(0, |batch| batch.partition);
        let (misfits, next_offset) = (rows.misfits, rows.next_offset);
        let reasons = std::mem::take(&mut rows.reasons);
        Ok(Decoded { rows: rows.finish(self, partition)?, misfits, reasons, next_offset })
    }

    fn add_batch(
        &self,
        batch: &ScannedBatch,
        offsets: &Range<i64>,
        rows: &mut Rows,
    ) -> Result<(), DecodeError> {
        let header = &batch.header;
        if header.is_control() {
            return Ok(());
        }
        // A batch without holes needs no look at its records where nothing of them is wanted.
        if !self.opens_records && header.records_count == header.last_offset_delta.saturating_add(1) {
            for offset in
                header.base_offset.0.max(offsets.start)..=header.last_offset().0.min(offsets.end - 1)
            {
                rows.add_offset(offset, &batch.object);
            }
            return Ok(());
        }
        let failed = |source: RecordsError| DecodeError::Records {
            topic: Arc::clone(&self.layout.topic),
            partition: batch.partition,
            offset: header.base_offset.0,
            source,
        };
        let inflated;
        let body = match header.codec() {
            Codec::None => &batch.data[BatchHeader::SIZE_BYTES..header.size_bytes],
            Codec::Gzip | Codec::Snappy | Codec::Lz4 | Codec::Zstd => {
                inflated = inflate(header, &batch.data).map_err(failed)?;
                &inflated[..]
            }
        };
        let mut cells = vec![Cell::Null; self.values.len()];
        for record in views(body, header.records_count) {
            let record = record.map_err(failed)?;
            let offset = header.base_offset.0.saturating_add(record.offset_delta);
            if offsets.contains(&offset) {
                rows.add_offset(offset, &batch.object);
                rows.add_meta(&record, header).map_err(failed)?;
                self.add_values(record.value, &mut cells, rows)?;
                if rows.nested_bytes > MAX_NESTED_BYTES {
                    let topic = Arc::clone(&self.layout.topic);
                    return Err(DecodeError::TooLarge { topic, partition: batch.partition, offset });
                }
            }
        }
        Ok(())
    }

    fn add_values<'a>(
        &self,
        value: Option<&'a [u8]>,
        cells: &mut [Cell<'a>],
        rows: &mut Rows,
    ) -> Result<(), DecodeError> {
        if cells.is_empty() {
            return Ok(());
        }
        cells.fill(Cell::Null);
        // A tombstone has no fields, and that is no misfit.
        if let Some(value) = value
            && let Err(why) = self.reader.read(value, cells)
        {
            cells.fill(Cell::Null);
            match why {
                NoValue::Bad => rows.misfits += 1,
                NoValue::Because(reason) => rows.add_misfit(reason),
                NoValue::Registry(error) => return Err(DecodeError::Registry(error)),
            }
        }
        for (builder, cell) in rows.values.iter_mut().zip(cells.iter()) {
            rows.misfits += u64::from(!builder.append(cell));
            if let Cell::Json(std::borrow::Cow::Owned(json)) = cell {
                rows.nested_bytes += json.len();
            }
        }
        Ok(())
    }
}

/// The fields of one line, as RFC 4180 has them. `None`: a quote is not closed.
pub fn split_csv(line: &str) -> Option<Vec<String>> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.trim_end_matches(['\r', '\n']).chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            other => field.push(other),
        }
    }
    fields.push(field);
    (!quoted).then_some(fields)
}

/// Keys or values, as text or as they are.
#[derive(Debug)]
enum Bytes {
    Text(StringViewBuilder),
    Raw(BinaryViewBuilder),
}

impl Bytes {
    fn new(is_text: bool) -> Bytes {
        if is_text { Bytes::Text(StringViewBuilder::new()) } else { Bytes::Raw(BinaryViewBuilder::new()) }
    }

    /// `false`: it is no text, and what is none of it is replaced.
    fn append(&mut self, bytes: Option<&[u8]>) -> bool {
        match self {
            Bytes::Raw(builder) => {
                builder.append_option(bytes);
                true
            }
            Bytes::Text(builder) => match bytes.map(String::from_utf8_lossy) {
                Some(text) => {
                    builder.append_value(&text);
                    matches!(text, std::borrow::Cow::Borrowed(_))
                }
                None => {
                    builder.append_null();
                    true
                }
            },
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Bytes::Text(builder) => Arc::new(builder.finish()),
            Bytes::Raw(builder) => Arc::new(builder.finish()),
        }
    }
}

/// Rows while they are built. What is not wanted has no builder.
struct Rows {
    count: usize,
    offset: Option<Int64Builder>,
    timestamp: Option<TimestampMillisecondBuilder>,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Option<StringViewBuilder>,
    segment: Option<StringViewBuilder>,
    /// In the order of the projection.
    values: Vec<ValueBuilder>,
    misfits: u64,
    reasons: BTreeMap<String, u64>,
    nested_bytes: usize,
    next_offset: i64,
}

impl Rows {
    fn new(decoder: &Decoder, rows: usize) -> Rows {
        let (layout, wants) =
            (&decoder.layout, |meta: MetaColumn| decoder.projection.contains(&Column::Meta(meta)));
        let timestamps = || TimestampMillisecondBuilder::with_capacity(rows).with_timezone("UTC");
        let typed = |place: &usize| ValueBuilder::new(layout.columns[*place].sql_type, rows);
        let (text_keys, text_values) = layout.format.has_text();
        Rows {
            count: 0,
            offset: wants(MetaColumn::Offset).then(|| Int64Builder::with_capacity(rows)),
            timestamp: wants(MetaColumn::Timestamp).then(timestamps),
            key: wants(MetaColumn::Key).then(|| Bytes::new(text_keys)),
            value: wants(MetaColumn::Value).then(|| Bytes::new(text_values)),
            headers: wants(MetaColumn::Headers).then(|| StringViewBuilder::with_capacity(rows)),
            segment: wants(MetaColumn::Segment).then(|| StringViewBuilder::with_capacity(rows)),
            values: decoder.values.iter().map(typed).collect(),
            misfits: 0,
            reasons: BTreeMap::new(),
            nested_bytes: 0,
            next_offset: i64::MIN,
        }
    }

    fn add_misfit(&mut self, reason: String) {
        self.misfits += 1;
        if self.reasons.len() < REASONS || self.reasons.contains_key(&reason) {
            *self.reasons.entry(reason).or_default() += 1;
        }
    }

    fn add_offset(&mut self, offset: i64, object: &str) {
        self.count += 1;
        self.next_offset = offset.saturating_add(1);
        if let Some(builder) = &mut self.offset {
            builder.append_value(offset);
        }
        if let Some(builder) = &mut self.segment {
            builder.append_value(object);
        }
    }

    fn add_meta(&mut self, record: &RecordView<'_>, header: &BatchHeader) -> Result<(), RecordsError> {
        if let Some(builder) = &mut self.timestamp {
            let ms = match header.is_log_append_time() {
                true => header.max_timestamp_ms,
                false => header.base_timestamp_ms.saturating_add(record.timestamp_delta),
            };
            builder.append_option((ms != NO_TIMESTAMP).then_some(ms));
        }
        if let Some(builder) = &mut self.key {
            self.misfits += u64::from(!builder.append(record.key));
        }
        if let Some(builder) = &mut self.value {
            self.misfits += u64::from(!builder.append(record.value));
        }
        if let Some(builder) = &mut self.headers {
            builder.append_value(headers_json(record)?);
        }
        Ok(())
    }

    fn finish(mut self, decoder: &Decoder, partition: i32) -> Result<RecordBatch, ArrowError> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(decoder.projection.len());
        let mut values = self.values.iter_mut();
        for column in &decoder.projection {
            columns.push(match column {
                Column::Meta(MetaColumn::Topic) => repeated(&decoder.layout.topic, self.count),
                Column::Meta(MetaColumn::Partition) => {
                    Arc::new(Int32Array::from_value(partition, self.count))
                }
                Column::Meta(MetaColumn::Offset) => Arc::new(built(&mut self.offset).finish()),
                Column::Meta(MetaColumn::Timestamp) => Arc::new(built(&mut self.timestamp).finish()),
                Column::Meta(MetaColumn::Key) => built(&mut self.key).finish(),
                Column::Meta(MetaColumn::Value) => built(&mut self.value).finish(),
                Column::Meta(MetaColumn::Headers) => Arc::new(built(&mut self.headers).finish()),
                Column::Meta(MetaColumn::Segment) => Arc::new(built(&mut self.segment).finish()),
                Column::Value(_) => values.next().expect("each wanted value has a builder").finish(),
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(self.count));
        RecordBatch::try_new_with_options(Arc::clone(&decoder.schema), columns, &options)
    }
}

fn built<T>(builder: &mut Option<T>) -> &mut T {
    builder.as_mut().expect("each wanted column has a builder")
}

fn repeated(text: &str, count: usize) -> ArrayRef {
    let mut builder = StringViewBuilder::with_capacity(count).with_deduplicate_strings();
    for _ in 0..count {
        builder.append_value(text);
    }
    Arc::new(builder.finish())
}

/// The headers as a JSON object. Kafka allows a name several times, and so does JSON as text. What is no text is written in hex, as
/// PostgreSQL writes bytes.
fn headers_json(record: &RecordView<'_>) -> Result<String, RecordsError> {
    let mut json = String::from("{");
    record.for_each_header(|name, value| {
        if json.len() > 1 {
            json.push_str(", ");
        }
        push_json(&mut json, &String::from_utf8_lossy(name));
        json.push_str(": ");
        match value.map(std::str::from_utf8) {
            None => json.push_str("null"),
            Some(Ok(text)) => push_json(&mut json, text),
            Some(Err(_)) => push_json(&mut json, &hex(value.unwrap_or_default())),
        }
    })?;
    json.push('}');
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_as_rfc_4180_says() {
        for (line, fields) in [
            ("a,b", vec!["a", "b"]),
            ("", vec![""]),
            ("a,,\r\n", vec!["a", "", ""]),
            (r#""a,b","c ""d""",e"#, vec!["a,b", r#"c "d""#, "e"]),
            (r#"a"b,c"#, vec![r#"a"b"#, "c"]),
        ] {
            assert_eq!(split_csv(line).unwrap(), fields, "{line}");
        }
        assert_eq!(split_csv(r#"a,"b"#), None);
    }
}
