//! What one connection does with the messages of its client: single queries, and prepared statements.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Sink, SinkExt as _};
use parking_lot::Mutex;
use pgwire::api::auth::StartupHandler;
use pgwire::api::cancel::{CancelHandler, DefaultCancelHandler};
use pgwire::api::portal::{Format, Portal, PortalExecutionState};
use pgwire::api::query::{
    ExtendedQueryHandler, SimpleQueryHandler, send_describe_response, send_ready_for_query,
};
use pgwire::api::results::{DescribePortalResponse, Response, Tag};
use pgwire::api::stmt::{QueryParser, StoredStatement};
use pgwire::api::store::{Entry, PortalStore};
use pgwire::api::{
    ClientInfo, ClientPortalStore, DEFAULT_NAME, ErrorHandler, PgWireConnectionState, PgWireServerHandlers,
    Type,
};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::copy::{CopyData, CopyDone, CopyOutResponse};
use pgwire::messages::extendedquery::{
    Bind, BindComplete, Close, CloseComplete, Describe, Execute, Parse, ParseComplete, Sync as SyncMessage,
    TARGET_TYPE_BYTE_PORTAL, TARGET_TYPE_BYTE_STATEMENT,
};
use pgwire::messages::response::{EmptyQueryResponse, NoticeResponse, TransactionStatus};
use pgwire::messages::simplequery::Query as QueryMessage;

use super::Shared;
use super::commands::Done;
use super::held::{Held, Kind, PORTAL_BYTES, STATEMENT_BYTES};
use super::nul;
use super::rows::fields;
use super::sending::{next_row, send_partial_query_response, send_query_response};
use super::session::Session;
use super::startup::Startup;
use super::statements::{Answers, CopyOut, Outcome, Prepared, Statements, pg_error, placed};
use super::stop::{Socket, cancelled, unless_stopped};
use crate::audit::Auditor;
use crate::error::SqlError;
use crate::query::Query;
use crate::statement::{Statement, parse_all};

/// One client's connection.
pub struct Connection {
    handler: Arc<Handler>,
    startup: Arc<Startup>,
    cancels: Arc<DefaultCancelHandler>,
}

impl Connection {
    pub fn new(shared: &Shared, peer: SocketAddr, socket: Socket) -> Connection {
        let session = Arc::new(Mutex::new(Session::default()));
        let auditor = Auditor::new(shared.audit.clone());
        let engine = Arc::clone(&shared.engine);
        let answers = Arc::new(Statements::new(engine, Arc::clone(&session), auditor.clone(), peer));
        let (users, cancels) = (shared.users.clone(), Arc::clone(&shared.cancels));
        Connection {
            startup: Arc::new(Startup::new(users, Arc::clone(&cancels), Arc::clone(&session), auditor)),
            cancels: Arc::new(DefaultCancelHandler::new(cancels)),
            handler: Arc::new(Handler { answers, session, held: Mutex::default(), socket, peer }),
        }
    }
}

impl PgWireServerHandlers for Connection {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        Arc::clone(&self.handler)
    }

    fn extended_query_handler(&self) -> Arc<impl ExtendedQueryHandler> {
        Arc::clone(&self.handler)
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        Arc::clone(&self.startup)
    }

    fn cancel_handler(&self) -> Arc<impl CancelHandler> {
        Arc::clone(&self.cancels)
    }

    fn error_handler(&self) -> Arc<impl ErrorHandler> {
        Arc::clone(&self.handler)
    }
}

/// Talks to one client.
pub struct Handler {
    answers: Arc<dyn Answers>,
    session: Arc<Mutex<Session>>,
    held: Mutex<Held>,
    socket: Socket,
    peer: SocketAddr,
}

impl ErrorHandler for Handler {
    fn on_error<C: ClientInfo>(&self, _: &C, error: &mut PgWireError) {
        tracing::debug!(peer = %self.peer, %error, "a client was given an error");
    }
}

