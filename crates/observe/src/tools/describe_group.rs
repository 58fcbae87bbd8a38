//! `describe_group`: one consumer group, its members and its lag by partition.

use rmcp::schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Tool;
use kafscale_core::utc;
use crate::answer::budget::Budget;
use crate::answer::cursor::Scope;
use crate::answer::suggest::did_you_mean;
use crate::answer::figure::rounded;
use crate::answer::{ToolError, names};
use crate::view::lag::{self, PartitionLag};
use crate::view::lag_history::Trend;
use crate::view::sight::View;
use crate::view::{Group, Groups, Topics};

/// Members that are listed; the rest is counted.
const MAX_MEMBERS: usize = 20;
const MAX_TEXT_CHARS: usize = 100;

pub struct DescribeGroup;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub struct Args {
    group_id: String,
    #[schemars(length(min = 1, max = 20))]
    topics: Option<Vec<String>>,
    #[schemars(range(min = 0))]
    min_lag: Option<i64>,
    #[schemars(range(min = 1, max = 500))]
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub struct Answer {
    observed_at: String,
    group: String,
    state: &'static str,
    protocol: Option<String>,
    generation: Option<i32>,
    /// Over partitions of known lag.
    total_lag: Option<i64>,
    max_lag: Option<i64>,
    unknown_partitions: usize,
    /// Deleted before the group read them; not part of the lag.
    #[serde(skip_serializing_if = "Option::is_none")]
    missed_records: Option<i64>,
    /// Partitions whose log ends before the committed offset: records were lost, or an older log was restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    committed_beyond_end: Option<usize>,
    last_commit: Option<String>,
    /// Once it was seen for a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    trend: Option<TrendShown>,
    member_count: usize,
    members: Vec<Member>,
    columns: [&'static str; 7],
    rows: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
    /// Why lags are null.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Member {
    member: usize,
    client_id: String,
    host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_id: Option<String>,
}

/// Topic, partition, committed, end, lag, member, missed.
type Row = (String, i32, Option<i64>, Option<i64>, Option<i64>, Option<usize>, i64);

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct TrendShown {
    over_s: u64,
    lag_per_min: f64,
    /// Lags and commits nothing new for so long.
    stuck_s: Option<u64>,
}

impl From<Trend> for TrendShown {
    fn from(trend: Trend) -> Self {
        Self {
            over_s: trend.window.as_secs(),
            lag_per_min: rounded(trend.lag_per_minute),
            stuck_s: trend.stuck.map(|stuck| stuck.as_secs()),
        }
    }
}

type Place = (String, i32);

impl Tool for DescribeGroup {
    const NAME: &'static str = "describe_group";
    const TITLE: &'static str = "Describe a consumer group";
    const DESCRIPTION: &'static str = "Lag of one consumer group: totals, trend, last commit, whether it is stuck, members and, per \
         partition, committed offset, log end, lag, member and missed records. Works for groups without members too. Lag null \
         means unknown, not 0.";
    type Args = Args;
    type Answer = Answer;

    async fn answer(view: &View, args: Args) -> Result<Answer, ToolError> {
        let scope = Scope::new(Self::NAME, &(&args.group_id, &args.topics, args.min_lag));
        let after: Option<Place> = scope.place(args.cursor.as_deref())?;
        let (groups, topics, metrics) = view.commits_then_ends().await?;
        let (id, group) = find_group(&args.group_id, &groups.value)?;
        let mut partitions = lag::partitions(group, &topics.value, &metrics.value);
        keep_topics(args.topics.as_deref(), &mut partitions, &topics.value)?;
        let summary = lag::summary(&partitions);
        let unknown = why_unknown(group, &partitions, metrics.value.problem());

        let mut budget = Budget::default();
        let members = listed_members(group, &mut budget);
        partitions.retain(|p| args.min_lag.is_none_or(|min| p.lag().is_none_or(|lag| lag >= min)));
        let (mut rows, mut last) = (Vec::new(), None);
        let mut rest = partitions
            .iter()
            .filter(|p| after.as_ref().is_none_or(|(t, n)| (p.topic, p.partition) > (t.as_str(), *n)))
            .peekable();
        while let Some(partition) = rest.peek() {
            let row = row(partition);
            if rows.len() == args.limit.unwrap_or(50) || !budget.take(&row) {
                break;
            }
            rows.push(row);
            last = rest.next().map(|p| (p.topic.to_owned(), p.partition));
        }
        let next_cursor = rest.peek().and(last).and_then(|last| scope.after(&last));
        Ok(Answer {
            observed_at: utc::seconds(groups.at_ms.min(metrics.at_ms)),
            group: names::shown(id).into_owned(),
            state: lag::state(group),
            protocol: protocol(group),
            generation: group.record.as_ref().map(|record| record.generation),
            total_lag: summary.total,
            max_lag: summary.max,
            unknown_partitions: summary.unknown_partitions,
            missed_records: (summary.missed > 0).then_some(summary.missed),
            committed_beyond_end: (summary.beyond_end > 0).then_some(summary.beyond_end),
            last_commit: summary.last_commit_ms.map(utc::seconds),
            trend: view.trend(id, &lag::of_group(group, &topics.value, &metrics.value)).map(Into::into),
            member_count: lag::members(group).len(),
            members,
            columns: ["topic", "partition", "committed", "end", "lag", "member", "missed"],
            rows,
            next_cursor,
            unknown,
        })
    }
}

fn row(partition: &PartitionLag<'_>) -> Row {
    let topic = names::shown(partition.topic).into_owned();
    let committed = partition.committed.map(|committed| committed.offset);
    let (lag, missed) = (partition.lag(), partition.missed());
    (topic, partition.partition, committed, partition.end, lag, partition.member, missed)
}

/// The group that an argument means.
pub(super) fn find_group<'a>(id: &str, groups: &'a Groups) -> Result<(&'a String, &'a Group), ToolError> {
    names::find(&groups.by_id, id).ok_or_else(|| {
        let hint = did_you_mean(id, groups.by_id.keys().map(String::as_str));
        let id = names::text(id, MAX_TEXT_CHARS);
        ToolError::invalid(format!("unknown group {id:?}{hint} (list_groups names all)"))
    })
}

/// Leaves the partitions of some topics. A topic must exist, so that a misspelt one is not taken for one without lag.
fn keep_topics(
    wanted: Option<&[String]>,
    partitions: &mut Vec<PartitionLag<'_>>,
    topics: &Topics,
) -> Result<(), ToolError> {
    let Some(wanted) = wanted else { return Ok(()) };
    let named = super::describe_topics::resolve(wanted, topics)?;
    partitions.retain(|p| named.iter().any(|(name, _)| *name == p.topic));
    Ok(())
}

fn listed_members(group: &Group, budget: &mut Budget) -> Vec<Member> {
    let listed = lag::members(group).iter().enumerate().take(MAX_MEMBERS).map(|(member, m)| Member {
        member,
        client_id: names::text(&m.client_id, MAX_TEXT_CHARS),
        host: names::text(&m.client_host, MAX_TEXT_CHARS),
        instance_id: m.instance_id.as_deref().map(|id| names::text(id, MAX_TEXT_CHARS)),
    });
    listed.take_while(|member| budget.take(member)).collect()
}

fn protocol(group: &Group) -> Option<String> {
    let record = group.record.as_ref()?;
    let name = record.protocol_name.as_deref().unwrap_or(&record.protocol_type);
    (!name.is_empty()).then(|| names::text(name, MAX_TEXT_CHARS))
}

/// The reason beside figures that are null, if any are.
fn why_unknown(group: &Group, partitions: &[PartitionLag<'_>], problem: Option<String>) -> Option<String> {
    let never = partitions.iter().filter(|p| p.committed.is_none()).count();
    let without_end = partitions.iter().any(|p| p.committed.is_some() && p.end.is_none());
    let starts = "where its consumers begin is their own setting (auto.offset.reset)";
    if without_end && let Some(why) = problem {
        return Some(names::text(&why, 300));
    }
    match (partitions.is_empty(), group.offsets.is_empty()) {
        (true, true) => Some(format!("the group has committed no offset yet, and no partition is assigned: {starts}")),
        (true, false) => Some("the group's offsets are of topics that are gone or were not asked for".to_owned()),
        (false, true) => Some(format!("the group has committed no offset yet: {starts}")),
        (false, false) if never > 0 => {
            Some(format!("{never} assigned partitions have no committed offset yet: {starts}"))
        }
        (false, false) => without_end.then(|| "some partitions are not in any broker's metrics".to_owned()),
    }
}
