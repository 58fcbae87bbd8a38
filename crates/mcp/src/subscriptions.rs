//! Tells one client that resources changed which it subscribed to: over `subscriptions/listen` in the revision 2026-07-28,
//! within the session in those before.
//!
//! Invariant: a client has at most [`MAX_SUBSCRIPTIONS`] subscriptions, and is told of each at most once a second, however
//! fast the cluster changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rmcp::model::{ErrorData, ResourceUpdatedNotificationParam};
use rmcp::service::{Peer, RoleServer};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::task::AbortOnDropHandle;

use crate::changes::{Change, Changes};
use crate::resources;

/// Of one session, or of one stream.
pub const MAX_SUBSCRIPTIONS: usize = 64;
/// Changes are gathered for this long before they are told.
const GATHERED_FOR: Duration = Duration::from_secs(1);

/// The resources that a client subscribed to, by their URIs.
pub type Uris = BTreeSet<String>;

/// Those of `requested` that there can be news of, as many as one client may have.
pub fn accepted(requested: impl IntoIterator<Item = String>) -> Uris {
    requested.into_iter().filter(|uri| resources::find(uri).is_some()).take(MAX_SUBSCRIPTIONS).collect()
}

/// The changes since the last time, gathered.
#[derive(Debug)]
pub struct News {
    changes: broadcast::Receiver<Change>,
}

impl News {
    pub fn new(changes: broadcast::Receiver<Change>) -> Self {
        Self { changes }
    }

    /// Waits for changes, and gathers those that follow at once. None: there will be no more.
    pub async fn next(&mut self) -> Option<Vec<Change>> {
        let mut news = match self.changes.recv().await {
            Ok(change) => vec![change],
            Err(RecvError::Lagged(_)) => vec![Change::Everything],
            Err(RecvError::Closed) => return None,
        };
        tokio::time::sleep(GATHERED_FOR).await;
        loop {
            match self.changes.try_recv() {
                Ok(change) => news.push(change),
                Err(TryRecvError::Lagged(_)) => news.push(Change::Everything),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return Some(news),
            }
        }
    }
}

/// Those of the subscribed resources that the changes are of.
pub fn touched(uris: &Uris, news: &[Change]) -> Vec<String> {
    uris.iter().filter(|uri| news.iter().any(|change| resources::is_touched(uri, change))).cloned().collect()
}

/// The subscriptions of a session.
#[derive(Debug, Default)]
pub struct OfSession {
    uris: Arc<Mutex<Uris>>,
    /// Runs from the first subscription on, and ends with the session.
    follower: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl OfSession {
    /// Adds a subscription.
    pub fn add(&self, uri: String, changes: &Changes, peer: &Peer<RoleServer>) -> Result<(), ErrorData> {
        {
            let mut uris = self.uris.lock();
            if uris.len() == MAX_SUBSCRIPTIONS && !uris.contains(&uri) {
                let why = format!("a session may have {MAX_SUBSCRIPTIONS} subscriptions; end others first");
                return Err(ErrorData::invalid_params(why, None));
            }
            uris.insert(uri);
        }
        self.follower.lock().get_or_insert_with(|| {
            let (uris, peer) = (Arc::clone(&self.uris), peer.clone());
            let (news, stop) = (News::new(changes.follow()), changes.stop.clone());
            AbortOnDropHandle::new(tokio::spawn(async move {
                stop.run_until_cancelled(tell_peer(news, &uris, &peer)).await;
            }))
        });
        Ok(())
    }

    /// Ends a subscription, if it is one.
    pub fn remove(&self, uri: &str) {
        self.uris.lock().remove(uri);
    }
}

async fn tell_peer(mut news: News, uris: &Mutex<Uris>, peer: &Peer<RoleServer>) {
    while let Some(changes) = news.next().await {
        let touched = touched(&uris.lock(), &changes);
        for uri in touched {
            if peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(uri)).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uris() -> Uris {
        accepted(["kafscale://topics", "kafscale://groups/a%20b", "file:///etc/passwd"].map(str::to_owned))
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_changes_is_told_once_and_only_where_it_matters() {
        let changes = broadcast::Sender::new(256);
        let mut news = News::new(changes.subscribe());
        for i in 0..100 {
            changes.send(Change::Topic(format!("t{i}").into())).unwrap();
        }
        changes.send(Change::Group("b".into())).unwrap();
        assert_eq!(touched(&uris(), &news.next().await.unwrap()), ["kafscale://topics"]);
        changes.send(Change::Group("a b".into())).unwrap();
        assert_eq!(touched(&uris(), &news.next().await.unwrap()), ["kafscale://groups/a%20b"]);
        for _ in 0..1000 {
            changes.send(Change::Leaders).unwrap();
        }
        let after_falling_behind = news.next().await.unwrap();
        assert!(after_falling_behind.contains(&Change::Everything));
        assert_eq!(touched(&uris(), &after_falling_behind), ["kafscale://groups/a%20b", "kafscale://topics"]);
        drop(changes);
        assert_eq!(news.next().await, None);
    }

    #[test]
    fn subscriptions_are_bounded_and_of_this_server() {
        assert_eq!(uris().len(), 2);
        let many = (0..1000).map(|i| format!("kafscale://topics/t{i}"));
        assert_eq!(accepted(many).len(), MAX_SUBSCRIPTIONS);
    }
}
