//! Lost objects that may be put back, while partitions of this broker have a hole where their
//! records were.
//!
//! A hole was made when the partition was taken over, and new records stand behind it. When the
//! object is there again, or its records were given up, the incarnation ends, and the next one
//! takes everything over as it is now. Otherwise the hole would stay for as long as the process
//! lives, and the records in it would be written off although they are there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::OwnChain;
use super::footers::{Damage, Object, read_object};
use crate::log::shared::Shared;
use crate::wal::chain_id::ChainId;

/// The records in a hole are written off after ten minutes.
const INTERVAL: Duration = Duration::from_secs(10);

/// The objects.
#[derive(Debug, Default)]
pub struct Awaited(Mutex<BTreeSet<(ChainId, u64)>>);

impl Awaited {
    pub fn add(&self, objects: impl IntoIterator<Item = (ChainId, u64)>) {
        self.0.lock().extend(objects);
    }
}

/// Runs until the log is shut down, or the incarnation is over.
pub async fn run(shared: Arc<Shared>, chain: Arc<OwnChain>) {
    loop {
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            () = chain.fenced.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        if !has_holes(&shared) {
            chain.awaited.0.lock().clear();
        }
        let awaited: Vec<_> = chain.awaited.0.lock().iter().copied().collect();
        for (id, seq) in awaited {
            if is_back(&shared, id, seq).await {
                shared.begin_anew(&id.object(seq));
                return;
            }
        }
    }
}

fn has_holes(shared: &Shared) -> bool {
    let partitions = shared.all_partitions();
    partitions.iter().any(|p| p.state.lock().tail.iter().any(|batch| batch.size_bytes == 0))
}

/// Whether nothing is missing of an object any more, or a person has given up what is. A seal shows
/// that its chain is not needed.
async fn is_back(shared: &Shared, id: ChainId, seq: u64) -> bool {
    match read_object(&*shared.store, id, seq).await {
        Ok(Object { damage: Damage::None, entries, .. }) => !entries.is_empty(),
        Ok(Object { damage: Damage::GivenUp | Damage::Salvaged { lost_entries: 0, .. }, .. }) => true,
        Ok(Object { damage: Damage::Unreadable(_) | Damage::Salvaged { .. }, .. }) | Err(_) => false,
    }
}
