//! Which tables there are, by the server's `information_schema`, with the columns that the account
//! may read.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use kafscale_core::sql_schema::{SqlColumn, SqlType};

use super::config::MysqlConfig;
use super::server::{Failed, Link};
use super::types::{Described, Kind};
use crate::collection::rows::schema_of;

/// Of all tables together.
const COLUMNS_MAX: usize = 100_000;

const COLUMNS: &str = "
SELECT CAST(TABLE_NAME AS CHAR), CAST(COLUMN_NAME AS CHAR), CAST(DATA_TYPE AS CHAR), CAST(COLUMN_TYPE AS CHAR),
       CAST(COALESCE(NUMERIC_PRECISION, 0) AS UNSIGNED), CAST(COALESCE(NUMERIC_SCALE, 0) AS UNSIGNED),
       CAST(COALESCE(CHARACTER_SET_NAME, '') AS CHAR)
FROM information_schema.COLUMNS
WHERE TABLE_SCHEMA = ? AND PRIVILEGES LIKE '%select%'
ORDER BY TABLE_NAME, ORDINAL_POSITION
LIMIT 100001";

#[derive(Debug)]
pub struct Catalog {
    pub tables: BTreeMap<String, Arc<Relation>>,
}

/// A table or a view.
#[derive(Debug, Default)]
pub struct Relation {
    pub table: String,
    pub columns: Vec<Column>,
}

#[derive(Debug)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
    pub sql_type: SqlType,
}

impl Column {
    pub fn as_sql(&self) -> SqlColumn {
        SqlColumn { name: self.name.clone(), sql_type: self.sql_type }
    }
}

impl Relation {
    pub fn arrow_schema(&self) -> SchemaRef {
        schema_of(&self.columns.iter().map(Column::as_sql).collect::<Vec<_>>())
    }
}

impl Catalog {
    pub async fn read(link: &mut Link, config: &MysqlConfig) -> Result<Catalog, Failed> {
        type Row = (String, String, String, String, u64, u64, String);
        let rows: Vec<Row> = link.rows(COLUMNS, vec![config.database.as_str().into()]).await?;
        if rows.len() > COLUMNS_MAX {
            return Err(Failed::TooMany { what: "columns", most: COLUMNS_MAX });
        }
        let mut tables: BTreeMap<String, Relation> = BTreeMap::new();
        for (table, name, data_type, column_type, precision, scale, character_set) in rows {
            if config.tables.as_ref().is_some_and(|allowed| !allowed.contains(&table)) {
                continue;
            }
            let described = Described { data_type, column_type, precision, scale, character_set };
            let (kind, sql_type) = Kind::of(&described);
            let relation = tables.entry(table.clone()).or_default();
            relation.table = table;
            relation.columns.push(Column { name, kind, sql_type });
        }
        Ok(Catalog {
            tables: tables.into_iter().map(|(name, relation)| (name, Arc::new(relation))).collect(),
        })
    }
}
