//! What a configuration request is about, and how its changes are made; shared by the requests that describe and alter.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::protocol::StrBytes;
use kafscale_core::broker_config;
use kafscale_core::names::check_topic_name;
use kafscale_core::topic_config::{self, ValueType};
use kafscale_meta::records::{BrokerConfigRecord, ConfigScope};

use super::named_twice;
use crate::admin::{AdminError, TopicAdmin, comes_back};
use crate::node::Node;
use crate::topics::Topic;

/// Types of resources (`ConfigResource.Type`).
pub const TOPIC: i8 = 2;
pub const BROKER: i8 = 4;
pub const BROKER_LOGGER: i8 = 8;
pub const CLIENT_METRICS: i8 = 16;
pub const GROUP: i8 = 32;

/// A resource that has settings.
#[derive(Debug, Clone)]
pub enum ConfigResource {
    Topic(Arc<Topic>),
    ThisBroker,
    /// The defaults that hold for brokers without a value of their own.
    AllBrokers,
}

/// For a resource that a request names twice: which of the two it means is not known.
pub fn resource_twice() -> AdminError {
    AdminError::new(ResponseError::InvalidRequest, "Each resource must appear at most once.")
}

/// Whether the keys to change differ.
pub fn check_keys<'a>(names: impl Iterator<Item = &'a StrBytes>) -> Result<(), AdminError> {
    match named_twice(names).into_iter().next() {
        Some(name) => {
            let message = format!("Error due to duplicate config keys: {}", name.as_str());
            Err(AdminError::new(ResponseError::InvalidRequest, message))
        }
        None => Ok(()),
    }
}

impl ConfigResource {
    pub fn parse(node: &Node, resource_type: i8, name: &str) -> Result<ConfigResource, AdminError> {
        let invalid = |message: String| Err(AdminError::new(ResponseError::InvalidRequest, message));
        match resource_type {
            TOPIC => {
                check_topic_name(name)
                    .map_err(|e| AdminError::new(ResponseError::InvalidTopicException, e.to_string()))?;
                let unknown = || {
                    let message = format!("The topic '{name}' does not exist.");
                    AdminError::new(ResponseError::UnknownTopicOrPartition, message)
                };
                node.topics.get(name).map(ConfigResource::Topic).ok_or_else(unknown)
            }
            BROKER if name.is_empty() => Ok(ConfigResource::AllBrokers),
            BROKER if name.parse() == Ok(node.config.node_id.0) => Ok(ConfigResource::ThisBroker),
            BROKER => invalid(format!(
                "Unexpected broker id, expected {} or empty string, but received {name}",
                node.config.node_id
            )),
            BROKER_LOGGER => invalid("The log level is chosen when the broker starts.".into()),
            CLIENT_METRICS => invalid("Client metrics are not collected here (KIP-714).".into()),
            GROUP => invalid("Groups have no settings here: they follow the classic protocol.".into()),
            other => {
                invalid(format!("Unsupported resource type {other}: only topics and brokers have settings."))
            }
        }
    }

    /// What was altered so far.
    pub fn altered(&self, node: &Node) -> BTreeMap<String, String> {
        match self {
            ConfigResource::Topic(topic) => topic.overrides.clone(),
            ConfigResource::ThisBroker => node.settings.dynamic(ConfigScope::Broker(node.config.node_id.0)),
            ConfigResource::AllBrokers => node.settings.dynamic(ConfigScope::Default),
        }
    }

    /// Whether a setting of this name holds a list, to which can be added.
    pub fn is_list(&self, name: &str) -> bool {
        let definition = match self {
            ConfigResource::Topic(_) => topic_config::definition(name),
            ConfigResource::ThisBroker | ConfigResource::AllBrokers => broker_config::definition(name),
        };
        definition.is_some_and(|d| d.value_type == ValueType::List)
    }

    /// The default of a list to which is added.
    pub fn default_of(&self, node: &Node, name: &str) -> String {
        let entries = match self {
            ConfigResource::Topic(_) => node.settings.describe_topic(&BTreeMap::new()),
            ConfigResource::ThisBroker | ConfigResource::AllBrokers => node.settings.describe_broker(),
        };
        entries.into_iter().find(|entry| entry.name == name).and_then(|entry| entry.value).unwrap_or_default()
    }

    /// Whether there may be an altered value of this name, to be reset.
    pub fn check_name(&self, node: &Node, name: &str) -> Result<(), AdminError> {
        let refused = |message: String| Err(AdminError::new(ResponseError::InvalidRequest, message));
        match self {
            ConfigResource::Topic(_) => Ok(()),
            ConfigResource::ThisBroker | ConfigResource::AllBrokers => {
                if node.settings.is_fixed(name) {
                    return refused(format!("Cannot update these configs dynamically: [{name}]"));
                }
                match broker_config::definition(name) {
                    Some(_) => Ok(()),
                    None => refused(broker_config::refusal(name).to_string()),
                }
            }
        }
    }

    /// Checks new values without setting them.
    pub fn check(&self, node: &Node, values: &BTreeMap<String, String>) -> Result<(), AdminError> {
        match self {
            ConfigResource::Topic(topic) => Ok(topic_config::check_changes(values, &topic.overrides)?),
            ConfigResource::ThisBroker | ConfigResource::AllBrokers => {
                let invalid = |message: String| AdminError::new(ResponseError::InvalidRequest, message);
                if let Some(fixed) = values.keys().find(|name| node.settings.is_fixed(name)) {
                    return Err(invalid(format!("Cannot update these configs dynamically: [{fixed}]")));
                }
                broker_config::check_changes(values, &self.altered(node)).map_err(|e| invalid(e.to_string()))
            }
        }
    }

    /// Sets the altered values to exactly these.
    pub async fn replace(
        &self,
        node: &Node,
        admin: &TopicAdmin,
        values: BTreeMap<String, String>,
    ) -> Result<(), AdminError> {
        self.check(node, &values)?;
        let scope = match self {
            ConfigResource::Topic(topic) => return admin.set_configs(node, topic, values).await,
            ConfigResource::ThisBroker => ConfigScope::Broker(node.config.node_id.0),
            ConfigResource::AllBrokers => ConfigScope::Default,
        };
        let current = node.metadata.load_broker_config(scope).await?;
        let record = BrokerConfigRecord { configs: values };
        let expected = current.map(|read| read.mod_revision);
        let swapped = node.metadata.swap_broker_config(scope, expected, &record).await?;
        let revision = swapped.ok_or_else(|| {
            let message = "The broker's settings were changed at the same time.";
            AdminError::new(ResponseError::RequestTimedOut, message)
        })?;
        comes_back(node, || node.settings.revision() >= revision).await;
        Ok(())
    }
}
