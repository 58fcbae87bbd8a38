//! From a query's text to rows: the plan, checked to do nothing but read, and its execution within limits.
//!
//! All of it runs on threads of its own ([`crate::threads`]); what is handed out are rows ([`crate::running`]).

use std::sync::Arc;
use std::time::Duration;

use datafusion::common::ParamValues;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::{Analyzer, AnalyzerRule, Optimizer};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::{ExecutionPlan, displayable, execute_stream};
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::Statement as AstStatement;
use kafscale_settings::failure::Failure;
use kafscale_settings::sql::QueryLimitArgs;
use kafscale_settings::units::{ByteSize, Limit};
use kafscale_storage::scan::{ScanError, Scanner};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::allowed;
use crate::catalog::{Catalog, Cluster, DATABASE, Database, PUBLIC};
use crate::charged::charged;
use crate::dialect::PostgresDialect;
use crate::error::SqlError;
use crate::follow::{self, Following};
use crate::growth;
use crate::guarded;
use crate::metered;
use crate::once::left_sides_once;
use crate::planning::{self, StopOnDrop};
use crate::postgres;
use crate::postgres::session::OfSession;
use crate::query::{Query, QueryLimits};
use crate::running::{Running, apart, lines};
use crate::sorting::{self, Prepared};
use crate::spilled::SpillDir;
use crate::statement::QueryText;
use crate::stoppable::stoppable;
use crate::threads::QueryHandle;
use crate::workers::spread::Workers;

/// Consumers of memory that an error names.
const NAMED_CONSUMERS: usize = 3;
/// Of the parser, whose levels are several for one pair of parentheses; [`crate::statement`] has refused deeper texts.
const RECURSION_LIMIT: usize = 400;

/// Plans and runs the statements of all clients.
#[derive(Debug)]
pub struct Engine {
    cluster: Arc<Cluster>,
    threads: QueryHandle,
    base: SessionState,
    limits: QueryLimits,
    pub statement_timeout: Option<Duration>,
    /// Between two looks of FOLLOW.
    pub look_interval: Duration,
    /// Other machines that take part in large queries.
    pub workers: Option<Arc<Workers>>,
    places: Places,
}

/// What may run at the same time. Those who wait for one kind keep no other kind waiting.
#[derive(Debug, Clone)]
struct Places {
    planning: Arc<Semaphore>,
    of_topics: Arc<Semaphore>,
    /// Queries that read no topic: of what the server itself knows, mostly.
    of_others: Arc<Semaphore>,
    following: Arc<Semaphore>,
}

async fn place(of: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(of).acquire_owned().await.expect("it is never closed")
}

impl Engine {
    pub fn new(
        cluster: Arc<Cluster>,
        limits: &QueryLimitArgs,
        threads: QueryHandle,
    ) -> Result<Engine, Failure> {
        let base = own_session(limits)?;
        let bytes = |limit: Limit<ByteSize>| match limit {
            Limit::Unlimited => None,
            Limit::At(ByteSize(bytes)) => Some(bytes),
        };
        let queries = || Arc::new(Semaphore::new(usize::try_from(limits.max_queries).unwrap_or(usize::MAX)));
        Ok(Engine {
            cluster,
            threads,
            base,
            limits: QueryLimits {
                scan_bytes: bytes(limits.scan_limit),
                result_bytes: bytes(limits.max_result_bytes),
            },
            statement_timeout: Some(limits.statement_timeout.0).filter(|timeout| !timeout.is_zero()),
            look_interval: follow::LOOK_INTERVAL_SHARED,
            workers: None,
            places: Places {
                planning: queries(),
                of_topics: queries(),
                of_others: queries(),
                following: queries(),
            },
        })
    }

    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Begins a statement: what it sees is as of now.
    pub fn begin(&self, text: &QueryText) -> Planner {
        self.begin_in(text, None)
    }

