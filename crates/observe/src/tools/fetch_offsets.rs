//! `fetch_offsets`: what a consumer group committed, as the metadata store has it. No metrics are needed for it.

use rmcp::schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Tool;
use kafscale_core::utc;
use crate::answer::budget::Budget;
use crate::answer::cursor::Scope;
use crate::answer::{ToolError, names};
use crate::view::lag::is_of;
use crate::view::sight::View;
use crate::view::{Group, Topic};

/// Rows of a page.
const PAGE: usize = 100;
const MAX_METADATA_CHARS: usize = 100;

pub struct FetchOffsets;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub struct Args {
    group_id: String,
    #[schemars(length(min = 1, max = 20))]
    topics: Option<Vec<String>>,
    cursor: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub struct Answer {
    observed_at: String,
    group: String,
    columns: [&'static str; 5],
    rows: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Topic, partition, committed offset, the client's note, commit time.
type Row = (String, i32, Option<i64>, Option<String>, Option<String>);

type Place = (String, i32);

impl Tool for FetchOffsets {
    const NAME: &'static str = "fetch_offsets";
    const TITLE: &'static str = "Fetch committed offsets";
    const DESCRIPTION: &'static str = "Committed offsets of a consumer group with the client's metadata and commit time; null \
         where it never committed. For lag use describe_group. Without topics: those with a commit.";
    type Args = Args;
    type Answer = Answer;

    async fn answer(view: &View, args: Args) -> Result<Answer, ToolError> {
        let scope = Scope::new(Self::NAME, &(&args.group_id, &args.topics));
        let after: Option<Place> = scope.place(args.cursor.as_deref())?;
        let (groups, topics) = tokio::join!(view.groups(), view.topics());
        let (groups, topics) = (groups?, topics?);
        let (id, group) = super::describe_group::find_group(&args.group_id, &groups.value)?;
        let mut named = match &args.topics {
            Some(named) => super::describe_topics::resolve(named, &topics.value)?,
            None => group.offsets.keys().filter_map(|name| topics.value.by_name.get_key_value(name)).collect(),
        };
        named.sort_by_key(|(name, _)| *name);
        named.dedup_by_key(|(name, _)| *name);

        let (mut budget, mut rows, mut last) = (Budget::default(), Vec::new(), None);
        let mut rest = named
            .into_iter()
            .flat_map(|(name, topic)| (0..topic.record.partitions).map(move |p| (name, topic, p)))
            .filter(|(name, _, p)| after.as_ref().is_none_or(|(t, n)| (*name, p) > (t, n)))
            .peekable();
        while let Some((name, topic, partition)) = rest.peek() {
            let row = row(group, name, topic, *partition);
            if rows.len() == PAGE || !budget.take(&row) {
                break;
            }
            rows.push(row);
            last = rest.next().map(|(name, _, partition)| (name.clone(), partition));
        }
        let next_cursor = rest.peek().and(last).and_then(|last| scope.after(&last));
        Ok(Answer {
            observed_at: utc::seconds(groups.at_ms),
            group: names::shown(id).into_owned(),
            columns: ["topic", "partition", "committed", "metadata", "committed_at"],
            rows,
            next_cursor,
        })
    }
}

fn row(group: &Group, name: &str, topic: &Topic, partition: i32) -> Row {
    let committed = group.offsets.get(name).and_then(|o| o.get(&partition)).filter(|o| is_of(o, topic));
    let note = committed.map(|c| c.metadata.as_str()).filter(|note| !note.is_empty());
    (
        names::shown(name).into_owned(),
        partition,
        committed.map(|c| c.offset),
        note.map(|note| names::text(note, MAX_METADATA_CHARS)),
        committed.map(|c| utc::seconds(c.commit_time_ms)),
    )
}
