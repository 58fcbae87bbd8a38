//! The columns that a topic's values have in SQL, as the topic settings `kafscale.sql.format` and `kafscale.sql.schema` state them:
//! a list, `id bigint, note text`, or where a schema of Avro or Protobuf is.
//!
//! Names are taken as they are written, since fields of JSON tell upper from lower case; others than letters, digits and underscores
//! stand in double quotes. Left to others: reading schemas and values.

use std::collections::HashSet;

/// What `kafscale.sql.format` may be.
pub const FORMATS: [&str; 7] = ["infer", "json", "csv", "text", "raw", "avro", "protobuf"];
/// Those of them whose columns come from a schema.
const WITH_SCHEMAS: [&str; 2] = ["avro", "protobuf"];

/// More columns than anybody reads.
pub const MAX_COLUMNS: usize = 1_000;

/// The most digits that clients of PostgreSQL in Rust and Java take without loss.
pub const MAX_PRECISION: u8 = 28;

/// A type of SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SqlType {
    Boolean,
    Int4,
    Int8,
    Float4,
    Float8,
    /// So many digits, of which so many stand behind the point.
    Numeric(u8, u8),
    Text,
    /// In JSON and CSV in hex, as PostgreSQL writes it: `\\x00ff`.
    Bytea,
    /// A moment: RFC 3339 text, or milliseconds since 1970.
    Timestamp,
    /// What a clock on the wall shows.
    LocalTimestamp,
    Date,
    Time,
    /// Any JSON, as it stands in the value.
    Json,
}

impl SqlType {
    fn of(name: &str) -> Option<SqlType> {
        Some(match name {
            "boolean" | "bool" => SqlType::Boolean,
            "int" | "integer" | "int4" => SqlType::Int4,
            "bigint" | "int8" => SqlType::Int8,
            "real" | "float4" => SqlType::Float4,
            "double precision" | "double" | "float8" => SqlType::Float8,
            "text" | "varchar" => SqlType::Text,
            "bytea" => SqlType::Bytea,
            "timestamp" | "timestamptz" | "timestamp with time zone" => SqlType::Timestamp,
            "timestamp without time zone" => SqlType::LocalTimestamp,
            "date" => SqlType::Date,
            "time" | "time without time zone" => SqlType::Time,
            "json" | "jsonb" => SqlType::Json,
            other => return SqlType::numeric(other),
        })
    }

    /// `numeric(12,2)`.
    fn numeric(name: &str) -> Option<SqlType> {
        let rest = name.strip_prefix("numeric").or_else(|| name.strip_prefix("decimal"))?;
        let digits = rest.trim().strip_prefix('(')?.strip_suffix(')')?;
        let (precision, scale) = digits.split_once(',').unwrap_or((digits, "0"));
        let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
        let good = (1..=MAX_PRECISION).contains(&precision) && scale <= precision;
        good.then_some(SqlType::Numeric(precision, scale))
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
        "`{found}` is no type for the column {column}: use boolean, int, bigint, real, double, numeric(P,S) with up to {MAX_PRECISION} digits, \
         text, bytea, timestamp, date, time or json"
    )]
    Type { column: String, found: String },
    #[error("the column {0} is there twice")]
    Twice(String),
    #[error("the column {0} begins with an underscore, as only the columns of every topic do")]
    Reserved(String),
    #[error("there are more than {MAX_COLUMNS} columns")]
    TooMany,
    #[error(
        "`{0}` names no file: write file:NAME, or file:NAME.proto#package.Message, with a name below the directory of schemas, of letters, \
         digits, dots, dashes, underscores and slashes"
    )]
    File(String),
    #[error("`{0}` names no subject: write subject:NAME, or subject:NAME#package.Message")]
    Subject(String),
    #[error(
        "the format {format} has no list of columns: its schema is empty, for the one that the registry has, or {SOURCES}"
    )]
    NoColumns { format: String },
    #[error(
        "the format {format} has a list of columns, as in `id bigint, note text`, and no schema of Avro or Protobuf"
    )]
    OnlyColumns { format: String },
}

/// What a setting of a schema says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Declared {
    /// Empty: to be inferred, or the registry's.
    Nothing,
    Columns(Vec<SqlColumn>),
    /// A schema of Avro, in JSON.
    Inline(String),
    /// A file below the directory of schemas, and a message in it.
    File {
        name: String,
        message: Option<String>,
    },
    /// A subject of the registry, and a message in its schema.
    Subject {
        name: String,
        message: Option<String>,
    },
}

const SOURCES: &str = "file:NAME, subject:NAME, or a schema of Avro in JSON";

