//! The columns of a topic: those that every topic has, then those of its values.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use kafscale_core::sql_schema::{SqlColumn, SqlType};

use super::reader::Source;

/// How values are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueFormat {
    Json,
    Csv,
    Text,
    Raw,
    Avro,
    Protobuf,
}

impl ValueFormat {
    const ALL: [ValueFormat; 6] = [
        ValueFormat::Json,
        ValueFormat::Csv,
        ValueFormat::Text,
        ValueFormat::Raw,
        ValueFormat::Avro,
        ValueFormat::Protobuf,
    ];

    pub fn name(self) -> &'static str {
        match self {
            ValueFormat::Json => "json",
            ValueFormat::Csv => "csv",
            ValueFormat::Text => "text",
            ValueFormat::Raw => "raw",
            ValueFormat::Avro => "avro",
            ValueFormat::Protobuf => "protobuf",
        }
    }

    pub fn of(name: &str) -> Option<ValueFormat> {
        ValueFormat::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Whether keys, and values as they are, are shown as text.
    pub fn has_text(self) -> (bool, bool) {
        match self {
            ValueFormat::Json | ValueFormat::Csv | ValueFormat::Text => (true, true),
            // Keys are mostly written by a serializer of their own.
            ValueFormat::Avro | ValueFormat::Protobuf => (true, false),
            ValueFormat::Raw => (false, false),
        }
    }
}

/// A column that every topic has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaColumn {
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    Value,
    Headers,
    Segment,
}

impl MetaColumn {
    pub const ALL: [MetaColumn; 8] = [
        MetaColumn::Topic,
        MetaColumn::Partition,
        MetaColumn::Offset,
        MetaColumn::Timestamp,
        MetaColumn::Key,
        MetaColumn::Value,
        MetaColumn::Headers,
        MetaColumn::Segment,
    ];

    pub fn name(self) -> &'static str {
        match self {
            MetaColumn::Topic => "_topic",
            MetaColumn::Partition => "_partition",
            MetaColumn::Offset => "_offset",
            MetaColumn::Timestamp => "_ts",
            MetaColumn::Key => "_key",
            MetaColumn::Value => "_value",
            MetaColumn::Headers => "_headers",
            MetaColumn::Segment => "_segment",
        }
    }

    fn field(self, format: ValueFormat) -> Field {
        let bytes = |is_text: bool| if is_text { DataType::Utf8View } else { DataType::BinaryView };
        let (text_keys, text_values) = format.has_text();
        match self {
            MetaColumn::Topic | MetaColumn::Segment => Field::new(self.name(), DataType::Utf8View, false),
            MetaColumn::Partition => Field::new(self.name(), DataType::Int32, false),
            MetaColumn::Offset => Field::new(self.name(), DataType::Int64, false),
            MetaColumn::Timestamp => Field::new(self.name(), timestamp(), true),
            MetaColumn::Key => Field::new(self.name(), bytes(text_keys), true),
            MetaColumn::Value => Field::new(self.name(), bytes(text_values), true),
            MetaColumn::Headers => json_field(self.name()),
        }
    }
}

/// Milliseconds in UTC, as Kafka has them.
pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

/// Marks a column of text that holds JSON, for clients.
pub const JSON_MARK: &str = "kafscale.json";

fn json_field(name: &str) -> Field {
    Field::new(name, DataType::Utf8View, true)
        .with_metadata(HashMap::from([(JSON_MARK.to_owned(), String::new())]))
}

/// What a sample showed, where nothing is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    pub records: usize,
}

/// The columns of a topic.
#[derive(Debug)]
pub struct Layout {
    pub topic: Arc<str>,
    pub format: ValueFormat,
    /// Those of the values, which stand behind the others.
    pub columns: Vec<SqlColumn>,
    /// `None`: they are declared.
    pub inferred: Option<Sample>,
    /// Where the columns of Avro and Protobuf come from, and how their values are read.
    pub source: Option<Source>,
    pub schema: SchemaRef,
}

/// A column of a topic, by its place in the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    Meta(MetaColumn),
    /// The place among those of the values.
    Value(usize),
}

impl Layout {
    pub fn new(
        topic: &str,
        format: ValueFormat,
        columns: Vec<SqlColumn>,
        inferred: Option<Sample>,
    ) -> Layout {
        let meta = MetaColumn::ALL.iter().map(|column| column.field(format));
        let fields: Vec<Field> = meta.chain(columns.iter().map(field_of)).collect();
        let schema = Arc::new(Schema::new(fields));
        Layout { topic: topic.into(), format, columns, inferred, source: None, schema }
    }

    /// With the columns of a schema. A field with the name of a column that every topic has is none.
    pub fn of_schema(topic: &str, source: Source) -> Layout {
        let layout = Layout::new(topic, source.format(), source.columns(), None);
        Layout { source: Some(source), ..layout }
    }

    pub fn column(&self, index: usize) -> Column {
        match MetaColumn::ALL.get(index) {
            Some(meta) => Column::Meta(*meta),
            None => Column::Value(index - MetaColumn::ALL.len()),
        }
    }
}

fn field_of(column: &SqlColumn) -> Field {
    match column.sql_type {
        SqlType::Json => json_field(&column.name),
        other => Field::new(&column.name, data_type(other), true),
    }
}

/// The type of a column in an answer.
pub fn data_type(sql_type: SqlType) -> DataType {
    match sql_type {
        SqlType::Boolean => DataType::Boolean,
        SqlType::Int4 => DataType::Int32,
        SqlType::Int8 => DataType::Int64,
        SqlType::Float4 => DataType::Float32,
        SqlType::Float8 => DataType::Float64,
        SqlType::Numeric(precision, scale) => DataType::Decimal128(precision, scale.cast_signed()),
        SqlType::Text | SqlType::Json => DataType::Utf8View,
        SqlType::Bytea => DataType::BinaryView,
        SqlType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        SqlType::LocalTimestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        SqlType::Date => DataType::Date32,
        SqlType::Time => DataType::Time64(TimeUnit::Microsecond),
    }
}
