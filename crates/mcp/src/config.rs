//! The settings of the server, checked once and valid afterwards.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;

use crate::auth::{Authenticator, TokenFileError};
use crate::rate_limit::Rate;
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
    /// KAFSCALE_MCP_BROKER_METRICS_URL, with commas between several. Empty: where the brokers registered them.
    pub broker_metrics_urls: Vec<String>,
    /// KAFSCALE_MCP_SESSION_TIMEOUT.
    pub session_timeout: Duration,
    /// Names under which clients reach the server, besides loopback and the listen address.
    pub allowed_hosts: Vec<String>,
    /// Origins of browser clients, besides those on loopback.
    pub allowed_origins: Vec<String>,
    pub audit_log: Option<PathBuf>,
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
            broker_metrics_urls: Vec::new(),
            session_timeout: Duration::from_secs(300),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            audit_log: None,
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
        "without authentication the MCP server listens on loopback only, not on {0}: set KAFSCALE_MCP_AUTH_TOKEN or a token \
         file, or listen on 127.0.0.1"
    )]
    OpenToTheNetwork(SocketAddr),
    #[error("the MCP token must have at least {TOKEN_MIN_CHARS} characters, all of them visible ASCII")]
    WeakToken,
    #[error(transparent)]
    TokenFile(#[from] TokenFileError),
    #[error("{0:?} is not the address of metrics: expected http://host:port/metrics")]
    MetricsUrl(String),
    #[error("the MCP session timeout must be between 1 s and 24 h")]
    SessionTimeout,
    #[error("{0:?} is not a host: expected a name or an address, with or without a port")]
    Host(String),
    #[error("{0:?} is not an origin: expected scheme://host, with or without a port")]
    Origin(String),
    #[error("the MCP rate limit must be at least 1 call per second")]
    Rate,
}

/// The settings of the server, valid.
#[derive(Debug)]
pub struct McpConfig {
    pub(crate) listen: SocketAddr,
    pub(crate) authenticator: Authenticator,
    pub(crate) metrics: MetricsSource,
    pub(crate) session_timeout: Duration,
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) audit_log: Option<PathBuf>,
    pub(crate) rate: Rate,
    pub(crate) topic_defaults: BTreeMap<String, String>,
}

impl McpConfig {
    /// Checks the settings, and reads the token file.
    pub fn new(settings: McpSettings) -> Result<Self, ConfigError> {
        let authenticator = authenticator(&settings)?;
        if !(SESSION_TIMEOUT_MIN..=SESSION_TIMEOUT_MAX).contains(&settings.session_timeout) {
            return Err(ConfigError::SessionTimeout);
        }
        let rate = |n| NonZeroU32::new(n).ok_or(ConfigError::Rate);
        let per_second = rate(settings.calls_per_second)?;
        Ok(Self {
            listen: settings.listen,
            authenticator,
            metrics: metrics_source(&settings.broker_metrics_urls)?,
            session_timeout: settings.session_timeout,
            allowed_hosts: hosts(&settings)?,
            allowed_origins: origins(&settings.allowed_origins)?,
            audit_log: settings.audit_log,
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

fn authenticator(settings: &McpSettings) -> Result<Authenticator, ConfigError> {
    let token = settings.auth_token.as_deref().filter(|token| !token.is_empty());
    if token.is_none() && settings.auth_token_file.is_none() {
        return match settings.listen.ip().is_loopback() {
            true => Ok(Authenticator::open()),
            false => Err(ConfigError::OpenToTheNetwork(settings.listen)),
        };
    }
    if token.is_some_and(|t| t.len() < TOKEN_MIN_CHARS || !t.bytes().all(|b| b.is_ascii_graphic())) {
        return Err(ConfigError::WeakToken);
    }
    Ok(Authenticator::with_tokens(token, settings.auth_token_file.clone())?)
}

fn metrics_source(urls: &[String]) -> Result<MetricsSource, ConfigError> {
    if urls.is_empty() {
        return Ok(MetricsSource::Registered);
    }
    let parse = |url: &String| {
        let uri: Option<Uri> = url.trim().parse().ok();
        let uri =
            uri.filter(|uri| uri.scheme_str() == Some("http") && uri.host().is_some_and(|h| !h.is_empty()));
        uri.ok_or_else(|| ConfigError::MetricsUrl(url.clone()))
    };
    Ok(MetricsSource::Fixed(urls.iter().map(parse).collect::<Result<_, _>>()?))
}

/// Loopback, the listen address, and what was given.
fn hosts(settings: &McpSettings) -> Result<Vec<String>, ConfigError> {
    let mut hosts: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    if !settings.listen.ip().is_unspecified() {
        hosts.push(settings.listen.ip().to_string());
    }
    for host in &settings.allowed_hosts {
        if host.parse::<hyper::http::uri::Authority>().is_err() {
            return Err(ConfigError::Host(host.clone()));
        }
        hosts.push(host.clone());
    }
    Ok(hosts)
}

/// Pages on loopback, and what was given. A request without an Origin does not come from a browser.
fn origins(given: &[String]) -> Result<Vec<String>, ConfigError> {
    let mut origins: Vec<String> =
        ["http://localhost:*", "http://127.0.0.1:*", "http://[::1]:*"].map(str::to_owned).to_vec();
    for origin in given {
        let base = origin.strip_suffix(":*").unwrap_or(origin);
        let uri: Option<Uri> = base.parse().ok();
        let uri = uri.filter(|uri| uri.scheme().is_some() && uri.path_and_query().is_none_or(|p| p == "/"));
        let uri = uri.ok_or_else(|| ConfigError::Origin(origin.clone()))?;
        // The port of a scheme is implied in an origin, and any other has to be named.
        let implied = uri.port().is_none() && base == origin;
        let port = if uri.scheme_str() == Some("https") { ":443" } else { ":80" };
        origins.push(if implied { format!("{}{port}", base.trim_end_matches('/')) } else { origin.clone() });
    }
    Ok(origins)
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
            |s| s.allowed_hosts = vec!["a b".into()],
            |s| s.allowed_origins = vec!["example.com".into()],
        ] {
            assert!(check(change).is_err());
        }
    }

    #[test]
    fn an_origin_without_a_port_means_the_port_of_its_scheme() {
        let config =
            check(|s| s.allowed_origins = vec!["https://app.example".into(), "http://a:*".into()]).unwrap();
        assert_eq!(config.allowed_origins[3..], ["https://app.example:443", "http://a:*"]);
    }
}