    /// The same for a client, whose settings the statement may ask for.
    pub fn begin_in(&self, text: &QueryText, session: Option<OfSession>) -> Planner {
        let limits = match (&text.follow, text.scan_full) {
            // What follows reads a little at a time, for as long as somebody looks on.
            (Some(_), _) => QueryLimits { scan_bytes: None, result_bytes: None },
            (None, true) => QueryLimits { scan_bytes: None, ..self.limits },
            (None, false) => self.limits,
        };
        let query = Query::new(limits);
        let catalog = Catalog::new(Arc::clone(&self.cluster), Arc::clone(&query));
        let mut state = self.base.clone();
        if text.follow.is_some() {
            // Rows stay in the order of their offsets.
            state.config_mut().options_mut().execution.target_partitions = 1;
        }
        if let Some(session) = session {
            state.config_mut().options_mut().extensions.insert(session);
        }
        state.register_catalog_list(Arc::new(Database(Arc::new(catalog))));
        // What now() is.
        state.mark_start_execution();
        let cluster = Arc::clone(&self.cluster);
        // What follows reads a little at a time.
        let workers = self.workers.clone().filter(|_| text.follow.is_none());
        let planning = Planning { text: text.clone(), state, cluster, query: Arc::clone(&query), workers };
        Planner {
            query,
            planning: Arc::new(planning),
            threads: self.threads.clone(),
            looking: (self.cluster.scanner.clone(), self.look_interval),
            places: self.places.clone(),
        }
    }

    /// Waits for a place among the queries that run. Where one reads no topic, it does not wait for those that do.
    pub async fn place(&self, text: &QueryText) -> Option<OwnedSemaphorePermit> {
        match (&text.follow, text.reads_topics) {
            // It has a place of its own kind, or none.
            (Some(_), _) => None,
            (None, true) => Some(place(&self.places.of_topics).await),
            (None, false) => Some(place(&self.places.of_others).await),
        }
    }
}

/// The engine's session as every statement begins with it, before it has a catalog.
pub fn session(limits: &QueryLimitArgs) -> Result<SessionStateBuilder, Failure> {
    let spilled = match &limits.spill_dir {
        Some(place) => Some(SpillDir::create(place).map_err(|error| {
            Failure::runtime(format!("--spill-dir {}: nothing can be made there: {error}", place.display()))
        })?),
        // Where the system has no place for temporary files, the first statement that needs one is told.
        None => SpillDir::create(&std::env::temp_dir()).ok(),
    };
    let runtime = runtime(limits, spilled.as_ref()).map_err(|e| Failure::runtime(e.to_string()))?;
    let mut config = SessionConfig::new()
        // It is there for as long as the session is.
        .with_extension(Arc::new(spilled))
        .with_default_catalog_and_schema(DATABASE, PUBLIC)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false);
    // What has a time zone is told in UTC.
    config.options_mut().execution.time_zone = Some("UTC".to_owned());
    // As PostgreSQL has it.
    config.options_mut().sql_parser.default_null_ordering = "nulls_max".to_owned();
    // The two plans may say differently whether a column of constants can be NULL. That is no reason to refuse.
    config.options_mut().execution.skip_physical_aggregate_schema_check = true;
    let mut builder =
        SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features();
    let functions = builder.scalar_functions().get_or_insert_default();
    functions.extend(postgres::functions::all());
    functions.extend(postgres::json::all());
    functions.extend(growth::bounded(functions));
    functions.push(Arc::new(growth::text_concat()));
    let functions = builder.aggregate_functions().get_or_insert_default();
    functions.extend(postgres::aggregates::all());
    *functions = metered::aggregates(functions);
    let functions = builder.window_functions().get_or_insert_default();
    *functions = metered::windows(functions);
    // Before the engine's own, which take `->` for something else.
    builder.expr_planners().get_or_insert_default().insert(0, Arc::new(postgres::json::Operators));
    Ok(builder
        .with_analyzer_rules(planning::analyzing(analyzer_rules()))
        .with_optimizer_rules(planning::optimizing(Optimizer::new().rules))
        // Nothing reads or writes files.
        .with_file_formats(Vec::new())
        .with_physical_optimizer_rules(planning::finishing(optimizer_rules()))
        .with_table_factories(Default::default()))
}

/// The session of statements here, which workers have, too.
pub fn own_session(limits: &QueryLimitArgs) -> Result<SessionState, Failure> {
    Ok(with_whole_numbers(session(limits)?).build())
}

/// The same session, in which integers do not wrap. Not for the perimeter: see [`postgres::checked`].
fn with_whole_numbers(session: SessionStateBuilder) -> SessionStateBuilder {
    let mut rules = analyzer_rules();
    rules.push(postgres::checked::rule());
    let mut finishing = optimizer_rules();
    finishing.push(guarded::rule());
    let mut session = session
        .with_analyzer_rules(planning::analyzing(rules))
        .with_physical_optimizer_rules(planning::finishing(finishing));
    session.aggregate_functions().get_or_insert_default().push(Arc::new(postgres::sum::function()));
    session
}

fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let mut rules = Analyzer::new().rules;
    rules.splice(0..0, [postgres::semantics::rule(), postgres::multisets::rule()]);
    rules.push(postgres::texts::rule());
    rules
}

