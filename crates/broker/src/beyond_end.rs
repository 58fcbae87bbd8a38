//! Groups that have committed offsets beyond the end of a log: records were lost, or the log was restored to an older state than the
//! metadata. Their consumers find the offset out of range, and go where auto.offset.reset says, without a word of it.
//!
//! A broker compares the groups that it coordinates with the partitions that it owns. Beyond that, who sees the whole cluster does
//! (the MCP server).

use std::sync::Arc;
use std::time::Duration;

use kafscale_core::group::offsets::CommittedOffset;
use kafscale_core::ids::Offset;
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::cluster::Progress;
use crate::node::Node;

const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// More are counted only.
const LOGGED_MAX: usize = 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeyondEnd {
    group: Arc<str>,
    topic: Arc<str>,
    partition: i32,
    committed: Offset,
    log_end: Offset,
}

impl BeyondEnd {
    fn place(&self) -> (&str, &str, i32) {
        (&self.group, &self.topic, self.partition)
    }
}

/// What the last look has found.
#[derive(Debug, Default)]
pub struct CommitsBeyondEnd(Mutex<Vec<BeyondEnd>>);

impl CommitsBeyondEnd {
    /// One line for a person; `None` when there is nothing to say.
    pub fn summary(&self) -> Option<String> {
        let found = self.0.lock();
        let BeyondEnd { group, topic, partition, committed, log_end } = found.first()?;
        let more = match found.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        Some(format!(
            "committed offsets are beyond the end of the log: group {group:?} committed {committed} in {topic}-{partition}, which ends at \
             {log_end}{more}; records were lost, an older state was restored, or a client committed an offset that never was"
        ))
    }

    /// Logs what is new.
    fn replace(&self, found: Vec<BeyondEnd>) {
        let before = std::mem::replace(&mut *self.0.lock(), found.clone());
        let is_known = |new: &&BeyondEnd| before.iter().any(|known| known.place() == new.place());
        let (all, mut new) = (found.len(), found.iter().filter(|found| !is_known(found)));
        for BeyondEnd { group, topic, partition, committed, log_end } in new.by_ref().take(LOGGED_MAX) {
            warn!(
                %group, %topic, partition, %committed, %log_end,
                "a group has committed an offset beyond the end of the log: records were lost, an older state was restored, or a client committed an offset \
                 that never was"
            );
        }
        if let more @ 1.. = new.count() {
            warn!(more, all, "more groups have committed offsets beyond the end of the log");
        }
    }
}

/// Looks at once when the broker serves what it owns, and then now and then, until `stop`.
pub async fn watch(node: Arc<Node>, stop: CancellationToken) {
    let looking = async {
        let _ = node.cluster.progress().wait_for(|progress| *progress == Progress::Ready).await;
        node.coordinator.ready().await;
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // There may be many groups, and the runtime's threads have connections to serve.
            let looked_at = Arc::clone(&node);
            if let Ok(found) = kafscale_storage::compute(move || look(&looked_at)).await {
                node.beyond_end.replace(found);
            }
        }
    };
    stop.run_until_cancelled(looking).await;
}

/// Ends are read after commits: who commits has read the record before.
fn look(node: &Node) -> Vec<BeyondEnd> {
    let beyond = |group: &Arc<str>, topic: &Arc<str>, partition: i32, commit: &CommittedOffset| {
        let known = node.topics.get(topic).filter(|known| known.id == commit.topic_id)?;
        let log_end = node.log.partition(known.partition_id(partition)?)?.offsets().log_end;
        let (group, topic, committed) = (Arc::clone(group), Arc::clone(topic), commit.offset);
        (committed > log_end).then_some(BeyondEnd { group, topic, partition, committed, log_end })
    };
    let mut found = node.coordinator.find_committed(beyond);
    found.sort_by(|a, b| a.place().cmp(&b.place()));
    found
}
