//! The settings of the observation server, checked once and valid afterwards.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use hyper::Uri;
use kafscale_agent::identity::{IdentitySettings, Scope};
use kafscale_agent::{EdgeConfig, EdgeSettings};

use crate::policy::{PolicyError, PolicyText};
use crate::view::MetricsSource;

/// Settings as they are given. [`ObserveConfig::new`] checks them.
#[derive(Clone, Debug)]
pub struct ObserveSettings {
    pub edge: EdgeSettings,
    /// KAFSCALE_MCP_BROKER_METRICS_URL, with commas between several. Empty: where the brokers registered them.
    pub broker_metrics_urls: Vec<String>,
    /// KAFSCALE_MCP_POLICY_FILE: who sees which topics and groups. None: everybody sees all.
    pub policy_file: Option<PathBuf>,
    /// Defaults of topic configs that the brokers were started with, by the topic's names for them.
    pub topic_defaults: BTreeMap<String, String>,
}

impl Default for ObserveSettings {
    fn default() -> Self {
        let identity = IdentitySettings::new("KAFSCALE_MCP", "KafScale MCP server", Scope::Observe);
        let edge = EdgeSettings::new(identity, SocketAddr::from(([127, 0, 0, 1], 8090)));
        Self { edge, broker_metrics_urls: Vec::new(), policy_file: None, topic_defaults: BTreeMap::new() }
    }
}

/// What is wrong with the settings; the text is what a user sees.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Edge(#[from] kafscale_agent::ConfigError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("{0:?} is not the address of metrics: expected http://host:port/metrics, or https")]
    MetricsUrl(String),
}

/// The settings of the server, valid.
#[derive(Debug)]
pub struct ObserveConfig {
    pub(crate) edge: EdgeConfig,
    pub(crate) metrics: MetricsSource,
    /// The policy, and the file that it is read from.
    pub(crate) policy: Option<(PathBuf, PolicyText)>,
    pub(crate) topic_defaults: BTreeMap<String, String>,
}

impl ObserveConfig {
    /// Checks the settings, and reads the files that they name.
    pub fn new(settings: ObserveSettings) -> Result<Self, ConfigError> {
        let read = |path: PathBuf| PolicyText::read(&path).map(|text| (path, text));
        Ok(Self {
            policy: settings.policy_file.map(read).transpose()?,
            edge: EdgeConfig::new(settings.edge)?,
            metrics: metrics_source(&settings.broker_metrics_urls)?,
            topic_defaults: settings.topic_defaults,
        })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_of_metrics_is_refused() {
        for (url, is_one) in
            [("http://b:9093/metrics", true), ("ftp://host/metrics", false), ("localhost:9093", false)]
        {
            let settings =
                ObserveSettings { broker_metrics_urls: vec![url.to_owned()], ..ObserveSettings::default() };
            assert_eq!(ObserveConfig::new(settings).is_ok(), is_one, "{url}");
        }
    }
}
