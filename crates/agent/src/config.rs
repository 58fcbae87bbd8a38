//! The settings of a server's edge, checked once and valid afterwards.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use kafscale_identity::{IdentityConfig, IdentityError, IdentitySettings};

use crate::origins::Origins;
use crate::rate_limit::Rate;

const DEFAULT_CALLS_PER_SECOND: u32 = 20;
const DEFAULT_BURST: u32 = 40;
const SESSION_TIMEOUT_MIN: Duration = Duration::from_secs(1);
const SESSION_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Settings as they are given. [`EdgeConfig::new`] checks them.
#[derive(Clone, Debug)]
pub struct EdgeSettings {
    pub identity: IdentitySettings,
    pub listen: SocketAddr,
    pub session_timeout: Duration,
    /// Names under which clients reach the server, besides loopback and the listen address.
    pub allowed_hosts: Vec<String>,
    /// Origins of browser clients, besides those on loopback.
    pub allowed_origins: Vec<String>,
    pub audit_log: Option<PathBuf>,
    /// Where the end of the audit log is kept, outside its directory. None: where the server says.
    pub audit_anchor: Option<PathBuf>,
    pub calls_per_second: u32,
    pub calls_burst: u32,
}

impl EdgeSettings {
    /// The defaults of everything else.
    pub fn new(identity: IdentitySettings, listen: SocketAddr) -> Self {
        Self {
            identity,
            listen,
            session_timeout: Duration::from_secs(300),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            audit_log: None,
            audit_anchor: None,
            calls_per_second: DEFAULT_CALLS_PER_SECOND,
            calls_burst: DEFAULT_BURST,
        }
    }
}

/// What is wrong with the settings; the text is what a user sees.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the MCP session timeout must be between 1 s and 24 h")]
    SessionTimeout,
    #[error("{0:?} is not a host: expected a name or an address, with or without a port")]
    Host(String),
    #[error("{0:?} is not an origin: expected scheme://host, with or without a port")]
    Origin(String),
    #[error("{0}_AUDIT_ANCHOR means nothing without {0}_AUDIT_LOG")]
    AnchorOfNothing(&'static str),
    #[error("the MCP rate limit must be at least 1 call per second")]
    Rate,
}

/// The settings, valid.
#[derive(Debug)]
pub struct EdgeConfig {
    pub identity: IdentityConfig,
    /// What the names of the variables begin with, for what is said to the operator.
    pub(crate) variables: &'static str,
    pub(crate) listen: SocketAddr,
    pub(crate) session_timeout: Duration,
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) origins: Origins,
    pub(crate) audit_log: Option<PathBuf>,
    pub(crate) audit_anchor: Option<PathBuf>,
    pub(crate) rate: Rate,
}

impl EdgeConfig {
    /// Checks the settings, and reads the files that they name.
    pub fn new(settings: EdgeSettings) -> Result<Self, ConfigError> {
        let identity = IdentityConfig::new(&settings.identity, settings.listen)?;
        let variables = settings.identity.variables;
        if !(SESSION_TIMEOUT_MIN..=SESSION_TIMEOUT_MAX).contains(&settings.session_timeout) {
            return Err(ConfigError::SessionTimeout);
        }
        if settings.audit_anchor.is_some() && settings.audit_log.is_none() {
            return Err(ConfigError::AnchorOfNothing(variables));
        }
        let rate = |n| NonZeroU32::new(n).ok_or(ConfigError::Rate);
        let per_second = rate(settings.calls_per_second)?;
        Ok(Self {
            allowed_hosts: hosts(&settings, &identity)?,
            identity,
            variables,
            listen: settings.listen,
            session_timeout: settings.session_timeout,
            origins: Origins::new(&settings.allowed_origins).map_err(ConfigError::Origin)?,
            audit_log: settings.audit_log,
            audit_anchor: settings.audit_anchor,
            rate: Rate { per_second, burst: rate(settings.calls_burst)?.max(per_second) },
        })
    }
}

/// Loopback, the listen address, the public one, and what was given.
fn hosts(settings: &EdgeSettings, identity: &IdentityConfig) -> Result<Vec<String>, ConfigError> {
    let mut hosts: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    if !settings.listen.ip().is_unspecified() {
        hosts.push(settings.listen.ip().to_string());
    }
    hosts.extend(identity.public_url.as_ref().and_then(|url| url.host().map(str::to_owned)));
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
    use kafscale_identity::Scope;

    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for change in [
            (|s| s.session_timeout = Duration::ZERO) as fn(&mut EdgeSettings),
            |s| s.calls_per_second = 0,
            |s| s.identity.auth_token = Some("short".into()),
            |s| s.audit_anchor = Some("/tmp/anchor".into()),
            |s| s.allowed_hosts = vec!["a b".into()],
            |s| s.allowed_origins = vec!["example.com".into()],
        ] {
            let identity = IdentitySettings::new("KAFSCALE_MCP", "MCP server", Scope::Observe);
            let mut settings = EdgeSettings::new(identity, "127.0.0.1:0".parse().unwrap());
            assert!(EdgeConfig::new(settings.clone()).is_ok());
            change(&mut settings);
            assert!(EdgeConfig::new(settings).is_err());
        }
    }
}
