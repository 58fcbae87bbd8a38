//! Files of Parquet, read by the engine's own source, through a reader that trusts nothing that a file says of itself.
//!
//! Row groups are passed over by their statistics. Page indexes and Bloom filters are not read.
//!
//! Invariant: what a footer or the header of a page claims is compared with what is there, and bounded, before anything is made of
//! it: a footer of [`MAX_FOOTER_BYTES`], a page that is decompressed to [`MAX_PAGE_BYTES`], [`MAX_READ_BYTES`] read at once.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use datafusion::catalog::Session;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::{DefaultObjectStoreRegistry, ObjectStoreUrl};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use kafscale_sql::topic::cell::Cell;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::parquet_to_arrow_schema;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::root::{FileEntry, FileError, Root};
use super::table::{FilesTable, TableFile, told};
use super::thrift;
use crate::collection::exec::SourceExec;
use crate::collection::rows::{Rows, Tally};

const MAX_FOOTER_BYTES: u64 = 16 << 20;
/// Writers make pages of one to eight megabytes; a dictionary may be larger.
const MAX_PAGE_BYTES: i64 = 64 << 20;
const MAX_READ_BYTES: u64 = 512 << 20;
/// Behind the footer: its length, and the mark of the format.
const TAIL_BYTES: u64 = 8;
const MARK: &[u8] = b"PAR1";
const NOT_UNDERSTOOD: &str = "it cannot be understood";

fn damaged(file: &FileEntry, why: impl Into<String>) -> FileError {
    FileError::Damaged { path: file.path.clone(), why: why.into() }
}

/// The library asserts where a damaged file is not what it expects.
fn caught<T>(file: &FileEntry, read: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T, FileError> {
    match std::panic::catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(error)) => Err(damaged(file, error.to_string())),
        Err(_) => Err(damaged(file, NOT_UNDERSTOOD)),
    }
}

/// What the footer of a file says, checked.
async fn metadata(root: &Root, file: &FileEntry) -> Result<ParquetMetaData, FileError> {
    let tail = root.read(file, file.bytes.saturating_sub(TAIL_BYTES), file.bytes).await?;
    let length = match tail.split_at_checked(4) {
        Some((length, MARK)) => {
            length.try_into().map(u32::from_le_bytes).map_err(|_| damaged(file, "no length"))?
        }
        _ => {
            return Err(damaged(
                file,
                "it does not end as Parquet does; perhaps it is not written to its end",
            ));
        }
    };
    let (length, end) = (u64::from(length), file.bytes - TAIL_BYTES);
    if length > MAX_FOOTER_BYTES || length > end {
        return Err(damaged(file, format!("its footer would have {length} bytes")));
    }
    let footer = root.read(file, end - length, end).await?;
    thrift::check(&footer).map_err(|e| damaged(file, e.to_string()))?;
    let metadata = caught(file, || ParquetMetaDataReader::decode_metadata(&footer))?;
    check_places(&metadata, end - length).map_err(|why| damaged(file, why))?;
    Ok(metadata)
}

/// Columns are where the file has something.
fn check_places(metadata: &ParquetMetaData, end: u64) -> Result<(), &'static str> {
    let mut rows: i64 = 0;
    for group in metadata.row_groups() {
        let of_group = group.num_rows();
        rows = rows.checked_add(of_group).filter(|_| of_group >= 0).ok_or("its counts of rows are wrong")?;
        for column in group.columns() {
            let offsets = [column.data_page_offset(), column.dictionary_page_offset().unwrap_or(0)];
            if offsets.iter().any(|offset| *offset < 0) || column.compressed_size() < 0 {
                return Err("a column would begin before the file");
            }
            let range = place(column);
            if range.end > end || column.num_values() < 0 {
                return Err("a column would be behind the end of the file");
            }
        }
    }
    if metadata.file_metadata().num_rows() != rows { Err("its counts of rows are wrong") } else { Ok(()) }
}

fn place(column: &parquet::file::metadata::ColumnChunkMetaData) -> Range<u64> {
    let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
    let start = u64::try_from(start).unwrap_or(u64::MAX);
    start..start.saturating_add(u64::try_from(column.compressed_size()).unwrap_or(u64::MAX))
}

/// The schema that files have in common.
pub async fn schema(root: &Root, files: &[&FileEntry]) -> Result<SchemaRef, FileError> {
    let mut common: Option<(Schema, &FileEntry)> = None;
    for file in files {
        let metadata = metadata(root, file).await?;
        let descriptor = metadata.file_metadata().schema_descr();
        let of_file = caught(file, || parquet_to_arrow_schema(descriptor, None))?;
        let of_file = Schema::new(of_file.fields().iter().map(|field| viewed(field)).collect::<Vec<_>>());
        common = Some(match common {
            None => (of_file, file),
            Some((schema, first)) => {
                let different = |e: arrow::error::ArrowError| FileError::Different {
                    one: first.path.clone(),
                    other: file.path.clone(),
                    why: e.to_string(),
                };
                (Schema::try_merge([schema, of_file]).map_err(different)?, first)
            }
        });
    }
    common.map(|(schema, _)| Arc::new(schema)).ok_or(FileError::NoFiles)
}

