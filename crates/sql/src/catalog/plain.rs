//! Tables that are made when they are asked for, of rows that somebody lists: the schemas `kafscale`, `pg_catalog` and
//! `information_schema`.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::builder::{
    ArrayBuilder, BooleanBuilder, Int16Builder, Int32Builder, Int64Builder, ListBuilder, StringBuilder,
    TimestampMillisecondBuilder,
};
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;

use crate::error::SqlError;
use crate::topic::layout::timestamp;

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Null,
    Bool(bool),
    Int(i64),
    Text(String),
    /// Milliseconds since 1970.
    Time(i64),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::Text(text)
    }
}

impl From<bool> for Cell {
    fn from(value: bool) -> Cell {
        Cell::Bool(value)
    }
}

impl From<i32> for Cell {
    fn from(value: i32) -> Cell {
        Cell::Int(value.into())
    }
}

impl From<i64> for Cell {
    fn from(value: i64) -> Cell {
        Cell::Int(value)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Cell {
        value.map_or(Cell::Null, Into::into)
    }
}

pub type Row = Vec<Cell>;

/// What a query asks columns to be equal to, by their names. Rows that are not asked for need not be made.
#[derive(Debug, Default)]
pub struct Asked(HashMap<String, String>);

impl Asked {
    fn of(filters: &[Expr]) -> Asked {
        let mut asked = HashMap::new();
        for filter in filters {
            if let Some((column, value)) = equality(filter) {
                asked.insert(column, value);
            }
        }
        Asked(asked)
    }

    /// Whether a row with this value in a column may be asked for.
    pub fn may_be(&self, column: &str, value: &str) -> bool {
        self.0.get(column).is_none_or(|asked| asked == value)
    }
}

fn equality(filter: &Expr) -> Option<(String, String)> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = filter else { return None };
    match (&**left, &**right) {
        (Expr::Column(column), Expr::Literal(value, _)) | (Expr::Literal(value, _), Expr::Column(column)) => {
            let text = match value {
                ScalarValue::Utf8(text) | ScalarValue::Utf8View(text) => text.clone()?,
                ScalarValue::Int32(Some(number)) => number.to_string(),
                ScalarValue::Int64(Some(number)) => number.to_string(),
                _ => return None,
            };
            Some((column.name.clone(), text))
        }
        _ => None,
    }
}

/// Lists the rows of a table.
#[async_trait]
pub trait Rows: Debug + Send + Sync {
    async fn rows(&self, asked: &Asked) -> std::result::Result<Vec<Row>, SqlError>;
}

/// A table that never has rows.
#[derive(Debug)]
pub struct Nothing;

#[async_trait]
impl Rows for Nothing {
    async fn rows(&self, _: &Asked) -> std::result::Result<Vec<Row>, SqlError> {
        Ok(Vec::new())
    }
}

#[derive(Debug)]
pub struct PlainTable {
    schema: SchemaRef,
    rows: Arc<dyn Rows>,
}

impl PlainTable {
    /// `columns` as in `name text, partitions int4`.
    pub fn new(columns: &str, rows: Arc<dyn Rows>) -> PlainTable {
        PlainTable { schema: schema_of(columns), rows }
    }
}

/// Marks a number that clients are told is an oid.
const OID_MARK: &str = arrow_pg::datatypes::PG_OID_ALIAS_KEY;

/// The columns of `name type, name type`, which is written in this program.
pub fn schema_of(columns: &str) -> SchemaRef {
    let field = |column: &str| {
        let (name, kind) = column.trim().split_once(' ').expect("a name and a type");
        let (kind, is_list) = kind.strip_suffix("[]").map_or((kind, false), |kind| (kind, true));
        let data_type = match kind {
            "text" => DataType::Utf8,
            "bool" => DataType::Boolean,
            "int2" => DataType::Int16,
            "int4" | "oid" => DataType::Int32,
            "int8" => DataType::Int64,
            "timestamptz" => timestamp(),
            other => unreachable!("{other} is no type of these tables"),
        };
        if is_list {
            return Field::new_list(name, Field::new_list_field(data_type, true), true);
        }
        let field = Field::new(name, data_type, true);
        match kind {
            "oid" => field.with_metadata(HashMap::from([(OID_MARK.to_owned(), "oid".to_owned())])),
            _ => field,
        }
    };
    Arc::new(Schema::new(columns.split(',').map(field).collect::<Vec<Field>>()))
}