/// The engine's own, without the late push-down of filters: it finds columns by their names alone, and has applied a
/// condition on one side of a join to the column of the same name of the other. Topics, all of which have columns of
/// the same names, take no filters this late.
fn optimizer_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let rules = PhysicalOptimizer::new().rules.into_iter();
    rules.filter(|rule| !rule.name().starts_with("FilterPushdown")).collect()
}

fn runtime(limits: &QueryLimitArgs, spilled: Option<&SpillDir>) -> Result<Arc<RuntimeEnv>, DataFusionError> {
    metered::limit(limits.memory.0);
    let memory = usize::try_from(limits.memory.0).unwrap_or(usize::MAX);
    let named = NAMED_CONSUMERS.try_into().expect("it is not 0");
    let pool = Arc::new(TrackConsumersPool::new(FairSpillPool::new(memory), named));
    let mode = match spilled {
        Some(spilled) => DiskManagerMode::Directories(vec![spilled.path().to_owned()]),
        None => DiskManagerMode::OsTmpDirectory,
    };
    let disk = DiskManagerBuilder::default()
        .with_mode(mode)
        .with_max_temp_directory_size(limits.spill_limit.0)
        .with_max_spill_merge_fan_in(sorting::FAN_IN);
    RuntimeEnvBuilder::new().with_memory_pool(pool).with_disk_manager_builder(disk).build_arc()
}

/// One statement before it runs. What it does, it does on the threads of queries.
#[derive(Debug)]
pub struct Planner {
    pub query: Arc<Query>,
    planning: Arc<Planning>,
    threads: QueryHandle,
    /// What FOLLOW looks with, and how often.
    looking: (Scanner, Duration),
    places: Places,
}

/// What plans are made from.
#[derive(Debug)]
pub struct Planning {
    text: QueryText,
    pub state: SessionState,
    cluster: Arc<Cluster>,
    pub query: Arc<Query>,
    workers: Option<Arc<Workers>>,
}

impl Planner {
    /// The plan of the query, which may have parameters.
    pub async fn plan(&self) -> Result<LogicalPlan, SqlError> {
        let (planning, places) = (Arc::clone(&self.planning), self.places.clone());
        let work = async move {
            let _place = place(&places.planning).await;
            planning.check_described().await?;
            planning.plan(&planning.text.sql).await
        };
        until_planned(&self.query, &self.threads, work).await
    }

    /// Starts a plan. The rows come when they are asked for.
    pub async fn run(self, plan: LogicalPlan, values: Option<ParamValues>) -> Result<Running, SqlError> {
        let (planning, places, looking, query) = (self.planning, self.places, self.looking, self.query);
        let work = async move {
            let permit = place(&places.planning).await;
            let plan = with_values(plan, values.as_ref())?;
            if let Some(follow) = &planning.text.follow {
                let first = match &follow.first {
                    Some(sql) => Some(with_values(planning.plan(sql).await?, values.as_ref())?),
                    None => None,
                };
                let place = Arc::clone(&places.following).try_acquire_owned().map_err(|_| {
                    SqlError::Busy("as many statements with FOLLOW run as may (--max-queries)".to_owned())
                })?;
                let following = Following::new(Arc::clone(&planning), looking, plan, follow)?;
                return following.start(first, place);
            }
            let physical = planning.physical(&plan).await?;
            drop(permit);
            let Prepared { plan, context } = sorting::prepared(physical, &planning.state)?;
            let context = metered::with_small_batches(&plan, context)?;
            let plan = metered::metered(plan)?;
            let rows = apart(execute_stream(Arc::clone(&plan), context)?);
            Ok(Running::new(plan, rows, Arc::clone(&planning.query), None))
        };
        until_planned(&query, &self.threads, work).await
    }

    /// The lines of EXPLAIN: the plan as it is executed.
    pub async fn explain(
        self,
        plan: LogicalPlan,
        values: Option<ParamValues>,
    ) -> Result<Vec<String>, SqlError> {
        let (planning, places, query) = (self.planning, self.places, self.query);
        let work = async move {
            let _place = place(&places.planning).await;
            let physical = planning.physical(&with_values(plan, values.as_ref())?).await?;
            let mut explained = planning.text.notes.clone();
            explained.extend(lines(&displayable(&*physical).indent(false).to_string()));
            Ok(explained)
        };
        until_planned(&query, &self.threads, work).await
    }
}

/// Whoever does not wait any more ends the planning.
async fn until_planned<T: Send + 'static>(
    query: &Arc<Query>,
    threads: &QueryHandle,
    work: impl Future<Output = Result<T, SqlError>> + Send + 'static,
) -> Result<T, SqlError> {
    let stops = StopOnDrop::new(query);
    let planned = threads.run(Arc::clone(query).doing(work)).await;
    stops.planned();
    planned
}

