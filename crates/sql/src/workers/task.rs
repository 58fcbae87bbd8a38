//! One task of a query at a worker: its plan with this worker's limits, and what it has read.
//!
//! What the process that planned the query gives is what is read, and in which ranges. The session, its functions and
//! the memory are this worker's own.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::session_state::SessionState;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties as _};
use datafusion::prelude::SessionConfig;
use datafusion_distributed::{BroadcastExec, DistributedExt as _, DistributedTaskContext};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::channel::{Peers, Resolver};
use super::codec;
use super::topics::Opened;
use super::wire::{Head, Read, Report, Task as TaskHead};
use crate::catalog::Cluster;
use crate::charged::charged;
use crate::error::SqlError;
use crate::metered;
use crate::query::{Counters, Query, QueryLimits};
use crate::sorting::{self, Prepared};
use crate::stoppable::stoppable;

/// See the file's comment.
pub struct Task {
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    query: Arc<Query>,
    /// With the step above the plan, which the first reader says, and the partitions that were taken.
    headed: Mutex<Option<Headed>>,
    ended: CancellationToken,
}

struct Headed {
    head: Head,
    plan: Arc<dyn ExecutionPlan>,
    taken: HashSet<usize>,
}

/// What tasks are made with.
pub struct Workshop {
    pub cluster: Arc<Cluster>,
    pub base: SessionState,
    pub peers: Arc<Peers>,
}

impl Workshop {
    pub async fn task(&self, head: TaskHead, plan: &[u8]) -> std::result::Result<Task, SqlError> {
        let query = Query::new(QueryLimits { scan_bytes: None, result_bytes: None });
        Arc::clone(&query).doing(self.task_of(head, plan, query)).await
    }

    async fn task_of(
        &self,
        head: TaskHead,
        plan: &[u8],
        query: Arc<Query>,
    ) -> std::result::Result<Task, SqlError> {
        let mut topics = Vec::with_capacity(head.topics.len());
        for topic in &head.topics {
            topics.push(Opened::open(topic, &self.cluster, &query).await?);
        }
        let (task_index, task_count) = (head.id.task, head.tasks);
        let config = self
            .base
            .config()
            .clone()
            .with_distributed_channel_resolver(Resolver(Arc::clone(&self.peers)))
            .with_extension(Arc::new(DistributedTaskContext { task_index, task_count }));
        let state = session_of(&self.base, config);
        let plan = codec::decode(plan, topics, &state.task_ctx())?;
        let plan = charged(stoppable(plan, &query)?)?;
        let Prepared { plan, context } = sorting::prepared(plan, &state)?;
        let context = metered::with_small_batches(&plan, context)?;
        Ok(Task { plan, context, query, headed: Mutex::default(), ended: CancellationToken::new() })
    }
}

/// The same session with other settings. One that is built of it would have its functions in no order, and of two that have a name
/// in common, as `to_char` and `length` with the engine's own, it would be either that is found by it.
pub(super) fn session_of(base: &SessionState, config: SessionConfig) -> SessionState {
    let mut state = base.clone();
    *state.config_mut() = config;
    state
}

impl Task {
    /// One partition of what the task gives. Each is given once.
    pub fn execute(&self, head: Head, partition: usize) -> Result<SendableRecordBatchStream> {
        let refused = |why: &str| {
            DataFusionError::from(SqlError::BadValue(format!("partition {partition} of a task: {why}")))
        };
        let plan = {
            let mut headed = self.headed.lock();
            let headed = match &mut *headed {
                Some(headed) if headed.head != head => return Err(refused("it is read in another way, too")),
                Some(headed) => headed,
                none @ None => {
                    // Not before: the step above the plan is found by what it is.
                    let plan = metered::metered(with_head(&self.plan, &head, &self.context)?)?;
                    none.insert(Headed { head, plan, taken: HashSet::new() })
                }
            };
            if partition >= headed.plan.output_partitioning().partition_count() {
                return Err(refused("there is none"));
            }
            if !headed.taken.insert(partition) {
                return Err(refused("it was taken before"));
            }
            Arc::clone(&headed.plan)
        };
        plan.execute(partition, Arc::clone(&self.context))
    }

    pub fn query(&self) -> &Arc<Query> {
        &self.query
    }

    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Ends what still computes.
    pub fn end(&self) {
        self.query.stop();
        self.ended.cancel();
    }

    pub fn report(&self) -> Report {
        let used = self.query.used().into_iter();
        Report { topics: used.map(|(topic, used)| (topic, read(&used.counters))).collect() }
    }
}

fn read(counters: &Counters) -> Read {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Read {
        rows: count(&counters.rows),
        bytes: count(&counters.bytes),
        misfits: count(&counters.misfits),
        objects: count(&counters.objects),
        reasons: counters.reasons(),
    }
}

impl Report {
    /// Adds what the task has read to what its query has.
    pub fn add_to(self, query: &Query) {
        let used = query.used();
        for (topic, Read { rows, bytes, misfits, objects, reasons }) in self.topics {
            let Some(used) = used.get(&topic) else { continue };
            used.counters.add(rows, bytes, misfits);
            used.counters.objects.fetch_add(objects, Ordering::Relaxed);
            let reasons: BTreeMap<String, u64> = reasons;
            used.counters.add_reasons(&reasons);
        }
    }
}

/// The plan below the step that its readers want, in place of the one that it was planned with.
fn with_head(
    plan: &Arc<dyn ExecutionPlan>,
    head: &Head,
    context: &Arc<TaskContext>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let below = match (plan.downcast_ref::<RepartitionExec>(), plan.downcast_ref::<BroadcastExec>()) {
        (Some(repartition), _) => repartition.input(),
        (_, Some(broadcast)) => broadcast.input(),
        _ => plan,
    };
    let below = Arc::clone(below);
    Ok(match head {
        Head::Nothing => below,
        Head::Broadcast { output_partitions } => {
            let partitions = below.output_partitioning().partition_count().max(1);
            Arc::new(BroadcastExec::new(below, output_partitions / partitions))
        }
        Head::Repartition { partitioning } => {
            let partitioning = codec::decode_partitioning(partitioning, &below.schema(), context)?;
            Arc::new(RepartitionExec::try_new(below, partitioning)?)
        }
    })
}

#[cfg(test)]
impl Task {
    /// A task that reads nothing.
    pub fn of_nothing() -> Task {
        let schema = Arc::new(arrow::datatypes::Schema::empty());
        Task {
            plan: Arc::new(datafusion::physical_plan::empty::EmptyExec::new(schema)),
            context: Arc::new(TaskContext::default()),
            query: Query::new(QueryLimits { scan_bytes: None, result_bytes: None }),
            headed: Mutex::default(),
            ended: CancellationToken::new(),
        }
    }
}
