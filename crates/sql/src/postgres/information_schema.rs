//! The schema `information_schema`, as far as clients look into it.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::error::Result;

use super::functions::OWNER;
use super::types;
use crate::catalog::plain::{Asked, Cell, Nothing, PlainTable, Row, Rows};
use crate::catalog::relations::Relations;
use crate::catalog::{DATABASE, KAFSCALE, PUBLIC};
use crate::error::SqlError;

const COLUMNS: &str = "table_catalog text, table_schema text, table_name text, column_name text, ordinal_position int4, \
     column_default text, is_nullable text, data_type text, character_maximum_length int4, character_octet_length int4, \
     numeric_precision int4, numeric_precision_radix int4, numeric_scale int4, datetime_precision int4, udt_catalog text, \
     udt_schema text, udt_name text, is_identity text, is_generated text, is_updatable text";
const CHARACTER_SETS: &str = "character_set_catalog text, character_set_schema text, character_set_name text, character_repertoire text, \
     form_of_use text, default_collate_catalog text, default_collate_schema text, default_collate_name text";
const SCHEMATA: &str =
    "catalog_name text, schema_name text, schema_owner text, default_character_set_name text";
const TABLES: &str = "table_catalog text, table_schema text, table_name text, table_type text, is_insertable_into text, is_typed text";

/// Tables that never have rows.
const EMPTY: [(&str, &str); 16] = [
    ("applicable_roles", "grantee text, role_name text, is_grantable text"),
    (
        "column_privileges",
        "grantor text, grantee text, table_catalog text, table_schema text, table_name text, column_name text, privilege_type text, \
         is_grantable text",
    ),
    (
        "check_constraints",
        "constraint_catalog text, constraint_schema text, constraint_name text, check_clause text",
    ),
    ("enabled_roles", "role_name text"),
    (
        "role_table_grants",
        "grantor text, grantee text, table_catalog text, table_schema text, table_name text, privilege_type text, is_grantable text",
    ),
    (
        "table_privileges",
        "grantor text, grantee text, table_catalog text, table_schema text, table_name text, privilege_type text, is_grantable text",
    ),
    ("triggers", "trigger_schema text, trigger_name text, event_object_schema text, event_object_table text"),
    ("user_defined_types", "user_defined_type_schema text, user_defined_type_name text"),
    (
        "constraint_column_usage",
        "table_catalog text, table_schema text, table_name text, column_name text, constraint_catalog text, \
         constraint_schema text, constraint_name text",
    ),
    (
        "key_column_usage",
        "constraint_catalog text, constraint_schema text, constraint_name text, table_catalog text, table_schema text, table_name text, \
         column_name text, ordinal_position int4, position_in_unique_constraint int4",
    ),
    (
        "parameters",
        "specific_catalog text, specific_schema text, specific_name text, ordinal_position int4, parameter_mode text, \
         parameter_name text, data_type text",
    ),
    (
        "referential_constraints",
        "constraint_catalog text, constraint_schema text, constraint_name text, unique_constraint_catalog text, \
         unique_constraint_schema text, unique_constraint_name text, match_option text, \
         update_rule text, delete_rule text",
    ),
    (
        "routines",
        "specific_catalog text, specific_schema text, specific_name text, routine_catalog text, routine_schema text, \
         routine_name text, routine_type text, data_type text, routine_body text, routine_definition text",
    ),
    ("sequences", "sequence_catalog text, sequence_schema text, sequence_name text, data_type text"),
    (
        "table_constraints",
        "constraint_catalog text, constraint_schema text, constraint_name text, table_catalog text, table_schema text, table_name text, \
         constraint_type text, is_deferrable text, initially_deferred text, enforced text",
    ),
    (
        "views",
        "table_catalog text, table_schema text, table_name text, view_definition text, check_option text, \
         is_updatable text, is_insertable_into text",
    ),
];

#[derive(Debug)]
pub struct InformationSchema {
    relations: Arc<Relations>,
}

impl InformationSchema {
    pub fn new(relations: Arc<Relations>) -> InformationSchema {
        InformationSchema { relations }
    }
}

