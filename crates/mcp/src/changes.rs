//! What changes in the cluster, for clients that asked to be told: the metadata store is watched once for all of them.
//!
//! Offsets are not watched: every commit is a change of them, and what they come to shows in the lag that the tools tell.
//!
//! Invariant: no change is missed in silence. Where the watch broke off, or a client fell behind, anything may have changed,
//! and [`Change::Everything`] says so.

use std::sync::Arc;
use std::time::Duration;

use kafscale_meta::records::Keyspace;
use kafscale_meta::{Metadata, Revision};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// Changes that a client may be behind before it is told that everything may have changed.
const BACKLOG: usize = 256;
/// Before a watch that broke off is opened again.
const WATCH_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What is different from before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A topic was created, altered or deleted.
    Topic(Arc<str>),
    /// A group's members or their assignment changed, or it came or went.
    Group(Arc<str>),
    /// Partitions of some topic have other leaders.
    Leaders,
    /// A broker came or went.
    Brokers,
    /// Anything may be.
    Everything,
}

/// Where changes are told.
#[derive(Debug)]
pub struct Changes {
    sender: broadcast::Sender<Change>,
    /// Ends those who follow.
    pub stop: CancellationToken,
}

impl Changes {
    pub fn new(stop: CancellationToken) -> Self {
        Self { sender: broadcast::Sender::new(BACKLOG), stop }
    }

    /// The changes from now on.
    pub fn follow(&self) -> broadcast::Receiver<Change> {
        self.sender.subscribe()
    }

    /// Tells changes until `stop`.
    pub async fn watch(&self, metadata: &Metadata) {
        let keys = metadata.keys();
        let watches = async {
            tokio::join!(
                self.watch_prefix(metadata, keys.topics_prefix(), |keys, key| {
                    keys.parse_topic(key).map(|name| Change::Topic(name.into()))
                }),
                self.watch_prefix(metadata, keys.groups_prefix(), |keys, key| {
                    keys.parse_group(key).map(|name| Change::Group(name.into()))
                }),
                self.watch_prefix(metadata, keys.assignments_prefix(), |_, _| Some(Change::Leaders)),
                self.watch_prefix(metadata, keys.brokers_prefix(), |_, _| Some(Change::Brokers)),
            )
        };
        self.stop.run_until_cancelled(watches).await;
    }

    async fn watch_prefix(
        &self,
        metadata: &Metadata,
        prefix: String,
        change: fn(&Keyspace, &str) -> Option<Change>,
    ) {
        let mut was_broken_off = false;
        loop {
            if let Ok(mut watch) = metadata.store().watch(&prefix, Revision(0)).await {
                if was_broken_off {
                    self.tell(Change::Everything);
                }
                while let Ok(batch) = watch.next().await {
                    for event in &batch.events {
                        self.tell(change(metadata.keys(), event.key()).unwrap_or(Change::Everything));
                    }
                }
            }
            was_broken_off = true;
            tokio::time::sleep(WATCH_AGAIN_AFTER).await;
        }
    }

    fn tell(&self, change: Change) {
        // An error means that nobody follows.
        let _ = self.sender.send(change);
    }
}
