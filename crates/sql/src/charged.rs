//! Memory of steps that the engine does not count.
//!
//! A window over whole partitions holds all of its rows before it gives the first one, without
//! asking for memory. Here its rows are charged to the limit of all queries as they come in, and
//! given back when the window is dropped.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use futures_util::{Stream, StreamExt as _};

use crate::running::batch_bytes;
use crate::through::{KEPT, ThroughExec};

/// The step that holds its input.
const HOLDS_ITS_INPUT: &str = "WindowAggExec";
/// It puts its rows together into one batch, and then has them twice.
const COPIES: u64 = 2;

/// The same plan, with what its windows hold charged.
pub fn charged(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let of_step = |step: Arc<dyn ExecutionPlan>| {
        if step.name() != HOLDS_ITS_INPUT {
            return Ok(Transformed::no(step));
        }
        let charge = |input| ThroughExec::of("ChargedExec", input, charge);
        let inputs = step.children().into_iter().map(charge).collect();
        Ok(Transformed::yes(step.replace_children(inputs, KEPT)?))
    };
    Ok(plan.transform_up(of_step)?.data)
}

fn charge(
    input: &dyn ExecutionPlan,
    partition: usize,
    context: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let reservation = MemoryConsumer::new("Window").register(context.memory_pool());
    let rows = input.execute(partition, context)?;
    Ok(Box::pin(Charged { rows, reservation }))
}

/// Holds the charge until it is dropped, which the window does at its own end.
struct Charged {
    rows: SendableRecordBatchStream,
    reservation: MemoryReservation,
}

impl Stream for Charged {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Poll::Ready(next) = self.rows.poll_next_unpin(cx) else { return Poll::Pending };
        let Some(Ok(batch)) = next else { return Poll::Ready(next) };
        let bytes = usize::try_from(batch_bytes(&batch).saturating_mul(COPIES)).unwrap_or(usize::MAX);
        Poll::Ready(Some(self.reservation.try_grow(bytes).map(|()| batch)))
    }
}

impl RecordBatchStream for Charged {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }
}
