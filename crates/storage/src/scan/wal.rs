//! The write-ahead log of either kind of store, by partition.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use kafscale_core::ids::TopicId;
use kafscale_meta::Metadata;
use object_store::ObjectStore;

use super::chains::Chains;
use super::error::Step;
use super::local::LocalWal;
use super::tail::TailBatch;

/// What the write-ahead log holds of one topic, what segments have already included.
#[derive(Debug, Default)]
pub(super) struct Above {
    pub by_partition: HashMap<i32, Vec<TailBatch>>,
    /// An object whose records a person has given up: what is missing may have been in it.
    pub given_up: Option<Arc<str>>,
}

#[derive(Debug)]
pub(super) enum Wal {
    /// Objects of chains, in a store that brokers share.
    Chains(Chains),
    /// Files of a local disk.
    Local(Arc<LocalWal>),
}

impl Wal {
    pub fn chains(store: Arc<dyn ObjectStore>) -> Wal {
        Wal::Chains(Chains::new(store))
    }

    /// In the data directory of a broker.
    pub fn local(data_dir: &Path) -> Wal {
        Wal::Local(Arc::new(LocalWal::new(data_dir.join("wal"))))
    }

    /// Everything that was durable when this was called, and perhaps what became so meanwhile.
    pub async fn of_topic(&self, metadata: &Metadata, topic: TopicId) -> Result<Above, Step> {
        match self {
            Wal::Chains(chains) => chains.of_topic(metadata, topic).await,
            Wal::Local(wal) => {
                let wal = Arc::clone(wal);
                let read = tokio::task::spawn_blocking(move || wal.of_topic(topic)).await;
                read.expect("reading does not panic")
            }
        }
    }
}
