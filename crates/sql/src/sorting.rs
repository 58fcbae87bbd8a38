//! Sorts of more than fits into memory.
//!
//! The engine writes sorted runs to disk and merges as many of them at a time as have room in memory with two batches
//! each. Three things keep that from working with rows of a kilobyte.
//!
//! - Its batches are counted in rows, 8,192 of them, so that no two have room in what a sort of some ten megabytes gets.
//! - A batch that is put together from others keeps all of theirs alive, however few of their texts it has, and is
//!   charged for them.
//! - What merges takes whatever is free, also what another partition gave back a moment ago because it is about to
//!   merge too, and then fails.
//!
//! So a plan with a large sort has batches of as many rows as leave room for many runs, what goes into a sort and what
//! comes out of it is copied into memory of its own, and each partition of a sort has a share of the memory that the
//! others cannot take from it.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, RecordBatch, RecordBatchOptions};
use arrow::error::ArrowError;
use datafusion::common::config::ConfigNonZeroUsize;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures_util::TryStreamExt as _;

use crate::running::batch_bytes;
use crate::share::Share;
use crate::stoppable::MULTIPLYING;
use crate::through::{KEPT, ThroughExec, with_runtime};
use crate::topic::exec::TopicExec;

/// Runs that are merged at a time, and for how many more batches there is to be room: a run has two, and each merge has
/// some that it gives, and that others wait for.
pub const FAN_IN: usize = 16;
const BATCHES: u64 = 8 * FAN_IN as u64;
const ROWS_MIN: u64 = 16;
/// How many times as large as the others a batch may be.
const UNEQUAL: u64 = 4;
/// As stored. In memory they take more: they are decompressed, and have columns of their own.
const UNKNOWN_ROW_BYTES: u64 = 1 << 10;
const IN_MEMORY: u64 = 2;
/// Sorts of less than this part of the memory are left as they are.
const SMALL: u64 = 8;
/// What a sort keeps back for merging what it has in memory: the engine's own, where memory is not a limit.
const RESERVED_MAX: u64 = 10 << 20;

/// A plan, and what it is executed with.
pub struct Prepared {
    pub plan: Arc<dyn ExecutionPlan>,
    pub context: Arc<TaskContext>,
}

/// The same plan, so that its sorts end however large they are.
pub fn prepared(plan: Arc<dyn ExecutionPlan>, state: &SessionState) -> Result<Prepared> {
    let context = state.task_ctx();
    let MemoryLimit::Finite(memory) = context.memory_pool().memory_limit() else {
        return Ok(Prepared { plan, context });
    };
    let memory = memory as u64;
    let Some(row_bytes) = largest_row(&plan, memory / SMALL)? else { return Ok(Prepared { plan, context }) };
    let mut config = context.session_config().clone();
    let share = memory / config.target_partitions().max(1) as u64;
    let options = config.options_mut();
    let rows = (share / BATCHES / row_bytes).clamp(ROWS_MIN, options.execution.batch_size.get() as u64);
    let rows = usize::try_from(rows).unwrap_or(usize::MAX);
    options.execution.batch_size = ConfigNonZeroUsize::try_new(rows).unwrap_or(options.execution.batch_size);
    let reserved = (share / 8).min(RESERVED_MAX);
    options.execution.sort_spill_reservation_bytes = usize::try_from(reserved).unwrap_or(usize::MAX);
    let bytes = usize::try_from(share / BATCHES * UNEQUAL).unwrap_or(usize::MAX);
    let config = config.with_extension(Arc::new(BatchLimit { rows, bytes }));
    let context = Arc::new(TaskContext::from(state).with_session_config(config));
    let plan = plan.transform_up(|step| {
        if !is_whole_sort(&step) {
            return Ok(Transformed::no(step));
        }
        let own_memory = |input| ThroughExec::of("OwnMemoryExec", input, into_sort);
        let inputs = step.children().into_iter().map(own_memory).collect();
        let sort = step.replace_children(inputs, KEPT)?;
        Ok(Transformed::yes(ThroughExec::of("ShareExec", &sort, sorted)))
    })?;
    Ok(Prepared { plan: plan.data, context })
}

/// A sort of all rows, and not of the first few.
fn is_whole_sort(step: &Arc<dyn ExecutionPlan>) -> bool {
    step.downcast_ref::<SortExec>().is_some_and(|sort| sort.fetch().is_none())
}

