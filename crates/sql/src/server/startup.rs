//! The beginning of a connection: who is there, and what the client is told of the server.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{Sink, SinkExt as _};
use parking_lot::Mutex;
use pgwire::api::auth::{
    ServerParameterProvider, StartupHandler, finish_authentication, protocol_negotiation,
    save_startup_parameters_to_metadata,
};
use pgwire::api::{
    ClientInfo, ConnectionGuard, ConnectionHandle, ConnectionManager, METADATA_USER, PgWireConnectionState,
    PidSecretKeyGenerator as _, RandomPidSecretKeyGenerator,
};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::startup::{Authentication, PasswordMessageFamily};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use std::sync::LazyLock;

use super::scram::{Exchange, ScramError};
use super::session::{REPORTED, Session};
use super::users::Users;
use crate::audit::Auditor;

const METHOD: &str = "SCRAM-SHA-256";
/// Whoever guesses waits this long for each answer.
const REFUSAL_PAUSE: Duration = Duration::from_millis(500);

static KEYS: LazyLock<RandomPidSecretKeyGenerator> = LazyLock::new(RandomPidSecretKeyGenerator::default);

/// One connection's beginning.
pub struct Startup {
    users: Option<Arc<Users>>,
    cancels: Arc<ConnectionManager>,
    session: Arc<Mutex<Session>>,
    auditor: Auditor,
    exchange: Mutex<Option<Exchange>>,
}

impl Startup {
    pub fn new(
        users: Option<Arc<Users>>,
        cancels: Arc<ConnectionManager>,
        session: Arc<Mutex<Session>>,
        auditor: Auditor,
    ) -> Startup {
        Startup { users, cancels, session, auditor, exchange: Mutex::default() }
    }

    async fn welcome<C>(&self, client: &mut C) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        self.session.lock().begin(client.metadata())?;
        let (pid, secret) = KEYS.generate(client);
        client.set_pid_and_secret_key(pid, secret.clone());
        let (handle, guard) = self.cancels.register(pid, secret);
        client.session_extensions().insert::<Arc<ConnectionHandle>>(handle);
        client.session_extensions().insert::<ConnectionGuard>(guard);
        finish_authentication(client, &Told(&self.session)).await
    }

    /// What to answer to a message of SCRAM, and whether the client is who it says.
    fn step(&self, user: &str, message: PasswordMessageFamily) -> PgWireResult<(Authentication, bool)> {
        let mut exchange = self.exchange.lock();
        let refused = |error: ScramError| refusal(user, error);
        match exchange.take() {
            None => {
                let first = message.into_sasl_initial_response()?;
                let data = first.data.filter(|_| first.auth_method == METHOD);
                let data = data.ok_or_else(|| PgWireError::UnsupportedSASLAuthMethod(first.auth_method))?;
                let users = self.users.as_ref().expect("only with users somebody is asked");
                let (begun, answer) = Exchange::begin(&data, users.verifier(user)).map_err(refused)?;
                *exchange = Some(begun);
                Ok((Authentication::SASLContinue(answer.into()), false))
            }
            Some(begun) => {
                let last = message.into_sasl_response()?;
                let answer = begun.finish(&last.data).map_err(refused)?;
                Ok((Authentication::SASLFinal(answer.into()), true))
            }
        }
    }
}

fn refusal(user: &str, error: ScramError) -> PgWireError {
    let (code, message) = match error {
        ScramError::Refused => ("28P01", format!("{error} for user \"{user}\"")),
        ScramError::Malformed | ScramError::ChannelBinding => ("08P01", error.to_string()),
    };
    PgWireError::UserError(Box::new(ErrorInfo::new("FATAL".to_owned(), code.to_owned(), message)))
}

#[async_trait]
impl StartupHandler for Startup {
    async fn on_startup<C>(&self, client: &mut C, message: PgWireFrontendMessage) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match message {
            PgWireFrontendMessage::Startup(startup) => {
                protocol_negotiation(client, &startup).await?;
                save_startup_parameters_to_metadata(client, &startup);
                if client.metadata().get(METADATA_USER).is_none_or(String::is_empty) {
                    let why = "no PostgreSQL user name specified in startup packet".to_owned();
                    let info = ErrorInfo::new("FATAL".to_owned(), "28000".to_owned(), why);
                    return Err(PgWireError::UserError(Box::new(info)));
                }
                if self.users.is_none() {
                    return self.welcome(client).await;
                }
                client.set_state(PgWireConnectionState::AuthenticationInProgress);
                let methods = Authentication::SASL(vec![METHOD.to_owned()]);
                client.send(PgWireBackendMessage::Authentication(methods)).await?;
            }
            PgWireFrontendMessage::PasswordMessageFamily(message) if self.users.is_some() => {
                let user = client.metadata().get(METADATA_USER).cloned().unwrap_or_default();
                match self.step(&user, message) {
                    Ok((answer, is_known)) => {
                        client.send(PgWireBackendMessage::Authentication(answer)).await?;
                        if is_known {
                            self.welcome(client).await?;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(user, peer = %client.socket_addr(), "a login was refused");
                        self.auditor.login_refused(&user, client.socket_addr(), &error.to_string()).await;
                        tokio::time::sleep(REFUSAL_PAUSE).await;
                        return Err(error);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// What a client is told of the session at its beginning.
struct Told<'a>(&'a Mutex<Session>);

impl ServerParameterProvider for Told<'_> {
    fn server_parameters<C>(&self, _: &C) -> Option<HashMap<String, String>> {
        let session = self.0.lock();
        let told = REPORTED.iter().map(|name| ((*name).to_owned(), session.show(name).unwrap_or_default()));
        Some(told.collect())
    }
}
