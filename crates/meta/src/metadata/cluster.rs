//! The cluster itself: its identity, its brokers, producer ids, dynamic broker configs.

use std::ops::Range;

use super::{Metadata, Records, Versioned};
use crate::{
    Compare, Error, ErrorKind, LeaseId, MetaStoreExt, Op, Result, Revision, Txn,
    records::{
        BrokerConfigRecord, BrokerRecord, ChainRecord, ClusterRecord, ConfigScope, IncarnationBaseRecord,
        MemberRecord, PRODUCER_ID_BLOCK, ProducerIdsRecord, Record,
    },
};

impl Metadata {
    /// The identity of the cluster, if a broker has started already.
    pub async fn load_cluster(&self) -> Result<Option<Versioned<ClusterRecord>>> {
        self.load(&self.keys.cluster()).await
    }

    /// Founds the cluster, unless it exists already. Returns what it is either way. Fails while it is being restored.
    pub async fn found_cluster(&self, new: &ClusterRecord) -> Result<ClusterRecord> {
        let key = self.keys.cluster();
        let found = Txn::new()
            .when(Compare::absent(&key))
            .when(Compare::absent(self.keys.restoring()))
            .and_then(Op::put(&key, new.encode()));
        let _ = self.store.txn(found).await?;
        if self.store.get(&self.keys.restoring()).await?.is_some() {
            return Err(Error::new(
                ErrorKind::Retry,
                "the metadata of this cluster is being restored; if that was cut off, run `kafscale restore` again",
            ));
        }
        loop {
            let founded = self.load_cluster().await?.ok_or_else(|| {
                Error::new(ErrorKind::Retry, "the cluster record was removed while it was read")
            })?;
            if founded.record.store.is_some() || new.store.is_none() {
                return Ok(founded.record);
            }
            // Of an early release: the first broker of a later one says where the log is.
            let complete = ClusterRecord { store: new.store.clone(), ..founded.record };
            if self.swap(&key, Some(founded.mod_revision), &complete).await?.is_some() {
                return Ok(complete);
            }
        }
    }

