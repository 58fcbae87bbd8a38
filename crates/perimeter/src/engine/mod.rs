//! From a statement of a caller to an answer: the plan, shaped by the rules, and its execution within limits.
//!
//! Invariant: [`Engine::plan`] gives nothing that was not through [`crate::governed`], and [`Planned::run`] runs nothing else.

mod complexity;

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Volatility};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner as _};
use futures_util::StreamExt as _;
use kafscale_agent::Places;
use kafscale_settings::failure::Failure;
use kafscale_settings::sql::QueryLimitArgs;
use kafscale_sql::error::SqlError;
use kafscale_sql::query::{Query, QueryLimits};
use kafscale_sql::running::batch_bytes;
use kafscale_sql::statement::{self, Statement};
use kafscale_sql::threads::QueryHandle;
use kafscale_sql::{allowed, engine, growth, metered};
use tokio::time::Instant;

use crate::caller::Caller;
use crate::catalog::{Collections, Database, Denied, Used, View, with_names};
use crate::collection::{CollectionError, find};
use crate::deciding::{Allowed, Decide, Ruling};
use crate::governed::cover::{Cover, PassedPlanner};
use crate::governed::entities::{Covered, covered};
use crate::governed::groups::{RESERVED, in_groups};
use crate::governed::guard::{GuardPlanner, hash_of};
use crate::governed::lineage::{Labels, Lineage, lineages};
use crate::governed::releases::{FAILURES_MAX, Released, Releases};
use crate::governed::table::of_source;
use crate::governed::whole::WholeCasts;
use crate::governed::{Failed, Refused};
use crate::handles::Handles;
use crate::labelled::Labelled;
use crate::rules::{Action, ColumnInfo, Limits};
use crate::shape::{TableName, TableShape};
use crate::validate::{self, Pattern};

/// A statement is told to be too long before it is read.
const STATEMENT_BYTES_MAX: usize = 64 << 10;
/// As JSON: what is longer than that is in the audit log as its digest only, together with the other arguments.
const AUDITED_BYTES_MAX: usize = 144 << 10;

/// Plans and runs the statements of all callers.
#[derive(Debug)]
pub struct Engine {
    base: SessionState,
    threads: QueryHandle,
    collections: Arc<Collections>,
    pub handles: Arc<Handles>,
    /// Labels that stick to topics.
    pub labelled: Arc<Labelled>,
    releases: Arc<Releases>,
    /// Plans are not kept waiting by what runs.
    planning: Arc<Places>,
    running: Arc<Places>,
    timeout: Duration,
}

