//! The MCP server as a role: its arguments, alone (`kafscale mcp`) or in a broker's process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use kafscale_meta::{ErrorKind, EtcdOptions, MetaStore, MetaUrl, Metadata};
use kafscale_observe::{EdgeError, ObserveConfig, ObserveSettings, Prepared};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

use crate::backend::{EtcdArgs, etcd_members};
use crate::cli::LoggingArgs;
use crate::clock::SystemClock;
use crate::failure::Failure;
use crate::hangup::{Hangups, Reread};
use crate::refusals::cannot_listen;
use crate::run::StopSignals;
use crate::stop::StopTime;
use crate::units::{ListenAddr, Span};
use crate::waiting::Waiting;
use crate::{logging, runtime};

/// What the demo's server takes on loopback, so that the configuration in the README works as it stands there.
pub const DEMO_TOKEN: &str = "local-dev-token";
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:8090";

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "MCP server for AI agents")]
pub struct McpArgs {
    /// Address of the MCP server; a broker has none without it [default: 127.0.0.1:8090, for `broker` none]
    #[arg(long, env = "KAFSCALE_MCP_HTTP_ADDR", value_name = "IP:PORT")]
    pub mcp_http_addr: Option<ListenAddr>,

    /// Bearer token that clients must send; without any, only loopback is served [default: none, for `demo` local-dev-token]
    #[arg(long, env = "KAFSCALE_MCP_AUTH_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub mcp_auth_token: Option<String>,

    /// File of hashed tokens with names and scopes, followed while it changes
    #[arg(long, env = "KAFSCALE_MCP_AUTH_TOKEN_FILE", value_name = "FILE")]
    pub mcp_auth_token_file: Option<PathBuf>,

    /// File of rules that confine callers to topics and groups, followed while it changes [default: everybody sees all]
    #[arg(long, env = "KAFSCALE_MCP_POLICY_FILE", value_name = "FILE")]
    pub mcp_policy_file: Option<PathBuf>,

    /// Issuer of access tokens (OpenID Connect, OAuth 2.1) that are accepted too: https://…, as in their claim iss
    #[arg(long, env = "KAFSCALE_MCP_OIDC_ISSUER", value_name = "URL")]
    pub mcp_oidc_issuer: Option<String>,

    /// What those tokens must be for, with commas between several [default: the public URL]
    #[arg(long, env = "KAFSCALE_MCP_OIDC_AUDIENCE", value_name = "AUDIENCE", value_delimiter = ',')]
    pub mcp_oidc_audience: Vec<String>,

    /// Where the issuer's keys are [default: where the issuer's own metadata say]
    #[arg(long, env = "KAFSCALE_MCP_OIDC_JWKS_URL", value_name = "URL")]
    pub mcp_oidc_jwks_url: Option<String>,

    /// How clients reach the server, such as https://mcp.example/mcp; an issuer gives out tokens for it
    #[arg(long, env = "KAFSCALE_MCP_PUBLIC_URL", value_name = "URL")]
    pub mcp_public_url: Option<String>,

    /// PEM file with the certificate to serve TLS with, followed while it changes [default: no TLS]
    #[arg(long, env = "KAFSCALE_MCP_TLS_CERT_FILE", value_name = "FILE")]
    pub mcp_tls_cert_file: Option<PathBuf>,

    /// PEM file with the key of that certificate
    #[arg(long, env = "KAFSCALE_MCP_TLS_KEY_FILE", value_name = "FILE")]
    pub mcp_tls_key_file: Option<PathBuf>,

    /// PEM file with the authorities that vouch for the issuer and for https metrics [default: those of the system]
    #[arg(long, env = "KAFSCALE_MCP_CA_FILE", value_name = "FILE")]
    pub mcp_ca_file: Option<PathBuf>,

    /// Where the brokers' metrics are, with commas between several [default: where the brokers registered them]
    #[arg(long, env = "KAFSCALE_MCP_BROKER_METRICS_URL", value_name = "URL", value_delimiter = ',')]
    pub mcp_broker_metrics_url: Vec<String>,

    /// A client's session ends after this long without a request
    #[arg(long, env = "KAFSCALE_MCP_SESSION_TIMEOUT", value_name = "TIME", default_value_t = Span::seconds(300))]
    pub mcp_session_timeout: Span,

    /// Names under which clients reach the server, besides localhost, with commas between several
    #[arg(long, env = "KAFSCALE_MCP_ALLOWED_HOSTS", value_name = "HOSTS", value_delimiter = ',')]
    pub mcp_allowed_hosts: Vec<String>,

    /// Origins of browser clients, besides those on localhost, with commas between several
    #[arg(long, env = "KAFSCALE_MCP_ALLOWED_ORIGINS", value_name = "ORIGINS", value_delimiter = ',')]
    pub mcp_allowed_origins: Vec<String>,