impl Planning {
    async fn plan(&self, sql: &str) -> Result<LogicalPlan, SqlError> {
        let planned = growth::planning(self.state.statement_to_plan(parse(sql)?));
        let plan = match planning::until_stopped(&self.query, planned).await {
            Ok(plan) => plan,
            Err(error) => return Err(self.with_near_topics(error).await),
        };
        allowed::check(&plan)?;
        Ok(planning::until_stopped(&self.query, async { postgres::checked::with_types(plan) }).await?)
    }

    /// DESCRIBE is for what is there.
    async fn check_described(&self) -> Result<(), SqlError> {
        let Some(topic) = &self.text.describes else { return Ok(()) };
        match self.cluster.scanner.snapshot(topic).await {
            Err(ScanError::NoTopic(_)) => Err(self.no_table(topic.clone()).await),
            _ => Ok(()),
        }
    }

    /// Says of a table that is not there which topics have names like its.
    async fn with_near_topics(&self, error: DataFusionError) -> SqlError {
        let Some(name) = postgres::errors::missing_table(&error) else { return error.into() };
        self.no_table(name.strip_prefix("public.").unwrap_or(&name).to_owned()).await
    }

    async fn no_table(&self, table: String) -> SqlError {
        let topics = self.cluster.scanner.topics().await.unwrap_or_default();
        let near = postgres::errors::nearest(&table, topics.iter().map(|topic| topic.name.as_str()));
        let hint = match near {
            Some(near) => format!("Perhaps you meant the topic \"{near}\". SHOW TOPICS lists all."),
            None => "SHOW TOPICS lists all topics.".to_owned(),
        };
        SqlError::NoTable { table, hint }
    }

    /// The plan as it is executed.
    pub async fn physical(&self, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>, SqlError> {
        let mut plan = made(&self.state, plan, &self.query).await?;
        if let Some(workers) = &self.workers {
            plan = workers.spread(plan, &self.state, &self.query).await?;
        }
        Ok(charged(stoppable(plan, &self.query)?)?)
    }
}

/// A plan as it is executed for a statement: it ends with it, and its memory is charged.
pub async fn physical(
    state: &SessionState,
    plan: &LogicalPlan,
    query: &Arc<Query>,
) -> Result<Arc<dyn ExecutionPlan>, SqlError> {
    Ok(charged(stoppable(made(state, plan, query).await?, query)?)?)
}

async fn made(
    state: &SessionState,
    plan: &LogicalPlan,
    query: &Arc<Query>,
) -> Result<Arc<dyn ExecutionPlan>, SqlError> {
    let planned = growth::planning(state.create_physical_plan(plan));
    let plan = planning::until_stopped(query, planned).await?;
    Ok(left_sides_once(plan)?)
}

fn with_values(plan: LogicalPlan, values: Option<&ParamValues>) -> Result<LogicalPlan, SqlError> {
    Ok(match values {
        Some(values) => plan.replace_params_with_values(values)?,
        None => plan,
    })
}

/// An error of the parser, with its place in the text.
fn not_understood(sql: &str, error: DataFusionError) -> SqlError {
    let Some((line, column)) = postgres::errors::place(&error) else { return error.into() };
    let before: usize = sql.split_inclusive('\n').take(line - 1).map(|line| line.chars().count()).sum();
    SqlError::SyntaxAt { error: Arc::new(error), position: before + column }
}

/// The one query of a text.
pub fn parse(sql: &str) -> Result<Statement, SqlError> {
    let parsed = DFParserBuilder::new(sql)
        .with_dialect(&PostgresDialect)
        .with_recursion_limit(RECURSION_LIMIT)
        .build()
        .and_then(|mut parser| parser.parse_statements());
    let mut statements = parsed.map_err(|error| not_understood(sql, error))?;
    match (statements.pop_front(), statements.is_empty()) {
        (Some(Statement::Statement(mut statement)), true) if matches!(*statement, AstStatement::Query(_)) => {
            postgres::rewrite::rewrite(&mut statement)?;
            if postgres::balanced::is_too_deep(&mut statement) {
                let most = postgres::balanced::DEEPEST;
                let why = format!(
                    "an expression has more than {most} operators in a row; put parts into subqueries"
                );
                return Err(SqlError::TooComplex(why));
            }
            Ok(Statement::Statement(statement))
        }
        _ => Err(SqlError::Syntax("this is not one query".to_owned())),
    }
}