#[async_trait]
impl SchemaProvider for InformationSchema {
    fn table_names(&self) -> Vec<String> {
        let filled = ["character_sets", "columns", "schemata", "tables"].into_iter();
        filled.chain(EMPTY.iter().map(|(name, _)| *name)).map(str::to_owned).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let filled = |name: &'static str, columns: &str| {
            let rows = SchemaRows { name, relations: Arc::clone(&self.relations) };
            Some(Arc::new(PlainTable::new(columns, Arc::new(rows))) as Arc<dyn TableProvider>)
        };
        Ok(match name {
            "character_sets" => filled("character_sets", CHARACTER_SETS),
            "columns" => filled("columns", COLUMNS),
            "schemata" => filled("schemata", SCHEMATA),
            "tables" => filled("tables", TABLES),
            _ => EMPTY.iter().find(|(table, _)| *table == name).map(|(_, columns)| {
                Arc::new(PlainTable::new(columns, Arc::new(Nothing))) as Arc<dyn TableProvider>
            }),
        })
    }

    fn table_exist(&self, name: &str) -> bool {
        self.table_names().iter().any(|table| table == name)
    }
}

#[derive(Debug)]
struct SchemaRows {
    name: &'static str,
    relations: Arc<Relations>,
}

#[async_trait]
impl Rows for SchemaRows {
    async fn rows(&self, asked: &Asked) -> std::result::Result<Vec<Row>, SqlError> {
        match self.name {
            "character_sets" => {
                let (none, utf8) = (Cell::Null, Cell::from("UTF8"));
                let collation = [DATABASE.into(), "pg_catalog".into(), "C".into()];
                let set = [none.clone(), none, utf8.clone(), "UCS".into(), utf8];
                Ok(vec![set.into_iter().chain(collation).collect()])
            }
            "columns" => self.columns(asked).await,
            "tables" => {
                let all = self.relations.all().await?;
                let row = |relation: &crate::catalog::relations::Relation| {
                    vec![
                        DATABASE.into(),
                        relation.schema.into(),
                        relation.name.as_str().into(),
                        "BASE TABLE".into(),
                        "NO".into(),
                        "NO".into(),
                    ]
                };
                Ok(all.iter().map(row).collect())
            }
            _ => {
                let row = |name: &str| vec![DATABASE.into(), name.into(), OWNER.into(), Cell::Null];
                Ok(["information_schema", KAFSCALE, "pg_catalog", PUBLIC].map(row).to_vec())
            }
        }
    }
}

impl SchemaRows {
    async fn columns(&self, asked: &Asked) -> std::result::Result<Vec<Row>, SqlError> {
        let mut rows = Vec::new();
        for relation in self.relations.with_columns(|name, _| asked.may_be("table_name", name)).await? {
            for (at, (name, sql_name)) in relation.columns.iter().enumerate() {
                let (precision, radix) = precision(sql_name);
                let number = i32::try_from(at + 1).unwrap_or(i32::MAX);
                rows.push(vec![
                    DATABASE.into(),
                    relation.schema.into(),
                    relation.name.as_str().into(),
                    name.as_str().into(),
                    number.into(),
                    Cell::Null,
                    "YES".into(),
                    (*sql_name).into(),
                    Cell::Null,
                    Cell::Null,
                    precision.into(),
                    radix.into(),
                    precision
                        .filter(|_| radix == Some(2) && !sql_name.starts_with("double"))
                        .map(|_| 0)
                        .into(),
                    sql_name.starts_with("timestamp").then_some(3).into(),
                    DATABASE.into(),
                    "pg_catalog".into(),
                    types::by_sql_name(sql_name).map(|pg_type| pg_type.name).into(),
                    "NO".into(),
                    "NEVER".into(),
                    "NO".into(),
                ]);
            }
        }
        Ok(rows)
    }
}

/// Of numbers: bits, and the base in which they are counted.
fn precision(sql_name: &str) -> (Option<i32>, Option<i32>) {
    match sql_name {
        "smallint" => (Some(16), Some(2)),
        "integer" => (Some(32), Some(2)),
        "bigint" => (Some(64), Some(2)),
        "double precision" => (Some(53), Some(2)),
        _ => (None, None),
    }
}
