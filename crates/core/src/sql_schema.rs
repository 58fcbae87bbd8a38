//! The columns that a topic's values have in SQL, as the topic setting `kafscale.sql.schema` states them: `id bigint, note text`.
//!
//! Names are taken as they are written, since fields of JSON tell upper from lower case; others than letters, digits and underscores
//! stand in double quotes. Left to others: reading values.

use std::collections::HashSet;

/// More columns than anybody reads.
pub const MAX_COLUMNS: usize = 1_000;

/// A type of SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqlType {
    Boolean,
    Int4,
    Int8,
    Float8,
    Text,
    /// RFC 3339 text, or milliseconds since 1970.
    Timestamp,
    Date,
    /// Any JSON, as it stands in the value.
    Json,
}

impl SqlType {
    fn of(name: &str) -> Option<SqlType> {
        Some(match name {
            "boolean" | "bool" => SqlType::Boolean,
            "int" | "integer" | "int4" => SqlType::Int4,
            "bigint" | "int8" => SqlType::Int8,
            "double precision" | "double" | "float8" => SqlType::Float8,
            "text" | "varchar" => SqlType::Text,
            "timestamp" | "timestamptz" => SqlType::Timestamp,
            "date" => SqlType::Date,
            "json" | "jsonb" => SqlType::Json,
            _ => return None,
        })
    }
}

/// A column of a topic's values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlColumn {
    pub name: String,
    pub sql_type: SqlType,
}

/// Why a text is no list of columns.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    #[error("`{0}` is no column: write a name and a type, as in `id bigint, note text`")]
    Column(String),
    #[error(
        "`{found}` is no type for the column {column}: use boolean, int, bigint, double, text, timestamp, date or json"
    )]
    Type { column: String, found: String },
    #[error("the column {0} is there twice")]
    Twice(String),
    #[error("the column {0} begins with an underscore, as only the columns of every topic do")]
    Reserved(String),
    #[error("there are more than {MAX_COLUMNS} columns")]
    TooMany,
}

/// The columns that a text states; none, for an empty one.
pub fn parse(text: &str) -> Result<Vec<SqlColumn>, SchemaError> {
    let (mut columns, mut names) = (Vec::new(), HashSet::new());
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, behind) = split_name(rest).ok_or_else(|| SchemaError::Column(first(rest).to_owned()))?;
        let (found, behind) = behind.split_once(',').map_or((behind, None), |(t, more)| (t, Some(more)));
        let words: Vec<String> = found.split_whitespace().map(str::to_ascii_lowercase).collect();
        let sql_type = SqlType::of(&words.join(" "))
            .ok_or_else(|| SchemaError::Type { column: name.clone(), found: found.trim().to_owned() })?;
        if name.starts_with('_') {
            return Err(SchemaError::Reserved(name));
        }
        if !names.insert(name.clone()) {
            return Err(SchemaError::Twice(name));
        }
        if columns.len() == MAX_COLUMNS {
            return Err(SchemaError::TooMany);
        }
        columns.push(SqlColumn { name, sql_type });
        rest = match behind.map(str::trim) {
            // A comma announces another column.
            Some("") => return Err(SchemaError::Column(String::new())),
            Some(more) => more,
            None => "",
        };
    }
    Ok(columns)
}

/// The first column of a list, for a message.
fn first(list: &str) -> &str {
    list.split(',').next().unwrap_or_default().trim()
}

/// A name, and what stands behind it.
fn split_name(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (name, rest) = quoted.split_once('"')?;
        return (!name.is_empty()).then(|| (name.to_owned(), rest));
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let good = !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit());
    (good && rest.starts_with(char::is_whitespace)).then(|| (name.to_owned(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, sql_type: SqlType) -> SqlColumn {
        SqlColumn { name: name.to_owned(), sql_type }
    }

    #[test]
    fn columns_are_read_as_they_are_written() {
        let columns =
            parse(" orderId BIGINT,price double  precision , \"a b\" text,ok bool, größe int").unwrap();
        let expected = [
            column("orderId", SqlType::Int8),
            column("price", SqlType::Float8),
            column("a b", SqlType::Text),
            column("ok", SqlType::Boolean),
            column("größe", SqlType::Int4),
        ];
        assert_eq!(columns, expected);
        assert_eq!(parse(" "), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_list_of_columns_is_refused() {
        for (text, why) in [
            ("id", "`id` is no column"),
            ("id bigint,", "`` is no column"),
            ("id bigint,,x int", "`` is no column"),
            ("1d int", "`1d int` is no column"),
            ("a-b int", "`a-b int` is no column"),
            ("\"\" int", "is no column"),
            ("\"a int", "is no column"),
            ("id number", "`number` is no type for the column id"),
            ("id", "no column"),
            ("a int, a text", "a is there twice"),
            ("_ts int", "begins with an underscore"),
        ] {
            let refused = parse(text).unwrap_err().to_string();
            assert!(refused.contains(why), "{text}: {refused}");
        }
        let many: Vec<String> = (0..=MAX_COLUMNS).map(|i| format!("c{i} int")).collect();
        assert_eq!(parse(&many.join(",")), Err(SchemaError::TooMany));
    }
}