/// Why a statement has no answer. Its text is fit for the caller.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error("{0}")]
    Sql(SqlError),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Refused(#[from] Refused),
    /// As the collection tells it, without the engine's words around it.
    #[error("{}", .0.find_root().message())]
    Collection(Arc<DataFusionError>),
    /// What went wrong would tell of rows that are shown in groups only.
    #[error(
        "the statement failed on rows that are shown in groups only; what failed would tell of one of them"
    )]
    Withheld(SqlError),
    /// Nobody pays for a row that an error tells of.
    #[error(
        "the statement failed on a row of a table whose entities are counted; what failed would tell of one of them"
    )]
    Uncounted(SqlError),
    /// The text of the error has values of rows in it, which leave in answers alone: searched, and marked as data.
    #[error("the statement failed: {what}; on which value is not told")]
    OnRow { what: &'static str, source: SqlError },
    #[error(transparent)]
    Failed(#[from] Failed),
    #[error("the statement took longer than {0:?}")]
    TimedOut(Duration),
    /// What a panic says may have values in it: the log has it.
    #[error("the engine failed at this statement; the log of the perimeter says why")]
    Panicked,
}

impl QueryError {
    /// Whether that a statement failed so may depend on single rows.
    pub fn may_tell_of_rows(&self) -> bool {
        match self {
            QueryError::Withheld(_)
            | QueryError::Uncounted(_)
            | QueryError::OnRow { .. }
            | QueryError::Panicked
            | QueryError::TimedOut(_) => true,
            QueryError::Sql(error) => is_of_rows(error),
            QueryError::Denied(_)
            | QueryError::Refused(_)
            | QueryError::Collection(_)
            | QueryError::Failed(_) => false,
        }
    }

    /// What the caller may do instead.
    pub fn hint(&self) -> Option<String> {
        match self {
            QueryError::Refused(refused) => Some(refused.hint.clone()),
            QueryError::Denied(_) => Some("ask why_denied what would have to change".to_owned()),
            QueryError::TimedOut(_) => Some("ask for less: fewer rows, a condition, an aggregate".to_owned()),
            QueryError::OnRow { .. } | QueryError::Uncounted(_) => {
                Some("use TRY_CAST or NULLIF, or leave such rows out".to_owned())
            }
            QueryError::Sql(_)
            | QueryError::Collection(_)
            | QueryError::Failed(_)
            | QueryError::Panicked
            | QueryError::Withheld(_) => None,
        }
    }
}

impl From<DataFusionError> for QueryError {
    fn from(error: DataFusionError) -> Self {
        let root = error.find_root();
        if let DataFusionError::External(inner) = root {
            if let Some(denied) = inner.downcast_ref::<Denied>() {
                return QueryError::Denied(denied.clone());
            }
            if let Some(refused) = inner.downcast_ref::<Refused>() {
                return QueryError::Refused(refused.clone());
            }
            if let Some(failed) = inner.downcast_ref::<Failed>() {
                return QueryError::Failed(failed.clone());
            }
            if inner.is::<CollectionError>() {
                tracing::warn!(error = ?inner, "a collection failed");
                return QueryError::Collection(Arc::new(error));
            }
        }
        match SqlError::from(error) {
            error @ SqlError::Panicked(_) => error.into(),
            error => QueryError::Sql(error),
        }
    }
}

impl From<SqlError> for QueryError {
    fn from(error: SqlError) -> Self {
        match error {
            SqlError::Engine(error) => match Arc::try_unwrap(error) {
                Ok(error) => error.into(),
                Err(error) => QueryError::Sql(SqlError::Engine(error)),
            },
            error @ SqlError::Panicked(_) => {
                tracing::error!(%error, "a statement has no answer");
                QueryError::Panicked
            }
            error => QueryError::Sql(error),
        }
    }
}

/// Plans steps that the engine does not know.
#[derive(Debug)]
struct Planner;

#[async_trait::async_trait]
impl QueryPlanner for Planner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        state: &dyn Session,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![
            Arc::new(GuardPlanner),
            Arc::new(PassedPlanner),
        ]);
        planner.create_physical_plan(plan, state).await
    }
}

impl Engine {
    pub fn new(
        collections: Collections,
        limits: &QueryLimitArgs,
        threads: QueryHandle,
        handles: Arc<Handles>,
    ) -> Result<Engine, Failure> {
        let base = engine::session(limits)?
            .with_query_planner(Arc::new(Planner))
            .with_analyzer_rule(Arc::new(WholeCasts))
            .build();
        let at_once = usize::try_from(limits.max_queries).unwrap_or(usize::MAX);
        Ok(Engine {
            base,
            threads,
            collections: Arc::new(collections),
            handles,
            labelled: Arc::default(),
            releases: Arc::default(),
            planning: Places::new(at_once),
            running: Places::new(at_once),
            timeout: limits.statement_timeout.0,
        })
    }

    /// Does what takes long where nobody waits for a thread.
    pub async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, QueryError> {
        Ok(self.threads.run(async move { Ok(work()) }).await?)
    }

    pub fn collections(&self) -> &Arc<Collections> {
        &self.collections
    }