    /// Registers a broker under its lease, in a new incarnation; fills in and returns the incarnation's epoch. `None` means
    /// that a broker with this node id is registered and alive, or died less than a lease ago.
    ///
    /// Where the log is in a shared store, `chain` begins the incarnation's chain in the same transaction, so that none
    /// ever writes objects that nobody knows of.
    pub async fn register_broker(
        &self,
        node_id: i32,
        lease: LeaseId,
        mut record: BrokerRecord,
        chain: Option<ChainRecord>,
    ) -> Result<Option<u64>> {
        // The revision of this write is the epoch: whoever writes later has a higher one. Where metadata was restored, revisions
        // began anew, and epochs go on above those of before.
        let base = self.load::<IncarnationBaseRecord>(&self.keys.incarnation_base()).await?;
        let revision = self.store.put(&self.keys.incarnation(node_id), bytes::Bytes::new()).await?;
        let epoch = base.map_or(0, |base| base.record.base) + revision.0;
        record.epoch = epoch;
        let key = self.keys.broker(node_id);
        let before = self.load::<MemberRecord>(&self.keys.member(node_id)).await?;
        let member = MemberRecord {
            host: record.host.clone(),
            port: record.port,
            epoch,
            started_ms: record.started_ms,
            version: Some(record.version.clone()),
            previous: before.map(|before| before.record.as_previous()),
            ..MemberRecord::default()
        };
        let mut txn = Txn::new()
            .when(Compare::absent(&key))
            .when(Compare::absent(self.keys.restoring()))
            .and_then(Op::put_leased(&key, record.encode(), lease))
            .and_then(Op::put(self.keys.member(node_id), member.encode()));
        if let Some(chain) = chain {
            txn = txn.and_then(Op::put(self.keys.chain(node_id, epoch), chain.encode()));
        }
        match self.store.txn(txn).await {
            Ok(outcome) => Ok(outcome.succeeded.then_some(epoch)),
            // It may have been done all the same, and a second attempt would find our own record in its way.
            Err(error) if error.kind() == ErrorKind::Retry => {
                let registered = self.load_broker(node_id).await?;
                let ours = registered.is_some_and(|broker| broker.record.epoch == epoch);
                ours.then_some(Some(epoch)).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// A broker that is alive.
    pub async fn load_broker(&self, node_id: i32) -> Result<Option<Versioned<BrokerRecord>>> {
        self.load(&self.keys.broker(node_id)).await
    }

    /// The brokers that are alive.
    pub async fn list_brokers(&self) -> Result<Records<i32, BrokerRecord>> {
        self.list(&self.keys.brokers_prefix(), |key| self.keys.parse_broker(key)).await
    }

    /// Every broker that is remembered, alive or not.
    pub async fn list_members(&self) -> Result<Records<i32, MemberRecord>> {
        self.list(&self.keys.members_prefix(), |key| self.keys.parse_member(key)).await
    }

    /// Notes that an incarnation leaves as planned. Nothing is written about another one.
    pub async fn note_leaving(&self, node_id: i32, epoch: u64, left_ms: i64) -> Result<()> {
        self.note(node_id, epoch, |member| member.left_ms = Some(left_ms)).await
    }

    /// The same of one whose start failed: it never served anybody.
    pub async fn note_failed_start(&self, node_id: i32, epoch: u64, left_ms: i64) -> Result<()> {
        self.note(node_id, epoch, |member| (member.left_ms, member.failed) = (Some(left_ms), true)).await
    }

    /// Notes that an incarnation lives.
    pub async fn note_alive(&self, node_id: i32, epoch: u64, alive_ms: i64) -> Result<()> {
        self.note(node_id, epoch, |member| member.alive_ms = Some(alive_ms)).await
    }

    async fn note(&self, node_id: i32, epoch: u64, change: impl Fn(&mut MemberRecord)) -> Result<()> {
        let key = self.keys.member(node_id);
        loop {
            let Some(mut member) = self.load::<MemberRecord>(&key).await? else { return Ok(()) };
            if member.record.epoch != epoch {
                return Ok(());
            }
            change(&mut member.record);
            // Whoever loses has let another one win, so that this ends.
            if self.swap(&key, Some(member.mod_revision), &member.record).await?.is_some() {
                return Ok(());
            }
        }
    }

    /// Forgets a broker that is not registered. `false`: it is, or is not known at all.
    pub async fn forget_member(&self, node_id: i32) -> Result<bool> {
        let key = self.keys.member(node_id);
        if self.load::<MemberRecord>(&key).await?.is_none() {
            return Ok(false);
        }
        let txn = Txn::new().when(Compare::absent(self.keys.broker(node_id))).and_then(Op::delete(key));
        Ok(self.store.txn(txn).await?.succeeded)
    }

    /// Takes the next block of producer ids, which nobody else gets, ever.
    pub async fn allocate_producer_id_block(&self) -> Result<Range<i64>> {
        let key = self.keys.producer_ids();
        loop {
            let current = self.load::<ProducerIdsRecord>(&key).await?;
            let first = current.as_ref().map_or(0, |ids| ids.record.next);
            let next = first
                .checked_add(PRODUCER_ID_BLOCK)
                .filter(|_| first >= 0)
                .ok_or_else(|| Error::corrupt(format!("{key} says that the next producer id is {first}")))?;
            let expected = current.map(|ids| ids.mod_revision);
            // Whoever loses has let another one win, so that this ends.
            if self.swap(&key, expected, &ProducerIdsRecord { next }).await?.is_some() {
                return Ok(first..next);
            }
        }
    }

    pub async fn load_broker_config(
        &self,
        scope: ConfigScope,
    ) -> Result<Option<Versioned<BrokerConfigRecord>>> {
        self.load(&self.keys.broker_config(scope)).await
    }

    pub async fn list_broker_configs(&self) -> Result<Records<ConfigScope, BrokerConfigRecord>> {
        self.list(&self.keys.broker_configs_prefix(), |key| self.keys.parse_broker_config(key)).await
    }

    /// See [`Metadata::swap`].
    pub async fn swap_broker_config(
        &self,
        scope: ConfigScope,
        expected: Option<Revision>,
        record: &BrokerConfigRecord,
    ) -> Result<Option<Revision>> {
        self.swap(&self.keys.broker_config(scope), expected, record).await
    }
}
