//! A line on the terminal that says how far a query has read.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::physical_plan::ExecutionPlan;
use tokio_util::task::AbortOnDropHandle;

use crate::query::Query;
use crate::topic::exec::TopicExec;

const INTERVAL: Duration = Duration::from_millis(200);
const WIDTH: u64 = 20;

/// Shown until it is dropped.
pub struct Progress(Option<AbortOnDropHandle<()>>);

/// What a plan is going to read.
#[derive(Debug, Clone, Copy, Default)]
struct Expected {
    bytes: u64,
    objects: u64,
}

impl Progress {
    /// Nothing is shown where standard error is no terminal.
    pub fn show(plan: &Arc<dyn ExecutionPlan>, query: &Arc<Query>) -> Progress {
        if !io::stderr().is_terminal() {
            return Progress(None);
        }
        let mut expected = Expected::default();
        let counted = plan.apply(|step| {
            if let Some(topic) = step.downcast_ref::<TopicExec>() {
                expected.bytes += topic.totals().bytes;
                expected.objects += topic.totals().objects;
            }
            Ok(TreeNodeRecursion::Continue)
        });
        if counted.is_err() || expected.objects == 0 {
            return Progress(None);
        }
        let query = Arc::clone(query);
        let showing = async move {
            loop {
                tokio::time::sleep(INTERVAL).await;
                let _ = write!(io::stderr(), "\r\x1b[K{}", line(&query, expected));
            }
        };
        Progress(Some(AbortOnDropHandle::new(tokio::spawn(showing))))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(showing) = self.0.take() {
            showing.abort();
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(query: &Query, expected: Expected) -> String {
    let (mut rows, mut bytes, mut objects) = (0, 0, 0);
    for used in query.used().values() {
        rows += used.counters.rows.load(Ordering::Relaxed);
        bytes += used.counters.bytes.load(Ordering::Relaxed);
        objects += used.counters.objects.load(Ordering::Relaxed);
    }
    let done = (bytes * WIDTH).checked_div(expected.bytes).unwrap_or(WIDTH).min(WIDTH);
    let count = |n: u64| usize::try_from(n).unwrap_or_default();
    format!(
        "[{}{}] {rows} rows, {} of {} MiB, {} of {} segments",
        "=".repeat(count(done)),
        " ".repeat(count(WIDTH - done)),
        bytes >> 20,
        expected.bytes >> 20,
        objects.min(expected.objects),
        expected.objects,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::QueryLimits;

    #[test]
    fn a_line_says_how_far_it_is() {
        let query = Query::new(QueryLimits { scan_bytes: None, result_bytes: None });
        let counters = query.uses("a", Vec::new(), None);
        counters.add(7, 3 << 20, 0);
        let line = line(&query, Expected { bytes: 6 << 20, objects: 4 });
        assert_eq!(line, "[==========          ] 7 rows, 3 of 6 MiB, 0 of 4 segments");
    }
}
