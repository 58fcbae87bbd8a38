//! What statements of one client are answered with, whatever their client is connected by.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use datafusion::common::ParamValues;
use datafusion::logical_expr::LogicalPlan;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use pgwire::api::Type;
use pgwire::api::portal::{Format, Portal};
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo, QueryResponse, Tag};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::response::TransactionStatus;
use tokio::sync::OwnedSemaphorePermit;

use super::commands::Done;
use super::copy::Writer;
use super::cursors::{Cursors, Progress, taken};
use super::held::STATEMENT_BYTES;
use super::rows::{are_alike, encoded, fields, pg_type};
use super::session::Session;
use super::{inferred, nul, parameters};
use crate::audit::{Asker, Auditor};
use crate::engine::{Engine, Planner};
use crate::error::SqlError;
use crate::postgres::session::OfSession;
use crate::query::Query;
use crate::running::Running;
use crate::statement::{Copy, Declare, Fetch, QueryText, Statement, parse_all};

/// An error as clients take it.
pub fn pg_error(error: &SqlError) -> PgWireError {
    let message = nul::shown(&error.to_string()).into_owned();
    let mut info = ErrorInfo::new("ERROR".to_owned(), error.code().to_owned(), message);
    info.hint = error.hint().map(|hint| nul::shown(&hint).into_owned());
    // By this, JDBC knows that it has to prepare its statement again.
    info.routine = matches!(error, SqlError::OtherColumns).then(|| "RevalidateCachedQuery".to_owned());
    info.position = error.position().map(|position| position.to_string());
    PgWireError::UserError(Box::new(info))
}

fn check_columns(told: Option<&SchemaRef>, now: &Schema) -> Result<(), SqlError> {
    match told {
        Some(told) if !are_alike(told, now).unwrap_or(false) => Err(SqlError::OtherColumns),
        _ => Ok(()),
    }
}

/// The same error, its place counted in the whole text that the client has sent. What was written out for the engine has no place there.
pub fn placed(error: PgWireError, text: &str, statement: &Statement) -> PgWireError {
    let PgWireError::UserError(mut info) = error else { return error };
    let before = query_of(statement)
        .and_then(|query| text.find(query.sql.trim()))
        .map(|at| text[..at].chars().count());
    let position = info.position.as_deref().and_then(|position| position.parse::<usize>().ok());
    info.position = position.zip(before).map(|(position, before)| (position + before).to_string());
    PgWireError::UserError(info)
}

fn query_of(statement: &Statement) -> Option<&QueryText> {
    match statement {
        Statement::Query(query) | Statement::Explain { query, .. } => Some(query),
        Statement::Copy(copy) => Some(&copy.query),
        Statement::Declare(declare) => Some(&declare.query),
        Statement::Fetch(_)
        | Statement::Close(_)
        | Statement::Set(_)
        | Statement::Show(_)
        | Statement::ResetAll
        | Statement::Begin
        | Statement::Commit { .. }
        | Statement::Rollback { .. }
        | Statement::Savepoint(_)
        | Statement::Release(_)
        | Statement::RollbackTo(_)
        | Statement::Deallocate(_)
        | Statement::DiscardAll
        | Statement::Nothing(_) => None,
    }
}

/// A statement that was parsed, with what its client is told of it before it runs.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub statement: Statement,
    pub parameters: Vec<Type>,
    /// `None`: it gives no rows.
    pub schema: Option<SchemaRef>,
}

impl Prepared {
    /// What it takes while it is kept.
    pub fn bytes(&self) -> usize {
        const FIELD_BYTES: usize = 256;
        let text = query_of(&self.statement).map_or(0, |query| query.sql.len() + query.asked.len());
        let columns = self.schema.as_ref().map_or(0, |schema| schema.fields().len());
        STATEMENT_BYTES + 2 * text + FIELD_BYTES * (columns + self.parameters.len())
    }
}

