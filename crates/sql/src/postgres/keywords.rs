//! `pg_get_keywords()`, as a table.

use datafusion::sql::sqlparser::ast::{TableAlias, TableFactor};

use super::rewrite::select_of;

/// The words that PostgreSQL reserves (appendix C of its manual), with the columns of `pg_get_keywords()`.
pub fn table(alias: Option<&TableAlias>) -> Option<TableFactor> {
    let rows: Vec<String> = RESERVED.iter().map(|word| format!("('{word}', 'R', 'reserved')")).collect();
    let sql = format!("SELECT 1 FROM (VALUES {}) AS k (word, catcode, catdesc)", rows.join(", "));
    let mut made = select_of(&sql)?.from.pop()?.relation;
    if let (TableFactor::Derived { alias: Some(made), .. }, Some(alias)) = (&mut made, alias) {
        made.name.clone_from(&alias.name);
    }
    Some(made)
}

const RESERVED: [&str; 77] = [
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "column",
    "constraint",
    "create",
    "current_catalog",
    "current_date",
    "current_role",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "from",
    "grant",
    "group",
    "having",
    "in",
    "initially",
    "intersect",
    "into",
    "lateral",
    "leading",
    "limit",
    "localtime",
    "localtimestamp",
    "not",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "placing",
    "primary",
    "references",
    "returning",
    "select",
    "session_user",
    "some",
    "symmetric",
    "table",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "when",
    "where",
    "window",
    "with",
];
