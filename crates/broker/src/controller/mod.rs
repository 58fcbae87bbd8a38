//! The controller: one broker of the cluster, by election, that gives partitions and coordinator slots to live brokers (ADR 0007).
//!
//! It follows what brokers, chains, assignments and coordinators are there ([`image`]), and makes them agree with the rules
//! ([`reconcile`]): it looks at how things are, never at what happened, so that it does not matter what a predecessor had begun. Beside
//! that it writes down what changed ([`history`]), for people and agents; nothing here goes by it.
//!
//! Invariant: an incarnation's partitions are given away only after its chain was sealed.
//! Invariant: every write is guarded by the office, so that a former controller changes nothing, however late it wakes up.
//! Left to others: which broker gets what (`kafscale_core::placement`), sealing and collecting chains (the log).

mod history;
mod image;
mod reconcile;
mod stats;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use kafscale_core::backoff::Backoff;
use kafscale_core::clock::Clock;
use kafscale_core::placement::Incarnation;
use kafscale_meta::records::ControllerRecord;
use kafscale_meta::{Error, ErrorKind, Event, LeaseId, Metadata, Office, Result, Revision};
use kafscale_storage::Log;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::history::History;
use self::image::{Change, Followed};
pub use self::image::{assignment_of, slot_of};
use self::reconcile::Reconciler;
pub use self::stats::ControllerStats;

/// Changes that come together are handled together: a request may create hundreds of topics.
const GATHER: Duration = Duration::from_millis(20);
/// After a cold start of the whole cluster the first broker would get everything, and then have to give most of it away. So the
/// controller waits until nobody has joined for [`SETTLE_QUIET`], but no longer than [`SETTLE_MAX`].
const SETTLE_QUIET: Duration = Duration::from_secs(1);
const SETTLE_MAX: Duration = Duration::from_secs(3);
/// How old the copy of the metadata in an object store may be: committed offsets that are younger are lost with the metadata.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(30);
/// After a change of topics, and at the beginning of a term.
const SNAPSHOT_SOON: Duration = Duration::from_secs(2);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// What the controller needs of the log. (A trait so that tests see when it is asked for what.)
#[async_trait]
pub trait Chains: std::fmt::Debug + Send + Sync + 'static {
    /// Makes sure that an incarnation can acknowledge nothing any more. The error is for a person; try again later.
    async fn seal(&self, dead: Incarnation) -> Result<(), String>;

    /// Frees what no partition needs any more of chains whose incarnations are gone.
    async fn collect(&self) -> Result<(), String>;

    /// Keeps a copy of the metadata where the records are, for the case that the metadata store is lost. `false` where there is none,
    /// as on a local disk.
    async fn snapshot(&self) -> Result<bool, String>;
}

#[async_trait]
impl Chains for Log {
    async fn seal(&self, dead: Incarnation) -> Result<(), String> {
        Log::seal(self, dead.node_id.0, dead.epoch).await
    }

    async fn collect(&self) -> Result<(), String> {
        Log::collect(self).await
    }

    async fn snapshot(&self) -> Result<bool, String> {
        Log::snapshot(self).await
    }
}

/// This broker as a candidate for the office.
#[derive(Debug)]
pub struct Controller {
    metadata: Metadata,
    chains: Arc<dyn Chains>,
    identity: Incarnation,
    lease: LeaseId,
    /// How often dead chains are looked at, while there are any.
    collect_interval: Duration,
    clock: Arc<dyn Clock>,
    stats: Arc<ControllerStats>,
}

impl Controller {
    pub fn new(
        metadata: Metadata,
        chains: Arc<dyn Chains>,
        identity: Incarnation,
        lease: LeaseId,
        collect_interval: Duration,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { metadata, chains, identity, lease, collect_interval, clock, stats: Arc::default() }
    }

    /// The waits of something that fails and is tried again.
    fn waits(&self) -> Backoff {
        Backoff::new(BACKOFF_MIN, BACKOFF_MAX, self.identity.seed())
    }

    pub fn stats(&self) -> Arc<ControllerStats> {
        Arc::clone(&self.stats)
    }

    /// Stands for election again and again, and does the work whenever elected, until cancelled or this incarnation's lease is
    /// known to be gone.
    pub async fn run(self, cancel: CancellationToken) {
        let ended = cancel.run_until_cancelled(self.terms()).await;
        self.stats.active.store(false, Ordering::Relaxed);
        if let Some(error) = ended {
            debug!(%error, "no candidate for the controller's office any more");
        }
    }

    /// Returns when there is no point in standing again.
    async fn terms(&self) -> Error {
        let mut backoff = self.waits();
        let mut last = None;
        loop {
            let from = Instant::now();
            let Err(error) = Box::pin(self.term(&mut last)).await;
            self.stats.active.store(false, Ordering::Relaxed);
            match error.kind() {
                ErrorKind::Fenced => return error,
                // A watch was too slow; a new one begins with what there is.
                ErrorKind::Compacted => debug!(%error, "looking at everything anew"),
                _ => warn!(%error, "the work of the controller was interrupted; trying again"),
            }
            if from.elapsed() > BACKOFF_MAX {
                backoff.reset();
            }
            sleep(backoff.pause()).await;
        }
    }