/// What a statement gives.
pub enum Outcome {
    Rows(QueryResponse, Option<Arc<Query>>),
    Copy(CopyOut),
    Done(Done),
}

/// The rows of a COPY, as they are written.
pub struct CopyOut {
    pub columns: usize,
    pub is_binary: bool,
    /// Before and behind all rows.
    pub head: Option<Bytes>,
    pub tail: Option<Bytes>,
    pub rows: BoxStream<'static, PgWireResult<Bytes>>,
    pub query: Arc<Query>,
}

/// Answers statements.
///
/// The functions that talk to a client are generic over its connection. They see this and not the engine: whether all of its types may
/// be sent between threads would be worked out for each of those functions anew, which takes the compiler minutes.
pub trait Answers: Send + Sync {
    /// None for what goes on until its client ends it.
    fn timeout(&self, is_endless: bool) -> Option<Duration>;

    /// What runs is about to be dropped.
    fn stopping(&self, why: &PgWireError);

    /// Notes a statement that is not understood. Gives what its client is told.
    fn refused<'a>(&'a self, text: &'a str, error: SqlError) -> BoxFuture<'a, PgWireError>;

    /// A place among the statements that run, for those that need one. It is held while rows are sent, and not while a client does
    /// not ask for more of them.
    fn place<'a>(&'a self, statement: &'a Statement) -> BoxFuture<'a, Option<OwnedSemaphorePermit>>;

    /// The columns of a cursor.
    fn cursor(&self, name: &str) -> Option<SchemaRef>;

    fn execute<'a>(
        &'a self,
        statement: &'a Statement,
        values: Option<ParamValues>,
        format: &'a Format,
        status: TransactionStatus,
    ) -> BoxFuture<'a, PgWireResult<Outcome>>;

    /// A prepared statement with the values of its parameters.
    fn execute_portal<'a>(
        &'a self,
        portal: &'a Portal<Arc<Prepared>>,
        status: TransactionStatus,
    ) -> BoxFuture<'a, PgWireResult<Outcome>>;

    /// What a client is told of a statement before it runs.
    fn prepare<'a>(
        &'a self,
        text: &'a str,
        declared: &'a [Option<Type>],
    ) -> BoxFuture<'a, PgWireResult<Option<Prepared>>>;
}

/// Those of one client.
pub struct Statements {
    engine: Arc<Engine>,
    pub(super) session: Arc<Mutex<Session>>,
    auditor: Auditor,
    peer: SocketAddr,
    pub(super) cursors: Cursors,
}

impl Answers for Statements {
    fn timeout(&self, is_endless: bool) -> Option<Duration> {
        self.session.lock().timeout(self.engine.statement_timeout).filter(|_| !is_endless)
    }

    fn stopping(&self, why: &PgWireError) {
        match why {
            PgWireError::UserError(info) => self.auditor.stopping(&info.code, &info.message),
            other => self.auditor.stopping("08006", &format!("its client is gone: {other}")),
        }
    }

    fn refused<'a>(&'a self, text: &'a str, error: SqlError) -> BoxFuture<'a, PgWireError> {
        Box::pin(async move { pg_error(&self.auditor.refused(self.asker(), text, error).await) })
    }

    fn place<'a>(&'a self, statement: &'a Statement) -> BoxFuture<'a, Option<OwnedSemaphorePermit>> {
        Box::pin(async move {
            match (statement, query_of(statement)) {
                (_, Some(query)) => self.engine.place(query).await,
                (Statement::Fetch(fetch), None) => {
                    let cursor = self.cursors.find(&fetch.name).ok()?;
                    self.engine.place(&cursor.declared.query).await
                }
                (_, None) => None,
            }
        })
    }

    fn cursor(&self, name: &str) -> Option<SchemaRef> {
        self.cursors.find(name).ok().map(|cursor| Arc::clone(&cursor.schema))
    }