/// Text that many rows have in common is there once. Any column may be missing from a file.
fn viewed(field: &Field) -> Field {
    let data_type = match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        other => other.clone(),
    };
    Field::new(field.name(), data_type, true)
}

/// Reads the columns of `projection` of these files, one stream for each list of them.
pub fn scan(
    table: &FilesTable,
    state: &dyn Session,
    streams: Vec<Vec<TableFile>>,
    projection: Vec<usize>,
    filters: &[Expr],
    limit: Option<usize>,
    told_of: String,
) -> Result<Arc<dyn ExecutionPlan>> {
    let super::table::Contents::Parquet(of_files) = &table.contents else {
        return Err(DataFusionError::Internal("these are files of another format".to_owned()));
    };
    let schema = Arc::new(table.schema.project(&projection)?);
    let of_directories: Vec<_> =
        table.schema.fields().iter().skip(of_files.fields().len()).map(Arc::clone).collect();
    let whole = TableSchema::builder(Arc::clone(of_files)).with_table_partition_cols(of_directories).build();
    let factory = Factory { root: Arc::clone(&table.root) };
    let mut source = ParquetSource::new(whole)
        .with_parquet_file_reader_factory(Arc::new(factory))
        .with_enable_page_index(false)
        .with_bloom_filter_on_read(false)
        .with_pushdown_filters(false);
    if let Some(filter) = conjunction(filters.to_vec()) {
        let filter = datafusion::logical_expr::expr_rewriter::unnormalize_col(filter);
        let of_table = DFSchema::try_from(Arc::clone(&table.schema))?;
        source = source.with_predicate(state.create_physical_expr(filter, &of_table)?);
    }
    let groups = streams.into_iter().map(|files| group(table, files)).collect::<Result<Vec<_>>>()?;
    let count = groups.len();
    let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source))
        .with_file_groups(groups)
        .with_projection_indices(Some(projection))?
        .with_limit(limit)
        .build();
    let inner = DataSourceExec::from_data_source(config);
    let (collection, tally, of) = (table.collection.clone(), Arc::clone(&table.tally), Arc::clone(&schema));
    let open = move |at: usize, context: Arc<TaskContext>| {
        let (collection, tally) = (collection.clone(), Arc::clone(&tally));
        let rows = caught_rows(inner.execute(at, without_stores(&context))?).map(move |batch| {
            let batch = batch.map_err(|e| told_of_file(&collection, e))?;
            tally.add_rows(batch.num_rows() as u64);
            Ok(batch)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&of), rows)) as _)
    };
    Ok(Arc::new(SourceExec::new(told_of, schema, count, Arc::new(open))))
}

/// The same rows, with an error where reading them panics, which ends them.
fn caught_rows(rows: SendableRecordBatchStream) -> impl Stream<Item = Result<RecordBatch>> + Send {
    stream::unfold(Some(rows), |rows| async {
        let mut rows = rows?;
        match AssertUnwindSafe(rows.next()).catch_unwind().await {
            Ok(next) => next.map(|batch| (batch, Some(rows))),
            Err(_) => {
                let error = ParquetError::General(NOT_UNDERSTOOD.to_owned());
                Some((Err(DataFusionError::ParquetError(Box::new(error))), None))
            }
        }
    })
}

/// The files of one stream, with the values of the columns in their paths.
fn group(table: &FilesTable, files: Vec<TableFile>) -> Result<FileGroup> {
    let file = |file: TableFile| {
        let mut rows = Rows::new(&table.directories, Arc::<Tally>::default());
        for (at, value) in file.directories.iter().enumerate() {
            let value = value.as_deref();
            rows.put(at, &value.map_or(Cell::Null, |value| Cell::Text(value.into())));
        }
        rows.end_row();
        let batch = rows.take()?;
        let columns = batch.iter().flat_map(|batch| batch.columns());
        let values = columns.map(|column| ScalarValue::try_from_array(column, 0)).collect::<Result<_>>()?;
        let listed = PartitionedFile::new(file.entry.path.clone(), file.entry.bytes);
        Ok(listed.with_partition_values(values).with_extension(file.entry))
    };
    Ok(FileGroup::new(files.into_iter().map(file).collect::<Result<_>>()?))
}

