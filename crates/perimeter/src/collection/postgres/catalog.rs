//! Which tables there are, by the server's own catalogs: those of the schemas that are configured,
//! with the columns that the role may read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use tokio_postgres::types::Type;

use super::config::PostgresConfig;
use super::query::Parameter;
use super::session::{Failed, Session};
use super::types::Kind;

/// Of all tables together.
const COLUMNS_MAX: usize = 100_000;

/// A domain is what it is based on, and its modifier is the first one on the way there.
const COLUMNS: &str = "
WITH RECURSIVE base(type, base, modifier) AS (
    SELECT oid, typbasetype, typtypmod FROM pg_catalog.pg_type WHERE typtype = 'd'
    UNION ALL
    SELECT b.type, t.typbasetype, greatest(b.modifier, t.typtypmod)
    FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.base AND t.typtype = 'd'
)
SELECT n.nspname::text, c.relname::text, a.attname::text,
       t.oid::int8, CASE WHEN t.typcategory = 'A' AND t.typlen = -1 THEN t.typelem ELSE 0 END::int8,
       greatest(a.atttypmod, b.modifier)::int4,
       coalesce(o.collisdeterministic, true)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN base b ON b.type = a.atttypid
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_type d WHERE d.oid = b.base AND d.typtype = 'd')
JOIN pg_catalog.pg_type t ON t.oid = coalesce(b.base, a.atttypid)
LEFT JOIN pg_catalog.pg_collation o ON o.oid = a.attcollation
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname = ANY ($1)
  AND has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT')
ORDER BY n.nspname, c.relname, a.attnum
LIMIT 100001";

/// What is known of a database.
#[derive(Debug)]
pub struct Catalog {
    /// By the names that they have here.
    pub tables: BTreeMap<String, Arc<Relation>>,
    /// Whether it keeps its texts in UTF-8.
    pub utf8: bool,
}

/// A table or a view.
#[derive(Debug, PartialEq)]
pub struct Relation {
    pub schema: String,
    pub table: String,
    pub columns: Vec<Column>,
}

#[derive(Debug, PartialEq)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
}

impl Relation {
    pub fn arrow_schema(&self) -> Schema {
        let field = |column: &Column| Field::new(&column.name, column.kind.data_type(), true);
        Schema::new(self.columns.iter().map(field).collect::<Vec<_>>())
    }
}

impl Catalog {
    pub async fn read(session: &Session, config: &PostgresConfig) -> Result<Catalog, Failed> {
        let schemas = Parameter { text: array_text(&config.schemas), data_type: Type::TEXT_ARRAY };
        let rows = session.rows(COLUMNS, &[schemas]).await?;
        if rows.len() > COLUMNS_MAX {
            return Err(Failed::TooMany { what: "columns", most: COLUMNS_MAX });
        }
        let mut relations: BTreeMap<(String, String), Vec<Column>> = BTreeMap::new();
        for row in rows {
            let (schema, table, name) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let (type_oid, element_oid): (i64, i64) = (row.try_get(3)?, row.try_get(4)?);
            let (modifier, plain): (i32, bool) = (row.try_get(5)?, row.try_get(6)?);
            let oid = |oid| u32::try_from(oid).unwrap_or_default();
            let kind = match oid(element_oid) {
                0 => Kind::of(oid(type_oid), modifier, plain),
                element => Kind::list_of(element, modifier),
            };
            relations.entry((schema, table)).or_default().push(Column { name, kind });
        }
        let encoding = session.rows("SELECT pg_catalog.current_setting('server_encoding')", &[]).await?;
        let utf8 = encoding.first().is_some_and(|row| row.try_get::<_, &str>(0).is_ok_and(|e| e == "UTF8"));
        let relations = relations.into_iter().map(|((schema, table), columns)| {
            let name = name_of(config, &schema, &table);
            (name, Arc::new(Relation { schema, table, columns }))
        });
        let allowed = |name: &String| config.tables.as_ref().is_none_or(|tables| tables.contains(name));
        Ok(Catalog { tables: named(relations.filter(|(name, _)| allowed(name))), utf8 })
    }
}

/// A name that two relations have is of neither: rules about one of them would be about the other.
fn named(all: impl Iterator<Item = (String, Arc<Relation>)>) -> BTreeMap<String, Arc<Relation>> {
    let (mut tables, mut twice) = (BTreeMap::new(), BTreeSet::new());
    for (name, relation) in all {
        if tables.insert(name.clone(), relation).is_some() {
            twice.insert(name);
        }
    }
    tables.retain(|name, _| !twice.contains(name));
    tables
}

/// Tables of the first schema have their plain names.
fn name_of(config: &PostgresConfig, schema: &str, table: &str) -> String {
    match config.schemas.first().is_some_and(|first| first == schema) {
        true => table.to_owned(),
        false => format!("{schema}.{table}"),
    }
}

/// An array of texts, as the server reads one.
fn array_text(texts: &[String]) -> String {
    let quoted = texts.iter().map(|text| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")));
    format!("{{{}}}", quoted.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `"b.c"` of the first schema, and `c` of the schema `b`.
    #[test]
    fn a_name_that_two_relations_have_is_of_neither() {
        let relation = |schema: &str, table: &str| {
            let (schema, table) = (schema.to_owned(), table.to_owned());
            Arc::new(Relation { schema, table, columns: Vec::new() })
        };
        let all =
            [("b.c", relation("public", "b.c")), ("b.c", relation("b", "c")), ("d", relation("public", "d"))];
        let found = named(all.into_iter().map(|(name, relation)| (name.to_owned(), relation)));
        assert_eq!(found.keys().collect::<Vec<_>>(), ["d"]);
    }

    #[test]
    fn names_of_schemas_stay_values() {
        let schemas = ["public".to_owned(), "a\"},{b\\".to_owned()];
        assert_eq!(array_text(&schemas), "{\"public\",\"a\\\"},{b\\\\\"}");
    }
}
