//! The tables of a database, and what their columns are.
//!
//! In SQLite a column holds values of any kind. Where its declared type says which it should hold, others do not fit, and are NULL.
//! Where it does not, the first rows are looked at.

use kafscale_core::sql_schema::{SqlColumn, SqlType};
use kafscale_sql::topic::cell::Cell;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode};

use super::session::SqliteError;

/// Rows that are looked at for columns whose declared type says nothing, as far as the time for a question goes.
const SAMPLE_ROWS: usize = 1_000;
/// A database with more than these is none that somebody made for a use.
const MAX_TABLES: usize = 10_000;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Int,
    Real,
    Text,
    Bytes,
    Boolean,
    Date,
    Timestamp,
    /// Values of different kinds, as text.
    Any,
}

impl Kind {
    pub fn sql_type(self) -> SqlType {
        match self {
            Kind::Int => SqlType::Int8,
            Kind::Real => SqlType::Float8,
            Kind::Text | Kind::Any => SqlType::Text,
            Kind::Bytes => SqlType::Bytea,
            Kind::Boolean => SqlType::Boolean,
            Kind::Date => SqlType::Date,
            Kind::Timestamp => SqlType::LocalTimestamp,
        }
    }

    /// Of a declared type, by SQLite's own rules (affinity). None: it does not say.
    fn declared(declared: &str) -> Option<Kind> {
        let declared = declared.to_ascii_uppercase();
        let has = |part: &str| declared.contains(part);
        match () {
            () if has("INT") => Some(Kind::Int),
            () if has("CHAR") || has("CLOB") || has("TEXT") => Some(Kind::Text),
            () if has("BLOB") => Some(Kind::Bytes),
            () if has("REAL") || has("FLOA") || has("DOUB") => Some(Kind::Real),
            () if has("BOOL") => Some(Kind::Boolean),
            () if has("DEC") || has("NUMERIC") => Some(Kind::Real),
            () => None,
        }
    }

    /// A value as it fits the column.
    pub fn cell<'a>(self, value: ValueRef<'a>) -> Cell<'a> {
        let text =
            |bytes: &'a [u8]| std::str::from_utf8(bytes).map_or(Cell::Misfit, |text| Cell::Text(text.into()));
        match (self, value) {
            (_, ValueRef::Null) => Cell::Null,
            (Kind::Int | Kind::Real, ValueRef::Integer(value)) => Cell::Int(value),
            (Kind::Real, ValueRef::Real(value)) => Cell::Float8(value),
            (Kind::Boolean, ValueRef::Integer(value @ (0 | 1))) => Cell::Boolean(value == 1),
            (Kind::Bytes, ValueRef::Blob(bytes)) => Cell::Bytes(bytes.into()),
            (Kind::Text | Kind::Date | Kind::Timestamp | Kind::Any, ValueRef::Text(bytes)) => text(bytes),
            (Kind::Any, ValueRef::Integer(value)) => Cell::Int(value),
            (Kind::Any, ValueRef::Real(value)) => Cell::Float8(value),
            (Kind::Any, ValueRef::Blob(bytes)) => Cell::Bytes(bytes.into()),
            _ => Cell::Misfit,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
    /// It is one of a table, and so declared, so that SQLite keeps values in it as its kind where it can.
    pub has_affinity: bool,
}

impl Column {
    pub fn sql_column(&self) -> SqlColumn {
        SqlColumn { name: self.name.clone(), sql_type: self.kind.sql_type() }
    }
}

/// A table or a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// As the database writes it.
    pub name: String,
    pub columns: Vec<Column>,
    /// Whether text is kept in UTF-8, so that it is in the order of its bytes.
    pub is_utf8: bool,
}

