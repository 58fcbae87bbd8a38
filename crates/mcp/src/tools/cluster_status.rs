//! `cluster_status`: is the cluster well, and if not, where to look next.

use std::sync::Arc;

use rmcp::schemars::JsonSchema;
use serde::Serialize;

use super::Tool;
use kafscale_core::utc;
use crate::answer::{ToolError, names};
use crate::view::cached::Seen;
use crate::view::metrics::Metrics;
use crate::view::{Answer as Viewed, Brokers, ClusterView, Topics};

/// Brokers that are listed; the rest is counted.
const MAX_BROKERS: usize = 30;
/// A partition this far behind is worth a warning.
const NOTABLE_LAG: i64 = 10_000;
const MAX_TEXT_CHARS: usize = 200;

pub struct ClusterStatus;

#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub struct Args {}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub struct Answer {
    observed_at: String,
    /// One line.
    health: String,
    cluster_id: Option<String>,
    /// Null: unknown.
    counts: Counts,
    brokers: Vec<Broker>,
    object_store: Component,
    metadata_store: Component,
    warnings: Vec<Warning>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Counts {
    brokers: Option<usize>,
    topics: Option<usize>,
    partitions: Option<i64>,
    groups: Option<usize>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Broker {
    id: Option<i32>,
    address: String,
    controller: bool,
    version: Option<String>,
    up_since: Option<String>,
    /// ok, or why its metrics cannot be read.
    metrics: String,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Component {
    /// healthy, degraded, unavailable or unknown.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Warning {
    problem: String,
    /// What to look at.
    next: String,
}

impl Tool for ClusterStatus {
    const NAME: &'static str = "cluster_status";
    const TITLE: &'static str = "Cluster status";
    const DESCRIPTION: &'static str = "Start here. One-line health, counts of brokers, topics, partitions and groups, state of \
         brokers, object store and metadata store, and warnings with what to look at next.";
    type Args = Args;
    type Answer = Answer;

    async fn answer(view: &ClusterView, _: Args) -> Result<Answer, ToolError> {
        let (brokers, topics, groups, metrics, lags) =
            tokio::join!(view.brokers(), view.topics(), view.groups(), view.metrics(), view.lags());
        let mut warnings = Vec::new();
        let metadata_store = metadata_store(&brokers, &mut warnings);
        let object_store = object_store(&metrics.value, &mut warnings);
        broker_warnings(&metrics.value, &mut warnings);
        if let (Ok(brokers), Ok(topics)) = (&brokers, &topics) {
            leader_warnings(&brokers.value, &topics.value, &mut warnings);
        }
        if let Ok(lags) = &lags {
            let lagging = lags.by_group.iter().filter(|(_, lag)| lag.max > Some(NOTABLE_LAG));
            lag_warning(lagging.map(|(id, _)| id.as_str()), &mut warnings);
        }
        let counts = Counts {
            brokers: brokers.as_ref().ok().map(|b| b.value.by_id.len()),
            topics: topics.as_ref().ok().map(|t| t.value.by_name.len()),
            partitions: topics.as_ref().ok().map(|t| t.value.partitions),
            groups: groups.as_ref().ok().map(|g| g.value.by_id.len()),
        };
        Ok(Answer {
            observed_at: utc::seconds(brokers.as_ref().map_or(metrics.at_ms, |b| b.at_ms.min(metrics.at_ms))),
            health: health(&counts, &warnings),
            cluster_id: brokers.as_ref().ok().and_then(|b| b.value.cluster.as_ref()).map(|c| text(&c.cluster_id)),
            counts,
            brokers: listed(&brokers, &metrics.value),
            object_store,
            metadata_store,
            warnings,
        })
    }
}

fn text(value: &str) -> String {
    names::text(value, MAX_TEXT_CHARS)
}

fn health(counts: &Counts, warnings: &[Warning]) -> String {
    let count = |n: Option<i64>, what: &str| match n {
        Some(n) => format!("{n} {what}"),
        None => format!("unknown {what}"),
    };
    let size = |n: Option<usize>| n.and_then(|n| i64::try_from(n).ok());
    let of = format!(
        "{}, {}, {}, {}",
        count(size(counts.brokers), "brokers"),
        count(size(counts.topics), "topics"),
        count(counts.partitions, "partitions"),
        count(size(counts.groups), "groups")
    );
    match warnings {
        [] => format!("healthy: {of}"),
        [one] => format!("needs attention: {} ({of})", one.problem),
        [one, rest @ ..] => format!("needs attention: {} and {} more warnings ({of})", one.problem, rest.len()),
    }
}

/// Every answer of `brokers` was read from the store itself, at most a second ago.
fn metadata_store(brokers: &Viewed<Brokers>, warnings: &mut Vec<Warning>) -> Component {
    match brokers {
        Ok(brokers) => {
            let detail = format!("read in {:.1} ms", brokers.value.took.as_secs_f64() * 1000.0);
            Component { state: "healthy", detail: Some(detail) }
        }
        Err(why) => {
            let next = "the metadata store and the network to it; topics and groups are unknown until it answers";
            warnings.push(Warning { problem: text(&why.to_string()), next: next.to_owned() });
            Component { state: "unavailable", detail: Some(text(&why.to_string())) }
        }
    }
}

fn object_store(metrics: &Metrics, warnings: &mut Vec<Warning>) -> Component {
    match metrics.object_store() {
        Ok(state) => {
            if state != "healthy" {
                let problem = format!("the object store is {state}");
                warnings.push(Warning { problem, next: "cluster_metrics with sections [\"s3\"]".to_owned() });
            }
            let (asked, told) = (metrics.brokers.len(), metrics.scrapes().count());
            let detail = (told < asked).then(|| format!("as {told} of {asked} brokers see it"));
            Component { state, detail }
        }
        Err(why) => {
            let before = metrics.object_store_before.map_or(String::new(), |known| {
                format!("; last known: {} at {}", known.state, utc::seconds(known.at_ms))
            });
            Component { state: "unknown", detail: Some(text(&why) + &before) }
        }
    }
}

fn broker_warnings(metrics: &Metrics, warnings: &mut Vec<Warning>) {
    if let Some(why) = &metrics.no_brokers {
        let next = "start a broker, or wait until the metadata store answers".to_owned();
        warnings.push(Warning { problem: format!("no broker's metrics can be read: {why}"), next });
        return;
    }
    let failed: Vec<_> = metrics.brokers.iter().filter(|b| b.outcome.is_err()).collect();
    if let Some((broker, Err(why))) = failed.first().map(|b| (b, b.outcome.as_ref())) {
        let more = if failed.len() > 1 { format!(" (and {} more brokers)", failed.len() - 1) } else { String::new() };
        let problem = text(&format!("the metrics of broker {} cannot be read: {why}{more}", broker.address));
        let next = "whether the broker runs; lag and rates of what it serves are unknown".to_owned();
        warnings.push(Warning { problem, next });
    }
}

fn leader_warnings(brokers: &Brokers, topics: &Topics, warnings: &mut Vec<Warning>) {
    let mut without = 0;
    let mut example = None;
    for (name, topic) in &topics.by_name {
        let missing = (0..topic.record.partitions).filter(|p| !topic.is_led(*p, brokers)).count();
        without += missing;
        if missing > 0 && example.is_none() {
            example = Some(name);
        }
    }
    if let Some(topic) = example {
        let topic = names::shown(topic);
        warnings.push(Warning {
            problem: format!("{without} partitions have no live leader"),
            next: format!("describe_topics with names [{topic:?}] and only_unhealthy true"),
        });
    }
}

fn lag_warning<'a>(mut lagging: impl Iterator<Item = &'a str>, warnings: &mut Vec<Warning>) {
    let Some(first) = lagging.next() else { return };
    let more = lagging.count();
    let others = if more > 0 { format!(" and {more} more groups") } else { String::new() };
    warnings.push(Warning {
        problem: format!("group {:?}{others} lag by more than {NOTABLE_LAG} on a partition", names::shown(first)),
        next: format!("list_groups with min_partition_lag {}", NOTABLE_LAG + 1),
    });
}

/// The registered brokers; while the metadata store is down, those whose metrics were asked for.
fn listed(brokers: &Result<Arc<Seen<Brokers>>, crate::view::Unavailable>, metrics: &Metrics) -> Vec<Broker> {
    let scraped = |id: i32| {
        let broker = metrics.brokers.iter().find(|b| b.node_id == Some(id))?;
        Some(broker.outcome.as_ref().map_or_else(|why| text(&why.to_string()), |_| "ok".to_owned()))
    };
    match brokers {
        Ok(brokers) => brokers
            .value
            .by_id
            .iter()
            .take(MAX_BROKERS)
            .map(|(id, broker)| Broker {
                id: Some(*id),
                address: text(&format!("{}:{}", broker.host, broker.port)),
                controller: brokers.value.controller == Some(*id),
                version: Some(text(&broker.version)),
                up_since: Some(utc::seconds(broker.started_ms)),
                metrics: scraped(*id).unwrap_or_else(|| "read from the configured address".to_owned()),
            })
            .collect(),
        Err(_) => metrics
            .brokers
            .iter()
            .take(MAX_BROKERS)
            .map(|broker| Broker {
                id: broker.node_id,
                address: text(&broker.address),
                controller: false,
                version: None,
                up_since: None,
                metrics: broker.outcome.as_ref().map_or_else(|why| text(&why.to_string()), |_| "ok".to_owned()),
            })
            .collect(),
    }
}