    /// Plans one query for a caller, under the rules as they are now.
    pub async fn plan(
        &self,
        caller: Caller,
        decide: Arc<dyn Decide>,
        sql: &str,
        now_ms: i64,
    ) -> Result<Planned, QueryError> {
        let text = one_query(sql)?;
        let deadline = Instant::now() + self.timeout;
        let mut state = self.base.clone();
        let view = Arc::new(View {
            collections: Arc::clone(&self.collections),
            decide,
            handles: Arc::clone(&self.handles),
            labelled: Arc::clone(&self.labelled),
            kept: Default::default(),
            caller,
            state: self.base.clone(),
            found: Default::default(),
            begun: Default::default(),
        });
        state.register_catalog_list(Arc::new(Database(Arc::clone(&view))));
        state.mark_start_execution();
        let query = Query::new(QueryLimits { scan_bytes: None, result_bytes: None });
        let released =
            Released { all: Arc::clone(&self.releases), principal: view.caller.principal.clone(), now_ms };
        let (sql, inner) = (text, state.clone());
        let principal = Arc::<str>::from(view.caller.principal.as_str());
        let (asking, answering) = (view.caller.clone(), released.clone());
        let places = Arc::clone(&self.planning);
        let key = view.decide.entity_key();
        let planned = self.threads.run(Arc::clone(&query).doing(async move {
            let _place = places.take(&principal).await;
            let plan = growth::planning(inner.statement_to_plan(engine::parse(&sql)?)).await?;
            allowed::check(&plan)?;
            complexity::check(&plan)?;
            let lineages = lineages(&plan);
            let governed = in_groups(&plan, &answering, origin(&sql, &plan, &asking))?;
            let covered = covered(&governed, key)?;
            Ok((governed, covered, lineages))
        }));
        let planned = tokio::time::timeout_at(deadline, planned).await;
        let (plan, covered, lineages) = planned.map_err(|_| QueryError::TimedOut(self.timeout))??;
        let used = view.used().await;
        let is_in_groups = used.iter().any(|used| used.shape.min_group.is_some());
        if is_in_groups && released.has_failed_often() {
            return Err(failed_often().into());
        }
        Ok(Planned {
            in_groups: is_in_groups.then_some(released),
            rules_hash: view.decide.hash().to_owned(),
            state,
            plan,
            covered,
            labels: lineages.iter().map(|lineage| lineage.labels.clone()).collect(),
            lineages,
            used,
            query,
            threads: self.threads.clone(),
            timeout: self.timeout,
            deadline,
            principal: view.caller.principal.as_str().into(),
            planning: Arc::clone(&self.planning),
            running: Arc::clone(&self.running),
        })
    }

    /// The tables of a collection that a caller may know of.
    pub async fn known_tables(
        &self,
        caller: &Caller,
        decide: &dyn Decide,
        collection: &str,
    ) -> Result<Vec<String>, CollectionError> {
        let Some(found) = self.collections.get(collection) else { return Ok(Vec::new()) };
        let mut tables = found.tables().await?;
        tables.retain(|table| decide.knows(caller, &TableName::new(collection, table)));
        Ok(tables)
    }

    /// A table as a caller would get it.
    pub async fn describe(
        &self,
        caller: &Caller,
        decide: &dyn Decide,
        collection: &str,
        table: &str,
    ) -> Result<Described, CollectionError> {
        let Some(found) = self.collections.get(collection) else { return Ok(Described::Nothing) };
        if !decide.knows_collection(caller, collection) {
            return Ok(Described::Nothing);
        }
        let named = TableName::new(collection, found.table_named(table));
        let missing = |named| Ok(Described::Denied(Denied::missing(decide, caller, named).why));
        let source = match find(found.as_ref(), table, caller).await {
            Ok(Some(source)) => source,
            Ok(None) => return missing(named),
            Err(_) if !decide.knows(caller, &named) => return missing(named),
            Err(error) => return Err(error),
        };
        let columns = self.labelled.columns(found.kind(), &named.table, with_names(source.columns));
        Ok(match decide.decide(caller, Action::Query, &named, &columns) {
            Ruling::Denied { why, .. } => Described::Denied(why),
            Ruling::Allowed(allowed) => Described::Table { allowed, columns },
        })
    }
}

/// What a caller is told of a table.
#[derive(Debug)]
pub enum Described {
    /// The caller may not know of the collection.
    Nothing,
    /// In the same words whether the table is there or not.
    Denied(String),
    Table {
        allowed: Box<Allowed>,
        columns: Vec<ColumnInfo>,
    },
}

/// A statement whose rules are in its plan.
#[derive(Debug)]
pub struct Planned {
    state: SessionState,
    plan: LogicalPlan,
    /// What is run in its place, where entities are counted.
    covered: Option<Covered>,
    /// Of each column of the answer.
    pub labels: Vec<Labels>,
    /// The same, and whether something without a label is in it.
    pub lineages: Vec<Lineage>,
    pub used: Vec<Used>,
    query: Arc<Query>,
    rules_hash: String,
    /// Where rows of its tables are shown in groups only.
    in_groups: Option<Released>,
    threads: QueryHandle,
    timeout: Duration,
    /// Of the whole statement, its planning included.
    deadline: Instant,
    principal: Arc<str>,
    planning: Arc<Places>,
    running: Arc<Places>,
}

