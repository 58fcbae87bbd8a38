//! The server as its owner sees it: start it, ask where it listens, stop it. Or serve one client over stdin and stdout.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use kafscale_audit::{Anchor, AuditError, keep_anchored};
use kafscale_core::clock::Clock;
use rmcp::service::ServiceExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::call::Auditor;
use crate::config::EdgeConfig;
use crate::handler::{Handler, Shared};
use crate::health::Health;
use crate::http;
use crate::service::Service;

/// Why the server does not start or ends early.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("cannot listen on {address}: {error}")]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("the client on stdin and stdout: {0}")]
    Stdio(String),
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A server that may be started: its audit log holds.
pub struct Prepared {
    config: EdgeConfig,
    shared: Arc<Shared>,
    /// What runs while the server does.
    beside: Vec<Task>,
    health: Health,
    stop: CancellationToken,
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A running server. Dropping it ends it at once.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Prepared {
    /// Whether [`Prepared::new`] would refuse the audit log as one that was cut off, found out without changing anything.
    pub async fn look(config: &EdgeConfig, anchor: impl FnOnce(&Path) -> Anchor) -> Result<(), EdgeError> {
        let Some(path) = &config.audit_log else { return Ok(()) };
        let anchor = config.audit_anchor.clone().map_or_else(|| anchor(path), Anchor::File);
        Ok(kafscale_audit::look(path, &anchor).await?)
    }

    /// Opens the audit log. Nothing is served yet. Where its settings do not name the log's anchor, `anchor` does. `stop` ends everything.
    pub async fn new(
        config: EdgeConfig,
        service: Service,
        anchor: impl FnOnce(&Path) -> Anchor,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) -> Result<Self, EdgeError> {
        let (mut log, mut beside) = (None, Vec::<Task>::new());
        if let Some(path) = &config.audit_log {
            let anchor = config.audit_anchor.clone().map_or_else(|| anchor(path), Anchor::File);
            let (opened, compared) = kafscale_audit::open(path, &anchor, clock.now_ms()).await?;
            log = Some(opened.clone());
            let (path, clock, stop) = (path.clone(), Arc::clone(&clock), stop.clone());
            beside.push(Box::pin(keep_anchored(opened, path, anchor, compared, clock, stop)));
        }
        let health = Health { log: log.clone(), remarks: Vec::new() };
        let shared = Shared::new(service, config.identity.scope, Auditor { log, clock }, stop.clone());
        Ok(Self { config, shared: Arc::new(shared), beside, health, stop })
    }

    /// Something that `/healthz` says to whoever asks.
    pub fn remark(&mut self, remark: impl Fn() -> Option<&'static str> + Send + Sync + 'static) {
        self.health.remarks.push(Box::new(remark));
    }

    /// Runs a task while the server does. It ends by itself when the server stops.
    pub fn beside(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.beside.push(Box::pin(task));
    }

    /// Starts to serve HTTP.
    pub async fn serve(self) -> Result<Server, EdgeError> {
        let Self { mut config, shared, beside, health, stop } = self;
        let address = config.listen;
        let listener =
            TcpListener::bind(address).await.map_err(|error| EdgeError::Listen { address, error })?;
        let address = listener.local_addr().map_err(|error| EdgeError::Listen { address, error })?;
        let mut server = Server { address, stop, tasks: JoinSet::new() };
        let tls = config.identity.tls.take().map(Arc::new);
        if tls.is_none() && !address.ip().is_loopback() {
            let variables = config.variables;
            tracing::warn!(
                %address,
                "bearer tokens are received without TLS: set {variables}_TLS_CERT_FILE and {variables}_TLS_KEY_FILE, or let a proxy \
                 do it"
            );
        }
        if let Some(tls) = tls.clone() {
            let stop = server.stop.clone();
            server.tasks.spawn(async move { tls.follow(stop).await });
        }
        let call_timeout = shared.service.limits.call_timeout;
        let (router, authenticator) = http::router(config, shared, Arc::new(health), &server.stop);
        server.tasks.spawn(http::serve(listener, tls, router, call_timeout, server.stop.clone()));
        let stop = server.stop.clone();
        server.tasks.spawn(async move { authenticator.reload(stop).await });
        for task in beside {
            server.tasks.spawn(task);
        }
        Ok(server)
    }

    /// Serves one client over stdin and stdout until it closes them, or until `stop`. Whoever started the process is trusted with what
    /// the scope of the settings allows.
    pub async fn serve_stdio(self) -> Result<(), EdgeError> {
        let Self { shared, beside, stop, .. } = self;
        let mut tasks = JoinSet::new();
        for task in beside {
            tasks.spawn(task);
        }
        let failed = |error: String| EdgeError::Stdio(error);
        let service = Handler::stdio(shared)
            .serve_with_ct(rmcp::transport::stdio(), stop.clone())
            .await
            .map_err(|e| failed(e.to_string()))?;
        service.waiting().await.map_err(|e| failed(e.to_string()))?;
        stop.cancel();
        while tasks.join_next().await.is_some() {}
        Ok(())
    }
}

impl Server {
    /// Where the server listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops: no new connections, a moment for those that are busy.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}
