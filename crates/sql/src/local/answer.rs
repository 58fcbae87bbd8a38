//! Answers of `--command` and of the prompt: as a table, CSV, JSON or Arrow, on standard output or
//! in a file. But for the table, rows are written as they come.

use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::csv::WriterBuilder as CsvBuilder;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::writer::{
    JsonArray, JsonFormat, LineDelimited, Writer as JsonWriter, WriterBuilder as JsonBuilder,
};
use arrow::util::pretty::pretty_format_batches_with_schema;
use arrow_ipc::writer::StreamWriter;
use futures_util::StreamExt as _;
use kafscale_settings::sql::Format;

use crate::error::SqlError;
use crate::running::Running;

/// Why an answer could not be given.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error("the answer cannot be written: {0}")]
    Write(#[from] ArrowError),
    #[error("the answer cannot be written: {0}")]
    Io(#[from] io::Error),
}

impl AnswerError {
    /// Whoever reads has seen enough (`| head`).
    pub fn is_closed(&self) -> bool {
        let is_pipe = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
        match self {
            AnswerError::Io(e) | AnswerError::Write(ArrowError::IoError(_, e)) => is_pipe(e),
            AnswerError::Write(ArrowError::ExternalError(e)) => {
                e.downcast_ref::<io::Error>().is_some_and(is_pipe)
            }
            // These writers keep the text only.
            AnswerError::Write(e) => e.to_string().contains("Broken pipe"),
            AnswerError::Sql(_) => false,
        }
    }
}

/// Writes all rows. With `at_once`, those that came are not held back until there are more. Gives
/// how many there were.
pub async fn write(
    running: Running,
    format: Format,
    mut out: impl Write + Send,
    at_once: bool,
) -> Result<usize, AnswerError> {
    match format {
        Format::Table if at_once => {
            each(running, false, |batch| write_table(&batch.schema(), &[batch], &mut out)).await
        }
        Format::Table => {
            let (schema, mut batches) = (Arc::clone(&running.schema), Vec::new());
            let count = each(running, false, |batch| {
                batches.push(batch.clone());
                Ok(())
            })
            .await?;
            write_table(&schema, &batches.iter().collect::<Vec<_>>(), &mut out)?;
            writeln!(out, "({count} {})", if count == 1 { "row" } else { "rows" })?;
            out.flush()?;
            Ok(count)
        }
        Format::Csv => {
            // The header stands also over nothing.
            let empty = RecordBatch::new_empty(Arc::clone(&running.schema));
            CsvBuilder::new().with_header(true).build(&mut out).write(&empty)?;
            each(running, false, |batch| {
                CsvBuilder::new().with_header(false).build(&mut out).write(batch)?;
                flush_if(&mut out, at_once)
            })
            .await
        }
        Format::Json => write_json::<JsonArray>(running, out, at_once).await,
        Format::Ndjson => write_json::<LineDelimited>(running, out, at_once).await,
        Format::Arrow => write_arrow(running, out, at_once).await,
    }
}

fn flush_if(out: &mut impl Write, at_once: bool) -> Result<(), AnswerError> {
    if at_once {
        out.flush()?;
    }
    Ok(())
}

/// Rows as they are, or `plain`: in the types that every reader knows.
async fn each(
    running: Running,
    plain: bool,
    mut write: impl FnMut(&RecordBatch) -> Result<(), AnswerError>,
) -> Result<usize, AnswerError> {
    let schema = plain.then(|| plain_schema(&running.schema));
    let (mut rows, mut count) = (running.rows, 0);
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(SqlError::from)?;
        count += batch.num_rows();
        match &schema {
            Some(schema) => write(&plain_batch(&batch, schema)?)?,
            None => write(&batch)?,
        }
    }
    Ok(count)
}

/// Views of text and bytes are younger than many programs that read these formats.
fn plain_schema(schema: &Schema) -> SchemaRef {
    let plain = |field: &Arc<Field>| {
        let data_type = match field.data_type() {
            DataType::Utf8View => DataType::Utf8,
            DataType::BinaryView => DataType::Binary,
            other => other.clone(),
        };
        field.as_ref().clone().with_data_type(data_type)
    };
    Arc::new(Schema::new(schema.fields().iter().map(plain).collect::<Vec<_>>()))
}

fn plain_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| cast(column, field.data_type())).collect::<Result<_, _>>()?;
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

async fn write_json<F: JsonFormat>(
    running: Running,
    out: impl Write,
    at_once: bool,
) -> Result<usize, AnswerError> {
    let mut writer: JsonWriter<_, F> = JsonBuilder::new().with_explicit_nulls(true).build(out);
    let count = each(running, false, |batch| {
        writer.write(batch)?;
        flush_if(writer.get_mut(), at_once)
    })
    .await?;
    writer.finish()?;
    writer.get_mut().flush()?;
    Ok(count)
}

fn write_table(
    schema: &SchemaRef,
    batches: &[&RecordBatch],
    out: &mut impl Write,
) -> Result<(), AnswerError> {
    let batches: Vec<RecordBatch> = batches.iter().map(|batch| (*batch).clone()).collect();
    writeln!(out, "{}", pretty_format_batches_with_schema(Arc::clone(schema), &batches)?)?;
    Ok(out.flush()?)
}

async fn write_arrow(running: Running, out: impl Write, at_once: bool) -> Result<usize, AnswerError> {
    let mut writer = StreamWriter::try_new(out, &plain_schema(&running.schema))?;
    let count = each(running, true, |batch| {
        writer.write(batch)?;
        flush_if(writer.get_mut(), at_once)
    })
    .await?;
    writer.finish()?;
    writer.get_mut().flush()?;
    Ok(count)
}
