//! Follows who coordinates which slot: reads the groups of slots that this incarnation is given, and lets go of those that it is
//! asked for or that were taken.
//!
//! Slots that come together are read together, and those that come meanwhile are read together after them: each reading goes over
//! the groups of all slots.
//!
//! Invariant: a slot is let go only after everything that was accepted for its groups is written, or never will be.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kafscale_core::backoff::Backoff;
use kafscale_meta::records::{COORDINATOR_SLOTS, CoordinatorRecord, PartitionAssignment};
use kafscale_meta::{ErrorKind, Event, Metadata, Result, Revision, Versioned, WatchBatch, lost};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::cell::Cell;
use super::record::{self, LoadedGroup};
use super::slots::Todo;
use super::tenure::{Cells, Phase, Tenure};
use super::{Shared, gone};

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// The waits of an operation on slots; `number` tells those of one broker apart.
fn waits(shared: &Shared, number: i32) -> Backoff {
    Backoff::new(BACKOFF_MIN, BACKOFF_MAX, shared.slots.own().seed() ^ u64::from(number.unsigned_abs()) << 32)
}

/// A slot that cannot be served, because of a record that cannot be made out, is read again this often.
const BROKEN_INTERVAL: Duration = Duration::from_secs(30);

pub(super) struct Follower {
    shared: Arc<Shared>,
    metadata: Metadata,
    /// At most one at a time.
    loading: JoinSet<()>,
    /// Slots that were given to us and are not being read yet.
    given: Vec<Arc<Tenure>>,
    releasing: JoinSet<()>,
}

impl Follower {
    pub fn new(shared: Arc<Shared>, metadata: Metadata) -> Follower {
        let (loading, releasing) = (JoinSet::new(), JoinSet::new());
        Follower { shared, metadata, loading, given: Vec::new(), releasing }
    }

    /// Runs until the coordinator stops, or the lease of this incarnation is lost.
    pub async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut lease = shared.slots.lease();
        tokio::select! {
            () = shared.stopping.cancelled() => {}
            () = lost(&mut lease) => warn!("this broker is not registered any more, and coordinates no groups"),
            () = self.follow_on() => {}
        }
        shared.slots.end_all();
    }

    async fn follow_on(&mut self) {
        let mut backoff = waits(&self.shared, -1);
        loop {
            let from = Instant::now();
            let Err(error) = self.follow().await;
            match error.kind() {
                // The watch was too slow; the next one begins with what there is.
                ErrorKind::Compacted => debug!(%error, "looking at all coordinators anew"),
                _ => warn!(%error, "the coordinators cannot be followed; trying again"),
            }
            if from.elapsed() > BACKOFF_MAX {
                backoff.reset();
            }
            sleep(backoff.pause()).await;
        }
    }

    async fn follow(&mut self) -> Result<Infallible> {
        let (store, keys) = (Arc::clone(self.metadata.store()), self.metadata.keys().clone());
        let listed = self.metadata.list_coordinators().await?;
        let mut slots = store.watch(&keys.coordinators_prefix(), listed.revision.next()).await?;
        let mut found: HashMap<i32, (PartitionAssignment, Revision)> = listed
            .items
            .into_iter()
            .map(|(slot, read)| (slot, (read.record.slot, read.mod_revision)))
            .collect();
        for slot in 0..COORDINATOR_SLOTS {
            match found.remove(&slot) {
                Some((record, revision)) => self.apply(slot, Some(record), revision),
                None => self.apply(slot, None, listed.revision),
            }
        }
        loop {
            if self.loading.is_empty() && !self.given.is_empty() {
                let given = std::mem::take(&mut self.given);
                self.loading.spawn(load(self.metadata.clone(), Arc::clone(&self.shared), given));
            }
            tokio::select! {
                batch = slots.next() => self.apply_batch(&batch?)?,
                Some(_) = self.loading.join_next() => {}
                Some(_) = self.releasing.join_next() => {}
            }
        }
    }

    fn apply_batch(&mut self, batch: &WatchBatch) -> Result<()> {
        for event in &batch.events {
            let Some(slot) = self.metadata.keys().parse_coordinator(event.key()) else { continue };
            match event {
                Event::Put(kv) => {
                    let read = Versioned::<CoordinatorRecord>::decode(kv)?;
                    self.apply(slot, Some(read.record.slot), read.mod_revision);
                }
                Event::Delete { revision, .. } => self.apply(slot, None, *revision),
            }
        }
        Ok(())
    }

    fn apply(&mut self, slot: i32, record: Option<PartitionAssignment>, revision: Revision) {
        let todo = self.shared.slots.apply(slot, record, revision);
        self.shared.slots.announce();
        match todo {
            Todo::Nothing => {}
            Todo::Load(tenure) => self.given.push(tenure),
            Todo::Release(tenure) => {
                self.releasing.spawn(release(self.metadata.clone(), Arc::clone(&self.shared), tenure));
            }
        }
    }
}