    fn execute<'a>(
        &'a self,
        statement: &'a Statement,
        values: Option<ParamValues>,
        format: &'a Format,
        status: TransactionStatus,
    ) -> BoxFuture<'a, PgWireResult<Outcome>> {
        Box::pin(async move {
            Self::check_transaction(statement, status)?;
            match statement {
                Statement::Query(query) => self.query(query, values, format, None).await,
                Statement::Explain { query, analyze } => self.explain(query, *analyze, values).await,
                Statement::Show(name) => self.show(name),
                Statement::Copy(copy) => self.copy(copy, values).await,
                Statement::Declare(declared) => {
                    if matches!(status, TransactionStatus::Idle) && !declared.hold {
                        let message = "DECLARE CURSOR can only be used in transaction blocks".to_owned();
                        return Err(pg_error(&SqlError::State { code: "25P01", message }));
                    }
                    self.declare(declared, values).await.map_err(|e| pg_error(&e))?;
                    Ok(Outcome::Done(Done::of("DECLARE CURSOR")))
                }
                Statement::Fetch(fetch) => self.fetch(fetch, format, None).await,
                other => self.of_session(other, status).map(Outcome::Done).map_err(|e| pg_error(&e)),
            }
        })
    }

    fn execute_portal<'a>(
        &'a self,
        portal: &'a Portal<Arc<Prepared>>,
        status: TransactionStatus,
    ) -> BoxFuture<'a, PgWireResult<Outcome>> {
        Box::pin(async move {
            let prepared = &portal.statement.statement;
            let values = parameters::values(portal, &prepared.parameters)?;
            let values = (!values.is_empty()).then(|| ParamValues::from(values));
            let (format, told) = (&portal.result_column_format, prepared.schema.as_ref());
            match &prepared.statement {
                statement @ Statement::Query(query) => {
                    Self::check_transaction(statement, status)?;
                    self.query(query, values, format, told).await
                }
                statement @ Statement::Fetch(fetch) => {
                    Self::check_transaction(statement, status)?;
                    self.fetch(fetch, format, told).await
                }
                other => self.execute(other, values, format, status).await,
            }
        })
    }

    fn prepare<'a>(
        &'a self,
        text: &'a str,
        declared: &'a [Option<Type>],
    ) -> BoxFuture<'a, PgWireResult<Option<Prepared>>> {
        Box::pin(self.prepare_one(text, declared))
    }
}

impl Statements {
    pub fn new(
        engine: Arc<Engine>,
        session: Arc<Mutex<Session>>,
        auditor: Auditor,
        peer: SocketAddr,
    ) -> Statements {
        Statements { engine, session, auditor, peer, cursors: Cursors::default() }
    }

    fn asker(&self) -> Asker {
        let session = self.session.lock();
        let application = session.show("application_name").unwrap_or_default();
        Asker { user: session.user.clone(), application, peer: self.peer }
    }

    /// After an error in a transaction, everything but its end is refused.
    fn check_transaction(statement: &Statement, status: TransactionStatus) -> PgWireResult<()> {
        let ends = matches!(
            statement,
            Statement::Commit { .. } | Statement::Rollback { .. } | Statement::RollbackTo(_)
        );
        if matches!(status, TransactionStatus::Error) && !ends {
            let message = "current transaction is aborted, commands ignored until end of transaction block";
            let info = ErrorInfo::new("ERROR".to_owned(), "25P02".to_owned(), message.to_owned());
            return Err(PgWireError::UserError(Box::new(info)));
        }
        Ok(())
    }

    /// `told`: the columns that the client was told of before.
    async fn query(
        &self,
        query: &QueryText,
        values: Option<ParamValues>,
        format: &Format,
        told: Option<&SchemaRef>,
    ) -> PgWireResult<Outcome> {
        let running = self.start_told(query, values, told).await.map_err(|e| pg_error(&e))?;
        let Running { schema, rows, query, .. } = running;
        let fields = fields(&schema, format)?;
        let of = rows.counted_for();
        let rows = encoded(rows, of, Arc::clone(&fields));
        Ok(Outcome::Rows(QueryResponse::new(fields, rows), Some(query)))
    }

