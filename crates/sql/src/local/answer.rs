//! Answers of `--command` and of the prompt: as a table, CSV, JSON, Arrow or Parquet, on standard
//! output or in a file. But for the table, rows are written as they come; those of Parquet when a
//! group of them is large enough.

use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, RecordBatch, RecordBatchOptions, StringArray};
use arrow::compute::cast;
use arrow::csv::WriterBuilder as CsvBuilder;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::writer::{
    JsonArray, JsonFormat, LineDelimited, Writer as JsonWriter, WriterBuilder as JsonBuilder,
};
use arrow::util::pretty::pretty_format_batches_with_schema;
use arrow_ipc::writer::StreamWriter;
use futures_util::StreamExt as _;
use kafscale_settings::sql::Format;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::plain::{Plain, each_slice};
use crate::error::SqlError;
use crate::running::Running;

/// A group of rows is written when it takes so much memory, or has so many bytes in the file.
const GROUP_BYTES: usize = 64 << 20;

/// Why an answer could not be given.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error("the answer cannot be written: {0}")]
    Write(#[from] ArrowError),
    #[error("the answer cannot be written: {0}")]
    Parquet(#[from] ParquetError),
    #[error("the answer cannot be written: {0}")]
    Io(#[from] io::Error),
}

impl AnswerError {
    /// Whoever reads has seen enough (`| head`).
    pub fn is_closed(&self) -> bool {
        let is_pipe = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
        match self {
            AnswerError::Io(e) | AnswerError::Write(ArrowError::IoError(_, e)) => is_pipe(e),
            AnswerError::Write(ArrowError::ExternalError(e))
            | AnswerError::Parquet(ParquetError::External(e)) => {
                e.downcast_ref::<io::Error>().is_some_and(is_pipe)
            }
            // These writers keep the text only.
            AnswerError::Write(e) => e.to_string().contains("Broken pipe"),
            AnswerError::Sql(_) | AnswerError::Parquet(_) => false,
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
            each(running, |batch| write_table(&batch.schema(), &[batch], &mut out)).await
        }
        Format::Table => {
            let (schema, mut batches) = (Arc::clone(&running.schema), Vec::new());
            let count = each(running, |batch| {
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
            each(running, |batch| {
                CsvBuilder::new().with_header(false).build(&mut out).write(batch)?;
                flush_if(&mut out, at_once)
            })
            .await
        }
        Format::Json => write_json::<JsonArray>(running, out, at_once).await,
        Format::Ndjson => write_json::<LineDelimited>(running, out, at_once).await,
        Format::Arrow => write_arrow(running, out, at_once).await,
        Format::Parquet => write_parquet(running, out).await,
    }
}

fn flush_if(out: &mut impl Write, at_once: bool) -> Result<(), AnswerError> {
    if at_once {
        out.flush()?;
    }
    Ok(())
}

async fn each(
    running: Running,
    mut write: impl FnMut(&RecordBatch) -> Result<(), AnswerError>,
) -> Result<usize, AnswerError> {
    let (mut rows, mut count) = (running.rows, 0);
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(SqlError::from)?;
        count += batch.num_rows();
        write(&batch)?;
    }
    Ok(count)
}

async fn write_json<F: JsonFormat>(
    running: Running,
    out: impl Write,
    at_once: bool,
) -> Result<usize, AnswerError> {
    let mut writer: JsonWriter<_, F> = JsonBuilder::new().with_explicit_nulls(true).build(out);
    let count = each(running, |batch| {
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
    let batches: Vec<RecordBatch> = batches.iter().map(|batch| shown(batch)).collect::<Result<_, _>>()?;
    let table = pretty_format_batches_with_schema(Arc::clone(schema), &batches)?.to_string();
    // Those in lists and names, which are not looked at before.
    writeln!(out, "{}", without_controls(&table))?;
    Ok(out.flush()?)
}

/// The same with signs for what a terminal would obey: whoever writes records is not to move its cursor.
fn shown(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let column = |column: &ArrayRef| {
        if !column.data_type().is_string() {
            return Ok(Arc::clone(column));
        }
        let texts = cast(column, &DataType::Utf8)?;
        let texts = texts.as_string::<i32>();
        if !texts.iter().flatten().any(|text| text.contains(is_obeyed)) {
            return Ok(Arc::clone(column));
        }
        let shown: StringArray = texts.iter().map(|text| text.map(without_controls)).collect();
        cast(&shown, column.data_type())
    };
    let columns = batch.columns().iter().map(column).collect::<Result<Vec<_>, ArrowError>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
}

fn is_obeyed(c: char) -> bool {
    c.is_control() && c != '\n'
}

/// As psql writes them: `\x1B`.
fn without_controls(text: &str) -> String {
    let mut made = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\r' => made.push_str("\\r"),
            '\t' => made.push_str("\\t"),
            c if is_obeyed(c) && u32::from(c) < 0x80 => {
                made.extend(format!("\\x{:02X}", u32::from(c)).chars())
            }
            c if is_obeyed(c) => made.extend(format!("\\u{:04X}", u32::from(c)).chars()),
            c => made.push(c),
        }
    }
    made
}

async fn write_arrow(running: Running, out: impl Write, at_once: bool) -> Result<usize, AnswerError> {
    let schema = Plain::Arrow.schema(&running.schema);
    let mut writer = StreamWriter::try_new(out, &schema)?;
    let count = each(running, |batch| {
        each_slice(batch, &schema, |slice| writer.write(slice))?;
        flush_if(writer.get_mut(), at_once)
    })
    .await?;
    writer.finish()?;
    writer.get_mut().flush()?;
    Ok(count)
}

async fn write_parquet(running: Running, out: impl Write + Send) -> Result<usize, AnswerError> {
    let schema = Plain::Parquet.schema(&running.schema);
    let mut writer = ArrowWriter::try_new(out, Arc::clone(&schema), Some(parquet_properties()))?;
    let count = each(running, |batch| {
        each_slice(batch, &schema, |slice| {
            writer.write(slice)?;
            // What is not in the file yet takes more than it will there.
            if writer.memory_size() >= GROUP_BYTES {
                writer.flush()?;
            }
            Ok(())
        })
    })
    .await?;
    writer.finish()?;
    writer.inner_mut().flush()?;
    Ok(count)
}

fn parquet_properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(Default::default()))
        .set_created_by(concat!("KafScale ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_max_row_group_bytes(Some(GROUP_BYTES))
        .build()
}

#[cfg(test)]
mod tests {
    use arrow::array::StringViewArray;

    use super::*;

    #[test]
    fn a_table_has_no_signs_that_a_terminal_obeys() {
        let texts: ArrayRef =
            Arc::new(StringViewArray::from(vec![Some("a\u{1b}[31mb\tc"), Some("x\ny"), None]));
        let batch = RecordBatch::try_from_iter([("n\u{9b}", texts)]).unwrap();
        let mut out = Vec::new();
        write_table(&batch.schema(), &[&batch], &mut out).unwrap();
        let table = String::from_utf8(out).unwrap();
        assert!(table.contains("a\\x1B[31mb\\tc") && table.contains("n\\u009B"), "{table}");
        assert!(!table.contains(is_obeyed), "{table}");
    }
}
