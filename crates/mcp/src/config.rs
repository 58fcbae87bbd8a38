//! The settings of the server, checked once and valid afterwards.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;

use crate::auth::challenge::Resource;
use crate::auth::{Authenticator, Expected, Issuer, IssuerConfig, TokenFileError, trusted_uri};
use crate::http_get::HttpClient;
use crate::origins::Origins;
use crate::rate_limit::Rate;
use crate::tls::{ServerTls, TlsError};
use crate::view::MetricsSource;

const DEFAULT_CALLS_PER_SECOND: u32 = 20;
const DEFAULT_BURST: u32 = 40;
const SESSION_TIMEOUT_MIN: Duration = Duration::from_secs(1);
const SESSION_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// A shorter token is guessed.
const TOKEN_MIN_CHARS: usize = 8;

/// Settings as they are given. [`McpConfig::new`] checks them.
#[derive(Clone, Debug)]
pub struct McpSettings {
    /// KAFSCALE_MCP_HTTP_ADDR.
    pub listen: SocketAddr,
    /// KAFSCALE_MCP_AUTH_TOKEN.
    pub auth_token: Option<String>,
    pub auth_token_file: Option<PathBuf>,
    /// The issuer whose access tokens are accepted, exactly as it calls itself in them.
    pub oidc_issuer: Option<String>,
    /// What its tokens must be for. Empty: `public_url`.
    pub oidc_audiences: Vec<String>,
    /// Where its keys are. None: where its own metadata say.
    pub oidc_jwks_url: Option<String>,
    /// How clients reach the server. Needed with an issuer, who gives out tokens for this.
    pub public_url: Option<String>,
    pub tls_cert_file: Option<PathBuf>,
    pub tls_key_file: Option<PathBuf>,
    /// Authorities that vouch for the issuer and for metrics over TLS. None: those of the system.
    pub ca_file: Option<PathBuf>,
    /// KAFSCALE_MCP_BROKER_METRICS_URL, with commas between several. Empty: where the brokers registered them.
    pub broker_metrics_urls: Vec<String>,
    /// KAFSCALE_MCP_SESSION_TIMEOUT.
    pub session_timeout: Duration,
    /// Names under which clients reach the server, besides loopback and the listen address.
    pub allowed_hosts: Vec<String>,
    /// Origins of browser clients, besides those on loopback.
    pub allowed_origins: Vec<String>,
    pub audit_log: Option<PathBuf>,
    /// Where the end of the audit log is kept, outside its directory. None: in the metadata store.
    pub audit_anchor: Option<PathBuf>,
    pub calls_per_second: u32,
    pub calls_burst: u32,
    /// Defaults of topic configs that the brokers were started with, by the topic's names for them.
    pub topic_defaults: BTreeMap<String, String>,
}

impl Default for McpSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8090)),
            auth_token: None,
            auth_token_file: None,
            oidc_issuer: None,
            oidc_audiences: Vec::new(),
            oidc_jwks_url: None,
            public_url: None,
            tls_cert_file: None,
            tls_key_file: None,
            ca_file: None,
            broker_metrics_urls: Vec::new(),
            session_timeout: Duration::from_secs(300),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            audit_log: None,
            audit_anchor: None,
            calls_per_second: DEFAULT_CALLS_PER_SECOND,
            calls_burst: DEFAULT_BURST,
            topic_defaults: BTreeMap::new(),
        }
    }
}

/// What is wrong with the settings; the text is what a user sees.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "without authentication the MCP server listens on loopback only, not on {0}: set KAFSCALE_MCP_AUTH_TOKEN, \
         KAFSCALE_MCP_AUTH_TOKEN_FILE or KAFSCALE_MCP_OIDC_ISSUER, or listen on 127.0.0.1"
    )]
    OpenToTheNetwork(SocketAddr),
    #[error("the MCP token must have at least {TOKEN_MIN_CHARS} characters, all of them visible ASCII")]
    WeakToken,
    #[error(transparent)]
    TokenFile(#[from] TokenFileError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(
        "a certificate and its key belong together: set both KAFSCALE_MCP_TLS_CERT_FILE and KAFSCALE_MCP_TLS_KEY_FILE"
    )]
    HalfTls,
    #[error(
        "{0:?} is not an issuer: expected https://host/path exactly as in the claim iss of its tokens (http only on loopback)"
    )]
    Issuer(String),
    #[error(
        "{0:?} is not the address of an issuer's keys: expected https://host/path (http only on loopback)"
    )]
    Jwks(String),
    #[error("{0:?} is not the address of this server: expected https://host/mcp, without query")]
    PublicUrl(String),
    #[error(
        "an issuer gives out tokens for an address: with KAFSCALE_MCP_OIDC_ISSUER set KAFSCALE_MCP_PUBLIC_URL as clients \
         write it, such as https://mcp.example/mcp"
    )]
    NoPublicUrl,
    #[error(
        "KAFSCALE_MCP_OIDC_AUDIENCE and KAFSCALE_MCP_OIDC_JWKS_URL mean nothing without KAFSCALE_MCP_OIDC_ISSUER"
    )]
    NoIssuer,
    #[error("{0:?} is not the address of metrics: expected http://host:port/metrics, or https")]
    MetricsUrl(String),
    #[error("the MCP session timeout must be between 1 s and 24 h")]
    SessionTimeout,
    #[error("{0:?} is not a host: expected a name or an address, with or without a port")]
    Host(String),
    #[error("{0:?} is not an origin: expected scheme://host, with or without a port")]
    Origin(String),
    #[error("KAFSCALE_MCP_AUDIT_ANCHOR means nothing without KAFSCALE_MCP_AUDIT_LOG")]
    AnchorOfNothing,
    #[error("the MCP rate limit must be at least 1 call per second")]
    Rate,
}

