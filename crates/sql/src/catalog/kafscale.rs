//! The schema `kafscale`: what there is in the cluster, from the metadata.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::error::Result;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kafscale_core::sql_schema::SqlType;
use kafscale_meta::Metadata;
use kafscale_storage::scan::{Bounds, PieceSource, ScanError, Snapshot, TopicInfo};

use super::plain::{Asked, Cell, PlainTable, Row, Rows};
use super::topics::Topics;
use super::{Cluster, KAFSCALE};
use crate::error::SqlError;
use crate::topic::layout::{Layout, MetaColumn};

/// Topics that are looked at together.
const TOPICS_AT_ONCE: usize = 8;

/// The tables, and their columns.
pub const TABLES: [(&str, &str); 8] = [
    ("brokers", "node_id int4, host text, port int4, rack text, version text, started timestamptz"),
    ("columns", "topic text, ordinal int4, column_name text, data_type text, columns_are text"),
    ("configs", "topic text, name text, value text"),
    (
        "group_offsets",
        "group_id text, topic text, partition int4, committed_offset int8, log_end_offset int8, lag int8, metadata text, committed timestamptz",
    ),
    (
        "groups",
        "group_id text, protocol_type text, protocol text, generation int4, members int4, changed timestamptz",
    ),
    (
        "partitions",
        "topic text, partition int4, log_start_offset int8, log_end_offset int8, segments int4, segment_bytes int8, owner int4",
    ),
    (
        "segments",
        "topic text, partition int4, source text, first_offset int8, last_offset int8, records int8, bytes int8, max_ts timestamptz, compacted bool, object text",
    ),
    (
        "topics",
        "name text, id text, partitions int4, format text, columns_are text, cleanup_policy text, created timestamptz, internal bool, bytes int8",
    ),
];

#[derive(Debug)]
pub struct System {
    cluster: Arc<Cluster>,
    topics: Arc<Topics>,
}

impl System {
    pub fn new(cluster: Arc<Cluster>, topics: Arc<Topics>) -> System {
        System { cluster, topics }
    }
}

#[async_trait]
impl SchemaProvider for System {
    fn table_names(&self) -> Vec<String> {
        TABLES.iter().map(|(name, _)| (*name).to_owned()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let found = TABLES.iter().find(|(table, _)| *table == name);
        let table = |(name, columns): &(&'static str, &str)| {
            let (cluster, topics) = (Arc::clone(&self.cluster), Arc::clone(&self.topics));
            Arc::new(PlainTable::new(columns, Arc::new(SystemRows { name, cluster, topics })))
                as Arc<dyn TableProvider>
        };
        Ok(found.map(table))
    }

    fn table_exist(&self, name: &str) -> bool {
        TABLES.iter().any(|(table, _)| *table == name)
    }
}

#[derive(Debug)]
struct SystemRows {
    name: &'static str,
    cluster: Arc<Cluster>,
    topics: Arc<Topics>,
}

#[async_trait]
impl Rows for SystemRows {
    async fn rows(&self, asked: &Asked) -> std::result::Result<Vec<Row>, SqlError> {
        match self.name {
            "brokers" => self.brokers().await,
            "columns" => self.columns(asked).await,
            "configs" => self.configs(asked).await,
            "group_offsets" => self.group_offsets(asked).await,
            "groups" => self.groups().await,
            "partitions" => self.partitions(asked).await,
            "segments" => self.segments(asked).await,
            "topics" => self.topics(asked).await,
            other => unreachable!("{KAFSCALE}.{other} is no table"),
        }
    }
}

type Listed = std::result::Result<Vec<Row>, SqlError>;

impl SystemRows {
    fn metadata(&self) -> &Metadata {
        self.cluster.scanner.metadata()
    }

    async fn asked_topics(
        &self,
        asked: &Asked,
        column: &str,
    ) -> std::result::Result<Vec<TopicInfo>, SqlError> {
        let mut topics = self.cluster.scanner.topics().await?;
        topics.retain(|topic| asked.may_be(column, &topic.name));
        Ok(topics)
    }

