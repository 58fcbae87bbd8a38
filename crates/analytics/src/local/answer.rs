//! Answers of `--command` on standard output, as a table, CSV or JSON. But for the table, rows are written as they come.

use std::io::{self, Write};

use arrow::array::RecordBatch;
use arrow::csv::WriterBuilder as CsvBuilder;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::json::writer::{
    JsonArray, JsonFormat, LineDelimited, Writer as JsonWriter, WriterBuilder as JsonBuilder,
};
use arrow::util::pretty::pretty_format_batches_with_schema;
use futures_util::StreamExt as _;
use kafscale_settings::sql::Format;

use crate::engine::Running;
use crate::error::SqlError;

/// Why an answer could not be given.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error("the answer cannot be written: {0}")]
    Write(#[from] ArrowError),
}

impl AnswerError {
    /// Whoever reads has seen enough (`| head`).
    pub fn is_closed(&self) -> bool {
        let is_pipe = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
        match self {
            AnswerError::Write(ArrowError::IoError(_, e)) => is_pipe(e),
            AnswerError::Write(ArrowError::ExternalError(e)) => {
                e.downcast_ref::<io::Error>().is_some_and(is_pipe)
            }
            // The writer of CSV keeps the text only.
            AnswerError::Write(e) => e.to_string().contains("Broken pipe"),
            AnswerError::Sql(_) => false,
        }
    }
}

/// Writes all rows. Gives how many there were.
pub async fn write(running: Running, format: Format, out: impl Write) -> Result<usize, AnswerError> {
    match format {
        Format::Table => write_table(running, out).await,
        Format::Csv => {
            let mut writer = CsvBuilder::new().with_header(true).build(out);
            // The header stands also over nothing.
            writer.write(&RecordBatch::new_empty(running.schema.clone()))?;
            each(running, |batch| writer.write(batch)).await
        }
        Format::Json => write_json::<JsonArray>(running, out).await,
        Format::Ndjson => write_json::<LineDelimited>(running, out).await,
    }
}

async fn each(
    running: Running,
    mut write: impl FnMut(&RecordBatch) -> Result<(), ArrowError>,
) -> Result<usize, AnswerError> {
    let (mut rows, mut count) = (running.rows, 0);
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(SqlError::from)?;
        count += batch.num_rows();
        write(&batch)?;
    }
    Ok(count)
}

async fn write_json<F: JsonFormat>(running: Running, out: impl Write) -> Result<usize, AnswerError> {
    let mut writer: JsonWriter<_, F> = JsonBuilder::new().with_explicit_nulls(true).build(out);
    let count = each(running, |batch| writer.write(batch)).await?;
    writer.finish()?;
    Ok(count)
}

async fn write_table(running: Running, mut out: impl Write) -> Result<usize, AnswerError> {
    let schema: SchemaRef = running.schema.clone();
    let mut batches = Vec::new();
    let count = each(running, |batch| {
        batches.push(batch.clone());
        Ok(())
    })
    .await?;
    let table = pretty_format_batches_with_schema(schema, &batches)?;
    let rows = if count == 1 { "row" } else { "rows" };
    writeln!(out, "{table}\n({count} {rows})").map_err(|e| ArrowError::IoError(e.to_string(), e))?;
    Ok(count)
}