/// What a row of the largest topic takes, if the plan sorts more than `small`.
fn largest_row(plan: &Arc<dyn ExecutionPlan>, small: u64) -> Result<Option<u64>> {
    let (mut sorts, mut multiplies, mut bytes, mut row_bytes) = (false, false, 0_u64, UNKNOWN_ROW_BYTES);
    plan.apply(|step| {
        sorts |= is_whole_sort(step);
        multiplies |= MULTIPLYING.contains(&step.name());
        if let Some(topic) = step.downcast_ref::<TopicExec>() {
            let totals = topic.totals();
            bytes = bytes.saturating_add(totals.bytes.saturating_mul(IN_MEMORY));
            let stored = totals.records.map_or(UNKNOWN_ROW_BYTES, |records| totals.bytes / records.max(1));
            row_bytes = row_bytes.max(stored.saturating_mul(IN_MEMORY));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok((sorts && (multiplies || bytes > small)).then_some(row_bytes))
}

/// What everything but the sort is executed with.
struct Outside(Arc<TaskContext>);

/// What a batch of a sort may have, but for a single row.
#[derive(Clone, Copy)]
struct BatchLimit {
    rows: usize,
    bytes: usize,
}

/// A sort with a share of the memory for itself.
fn sorted(
    sort: &dyn ExecutionPlan,
    partition: usize,
    context: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let share = Arc::new(Share::of(context.memory_pool(), format!("Sort[{partition}]")));
    let runtime = RuntimeEnv { memory_pool: share, ..context.runtime_env().as_ref().clone() };
    let config = context.session_config().clone().with_extension(Arc::new(Outside(Arc::clone(&context))));
    let inside = with_runtime(&context, config, Arc::new(runtime));
    Ok(in_own_memory(sort.execute(partition, inside)?, &context))
}

/// What is to be sorted, which has no part in the sort's share.
fn into_sort(
    input: &dyn ExecutionPlan,
    partition: usize,
    inside: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let context = match inside.session_config().get_extension::<Outside>() {
        Some(outside) => Arc::clone(&outside.0),
        None => inside,
    };
    Ok(in_own_memory(input.execute(partition, Arc::clone(&context))?, &context))
}

/// Gives the rows in batches of no more than the engine's, which keep nothing in memory but what is theirs.
fn in_own_memory(batches: SendableRecordBatchStream, context: &TaskContext) -> SendableRecordBatchStream {
    let config = context.session_config();
    let otherwise = BatchLimit { rows: config.batch_size().max(1), bytes: usize::MAX };
    let limit = config.get_extension::<BatchLimit>().map_or(otherwise, |limit| *limit);
    let schema = batches.schema();
    let parts = batches
        .map_ok(move |batch| futures_util::stream::iter(parts(batch, limit)).map_err(Into::into))
        .try_flatten();
    Box::pin(RecordBatchStreamAdapter::new(schema, parts))
}

/// A batch in parts that keep to a limit, which are made when they are asked for.
fn parts(batch: RecordBatch, limit: BatchLimit) -> impl Iterator<Item = Result<RecordBatch, ArrowError>> {
    // The ranges of rows that are left, the next one last.
    let mut left = vec![(0, batch.num_rows())];
    std::iter::from_fn(move || {
        loop {
            let (first, rows) = left.pop()?;
            if rows == 0 {
                continue;
            }
            if rows > limit.rows {
                left.extend([(first + limit.rows, rows - limit.rows), (first, limit.rows)]);
                continue;
            }
            // Rows that share a text have one each once it is theirs: so many are not copied first, and then found to be
            // too large.
            let slice = batch.slice(first, rows);
            let part = match rows > 1 && batch_bytes(&slice) > limit.bytes as u64 {
                true => None,
                false => Some(own_memory(&slice)),
            };
            match part {
                Some(Ok(part)) if rows == 1 || part.get_array_memory_size() <= limit.bytes => {
                    return Some(Ok(part));
                }
                Some(Err(error)) => return Some(Err(error)),
                _ => {
                    let half = rows / 2;
                    left.extend([(first + half, rows - half), (first, half)]);
                }
            }
        }
    })
}

/// Without what its texts and bytes do not need. Other columns take a few bytes for a row.
pub fn own_memory(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
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
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array as _, Int64Array, StringViewArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn parts_of_a_batch_keep_only_what_is_theirs() {
        let texts = (0..100).map(|i| format!("{i:01000}"));
        let columns: [(&str, ArrayRef); 2] = [
            ("n", Arc::new(Int64Array::from_iter_values(0..100))),
            ("t", Arc::new(StringViewArray::from_iter_values(texts))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let within = |rows, bytes| -> Vec<_> {
            parts(batch.clone(), BatchLimit { rows, bytes }).collect::<Result<_, _>>().unwrap()
        };
        let found = within(30, usize::MAX);
        assert_eq!(found.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [30, 30, 30, 10]);
        assert!(found.iter().all(|part| part.get_array_memory_size() < 60_000));
        let texts = found[3].column(1).as_string_view();
        assert_eq!((texts.len(), texts.value(9)), (10, &*format!("{:01000}", 99)));

        // Large ones are divided again, up to single rows.
        let found = within(30, 12_000);
        assert!(found.iter().all(|part| part.num_rows() <= 10 && part.get_array_memory_size() <= 12_000));
        let numbers =
            found.iter().flat_map(|part| part.column(0).as_primitive::<Int64Type>().values().to_vec());
        assert!(numbers.eq(0..100));
        assert_eq!(within(30, 1).len(), 100);
        assert!(parts(batch.slice(0, 0), BatchLimit { rows: 30, bytes: 1 }).next().is_none());
    }
}
