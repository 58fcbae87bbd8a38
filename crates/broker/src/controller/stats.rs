//! What the controller has done, for metrics.

use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Counters since this broker started.
#[derive(Debug, Default)]
pub struct ControllerStats {
    /// Whether this broker is the controller.
    pub active: AtomicBool,
    /// Terms of office that began here.
    pub elections: AtomicU64,
    /// Partitions and coordinator slots that were given to another incarnation.
    pub reassignments: AtomicU64,
    /// Partitions and coordinator slots that live owners were asked to let go.
    pub releases: AtomicU64,
    /// Chains of dead incarnations that were sealed.
    pub seals: AtomicU64,
    /// How long it took to bring everything into agreement the last time that there was something to do.
    pub last_reconcile_us: AtomicU64,
    /// When the object store last had a copy of the metadata as it was at that moment; `None` while this broker knows of none.
    pub snapshot_at: Mutex<Option<Instant>>,
}
