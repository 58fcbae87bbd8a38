//! What changes in the cluster: the metadata store is watched once for all clients that asked to be told.
//!
//! Offsets are not watched: every commit is a change of them, and what they come to shows in the lag that the tools tell.
//!
//! Invariant: no change is missed in silence. Where the watch broke off anything may have changed, and [`Change::Everything`] says so.

use std::time::Duration;

use kafscale_agent::{Change, Changes, Named};
use kafscale_meta::records::Keyspace;
use kafscale_meta::{Metadata, Revision};
use tokio_util::sync::CancellationToken;

use crate::resources::{GROUP, TOPIC};

/// Partitions of some topic have other leaders.
pub const LEADERS: Named = Named("leaders");
/// A broker came or went.
pub const BROKERS: Named = Named("brokers");

/// Before a watch that broke off is opened again.
const WATCH_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Tells changes until `stop`.
pub async fn watch(changes: &Changes, metadata: &Metadata, stop: &CancellationToken) {
    let keys = metadata.keys();
    let watches = async {
        tokio::join!(
            // A topic was created, altered or deleted.
            watch_prefix(changes, metadata, keys.topics_prefix(), |keys, key| {
                keys.parse_topic(key).map(|name| Change::Of(TOPIC, name.into()))
            }),
            // A group's members or their assignment changed, or it came or went.
            watch_prefix(changes, metadata, keys.groups_prefix(), |keys, key| {
                keys.parse_group(key).map(|name| Change::Of(GROUP, name.into()))
            }),
            watch_prefix(changes, metadata, keys.assignments_prefix(), |_, _| {
                Some(Change::Of(LEADERS, "".into()))
            }),
            watch_prefix(changes, metadata, keys.brokers_prefix(), |_, _| {
                Some(Change::Of(BROKERS, "".into()))
            }),
        )
    };
    stop.run_until_cancelled(watches).await;
}

async fn watch_prefix(
    changes: &Changes,
    metadata: &Metadata,
    prefix: String,
    change: fn(&Keyspace, &str) -> Option<Change>,
) {
    let mut was_broken_off = false;
    loop {
        if let Ok(mut watch) = metadata.store().watch(&prefix, Revision(0)).await {
            if was_broken_off {
                changes.tell(Change::Everything);
            }
            while let Ok(batch) = watch.next().await {
                for event in &batch.events {
                    changes.tell(change(metadata.keys(), event.key()).unwrap_or(Change::Everything));
                }
            }
        }
        was_broken_off = true;
        tokio::time::sleep(WATCH_AGAIN_AFTER).await;
    }
}