    /// A snapshot of each topic; those that are deleted meanwhile are left out.
    async fn snapshots(&self, topics: Vec<TopicInfo>) -> std::result::Result<Vec<Snapshot>, SqlError> {
        let found = stream::iter(topics)
            .map(|topic| async move { self.topics.snapshot(&topic.name).await })
            .buffered(TOPICS_AT_ONCE);
        let found: Vec<Option<Snapshot>> = found.try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn layouts(
        &self,
        topics: Vec<TopicInfo>,
    ) -> std::result::Result<HashMap<String, Arc<Layout>>, SqlError> {
        let snapshots = self.snapshots(topics).await?;
        let found = stream::iter(snapshots)
            .map(|snapshot| async move {
                let layout = self.cluster.layouts.listed(&snapshot).await?;
                Ok::<_, SqlError>((snapshot.topic().name.clone(), layout))
            })
            .buffered(TOPICS_AT_ONCE);
        found.try_collect().await
    }

    async fn topics(&self, asked: &Asked) -> Listed {
        let topics = self.asked_topics(asked, "name").await?;
        let layouts = self.layouts(topics.clone()).await?;
        let mut bytes: HashMap<uuid::Uuid, i64> = HashMap::new();
        for ((topic, _), partition) in self.metadata().list_partitions().await?.items {
            let size: u64 = partition.record.segments.iter().map(|segment| segment.size_bytes).sum();
            *bytes.entry(topic).or_default() += i64::try_from(size).unwrap_or(i64::MAX);
        }
        let row = |topic: TopicInfo| {
            let layout = layouts.get(&topic.name);
            let policy = topic.configs.get("cleanup.policy").map_or("delete", String::as_str);
            vec![
                topic.name.as_str().into(),
                topic.id.to_string().into(),
                Cell::Int(topic.partitions.into()),
                layout.map(|layout| layout.format.name()).into(),
                layout.map(|layout| columns_are(layout)).into(),
                policy.into(),
                Cell::Time(topic.created_ms),
                topic.internal.into(),
                bytes.get(&topic.id).copied().unwrap_or_default().into(),
            ]
        };
        Ok(topics.into_iter().map(row).collect())
    }

    async fn columns(&self, asked: &Asked) -> Listed {
        let topics = self.asked_topics(asked, "topic").await?;
        let mut rows = Vec::new();
        for (topic, layout) in self.layouts(topics).await? {
            for (at, name, data_type) in layout.described() {
                let is_value = at > MetaColumn::ALL.len();
                let are = if is_value { columns_are(&layout) } else { "of every topic" };
                let ordinal = Cell::Int(i64::try_from(at).unwrap_or(i64::MAX));
                rows.push(vec![topic.as_str().into(), ordinal, name.into(), data_type.into(), are.into()]);
            }
        }
        Ok(rows)
    }

    async fn configs(&self, asked: &Asked) -> Listed {
        let mut rows = Vec::new();
        for topic in self.asked_topics(asked, "topic").await? {
            for (name, value) in topic.configs {
                rows.push(vec![topic.name.as_str().into(), name.into(), value.into()]);
            }
        }
        Ok(rows)
    }

    async fn partitions(&self, asked: &Asked) -> Listed {
        let snapshots = self.snapshots(self.asked_topics(asked, "topic").await?).await?;
        let mut stored: HashMap<(uuid::Uuid, i32), (usize, u64)> = HashMap::new();
        for (key, partition) in self.metadata().list_partitions().await?.items {
            let segments = &partition.record.segments;
            stored.insert(key, (segments.len(), segments.iter().map(|s| s.size_bytes).sum()));
        }
        let owners: HashMap<_, _> = self.metadata().list_assignments().await?.items.into_iter().collect();
        let mut rows = Vec::new();
        for snapshot in snapshots {
            let topic = snapshot.topic();
            for range in snapshot.ranges() {
                let (segments, bytes) = stored.get(&(topic.id, range.partition)).copied().unwrap_or_default();
                let at = usize::try_from(range.partition).unwrap_or(usize::MAX);
                let assigned = owners.get(&topic.id).and_then(|a| a.record.partitions.get(at));
                rows.push(vec![
                    topic.name.as_str().into(),
                    range.partition.into(),
                    range.start.into(),
                    range.end.into(),
                    Cell::Int(i64::try_from(segments).unwrap_or(i64::MAX)),
                    Cell::Int(i64::try_from(bytes).unwrap_or(i64::MAX)),
                    assigned.and_then(|assigned| assigned.owner).into(),
                ]);
            }
        }
        Ok(rows)
    }

    async fn segments(&self, asked: &Asked) -> Listed {
        let mut rows = Vec::new();
        for snapshot in self.snapshots(self.asked_topics(asked, "topic").await?).await? {
            let topic = snapshot.topic().name.clone();
            for range in snapshot.ranges() {
                let pieces = match snapshot.pieces(range.partition, &Bounds::all()).await {
                    Err(ScanError::TopicGone { .. }) => continue,
                    outcome => outcome?,
                };
                for piece in pieces {
                    let source = match piece.source {
                        PieceSource::Segment => "segment",
                        PieceSource::WriteAheadLog => "write-ahead log",
                    };
                    let whole = |number: u64| Cell::Int(i64::try_from(number).unwrap_or(i64::MAX));
                    rows.push(vec![
                        topic.as_str().into(),
                        range.partition.into(),
                        source.into(),
                        piece.first_offset.into(),
                        piece.last_offset.into(),
                        piece.records.map_or(Cell::Null, whole),
                        whole(piece.bytes),
                        piece.max_timestamp.map_or(Cell::Null, Cell::Time),
                        piece.compacted.into(),
                        (&*piece.object).into(),
                    ]);
                }
            }
        }
        Ok(rows)
    }

    async fn brokers(&self) -> Listed {
        let listed = self.metadata().list_brokers().await?;
        let row =
            |(node_id, broker): (i32, kafscale_meta::Versioned<kafscale_meta::records::BrokerRecord>)| {
                let broker = broker.record;
                vec![
                    node_id.into(),
                    broker.host.into(),
                    Cell::Int(broker.port.into()),
                    broker.rack.into(),
                    broker.version.into(),
                    Cell::Time(broker.started_ms),
                ]
            };
        Ok(listed.items.into_iter().map(row).collect())
    }

    async fn groups(&self) -> Listed {
        let mut rows = Vec::new();
        for (group, record) in self.metadata().list_groups().await?.items {
            let record = record.record;
            rows.push(vec![
                group.into(),
                record.protocol_type.into(),
                record.protocol_name.into(),
                record.generation.into(),
                Cell::Int(i64::try_from(record.members.len()).unwrap_or(i64::MAX)),
                Cell::Time(record.state_timestamp_ms),
            ]);
        }
        Ok(rows)
    }

    async fn group_offsets(&self, asked: &Asked) -> Listed {
        let mut offsets = self.metadata().load_all_offsets().await?.items;
        offsets.retain(|(key, _)| asked.may_be("topic", &key.topic) && asked.may_be("group_id", &key.group));
        let mut topics = self.cluster.scanner.topics().await?;
        topics.retain(|topic| offsets.iter().any(|(key, _)| key.topic == topic.name));
        let mut ends = HashMap::new();
        for snapshot in self.snapshots(topics).await? {
            for range in snapshot.ranges() {
                ends.insert((snapshot.topic().name.clone(), range.partition), range.end);
            }
        }
        let mut rows = Vec::new();
        for (key, offset) in offsets {
            let offset = offset.record;
            let end = ends.get(&(key.topic.clone(), key.partition)).copied();
            let lag = end.map(|end| end.saturating_sub(offset.offset.max(0)).max(0));
            rows.push(vec![
                key.group.into(),
                key.topic.into(),
                key.partition.into(),
                offset.offset.into(),
                end.into(),
                lag.into(),
                offset.metadata.into(),
                Cell::Time(offset.commit_time_ms),
            ]);
        }
        Ok(rows)
    }
}

/// Where the columns of a topic's values come from.
fn columns_are(layout: &Layout) -> &'static str {
    match (&layout.inferred, &layout.source) {
        (_, Some(_)) => "of a schema",
        (Some(_), None) => "inferred",
        (None, None) => "declared",
    }
}

impl Layout {
    /// The columns: their place, counted from 1, name and type in SQL.
    pub fn described(&self) -> Vec<(usize, String, &'static str)> {
        let (text_keys, text_values) = self.format.has_text();
        let bytes = |is_text: bool| if is_text { "text" } else { "bytea" };
        let meta = MetaColumn::ALL.iter().map(|column| {
            let data_type = match column {
                MetaColumn::Topic | MetaColumn::Segment => "text",
                MetaColumn::Partition => "integer",
                MetaColumn::Offset => "bigint",
                MetaColumn::Timestamp => "timestamp with time zone",
                MetaColumn::Key => bytes(text_keys),
                MetaColumn::Value => bytes(text_values),
                MetaColumn::Headers => "json",
            };
            (column.name().to_owned(), data_type)
        });
        let values = self.columns.iter().map(|column| (column.name.clone(), type_name(column.sql_type)));
        meta.chain(values).enumerate().map(|(at, (name, data_type))| (at + 1, name, data_type)).collect()
    }
}

fn type_name(sql_type: SqlType) -> &'static str {
    match sql_type {
        SqlType::Boolean => "boolean",
        SqlType::Int4 => "integer",
        SqlType::Int8 => "bigint",
        SqlType::Float4 => "real",
        SqlType::Float8 => "double precision",
        SqlType::Numeric(..) => "numeric",
        SqlType::Text => "text",
        SqlType::Bytea => "bytea",
        SqlType::Timestamp => "timestamp with time zone",
        SqlType::LocalTimestamp => "timestamp without time zone",
        SqlType::Date => "date",
        SqlType::Time => "time without time zone",
        SqlType::Json => "json",
    }
}