/// The same context, in which the source finds the store that it asks for, and then does not use.
fn without_stores(context: &TaskContext) -> Arc<TaskContext> {
    let runtime = RuntimeEnv {
        object_store_registry: Arc::new(DefaultObjectStoreRegistry::new()),
        ..context.runtime_env().as_ref().clone()
    };
    Arc::new(TaskContext::new(
        context.task_id(),
        context.session_id(),
        context.session_config().clone(),
        context.scalar_functions().clone(),
        context.higher_order_functions().clone(),
        context.aggregate_functions().clone(),
        context.window_functions().clone(),
        Arc::new(runtime),
    ))
}

/// Errors of files are told as such, without what is in them. Others are the engine's.
fn told_of_file(collection: &str, error: DataFusionError) -> DataFusionError {
    let path = || "a file".to_owned();
    let file_error = match error.find_root() {
        DataFusionError::ParquetError(error) => match &**error {
            ParquetError::External(inner) => match inner.downcast_ref::<FileError>() {
                Some(FileError::Changed { path }) => FileError::Changed { path: path.clone() },
                Some(FileError::Damaged { path, why }) => {
                    FileError::Damaged { path: path.clone(), why: why.clone() }
                }
                Some(other) => {
                    FileError::Unreadable { path: path(), source: std::io::Error::other(other.to_string()) }
                }
                None => FileError::Damaged { path: path(), why: inner.to_string() },
            },
            other => FileError::Damaged { path: path(), why: other.to_string() },
        },
        // It may have a value in it.
        DataFusionError::ArrowError(..) => {
            FileError::Damaged { path: path(), why: "a value cannot be what its column is".to_owned() }
        }
        _ => return error,
    };
    told(collection, file_error).into()
}

#[derive(Debug)]
struct Factory {
    root: Arc<Root>,
}

impl ParquetFileReaderFactory for Factory {
    fn create_reader(
        &self,
        _: usize,
        file: PartitionedFile,
        _: Option<usize>,
        _: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let entry = file.extension::<FileEntry>().cloned();
        let entry = entry.ok_or_else(|| DataFusionError::Internal("it is not a listed file".to_owned()))?;
        Ok(Box::new(Guarded { root: Arc::clone(&self.root), file: entry, places: Vec::new() }))
    }
}

/// See the file's comment.
struct Guarded {
    root: Arc<Root>,
    file: FileEntry,
    /// Of the columns, once the footer is read.
    places: Vec<Range<u64>>,
}

impl Guarded {
    async fn read(&self, range: Range<u64>) -> Result<Bytes, FileError> {
        let bytes = self.root.read(&self.file, range.start, range.end).await?;
        if bytes.len() as u64 != range.end.saturating_sub(range.start) {
            return Err(damaged(&self.file, "it ends before its columns do"));
        }
        if self.places.iter().any(|place| place.contains(&range.start)) {
            check_pages(&bytes).map_err(|why| damaged(&self.file, why))?;
        }
        Ok(bytes)
    }
}

/// Whole pages of a column, one after the other.
fn check_pages(bytes: &[u8]) -> Result<(), String> {
    let mut at = 0;
    while at < bytes.len() {
        let page = thrift::page_header(&bytes[at..]).map_err(|e| e.to_string())?;
        if page.uncompressed_bytes > MAX_PAGE_BYTES {
            return Err(format!(
                "a page would have {} bytes, and at most {MAX_PAGE_BYTES} are read",
                page.uncompressed_bytes
            ));
        }
        let compressed = usize::try_from(page.compressed_bytes).unwrap_or(usize::MAX);
        at = at.saturating_add(page.header_bytes).saturating_add(compressed);
        if at > bytes.len() {
            return Err("a page is cut off".to_owned());
        }
    }
    Ok(())
}

fn external(error: FileError) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for Guarded {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move {
            if range.end.saturating_sub(range.start) > MAX_READ_BYTES {
                return Err(external(damaged(&self.file, "a column of one row group is too large")));
            }
            self.read(range).await.map_err(external)
        }
        .boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move {
            let bytes = ranges.iter().map(|range| range.end.saturating_sub(range.start));
            if bytes.fold(0, u64::saturating_add) > MAX_READ_BYTES {
                let why = format!("the columns of one row group have more than {MAX_READ_BYTES} bytes");
                return Err(external(damaged(&self.file, why)));
            }
            let mut read = Vec::with_capacity(ranges.len());
            for range in ranges {
                read.push(self.read(range).await.map_err(external)?);
            }
            Ok(read)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let metadata = metadata(&self.root, &self.file).await.map_err(external)?;
            let columns = metadata.row_groups().iter().flat_map(|group| group.columns());
            self.places = columns.map(place).collect();
            Ok(Arc::new(metadata))
        }
        .boxed()
    }
}
