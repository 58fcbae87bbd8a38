//! What changes in the cluster: the metadata store is watched once for all clients that asked to be told.
//!
//! Offsets are not watched: every commit is a change of them, and what they come to shows in the lag that the tools tell.
//!
//! Invariant: no change is missed in silence. Where the watch broke off anything may have changed, and [`Change::Everything`] says so.

use std::time::Duration;

use kafscale_agent::{Change, Named};
use kafscale_meta::records::Keyspace;
use kafscale_meta::{Event, Metadata, Revision};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::resources::{GROUP, TOPIC};

/// Partitions of a topic have other leaders. Without a name: of some topic.
pub const LEADERS: Named = Named("leaders");
/// A broker came or went.
pub const BROKERS: Named = Named("brokers");

/// Before a watch that broke off is opened again.
const WATCH_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Tells changes until `stop`.
pub async fn watch(cluster: &Cluster, metadata: &Metadata, stop: &CancellationToken) {
    let keys = metadata.keys();
    let watches = async {
        tokio::join!(
            // A topic was created, altered or deleted.
            watch_prefix(cluster, metadata, keys.topics_prefix(), Kind::Topic),
            // A group's members or their assignment changed, or it came or went.
            watch_prefix(cluster, metadata, keys.groups_prefix(), Kind::Group),
            watch_prefix(cluster, metadata, keys.assignments_prefix(), Kind::Leaders),
            watch_prefix(cluster, metadata, keys.brokers_prefix(), Kind::Brokers),
        )
    };
    stop.run_until_cancelled(watches).await;
}

/// What the keys below a prefix are of.
#[derive(Clone, Copy)]
enum Kind {
    Topic,
    Group,
    Leaders,
    Brokers,
}

impl Kind {
    /// None: the key cannot be read.
    async fn change(self, cluster: &Cluster, keys: &Keyspace, event: &Event) -> Option<Change> {
        let key = event.key();
        Some(match self {
            Self::Topic => Change::Of(TOPIC, keys.parse_topic(key)?.into()),
            Self::Group => Change::Of(GROUP, keys.parse_group(key)?.into()),
            Self::Leaders => Change::Of(LEADERS, led(cluster, keys, event).await.unwrap_or_default().into()),
            Self::Brokers => Change::Of(BROKERS, "".into()),
        })
    }
}

/// The topic that has other leaders, where somebody may not be told of every one. None: of a topic that is gone, which is told as such.
async fn led(cluster: &Cluster, keys: &Keyspace, event: &Event) -> Option<String> {
    match event {
        Event::Put(_) if cluster.confines() => {
            cluster.view.topic_named(keys.parse_assignment(event.key())?).await
        }
        Event::Put(_) | Event::Delete { .. } => None,
    }
}

async fn watch_prefix(cluster: &Cluster, metadata: &Metadata, prefix: String, kind: Kind) {
    let mut was_broken_off = false;
    loop {
        if let Ok(mut watch) = metadata.store().watch(&prefix, Revision(0)).await {
            if was_broken_off {
                cluster.tell(&Change::Everything);
            }
            while let Ok(batch) = watch.next().await {
                for event in &batch.events {
                    let change = kind.change(cluster, metadata.keys(), event).await;
                    cluster.tell(&change.unwrap_or(Change::Everything));
                }
            }
        }
        was_broken_off = true;
        tokio::time::sleep(WATCH_AGAIN_AFTER).await;
    }
}
