//! Sorts of more than fits into memory.
//!
//! The engine writes sorted runs to disk and merges as many of them at a time as have room in memory with two batches
//! each, twice what the largest of their batches takes. Its batches are counted in rows, 8,192 of them, so that with rows
//! of a kilobyte no two runs have room in what a sort of some ten megabytes gets. So plans with a sort have batches of as
//! many rows as leave room for many runs.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, RecordBatch, RecordBatchOptions};
use datafusion::common::config::ConfigNonZeroUsize;
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

/// Batches are to have no more rows, and memory of their own: a sort counts all that a batch keeps in memory, for each
/// part of it that it makes.
#[derive(Debug)]
pub struct SmallBatches {
    pub rows: usize,
}

impl SmallBatches {
    /// The parts of a batch.
    pub fn parts(&self, batch: &RecordBatch) -> Vec<RecordBatch> {
        if batch.num_rows() <= self.rows {
            return vec![batch.clone()];
        }
        let firsts = (0..batch.num_rows()).step_by(self.rows.max(1));
        firsts.map(|first| compact(&batch.slice(first, self.rows.min(batch.num_rows() - first)))).collect()
    }
}

/// Without what its texts and bytes do not need. Other columns take a few bytes for a row.
fn compact(batch: &RecordBatch) -> RecordBatch {
    let column = |column: &ArrayRef| -> ArrayRef {
        if let Some(texts) = column.as_string_view_opt() {
            return Arc::new(texts.gc());
        }
        match column.as_binary_view_opt() {
            Some(bytes) => Arc::new(bytes.gc()),
            None => Arc::clone(column),
        }
    };
    let columns = batch.columns().iter().map(column).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options).unwrap_or_else(|_| batch.clone())
}

/// What a plan is executed with.
pub fn task_context(state: &SessionState, plan: &Arc<dyn ExecutionPlan>) -> Arc<TaskContext> {
    let context = state.task_ctx();
    let MemoryLimit::Finite(memory) = context.memory_pool().memory_limit() else { return context };
    let Some(row_bytes) = sorted_row_bytes(plan) else { return context };
    let mut config = context.session_config().clone();
    let share = memory as u64 / config.target_partitions().max(1) as u64;
    let options = config.options_mut();
    let rows = (share / RUNS / row_bytes).clamp(ROWS_MIN, options.execution.batch_size.get() as u64);
    let rows = usize::try_from(rows).unwrap_or(usize::MAX);
    options.execution.batch_size = ConfigNonZeroUsize::try_new(rows).unwrap_or(options.execution.batch_size);
    // What a sort keeps back for merging what it has in memory.
    let reserved = (share / 8).min(RESERVED_MAX);
    options.execution.sort_spill_reservation_bytes = usize::try_from(reserved).unwrap_or(usize::MAX);
    config.set_extension(Arc::new(SmallBatches { rows }));
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

#[cfg(test)]
mod tests {
    use arrow::array::{Array as _, Int64Array, StringViewArray};

    use super::*;

    #[test]
    fn parts_of_a_batch_keep_only_what_is_theirs() {
        let texts = (0..100).map(|i| format!("{i:01000}"));
        let columns: [(&str, ArrayRef); 2] = [
            ("n", Arc::new(Int64Array::from_iter_values(0..100))),
            ("t", Arc::new(StringViewArray::from_iter_values(texts))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let parts = SmallBatches { rows: 30 }.parts(&batch);
        assert_eq!(parts.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [30, 30, 30, 10]);
        assert!(parts.iter().all(|part| part.get_array_memory_size() < 60_000));
        let texts = parts[3].column(1).as_string_view();
        assert_eq!((texts.len(), texts.value(9)), (10, &*format!("{:01000}", 99)));
        assert_eq!(SmallBatches { rows: 100 }.parts(&batch), [batch]);
    }
}
