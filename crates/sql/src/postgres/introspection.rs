//! What asyncpg asks for before it takes an array: a query that goes down from types to those they
//! are made of, through the whole of PostgreSQL's catalog. Here types have one level: arrays, and
//! what is in them.

use datafusion::sql::sqlparser::ast::{Query, Statement};
use datafusion::sql::sqlparser::parser::Parser;

use crate::dialect::PostgresDialect;

/// The name that the query gives to itself, and to nothing else.
const TREE: &str = "typeinfo_tree";

/// The same columns for the types here. `kind` and `elemdelim` are of type "char", whose bytes are
/// those of bytea. No column has a type that asyncpg would have to ask for.
const TYPES: &str = "SELECT * FROM (
    SELECT t.oid AS oid, 'pg_catalog' AS ns, t.typname AS name, CAST(t.typtype AS bytea) AS kind,
        CAST(NULL AS bigint) AS basetype, t.typelem AS elemtype, CAST(',' AS bytea) AS elemdelim,
        CAST(NULL AS bigint) AS range_subtype, CAST(NULL AS bigint) AS attrtypoids, CAST(NULL AS text[]) AS attrnames,
        CASE WHEN t.oid = ANY(CAST($1 AS bigint[])) THEN 0 ELSE 1 END AS depth,
        CAST(NULL AS text) AS basetype_name,
        CASE WHEN t.typelem <> 0 THEN format_type(t.typelem, NULL) END AS elemtype_name,
        CAST(NULL AS text) AS range_subtype_name
    FROM pg_catalog.pg_type t
    WHERE t.oid = ANY(CAST($1 AS bigint[]))
        OR t.oid IN (SELECT a.typelem FROM pg_catalog.pg_type a WHERE a.oid = ANY(CAST($1 AS bigint[])))
    ) types ORDER BY depth DESC";

/// Another query for that one.
pub fn types_for(query: &Query) -> Option<Query> {
    let with = query.with.as_ref().filter(|with| with.recursive)?;
    let [only] = &with.cte_tables[..] else { return None };
    if only.alias.name.value != TREE {
        return None;
    }
    match Parser::parse_sql(&PostgresDialect, TYPES).ok()?.pop()? {
        Statement::Query(types) => Some(*types),
        _ => None,
    }
}
