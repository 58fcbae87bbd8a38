//! Tables of sources that are asked over a connection: what they have in common as tables of the
//! engine.
//!
//! A source gives its columns, says which conditions it can apply, and reads; plans, projections
//! and the accounting of memory are here. One stream reads a table, and only while somebody waits
//! for its rows.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryPool, MemoryReservation, UnboundedMemoryPool,
};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, TryStreamExt as _};

use super::exec::SourceExec;
use super::predicate::{Leaf, Predicate, Pushed};

/// A table for one statement.
#[async_trait]
pub trait RemoteSource: Debug + Send + Sync + 'static {
    fn schema(&self) -> SchemaRef;

    /// How far it applies a condition.
    fn pushed(&self, leaf: &Leaf) -> Pushed;

    /// Rows of exactly the schema of the request. Dropping the stream ends the work at the source.
    async fn read(self: Arc<Self>, request: Arc<Request>, memory: Memory) -> Result<Rows>;
}

pub type Rows = BoxStream<'static, Result<RecordBatch>>;

/// What is wanted of a table.
#[derive(Debug, Clone)]
pub struct Request {
    /// Columns by their place in the table, in the order of `schema`. There may be none: only the
    /// number of rows counts then.
    pub projection: Vec<usize>,
    pub schema: SchemaRef,
    /// All of which a row must fulfil, as far as [`RemoteSource::pushed`] said.
    pub predicates: Vec<Predicate>,
    /// No more rows than that are needed.
    pub limit: Option<usize>,
    pub batch_rows: usize,
}

/// What a stream keeps in memory, charged to the statement.
#[derive(Debug)]
pub struct Memory(MemoryReservation);

impl Memory {
    pub fn new(reservation: MemoryReservation) -> Memory {
        Memory(reservation)
    }

    /// For small things that belong to no statement.
    pub fn unbounded() -> Memory {
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        Memory(MemoryConsumer::new("a collection").register(&pool))
    }

    /// So many bytes, before they are kept.
    pub fn charge(&self, bytes: usize) -> Result<()> {
        self.0.try_grow(bytes)
    }

    /// Everything was handed on.
    pub fn release(&self) {
        self.0.free();
    }
}

#[derive(Debug)]
pub struct RemoteTable<S>(Arc<S>);

impl<S: RemoteSource> RemoteTable<S> {
    pub fn new(source: S) -> RemoteTable<S> {
        RemoteTable(Arc::new(source))
    }

    fn pushed(&self, filter: &Expr) -> Option<(Predicate, Pushed)> {
        let predicate = Predicate::of(filter, &self.0.schema())?;
        let pushed = predicate.pushed(&|leaf| self.0.pushed(leaf));
        (pushed > Pushed::No).then_some((predicate, pushed))
    }
}

#[async_trait]
impl<S: RemoteSource> TableProvider for RemoteTable<S> {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let treated = |filter: &&Expr| self.pushed(filter).map_or(Pushed::No, |(_, pushed)| pushed).into();
        Ok(filters.iter().map(treated).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let whole = self.0.schema();
        let projection = projection.cloned().unwrap_or_else(|| (0..whole.fields().len()).collect());
        let schema = Arc::new(whole.project(&projection)?);
        let pushed: Vec<_> = filters.iter().map(|filter| self.pushed(filter)).collect();
        // With rows still to be left out here, so many of them may be too few.
        let exact = pushed.iter().all(|of| matches!(of, Some((_, Pushed::Wholly))));
        let request = Request {
            projection,
            schema,
            predicates: pushed.into_iter().flatten().map(|(predicate, _)| predicate).collect(),
            limit: limit.filter(|_| exact),
            batch_rows: state.config().batch_size(),
        };
        let (told, schema) = (told(&request), Arc::clone(&request.schema));
        let (source, request) = (Arc::clone(&self.0), Arc::new(request));
        let open = move |_, context: Arc<TaskContext>| {
            let consumer = MemoryConsumer::new("a collection");
            let memory = Memory::new(consumer.register(context.memory_pool()));
            let rows = Arc::clone(&source).read(Arc::clone(&request), memory).into_stream().try_flatten();
            let rows = RecordBatchStreamAdapter::new(Arc::clone(&request.schema), rows);
            Ok(Box::pin(rows) as SendableRecordBatchStream)
        };
        Ok(Arc::new(SourceExec::new(told, schema, 1, Arc::new(open))))
    }
}

/// Without values: they are of the caller, or of the rules.
fn told(request: &Request) -> String {
    let columns: Vec<&str> = request.schema.fields().iter().map(|field| field.name().as_str()).collect();
    let limit = request.limit.map(|limit| format!(", limit={limit}")).unwrap_or_default();
    format!("columns=[{}], conditions={}{limit}", columns.join(", "), request.predicates.len())
}