    async fn copy(&self, copy: &Copy, values: Option<ParamValues>) -> PgWireResult<Outcome> {
        let running = self.start(&copy.query, values).await.map_err(|e| pg_error(&e))?;
        let Running { schema, rows, query, .. } = running;
        let fields = fields(&schema, &Writer::row_format(&copy.format))?;
        let writer = Writer::new(copy.format.clone(), &fields);
        let (columns, is_binary) = (fields.len(), writer.is_binary());
        let (head, tail) = (writer.head(&fields), writer.tail());
        let of = rows.counted_for();
        let rows = encoded(rows, of, fields).map(move |row| Ok(writer.row(&row?))).boxed();
        Ok(Outcome::Copy(CopyOut { columns, is_binary, head, tail, rows, query }))
    }

    async fn declare(&self, declared: &Declare, values: Option<ParamValues>) -> Result<(), SqlError> {
        self.cursors.check_new(&declared.name)?;
        let running = self.start(&declared.query, values.clone()).await?;
        self.cursors.add(declared, values, running)
    }

    async fn fetch(&self, fetch: &Fetch, format: &Format, told: Option<&SchemaRef>) -> PgWireResult<Outcome> {
        let cursor = self.cursors.find(&fetch.name).map_err(|e| pg_error(&e))?;
        check_columns(told, &cursor.schema).map_err(|e| pg_error(&e))?;
        let format = if cursor.declared.binary { &Format::UnifiedBinary } else { format };
        let mut progress = cursor.progress().map_err(|e| pg_error(&e))?;
        if fetch.rewind && !progress.is_at_start() {
            let again = self.start(&cursor.declared.query, cursor.values.clone()).await;
            let again = again.map_err(|e| pg_error(&e))?;
            check_columns(Some(&cursor.schema), &again.schema).map_err(|e| pg_error(&e))?;
            *progress = Progress::of(again);
        }
        let of = progress.counted_for();
        let mut rows = Box::pin(taken(progress, fetch.rows));
        if fetch.only_move {
            let mut count = 0;
            while let Some(batch) = rows.next().await {
                count += batch.map_err(|e| pg_error(&SqlError::from(e)))?.num_rows();
            }
            return Ok(Outcome::Done(Done::with(Tag::new("MOVE").with_rows(count))));
        }
        let fields = fields(&cursor.schema, format)?;
        let mut response = QueryResponse::new(Arc::clone(&fields), encoded(rows, of, fields));
        response.set_command_tag("FETCH");
        Ok(Outcome::Rows(response, None))
    }

    fn begin(&self, query: &QueryText) -> Planner {
        self.engine.begin_in(query, Some(OfSession(Arc::clone(&self.session))))
    }

    async fn start(&self, query: &QueryText, values: Option<ParamValues>) -> Result<Running, SqlError> {
        self.start_told(query, values, None).await
    }

    /// The plan as it is now is compared with the one that the client was told of: what values of
    /// parameters make of it later is no change.
    async fn start_told(
        &self,
        query: &QueryText,
        values: Option<ParamValues>,
        told: Option<&SchemaRef>,
    ) -> Result<Running, SqlError> {
        let planner = self.begin(query);
        let mut record = self.auditor.begin(self.asker(), &query.asked, &planner.query).await?;
        let started = async {
            let plan = planner.plan().await?;
            check_columns(told, plan.schema().as_arrow())?;
            planner.run(plan, values).await
        };
        match started.await {
            Ok(mut running) => {
                running.rows.note(record);
                Ok(running)
            }
            Err(error) => record.end(Some(&error)).await.and(Err(error)),
        }
    }

