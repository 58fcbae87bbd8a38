//! All tables there are, with their columns, for the catalogs that tell clients of them.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::topics::Topics;
use super::{Cluster, KAFSCALE, PUBLIC, kafscale};
use crate::catalog::plain::schema_of;
use crate::error::SqlError;
use crate::postgres::tables::topic_oid;

/// Topics that are looked at together.
const AT_ONCE: usize = 8;
/// The oid of the first table in the schema `kafscale`.
const SYSTEM_OID: i32 = 13_100;

/// A table as clients are told of it.
#[derive(Debug, Clone)]
pub struct Relation {
    pub schema: &'static str,
    pub name: String,
    pub oid: i32,
    /// Name and type, as SQL writes it. Empty where nobody asked for columns.
    pub columns: Vec<(String, &'static str)>,
}

#[derive(Debug)]
pub struct Relations {
    cluster: Arc<Cluster>,
    topics: Arc<Topics>,
}

impl Relations {
    pub fn new(cluster: Arc<Cluster>, topics: Arc<Topics>) -> Relations {
        Relations { cluster, topics }
    }

    /// Without columns: those of topics may have to be inferred.
    pub async fn all(&self) -> Result<Vec<Relation>, SqlError> {
        let topics = self.cluster.scanner.topics().await?;
        let relation = |topic: kafscale_storage::scan::TopicInfo| Relation {
            schema: PUBLIC,
            oid: topic_oid(topic.id),
            name: topic.name,
            columns: Vec::new(),
        };
        let mut relations: Vec<Relation> = topics.into_iter().map(relation).collect();
        relations.extend(system());
        Ok(relations)
    }

    /// Those whose name and oid are asked for.
    pub async fn with_columns(&self, asked: impl Fn(&str, i32) -> bool) -> Result<Vec<Relation>, SqlError> {
        let mut topics = self.cluster.scanner.topics().await?;
        topics.retain(|topic| asked(&topic.name, topic_oid(topic.id)));
        let found = stream::iter(topics).map(|topic| self.of_topic(topic)).buffered(AT_ONCE);
        let found: Vec<Option<Relation>> = found.try_collect().await?;
        let mut relations: Vec<Relation> = found.into_iter().flatten().collect();
        relations.extend(system().filter(|relation| asked(&relation.name, relation.oid)));
        Ok(relations)
    }

    async fn of_topic(&self, topic: kafscale_storage::scan::TopicInfo) -> Result<Option<Relation>, SqlError> {
        let Some(snapshot) = self.topics.snapshot(&topic.name).await? else { return Ok(None) };
        let layout = self.cluster.layouts.listed(&snapshot).await?;
        let columns = layout.described().into_iter().map(|(_, name, sql_name)| (name, sql_name)).collect();
        Ok(Some(Relation { schema: PUBLIC, oid: topic_oid(topic.id), name: topic.name, columns }))
    }
}

fn system() -> impl Iterator<Item = Relation> {
    (SYSTEM_OID..).zip(kafscale::TABLES).map(|(oid, (name, columns))| Relation {
        schema: KAFSCALE,
        name: name.to_owned(),
        oid,
        columns: schema_of(columns)
            .fields()
            .iter()
            .map(|field| (field.name().clone(), sql_name(field.data_type())))
            .collect(),
    })
}

fn sql_name(data_type: &arrow::datatypes::DataType) -> &'static str {
    use arrow::datatypes::DataType;
    match data_type {
        DataType::Boolean => "boolean",
        DataType::Int16 => "smallint",
        DataType::Int32 => "integer",
        DataType::Int64 => "bigint",
        DataType::Timestamp(..) => "timestamp with time zone",
        _ => "text",
    }
}