    /// Waits to be elected, and does the work. `last` is the last term's office, which this one may continue.
    async fn term(&self, last: &mut Option<Office>) -> Result<Infallible> {
        loop {
            let office = self.elected().await?;
            if last.replace(office) != Some(office) {
                self.stats.elections.fetch_add(1, Ordering::Relaxed);
                info!(node_id = self.identity.node_id.0, "this broker is the controller");
            }
            self.stats.active.store(true, Ordering::Relaxed);
            let followed = Followed::begin(&self.metadata).await?;
            // The watch of the office tells only of what happens from now on.
            if self.metadata.holds_office(office).await? {
                let history = History::new(&self.metadata, office, self.identity, self.clock.as_ref());
                tokio::select! {
                    served = Term::new(self, office, followed).serve() => served?,
                    never = history.keep() => match never {},
                }
            }
            self.stats.active.store(false, Ordering::Relaxed);
            info!("another broker may be the controller now");
        }
    }

    /// Returns when this broker has the office.
    async fn elected(&self) -> Result<Office> {
        let key = self.metadata.keys().controller();
        // In place before the attempt, so that a vacancy right after it is seen.
        let mut watch = self.metadata.store().watch(&key, Revision(0)).await?;
        let record = ControllerRecord { node_id: self.identity.node_id.0, epoch: self.identity.epoch };
        loop {
            if let Some(office) = self.metadata.elect_controller(self.lease, &record).await? {
                return Ok(office);
            }
            let vacant = |event: &Event| matches!(event, Event::Delete { key: gone, .. } if *gone == key);
            while !watch.next().await?.events.iter().any(vacant) {}
        }
    }
}

/// The work of one term.
#[derive(Debug)]
struct Term<'a> {
    controller: &'a Controller,
    office: Office,
    followed: Followed,
    reconciler: Reconciler<'a>,
    /// When changes that came in are to be handled.
    due: Option<Instant>,
    /// Nothing is handled before.
    settled: Instant,
    settled_by: Instant,
}

impl<'a> Term<'a> {
    fn new(controller: &'a Controller, office: Office, followed: Followed) -> Self {
        let now = Instant::now();
        let cold = followed.image.is_cold_start(controller.identity);
        let settled = if cold { now + SETTLE_QUIET } else { now };
        let reconciler = Reconciler::new(controller, office);
        let settled_by = if cold { now + SETTLE_MAX } else { now };
        Self { controller, office, followed, reconciler, due: Some(now), settled, settled_by }
    }

    /// Works until the office is lost.
    async fn serve(mut self) -> Result<()> {
        let collect_interval = self.controller.collect_interval;
        let mut collect_at = Instant::now() + collect_interval;
        // Not while the first clients of a broker that has just started wait for the same disk.
        let mut snapshot_at = Instant::now() + SNAPSHOT_SOON;
        // At most one of each at a time; ended with the term.
        let (mut collecting, mut snapshots) = (JoinSet::new(), JoinSet::new());
        loop {
            let due = self.due.map(|due| due.max(self.settled));
            tokio::select! {
                change = self.followed.next() => match change? {
                    Change::Office => {
                        if !self.controller.metadata.holds_office(self.office).await? {
                            return Ok(());
                        }
                    }
                    Change::Joined => self.changed(true),
                    Change::Topics => {
                        self.changed(false);
                        // Without its name in a snapshot a topic would come back nameless.
                        snapshot_at = snapshot_at.min(Instant::now() + SNAPSHOT_SOON);
                    }
                    Change::Other => self.changed(false),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    let retry_after = self.reconciler.run(&mut self.followed.image).await?;
                    self.due = retry_after.map(|after| Instant::now() + after);
                }
                () = sleep_until(collect_at), if collecting.is_empty() => {
                    collect_at = Instant::now() + collect_interval;
                    if self.followed.image.has_dead_chains() {
                        let chains = Arc::clone(&self.controller.chains);
                        collecting.spawn(async move { chains.collect().await });
                    }
                }
                () = sleep_until(snapshot_at), if snapshots.is_empty() => {
                    snapshot_at = Instant::now() + SNAPSHOT_INTERVAL;
                    let chains = Arc::clone(&self.controller.chains);
                    let began = Instant::now();
                    snapshots.spawn(async move { chains.snapshot().await.map(|there| there.then_some(began)) });
                }
                Some(taken) = snapshots.join_next() => match taken {
                    Ok(Ok(at)) => *self.controller.stats.snapshot_at.lock() = at,
                    Ok(Err(error)) => {
                        warn!(%error, "the metadata was not copied into the store; trying again later");
                    }
                    Err(error) => warn!(%error, "the task that copies the metadata failed"),
                },
                Some(collected) = collecting.join_next() => {
                    if let Ok(Err(error)) = collected {
                        warn!(%error, "dead chains were not collected; trying again later");
                    }
                }
            }
        }
    }

    fn changed(&mut self, joined: bool) {
        let now = Instant::now();
        if joined && now < self.settled {
            self.settled = self.settled_by.min(now + SETTLE_QUIET);
        }
        let soon = now + GATHER;
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }
}
