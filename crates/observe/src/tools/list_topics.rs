//! `list_topics`: which topics there are, with their partition counts and how fast they grow.

use std::cmp::Reverse;

use rmcp::schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Tool;
use kafscale_core::utc;
use crate::answer::budget::Budget;
use crate::answer::cursor::Scope;
use crate::answer::figure::rounded;
use crate::answer::{ToolError, names};
use crate::view::sight::View;
use crate::view::names as metric;

pub struct ListTopics;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub struct Args {
    prefix: Option<String>,
    /// By rate: the fastest first.
    sort: Option<Sort>,
    #[schemars(range(min = 1, max = 500))]
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(crate = "rmcp::schemars")]
enum Sort {
    #[default]
    Name,
    MessagesPerS,
    BytesPerS,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub struct Answer {
    observed_at: String,
    columns: [&'static str; 4],
    rows: Vec<Row>,
    /// Topics that match, on all pages.
    matched: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_window_s: Option<f64>,
    /// Why rates are null.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_unknown: Option<String>,
}

/// Topic, partitions, messages and bytes produced per second.
type Row = (String, i32, Option<f64>, Option<f64>);

/// Where a page ended, in the order that was asked for: the rate in thousandths, and the name.
type Place = (Reverse<u64>, String);

impl Tool for ListTopics {
    const NAME: &'static str = "list_topics";
    const TITLE: &'static str = "List topics";
    const DESCRIPTION: &'static str = "All topics by name with partition count and produce rates (messages/s, bytes/s), 50 per page \
         unless limit says otherwise. sort by a rate answers which grows fastest.";
    type Args = Args;
    type Answer = Answer;

    async fn answer(view: &View, args: Args) -> Result<Answer, ToolError> {
        let prefix = args.prefix.unwrap_or_default();
        let sort = args.sort.unwrap_or_default();
        let scope = Scope::new(Self::NAME, &(&prefix, sort));
        let after: Option<Place> = scope.place(args.cursor.as_deref())?;
        let (topics, metrics) = tokio::join!(view.topics(), view.metrics_with_rates());
        let topics = topics?;
        let rate = metrics.value.rate(metric::RECORDS_IN);

        let matching = |name: &str| name.starts_with(&prefix) || names::shown(name).starts_with(&prefix);
        let of = |metric, name: &str| metrics.value.rate_of(metric, name).ok().map(|(rate, _)| rounded(rate));
        let place = |name: &String| -> Place {
            let rate = match sort {
                Sort::Name => None,
                Sort::MessagesPerS => of(metric::RECORDS_IN, name),
                Sort::BytesPerS => of(metric::BYTES_IN, name),
            };
            (Reverse(rate.map_or(0, |rate| (rate * 1000.0) as u64)), name.clone())
        };
        let mut places: Vec<Place> = topics.value.by_name.keys().filter(|name| matching(name)).map(place).collect();
        places.sort_unstable();
        let (matched, first) = (places.len(), places.partition_point(|place| after.as_ref() >= Some(place)));

        let (mut budget, mut rows, mut last) = (Budget::default(), Vec::new(), None);
        let mut rest = places[first..].iter().peekable();
        while let Some((_, name)) = rest.peek() {
            let partitions = topics.value.by_name.get(name).map_or(0, |topic| topic.record.partitions);
            let (messages, bytes) = (of(metric::RECORDS_IN, name), of(metric::BYTES_IN, name));
            let row: Row = (names::shown(name).into_owned(), partitions, messages, bytes);
            if rows.len() == args.limit.unwrap_or(50) || !budget.take(&row) {
                break;
            }
            rows.push(row);
            last = rest.next();
        }
        let next_cursor = rest.peek().and(last).and_then(|last| scope.after(last));
        Ok(Answer {
            observed_at: utc::seconds(topics.at_ms.min(metrics.at_ms)),
            columns: ["topic", "partitions", "messages_per_s", "bytes_per_s"],
            rows,
            matched,
            next_cursor,
            rate_window_s: rate.as_ref().ok().map(|(_, window)| rounded(window.as_secs_f64())),
            rate_unknown: rate.err().map(|why| names::text(&why, 300)),
        })
    }
}