impl Handler {
    async fn tell<C>(&self, client: &mut C, query: Option<Arc<Query>>) -> PgWireResult<()>
    where
        C: Sink<PgWireBackendMessage> + Unpin + Send,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if !self.session.lock().wants_notices() {
            return Ok(());
        }
        for notice in query.map(|query| query.notices()).unwrap_or_default() {
            let notice = nul::shown(&notice).into_owned();
            let info = ErrorInfo::new("NOTICE".to_owned(), "00000".to_owned(), notice);
            client.feed(PgWireBackendMessage::NoticeResponse(NoticeResponse::from(info))).await?;
        }
        Ok(())
    }

    /// One statement of a text, answered as far as its rows.
    async fn answer<C>(&self, client: &mut C, statement: &Statement) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let _place = self.answers.place(statement).await;
        let status = client.transaction_status();
        match self.answers.execute(statement, None, &Format::UnifiedText, status).await? {
            Outcome::Rows(rows, query) => {
                send_query_response(client, rows, true).await?;
                self.tell(client, query).await
            }
            Outcome::Copy(copy) => self.send_copy(client, copy).await,
            Outcome::Done(done) => self.complete(client, done).await,
        }
    }

    /// A prepared statement with its values, at most `max_rows` rows of it; 0 for all.
    async fn answer_portal<C>(
        &self,
        client: &mut C,
        portal: &Portal<Arc<Prepared>>,
        max_rows: usize,
    ) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let _place = self.answers.place(&portal.statement.statement.statement).await;
        let state = portal.state();
        let mut state = state.lock().await;
        let mut told = None;
        if matches!(*state, PortalExecutionState::Initial) {
            let status = client.transaction_status();
            match self.answers.execute_portal(portal, status).await? {
                Outcome::Rows(rows, query) => {
                    *state = PortalExecutionState::Suspended(rows);
                    told = query;
                }
                Outcome::Copy(copy) => {
                    *state = PortalExecutionState::Finished;
                    return self.send_copy(client, copy).await;
                }
                Outcome::Done(done) => return self.complete(client, done).await,
            }
        }
        match &mut *state {
            PortalExecutionState::Suspended(rows) => {
                if !send_partial_query_response(client, rows, max_rows).await? {
                    *state = PortalExecutionState::Finished;
                }
                self.tell(client, told).await
            }
            PortalExecutionState::Initial | PortalExecutionState::Finished => {
                self.complete(client, Done::with(Tag::new("SELECT").with_rows(0))).await
            }
        }
    }
}

impl Handler {
    async fn send_copy<C>(&self, client: &mut C, copy: CopyOut) -> PgWireResult<()>
    where
        C: Sink<PgWireBackendMessage> + Unpin + Send,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let CopyOut { columns, is_binary, head, tail, mut rows, query } = copy;
        let (columns, format) = (i16::try_from(columns).unwrap_or(i16::MAX), i16::from(is_binary));
        let formats = vec![format; usize::try_from(columns).unwrap_or_default()];
        let begins = CopyOutResponse::new(i8::from(is_binary), columns, formats);
        client.feed(PgWireBackendMessage::CopyOutResponse(begins)).await?;
        let data = |bytes| PgWireBackendMessage::CopyData(CopyData::new(bytes));
        // In binary, the head comes with what follows it, as clients expect; a line with names comes by itself.
        let mut head = head;
        if let Some(line) = head.take_if(|_| !is_binary) {
            client.feed(data(line)).await?;
        }
        let mut behind_head = |bytes: Bytes| match head.take() {
            Some(head) => Bytes::from([&head[..], &bytes[..]].concat()),
            None => bytes,
        };
        let mut count = 0;
        while let Some(row) = next_row(client, &mut rows).await? {
            client.feed(data(behind_head(row))).await?;
            count += 1;
        }
        if let Some(tail) = tail {
            client.feed(data(behind_head(tail))).await?;
        }
        client.feed(PgWireBackendMessage::CopyDone(CopyDone::new())).await?;
        let tag = Tag::new("COPY").with_rows(count);
        client.feed(PgWireBackendMessage::CommandComplete(tag.into())).await?;
        self.tell(client, Some(query)).await
    }
}

