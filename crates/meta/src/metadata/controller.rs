//! The controller's office, and what only its holder writes: who serves which partition, and who coordinates which groups.
//! Chains of write-ahead objects are read here as well; the log writes their records (ADR 0007).
//!
//! Invariant: each transaction of a controller is guarded by the create revision of its office and by the revision of every
//! record that it replaces. A former holder, or one that goes by an old image, changes nothing.

use uuid::Uuid;

use super::{Guarded, Metadata, Records, Versioned};
use crate::{
    Compare, LeaseId, Op, Result, Revision, Txn,
    records::{
        AssignmentRecord, ChainRecord, ControllerRecord, CoordinatorRecord, HistoryRecord, MemberRecord,
        Record,
    },
};

/// The right to write as the controller: the create revision of the office's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Office(Revision);

impl Metadata {
    /// The controller.
    pub async fn load_controller(&self) -> Result<Option<Versioned<ControllerRecord>>> {
        self.load(&self.keys.controller()).await
    }

    /// Takes the controller's office under a lease if nobody has it. Who has it already under this very record gets it again.
    pub async fn elect_controller(
        &self,
        lease: LeaseId,
        record: &ControllerRecord,
    ) -> Result<Option<Office>> {
        let key = self.keys.controller();
        let txn =
            Txn::new().when(Compare::absent(&key)).and_then(Op::put_leased(&key, record.encode(), lease));
        let outcome = self.store.txn(txn).await?;
        if outcome.succeeded {
            return Ok(Some(Office(outcome.revision)));
        }
        // An earlier attempt may have been done although its answer was lost.
        let holder = self.load_controller().await?.filter(|holder| holder.record == *record);
        Ok(holder.map(|holder| Office(holder.create_revision)))
    }

    /// Whether nobody has taken the office since.
    pub async fn holds_office(&self, office: Office) -> Result<bool> {
        Ok(self.load_controller().await?.is_some_and(|holder| holder.create_revision == office.0))
    }

    /// Replaces assignments, each if it was not changed since its revision, in few transactions. Returns the revision of each
    /// that was written.
    pub async fn assign(
        &self,
        office: Office,
        changes: &[(Uuid, Revision, AssignmentRecord)],
    ) -> Result<Vec<Option<Revision>>> {
        let guarded = changes.iter().map(|(topic_id, expected, record)| {
            let key = self.keys.assignment(*topic_id);
            let then = vec![Op::put(&key, record.encode())];
            Guarded { when: Compare::mod_revision(key, *expected), then }
        });
        self.apply_as_controller(office, guarded.collect()).await
    }

    /// Replaces coordinators, as [`Metadata::assign`] does; without a revision where there was none yet.
    pub async fn assign_coordinators(
        &self,
        office: Office,
        changes: &[(i32, Option<Revision>, CoordinatorRecord)],
    ) -> Result<Vec<Option<Revision>>> {
        let guarded = changes.iter().map(|(slot, expected, record)| {
            let key = self.keys.coordinator(*slot);
            let then = vec![Op::put(&key, record.encode())];
            let when = match expected {
                Some(revision) => Compare::mod_revision(key, *revision),
                None => Compare::absent(key),
            };
            Guarded { when, then }
        });
        self.apply_as_controller(office, guarded.collect()).await
    }

    /// What changed lately.
    pub async fn load_history(&self) -> Result<Option<Versioned<HistoryRecord>>> {
        self.load(&self.keys.history()).await
    }

    /// Replaces the history. `None`: this is not the controller any more, or somebody else wrote it.
    pub async fn swap_history(
        &self,
        office: Office,
        expected: Option<Revision>,
        record: &HistoryRecord,
    ) -> Result<Option<Revision>> {
        let key = self.keys.history();
        let then = vec![Op::put(&key, record.encode())];
        let when = match expected {
            Some(revision) => Compare::mod_revision(key, revision),
            None => Compare::absent(key),
        };
        let written = self.apply_as_controller(office, vec![Guarded { when, then }]).await?;
        Ok(written.into_iter().next().flatten())
    }

    /// Replaces what is known of a broker that is gone, or forgets it (`None`), unless its record was written meanwhile.
    pub async fn swap_member(
        &self,
        office: Office,
        node_id: i32,
        expected: Revision,
        record: Option<&MemberRecord>,
    ) -> Result<Option<Revision>> {
        let key = self.keys.member(node_id);
        let then = vec![record.map_or_else(|| Op::delete(&key), |record| Op::put(&key, record.encode()))];
        let guarded = Guarded { when: Compare::mod_revision(key, expected), then };
        let written = self.apply_as_controller(office, vec![guarded]).await?;
        Ok(written.into_iter().next().flatten())
    }

    async fn apply_as_controller(
        &self,
        office: Office,
        items: Vec<Guarded>,
    ) -> Result<Vec<Option<Revision>>> {
        self.apply_guarded(Some(Compare::create_revision(self.keys.controller(), office.0)), items).await
    }

    /// The coordinators of all slots that ever had one.
    pub async fn list_coordinators(&self) -> Result<Records<i32, CoordinatorRecord>> {
        self.list(&self.keys.coordinators_prefix(), |key| self.keys.parse_coordinator(key)).await
    }

    pub async fn load_coordinator(&self, slot: i32) -> Result<Option<Versioned<CoordinatorRecord>>> {
        self.load(&self.keys.coordinator(slot)).await
    }

    /// See [`Metadata::swap`]. For owners, which release what they are asked to.
    pub async fn swap_coordinator(
        &self,
        slot: i32,
        expected: Revision,
        record: &CoordinatorRecord,
    ) -> Result<Option<Revision>> {
        self.swap(&self.keys.coordinator(slot), Some(expected), record).await
    }

    /// The chains that may hold what no segment holds, by node id and incarnation.
    pub async fn list_chains(&self) -> Result<Records<(i32, u64), ChainRecord>> {
        self.list(&self.keys.chains_prefix(), |key| self.keys.parse_chain(key)).await
    }

    pub async fn load_chain(&self, node_id: i32, incarnation: u64) -> Result<Option<Versioned<ChainRecord>>> {
        self.load(&self.keys.chain(node_id, incarnation)).await
    }
}
