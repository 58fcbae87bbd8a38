//! `describe_configs`: the configuration that topics have, overrides and defaults, in words where numbers say little.

use std::collections::BTreeMap;

use kafscale_core::utc;
use kafscale_core::topic_config::{DEFINITIONS, Definition};
use rmcp::schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Tool;
use super::describe_topics::resolve;
use crate::answer::budget::Budget;
use crate::answer::suggest::did_you_mean;
use crate::answer::{ToolError, human, names};
use crate::view::sight::View;

/// What most questions are about; shown when no keys are asked for, besides everything that is overridden.
const MAIN_KEYS: &[&str] = &["cleanup.policy", "max.message.bytes", "retention.bytes", "retention.ms", "segment.bytes"];

pub struct DescribeConfigs;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub struct Args {
    #[schemars(length(min = 1, max = 20))]
    topics: Vec<String>,
    #[schemars(length(min = 1, max = 30))]
    keys: Option<Vec<String>>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub struct Answer {
    observed_at: String,
    columns: [&'static str; 4],
    topics: Vec<Described>,
    /// Ask for fewer topics or keys: the rest did not fit.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Described {
    topic: String,
    rows: Vec<Row>,
}

/// Key, value, where it is from, in words.
type Row = (&'static str, String, &'static str, Option<String>);

impl Tool for DescribeConfigs {
    const NAME: &'static str = "describe_configs";
    const TITLE: &'static str = "Describe topic configs";
    const DESCRIPTION: &'static str = "Configs of 1-20 topics: value, source (override or default), meaning. keys: names or \
         dotted prefixes such as retention; without them overrides and the main keys.";
    type Args = Args;
    type Answer = Answer;

    async fn answer(view: &View, args: Args) -> Result<Answer, ToolError> {
        let (topics, defaults) = tokio::join!(view.topics(), view.topic_defaults());
        let (topics, defaults) = (topics?, defaults?);
        let named = resolve(&args.topics, &topics.value)?;
        let keys = args.keys.as_deref().map(definitions).transpose()?;

        let mut budget = Budget::default();
        let (mut described, mut truncated) = (Vec::new(), false);
        for (name, topic) in named {
            let overrides = &topic.record.configs;
            let chosen = DEFINITIONS.iter().filter(|definition| match &keys {
                Some(keys) => keys.contains(&definition.name),
                None => MAIN_KEYS.contains(&definition.name) || overrides.contains_key(definition.name),
            });
            let topic = names::shown(name).into_owned();
            let rows: Vec<Row> = chosen.map(|d| row(d, overrides, &defaults.value)).collect();
            let one = Described { topic, rows };
            if !budget.take(&one) {
                truncated = true;
                break;
            }
            described.push(one);
        }
        Ok(Answer {
            observed_at: utc::seconds(topics.at_ms.min(defaults.at_ms)),
            columns: ["key", "value", "source", "meaning"],
            topics: described,
            truncated,
        })
    }
}

/// The keys that are meant: exact names, or everything below a dotted prefix.
fn definitions(keys: &[String]) -> Result<Vec<&'static str>, ToolError> {
    let mut meant = Vec::new();
    for key in keys {
        let stem = key.trim_end_matches('*').trim_end_matches('.');
        let below = |name: &str| name.strip_prefix(stem).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let before = meant.len();
        meant.extend(DEFINITIONS.iter().map(|d| d.name).filter(|name| !stem.is_empty() && below(name)));
        if meant.len() == before {
            let hint = did_you_mean(key, DEFINITIONS.iter().map(|d| d.name));
            let key = names::text(key, 100);
            return Err(ToolError::invalid(format!("unknown topic config {key:?}{hint} (leave keys out for the main ones)")));
        }
    }
    Ok(meant)
}

fn row(
    definition: &'static Definition,
    overrides: &BTreeMap<String, String>,
    defaults: &BTreeMap<String, String>,
) -> Row {
    let (value, source) = match (overrides.get(definition.name), defaults.get(definition.name)) {
        (Some(value), _) => (value.as_str(), "override"),
        (None, Some(value)) => (value.as_str(), "default"),
        (None, None) => (definition.default, "default"),
    };
    (definition.name, names::text(value, 300), source, meaning(definition.name, value))
}

/// A value in words, where they say more than the number.
fn meaning(name: &str, value: &str) -> Option<String> {
    let number: i64 = value.trim().parse().ok()?;
    let limit = matches!(name, "retention.ms" | "retention.bytes");
    match name.rsplit('.').next()? {
        // -2 stands for what retention.ms and retention.bytes say, and neither has an effect.
        "ms" | "bytes" if name.starts_with("local.") => None,
        "ms" | "bytes" if number == i64::MAX || (limit && number < 0) => Some("no limit".to_owned()),
        "ms" => Some(human::duration_ms(number)),
        "bytes" => Some(human::size_bytes(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_names_or_dotted_prefixes() {
        let meant = |key: &str| definitions(&[key.to_owned()]);
        assert_eq!(meant("retention"), Ok(vec!["retention.bytes", "retention.ms"]));
        assert_eq!(meant("retention.*"), meant("retention"));
        assert_eq!(meant("retention.ms"), Ok(vec!["retention.ms"]));
        let wrong = meant("retention.mss").unwrap_err().to_string();
        assert!(wrong.contains("did you mean \"retention.ms\"?"), "{wrong}");
        assert!(meant("").is_err() && meant("*").is_err());
    }

    #[test]
    fn numbers_are_said_in_words() {
        for (name, value, words) in [
            ("retention.ms", "604800000", Some("7 days")),
            ("retention.ms", "-1", Some("no limit")),
            ("retention.bytes", "-1", Some("no limit")),
            ("segment.bytes", "1073741824", Some("1 GiB")),
            ("flush.ms", "9223372036854775807", Some("no limit")),
            ("cleanup.policy", "delete", None),
            ("min.insync.replicas", "1", None),
        ] {
            assert_eq!(meaning(name, value).as_deref(), words, "{name}={value}");
        }
    }
}
