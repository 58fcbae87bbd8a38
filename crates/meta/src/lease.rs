//! A lease that is kept alive, and that says until when it surely holds.
//!
//! The store alone knows when a lease ends, and a holder cannot ask in time: the network may be slow, and the process may have
//! been stopped for an hour between two instructions. So the holder goes by a deadline of its own, which is earlier: the time to
//! live counted from before the last keepalive was sent that the store has answered. Whoever acts on the strength of a lease
//! looks at [`LeaseState::holds`] with the time of the action, not at whether an event has arrived.
//!
//! Invariant: lost is for good. A lease is never granted again below its holder, who has to take its roles anew, as somebody
//! else; so also after a keepalive that the store would still have accepted, if the deadline passed before the answer.
//!
//! Two things are out of its reach: a clock that runs slower than the store's, and a machine that is suspended as a whole, whose
//! clock stands still. What must never happen even then is fenced by conditions in transactions and in the log.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::Instant};

use crate::{ErrorKind, Lease, LeaseId, MetaStore, Result};

/// How a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// It surely holds before this time.
    Until(Instant),
    /// It may have run out, or is known to have.
    Lost,
}

impl LeaseState {
    /// Whether the lease surely holds at a time.
    pub fn holds(self, at: Instant) -> bool {
        match self {
            Self::Until(end) => at < end,
            Self::Lost => false,
        }
    }
}

/// A lease and the task that keeps it alive. Dropped, the lease runs out by itself.
#[derive(Debug)]
pub struct HeldLease {
    store: Arc<dyn MetaStore>,
    id: LeaseId,
    state: watch::Receiver<LeaseState>,
    keeper: JoinHandle<()>,
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl HeldLease {
    /// Takes a new lease. It is extended three times in its time to live.
    pub async fn grant(store: Arc<dyn MetaStore>, ttl: Duration) -> Result<Self> {
        let lease = store.lease_grant(ttl).await?;
        let (sender, state) = watch::channel(LeaseState::Until(lease.valid_until));
        let keeper = tokio::spawn(keep(Arc::clone(&store), lease, ttl, sender));
        Ok(Self { store, id: lease.id, state, keeper })
    }

    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// How the lease stands.
    pub fn state(&self) -> LeaseState {
        *self.state.borrow()
    }

    /// Whether the lease surely holds now.
    pub fn holds(&self) -> bool {
        self.state().holds(Instant::now())
    }

    /// To follow the state from elsewhere.
    pub fn subscribe(&self) -> watch::Receiver<LeaseState> {
        self.state.clone()
    }

    /// Returns when the lease is lost.
    pub async fn lost(&self) {
        lost(&mut self.subscribe()).await;
    }

    /// Gives the lease back, with all that is bound to it. Good also for a lost one, which the store may still have.
    pub async fn revoke(self) -> Result<()> {
        self.keeper.abort();
        self.store.lease_revoke(self.id).await
    }
}

/// Returns when the lease with this state is lost.
pub async fn lost(state: &mut watch::Receiver<LeaseState>) {
    // Without a sender nobody keeps it alive.
    let _ = state.wait_for(|state| *state == LeaseState::Lost).await;
}

/// Extends the lease until that fails for good.
async fn keep(store: Arc<dyn MetaStore>, lease: Lease, ttl: Duration, state: watch::Sender<LeaseState>) {
    let Lease { id, valid_until: mut end } = lease;
    let mut pause = ttl / 3;
    loop {
        tokio::time::sleep_until(end.min(Instant::now() + pause)).await;
        let attempt_end = end.min(Instant::now() + ttl / 3);
        let outcome = tokio::time::timeout_at(attempt_end, store.lease_keepalive(id)).await;
        if Instant::now() >= end {
            tracing::warn!(lease = id.0, "a lease could not be extended in time");
            break;
        }
        pause = match outcome {
            Ok(Ok(extended)) => {
                end = extended.max(end);
                state.send_replace(LeaseState::Until(end));
                ttl / 3
            }
            Ok(Err(error)) if error.kind() == ErrorKind::Fenced => {
                tracing::warn!(lease = id.0, "a lease is gone");
                break;
            }
            Ok(Err(error)) => {
                tracing::debug!(lease = id.0, %error, "a lease was not extended yet");
                ttl / 20
            }
            Err(_) => Duration::ZERO,
        };
    }
    state.send_replace(LeaseState::Lost);
}