impl Handler {
    /// Answers what has no rows.
    async fn complete<C>(&self, client: &mut C, done: Done) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send,
        C::PortalStore: PortalStore,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match &done.forgotten {
            Some(Some(name)) if client.portal_store().get_statement(name).is_none() => {
                let message = format!("prepared statement \"{name}\" does not exist");
                return Err(pg_error(&SqlError::State { code: "26000", message }));
            }
            Some(Some(name)) => self.forget(client, Kind::Statement, name),
            Some(None) => self.forget_all(client, Kind::Statement),
            None => {}
        }
        if let Some(status) = done.status {
            client.set_transaction_status(status);
            // A block that ends takes its portals with it.
            if !self.session.lock().is_in_block() {
                self.forget_all(client, Kind::Portal);
            }
        }
        if let Some((code, text)) = done.warning {
            let info = ErrorInfo::new("WARNING".to_owned(), code.to_owned(), text.to_owned());
            client.feed(PgWireBackendMessage::NoticeResponse(NoticeResponse::from(info))).await?;
        }
        for told in done.told {
            client.feed(PgWireBackendMessage::ParameterStatus(told)).await?;
        }
        Ok(client.feed(PgWireBackendMessage::CommandComplete(done.tag.into())).await?)
    }

    fn forget<C>(&self, client: &C, kind: Kind, name: &str)
    where
        C: ClientPortalStore,
        C::PortalStore: PortalStore,
    {
        match kind {
            Kind::Statement => client.portal_store().rm_statement(name),
            Kind::Portal => client.portal_store().rm_portal(name),
        }
        self.held.lock().remove(kind, name);
    }

    fn forget_all<C>(&self, client: &C, kind: Kind)
    where
        C: ClientPortalStore,
        C::PortalStore: PortalStore,
    {
        let names = self.held.lock().clear(kind);
        names.iter().for_each(|name| self.forget(client, kind, name));
    }

    fn hold(&self, kind: Kind, name: &str, bytes: usize) -> PgWireResult<()> {
        self.held.lock().add(kind, name, bytes).map_err(|e| pg_error(&e))
    }
}

fn refusal(code: &'static str, message: String) -> PgWireError {
    pg_error(&SqlError::State { code, message })
}

#[async_trait]
impl SimpleQueryHandler for Handler {
    async fn on_query<C>(&self, client: &mut C, message: QueryMessage) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if !matches!(client.state(), PgWireConnectionState::ReadyForQuery) {
            return Err(PgWireError::NotReadyForQuery);
        }
        client.set_state(PgWireConnectionState::QueryInProgress);
        self.forget(client, Kind::Portal, DEFAULT_NAME);
        let statements = match parse_all(&message.query) {
            Ok(statements) => statements,
            Err(error) => return Err(self.answers.refused(&message.query, error).await),
        };
        if statements.is_empty() {
            client.feed(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new())).await?;
        }
        let cancelled = cancelled(client).await;
        let all = async {
            for statement in &statements {
                let answered = self.answer(client, statement).await;
                answered.map_err(|error| placed(error, &message.query, statement))?;
            }
            Ok(())
        };
        let timeout = self.answers.timeout(statements.iter().any(Statement::is_endless));
        unless_stopped(all, cancelled, &self.socket, timeout, |why| self.answers.stopping(why)).await?;
        client.set_state(PgWireConnectionState::ReadyForQuery);
        let status = client.transaction_status();
        send_ready_for_query(client, status).await
    }

    /// Never called: [`SimpleQueryHandler::on_query`] is ours.
    async fn do_query<C>(&self, _: &mut C, _: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        Err(PgWireError::NotReadyForQuery)
    }
}

#[async_trait]
impl ExtendedQueryHandler for Handler {
    type Statement = Arc<Prepared>;
    type QueryParser = Parser;

    fn query_parser(&self) -> Arc<Parser> {
        Arc::new(Parser(Arc::clone(&self.answers)))
    }

