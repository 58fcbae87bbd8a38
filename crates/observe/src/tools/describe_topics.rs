//! `describe_topics`: the partitions of some topics, with who serves each and what its log holds.

use rmcp::schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Tool;
use kafscale_core::utc;
use crate::answer::budget::Budget;
use crate::answer::cursor::Scope;
use crate::answer::suggest::did_you_mean;
use crate::answer::{ToolError, names};
use crate::view::metrics::Metrics;
use crate::view::sight::View;
use crate::view::{Topic, Topics};

pub struct DescribeTopics;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub struct Args {
    #[schemars(length(min = 1, max = 20))]
    names: Vec<String>,
    only_unhealthy: Option<bool>,
    cursor: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub struct Answer {
    observed_at: String,
    columns: [&'static str; 6],
    topics: Vec<Described>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
    /// Why figures are null.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Described {
    topic: String,
    partitions: i32,
    rows: Vec<Row>,
}

/// Partition, leader, leader epoch, log start, log end, size.
type Row = (i32, Option<i32>, i32, Option<i64>, Option<i64>, Option<i64>);

/// Where a page ended: the place of the topic among the names, and the next partition.
type Place = (usize, i32);

impl Tool for DescribeTopics {
    const NAME: &'static str = "describe_topics";
    const TITLE: &'static str = "Describe topics";
    const DESCRIPTION: &'static str = "Per partition of 1-20 topics: leader broker, epoch, log start and end offsets, size. \
         only_unhealthy keeps partitions without a live leader or without metrics.";
    type Args = Args;
    type Answer = Answer;

    async fn answer(view: &View, args: Args) -> Result<Answer, ToolError> {
        let only_unhealthy = args.only_unhealthy.unwrap_or(false);
        let scope = Scope::new(Self::NAME, &(&args.names, only_unhealthy));
        let (first_topic, first_partition) = scope.place::<Place>(args.cursor.as_deref())?.unwrap_or_default();
        let (topics, brokers, metrics) = tokio::join!(view.topics(), view.brokers(), view.metrics());
        let (topics, brokers) = (topics?, brokers?);
        let named = resolve(&args.names, &topics.value)?;

        let mut page = Page { budget: Budget::default(), topics: Vec::new(), stopped: None };
        for (index, (name, topic)) in named.iter().enumerate().skip(first_topic) {
            let from = if index == first_topic { first_partition } else { 0 };
            let rows = (from..topic.record.partitions)
                .map(|partition| row(name, topic, partition, &metrics.value))
                .filter(|row| !only_unhealthy || row.4.is_none() || !topic.is_led(row.0, &brokers.value));
            if !page.add(index, name, topic.record.partitions, rows) {
                break;
            }
        }
        Ok(Answer {
            observed_at: utc::seconds(topics.at_ms.min(metrics.at_ms)),
            columns: ["partition", "leader", "epoch", "start", "end", "bytes"],
            topics: page.topics,
            next_cursor: page.stopped.and_then(|place: Place| scope.after(&place)),
            unknown: metrics.value.problem().map(|why| names::text(&why, 300)),
        })
    }
}

/// What a page holds so far.
struct Page {
    budget: Budget,
    topics: Vec<Described>,
    stopped: Option<Place>,
}

impl Page {
    /// Adds a topic. False: the page is full.
    fn add(&mut self, index: usize, name: &str, partitions: i32, rows: impl Iterator<Item = Row>) -> bool {
        let mut described = Described { topic: names::shown(name).into_owned(), partitions, rows: Vec::new() };
        if !self.budget.take(&described) {
            self.stopped = Some((index, 0));
            return false;
        }
        for row in rows {
            if !self.budget.take(&row) {
                self.stopped = Some((index, row.0));
                break;
            }
            described.rows.push(row);
        }
        self.topics.push(described);
        self.stopped.is_none()
    }
}

fn row(name: &str, topic: &Topic, partition: i32, metrics: &Metrics) -> Row {
    let assigned = topic.assigned(partition);
    let owner = assigned.and_then(|a| a.owner);
    let gauges = metrics.partition(name, partition, owner).unwrap_or_default();
    (partition, owner, assigned.map_or(-1, |a| a.leader_epoch), gauges.start, gauges.end, gauges.size_bytes)
}

/// The topics that the names mean, in their order.
pub(super) fn resolve<'a>(
    named: &[String],
    topics: &'a Topics,
) -> Result<Vec<(&'a String, &'a Topic)>, ToolError> {
    let find = |name: &String| {
        names::find(&topics.by_name, name).ok_or_else(|| {
            let hint = did_you_mean(name, topics.by_name.keys().map(String::as_str));
            let name = names::text(name, 100);
            ToolError::invalid(format!("unknown topic {name:?}{hint} (list_topics names all)"))
        })
    };
    named.iter().map(find).collect()
}
