//! The cluster and who sees what of it: the view that all callers share, and the policy that is in force.
//!
//! Invariant: a caller reaches the cluster through [`Cluster::seen_by`] and in no other way.

use std::path::PathBuf;
use std::sync::Arc;

use kafscale_agent::identity::{Principal, follow};
use kafscale_agent::{Call, Change, Changes};
use parking_lot::RwLock;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::policy::{Policies, PolicyText};
use crate::view::ClusterView;
use crate::view::sight::{Sight, View, remember_lags};

/// See the file's comment.
#[derive(Debug)]
pub struct Cluster {
    pub view: Arc<ClusterView>,
    policies: RwLock<Arc<Policies>>,
}

impl Cluster {
    pub fn new(view: ClusterView, policies: Policies) -> Self {
        Self { view: Arc::new(view), policies: RwLock::new(Arc::new(policies)) }
    }

    /// What a caller sees now. The line of the call says by which rule.
    pub fn seen_by(&self, call: &Call) -> View {
        let sight = self.sight(&call.principal);
        if sight.is_confined() {
            let rule = Value::from(&*sight.rule);
            call.line.add([("confined_by".to_owned(), rule)].into_iter().collect());
        }
        View::new(Arc::clone(&self.view), sight)
    }

    /// The changes that a caller is told.
    pub fn changes_for(&self, principal: &Principal) -> Changes {
        self.sight(principal).changes.clone()
    }

    /// Whether what somebody sees is less than all.
    pub fn confines(&self) -> bool {
        self.policies.read().sights().iter().any(|sight| sight.is_confined())
    }

    /// Tells a change to those who see what it is of.
    pub fn tell(&self, change: &Change) {
        let policies = Arc::clone(&self.policies.read());
        for sight in policies.sights().iter().filter(|sight| sight.sees(change)) {
            sight.changes.tell(change.clone());
        }
    }

    /// Remembers the lag of all groups, so that its trend can be told.
    pub async fn remember_lags(&self) {
        let policies = Arc::clone(&self.policies.read());
        remember_lags(&self.view, policies.sights()).await;
    }

    /// Follows the policy file until `stop`. A file that is wrong leaves the rules as they were.
    pub async fn follow_policy(&self, path: PathBuf, stop: CancellationToken) {
        let read = move || PolicyText::read(&path);
        follow::follow("the policy file", stop, read, |text| {
            let is_new = !self.policies.read().are_of(&text);
            if is_new {
                *self.policies.write() = Arc::new(Policies::new(text));
            }
            is_new
        })
        .await;
    }

    fn sight(&self, principal: &Principal) -> Arc<Sight> {
        Arc::clone(self.policies.read().sight(principal))
    }
}
