//! What changes, for clients that asked to be told.
//!
//! Invariant: no change is missed in silence. Where a client fell behind, anything may have changed, and [`Change::Everything`] says so;
//! a server that may have missed something says the same.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::resources::Named;

/// Changes that a client may be behind before it is told that everything may have changed.
const BACKLOG: usize = 256;

/// What is different from before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Something of this kind and name; where things of a kind have no names, an empty one.
    Of(Named, Arc<str>),
    /// Anything may be.
    Everything,
}

/// Where changes are told. Clones tell the same clients. When the last one is dropped, streams of those who follow end, and sessions
/// follow anew.
#[derive(Clone, Debug)]
pub struct Changes {
    sender: broadcast::Sender<Change>,
}

impl Default for Changes {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(BACKLOG) }
    }
}

impl Changes {
    /// Tells a change to whoever follows.
    pub fn tell(&self, change: Change) {
        // An error means that nobody follows.
        let _ = self.sender.send(change);
    }

    /// The changes from now on.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Change> {
        self.sender.subscribe()
    }
}
