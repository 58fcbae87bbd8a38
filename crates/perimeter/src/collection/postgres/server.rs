//! A server and the connections to it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio_postgres::config::SslMode;
use tokio_postgres::{CancelToken, Client, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use super::config::PostgresConfig;
use super::session::Failed;
use crate::collection::reach::{Limits, Pool, Security, TlsError};
use crate::secret::{Secret, SecretError, SecretSlot};

/// For ending a statement on the server.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// A database, as the configuration describes it.
#[derive(Debug)]
pub struct Server {
    pub config: PostgresConfig,
    pub limits: Limits,
    security: Security,
    password: Option<SecretSlot>,
    pool: Pool<Connection>,
}

/// Dropping it ends it.
#[derive(Debug)]
pub struct Connection {
    pub client: Client,
    _driver: AbortOnDropHandle<()>,
}

/// A connection in use, and its place in the pool.
#[derive(Debug)]
pub struct Link {
    pub connection: Connection,
    /// It waited in the pool, where it may have been closed.
    pub was_idle: bool,
    permit: OwnedSemaphorePermit,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NoConnection {
    #[error("all connections are in use")]
    Full,
    #[error("there is no connection yet after {0:?}")]
    Late(Duration),
    #[error("the password cannot be read")]
    Secret(#[from] SecretError),
    #[error("the server cannot be reached")]
    Driver(#[from] tokio_postgres::Error),
}

impl Server {
    /// `base` is the directory of the configuration.
    pub fn new(config: PostgresConfig, base: &Path) -> Result<Server, TlsError> {
        let limits = config.limits();
        let security = Security::of(&config.host, config.tls, config.tls_ca_file.as_deref(), base)?;
        let password = config.password.clone().map(|source| SecretSlot::new(source, base));
        Ok(Server { limits, security, password, pool: Pool::new(limits.connections), config })
    }

    pub fn is_encrypted(&self) -> bool {
        matches!(self.security, Security::Tls(_))
    }

    /// One that waited, or a new one.
    pub async fn link(&self) -> Result<Link, Failed> {
        let mut place = self.pool.place(self.limits.answer).await.ok_or(NoConnection::Full)?;
        if let Some(connection) = place.idle.take().filter(|idle| !idle.client.is_closed()) {
            return Ok(Link { connection, was_idle: true, permit: place.permit });
        }
        let limit = self.limits.connect;
        let connected = tokio::time::timeout(limit, self.connect()).await;
        let connection = connected.map_err(|_| NoConnection::Late(limit))??;
        Ok(Link { connection, was_idle: false, permit: place.permit })
    }

    async fn connect(&self) -> Result<Connection, NoConnection> {
        let Some(slot) = &self.password else { return Ok(self.login(None).await?) };
        let password = slot.get().await?;
        match self.login(Some(&password)).await {
            Err(error) if error.code().is_some_and(|code| code.code().starts_with("28")) => {
                match slot.after_refusal(&password).await? {
                    Some(newer) => Ok(self.login(Some(&newer)).await?),
                    None => Err(error.into()),
                }
            }
            other => Ok(other?),
        }
    }

    async fn login(&self, password: Option<&Secret>) -> Result<Connection, tokio_postgres::Error> {
        let mut settings = tokio_postgres::Config::new();
        settings
            .host(&self.config.host)
            .port(self.config.port)
            .dbname(&self.config.database)
            .user(&self.config.user)
            .application_name("kafscale-perimeter")
            .connect_timeout(self.limits.connect)
            .tcp_user_timeout(self.limits.answer)
            .keepalives_idle(Duration::from_secs(30));
        if let Some(password) = password {
            settings.password(password.expose());
        }
        match &self.security {
            Security::Plain => {
                let (client, driver) = settings.ssl_mode(SslMode::Disable).connect(NoTls).await?;
                Ok(Connection { client, _driver: driven(driver) })
            }
            Security::Tls(_) => {
                let (client, driver) = settings.ssl_mode(SslMode::Require).connect(self.tls()).await?;
                Ok(Connection { client, _driver: driven(driver) })
            }
        }
    }

    fn tls(&self) -> MakeRustlsConnect {
        match &self.security {
            Security::Tls(config) => MakeRustlsConnect::new((**config).clone()),
            Security::Plain => unreachable!("it is asked for with TLS only"),
        }
    }

    /// Ends what the server does on a connection. It says nothing of whether there was anything to
    /// end.
    pub async fn cancel(&self, token: CancelToken) {
        let cancel = async {
            match self.security {
                Security::Plain => token.cancel_query(NoTls).await,
                Security::Tls(_) => token.cancel_query(self.tls()).await,
            }
        };
        match tokio::time::timeout(CANCEL_TIMEOUT, cancel).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => tracing::warn!(
                host = %self.config.host,
                "a statement could not be ended on the server; its own timeout will"
            ),
        }
    }

    /// Ends the transaction, and keeps the connection for the next one.
    pub async fn put_back(self: Arc<Self>, link: Link) {
        let ended =
            tokio::time::timeout(CANCEL_TIMEOUT, link.connection.client.batch_execute("ROLLBACK")).await;
        if let Ok(Ok(())) = ended {
            self.pool.put_back(link.connection, link.permit);
        }
    }
}

/// Carries what is sent and received, until the client or the server ends that.
fn driven<T>(driver: tokio_postgres::Connection<Socket, T>) -> AbortOnDropHandle<()>
where
    T: tokio_postgres::tls::TlsStream + Unpin + Send + 'static,
{
    AbortOnDropHandle::new(tokio::spawn(async move {
        // Whoever waits for an answer is told the same.
        let _ = driver.await;
    }))
}
