//! A table of files, as they were when it was opened.

use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::common::runtime::SpawnedTask;
use datafusion::datasource::TableType;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use kafscale_core::sql_schema::SqlColumn;
use kafscale_sql::topic::cell::Cell;
use tokio::sync::mpsc::Sender;

use super::decode::{Decoder, Layout};
use super::parquet;
use super::root::{FileEntry, FileError, Root};
use crate::collection::CollectionError;
use crate::collection::exec::SourceExec;
use crate::collection::rows::{Rows, Tally};

/// Read at a time.
const CHUNK_BYTES: u64 = 4 << 20;
/// Batches that wait to be taken.
const WAITING: usize = 2;

/// A file, and the values of the columns that are in its path.
#[derive(Debug, Clone)]
pub struct TableFile {
    pub entry: FileEntry,
    pub directories: Vec<Option<String>>,
}

/// What the files of a table have in them.
#[derive(Debug, Clone)]
pub enum Contents {
    /// The schema of the files.
    Parquet(SchemaRef),
    Rows(Arc<Layout>),
}

#[derive(Debug, Clone)]
pub struct FilesTable {
    pub collection: String,
    pub name: String,
    pub root: Arc<Root>,
    pub files: Vec<TableFile>,
    pub contents: Contents,
    /// The columns in the names of directories, behind those of the files.
    pub directories: Vec<SqlColumn>,
    pub schema: SchemaRef,
    pub tally: Arc<Tally>,
}

impl FilesTable {
    /// One of its files, as a table of the same columns.
    pub fn of_file(&self, file: &TableFile) -> FilesTable {
        FilesTable { files: vec![file.clone()], tally: Arc::default(), ..self.clone() }
    }

    /// Whether a condition is about names of directories alone.
    fn is_of_directories(&self, filter: &Expr) -> bool {
        let columns = filter.column_refs();
        let is_directory = |name: &str| self.directories.iter().any(|column| column.name == name);
        !columns.is_empty()
            && !filter.is_volatile()
            && columns.iter().all(|column| is_directory(&column.name))
    }

    /// The files whose directories fulfil the conditions, which the engine itself evaluates.
    fn pruned(&self, state: &dyn Session, filters: &[Expr]) -> Result<Vec<TableFile>> {
        let filters: Vec<Expr> = filters.iter().filter(|f| self.is_of_directories(f)).cloned().collect();
        let Some(filter) = conjunction(filters) else { return Ok(self.files.clone()) };
        let mut rows = Rows::new(&self.directories, Arc::default());
        let mut kept = Vec::new();
        let mut files = self.files.iter().peekable();
        let mut waiting = Vec::new();
        while let Some(file) = files.next() {
            for (at, value) in file.directories.iter().enumerate() {
                let value = value.as_deref();
                rows.put(at, &value.map_or(Cell::Null, |value| Cell::Text(value.into())));
            }
            rows.end_row();
            waiting.push(file);
            if (rows.is_full() || files.peek().is_none())
                && let Some(batch) = rows.take()?
            {
                let keeps = evaluated(state, &filter, &batch)?;
                kept.extend(waiting.drain(..).zip(keeps).filter(|(_, keep)| *keep).map(|(f, _)| f.clone()));
            }
        }
        Ok(kept)
    }
}

fn evaluated(state: &dyn Session, filter: &Expr, batch: &RecordBatch) -> Result<Vec<bool>> {
    let schema = DFSchema::try_from(batch.schema())?;
    // The column may be named with its table, which this schema does not know.
    let filter = datafusion::logical_expr::expr_rewriter::unnormalize_col(filter.clone());
    let physical = state.create_physical_expr(filter, &schema)?;
    let values = physical.evaluate(batch)?.into_array(batch.num_rows())?;
    let values = values.as_boolean();
    Ok((0..values.len()).map(|row| values.is_valid(row) && values.value(row)).collect())
}

#[async_trait]
impl TableProvider for FilesTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let treated = |filter: &&Expr| match &self.contents {
            _ if self.is_of_directories(filter) => TableProviderFilterPushDown::Exact,
            // Row groups are passed over by their statistics; the engine looks at each row.
            Contents::Parquet(_) if !filter.is_volatile() => TableProviderFilterPushDown::Inexact,
            _ => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(treated).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let files = self.pruned(state, filters)?;
        let projection: Vec<usize> =
            projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&projection)?);
        let bytes: u64 = files.iter().map(|file| file.entry.bytes).sum();
        let told = format!(
            "files={}.{}, files={} of {}, bytes={bytes}",
            self.collection,
            self.name,
            files.len(),
            self.files.len()
        );
        let streams = spread(files, if limit.is_some() { 1 } else { state.config().target_partitions() });
        match &self.contents {
            Contents::Parquet(_) => parquet::scan(self, state, streams, projection, filters, limit, told),
            Contents::Rows(layout) => {
                let scan = Scan {
                    collection: self.collection.clone(),
                    root: Arc::clone(&self.root),
                    layout: Arc::clone(layout),
                    projection,
                    limit,
                    tally: Arc::clone(&self.tally),
                };
                Ok(Arc::new(scan.exec(told, &schema, streams)))
            }
        }
    }
}

