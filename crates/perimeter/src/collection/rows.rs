//! Rows of a source while they become batches: bounded in rows and bytes, with the values counted that do not fit their columns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use kafscale_core::sql_schema::{SqlColumn, SqlType};
use kafscale_sql::topic::cell::Cell;
use kafscale_sql::topic::layout::data_type;
use kafscale_sql::topic::values::ValueBuilder;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// A batch is given when it has so many rows,
pub const BATCH_ROWS: usize = 8 << 10;
/// or when its values have so many bytes.
pub const BATCH_BYTES: usize = 4 << 20;

/// What was read of a table, for the provenance of an answer.
#[derive(Debug, Default)]
pub struct Tally {
    rows: AtomicU64,
    misfits: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    /// How many rows were read, and of which columns how many values do not fit and are NULL.
    pub fn told(&self) -> Value {
        let mut told = json!({ "rows_read": self.rows.load(Ordering::Relaxed) });
        let misfits = self.misfits.lock();
        if !misfits.is_empty() {
            told["misfits"] = json!(*misfits);
        }
        told
    }

    pub fn add_rows(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }

    pub fn add_misfits(&self, column: &str, count: u64) {
        if count > 0 {
            *self.misfits.lock().entry(column.to_owned()).or_default() += count;
        }
    }
}

pub fn schema_of<'a>(columns: impl IntoIterator<Item = &'a SqlColumn>) -> SchemaRef {
    let field = |column: &SqlColumn| Field::new(&column.name, data_type(column.sql_type), true);
    Arc::new(Schema::new(columns.into_iter().map(field).collect::<Vec<_>>()))
}

/// See the file's comment. Of each row, every column is put once, then the row is ended.
pub struct Rows {
    schema: SchemaRef,
    types: Vec<SqlType>,
    builders: Vec<ValueBuilder>,
    misfits: Vec<u64>,
    rows: usize,
    bytes: usize,
    tally: Arc<Tally>,
}

impl Rows {
    pub fn new(columns: &[SqlColumn], tally: Arc<Tally>) -> Rows {
        let types: Vec<SqlType> = columns.iter().map(|column| column.sql_type).collect();
        Rows {
            schema: schema_of(columns),
            builders: builders(&types),
            misfits: vec![0; types.len()],
            types,
            rows: 0,
            bytes: 0,
            tally,
        }
    }

    /// [`Cell::Misfit`] where the source has something that cannot be a value of the column.
    pub fn put(&mut self, column: usize, cell: &Cell<'_>) {
        self.bytes += match cell {
            Cell::Text(text) | Cell::Json(text) => text.len(),
            Cell::Bytes(bytes) => bytes.len(),
            _ => 8,
        };
        let fits = self.builders[column].append(cell);
        self.misfits[column] += u64::from(!fits);
    }

    pub fn end_row(&mut self) {
        self.rows += 1;
    }

    pub fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    /// The rows so far; None where there are none.
    pub fn take(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        if self.rows == 0 {
            return Ok(None);
        }
        self.tally.add_rows(self.rows as u64);
        for (field, misfits) in self.schema.fields().iter().zip(&mut self.misfits) {
            self.tally.add_misfits(field.name(), std::mem::take(misfits));
        }
        let columns = self.builders.iter_mut().map(ValueBuilder::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        self.builders = builders(&self.types);
        (self.rows, self.bytes) = (0, 0);
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).map(Some)
    }
}

fn builders(types: &[SqlType]) -> Vec<ValueBuilder> {
    types.iter().map(|sql_type| ValueBuilder::new(*sql_type, 0)).collect()
}