/// Bounds of one answer.
#[derive(Debug, Clone, Copy)]
pub struct AnswerLimits {
    pub rows: u64,
    pub bytes: u64,
}

/// The rows of an answer, all of them there.
#[derive(Debug, Clone)]
pub struct Rows {
    pub schema: SchemaRef,
    pub batches: Vec<RecordBatch>,
    pub rows: u64,
    pub bytes: u64,
    /// There are more rows than these, or may be where entities are counted.
    pub cut_by: Option<&'static str>,
}

impl Planned {
    /// When it has taken too long.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    pub fn rules_hash(&self) -> &str {
        &self.rules_hash
    }

    /// The strictest of the tables that are in it.
    pub fn budgets(&self) -> Limits {
        self.used.iter().fold(Limits::default(), |all, used| all.strictest(used.budgets))
    }

    /// Hashes of the entities that the answer covers, as far as it was run: those that a budget counts.
    pub fn entities(&self) -> HashSet<u64> {
        self.covered.as_ref().map(|covered| covered.cover.found()).unwrap_or_default()
    }

    /// Whether entities of its answer are counted.
    pub fn is_counted(&self) -> bool {
        self.covered.is_some()
    }

    pub fn column_names(&self) -> Vec<String> {
        self.plan.schema().fields().iter().map(|field| field.name().clone()).collect()
    }

    /// What rules of any of its tables look for in an answer.
    pub fn patterns(&self) -> Vec<Arc<Pattern>> {
        validate::together(self.used.iter().flat_map(|used| used.shape.patterns.iter().cloned()))
    }

    /// The strictest bounds of the tables that are in it, and `asked`.
    pub fn limits(&self, asked: AnswerLimits) -> AnswerLimits {
        let least =
            |of: fn(&Used) -> Option<u64>, asked: u64| self.used.iter().filter_map(of).fold(asked, u64::min);
        AnswerLimits {
            rows: least(|used| used.shape.max_rows, asked.rows),
            bytes: least(|used| used.shape.max_bytes, asked.bytes),
        }
    }

    /// `is_running`: the plan is made, and what fails fails on rows, whatever the engine says of it.
    fn guarded<T>(&self, done: Result<T, SqlError>, is_running: bool) -> Result<T, QueryError> {
        match done {
            Ok(done) => Ok(done),
            Err(error) => match QueryError::from(error) {
                // An error of the engine has values in its text, and one of memory tells how large rows are.
                QueryError::Sql(error) if is_running && self.in_groups.is_some() && is_of_engine(&error) => {
                    Err(QueryError::Withheld(error))
                }
                QueryError::Sql(error) if is_running && self.covered.is_some() && is_of_rows(&error) => {
                    Err(QueryError::Uncounted(error))
                }
                QueryError::Sql(error) if is_running && is_of_engine(&error) => {
                    match while_running(error.code()) {
                        Some(what) => Err(QueryError::OnRow { what, source: error }),
                        None => Err(QueryError::Sql(error)),
                    }
                }
                QueryError::Sql(error @ (SqlError::Engine(_) | SqlError::State { .. })) => {
                    match on_row(error.code()) {
                        Some(what) => Err(QueryError::OnRow { what, source: error }),
                        None => Err(QueryError::Sql(error)),
                    }
                }
                error => Err(error),
            },
        }
    }

    /// The steps as the caller may know them: its own columns and conditions. How a source is asked has the filters of the rules in
    /// it, and columns that they hide, so that none of that is told, nor how many files or streams are left of it.
    pub async fn explain(&self) -> Result<String, QueryError> {
        let (state, plan, query) = (self.state.clone(), self.plan.clone(), Arc::clone(&self.query));
        let run = self.covered.as_ref().map(|covered| covered.plan.clone());
        let (places, principal) = (Arc::clone(&self.planning), Arc::clone(&self.principal));
        let explained = self.threads.run(Arc::clone(&self.query).doing(async move {
            let _place = places.take(&principal).await;
            let plan = growth::planning(async { state.optimize(&plan) }).await?;
            // Whether it can be carried out.
            let run = run.map(|run| state.optimize(&run)).transpose()?;
            engine::physical(&state, run.as_ref().unwrap_or(&plan), &query).await?;
            Ok(plan.display_indent().to_string())
        }));
        match tokio::time::timeout_at(self.deadline, explained).await {
            Ok(explained) => self.guarded(explained, false),
            Err(_) => Err(QueryError::TimedOut(self.timeout)),
        }
    }

    /// Runs it, up to the limits.
    pub async fn run(&self, limits: AnswerLimits) -> Result<Rows, QueryError> {
        let limits = self.limits(limits);
        let is_running = Arc::new(AtomicBool::new(false));
        let work = self.run_within(limits, Arc::clone(&is_running));
        let ran = tokio::time::timeout_at(self.deadline, work).await;
        self.query.stop();
        let ran = match ran {
            Ok(ran) => self.guarded(ran, is_running.load(Ordering::Relaxed)),
            Err(_) => Err(QueryError::TimedOut(self.timeout)),
        };
        if let (Err(error), Some(released)) = (&ran, &self.in_groups)
            && is_running.load(Ordering::Relaxed)
            && error.may_tell_of_rows()
        {
            released.fail();
        }
        ran
    }

    async fn run_within(&self, limits: AnswerLimits, is_running: Arc<AtomicBool>) -> Result<Rows, SqlError> {
        let (state, query) = (self.state.clone(), Arc::clone(&self.query));
        let (places, principal) = (Arc::clone(&self.running), Arc::clone(&self.principal));
        // That there is one more row tells of its entity, for which nobody pays: it is not looked for where entities are counted.
        let rows = limits.rows.saturating_add(u64::from(self.covered.is_none()));
        let most = usize::try_from(rows).unwrap_or(usize::MAX);
        let run = self.covered.as_ref().map_or(&self.plan, |covered| &covered.plan).clone();
        let plan = LogicalPlanBuilder::from(run).limit(0, Some(most))?.build()?;
        let covered = self.covered.as_ref().map(|covered| (covered.shown, Arc::clone(&covered.cover)));
        self.threads
            .run(Arc::clone(&self.query).doing(async move {
                let _place = places.take(&principal).await;
                let physical = metered::metered(engine::physical(&state, &plan, &query).await?)?;
                is_running.store(true, Ordering::Relaxed);
                let mut stream = execute_stream(physical, state.task_ctx())?;
                let mut schema = stream.schema();
                if let Some((shown, _)) = &covered {
                    let shown: Vec<usize> = (0..*shown).collect();
                    schema = Arc::new(schema.project(&shown).map_err(DataFusionError::from)?);
                }
                let mut rows = Rows { schema, batches: Vec::new(), rows: 0, bytes: 0, cut_by: None };
                while let Some(batch) = stream.next().await {
                    if !rows.take(batch?, limits, covered.as_ref())? {
                        break;
                    }
                }
                Ok(rows)
            }))
            .await
    }
}