/// A name in double quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Names of tables and views, and whether it is a view. Not those that SQLite or its extensions keep for themselves.
pub fn tables(connection: &Connection) -> Result<Vec<(String, bool)>, SqliteError> {
    let mut statement = connection.prepare(
        "SELECT name, type = 'view' FROM pragma_table_list \
         WHERE schema = 'main' AND type IN ('table', 'view', 'virtual') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
         ORDER BY name LIMIT ?1",
    )?;
    let rows = statement.query_map([MAX_TABLES as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A table by its name as the database writes it. SQLite itself would find it in any case.
pub fn find(connection: &Connection, name: &str) -> Result<Option<Found>, SqliteError> {
    let all = tables(connection)?;
    let Some((name, is_view)) = all.iter().find(|(known, _)| known == name) else { return Ok(None) };
    let encoding: String =
        connection.query_row("SELECT encoding FROM pragma_encoding", [], |row| row.get(0))?;
    let mut columns: Vec<(String, Option<Kind>)> = Vec::new();
    let mut statement =
        connection.prepare("SELECT name, type FROM pragma_table_xinfo(?1) WHERE hidden <> 1 ORDER BY cid")?;
    let mut rows = statement.query([name])?;
    while let Some(row) = rows.next()? {
        let declared: Option<String> = row.get(1)?;
        columns.push((row.get(0)?, declared.as_deref().and_then(Kind::declared)));
    }
    let sampled = sampled(connection, name, &columns)?;
    let column = |((name, declared), sampled): ((String, Option<Kind>), Kind)| Column {
        name,
        kind: declared.unwrap_or(sampled),
        has_affinity: declared.is_some() && !is_view,
    };
    let columns = columns.into_iter().zip(sampled).map(column).collect();
    Ok(Some(Found { name: name.clone(), columns, is_utf8: encoding == "UTF-8" }))
}

/// What the values of a column have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    As(Kind),
}

impl Seen {
    fn of(value: ValueRef<'_>) -> Seen {
        Seen::As(match value {
            ValueRef::Null => return Seen::Nothing,
            ValueRef::Integer(_) => Kind::Int,
            ValueRef::Real(_) => Kind::Real,
            ValueRef::Blob(_) => Kind::Bytes,
            ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) if is_date(text) => Kind::Date,
                Ok(text) if is_timestamp(text) => Kind::Timestamp,
                _ => Kind::Text,
            },
        })
    }

    fn and(self, other: Seen) -> Seen {
        match (self, other) {
            (Seen::Nothing, seen) | (seen, Seen::Nothing) => seen,
            (one, two) if one == two => one,
            (Seen::As(Kind::Int), Seen::As(Kind::Real)) | (Seen::As(Kind::Real), Seen::As(Kind::Int)) => {
                Seen::As(Kind::Real)
            }
            (
                Seen::As(Kind::Text | Kind::Date | Kind::Timestamp),
                Seen::As(Kind::Text | Kind::Date | Kind::Timestamp),
            ) => Seen::As(Kind::Text),
            _ => Seen::As(Kind::Any),
        }
    }
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok()
}

fn is_timestamp(text: &str) -> bool {
    let forms = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M"];
    forms.iter().any(|form| chrono::NaiveDateTime::parse_from_str(text, form).is_ok())
}

/// What columns without a declared kind hold, by the first rows.
fn sampled(
    connection: &Connection,
    table: &str,
    columns: &[(String, Option<Kind>)],
) -> Result<Vec<Kind>, SqliteError> {
    let mut seen = vec![Seen::Nothing; columns.len()];
    if columns.iter().any(|(_, declared)| declared.is_none()) {
        let value = |(name, declared): &(String, Option<Kind>)| match declared {
            Some(_) => "NULL".to_owned(),
            None => quoted(name),
        };
        let values = columns.iter().map(value).collect::<Vec<_>>().join(", ");
        let sql = format!("SELECT {values} FROM main.{} LIMIT {SAMPLE_ROWS}", quoted(table));
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        loop {
            match rows.next() {
                Ok(Some(row)) => {
                    for (at, seen) in seen.iter_mut().enumerate() {
                        *seen = seen.and(Seen::of(row.get_ref(at)?));
                    }
                }
                Ok(None) => break,
                // A view may take its time for the first row.
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    let kind = |seen: Seen| match seen {
        Seen::Nothing => Kind::Any,
        // What looks like text in the first rows may be something else in the next.
        Seen::As(Kind::Text) => Kind::Any,
        Seen::As(kind) => kind,
    };
    Ok(seen.into_iter().map(kind).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_types_are_taken_as_sqlite_takes_them() {
        for (declared, kind) in [
            ("INTEGER", Some(Kind::Int)),
            ("unsigned big int", Some(Kind::Int)),
            ("VARCHAR(20)", Some(Kind::Text)),
            ("DOUBLE PRECISION", Some(Kind::Real)),
            ("DECIMAL(10,2)", Some(Kind::Real)),
            ("boolean", Some(Kind::Boolean)),
            ("BLOB", Some(Kind::Bytes)),
            ("DATE", None),
            ("", None),
        ] {
            assert_eq!(Kind::declared(declared), kind, "{declared}");
        }
    }

    #[test]
    fn values_have_what_is_common_to_them() {
        let of = |values: &[ValueRef<'_>]| {
            values.iter().fold(Seen::Nothing, |seen, value| seen.and(Seen::of(*value)))
        };
        let (date, moment, text) =
            (ValueRef::Text(b"2024-02-29"), ValueRef::Text(b"2024-02-29 10:00:00"), ValueRef::Text(b"x"));
        for (values, seen) in [
            (vec![], Seen::Nothing),
            (vec![ValueRef::Null, date], Seen::As(Kind::Date)),
            (vec![moment, moment], Seen::As(Kind::Timestamp)),
            (vec![moment, date], Seen::As(Kind::Text)),
            (vec![ValueRef::Integer(1), ValueRef::Real(1.5)], Seen::As(Kind::Real)),
            (vec![ValueRef::Integer(1), text], Seen::As(Kind::Any)),
            (vec![ValueRef::Text(b"2023-02-29")], Seen::As(Kind::Text)),
        ] {
            assert_eq!(of(&values), seen, "{values:?}");
        }
    }
}