/// Reads the groups of slots, and serves them, unless the slots are taken meanwhile.
async fn load(metadata: Metadata, shared: Arc<Shared>, mut tenures: Vec<Arc<Tenure>>) {
    let from = Instant::now();
    let mut backoff = waits(&shared, -2);
    loop {
        tenures.retain(|tenure| tenure.phase() == Phase::Loading);
        if tenures.is_empty() {
            return;
        }
        let slots = tenures.iter().map(|tenure| tenure.slot).collect();
        let pause = match record::load(&metadata, slots).await {
            Ok(mut loaded) => {
                let broken = std::mem::take(&mut loaded.broken);
                let (left, whole): (Vec<_>, Vec<_>) =
                    tenures.into_iter().partition(|tenure| broken.contains(&tenure.slot));
                for tenure in &left {
                    tenure.unreadable.store(true, Ordering::Relaxed);
                }
                serve(&shared, &whole, &mut loaded.slots, from);
                if let Err(error) = gone::forget(&shared, &metadata, &whole).await {
                    debug!(%error, "offsets of deleted topics stay until the next look at them");
                }
                tenures = left;
                BROKEN_INTERVAL
            }
            Err(error) => {
                warn!(%error, "the groups of this broker's slots could not be read; trying again");
                backoff.pause()
            }
        };
        if !tenures.is_empty() {
            sleep(pause).await;
        }
    }
}

fn serve(
    shared: &Arc<Shared>,
    tenures: &[Arc<Tenure>],
    loaded: &mut HashMap<i32, HashMap<String, LoadedGroup>>,
    from: Instant,
) {
    let now_ms = shared.timeline.now_ms();
    let (mut groups, mut members) = (0, 0);
    for tenure in tenures {
        let mut cells = Cells::new();
        for (id, mut group) in loaded.remove(&tenure.slot).unwrap_or_default() {
            let (id, stored): (Arc<str>, bool) = (id.into(), group.record.is_some());
            let machine = group.restore(shared.config.group, now_ms);
            members += machine.member_count();
            let cell = Cell::new(tenure, Arc::clone(&id), machine, group.offsets, stored);
            cells.insert(id, Arc::new(cell));
        }
        groups += cells.len();
        let has_members = |cell: &&Arc<Cell>| cell.at_rest(|group| group.weight_bytes() > 0) == Some(true);
        let awake: Vec<Arc<Cell>> = cells.values().filter(has_members).cloned().collect();
        if !tenure.begin_serving(cells) {
            continue;
        }
        // Members may have died with the last coordinator: their sessions must run.
        for cell in awake {
            cell.activate(shared);
        }
    }
    shared.slots.announce();
    let slots = tenures.len();
    info!(
        slots,
        groups,
        members,
        took_ms = from.elapsed().as_millis(),
        "coordinating the groups of these slots"
    );
}

/// Lets a slot go that the controller asks for: "no owner", once all that was accepted is written.
async fn release(metadata: Metadata, shared: Arc<Shared>, tenure: Arc<Tenure>) {
    let from = Instant::now();
    tenure.tasks.wait().await;
    let mut backoff = waits(&shared, tenure.slot);
    while tenure.phase() == Phase::Ended {
        let (record, revision) = tenure.record();
        if !record.slot.release {
            return;
        }
        let released = CoordinatorRecord { slot: PartitionAssignment::released(tenure.epoch) };
        match metadata.swap_coordinator(tenure.slot, revision, &released).await {
            Ok(Some(_)) => {
                info!(slot = tenure.slot, took_ms = from.elapsed().as_millis(), "let a slot go");
                return shared.slots.depose(&tenure);
            }
            Ok(None) => debug!(slot = tenure.slot, "the record of a slot changed while it was let go"),
            Err(error) => debug!(slot = tenure.slot, %error, "a slot could not be let go yet"),
        }
        // It may have been done although it seemed to fail; the watch may be late.
        match metadata.load_coordinator(tenure.slot).await {
            Ok(Some(read)) if tenure.is_of(&read.record.slot) => {
                tenure.note(read.record.slot, read.mod_revision)
            }
            Ok(_) => return shared.slots.depose(&tenure),
            Err(error) => debug!(slot = tenure.slot, %error, "the record of a slot could not be read"),
        }
        sleep(backoff.pause()).await;
    }
}
