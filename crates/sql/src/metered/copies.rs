//! Steps that make many rows of one, where a value is copied with its row: lists are, and texts that are no views.
//!
//! One call of theirs makes a batch, so that a list of a million numbers is there thousands of times before anything looks.
//! So their batches have few rows where there are lists, and what the largest row would take in each row of a batch is
//! asked for before.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch};
use arrow::datatypes::DataType;
use datafusion::common::config::ConfigNonZeroUsize;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::unnest::UnnestExec;
use futures_util::StreamExt as _;

use super::plans::is_copied;
use super::reserve;
use crate::running::batch_bytes;
use crate::stoppable::MULTIPLYING;
use crate::through::{KEPT, ThroughExec, with_runtime};

/// Of a batch, where steps copy lists.
const ROWS: usize = 256;

fn copied_columns(step: &dyn ExecutionPlan) -> Vec<usize> {
    let fields = step.schema();
    let all = fields.fields().iter().enumerate();
    all.filter(|(_, field)| is_copied(field.data_type())).map(|(at, _)| at).collect()
}

fn is_multiplying(step: &dyn ExecutionPlan) -> bool {
    MULTIPLYING.contains(&step.name()) && step.name() != "RecursiveQueryExec"
}

/// What a plan is executed with, which has batches of few rows where its steps copy lists.
pub fn with_small_batches(
    plan: &Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
) -> Result<Arc<TaskContext>> {
    let mut copies = false;
    plan.apply(|step| {
        let has_lists = |input: &&Arc<dyn ExecutionPlan>| {
            input.schema().fields().iter().any(|field| field.data_type().is_nested())
        };
        // What is unnested is a list, and not copied.
        let lists = step.children().iter().filter(|input| has_lists(input)).count();
        copies |= lists > 0 && is_multiplying(&**step) && step.downcast_ref::<UnnestExec>().is_none();
        Ok(TreeNodeRecursion::Continue)
    })?;
    if !copies || context.session_config().batch_size() <= ROWS {
        return Ok(context);
    }
    let mut config = context.session_config().clone();
    let rows = ConfigNonZeroUsize::try_new(ROWS)?;
    config.options_mut().execution.batch_size = rows;
    Ok(with_runtime(&context, config, context.runtime_env()))
}

/// The same step, which asks for room where it copies.
pub fn with_room(step: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    if !is_multiplying(&*step) {
        return Ok(step);
    }
    let lists: Option<Arc<[usize]>> = step
        .downcast_ref::<UnnestExec>()
        .map(|unnest| unnest.list_column_indices().iter().map(|list| list.index_in_input_schema).collect());
    let with_room = |input: &Arc<dyn ExecutionPlan>| {
        let mut copied = copied_columns(&**input);
        copied.retain(|at| lists.as_ref().is_none_or(|lists| !lists.contains(at)));
        if copied.is_empty() {
            return Arc::clone(input);
        }
        let (copied, lists) = (Arc::<[usize]>::from(copied), lists.clone());
        ThroughExec::of("RoomExec", input, move |input, partition, context| {
            let rows = context.session_config().batch_size();
            let batches = input.execute(partition, context)?;
            Ok(asking(batches, Arc::clone(&copied), lists.clone(), rows))
        })
    };
    let inputs = step.children().into_iter().map(with_room).collect();
    step.replace_children(inputs, KEPT)
}

fn asking(
    batches: SendableRecordBatchStream,
    copied: Arc<[usize]>,
    lists: Option<Arc<[usize]>>,
    rows: usize,
) -> SendableRecordBatchStream {
    let schema = batches.schema();
    let asked = batches.map(move |batch| {
        let batch = batch?;
        // It is given back at once: what is asked is whether there is room.
        reserve(needed(&batch, &copied, lists.as_deref(), rows)?)?;
        Ok(batch)
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, asked))
}

/// What a batch that is made of this one may take, at most.
fn needed(batch: &RecordBatch, copied: &[usize], lists: Option<&[usize]>, rows: usize) -> Result<f64> {
    let all = batch.project(copied)?;
    let most = rows as f64 * batch_bytes(&all) as f64;
    // As if the largest row had all bytes of its batch.
    if lists.is_none() && most < (1 << 20) as f64 {
        return Ok(most);
    }
    let of_row = |row: usize| batch_bytes(&all.slice(row, 1)) as f64;
    let Some(lists) = lists else {
        return Ok((0..all.num_rows()).map(of_row).fold(0.0, f64::max) * rows as f64);
    };
    let columns: Vec<&ArrayRef> = lists.iter().map(|at| batch.column(*at)).collect();
    let elements = |row: usize| columns.iter().map(|column| elements(column, row)).max().unwrap_or_default();
    // Lists are put together up to a batch, and a longer one is there as a whole.
    let needed = |row: usize| elements(row).max(rows) as f64 * of_row(row);
    Ok((0..batch.num_rows()).map(needed).fold(0.0, f64::max))
}

fn elements(column: &ArrayRef, row: usize) -> usize {
    match column.data_type() {
        _ if column.is_null(row) => 0,
        DataType::List(_) => column.as_list::<i32>().value_length(row) as usize,
        DataType::LargeList(_) => column.as_list::<i64>().value_length(row) as usize,
        DataType::FixedSizeList(_, length) => *length as usize,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ListArray, StringArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn what_a_batch_may_take_is_that_of_its_largest_row() {
        let numbers = |lengths: &[usize]| -> ArrayRef {
            let lists = lengths.iter().map(|length| Some((0..*length as i64).map(Some).collect::<Vec<_>>()));
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists))
        };
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(100_000), "y".to_owned()]));
        let batch = RecordBatch::try_from_iter([("t", texts), ("l", numbers(&[3, 1_000_000]))]).unwrap();
        let joined = needed(&batch, &[0], None, 256).unwrap();
        assert!((25.6e6..26e6).contains(&joined), "{joined}");
        let unnested = needed(&batch, &[0], Some(&[1]), 256).unwrap();
        assert!((25.6e6..26e6).contains(&unnested), "{unnested}");
        let lists = needed(&batch, &[1], None, 256).unwrap();
        assert!((2.0e9..2.1e9).contains(&lists), "{lists}");
    }
}
