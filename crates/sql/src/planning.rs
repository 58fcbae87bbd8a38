//! Planning that ends when nobody waits for the plan any more.
//!
//! The engine plans without looking up, and a statement that no limit of texts refuses may still
//! take it long. So each of its rules looks, at each step of a plan, whether the statement is
//! stopped: by its client, its timeout, or because its client is gone. What is planned is known by
//! the thread, since rules are the same for all statements.

use std::cell::RefCell;
use std::pin::pin;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::{AnalyzerRule, ApplyOrder, OptimizerConfig, OptimizerRule};
use datafusion::physical_optimizer::{PhysicalOptimizerContext, PhysicalOptimizerRule};
use datafusion::physical_plan::ExecutionPlan;

use crate::error::SqlError;
use crate::metered;
use crate::postgres;
use crate::query::Query;

/// The rule that gives count(DISTINCT …) an inner GROUP BY, and takes sums of its sums.
const SUMS_SUMS: &str = "single_distinct_aggregation_to_group_by";

thread_local! {
    static PLANNED: RefCell<Option<Arc<Query>>> = const { RefCell::new(None) };
}

/// What the thread has planned before is so again.
struct Restored(Option<Arc<Query>>);

impl Drop for Restored {
    fn drop(&mut self) {
        PLANNED.replace(self.0.take());
    }
}

/// Plans for a statement until it is stopped.
pub async fn until_stopped<T>(query: &Arc<Query>, plans: impl Future<Output = T>) -> T {
    let mut plans = pin!(plans);
    std::future::poll_fn(|context| {
        let _restored = Restored(PLANNED.replace(Some(Arc::clone(query))));
        plans.as_mut().poll(context)
    })
    .await
}

/// Fails where what the thread plans is stopped, or takes too much memory.
pub fn check() -> Result<()> {
    match PLANNED.with_borrow(|query| query.as_ref().is_some_and(|query| query.is_stopped())) {
        true => Err(SqlError::Cancelled.into()),
        false => metered::check(),
    }
}

/// Stops a statement when it is dropped, as it is when nobody waits any more, but for one whose
/// plan is made.
#[must_use]
pub struct StopOnDrop(Option<Arc<Query>>);

impl StopOnDrop {
    pub fn new(query: &Arc<Query>) -> StopOnDrop {
        StopOnDrop(Some(Arc::clone(query)))
    }

    pub fn planned(mut self) {
        self.0 = None;
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(query) = &self.0 {
            query.stop();
        }
    }
}

/// A rule that looks first.
#[derive(Debug)]
struct Looking<R: ?Sized>(Arc<R>);

type Analyzing = dyn AnalyzerRule + Send + Sync;
type Optimizing = dyn OptimizerRule + Send + Sync;
type Finishing = dyn PhysicalOptimizerRule + Send + Sync;

pub fn analyzing(rules: Vec<Arc<Analyzing>>) -> Vec<Arc<Analyzing>> {
    rules.into_iter().map(|rule| Arc::new(Looking(rule)) as _).collect()
}

pub fn optimizing(rules: Vec<Arc<Optimizing>>) -> Vec<Arc<Optimizing>> {
    rules.into_iter().map(|rule| Arc::new(Looking(rule)) as _).collect()
}

pub fn finishing(rules: Vec<Arc<Finishing>>) -> Vec<Arc<Finishing>> {
    rules.into_iter().map(|rule| Arc::new(Looking(rule)) as _).collect()
}

impl AnalyzerRule for Looking<Analyzing> {
    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> Result<LogicalPlan> {
        check()?;
        self.0.analyze(plan, config)
    }

    fn name(&self) -> &str {
        self.0.name()
    }
}

impl OptimizerRule for Looking<Optimizing> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        check()?;
        if self.0.name() == SUMS_SUMS && postgres::sum::changes_types(&plan) {
            return Ok(Transformed::no(plan));
        }
        self.0.rewrite(plan, config)
    }
}

impl PhysicalOptimizerRule for Looking<Finishing> {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        check()?;
        self.0.optimize(plan, config)
    }

    fn optimize_with_context(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: &dyn PhysicalOptimizerContext,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        check()?;
        self.0.optimize_with_context(plan, context)
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::optimizer::Analyzer;

    use super::*;
    use crate::query::QueryLimits;

    #[tokio::test]
    async fn rules_fail_once_their_statement_is_stopped() {
        let query = Query::new(QueryLimits { scan_bytes: None, result_bytes: None });
        let rule = analyzing(Analyzer::new().rules).remove(0);
        let analyzed = || rule.analyze(LogicalPlan::default(), &ConfigOptions::default()).is_ok();
        assert!(until_stopped(&query, async { analyzed() }).await);
        let waited = StopOnDrop::new(&query);
        drop(waited);
        assert!(!until_stopped(&query, async { analyzed() }).await);
        assert!(analyzed(), "another statement of the same thread");

        let planned = Query::new(QueryLimits { scan_bytes: None, result_bytes: None });
        StopOnDrop::new(&planned).planned();
        assert!(!planned.is_stopped());
    }
}