impl Rows {
    /// Takes what fits of a batch, and notes which entities that covers. False: that is all that fits.
    fn take(
        &mut self,
        batch: RecordBatch,
        limits: AnswerLimits,
        covered: Option<&(usize, Arc<Cover>)>,
    ) -> Result<bool, SqlError> {
        let room = usize::try_from(limits.rows - self.rows).unwrap_or(usize::MAX);
        let batch = if batch.num_rows() > room {
            self.cut_by = Some("rows");
            batch.slice(0, room)
        } else {
            batch
        };
        let all = batch.clone();
        let batch = match covered {
            Some((shown, _)) => {
                let shown: Vec<usize> = (0..*shown).collect();
                batch.project(&shown).map_err(DataFusionError::from)?
            }
            None => batch,
        };
        // How large rows are that do not fit tells of them too.
        if let Some((shown, cover)) = covered {
            all.columns().iter().skip(*shown).for_each(|hashes| cover.add(hashes));
        }
        let bytes = batch_bytes(&batch);
        if self.bytes + bytes > limits.bytes {
            self.cut_by = Some("bytes");
            return Ok(false);
        }
        self.rows += u64::try_from(batch.num_rows()).unwrap_or(0);
        self.bytes += bytes;
        self.batches.push(batch);
        if covered.is_some() && self.rows >= limits.rows {
            self.cut_by = Some("rows");
        }
        Ok(self.cut_by.is_none())
    }
}

/// What went wrong on a row, by its SQLSTATE. None: it is of the statement as a whole.
fn on_row(code: &str) -> Option<&'static str> {
    match code {
        "53200" | "57014" => None,
        // Of what is not supported, not there, or too complex.
        code if ["0A", "42", "54"].iter().any(|class| code.starts_with(class)) => None,
        "22012" => Some("division by zero"),
        "22003" => Some("a number is out of range"),
        "22007" | "22008" | "22P02" => Some("a value cannot be read as the type that it is wanted as"),
        _ => Some("an operation cannot be done on a value"),
    }
}

