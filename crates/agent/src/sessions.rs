//! The sessions of clients that speak a revision with sessions: rmcp's own, but a bounded number of them, fewer for each principal, and
//! each with the principal who began it.
//!
//! Invariant: an owner is known for as long as the session is there, and no longer.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::common::server_side_http::ServerSseMessage;
use rmcp::transport::streamable_http_server::session::local::{
    LocalSessionManager, LocalSessionManagerError, SessionConfig,
};
use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};

use crate::shares::{Full, Share, Shares};

/// Sessions open at once. Each ends when it is idle for the session timeout.
const MAX_SESSIONS: usize = 1_000;
/// Of those, of one principal.
const MAX_SESSIONS_OF_PRINCIPAL: usize = 250;

tokio::task_local! {
    /// On whose behalf a request is handled: rmcp asks for a session without saying for whom.
    static ASKING: Arc<Asking>;
}

/// Who may begin a session by the request that is handled.
#[derive(Debug)]
pub struct Asking {
    principal: Arc<str>,
    refused: Mutex<Option<Full>>,
}

impl Asking {
    pub fn new(principal: Arc<str>) -> Arc<Self> {
        Arc::new(Self { principal, refused: Mutex::default() })
    }

    /// Handles a request of theirs.
    pub async fn within<T>(self: &Arc<Self>, work: impl Future<Output = T>) -> T {
        ASKING.scope(Arc::clone(self), work).await
    }

    /// Why a session was refused, if one was.
    pub fn refused(&self) -> Option<Full> {
        *self.refused.lock()
    }
}

/// See the file's comment.
#[derive(Debug)]
pub struct Sessions {
    inner: LocalSessionManager,
    shares: Arc<Shares>,
    /// By session; with each its owner.
    owned: Mutex<HashMap<SessionId, Share>>,
}

/// Why a session's request fails.
#[derive(Debug)]
pub enum SessionsError {
    Full(Full),
    /// Nobody is known to ask.
    Nobody,
    Inner(LocalSessionManagerError),
}

impl fmt::Display for SessionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(full) => full.fmt(f),
            Self::Nobody => f.write_str("the request has no principal"),
            Self::Inner(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SessionsError {}

impl From<LocalSessionManagerError> for SessionsError {
    fn from(error: LocalSessionManagerError) -> Self {
        Self::Inner(error)
    }
}

impl Sessions {
    pub fn new(timeout: Duration) -> Self {
        let mut config = SessionConfig::default();
        config.keep_alive = Some(timeout);
        let mut inner = LocalSessionManager::default();
        inner.session_config = config;
        let shares = Shares::new("sessions", MAX_SESSIONS, MAX_SESSIONS_OF_PRINCIPAL);
        Self { inner, shares, owned: Mutex::default() }
    }

    /// Whether a session is there and of this principal.
    pub fn are_of(&self, session: &str, principal: &str) -> bool {
        self.owned.lock().get(session).is_some_and(|share| **share.principal() == *principal)
    }

    /// Whether a session is there, and somebody else's.
    pub fn are_of_another(&self, session: &str, principal: &str) -> bool {
        self.owned.lock().get(session).is_some_and(|share| **share.principal() != *principal)
    }

    fn share(&self) -> Result<Share, SessionsError> {
        let asking = ASKING.try_with(Arc::clone).map_err(|_| SessionsError::Nobody)?;
        self.shares.take(&asking.principal).map_err(|full| {
            *asking.refused.lock() = Some(full);
            SessionsError::Full(full)
        })
    }
}

impl SessionManager for Sessions {
    type Error = SessionsError;
    type Transport = <LocalSessionManager as SessionManager>::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        let share = self.share()?;
        let (id, transport) = self.inner.create_session().await?;
        self.owned.lock().insert(Arc::clone(&id), share);
        Ok((id, transport))
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        Ok(self.inner.initialize_session(id, message).await?)
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        Ok(self.inner.has_session(id).await?)
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        let closed = self.inner.close_session(id).await;
        self.owned.lock().remove(id);
        Ok(closed?)
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl futures_core::Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(self.inner.create_stream(id, message).await?)
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        Ok(self.inner.accept_message(id, message).await?)
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl futures_core::Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(self.inner.create_standalone_stream(id).await?)
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl futures_core::Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(self.inner.resume(id, last_event_id).await?)
    }
}
