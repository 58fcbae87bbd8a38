//! `FOLLOW`: the new rows of a topic, until nobody looks on any more.
//!
//! The topic is looked at again and again. What each look finds beyond the last one's ends is read
//! as any snapshot is, by the same plan with another table in it, so that nothing is missed and
//! nothing given twice. Only plans that treat each row by itself can be continued in this way; all
//! others are refused. Rows come in the order of their offsets within a partition.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::execute_stream;
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use futures_util::StreamExt as _;
use kafscale_storage::scan::{Range, Scanner, Snapshot};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::Sender;

use crate::engine::Planning;
use crate::error::SqlError;
use crate::metered;
use crate::running::{BATCHES_AHEAD, Running};
use crate::statement::Follow;
use crate::topic::table::TopicTable;

/// Between two looks, where the first one found nothing: on a disk, and where each look is a request to an object store.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(250);
pub const LOOK_INTERVAL_SHARED: Duration = Duration::from_secs(1);
/// Offsets of a partition that one look reads at most.
const LOOK_RECORDS: i64 = 50_000;

type Batches = Sender<Result<arrow::array::RecordBatch>>;

/// See the file's comment.
pub struct Following {
    planning: Arc<Planning>,
    scanner: Scanner,
    look_interval: Duration,
    plan: LogicalPlan,
    table: TopicTable,
    /// By partition: where the last look began, at first, and ended.
    seen: BTreeMap<i32, Range>,
}

impl Following {
    pub fn new(
        planning: Arc<Planning>,
        (scanner, look_interval): (Scanner, Duration),
        plan: LogicalPlan,
        follow: &Follow,
    ) -> std::result::Result<Following, SqlError> {
        let table = followed(&plan)?;
        let begin = |range: Range| (range.partition, Range { start: range.end, ..range });
        let seen = match &follow.from {
            Some(ranges) => ranges.iter().copied().map(begin).collect(),
            None => table.snapshot().ranges().into_iter().map(begin).collect(),
        };
        Ok(Following { planning, scanner, look_interval, plan, table, seen })
    }

    /// Begins with the rows of another plan, where there is one.
    pub fn start(
        mut self,
        first: Option<LogicalPlan>,
        place: OwnedSemaphorePermit,
    ) -> std::result::Result<Running, SqlError> {
        let schema = Arc::clone(self.plan.schema().inner());
        let query = Arc::clone(&self.planning.query);
        let mut builder = RecordBatchReceiverStream::builder(Arc::clone(&schema), BATCHES_AHEAD);
        let batches = builder.tx();
        builder.spawn(async move {
            if let Some(first) = first
                && !self.give(&first, &batches).await?
            {
                return Ok(());
            }
            self.follow(&batches).await
        });
        // What is executed changes with each look; there is no one plan to show.
        let plan = Arc::new(EmptyExec::new(schema));
        Ok(Running::new(plan, builder.build(), query, Some(place)))
    }

    async fn follow(&mut self, batches: &Batches) -> Result<()> {
        while !batches.is_closed() {
            match self.look().await? {
                Some(snapshot) => {
                    let plan = with_table(&self.plan, self.table.with_snapshot(snapshot))?;
                    if !self.give(&plan, batches).await? {
                        break;
                    }
                }
                None => tokio::time::sleep(self.look_interval).await,
            }
        }
        Ok(())
    }

    /// What is new, if anything is.
    async fn look(&mut self) -> std::result::Result<Option<Snapshot>, SqlError> {
        let topic = self.table.snapshot().topic();
        let now = self.scanner.snapshot(&topic.name).await?;
        if now.topic().id != topic.id {
            return Err(SqlError::BadValue(format!(
                "{} was deleted, and is another topic now: FOLLOW ends here",
                topic.name
            )));
        }
        let mut fresh = Vec::new();
        for whole in now.ranges() {
            let start = self.seen.get(&whole.partition).map_or(whole.start, |seen| seen.end);
            let end = whole.end.min(start.saturating_add(LOOK_RECORDS)).max(start);
            fresh.push(Range { partition: whole.partition, start, end });
        }
        if fresh.iter().all(|range| range.start == range.end) {
            return Ok(None);
        }
        let snapshot = now.as_of(&fresh)?;
        for range in fresh {
            self.seen.entry(range.partition).or_insert(range).end = range.end;
        }
        let seen = self.seen.values().copied().collect();
        self.planning.query.uses(&topic.name, seen, None);
        Ok(Some(snapshot))
    }

    /// `false`: nobody wants more.
    async fn give(&self, plan: &LogicalPlan, batches: &Batches) -> Result<bool> {
        let plan = self.planning.physical(plan).await?;
        let mut rows = execute_stream(metered::metered(plan)?, self.planning.state.task_ctx())?;
        while let Some(batch) = rows.next().await {
            if batches.send(Ok(batch?)).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The one topic of a plan that can be followed, or why it cannot.
fn followed(plan: &LogicalPlan) -> std::result::Result<TopicTable, SqlError> {
    let (mut refused, mut topics) = (None, Vec::new());
    plan.apply_with_subqueries(|node| {
        let why = match node {
            LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => None,
            LogicalPlan::TableScan(scan) => {
                match source_as_provider(&scan.source)?.downcast_ref::<TopicTable>() {
                    Some(table) => {
                        topics.push(table.with_snapshot(table.snapshot().clone()));
                        None
                    }
                    None => Some(format!("{} is no topic", scan.table_name)),
                }
            }
            other => Some(advice(other).to_owned()),
        };
        let found = why.is_some();
        refused = refused.take().or(why);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    let refusal = |why: String| SqlError::Unsupported(format!("this cannot be followed: {why}"));
    match (refused, topics.len()) {
        (Some(why), _) => Err(refusal(why)),
        (None, 1) => Ok(topics.remove(0)),
        (None, count) => Err(refusal(format!("it reads {count} topics, and FOLLOW is for one"))),
    }
}

fn advice(node: &LogicalPlan) -> &'static str {
    match node {
        LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_) | LogicalPlan::Window(_) => {
            "a sum, a group, DISTINCT or a window is never final while rows come; \
             ask for the rows with FOLLOW, or sum up over LAST 1h without it"
        }
        LogicalPlan::Sort(_) => {
            "rows come in the order in which they were written; leave ORDER BY out, or FOLLOW"
        }
        LogicalPlan::Limit(_) => "it has no end before its client cancels it; leave LIMIT out, or FOLLOW",
        LogicalPlan::Join(_) => {
            "a join needs all rows of both sides; follow one topic, or join over LAST 1h without FOLLOW"
        }
        LogicalPlan::Union(_) => "FOLLOW is for one topic; follow each with a statement of its own",
        LogicalPlan::Subquery(_) => "a subquery would be answered once for all rows to come; leave it out",
        _ => "FOLLOW is for one topic, with conditions and columns only",
    }
}

/// The same plan over another table.
fn with_table(plan: &LogicalPlan, table: TopicTable) -> Result<LogicalPlan> {
    let source = provider_as_source(Arc::new(table));
    let replaced = plan.clone().transform_up(|node| {
        Ok(match node {
            LogicalPlan::TableScan(mut scan) => {
                scan.source = Arc::clone(&source);
                Transformed::yes(LogicalPlan::TableScan(scan))
            }
            other => Transformed::no(other),
        })
    })?;
    Ok(replaced.data)
}