impl Declared {
    pub fn parse(text: &str) -> Result<Declared, SchemaError> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Declared::Nothing);
        }
        if text.starts_with(['{', '[']) {
            return Ok(Declared::Inline(text.to_owned()));
        }
        let parts = |rest: &str| match rest.split_once('#') {
            Some((name, message)) => (name.trim().to_owned(), Some(message.trim().to_owned())),
            None => (rest.trim().to_owned(), None),
        };
        if let Some(rest) = text.strip_prefix("file:") {
            let (name, message) = parts(rest);
            let good = is_file_name(&name) && message.as_deref().is_none_or(is_message);
            return good
                .then_some(Declared::File { name, message })
                .ok_or(SchemaError::File(rest.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("subject:") {
            let (name, message) = parts(rest);
            let good = !name.is_empty() && message.as_deref().is_none_or(is_message);
            let refused = SchemaError::Subject(rest.to_owned());
            return good.then_some(Declared::Subject { name, message }).ok_or(refused);
        }
        parse(text).map(Declared::Columns)
    }

    /// Whether it goes with a format. `None`: no format is said.
    pub fn check(&self, format: Option<&str>) -> Result<(), SchemaError> {
        let format = format.unwrap_or("infer").trim();
        let with_schema = WITH_SCHEMAS.contains(&format);
        match self {
            Declared::Columns(_) if with_schema => Err(SchemaError::NoColumns { format: format.to_owned() }),
            Declared::Inline(_) if format != "avro" => {
                Err(SchemaError::OnlyColumns { format: format.to_owned() })
            }
            Declared::File { .. } | Declared::Subject { .. } if !with_schema => {
                Err(SchemaError::OnlyColumns { format: format.to_owned() })
            }
            _ => Ok(()),
        }
    }
}

/// Whether a name stays below the directory that it is looked for in. Settings come from whoever may alter a topic.
pub fn is_file_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(plain);
    name.len() <= 255 && name.split('/').all(part)
}

fn is_message(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_'))
}

/// The columns that a text states; none, for an empty one.
pub fn parse(text: &str) -> Result<Vec<SqlColumn>, SchemaError> {
    let (mut columns, mut names) = (Vec::new(), HashSet::new());
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, behind) = split_name(rest).ok_or_else(|| SchemaError::Column(first(rest).to_owned()))?;
        let (found, behind) = split_type(behind);
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

/// A type, and what stands behind its comma.
fn split_type(text: &str) -> (&str, Option<&str>) {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => return (&text[..at], Some(&text[at + 1..])),
            _ => {}
        }
    }
    (text, None)
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
            parse(" orderId BIGINT,price double  precision , \"a b\" text,ok bool, größe int, n Numeric( 12 , 2 ),at time")
                .unwrap();
        let expected = [
            column("orderId", SqlType::Int8),
            column("price", SqlType::Float8),
            column("a b", SqlType::Text),
            column("ok", SqlType::Boolean),
            column("größe", SqlType::Int4),
            column("n", SqlType::Numeric(12, 2)),
            column("at", SqlType::Time),
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
            ("id numeric", "is no type for the column id"),
            ("id numeric(29)", "is no type for the column id"),
            ("id numeric(2,3), x int", "`numeric(2,3)` is no type for the column id"),
            ("id numeric(2,1", "is no type for the column id"),
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

    #[test]
    fn a_schema_may_be_elsewhere() {
        let file = |name: &str, message: Option<&str>| Declared::File {
            name: name.to_owned(),
            message: message.map(str::to_owned),
        };
        for (text, declared) in [
            ("", Declared::Nothing),
            (" {\"type\":\"int\"} ", Declared::Inline("{\"type\":\"int\"}".to_owned())),
            ("file:orders.avsc", file("orders.avsc", None)),
            ("file:a/b.proto#shop.v1.Order", file("a/b.proto", Some("shop.v1.Order"))),
            ("subject:x-value", Declared::Subject { name: "x-value".to_owned(), message: None }),
            ("a int", Declared::Columns(vec![column("a", SqlType::Int4)])),
        ] {
            assert_eq!(Declared::parse(text), Ok(declared), "{text}");
        }
        for text in [
            "file:",
            "file:/etc/passwd",
            "file:../x",
            "file:a/../x",
            "file:a//b",
            "file:.hidden",
            "file:a\\b",
            "file:x#",
            "file:x#a b",
            "subject:",
            "subject:x#",
        ] {
            assert!(Declared::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_schema_goes_with_its_format() {
        for (format, text, good) in [
            (None, "a int", true),
            (Some("json"), "a int", true),
            (Some("avro"), "a int", false),
            (Some("avro"), "", true),
            (Some("avro"), "{}", true),
            (Some("protobuf"), "{}", false),
            (Some("protobuf"), "file:a.proto#A", true),
            (Some("json"), "file:a.avsc", false),
            (None, "subject:a", false),
        ] {
            assert_eq!(Declared::parse(text).unwrap().check(format).is_ok(), good, "{format:?} {text}");
        }
    }
}
