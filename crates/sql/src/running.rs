//! A query that runs: its rows, and what ends with them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::{Array, ArrayData, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::execution::RecordBatchStream;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::physical_plan::stream::{RecordBatchReceiverStream, RecordBatchStreamAdapter};
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use kafscale_meter::Current;
use tokio::sync::OwnedSemaphorePermit;

use crate::audit::Record;
use crate::error::SqlError;
use crate::metered;
use crate::postgres;
use crate::query::Query;

/// Batches that are made before they are taken.
pub const BATCHES_AHEAD: usize = 2;

/// See the file's comment.
pub struct Running {
    pub schema: SchemaRef,
    pub rows: Rows,
    pub plan: Arc<dyn ExecutionPlan>,
    pub query: Arc<Query>,
}

impl Running {
    /// A place that is given is held until the rows are at their end, or dropped.
    pub fn new(
        plan: Arc<dyn ExecutionPlan>,
        rows: SendableRecordBatchStream,
        query: Arc<Query>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Running {
        let rows = with_shown_names(rows);
        let schema = rows.schema();
        let rows = Rows {
            inner: Some(rows),
            schema: Arc::clone(&schema),
            query: Arc::clone(&query),
            place,
            last: None,
            bytes: 0,
            record: Record::none(),
            ending: None,
        };
        Running { schema, rows, plan, query }
    }

    /// The plan with what each step has done, for EXPLAIN ANALYZE.
    pub fn measured(plan: &dyn ExecutionPlan) -> Vec<String> {
        let shown = DisplayableExecutionPlan::with_metrics(plan).indent(false).to_string();
        metered::without_checks(&lines(&shown))
    }
}

/// The rows of an answer. Dropping them ends the query.
pub struct Rows {
    inner: Option<SendableRecordBatchStream>,
    schema: SchemaRef,
    query: Arc<Query>,
    place: Option<OwnedSemaphorePermit>,
    /// What was given last. Whoever took it drops it elsewhere, and this one here, where that is counted for the query.
    last: Option<RecordBatch>,
    bytes: u64,
    record: Record,
    /// The record is written, and this is given then.
    ending: Option<(Noting, Option<Item>)>,
}

type Item = Result<RecordBatch, DataFusionError>;
type Noting = BoxFuture<'static, Result<(), SqlError>>;

impl Rows {
    /// Notes in the audit log what becomes of these rows.
    pub fn note(&mut self, record: Record) {
        self.record = record;
    }

    /// Whom the rows are counted for.
    pub fn counted_for(&self) -> Current {
        self.query.meter.current()
    }

    fn end(&mut self) {
        self.query.stop();
        let _entered = self.query.meter.enter();
        (self.inner, self.last) = (None, None);
        self.place = None;
    }

