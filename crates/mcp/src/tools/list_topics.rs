//! `list_topics`: which topics there are, with their partition counts and how fast they grow.

use std::ops::Bound;

use rmcp::schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Tool;
use kafscale_core::utc;
use crate::answer::budget::Budget;
use crate::answer::cursor::Scope;
use crate::answer::figure::rounded;
use crate::answer::{ToolError, names};
use crate::view::{ClusterView, names as metric};

pub struct ListTopics;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub struct Args {
    prefix: Option<String>,
    #[schemars(range(min = 1, max = 500))]
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub struct Answer {
    observed_at: String,
    columns: [&'static str; 3],
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

type Row = (String, i32, Option<f64>);

impl Tool for ListTopics {
    const NAME: &'static str = "list_topics";
    const TITLE: &'static str = "List topics";
    const DESCRIPTION: &'static str = "All topics by name with partition count and produce rate (messages/s), 50 per page \
         unless limit says otherwise.";
    type Args = Args;
    type Answer = Answer;

    async fn answer(view: &ClusterView, args: Args) -> Result<Answer, ToolError> {
        let prefix = args.prefix.unwrap_or_default();
        let scope = Scope::new(Self::NAME, &prefix);
        let after: Option<String> = scope.place(args.cursor.as_deref())?;
        let (topics, metrics) = tokio::join!(view.topics(), view.metrics_with_rates());
        let topics = topics?;
        let rate = metrics.value.rate(metric::RECORDS_IN);

        let matching = |name: &str| name.starts_with(&prefix) || names::shown(name).starts_with(&prefix);
        let matched = topics.value.by_name.keys().filter(|name| matching(name)).count();
        let start = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let rest = topics.value.by_name.range::<String, _>((start, Bound::Unbounded));
        let mut rest = rest.filter(|(name, _)| matching(name)).peekable();

        let (mut budget, mut rows, mut last) = (Budget::default(), Vec::new(), None);
        while let Some((name, topic)) = rest.peek() {
            let per_second = metrics.value.rate_of(metric::RECORDS_IN, name).ok().map(|(rate, _)| rounded(rate));
            let row: Row = (names::shown(name).into_owned(), topic.record.partitions, per_second);
            if rows.len() == args.limit.unwrap_or(50) || !budget.take(&row) {
                break;
            }
            rows.push(row);
            last = rest.next().map(|(name, _)| name);
        }
        let next_cursor = rest.peek().and(last).and_then(|last| scope.after(last));
        Ok(Answer {
            observed_at: utc::seconds(topics.at_ms.min(metrics.at_ms)),
            columns: ["topic", "partitions", "messages_per_s"],
            rows,
            matched,
            next_cursor,
            rate_window_s: rate.as_ref().ok().map(|(_, window)| rounded(window.as_secs_f64())),
            rate_unknown: rate.err().map(|why| names::text(&why, 300)),
        })
    }
}
