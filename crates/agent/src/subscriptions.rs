//! Tells one client that resources changed which it subscribed to: over `subscriptions/listen` in the revision 2026-07-28,
//! within the session in those before.
//!
//! Invariant: a client has at most [`MAX_SUBSCRIPTIONS`] subscriptions, and is told of each at most once a second, however
//! fast the cluster changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kafscale_identity::Principal;
use parking_lot::Mutex;
use rmcp::model::{ErrorData, ResourceUpdatedNotificationParam};
use rmcp::service::{Peer, RoleServer};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::task::AbortOnDropHandle;

use crate::changes::Change;
use crate::handler::Shared;
use crate::resources::Resources;

/// Of one session, or of one stream.
pub const MAX_SUBSCRIPTIONS: usize = 64;
/// Changes are gathered for this long before they are told.
const GATHERED_FOR: Duration = Duration::from_secs(1);

/// The resources that a client subscribed to, by their URIs.
pub type Uris = BTreeSet<String>;

/// Those of `requested` that there can be news of, as many as one client may have.
pub fn accepted(resources: &Resources, requested: impl IntoIterator<Item = String>) -> Uris {
    requested.into_iter().filter(|uri| resources.find(uri).is_some()).take(MAX_SUBSCRIPTIONS).collect()
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
pub fn touched(resources: &Resources, uris: &Uris, news: &[Change]) -> Vec<String> {
    uris.iter().filter(|uri| news.iter().any(|change| resources.is_touched(uri, change))).cloned().collect()
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
    pub fn add(
        &self,
        uri: String,
        shared: &Arc<Shared>,
        principal: &Principal,
        peer: &Peer<RoleServer>,
    ) -> Result<(), ErrorData> {
        let news = News::new(shared.resources()?.follow(principal));
        {
            let mut uris = self.uris.lock();
            if uris.len() == MAX_SUBSCRIPTIONS && !uris.contains(&uri) {
                let why = format!("a session may have {MAX_SUBSCRIPTIONS} subscriptions; end others first");
                return Err(ErrorData::invalid_params(why, None));
            }
            uris.insert(uri);
        }
        self.follower.lock().get_or_insert_with(|| {
            let (uris, shared, peer) = (Arc::clone(&self.uris), Arc::clone(shared), peer.clone());
            let principal = principal.clone();
            AbortOnDropHandle::new(tokio::spawn(async move {
                shared.stop.run_until_cancelled(tell_peer(news, &shared, &principal, &uris, &peer)).await;
            }))
        });
        Ok(())
    }

    /// Ends a subscription, if it is one.
    pub fn remove(&self, uri: &str) {
        self.uris.lock().remove(uri);
    }
}

async fn tell_peer(
    mut news: News,
    shared: &Shared,
    principal: &Principal,
    uris: &Mutex<Uris>,
    peer: &Peer<RoleServer>,
) {
    let Ok(resources) = shared.resources() else { return };
    loop {
        let changes = match news.next().await {
            Some(changes) => changes,
            // What is for the caller is another part now.
            None => {
                news = News::new(resources.follow(principal));
                vec![Change::Everything]
            }
        };
        let touched = touched(resources, &uris.lock(), &changes);
        for uri in touched {
            if peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(uri)).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::changes::Changes;
    use crate::resources::{Completed, Named, Resource};

    const THING: Named = Named("thing");
    static THINGS: Resource = Resource {
        uri: "things",
        name: "things",
        title: "Things",
        description: "All things.",
        named: None,
        tool: "list",
        arguments: |_| json!({}),
        shows: |of, _, _| of == Named("news"),
    };
    static ONE: Resource = Resource {
        uri: "things/{thing}",
        name: "thing",
        title: "A thing",
        description: "One thing.",
        named: Some(THING),
        tool: "list",
        arguments: |name| json!({ "name": name }),
        shows: |of, changed, name| of == THING && changed == name,
    };

    static ALL: &[&Resource] = &[&THINGS, &ONE];

    fn resources() -> Resources {
        Resources::new("test://", ALL, |_| Changes::default(), async |_, _, _| Ok(Completed::default()))
    }

    fn of(kind: &'static str, name: &str) -> Change {
        Change::Of(Named(kind), name.into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_changes_is_told_once_and_only_where_it_matters() {
        let resources = resources();
        let uris = ["test://things", "test://things/a%20b", "file:///etc/passwd"].map(str::to_owned);
        let uris = accepted(&resources, uris);
        assert_eq!(uris.len(), 2);
        let changes = broadcast::Sender::new(256);
        let mut news = News::new(changes.subscribe());
        let touched = |news: &[Change]| touched(&resources, &uris, news);
        for i in 0..100 {
            changes.send(of("news", &format!("t{i}"))).unwrap();
        }
        changes.send(of("thing", "b")).unwrap();
        assert_eq!(touched(&news.next().await.unwrap()), ["test://things"]);
        changes.send(of("thing", "a b")).unwrap();
        assert_eq!(touched(&news.next().await.unwrap()), ["test://things/a%20b"]);
        for _ in 0..1000 {
            changes.send(of("other", "")).unwrap();
        }
        let after_falling_behind = news.next().await.unwrap();
        assert!(after_falling_behind.contains(&Change::Everything));
        assert_eq!(touched(&after_falling_behind), ["test://things", "test://things/a%20b"]);
        drop(changes);
        assert_eq!(news.next().await, None);
    }

    #[test]
    fn subscriptions_are_bounded() {
        let many = (0..1000).map(|i| format!("test://things/t{i}"));
        assert_eq!(accepted(&resources(), many).len(), MAX_SUBSCRIPTIONS);
    }
}