    /// File for the audit log of calls; check it with `kafscale audit verify`
    #[arg(long, env = "KAFSCALE_MCP_AUDIT_LOG", value_name = "FILE")]
    pub mcp_audit_log: Option<PathBuf>,

    /// File, best on another disk or host, that keeps where the audit log ends [default: in the metadata store]
    #[arg(long, env = "KAFSCALE_MCP_AUDIT_ANCHOR", value_name = "FILE")]
    pub mcp_audit_anchor: Option<PathBuf>,

    /// Calls that one client may make in a second; twice as many in a burst
    #[arg(long, env = "KAFSCALE_MCP_CALLS_PER_SECOND", value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub mcp_calls_per_second: u32,
}

#[derive(Debug, Args)]
pub struct McpCommand {
    /// The etcd members that hold the cluster's metadata
    #[arg(long, env = "KAFSCALE_MCP_ETCD_ENDPOINTS", value_name = "HOST:PORT,…", conflicts_with = "meta")]
    pub mcp_etcd_endpoints: Option<String>,

    /// Where the metadata is: etcd://host:port, or file:///dir of a broker that does not run
    #[arg(long, env = "KAFSCALE_META", value_name = "URL")]
    pub meta: Option<MetaUrl>,

    /// Name of the cluster
    #[arg(long, env = "KAFSCALE_CLUSTER_NAME", value_name = "NAME", default_value = "kafscale")]
    pub cluster_name: String,

    /// Serve one client over standard input and output instead of HTTP
    #[arg(long)]
    pub stdio: bool,

    #[command(flatten)]
    pub etcd: EtcdArgs,
    #[command(flatten)]
    pub mcp: McpArgs,
    #[command(flatten)]
    pub logging: LoggingArgs,
}

impl McpArgs {
    fn settings(&self) -> ObserveSettings {
        let default: ListenAddr = DEFAULT_ADDRESS.parse().expect("the default is an address");
        let mut settings = ObserveSettings {
            broker_metrics_urls: self.mcp_broker_metrics_url.clone(),
            policy_file: self.mcp_policy_file.clone(),
            ..ObserveSettings::default()
        };
        let edge = &mut settings.edge;
        edge.listen = self.mcp_http_addr.unwrap_or(default).0;
        edge.session_timeout = self.mcp_session_timeout.0;
        edge.allowed_hosts.clone_from(&self.mcp_allowed_hosts);
        edge.allowed_origins.clone_from(&self.mcp_allowed_origins);
        edge.audit_log.clone_from(&self.mcp_audit_log);
        edge.audit_anchor.clone_from(&self.mcp_audit_anchor);
        edge.calls_per_second = self.mcp_calls_per_second;
        edge.calls_burst = self.mcp_calls_per_second.saturating_mul(2);
        let identity = &mut edge.identity;
        identity.auth_token.clone_from(&self.mcp_auth_token);
        identity.auth_token_file.clone_from(&self.mcp_auth_token_file);
        identity.oidc_issuer.clone_from(&self.mcp_oidc_issuer);
        identity.oidc_audiences.clone_from(&self.mcp_oidc_audience);
        identity.oidc_jwks_url.clone_from(&self.mcp_oidc_jwks_url);
        identity.public_url.clone_from(&self.mcp_public_url);
        identity.tls_cert_file.clone_from(&self.mcp_tls_cert_file);
        identity.tls_key_file.clone_from(&self.mcp_tls_key_file);
        identity.ca_file.clone_from(&self.mcp_ca_file);
        settings
    }

    /// The settings in a broker's process: none unless an address was given.
    pub fn beside_a_broker(&self) -> Option<ObserveSettings> {
        self.mcp_http_addr.map(|_| self.settings())
    }

    /// The settings in the demo: on loopback there is a token that everybody knows.
    pub fn beside_the_demo(&self) -> ObserveSettings {
        let mut settings = self.settings();
        let loopback = settings.edge.listen.ip().is_loopback();
        let identity = &mut settings.edge.identity;
        if identity.auth_token.is_none()
            && identity.auth_token_file.is_none()
            && identity.oidc_issuer.is_none()
            && loopback
        {
            identity.auth_token = Some(DEMO_TOKEN.to_owned());
        }
        settings
    }
}

/// Checks the settings, and the files that they name.
pub fn checked(settings: ObserveSettings) -> Result<ObserveConfig, Failure> {
    ObserveConfig::new(settings).map_err(|e| Failure::usage(e.to_string()))
}

