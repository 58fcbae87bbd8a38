//! `cluster_metrics`: the figures that people ask for: throughput, object store, requests, brokers and lag, over all brokers.

use std::sync::Arc;
use std::time::Duration;

use rmcp::schemars::{self, JsonSchema};
use serde::{Deserialize, Serialize};

use super::Tool;
use kafscale_core::utc;
use crate::answer::figure::{Figure, rounded};
use crate::answer::{ToolError, names};
use crate::view::metrics::Metrics;
use crate::view::names as metric;
use crate::view::sight::View;
use crate::view::{Lags, Unavailable};

/// APIs that are listed with their rates, the busiest first.
const MAX_APIS: usize = 8;
const MAX_BROKERS: usize = 30;
const MAX_TEXT_CHARS: usize = 300;

/// The APIs that change topics, configs, groups and records from outside the data path.
const ADMIN_APIS: &[&str] = &[
    "CreateTopics",
    "DeleteTopics",
    "CreatePartitions",
    "DeleteRecords",
    "AlterConfigs",
    "IncrementalAlterConfigs",
    "DescribeConfigs",
    "DeleteGroups",
    "OffsetDelete",
    "DescribeCluster",
    "DescribeGroups",
    "ListGroups",
    "DescribeLogDirs",
    "DescribeProducers",
    "DescribeTopicPartitions",
];

pub struct ClusterMetrics;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub struct Args {
    #[schemars(length(min = 1, max = 5))]
    sections: Option<Vec<Section>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(crate = "rmcp::schemars")]
