//! Casts as PostgreSQL has them, to types that the engine calls something else, and of literals that it reads another way: bytes
//! (`'\x00ff'`), arrays (`'{a,b}'`) and intervals (`'1 day 02:03:04'`).

use datafusion::sql::sqlparser::ast::{
    Array, ArrayElemTypeDef, CastKind, DataType, Expr, TimezoneInfo, Value,
};

use super::functions::TYPE_NAME;
use super::regclass;
use super::rewrite::{CATALOG, call, to};

/// Another expression for a cast, where it needs one.
pub fn cast(inner: &Expr, data_type: &DataType, kind: &CastKind) -> Option<Expr> {
    let literal = literal(inner);
    if is_text(data_type)
        && let Expr::Cast { expr: of, data_type: between, .. } = inner
        && name_of(between).as_deref() == Some("regclass")
        && let Some(name) = self::literal(of)
    {
        return Some(kept(to(regclass::of_name(&name, true), DataType::Text), kind));
    }
    if let DataType::Array(ArrayElemTypeDef::SquareBracket(item, size)) = data_type {
        let item = plain(item).unwrap_or_else(|| (**item).clone());
        let list = DataType::Array(ArrayElemTypeDef::SquareBracket(Box::new(item), *size));
        let inner = literal.and_then(|text| array_of(&text)).unwrap_or_else(|| inner.clone());
        return Some(kept(to(inner, list), kind));
    }
    match name_of(data_type)?.as_str() {
        "regtype" => match inner {
            // A name stays a name.
            Expr::Value(_) => Some(to(inner.clone(), DataType::Text)),
            _ => Some(call(TYPE_NAME, inner.clone())),
        },
        // Of a name: the table's oid.
        "regclass" => match (literal, inner) {
            (Some(name), _) => Some(regclass::of_name(&name, false)),
            (None, Expr::Value(value)) => match &value.value {
                Value::Placeholder(name) => Some(regclass::of_parameter(name)),
                _ => Some(to(inner.clone(), DataType::Text)),
            },
            (None, _) => Some(to(inner.clone(), DataType::Text)),
        },
        // The catalogs here have functions by their names.
        "regproc" | "regprocedure" | "regnamespace" | "regrole" => Some(to(inner.clone(), DataType::Text)),
        "json" | "jsonb" => Some(call("kafscale_json", inner.clone())),
        "uuid" => Some(call("kafscale_uuid", inner.clone())),
        "bytea" => {
            let hex = literal?.strip_prefix("\\x")?.to_owned();
            Some(Expr::Value(Value::HexStringLiteral(hex).into()))
        }
        "interval" => {
            let text = Value::SingleQuotedString(interval(&literal?));
            Some(kept(to(Expr::Value(text.into()), data_type.clone()), kind))
        }
        _ => Some(kept(to(inner.clone(), plain(data_type)?), kind)),
    }
}

/// The same with the words that the cast was written in, so that it is called the same.
fn kept(mut cast: Expr, kind: &CastKind) -> Expr {
    if let Expr::Cast { kind: made, .. } = &mut cast {
        made.clone_from(kind);
    }
    cast
}

pub fn literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => value.value.clone().into_string(),
        Expr::Nested(inner) => literal(inner),
        _ => None,
    }
}

/// The name of a type that is not the engine's, without its schema.
fn name_of(data_type: &DataType) -> Option<String> {
    Some(match data_type {
        DataType::Regclass => "regclass".to_owned(),
        DataType::JSON | DataType::JSONB => "json".to_owned(),
        DataType::Bytea => "bytea".to_owned(),
        DataType::Uuid => "uuid".to_owned(),
        DataType::Interval { .. } => "interval".to_owned(),
        DataType::Custom(name, _) => {
            let parts: Vec<String> = name
                .0
                .iter()
                .filter_map(|part| part.as_ident())
                .map(|part| part.value.to_lowercase())
                .collect();
            match parts.as_slice() {
                [only] => only.clone(),
                [schema, only] if schema == CATALOG => only.clone(),
                _ => return None,
            }
        }
        _ => return None,
    })
}

