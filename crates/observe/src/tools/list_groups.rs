//! `list_groups`: consumer groups with their lag, the one furthest behind first.

use std::borrow::Cow;

use rmcp::schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Tool;
use kafscale_core::utc;
use crate::answer::budget::Budget;
use crate::answer::cursor::Scope;
use crate::answer::figure::rounded;
use crate::answer::{ToolError, names};
use crate::view::lag::{self, LagSummary};
use crate::view::lag_history::Trend;
use crate::view::sight::View;
use crate::view::{Group, Lags, metrics::Metrics};

pub struct ListGroups;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub struct Args {
    prefix: Option<String>,
    state: Option<State>,
    /// Groups that read this topic.
    topic: Option<String>,
    /// Inclusive: for "above 10,000" give 10001.
    #[schemars(range(min = 0))]
    min_partition_lag: Option<i64>,
    /// Only groups that lag and have committed nothing new for two minutes.
    stuck: Option<bool>,
    sort: Option<Sort>,
    #[schemars(range(min = 1, max = 200))]
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
enum State {
    Stable,
    Empty,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(crate = "rmcp::schemars")]
enum Sort {
    #[default]
    MaxLag,
    TotalLag,
    Name,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub struct Answer {
    observed_at: String,
    columns: [&'static str; 10],
    rows: Vec<Row>,
    /// Groups looked at.
    scanned: usize,
    /// Groups that match, on all pages.
    matched: usize,
    /// False: some lag is unknown, so that more groups may match.
    complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
    /// Why lags are null or the answer is incomplete.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
}

/// Group, state, members, total lag, maximum lag, where that is, partitions of unknown lag, seconds since the last commit, growth of the
/// lag per minute, seconds without progress if it is stuck.
type Row = (
    String,
    &'static str,
    usize,
    Option<i64>,
    Option<i64>,
    Option<String>,
    usize,
    Option<i64>,
    Option<f64>,
    Option<u64>,
);

/// Where a page ended, in the order that was asked for: the lag (unknown is last) and the name.
type Place = (i64, String);

impl Tool for ListGroups {
    const NAME: &'static str = "list_groups";
    const TITLE: &'static str = "List consumer groups";
    const DESCRIPTION: &'static str = "Consumer groups with state, members, total and maximum lag and the worst partition, \
         highest max lag first, 25 per page. One call answers which groups lag by how much, who reads a topic, and, with stuck, \
         which make no progress. Lag null means unknown, not 0.";
    type Args = Args;
    type Answer = Answer;

    async fn answer(view: &View, args: Args) -> Result<Answer, ToolError> {
        let sort = args.sort.unwrap_or_default();
        let stuck = args.stuck.unwrap_or(false);
        let wanted = (&args.prefix, args.state.map(State::name), &args.topic, args.min_partition_lag, stuck, sort);
        let scope = Scope::new(Self::NAME, &wanted);
        let after: Option<Place> = scope.place(args.cursor.as_deref())?;
        let lags = view.lags().await?;
        let (groups, topics, metrics) = (&lags.groups, &lags.topics, &lags.metrics);
        if let Some(topic) = &args.topic {
            super::describe_topics::resolve(std::slice::from_ref(topic), &topics.value)?;
        }
        let mut found = matching(&args, &lags);
        if stuck {
            found.listed.retain(|(id, ..)| {
                let trend = lags.by_group.get(*id).and_then(|lag| view.trend(id, lag));
                trend.is_some_and(|trend| trend.stuck.is_some())
            });
        }
        let matched = found.listed.len();
        found.listed.sort_by_cached_key(|(id, _, lag)| order(sort, id, lag));
        let first = found.listed.partition_point(|(id, _, lag)| {
            after.as_ref().is_some_and(|(lag_then, id_then)| order(sort, id, lag) <= (*lag_then, id_then.clone()))
        });

        let (mut budget, mut rows, mut last) = (Budget::default(), Vec::new(), None);
        let mut rest = found.listed[first..].iter().peekable();
        while let Some((id, group, lag)) = rest.peek() {
            let trend = lags.by_group.get(*id).and_then(|lag| view.trend(id, lag));
            let row = row(id, group, lag, trend, view.now_ms());
            if rows.len() == args.limit.unwrap_or(25) || !budget.take(&row) {
                break;
            }
            rows.push(row);
            last = rest.next().map(|(id, _, lag)| order(sort, id, lag));
        }
        let next_cursor = rest.peek().and(last).and_then(|last| scope.after(&last));
        let undecided = found.undecided;
        let never = found.listed.iter().filter(|(_, _, lag)| lag.last_commit_ms.is_none()).count();
        Ok(Answer {
            observed_at: utc::seconds(groups.at_ms.min(topics.at_ms).min(metrics.at_ms)),
            columns: [
                "group",
                "state",
                "members",
                "total_lag",
                "max_lag",
                "worst_partition",
                "unknown_partitions",
                "since_commit_s",
                "lag_per_min",
                "stuck_s",
            ],
            rows,
            scanned: groups.value.by_id.len(),
            matched,
            complete: undecided == 0,
            next_cursor,
            unknown: unknown(undecided, never, &metrics.value),
        })
    }
}

type Listed<'a> = (&'a String, &'a Group, Cow<'a, LagSummary>);

struct Found<'a> {
    listed: Vec<Listed<'a>>,
    /// Groups of which it is not known whether they match.
    undecided: usize,
}

fn matching<'a>(args: &Args, lags: &'a Lags) -> Found<'a> {
    let mut found = Found { listed: Vec::new(), undecided: 0 };
    let prefix = args.prefix.as_deref().unwrap_or_default();
    for (id, group) in &lags.groups.value.by_id {
        let named = id.starts_with(prefix) || names::shown(id).starts_with(prefix);
        if !named || args.state.is_some_and(|state| state.name() != lag::state(group)) {
            continue;
        }
        let summary = match &args.topic {
            Some(topic) => on_topic(topic, group, lags).map(Cow::Owned),
            None => lags.by_group.get(id).map(Cow::Borrowed),
        };
        let Some(summary) = summary else { continue };
        if let Some(min) = args.min_partition_lag
            && summary.max.is_none_or(|max| max < min)
        {
            found.undecided += usize::from(summary.undecided);
            continue;
        }
        found.listed.push((id, group, summary));
    }
    if args.min_partition_lag.is_none() && lags.metrics.value.problem().is_some() {
        found.undecided = found.listed.iter().filter(|(_, _, lag)| lag.unknown_partitions > 0).count();
    }
    found
}

