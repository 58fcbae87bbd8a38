//! From a query's text to rows: the plan, checked to do nothing but read, and its execution within limits.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use datafusion::common::ParamValues;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream, displayable, execute_stream};
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::Statement as AstStatement;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use futures_util::StreamExt as _;
use kafscale_settings::failure::Failure;
use kafscale_settings::sql::QueryLimitArgs;
use kafscale_settings::units::{ByteSize, Limit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::allowed;
use crate::catalog::{Catalog, Cluster, DATABASE, Database, PUBLIC};
use crate::error::SqlError;
use crate::postgres;
use crate::query::{Query, QueryLimits};
use crate::statement::QueryText;

/// Consumers of memory that an error names.
const NAMED_CONSUMERS: usize = 3;
/// Batches that are made before they are taken.
const BATCHES_AHEAD: usize = 2;

/// Plans and runs the statements of all clients.
#[derive(Debug)]
pub struct Engine {
    cluster: Arc<Cluster>,
    base: SessionState,
    scan_limit: Option<u64>,
    pub statement_timeout: Option<Duration>,
    places: Arc<Semaphore>,
}

impl Engine {
    pub fn new(cluster: Arc<Cluster>, limits: &QueryLimitArgs) -> Result<Engine, Failure> {
        let runtime = runtime(limits).map_err(|e| Failure::runtime(e.to_string()))?;
        let mut config = SessionConfig::new()
            .with_default_catalog_and_schema(DATABASE, PUBLIC)
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(false);
        // As PostgreSQL has it.
        config.options_mut().sql_parser.default_null_ordering = "nulls_max".to_owned();
        let mut builder =
            SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features();
        let functions = builder.scalar_functions().get_or_insert_default();
        functions.extend(postgres::functions::all());
        functions.extend(postgres::json::all());
        // Before the engine's own, which take `->` for something else.
        builder.expr_planners().get_or_insert_default().insert(0, Arc::new(postgres::json::Operators));
        let base = builder
            // Nothing reads or writes files.
            .with_file_formats(Vec::new())
            .with_table_factories(Default::default())
            .build();
        Ok(Engine {
            cluster,
            base,
            scan_limit: match limits.scan_limit {
                Limit::Unlimited => None,
                Limit::At(ByteSize(bytes)) => Some(bytes),
            },
            statement_timeout: Some(limits.statement_timeout.0).filter(|timeout| !timeout.is_zero()),
            places: Arc::new(Semaphore::new(usize::try_from(limits.max_queries).unwrap_or(usize::MAX))),
        })
    }

    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Begins a statement: what it sees is as of now.
    pub fn begin(&self, scan_full: bool) -> Planner {
        let query = Query::new(QueryLimits { scan_bytes: self.scan_limit.filter(|_| !scan_full) });
        let catalog = Catalog::new(Arc::clone(&self.cluster), Arc::clone(&query));
        let mut state = self.base.clone();
        state.register_catalog_list(Arc::new(Database(Arc::new(catalog))));
        // What now() is.
        state.mark_start_execution();
        Planner { state, query }
    }

    /// Waits for a place among the queries that run.
    pub async fn place(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.places).acquire_owned().await.expect("it is never closed")
    }
}

fn runtime(limits: &QueryLimitArgs) -> Result<Arc<RuntimeEnv>, DataFusionError> {
    let memory = usize::try_from(limits.memory.0).unwrap_or(usize::MAX);
    let named = NAMED_CONSUMERS.try_into().expect("it is not 0");
    let pool = Arc::new(TrackConsumersPool::new(FairSpillPool::new(memory), named));
    let mode = match &limits.spill_dir {
        Some(dir) => DiskManagerMode::Directories(vec![dir.clone()]),
        None => DiskManagerMode::OsTmpDirectory,
    };
    let disk =
        DiskManagerBuilder::default().with_mode(mode).with_max_temp_directory_size(limits.spill_limit.0);
    RuntimeEnvBuilder::new().with_memory_pool(pool).with_disk_manager_builder(disk).build_arc()
}

/// One statement before it runs.
#[derive(Debug)]
pub struct Planner {
    state: SessionState,
    pub query: Arc<Query>,
}

impl Planner {
    /// The plan of a query, which may have parameters.
    pub async fn plan(&self, query: &QueryText) -> Result<LogicalPlan, SqlError> {
        let statement = parse(&query.sql)?;
        let plan = self.state.statement_to_plan(statement).await?;
        allowed::check(&plan)?;
        Ok(plan)
    }

    /// Starts a plan. The rows come when they are asked for.
    pub async fn run(self, plan: LogicalPlan, parameters: Option<ParamValues>) -> Result<Running, SqlError> {
        let physical = self.physical(plan, parameters).await?;
        let rows = apart(execute_stream(Arc::clone(&physical), self.state.task_ctx())?);
        Ok(Running { schema: physical.schema(), rows, plan: physical, query: self.query })
    }

    async fn physical(
        &self,
        plan: LogicalPlan,
        parameters: Option<ParamValues>,
    ) -> Result<Arc<dyn ExecutionPlan>, SqlError> {
        let plan = match parameters {
            Some(values) => plan.replace_params_with_values(&values)?,
            None => plan,
        };
        Ok(self.state.create_physical_plan(&plan).await?)
    }

    /// The lines of EXPLAIN: the plan as it is executed.
    pub async fn explain(
        self,
        plan: LogicalPlan,
        parameters: Option<ParamValues>,
    ) -> Result<Vec<String>, SqlError> {
        let physical = self.physical(plan, parameters).await?;
        Ok(lines(&displayable(&*physical).indent(false).to_string()))
    }
}

/// The same rows, made in a task of their own: a step of a join may compute for seconds without looking up, and whoever waits for rows is
/// to hear of a cancellation meanwhile.
fn apart(mut rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
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

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// The one query of a text.
fn parse(sql: &str) -> Result<Statement, SqlError> {
    let mut parser = DFParserBuilder::new(sql).with_dialect(&PostgreSqlDialect {}).build()?;
    let mut statements = parser.parse_statements()?;
    match (statements.pop_front(), statements.is_empty()) {
        (Some(Statement::Statement(mut statement)), true) if matches!(*statement, AstStatement::Query(_)) => {
            postgres::rewrite::rewrite(&mut statement);
            Ok(Statement::Statement(statement))
        }
        _ => Err(SqlError::Syntax("this is not one query".to_owned())),
    }
}

/// A query that runs.
pub struct Running {
    pub schema: SchemaRef,
    pub rows: SendableRecordBatchStream,
    pub plan: Arc<dyn ExecutionPlan>,
    pub query: Arc<Query>,
}

impl Running {
    /// The plan with what each step has done, for EXPLAIN ANALYZE.
    pub fn measured(plan: &dyn ExecutionPlan) -> Vec<String> {
        lines(
            &datafusion::physical_plan::display::DisplayableExecutionPlan::with_metrics(plan)
                .indent(false)
                .to_string(),
        )
    }
}