/// Files for each stream, about the same bytes in each. There is always one stream.
fn spread(mut files: Vec<TableFile>, streams: usize) -> Vec<Vec<TableFile>> {
    files.sort_by_key(|file| std::cmp::Reverse(file.entry.bytes));
    let mut spread: Vec<(u64, Vec<TableFile>)> = vec![(0, Vec::new()); files.len().clamp(1, streams.max(1))];
    for file in files {
        if let Some((bytes, stream)) = spread.iter_mut().min_by_key(|(bytes, stream)| (*bytes, stream.len()))
        {
            *bytes += file.entry.bytes;
            stream.push(file);
        }
    }
    let by_path = |mut stream: Vec<TableFile>| {
        stream.sort_by(|one, other| one.entry.path.cmp(&other.entry.path));
        stream
    };
    spread.into_iter().map(|(_, stream)| by_path(stream)).collect()
}

/// An error of files as the collection tells it.
pub fn told(collection: &str, error: FileError) -> CollectionError {
    let collection = collection.to_owned();
    let source = Box::new(error);
    match &*source {
        FileError::Changed { .. } => CollectionError::Changed { collection, source },
        FileError::Unreadable { .. } | FileError::Store(_) => {
            CollectionError::Unreachable { collection, source }
        }
        FileError::NoRoot { .. } | FileError::Outside { .. } => {
            CollectionError::Refused { collection, source }
        }
        FileError::TooMany { .. }
        | FileError::TooLarge { .. }
        | FileError::TooWide
        | FileError::Damaged { .. }
        | FileError::Different { .. }
        | FileError::NoFiles => CollectionError::Unusable { collection, source },
    }
}

/// Files that are read row by row.
#[derive(Debug, Clone)]
struct Scan {
    collection: String,
    root: Arc<Root>,
    layout: Arc<Layout>,
    projection: Vec<usize>,
    limit: Option<usize>,
    tally: Arc<Tally>,
}

impl Scan {
    fn exec(self, told: String, schema: &SchemaRef, streams: Vec<Vec<TableFile>>) -> SourceExec {
        let (count, of) = (streams.len(), Arc::clone(schema));
        let open = move |stream: usize, _| {
            let files = streams.get(stream).cloned().unwrap_or_default();
            Ok(self.clone().stream(files, &of))
        };
        SourceExec::new(told, Arc::clone(schema), count, Arc::new(open))
    }

    fn stream(self, files: Vec<TableFile>, schema: &Arc<Schema>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStream::builder(Arc::clone(schema), WAITING);
        let rows = builder.tx();
        builder.spawn(async move {
            let mut left = self.limit.unwrap_or(usize::MAX);
            for file in files {
                if left == 0 || !self.read(file, &rows, &mut left).await? {
                    break;
                }
            }
            Ok(())
        });
        builder.build()
    }

    /// `false`: no more is wanted.
    async fn read(
        &self,
        file: TableFile,
        rows: &Sender<Result<RecordBatch>>,
        left: &mut usize,
    ) -> Result<bool> {
        let (layout, tally) = (Arc::clone(&self.layout), Arc::clone(&self.tally));
        let mut decoder = Decoder::new(layout, &file.entry.path, file.directories, &self.projection, tally);
        let mut at = 0;
        loop {
            let chunk = self.root.read(&file.entry, at, at + CHUNK_BYTES).await;
            let chunk = chunk.map_err(|e| told(&self.collection, e))?;
            at += chunk.len() as u64;
            let at_end = at >= file.entry.bytes;
            let work = SpawnedTask::spawn_blocking(move || {
                let decoded = decoder.decode(&chunk, at_end);
                (decoder, decoded)
            });
            let (back, decoded) = work.join().await.map_err(|e| DataFusionError::External(Box::new(e)))?;
            decoder = back;
            let damaged = |e: super::decode::DecodeError| {
                let (path, why) = (file.entry.path.clone(), e.to_string());
                told(&self.collection, FileError::Damaged { path, why })
            };
            for batch in decoded.map_err(damaged)? {
                let batch = batch.slice(0, batch.num_rows().min(*left));
                *left -= batch.num_rows();
                if rows.send(Ok(batch)).await.is_err() || *left == 0 {
                    return Ok(false);
                }
            }
            if at_end {
                return Ok(true);
            }
        }
    }
}