enum Section {
    Throughput,
    S3,
    Admin,
    Brokers,
    Lag,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub struct Answer {
    observed_at: String,
    /// Each figure: value or null, source, age_ms, reason if null.
    #[serde(skip_serializing_if = "Option::is_none")]
    throughput: Option<Throughput>,
    #[serde(skip_serializing_if = "Option::is_none")]
    s3: Option<S3>,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin: Option<Admin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    brokers: Option<Brokers>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<Lag>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Throughput {
    window_s: Option<f64>,
    messages_in_per_s: Shown,
    messages_out_per_s: Shown,
    bytes_in_per_s: Shown,
    bytes_out_per_s: Shown,
    produce_latency_ms: Shown,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct S3 {
    /// What the figures are of.
    store: Option<String>,
    state: String,
    latency_ms: Shown,
    /// Share of failed operations, 0 to 1.
    error_rate: Shown,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Admin {
    admin_requests_per_s: Shown,
    requests_per_s: Shown,
    errors_per_s: Shown,
    /// API and requests per second, busiest first.
    by_api: Vec<(String, f64)>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Brokers {
    connections: Shown,
    columns: [&'static str; 5],
    rows: Vec<BrokerRow>,
}

/// Broker, address, uptime, messages in per second, problem.
type BrokerRow = (Option<i32>, String, Option<f64>, Option<f64>, Option<String>);

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Lag {
    total: Option<i64>,
    max: Option<i64>,
    worst_group: Option<String>,
    groups_with_unknown_lag: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// A [`Figure`], whose schema would be told eleven times over.
#[derive(Debug, Serialize)]
struct Shown(Figure);

impl JsonSchema for Shown {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Figure".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "object" })
    }
}

impl Tool for ClusterMetrics {
    const NAME: &'static str = "cluster_metrics";
    const TITLE: &'static str = "Cluster metrics";
    const DESCRIPTION: &'static str = "Current figures over all brokers: messages and bytes per second in and out, latency, error rate and \
         state of the store (S3, or which it is), request rates, brokers, lag. sections picks some; all without it.";
    type Args = Args;
    type Answer = Answer;

    async fn answer(view: &View, args: Args) -> Result<Answer, ToolError> {
        let wants = |section| args.sections.as_ref().is_none_or(|sections| sections.contains(&section));
        let metrics = view.metrics_with_rates().await;
        let age_ms = u64::try_from(metrics.at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let read = Reading { metrics: &metrics.value, age_ms };
        let lag = match wants(Section::Lag) {
            true => Some(lag_of(&view.lags().await)),
            false => None,
        };
        Ok(Answer {
            observed_at: utc::seconds(metrics.at_ms),
            throughput: wants(Section::Throughput).then(|| read.throughput()),
            s3: wants(Section::S3).then(|| read.s3()),
            admin: wants(Section::Admin).then(|| read.admin()),
            brokers: wants(Section::Brokers).then(|| read.brokers()),
            lag,
        })
    }
}

/// The metrics that figures are read from.
struct Reading<'a> {
    metrics: &'a Metrics,
    age_ms: u64,
}

impl Reading<'_> {
    fn figure(&self, source: &'static str, value: Result<f64, String>) -> Shown {
        Shown(Figure::new(source, self.age_ms, value))
    }

    fn rate(&self, source: &'static str) -> Shown {
        self.figure(source, self.metrics.rate(source).map(|(rate, _)| rate))
    }

    fn throughput(&self) -> Throughput {
        let window = self.metrics.rate(metric::RECORDS_IN).ok().map(|(_, window)| window);
        Throughput {
            window_s: window.as_ref().map(Duration::as_secs_f64).map(rounded),
            messages_in_per_s: self.rate(metric::RECORDS_IN),
            messages_out_per_s: self.rate(metric::RECORDS_OUT),
            bytes_in_per_s: self.rate(metric::BYTES_IN),
            bytes_out_per_s: self.rate(metric::BYTES_OUT),
            produce_latency_ms: self.figure("kafscale_produce_latency_ms", self.produce_latency()),
        }
    }

    /// The mean over the window.
    fn produce_latency(&self) -> Result<f64, String> {
        let (sum, _) = self.metrics.rate(metric::PRODUCE_LATENCY_SUM_MS)?;
        let (count, _) = self.metrics.rate(metric::PRODUCE_LATENCY_COUNT)?;
        if count > 0.0 { Ok(sum / count) } else { Err("no Produce request within the window".to_owned()) }
    }

    fn s3(&self) -> S3 {
        let operations = [metric::WAL_FLUSHES, metric::STORE_OPERATIONS];
        let latency = self.metrics.mean(metric::S3_LATENCY_MS, &operations);
        let errors = self.metrics.mean(metric::S3_ERROR_RATE, &operations);
        S3 {
            store: self.metrics.store().map(|store| names::text(&store, MAX_TEXT_CHARS)),
            state: self.metrics.object_store().map_or_else(
                |why| {
                    let before = self.metrics.object_store_before.map_or(String::new(), |known| {
                        format!(" (last known: {} at {})", known.state, utc::seconds(known.at_ms))
                    });
                    format!("unknown: {}{before}", names::text(&why, MAX_TEXT_CHARS))
                },
                str::to_owned,
            ),
            latency_ms: self.figure(metric::S3_LATENCY_MS, latency),
            error_rate: self.figure(metric::S3_ERROR_RATE, errors),
        }
    }

    fn admin(&self) -> Admin {
        let by_api = self.metrics.rates_by_label(metric::REQUESTS);
        let admin = by_api.iter().filter(|(api, _)| ADMIN_APIS.contains(&api.as_str())).map(|(_, rate)| rate);
        let admin: f64 = admin.sum();
        let mut busiest: Vec<(String, f64)> = by_api
            .into_iter()
            .filter(|(_, rate)| *rate > 0.0)
            .map(|(api, rate)| (names::text(&api, 50), rounded(rate)))
            .collect();
        busiest.sort_by(|a, b| b.1.total_cmp(&a.1));
        busiest.truncate(MAX_APIS);
        let known = self.metrics.rate(metric::REQUESTS);
        Admin {
            admin_requests_per_s: self.figure(metric::REQUESTS, known.map(|_| admin)),
            requests_per_s: self.rate(metric::REQUESTS),
            errors_per_s: self.rate(metric::REQUEST_ERRORS),
            by_api: busiest,
        }
    }

    fn brokers(&self) -> Brokers {
        let connections = self.metrics.gauges(metric::CONNECTIONS).map(|values| values.iter().sum());
        let row = |broker: &crate::view::metrics::Scraped| -> BrokerRow {
            let address = names::text(&broker.address, 100);
            match &broker.outcome {
                Ok((scrape, rates)) => {
                    let rate = rates.as_ref().and_then(|rates| rates.total(metric::RECORDS_IN)).map(rounded);
                    (broker.node_id, address, scrape.sum(metric::UPTIME_SECONDS).map(f64::round), rate, None)
                }
                Err(why) => {
                    (broker.node_id, address, None, None, Some(names::text(&why.to_string(), MAX_TEXT_CHARS)))
                }
            }
        };
        Brokers {
            connections: self.figure(metric::CONNECTIONS, connections),
            columns: ["broker", "address", "uptime_s", "messages_in_per_s", "problem"],
            rows: self.metrics.brokers.iter().take(MAX_BROKERS).map(row).collect(),
        }
    }
}

fn lag_of(lags: &Result<Arc<Lags>, Unavailable>) -> Lag {
    let mut lag = Lag { total: None, max: None, worst_group: None, groups_with_unknown_lag: None, reason: None };
    let lags = match lags {
        Ok(lags) => lags,
        Err(why) => return Lag { reason: Some(names::text(&why.to_string(), MAX_TEXT_CHARS)), ..lag },
    };
    let mut unknown = 0;
    for (id, summary) in &lags.by_group {
        unknown += usize::from(summary.unknown_partitions > 0);
        if let Some(total) = summary.total {
            lag.total = Some(lag.total.unwrap_or(0).saturating_add(total));
        }
        if summary.max > lag.max {
            lag.max = summary.max;
            lag.worst_group = Some(names::shown(id).into_owned());
        }
    }
    lag.groups_with_unknown_lag = Some(unknown);
    lag.reason = match (lags.metrics.value.problem(), lags.by_group.is_empty()) {
        (Some(why), _) => Some(names::text(&why, MAX_TEXT_CHARS)),
        (None, true) => Some("there are no groups".to_owned()),
        (None, false) => None,
    };
    lag
}