    async fn explain(
        &self,
        query: &QueryText,
        analyze: bool,
        values: Option<ParamValues>,
    ) -> PgWireResult<Outcome> {
        let failed = |e: SqlError| pg_error(&e);
        let lines = match analyze {
            true => {
                let mut running = self.start(query, values).await.map_err(failed)?;
                while let Some(batch) = running.rows.next().await {
                    batch.map_err(|e| pg_error(&SqlError::from(e)))?;
                }
                Running::measured(&*running.plan)
            }
            false => {
                let planner = self.begin(query);
                let plan = planner.plan().await.map_err(failed)?;
                planner.explain(plan, values).await.map_err(failed)?
            }
        };
        Ok(texts("QUERY PLAN", lines))
    }

    fn show(&self, name: &str) -> PgWireResult<Outcome> {
        let session = self.session.lock();
        if name == "all" {
            let all = session.all().into_iter().map(|(name, value)| format!("{name} = {value}"));
            return Ok(texts("setting", all.collect()));
        }
        let value = session.show(name).ok_or_else(|| {
            pg_error(&SqlError::BadValue(format!("unrecognized configuration parameter \"{name}\"")))
        })?;
        Ok(texts(name, vec![value]))
    }

    async fn prepare_one(&self, text: &str, declared: &[Option<Type>]) -> PgWireResult<Option<Prepared>> {
        let mut statements = match parse_all(text) {
            Ok(statements) => statements,
            Err(error) => return Err(self.refused(text, error).await),
        };
        let statement = match statements.len() {
            0 => return Ok(None),
            1 => statements.remove(0),
            _ => {
                let why = "cannot insert multiple commands into a prepared statement".to_owned();
                return Err(pg_error(&SqlError::Syntax(why)));
            }
        };
        let whole = statement.clone();
        let prepared = self.prepare_statement(statement, declared).await;
        prepared.map(Some).map_err(|error| placed(error, text, &whole))
    }

    async fn prepare_statement(
        &self,
        statement: Statement,
        declared: &[Option<Type>],
    ) -> PgWireResult<Prepared> {
        let one_column = |name: &str| {
            let field = arrow::datatypes::Field::new(name, arrow::datatypes::DataType::Utf8, true);
            Some(Arc::new(arrow::datatypes::Schema::new(vec![field])))
        };
        Ok(match statement {
            Statement::Query(query) => self.prepare_query(query, declared).await?,
            Statement::Explain { query, analyze } => {
                let (query, parameters) = self.prepare_inner(query, declared).await?;
                let schema = one_column("QUERY PLAN");
                Prepared { statement: Statement::Explain { query, analyze }, parameters, schema }
            }
            Statement::Show(name) => {
                let schema = one_column(if name == "all" { "setting" } else { &name });
                Prepared { statement: Statement::Show(name), parameters: Vec::new(), schema }
            }
            Statement::Copy(copy) => {
                let (query, parameters) = self.prepare_inner(copy.query, declared).await?;
                let statement = Statement::Copy(Copy { query, ..copy });
                Prepared { statement, parameters, schema: None }
            }
            Statement::Declare(declare) => {
                let (query, parameters) = self.prepare_inner(declare.query, declared).await?;
                let statement = Statement::Declare(Declare { query, ..declare });
                Prepared { statement, parameters, schema: None }
            }
            Statement::Fetch(fetch) => {
                let cursor = self.cursors.find(&fetch.name).map_err(|e| pg_error(&e))?;
                let schema = (!fetch.only_move).then(|| Arc::clone(&cursor.schema));
                Prepared { statement: Statement::Fetch(fetch), parameters: Vec::new(), schema }
            }
            other @ (Statement::Set(_)
            | Statement::ResetAll
            | Statement::Close(_)
            | Statement::Begin
            | Statement::Commit { .. }
            | Statement::Rollback { .. }
            | Statement::Savepoint(_)
            | Statement::Release(_)
            | Statement::RollbackTo(_)
            | Statement::Deallocate(_)
            | Statement::DiscardAll
            | Statement::Nothing(_)) => Prepared { statement: other, parameters: Vec::new(), schema: None },
        })
    }

