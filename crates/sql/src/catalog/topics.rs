//! The schema `public`: a table for each topic.
//!
//! [`crate::statement`] writes what is asked of a topic beside its rows, its last records or an earlier state, into the table's name,
//! behind an `@`, which no topic has in its name.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::error::Result;
use kafscale_storage::scan::{Range, ScanError, Snapshot};
use tokio::sync::Mutex;

use super::Cluster;
use crate::error::SqlError;
use crate::query::{Query, parse_ranges};
use crate::topic::table::TopicTable;

/// What is asked of a topic, as a part of a table's name.
pub mod asked {
    pub const TAIL: &str = "@tail:";
    pub const AS_OF: &str = "@as-of:";
}

#[derive(Debug)]
pub struct Topics {
    cluster: Arc<Cluster>,
    query: Arc<Query>,
    snapshots: Mutex<HashMap<String, Snapshot>>,
}

impl Topics {
    pub fn new(cluster: Arc<Cluster>, query: Arc<Query>) -> Topics {
        Topics { cluster, query, snapshots: Mutex::default() }
    }

    /// The topic as this statement sees it.
    pub async fn snapshot(&self, topic: &str) -> std::result::Result<Option<Snapshot>, SqlError> {
        let mut snapshots = self.snapshots.lock().await;
        if let Some(known) = snapshots.get(topic) {
            return Ok(Some(known.clone()));
        }
        match self.cluster.scanner.snapshot(topic).await {
            Ok(snapshot) => {
                snapshots.insert(topic.to_owned(), snapshot.clone());
                Ok(Some(snapshot))
            }
            Err(ScanError::NoTopic(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn find(&self, name: &str) -> std::result::Result<Option<TopicTable>, SqlError> {
        let (topic, wanted) = Asked::of(name)?;
        let Some(snapshot) = self.snapshot(topic).await? else { return Ok(None) };
        let layout = self.cluster.layouts.of(&snapshot).await?;
        let (snapshot, tail) = match wanted {
            Asked::Rows => (snapshot, None),
            Asked::Tail(count) => (snapshot, Some(count)),
            Asked::AsOf(ranges) => (snapshot.as_of(&ranges)?, None),
        };
        let sampled = layout.inferred.map(|sample| sample.records);
        let counters = self.query.uses(topic, snapshot.ranges(), sampled);
        Ok(Some(TopicTable::new(snapshot, layout, tail, Arc::clone(&self.query), counters)))
    }
}

enum Asked {
    Rows,
    Tail(u64),
    AsOf(Vec<Range>),
}

impl Asked {
    fn of(name: &str) -> std::result::Result<(&str, Asked), SqlError> {
        if let Some((topic, count)) = name.split_once(asked::TAIL) {
            let count = count.parse().map_err(|_| SqlError::BadValue(format!("TAIL {count}: no number")))?;
            return Ok((topic, Asked::Tail(count)));
        }
        if let Some((topic, ranges)) = name.split_once(asked::AS_OF) {
            let ranges = parse_ranges(ranges).ok_or_else(|| {
                SqlError::BadValue(format!(
                    "AS OF '{ranges}': give the ranges that a query has reported, such as '0:0-10,1:5-7'"
                ))
            })?;
            return Ok((topic, Asked::AsOf(ranges)));
        }
        Ok((name, Asked::Rows))
    }
}

#[async_trait]
impl SchemaProvider for Topics {
    /// Nothing that the engine does with this needs the topics.
    fn table_names(&self) -> Vec<String> {
        Vec::new()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let found = self.find(name).await?;
        Ok(found.map(|table| Arc::new(table) as Arc<dyn TableProvider>))
    }

    fn table_exist(&self, _: &str) -> bool {
        false
    }
}
