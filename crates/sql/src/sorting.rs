//! Sorts of more than fits into memory.
//!
//! The engine writes sorted runs to disk and merges as many of them at a time as have room in memory with two batches
//! each, twice what the largest of their batches takes. Its batches are counted in rows, 8,192 of them, so that with rows
//! of a kilobyte no two runs have room in what a sort of some ten megabytes gets. So plans with a sort have batches of as
//! many rows as leave room for many runs.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::execution::{SessionState, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort::SortExec;

use crate::topic::exec::TopicExec;

/// Batches of so many runs are to have room, of all sorts of a query that work at the same time.
const RUNS: u64 = 64;
const ROWS_MIN: u64 = 64;
/// As stored. In memory they may take more: they are decompressed, and have columns of their own.
const UNKNOWN_ROW_BYTES: u64 = 1 << 10;
const IN_MEMORY: u64 = 2;
/// The engine's own, where memory is not a limit.
const RESERVED_MAX: u64 = 10 << 20;

/// What a plan is executed with.
pub fn task_context(state: &SessionState, plan: &Arc<dyn ExecutionPlan>) -> Arc<TaskContext> {
    let context = state.task_ctx();
    let MemoryLimit::Finite(memory) = context.memory_pool().memory_limit() else { return context };
    let Some(row_bytes) = sorted_row_bytes(plan) else { return context };
    let mut config = context.session_config().clone();
    let share = memory as u64 / config.target_partitions().max(1) as u64;
    let options = config.options_mut();
    let rows = (share / RUNS / row_bytes).clamp(ROWS_MIN, options.execution.batch_size as u64);
    options.execution.batch_size = usize::try_from(rows).unwrap_or(usize::MAX);
    // What a sort keeps back for merging what it has in memory.
    let reserved = (share / 8).min(RESERVED_MAX);
    options.execution.sort_spill_reservation_bytes = usize::try_from(reserved).unwrap_or(usize::MAX);
    Arc::new(TaskContext::from(state).with_session_config(config))
}

/// What a row of the largest topic takes, of a plan that sorts without a limit.
fn sorted_row_bytes(plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
    let (mut sorts, mut row_bytes) = (false, 1);
    let looked = plan.apply(|step| {
        sorts |= step.downcast_ref::<SortExec>().is_some_and(|sort| sort.fetch().is_none());
        if let Some(topic) = step.downcast_ref::<TopicExec>() {
            let stored = match topic.totals().records {
                Some(records) => topic.totals().bytes / records.max(1),
                None => UNKNOWN_ROW_BYTES,
            };
            row_bytes = row_bytes.max(stored * IN_MEMORY);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    (looked.is_ok() && sorts).then_some(row_bytes)
}