/// Rows as columns; what does not fit its column is NULL.
fn batch_of(schema: &SchemaRef, rows: &[Row]) -> Result<RecordBatch> {
    let column = |(at, field): (usize, &Arc<Field>)| -> ArrayRef {
        let cells = rows.iter().map(|row| &row[at]);
        match field.data_type() {
            DataType::Boolean => {
                let mut builder = BooleanBuilder::new();
                cells.for_each(|cell| builder.append_option(bool_of(cell)));
                Arc::new(builder.finish())
            }
            DataType::Int16 => {
                let mut builder = Int16Builder::new();
                cells.for_each(|cell| builder.append_option(int_of(cell).and_then(|n| n.try_into().ok())));
                Arc::new(builder.finish())
            }
            DataType::Int32 => {
                let mut builder = Int32Builder::new();
                cells.for_each(|cell| builder.append_option(int_of(cell).and_then(|n| n.try_into().ok())));
                Arc::new(builder.finish())
            }
            DataType::Int64 => {
                let mut builder = Int64Builder::new();
                cells.for_each(|cell| builder.append_option(int_of(cell)));
                Arc::new(builder.finish())
            }
            DataType::Timestamp(..) => {
                let mut builder = TimestampMillisecondBuilder::new().with_timezone("UTC");
                cells.for_each(|cell| builder.append_option(time_of(cell)));
                Arc::new(builder.finish())
            }
            DataType::List(item) => no_lists(item.data_type(), rows.len()),
            _ => {
                let mut builder = StringBuilder::new();
                cells.for_each(|cell| builder.append_option(text_of(cell)));
                Arc::new(builder.finish())
            }
        }
    };
    let columns: Vec<ArrayRef> = schema.fields().iter().enumerate().map(column).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

/// No table has a list in a row so far.
fn no_lists(item: &DataType, rows: usize) -> ArrayRef {
    fn nulls<B: ArrayBuilder>(items: B, rows: usize) -> ArrayRef {
        let mut builder = ListBuilder::new(items);
        for _ in 0..rows {
            builder.append_null();
        }
        Arc::new(builder.finish())
    }
    match item {
        DataType::Int16 => nulls(Int16Builder::new(), rows),
        DataType::Int32 => nulls(Int32Builder::new(), rows),
        _ => nulls(StringBuilder::new(), rows),
    }
}

fn bool_of(cell: &Cell) -> Option<bool> {
    if let Cell::Bool(value) = cell { Some(*value) } else { None }
}

fn int_of(cell: &Cell) -> Option<i64> {
    if let Cell::Int(value) = cell { Some(*value) } else { None }
}

fn time_of(cell: &Cell) -> Option<i64> {
    if let Cell::Time(value) = cell { Some(*value) } else { None }
}

fn text_of(cell: &Cell) -> Option<&str> {
    if let Cell::Text(text) = cell { Some(text) } else { None }
}

#[async_trait]
impl TableProvider for PlainTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let treated = |filter: &&Expr| match equality(filter) {
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(treated).collect())
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = self.rows.rows(&Asked::of(filters)).await?;
        let batch = batch_of(&self.schema, &rows)?;
        let exec =
            MemorySourceConfig::try_new_exec(&[vec![batch]], Arc::clone(&self.schema), projection.cloned())?;
        Ok(exec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns_of_their_types() {
        let schema = schema_of("a text, b int4, c oid, d bool, e timestamptz, f int2[]");
        let row = vec!["x".into(), 1.into(), 2.into(), true.into(), Cell::Time(3), Cell::Null];
        let batch = batch_of(&schema, &[row, vec![Cell::Null; 6]]).unwrap();
        assert_eq!(batch.num_rows(), 2);
        assert_eq!(schema.field(2).metadata().get("pg.oid_alias").map(String::as_str), Some("oid"));
        assert!(batch.columns().iter().all(|column| column.is_null(1)));
    }
}