fn is_text(data_type: &DataType) -> bool {
    let is_varchar = matches!(data_type, DataType::Varchar(_) | DataType::CharacterVarying(_));
    is_varchar || *data_type == DataType::Text || plain(data_type) == Some(DataType::Text)
}

/// What the engine calls a type.
fn plain(data_type: &DataType) -> Option<DataType> {
    Some(match name_of(data_type)?.as_str() {
        "name" | "text" | "cstring" | "unknown" | "json" | "jsonb" | "\"char\"" | "char" | "varchar"
        | "bpchar" | "uuid" | "xml" | "citext" | "inet" => DataType::Text,
        "oid" | "xid" | "int8" => DataType::BigInt(None),
        "int4" => DataType::Int(None),
        "int2" => DataType::SmallInt(None),
        "bool" => DataType::Boolean,
        "float8" => DataType::DoublePrecision,
        "float4" => DataType::Real,
        "numeric" => DataType::Numeric(datafusion::sql::sqlparser::ast::ExactNumberInfo::None),
        "date" => DataType::Date,
        "timestamp" => DataType::Timestamp(None, TimezoneInfo::None),
        "timestamptz" => DataType::Timestamp(None, TimezoneInfo::WithTimeZone),
        "bytea" => DataType::Bytea,
        _ => return None,
    })
}

/// `{a,"b c",NULL}` as an array of its items.
pub fn array_of(text: &str) -> Option<Expr> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    if inner.contains(['{', '}']) {
        return None;
    }
    let (mut items, mut item, mut in_quotes, mut was_quoted) = (Vec::new(), String::new(), false, false);
    let mut chars = inner.chars();
    let push = |item: &mut String, was_quoted: &mut bool, items: &mut Vec<Expr>| {
        let text = std::mem::take(item);
        let text = if *was_quoted { text } else { text.trim().to_owned() };
        let is_null = !*was_quoted && text.eq_ignore_ascii_case("null");
        let value = if is_null { Value::Null } else { Value::SingleQuotedString(text) };
        items.push(Expr::Value(value.into()));
        *was_quoted = false;
    };
    while let Some(c) = chars.next() {
        match c {
            '\\' => item.push(chars.next()?),
            '"' => (in_quotes, was_quoted) = (!in_quotes, true),
            ',' if !in_quotes => push(&mut item, &mut was_quoted, &mut items),
            // Around quotes, blanks stand for nothing.
            c if c.is_whitespace() && !in_quotes && (item.is_empty() || was_quoted) => {}
            c => item.push(c),
        }
    }
    if !inner.trim().is_empty() {
        push(&mut item, &mut was_quoted, &mut items);
    }
    (!in_quotes).then_some(Expr::Array(Array { elem: items, named: true }))
}

/// An interval whose time is written with units.
pub fn interval(text: &str) -> String {
    let word = |word: &str| {
        let (sign, plain) = word.strip_prefix('-').map_or(("", word), |plain| ("-", plain));
        let mut parts = plain.split(':');
        let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0"));
        let is_number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.');
        [hours, minutes, seconds]
            .into_iter()
            .all(is_number)
            .then(|| format!("{sign}{hours} hours {sign}{minutes} minutes {sign}{seconds} seconds"))
    };
    let words = text.split_whitespace().map(|text| word(text).unwrap_or_else(|| text.to_owned()));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_read_as_postgresql_reads_them() {
        assert_eq!(
            array_of("{a, \"b,c\" ,NULL,\"NULL\"}").unwrap().to_string(),
            "ARRAY['a', 'b,c', NULL, 'NULL']"
        );
        assert_eq!(array_of("{}").unwrap().to_string(), "ARRAY[]");
        assert_eq!((array_of("{{1}}"), array_of("x"), array_of("{\"a}")), (None, None, None));
        assert_eq!(interval("1 day 02:03:04"), "1 day 02 hours 03 minutes 04 seconds");
        assert_eq!(interval("-01:30"), "-01 hours -30 minutes -0 seconds");
        assert_eq!(interval("90 minutes"), "90 minutes");
    }
}