    /// A query that is part of a statement.
    async fn prepare_inner(
        &self,
        query: QueryText,
        declared: &[Option<Type>],
    ) -> PgWireResult<(QueryText, Vec<Type>)> {
        let Prepared { statement, parameters, .. } = self.prepare_query(query, declared).await?;
        let Statement::Query(query) = statement else { unreachable!("a query stays one") };
        Ok((query, parameters))
    }

    async fn planned(&self, query: &QueryText) -> PgWireResult<LogicalPlan> {
        let planner: Planner = self.begin(query);
        match planner.plan().await {
            Ok(plan) => Ok(plan),
            Err(error) => Err(self.refused(&query.asked, error).await),
        }
    }

    async fn prepare_query(&self, mut query: QueryText, declared: &[Option<Type>]) -> PgWireResult<Prepared> {
        // A client's own word, or what the statement itself casts to.
        let mut declared = declared.to_vec();
        for (at, found) in inferred::from_casts(&query.sql) {
            inferred::note(&mut declared, at, found);
        }
        let written = query.clone();
        cast(&mut query, &written, &declared);
        let mut plan = self.planned(&query).await?;
        let lists = inferred::from_lists(&plan);
        if !lists.is_empty() {
            for (at, item) in lists {
                inferred::note(&mut declared, at, pg_type(&item)?);
            }
            cast(&mut query, &written, &declared);
            plan = self.planned(&query).await?;
        }
        let inferred = plan.get_parameter_types().map_err(|e| pg_error(&SqlError::from(e)))?;
        let count = inferred::count(&written.sql).max(declared.len());
        let mut parameters = Vec::with_capacity(count);
        for at in 0..count {
            let inferred = inferred.get(&format!("${}", at + 1)).cloned().flatten();
            parameters.push(match (declared.get(at).cloned().flatten(), inferred) {
                (Some(declared), _) => declared,
                (None, Some(inferred)) => pg_type(&inferred)?,
                (None, None) => Type::TEXT,
            });
        }
        let schema = Arc::clone(plan.schema().inner());
        Ok(Prepared { statement: Statement::Query(query), parameters, schema: Some(schema) })
    }
}

/// Writes the texts of a query with their parameters' types.
fn cast(query: &mut QueryText, written: &QueryText, declared: &[Option<Type>]) {
    query.sql = with_casts(&written.sql, declared);
    if let (Some(follow), Some(written)) = (&mut query.follow, &written.follow) {
        follow.first = written.first.as_ref().map(|first| with_casts(first, declared));
    }
}

/// Parameters whose types the client states, with casts, so that the engine need not guess: `$1` becomes `CAST($1 AS int)`.
fn with_casts(sql: &str, declared: &[Option<Type>]) -> String {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

    let known = |name: &str| {
        let number: usize = name.strip_prefix('$')?.parse().ok()?;
        parameters::sql_type(declared.get(number.checked_sub(1)?)?.as_ref()?)
    };
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql).with_unescape(false).tokenize();
    let Ok(tokens) = tokens else { return sql.to_owned() };
    let text = |token: &Token| match token {
        Token::Placeholder(name) => match known(name) {
            Some(sql_type) => format!("CAST({name} AS {sql_type})"),
            None => name.clone(),
        },
        other => other.to_string(),
    };
    tokens.iter().map(text).collect()
}

/// One column of text.
fn texts(name: &str, lines: Vec<String>) -> Outcome {
    let fields = Arc::new(vec![FieldInfo::new(name.to_owned(), None, None, Type::TEXT, FieldFormat::Text)]);
    let mut encoder = DataRowEncoder::new(Arc::clone(&fields));
    let rows = stream::iter(lines).map(move |line| {
        encoder.encode_field(&line)?;
        Ok(encoder.take_row())
    });
    Outcome::Rows(QueryResponse::new(fields, rows), None)
}