/// Opens what the server needs, in the process that has the metadata open.
pub async fn prepare(config: ObserveConfig, metadata: Metadata) -> Result<Prepared, Failure> {
    kafscale_observe::prepare(config, metadata, Arc::new(SystemClock), CancellationToken::new())
        .await
        .map_err(start_failure)
}

pub fn start_failure(error: EdgeError) -> Failure {
    Failure::runtime(match error {
        EdgeError::Listen { address, error } => cannot_listen(address, &error, "--mcp-http-addr"),
        error @ (EdgeError::Audit(_) | EdgeError::Stdio(_)) => error.to_string(),
    })
}

/// A stop of `kafscale mcp` takes no longer.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Runs `kafscale mcp`.
pub fn run(command: McpCommand, reread: Reread) -> Result<(), Failure> {
    let log = logging::init(&command.logging);
    let url = meta_url(&command)?;
    let etcd = command.etcd.options()?;
    let config = checked(command.mcp.settings())?;
    let (cluster_name, stdio) = (command.cluster_name, command.stdio);
    runtime::block_on(Builder::new_multi_thread(), async move {
        let _hangups = Hangups::take(log, reread)?;
        let failed = |e: kafscale_meta::Error| Failure::runtime(e.to_string());
        let Some(store) = open_metadata(&url, &etcd, !stdio).await? else { return Ok(()) };
        let metadata = Metadata::new(store, &cluster_name).map_err(failed)?;
        let served = if stdio {
            serve_stdio(config, metadata.clone()).await
        } else {
            serve(config, metadata.clone()).await
        };
        if let Some(closed) = StopTime::begin(STOP_WITHIN).limit(10, metadata.store().close()).await {
            closed.map_err(failed)?;
        }
        served
    })
}

/// A service waits for an etcd that is away; a client that started the server itself is told at once. None: the process was
/// stopped meanwhile.
async fn open_metadata(
    url: &MetaUrl,
    etcd: &EtcdOptions,
    waits: bool,
) -> Result<Option<Arc<dyn MetaStore>>, Failure> {
    let mut signals = StopSignals::listen()?;
    let mut waiting = Waiting::new(None, "the metadata store", u64::from(std::process::id()));
    loop {
        let why = match kafscale_meta::open_existing(url, etcd).await {
            Ok(store) => return Ok(Some(store)),
            Err(error) if waits && error.kind() == ErrorKind::Retry && matches!(url, MetaUrl::Etcd(_)) => {
                error.to_string()
            }
            Err(error) if error.kind() == ErrorKind::InUse => {
                return Err(Failure::runtime(format!(
                    "{error}. A broker that runs there serves agents itself: start it with --mcp-http-addr {DEFAULT_ADDRESS}"
                )));
            }
            Err(error) => return Err(Failure::runtime(error.to_string())),
        };
        tokio::select! {
            () = waiting.again(&why) => {}
            signal = signals.next() => {
                tracing::info!(signal, "stopped before the metadata store was there");
                return Ok(None);
            }
        }
    }
}

async fn serve(config: ObserveConfig, metadata: Metadata) -> Result<(), Failure> {
    let mut signals = StopSignals::listen()?;
    let server =
        kafscale_observe::start(config, metadata, Arc::new(SystemClock)).await.map_err(start_failure)?;
    tracing::info!(mcp = %server.addr(), "ready");
    let signal = signals.next().await;
    tracing::info!(signal, "stopping");
    if StopTime::begin(STOP_WITHIN).limit(10, server.shutdown()).await.is_none() {
        tracing::warn!("the server did not stop in time; its audit log may end behind the anchor");
    }
    Ok(())
}

async fn serve_stdio(config: ObserveConfig, metadata: Metadata) -> Result<(), Failure> {
    let mut signals = StopSignals::listen()?;
    let stop = CancellationToken::new();
    let serving = stop.clone();
    let served = async {
        let clock = Arc::new(SystemClock);
        kafscale_observe::prepare(config, metadata, clock, serving).await?.serve_stdio().await
    };
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        _ = signals.next() => {
            stop.cancel();
            StopTime::begin(STOP_WITHIN).limit(10, served).await.unwrap_or(Ok(()))
        }
    };
    ended.map_err(|e| Failure::runtime(e.to_string()))
}

fn meta_url(command: &McpCommand) -> Result<MetaUrl, Failure> {
    match (&command.mcp_etcd_endpoints, &command.meta) {
        (Some(members), _) => etcd_members(members).map_err(Failure::usage),
        (None, Some(url)) => Ok(url.clone()),
        (None, None) => Err(Failure::usage(
            "say where the metadata is: --mcp-etcd-endpoints or --meta. With a broker on embedded metadata, run the server in \
             the broker's own process: kafscale demo has one, kafscale broker takes --mcp-http-addr",
        )),
    }
}