/// The settings of the server, valid.
#[derive(Debug)]
pub struct McpConfig {
    pub(crate) listen: SocketAddr,
    pub(crate) authenticator: Authenticator,
    /// What clients are told who need a token.
    pub(crate) resource: Option<Resource>,
    pub(crate) tls: Option<ServerTls>,
    pub(crate) http: HttpClient,
    pub(crate) metrics: MetricsSource,
    pub(crate) session_timeout: Duration,
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) origins: Origins,
    pub(crate) audit_log: Option<PathBuf>,
    pub(crate) audit_anchor: Option<PathBuf>,
    pub(crate) rate: Rate,
    pub(crate) topic_defaults: BTreeMap<String, String>,
}

impl McpConfig {
    /// Checks the settings, and reads the files that they name.
    pub fn new(settings: McpSettings) -> Result<Self, ConfigError> {
        let http = HttpClient::new(settings.ca_file.as_deref())?;
        let authenticator = authenticator(&settings, &http)?;
        if !(SESSION_TIMEOUT_MIN..=SESSION_TIMEOUT_MAX).contains(&settings.session_timeout) {
            return Err(ConfigError::SessionTimeout);
        }
        let tls = match (&settings.tls_cert_file, &settings.tls_key_file) {
            (Some(cert), Some(key)) => Some(ServerTls::load(cert, key)?),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(ConfigError::HalfTls),
        };
        if settings.audit_anchor.is_some() && settings.audit_log.is_none() {
            return Err(ConfigError::AnchorOfNothing);
        }
        let rate = |n| NonZeroU32::new(n).ok_or(ConfigError::Rate);
        let per_second = rate(settings.calls_per_second)?;
        Ok(Self {
            listen: settings.listen,
            authenticator,
            resource: resource(&settings)?,
            tls,
            http,
            metrics: metrics_source(&settings.broker_metrics_urls)?,
            session_timeout: settings.session_timeout,
            allowed_hosts: hosts(&settings)?,
            origins: Origins::new(&settings.allowed_origins).map_err(ConfigError::Origin)?,
            audit_log: settings.audit_log,
            audit_anchor: settings.audit_anchor,
            rate: Rate { per_second, burst: rate(settings.calls_burst)?.max(per_second) },
            topic_defaults: settings.topic_defaults,
        })
    }
}

impl McpConfig {
    /// Takes the authenticator out, which outlives the rest.
    pub(crate) fn split(mut self) -> (Self, Authenticator) {
        let authenticator = std::mem::replace(&mut self.authenticator, Authenticator::open());
        (self, authenticator)
    }
}

fn authenticator(settings: &McpSettings, http: &HttpClient) -> Result<Authenticator, ConfigError> {
    let issuer = issuer(settings)?.map(|config| Issuer::new(config, http.clone()));
    let token = settings.auth_token.as_deref().filter(|token| !token.is_empty());
    let mut authenticator = Authenticator::open();
    if token.is_some() || settings.auth_token_file.is_some() {
        if token.is_some_and(|t| t.len() < TOKEN_MIN_CHARS || !t.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(ConfigError::WeakToken);
        }
        authenticator = Authenticator::with_tokens(token, settings.auth_token_file.clone())?;
    } else if issuer.is_none() && !settings.listen.ip().is_loopback() {
        return Err(ConfigError::OpenToTheNetwork(settings.listen));
    }
    Ok(match issuer {
        Some(issuer) => authenticator.and_issuer(issuer),
        None => authenticator,
    })
}

