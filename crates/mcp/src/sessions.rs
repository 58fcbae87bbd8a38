//! The sessions of clients that speak a revision with sessions: rmcp's own, but a bounded number of them, and each with the
//! principal who began it.
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

/// Sessions open at once. Each ends when it is idle for the session timeout.
const MAX_SESSIONS: usize = 1_000;

/// See the file's comment.
#[derive(Debug)]
pub struct Sessions {
    inner: LocalSessionManager,
    /// By session. One that is not there yet belongs to whoever is about to be told its id.
    owners: Mutex<HashMap<SessionId, Arc<str>>>,
}

/// Why a session's request fails.
#[derive(Debug)]
pub enum SessionsError {
    Full,
    Inner(LocalSessionManagerError),
}

impl fmt::Display for SessionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(f, "{MAX_SESSIONS} sessions are open already"),
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
        Self { inner, owners: Mutex::default() }
    }

    /// Notes who began a session.
    pub fn belongs_to(&self, session: &str, principal: Arc<str>) {
        if let Some(owner) = self.owners.lock().get_mut(session)
            && owner.is_empty()
        {
            *owner = principal;
        }
    }

    /// Whether a session is there, and somebody else's.
    pub fn are_of_another(&self, session: &str, principal: &str) -> bool {
        self.owners.lock().get(session).is_some_and(|owner| **owner != *principal)
    }
}

impl SessionManager for Sessions {
    type Error = SessionsError;
    type Transport = <LocalSessionManager as SessionManager>::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        if self.inner.sessions.read().await.len() >= MAX_SESSIONS {
            return Err(SessionsError::Full);
        }
        let (id, transport) = self.inner.create_session().await?;
        self.owners.lock().insert(Arc::clone(&id), Arc::from(""));
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
        self.owners.lock().remove(id);
        Ok(self.inner.close_session(id).await?)
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
