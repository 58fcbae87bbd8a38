//! `recent_changes`: what changed in the cluster lately: topics, configs, brokers, leaders, groups.

use kafscale_core::utc;
use kafscale_meta::records::{HistoryEntry, HistoryKind, HistoryRecord};
use rmcp::schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Tool;
use crate::answer::budget::Budget;
use crate::answer::{ToolError, names};
use crate::view::sight::View;

const MINUTES: u32 = 60;
const ROWS: usize = 50;
const MAX_DETAIL_CHARS: usize = 220;

pub struct RecentChanges;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub struct Args {
    /// 60 without it.
    #[schemars(range(min = 1, max = 1440))]
    minutes: Option<u32>,
    about: Option<About>,
    /// A topic, a group, or "broker 1".
    name: Option<String>,
    #[schemars(range(min = 1, max = 200))]
    limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(crate = "rmcp::schemars")]
enum About {
    Topics,
    Configs,
    Brokers,
    Leaders,
    Groups,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub struct Answer {
    observed_at: String,
    since: String,
    columns: [&'static str; 5],
    rows: Vec<Row>,
    /// Older changes that match and are left out.
    left_out: usize,
    /// Of what is older some may be missing. Null: it is not known since when.
    known_since: Option<String>,
}

/// Time, what, name, how many changes of this kind, detail.
type Row = (String, &'static str, String, u64, String);

impl Tool for RecentChanges {
    const NAME: &'static str = "recent_changes";
    const TITLE: &'static str = "Recent changes";
    const DESCRIPTION: &'static str = "What changed in the last hour (or minutes, up to a day), newest first: topics created and \
         deleted, partitions, configs, brokers started (address, release), stopped, or ended without a planned stop, leaders moved, elections, groups \
         without members or deleted. Not who did it.";
    type Args = Args;
    type Answer = Answer;

    async fn answer(view: &View, args: Args) -> Result<Answer, ToolError> {
        let history = view.history().await?;
        let minutes = i64::from(args.minutes.unwrap_or(MINUTES));
        let since_ms = history.at_ms - minutes * 60_000;
        let matching = |entry: &&HistoryEntry| {
            entry.at_ms >= since_ms
                && args.about.is_none_or(|about| about == about_of(entry.kind))
                && args.name.as_deref().is_none_or(|name| names::means(name, &entry.name))
        };
        let all: Vec<&HistoryEntry> = history.value.entries.iter().rev().filter(matching).collect();
        let mut budget = Budget::default();
        let rows = all.iter().take(args.limit.unwrap_or(ROWS)).map(|entry| row(entry));
        let rows: Vec<Row> = rows.take_while(|row| budget.take(row)).collect();
        Ok(Answer {
            observed_at: utc::seconds(history.at_ms),
            since: utc::seconds(since_ms),
            columns: ["at", "what", "name", "count", "detail"],
            left_out: all.len() - rows.len(),
            rows,
            // What is not seen pushes older changes out.
            known_since: known_since(&history.value).filter(|_| !view.is_confined()).map(utc::seconds),
        })
    }
}

/// From then on every change is there.
fn known_since(history: &HistoryRecord) -> Option<i64> {
    history.left_out_ms.or_else(|| history.entries.first().map(|entry| entry.at_ms))
}

fn row(entry: &HistoryEntry) -> Row {
    let name = names::shown(&entry.name).into_owned();
    let detail = names::text(&entry.detail, MAX_DETAIL_CHARS);
    (utc::seconds(entry.at_ms), what(entry.kind), name, entry.count, detail)
}

fn about_of(kind: HistoryKind) -> About {
    match kind {
        HistoryKind::TopicCreated | HistoryKind::TopicDeleted | HistoryKind::PartitionsAdded => About::Topics,
        HistoryKind::TopicConfig | HistoryKind::BrokerConfig => About::Configs,
        HistoryKind::BrokerStarted
        | HistoryKind::BrokerStopped
        | HistoryKind::BrokerVanished
        | HistoryKind::ControllerElected
        | HistoryKind::Other => About::Brokers,
        HistoryKind::LeadersMoved => About::Leaders,
        HistoryKind::GroupEmptied | HistoryKind::GroupDeleted => About::Groups,
    }
}

fn what(kind: HistoryKind) -> &'static str {
    match kind {
        HistoryKind::TopicCreated => "topic created",
        HistoryKind::TopicDeleted => "topic deleted",
        HistoryKind::PartitionsAdded => "partitions added",
        HistoryKind::TopicConfig => "topic config",
        HistoryKind::BrokerConfig => "broker config",
        HistoryKind::BrokerStarted => "broker started",
        HistoryKind::BrokerStopped => "broker stopped",
        HistoryKind::BrokerVanished => "broker vanished",
        HistoryKind::LeadersMoved => "leaders moved",
        HistoryKind::ControllerElected => "controller elected",
        HistoryKind::GroupEmptied => "group emptied",
        HistoryKind::GroupDeleted => "group deleted",
        HistoryKind::Other => "something that this release does not know",
    }
}