/// The lag of a group on one topic; None if it does not read it.
fn on_topic(topic: &str, group: &Group, lags: &Lags) -> Option<LagSummary> {
    let reads = |name: &String| names::means(topic, name);
    if !group.offsets.keys().chain(group.readers.keys()).any(reads) {
        return None;
    }
    let mut partitions = lag::partitions(group, &lags.topics.value, &lags.metrics.value);
    partitions.retain(|p| names::means(topic, p.topic));
    (!partitions.is_empty()).then(|| lag::summary(&partitions))
}

/// Sorts descending by lag with what is unknown last, then by name.
fn order(sort: Sort, id: &str, lag: &LagSummary) -> Place {
    let by = match sort {
        Sort::MaxLag => lag.max,
        Sort::TotalLag => lag.total,
        Sort::Name => Some(0),
    };
    (by.map_or(i64::MAX, |lag| -lag), id.to_owned())
}

fn row(id: &str, group: &Group, lag: &LagSummary, trend: Option<Trend>, now_ms: i64) -> Row {
    let worst = lag.worst.as_ref().map(|(topic, partition)| format!("{}-{partition}", names::shown(topic)));
    (
        names::shown(id).into_owned(),
        lag::state(group),
        lag::members(group).len(),
        lag.total,
        lag.max,
        worst,
        lag.unknown_partitions,
        lag.last_commit_ms.map(|then| (now_ms - then).max(0) / 1000),
        trend.map(|trend| rounded(trend.lag_per_minute)),
        trend.and_then(|trend| trend.stuck).map(|stuck| stuck.as_secs()),
    )
}

fn unknown(undecided: usize, never: usize, metrics: &Metrics) -> Option<String> {
    let problem = metrics.problem().map(|why| names::text(&why, 300));
    match undecided {
        0 if problem.is_none() && never > 0 => {
            Some(format!("{never} groups have committed no offset: their lag is unknown until they do"))
        }
        0 => problem,
        n => {
            let why = problem.unwrap_or_else(|| "some partitions are not in any broker's metrics".to_owned());
            Some(format!("{n} groups have partitions of unknown lag: {why}"))
        }
    }
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Stable => "Stable",
            Self::Empty => "Empty",
        }
    }
}