    /// Counts what is given, up to the limit.
    fn charge(&mut self, batch: &RecordBatch) -> Result<(), SqlError> {
        let bytes = batch_bytes(batch);
        self.bytes += bytes;
        self.record.count(batch.num_rows() as u64, bytes);
        match self.query.limits.result_bytes {
            Some(most) if self.bytes > most => Err(SqlError::TooMuch {
                message: format!("the answer is larger than the limit of {most} bytes (--max-result-bytes)"),
                hint: "Ask for fewer rows or columns: add LIMIT, or a condition, or sum up.".to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.end();
    }
}

impl Stream for Rows {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let of = self.counted_for();
        let rows = &mut *self;
        if let Some(inner) = &mut rows.inner {
            // A step that fails in its own task fails here, too.
            let entered = of.enter();
            rows.last = None;
            let polled = catch_unwind(AssertUnwindSafe(|| inner.poll_next_unpin(cx)));
            drop(entered);
            let next = match polled {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(next)) => next,
                Err(panic) => Some(Err(SqlError::panicked(&*panic).into())),
            };
            let next = next.map(|batch| {
                let batch = batch.map_err(SqlError::from)?;
                self.charge(&batch)?;
                Ok::<_, SqlError>(batch)
            });
            // Errors are shared between what notes them and what tells of them.
            let (failed, next) = match next {
                Some(Ok(batch)) => {
                    self.last = Some(batch.clone());
                    return Poll::Ready(Some(Ok(batch)));
                }
                Some(Err(error)) => (Some(error.clone()), Some(Err(error.into()))),
                None => (None, None),
            };
            self.end();
            let noting = self.record.end(failed.as_ref());
            self.ending = Some((noting, next));
        }
        let Some((noting, _)) = &mut self.ending else { return Poll::Ready(None) };
        let Poll::Ready(noted) = noting.poll_unpin(cx) else { return Poll::Pending };
        let given = self.ending.take().and_then(|(_, given)| given);
        Poll::Ready(match noted {
            Ok(()) => given,
            Err(error) => Some(Err(error.into())),
        })
    }
}

impl RecordBatchStream for Rows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// What the values of a batch take, whatever they share with other batches.
pub fn batch_bytes(batch: &RecordBatch) -> u64 {
    let bytes: usize = batch.columns().iter().map(|column| column_bytes(column)).sum();
    bytes as u64
}

fn column_bytes(column: &dyn Array) -> usize {
    data_bytes(&column.to_data())
}

/// Texts in views are counted at any depth: the engine's own count of a list or a struct leaves them out.
fn data_bytes(data: &ArrayData) -> usize {
    let (first, length) = (data.offset(), data.len());
    let of_child = |child: &ArrayData, first: usize, length: usize| data_bytes(&child.slice(first, length));
    let own = match data.data_type() {
        DataType::Utf8View | DataType::BinaryView => {
            // The lower half of a view's first eight bytes is its length.
            let views = data.buffer::<u128>(0).iter().take(length);
            views.map(|view| 16 + (*view as u32) as usize).sum()
        }
        DataType::List(_) | DataType::Map(..) if length > 0 => {
            let offsets = data.buffer::<i32>(0);
            let [start, end] =
                [offsets[0], offsets[length]].map(|offset| usize::try_from(offset).unwrap_or(0));
            size_of::<i32>() * (length + 1)
                + of_child(&data.child_data()[0], start, end.saturating_sub(start))
        }
        DataType::LargeList(_) if length > 0 => {
            let offsets = data.buffer::<i64>(0);
            let [start, end] =
                [offsets[0], offsets[length]].map(|offset| usize::try_from(offset).unwrap_or(0));
            size_of::<i64>() * (length + 1)
                + of_child(&data.child_data()[0], start, end.saturating_sub(start))
        }
        DataType::Struct(_) => data.child_data().iter().map(|child| of_child(child, first, length)).sum(),
        _ => return data.get_slice_memory_size().unwrap_or_else(|_| data.get_array_memory_size()),
    };
    own + data.nulls().map_or(0, |_| length.div_ceil(8))
}

/// The same rows, their columns called what they are to be called.
fn with_shown_names(rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let is_shown = |field: &FieldRef| postgres::names::shown(field.name()) == field.name();
    if schema.fields().iter().all(is_shown) {
        return rows;
    }
    let field = |field: &FieldRef| field.as_ref().clone().with_name(postgres::names::shown(field.name()));
    let fields: Vec<Field> = schema.fields().iter().map(field).collect();
    let shown = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
    let of = Arc::clone(&shown);
    let renamed = move |batch: datafusion::error::Result<RecordBatch>| {
        let batch = batch?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&of), batch.columns().to_vec(), &options)?)
    };
    Box::pin(RecordBatchStreamAdapter::new(shown, rows.map(renamed)))
}

/// The same rows, made in a task of their own: a step may compute for long without looking up, and
/// whoever waits for rows is to hear of a cancellation meanwhile.
pub fn apart(mut rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
    let mut builder = RecordBatchReceiverStream::builder(rows.schema(), BATCHES_AHEAD);
    let taken = builder.tx();
    builder.spawn(async move {
        while let Some(batch) = rows.next().await {
            if taken.send(batch).await.is_err() {
                break;
            }
        }
        Ok(())
    });
    builder.build()
}

pub fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use datafusion::physical_plan::empty::EmptyExec;
    use futures_util::stream;

    use super::*;
    use crate::query::QueryLimits;

    #[tokio::test]
    async fn a_step_that_panics_is_an_error_of_its_query() {
        let schema = Arc::new(Schema::empty());
        let failing = stream::poll_fn(|_| -> Poll<Option<Item>> { panic!("made to fail") });
        let rows = apart(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), failing)));
        let query = Query::new(QueryLimits { scan_bytes: None, result_bytes: None });
        let mut running = Running::new(Arc::new(EmptyExec::new(schema)), rows, query, None);
        let error = SqlError::from(running.rows.next().await.unwrap().unwrap_err());
        assert_eq!(error.code(), "XX000");
        assert!(error.to_string().contains("made to fail"), "{error}");
        assert!(running.rows.next().await.is_none());
    }
}
