//! The server as its owner sees it: start it, ask where it listens, stop it. Or serve one client over stdin and stdout.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kafscale_core::clock::Clock;
use kafscale_meta::Metadata;
use rmcp::service::ServiceExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::audit::{self, Anchor, AuditError};
use crate::auth::Authenticator;
use crate::changes::Changes;
use crate::config::McpConfig;
use crate::handler::{Handler, Shared};
use crate::http;
use crate::view::ClusterView;
use crate::view::lag_history::SAMPLE_INTERVAL;

/// How often the brokers are scraped while nobody asks, so that rates are known when somebody does.
const SCRAPE_INTERVAL: Duration = Duration::from_secs(5);

/// Reading the groups takes at most one part in so many of the time.
const LAG_PAUSE_FACTOR: u32 = 50;

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

/// A server that may be started: its audit log holds.
pub struct Prepared {
    config: McpConfig,
    metadata: Metadata,
    shared: Arc<Shared>,
    anchoring: Option<Anchoring>,
    stop: CancellationToken,
}

/// A running server. Dropping it ends it at once.
#[derive(Debug)]
pub struct McpServer {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Prepared {
    /// Opens the audit log. Nothing is served yet, and nothing is written to the metadata.
    pub async fn new(config: McpConfig, metadata: Metadata, clock: Arc<dyn Clock>) -> Result<Self, McpError> {
        let stop = CancellationToken::new();
        let (shared, anchoring) = shared(&config, metadata.clone(), clock, stop.clone()).await?;
        Ok(Self { config, metadata, shared, anchoring, stop })
    }

    /// Starts to serve HTTP.
    pub async fn serve(self) -> Result<McpServer, McpError> {
        let Self { config, metadata, shared, anchoring, stop } = self;
        let address = config.listen;
        let listener =
            TcpListener::bind(address).await.map_err(|error| McpError::Listen { address, error })?;
        let address = listener.local_addr().map_err(|error| McpError::Listen { address, error })?;
        let mut server = McpServer { address, stop, tasks: JoinSet::new() };
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
        if let Some(anchoring) = anchoring {
            server.tasks.spawn(anchoring);
        }
        server.tasks.spawn(keep_scraping(Arc::clone(&shared.view), server.stop.clone()));
        server.tasks.spawn(keep_lags(Arc::clone(&shared.view), server.stop.clone()));
        server.tasks.spawn(async move { shared.changes.watch(&metadata).await });
        let stop = server.stop.clone();
        server.tasks.spawn(async move { authenticator.reload(stop).await });
        Ok(server)
    }
}

impl McpServer {
    /// Starts to serve HTTP, where nothing else has to happen between [`Prepared::new`] and [`Prepared::serve`].
    pub async fn start(
        config: McpConfig,
        metadata: Metadata,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, McpError> {
        Prepared::new(config, metadata, clock).await?.serve().await
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
    let (shared, anchoring) = shared(&config, metadata.clone(), clock, stop.clone()).await?;
    let mut tasks = JoinSet::new();
    if let Some(anchoring) = anchoring {
        tasks.spawn(anchoring);
    }
    tasks.spawn(keep_scraping(Arc::clone(&shared.view), stop.clone()));
    tasks.spawn(keep_lags(Arc::clone(&shared.view), stop.clone()));
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

/// Keeps the audit log's anchor.
type Anchoring = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn shared(
    config: &McpConfig,
    metadata: Metadata,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> Result<(Arc<Shared>, Option<Anchoring>), McpError> {
    let (mut audit, mut anchoring) = (None, None::<Anchoring>);
    if let Some(path) = &config.audit_log {
        let anchor = match &config.audit_anchor {
            Some(file) => Anchor::File(file.clone()),
            None => Anchor::in_metadata(&metadata, path),
        };
        let (log, compared) = audit::open(path, &anchor, clock.now_ms()).await?;
        audit = Some(log.clone());
        let clock = Arc::clone(&clock);
        anchoring =
            Some(Box::pin(audit::keep_anchored(log, path.clone(), anchor, compared, clock, stop.clone())));
    }
    let view = ClusterView::new(
        metadata,
        config.metrics.clone(),
        config.http.clone(),
        clock,
        config.topic_defaults.clone(),
    );
    Ok((Arc::new(Shared::new(Arc::new(view), audit, Changes::new(stop))), anchoring))
}

/// Remembers the lag of all groups now and then. On a large cluster, where that takes long, it is done less often.
async fn keep_lags(view: Arc<ClusterView>, stop: CancellationToken) {
    loop {
        let round = async {
            let began = Instant::now();
            view.remember_lags().await;
            tokio::time::sleep(SAMPLE_INTERVAL.max(began.elapsed() * LAG_PAUSE_FACTOR)).await;
        };
        if stop.run_until_cancelled(round).await.is_none() {
            return;
        }
    }
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