/// The same of a statement that runs, where texts of any class may have values in them. None: it is of no row.
fn while_running(code: &str) -> Option<&'static str> {
    let is_of_none = matches!(code, "53200" | "57014");
    let what = if code.starts_with("54") { Some("a value would be too large") } else { on_row(code) };
    what.or((!is_of_none).then_some("an operation cannot be done on a value"))
}

fn one_query(sql: &str) -> Result<String, QueryError> {
    if sql.len() > STATEMENT_BYTES_MAX {
        let why =
            format!("the statement has {} bytes, and at most {STATEMENT_BYTES_MAX} are read", sql.len());
        return Err(SqlError::TooComplex(why).into());
    }
    if serde_json::to_string(sql).map_or(0, |text| text.len()) > AUDITED_BYTES_MAX {
        let why = "the statement has too many characters that the audit log has to write out".to_owned();
        return Err(SqlError::TooComplex(why).into());
    }
    let mut statements = statement::parse_all(sql)?;
    let one = match (statements.pop(), statements.is_empty()) {
        (Some(Statement::Query(query)), true) if query.follow.is_none() => query.sql,
        (None, _) => return Err(SqlError::Syntax("the statement is empty".to_owned()).into()),
        _ => return Err(SqlError::ReadOnly("one query at a time, and nothing but queries".to_owned()).into()),
    };
    match one.to_ascii_lowercase().contains(RESERVED) {
        true => {
            Err(SqlError::Syntax(format!("names that begin with {RESERVED} are kept for the perimeter"))
                .into())
        }
        false => Ok(one),
    }
}

/// Whether it depends on rows, and not on the statement alone.
fn is_of_rows(error: &SqlError) -> bool {
    match error {
        SqlError::Engine(_) | SqlError::State { .. } => on_row(error.code()).is_some(),
        error => is_of_engine(error),
    }
}

/// Whether it may have come from looking at rows.
fn is_of_engine(error: &SqlError) -> bool {
    matches!(
        error,
        SqlError::Engine(_)
            | SqlError::State { .. }
            | SqlError::NoMemory { .. }
            | SqlError::TooMuch { .. }
            | SqlError::BadValue(_)
            | SqlError::Unsupported(_)
            | SqlError::TooComplex(_)
    )
}

fn failed_often() -> Refused {
    Refused::new(
        format!(
            "{FAILURES_MAX} statements over rows that are shown in groups only failed within a day, and each may have told of a row"
        ),
        "ask again tomorrow".to_owned(),
    )
}

/// What a statement is known by: the same one asks for the same rows, as long as its one table does not change. That is the text, what
/// the rules give of the table, and what of the caller its source may be told.
fn origin(sql: &str, plan: &LogicalPlan, caller: &Caller) -> u64 {
    let Some(shapes) = repeatable(plan) else { return uuid::Uuid::new_v4().as_u64_pair().0 };
    hash_of((sql, shapes, &caller.groups, &caller.agent, &caller.on_behalf_of, &caller.purpose))
}

/// What is given of its one table. None: the same text may ask for other rows.
fn repeatable(plan: &LogicalPlan) -> Option<u64> {
    let mut scans = Vec::new();
    let mut is_immutable = true;
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let table = of_source(scan.source.as_ref());
            is_immutable &= table.and_then(|table| table.row_filter()).is_none_or(is_the_same_always);
            scans.push(table.map(|table| hash_of(Given(table.shape()))));
        }
        is_immutable &= node.expressions().iter().all(is_the_same_always);
        Ok(TreeNodeRecursion::Continue)
    });
    match scans.as_slice() {
        [Some(given)] if walked.is_ok() && is_immutable => Some(*given),
        _ => None,
    }
}

struct Given<'a>(&'a TableShape);

impl Hash for Given<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash_what_is_given(state);
    }
}

fn is_the_same_always(expression: &Expr) -> bool {
    let volatile = expression.exists(|part| {
        Ok(match part {
            Expr::ScalarFunction(function) => function.func.signature().volatility != Volatility::Immutable,
            _ => false,
        })
    });
    !volatile.unwrap_or(true)
}

#[cfg(test)]
mod tests;
