//! The server as its owner sees it: start it, ask where it listens, stop it. Or serve one client over stdin and stdout.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kafscale_core::clock::Clock;
use kafscale_meta::Metadata;
use rmcp::service::ServiceExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::audit::{AuditError, AuditLog};
use crate::auth::Authenticator;
use crate::changes::Changes;
use crate::config::McpConfig;
use crate::handler::{Handler, Shared};
use crate::http;
use crate::view::ClusterView;

/// How often the brokers are scraped while nobody asks, so that rates are known when somebody does.
const SCRAPE_INTERVAL: Duration = Duration::from_secs(5);

/// Why the server does not start or ends early.
#[derive(Debug, thiserror::Error)]
pub enum McpError {
    #[error("cannot listen on {address}: {error}")]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("the client on stdin and stdout: {0}")]
    Stdio(String),
}

/// A running server. Dropping it ends it at once.
#[derive(Debug)]
pub struct McpServer {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl McpServer {
    /// Starts to serve HTTP.
    pub async fn start(
        config: McpConfig,
        metadata: Metadata,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, McpError> {
        let address = config.listen;
        let stop = CancellationToken::new();
        let shared = shared(&config, metadata.clone(), clock, stop.clone())?;
        let listener =
            TcpListener::bind(address).await.map_err(|error| McpError::Listen { address, error })?;
        let address = listener.local_addr().map_err(|error| McpError::Listen { address, error })?;
        let mut server = Self { address, stop, tasks: JoinSet::new() };
        let (mut config, authenticator) = config.split();
        let authenticator: Arc<Authenticator> = Arc::new(authenticator);
        let router = http::router(&config, Arc::clone(&authenticator), Arc::clone(&shared), &server.stop);
        let tls = config.tls.take().map(Arc::new);
        if tls.is_none() && !address.ip().is_loopback() {
            tracing::warn!(
                %address,
                "bearer tokens are received without TLS: set KAFSCALE_MCP_TLS_CERT_FILE and KAFSCALE_MCP_TLS_KEY_FILE, or let \
                 a proxy do it"
            );
        }
        if let Some(tls) = tls.clone() {
            let stop = server.stop.clone();
            server.tasks.spawn(async move { tls.follow(stop).await });
        }
        server.tasks.spawn(http::serve(listener, tls, router, server.stop.clone()));
        server.tasks.spawn(keep_scraping(Arc::clone(&shared.view), server.stop.clone()));
        server.tasks.spawn(async move { shared.changes.watch(&metadata).await });
        let stop = server.stop.clone();
        server.tasks.spawn(async move { authenticator.reload(stop).await });
        Ok(server)
    }

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

/// Serves one client over stdin and stdout until it closes them, or until `stop`. Whoever started the process is trusted
/// to read.
pub async fn serve_stdio(
    config: McpConfig,
    metadata: Metadata,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> Result<(), McpError> {
    let shared = shared(&config, metadata.clone(), clock, stop.clone())?;
    let mut tasks = JoinSet::new();
    tasks.spawn(keep_scraping(Arc::clone(&shared.view), stop.clone()));
    let watched = Arc::clone(&shared);
    tasks.spawn(async move { watched.changes.watch(&metadata).await });
    let failed = |error: String| McpError::Stdio(error);
    let handler = Handler::stdio(shared);
    let service = handler
        .serve_with_ct(rmcp::transport::stdio(), stop.clone())
        .await
        .map_err(|e| failed(e.to_string()))?;
    service.waiting().await.map_err(|e| failed(e.to_string()))?;
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    Ok(())
}

fn shared(
    config: &McpConfig,
    metadata: Metadata,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> Result<Arc<Shared>, McpError> {
    let audit = config.audit_log.as_deref().map(AuditLog::open).transpose()?;
    let view = ClusterView::new(
        metadata,
        config.metrics.clone(),
        config.http.clone(),
        clock,
        config.topic_defaults.clone(),
    );
    Ok(Arc::new(Shared::new(Arc::new(view), audit, Changes::new(stop))))
}

async fn keep_scraping(view: Arc<ClusterView>, stop: CancellationToken) {
    loop {
        // Two readings close together, so that the first question gets rates too.
        let round = async {
            view.metrics_with_rates().await;
            tokio::time::sleep(SCRAPE_INTERVAL).await;
        };
        if stop.run_until_cancelled(round).await.is_none() {
            return;
        }
    }
}