    async fn on_parse<C>(&self, client: &mut C, message: Parse) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        match message.name {
            Some(_) if client.portal_store().get_statement(name).is_some() => {
                return Err(refusal("42P05", format!("prepared statement \"{name}\" already exists")));
            }
            Some(_) => {}
            None => self.forget(client, Kind::Statement, name),
        }
        match StoredStatement::parse(client, &message, self.query_parser()).await? {
            Some(stored) => {
                self.hold(Kind::Statement, name, stored.statement.bytes())?;
                client.portal_store().put_statement(Arc::new(stored));
            }
            None => {
                self.hold(Kind::Statement, name, STATEMENT_BYTES)?;
                client.portal_store().put_empty_statement(name);
            }
        }
        Ok(client.send(PgWireBackendMessage::ParseComplete(ParseComplete::new())).await?)
    }

    async fn on_bind<C>(&self, client: &mut C, mut message: Bind) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        // Each would keep all that was read together with it.
        for value in message.parameters.iter_mut().flatten() {
            *value = Bytes::copy_from_slice(value);
        }
        let portal = message.portal_name.as_deref().unwrap_or(DEFAULT_NAME);
        if message.portal_name.is_some() && client.portal_store().get_portal(portal).is_some() {
            return Err(refusal("42P03", format!("cursor \"{portal}\" already exists")));
        }
        let statement = message.statement_name.as_deref().unwrap_or(DEFAULT_NAME);
        let Some(stored) = client.portal_store().get_statement(statement) else {
            return Err(PgWireError::StatementNotFound(statement.to_owned()));
        };
        self.forget(client, Kind::Portal, portal);
        let values: usize = message.parameters.iter().flatten().map(Bytes::len).sum();
        self.hold(Kind::Portal, portal, PORTAL_BYTES + values)?;
        match stored {
            Entry::Value(stored) => {
                client.portal_store().put_portal(Arc::new(Portal::try_new(&message, stored)?));
            }
            Entry::Empty if message.parameters.is_empty() => client.portal_store().put_empty_portal(portal),
            Entry::Empty => {
                let why = "bind message supplies parameters, but the prepared statement requires none";
                return Err(refusal("08P01", why.to_owned()));
            }
        }
        Ok(client.send(PgWireBackendMessage::BindComplete(BindComplete::new())).await?)
    }

    async fn on_close<C>(&self, client: &mut C, message: Close) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let is_statement = message.target_type == TARGET_TYPE_BYTE_STATEMENT;
        let kind = if is_statement { Kind::Statement } else { Kind::Portal };
        self.forget(client, kind, message.name.as_deref().unwrap_or(DEFAULT_NAME));
        Ok(client.send(PgWireBackendMessage::CloseComplete(CloseComplete::new())).await?)
    }

    /// Outside of a block, a transaction ends here, and its portals with it.
    async fn on_sync<C>(&self, client: &mut C, _: SyncMessage) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let status = client.transaction_status();
        if matches!(status, TransactionStatus::Idle) {
            self.forget_all(client, Kind::Portal);
        }
        send_ready_for_query(client, status).await?;
        Ok(client.flush().await?)
    }

    /// Of a cursor that was declared, too.
    async fn on_describe<C>(&self, client: &mut C, message: Describe) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        if message.target_type == TARGET_TYPE_BYTE_PORTAL
            && client.portal_store().get_portal(name).is_none()
            && let Some(schema) = self.answers.cursor(name)
        {
            let fields = fields(&schema, &Format::UnifiedText)?.to_vec();
            return send_describe_response(client, &DescribePortalResponse::new(fields)).await;
        }
        self._on_describe(client, message).await
    }

    async fn on_execute<C>(&self, client: &mut C, message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if !matches!(client.state(), PgWireConnectionState::ReadyForQuery) {
            return Err(PgWireError::NotReadyForQuery);
        }
        client.set_state(PgWireConnectionState::QueryInProgress);
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        match client.portal_store().get_portal(name) {
            Some(Entry::Value(portal)) => {
                let max_rows = usize::try_from(message.max_rows).unwrap_or(0);
                let cancelled = cancelled(client).await;
                let work = self.answer_portal(client, &portal, max_rows);
                let timeout = self.answers.timeout(portal.statement.statement.statement.is_endless());
                let stopping = |why: &PgWireError| self.answers.stopping(why);
                unless_stopped(work, cancelled, &self.socket, timeout, stopping).await?;
            }
            Some(Entry::Empty) => {
                client.feed(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new())).await?;
            }
            None => return Err(PgWireError::PortalNotFound(name.to_owned())),
        }
        client.set_state(PgWireConnectionState::ReadyForQuery);
        Ok(())
    }

    /// Never called: [`ExtendedQueryHandler::on_execute`] is ours.
    async fn do_query<C>(&self, _: &mut C, _: &Portal<Self::Statement>, _: usize) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        Err(PgWireError::NotReadyForQuery)
    }
}

/// Plans statements when they are parsed, so that their clients can be told of parameters and columns.
pub struct Parser(Arc<dyn Answers>);

#[async_trait]
impl QueryParser for Parser {
    type Statement = Arc<Prepared>;

    async fn parse_sql<C>(
        &self,
        _: &C,
        sql: &str,
        types: &[Option<Type>],
    ) -> PgWireResult<Option<Arc<Prepared>>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        Ok(self.0.prepare(sql, types).await?.map(Arc::new))
    }

    fn get_parameter_types(&self, prepared: &Arc<Prepared>) -> PgWireResult<Vec<Type>> {
        Ok(prepared.parameters.clone())
    }

    fn get_result_schema(
        &self,
        prepared: &Arc<Prepared>,
        format: Option<&Format>,
    ) -> PgWireResult<Vec<pgwire::api::results::FieldInfo>> {
        match &prepared.schema {
            Some(schema) => Ok(fields(schema, format.unwrap_or(&Format::UnifiedText))?.to_vec()),
            None => Ok(Vec::new()),
        }
    }
}