fn issuer(settings: &McpSettings) -> Result<Option<IssuerConfig>, ConfigError> {
    let Some(issuer) = &settings.oidc_issuer else {
        let alone = settings.oidc_audiences.is_empty() && settings.oidc_jwks_url.is_none();
        return if alone { Ok(None) } else { Err(ConfigError::NoIssuer) };
    };
    let uri = trusted_uri(issuer).filter(|uri| uri.query().is_none());
    uri.ok_or_else(|| ConfigError::Issuer(issuer.clone()))?;
    let public_url = settings.public_url.clone().ok_or(ConfigError::NoPublicUrl)?;
    let audiences = match settings.oidc_audiences.as_slice() {
        [] => vec![public_url],
        given => given.to_vec(),
    };
    let jwks = settings.oidc_jwks_url.as_ref();
    let jwks = jwks.map(|url| trusted_uri(url).ok_or_else(|| ConfigError::Jwks(url.clone()))).transpose()?;
    Ok(Some(IssuerConfig { expected: Expected { issuer: issuer.clone(), audiences }, jwks }))
}

fn public_url(settings: &McpSettings) -> Result<Option<Uri>, ConfigError> {
    let Some(url) = &settings.public_url else { return Ok(None) };
    let uri: Option<Uri> = url.parse().ok();
    let uri = uri.filter(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.query().is_none()
    });
    uri.map(Some).ok_or_else(|| ConfigError::PublicUrl(url.clone()))
}

fn resource(settings: &McpSettings) -> Result<Option<Resource>, ConfigError> {
    let (Some(public_url), Some(issuer)) = (public_url(settings)?, settings.oidc_issuer.clone()) else {
        return Ok(None);
    };
    let name = settings.public_url.clone().unwrap_or_default();
    Ok(Some(Resource { name, public_url, issuer }))
}

fn metrics_source(urls: &[String]) -> Result<MetricsSource, ConfigError> {
    if urls.is_empty() {
        return Ok(MetricsSource::Registered);
    }
    let parse = |url: &String| {
        let uri: Option<Uri> = url.trim().parse().ok();
        let uri = uri.filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|h| !h.is_empty())
        });
        uri.ok_or_else(|| ConfigError::MetricsUrl(url.clone()))
    };
    Ok(MetricsSource::Fixed(urls.iter().map(parse).collect::<Result<_, _>>()?))
}

/// Loopback, the listen address, the public one, and what was given.
fn hosts(settings: &McpSettings) -> Result<Vec<String>, ConfigError> {
    let mut hosts: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    if !settings.listen.ip().is_unspecified() {
        hosts.push(settings.listen.ip().to_string());
    }
    hosts.extend(public_url(settings)?.and_then(|url| url.host().map(str::to_owned)));
    for host in &settings.allowed_hosts {
        if host.parse::<hyper::http::uri::Authority>().is_err() {
            return Err(ConfigError::Host(host.clone()));
        }
        hosts.push(host.clone());
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut McpSettings)) -> Result<McpConfig, String> {
        let mut settings = McpSettings::default();
        change(&mut settings);
        McpConfig::new(settings).map_err(|e| e.to_string())
    }

    #[test]
    fn without_authentication_only_loopback_is_served() {
        assert!(check(|_| {}).is_ok());
        assert!(check(|s| s.listen = "[::1]:8090".parse().unwrap()).is_ok());
        let open = check(|s| s.listen = "0.0.0.0:8090".parse().unwrap()).unwrap_err();
        assert!(open.contains("loopback only"), "{open}");
        check(|s| {
            s.listen = "0.0.0.0:8090".parse().unwrap();
            s.auth_token = Some("local-dev-token".into());
        })
        .unwrap();
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for change in [
            (|s| s.auth_token = Some("short".into())) as fn(&mut McpSettings),
            |s| s.auth_token = Some("with spaces in it".into()),
            |s| s.auth_token_file = Some("/does/not/exist".into()),
            |s| s.broker_metrics_urls = vec!["ftp://host/metrics".into()],
            |s| s.broker_metrics_urls = vec!["localhost:9093".into()],
            |s| s.session_timeout = Duration::ZERO,
            |s| s.calls_per_second = 0,
            |s| s.oidc_issuer = Some("https://id.example".into()),
            |s| s.oidc_audiences = vec!["kafscale".into()],
            |s| {
                s.oidc_issuer = Some("http://id.example".into());
                s.public_url = Some("https://mcp.example/mcp".into());
            },
            |s| s.public_url = Some("mcp.example".into()),
            |s| s.tls_cert_file = Some("/does/not/exist".into()),
            |s| s.ca_file = Some("/does/not/exist".into()),
            |s| s.allowed_hosts = vec!["a b".into()],
            |s| s.allowed_origins = vec!["example.com".into()],
        ] {
            assert!(check(change).is_err());
        }
    }
}
