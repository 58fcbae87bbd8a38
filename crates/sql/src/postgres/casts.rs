//! Casts as PostgreSQL has them, to types that the engine calls something else, and of literals that it reads another way: bytes
//! (`'\x00ff'`), arrays (`'{a,b}'`) and intervals (`'1 day 02:03:04'`).

use datafusion::sql::sqlparser::ast::{
    Array, ArrayElemTypeDef, CastKind, DataType, ExactNumberInfo, Expr, TimezoneInfo, UnaryOperator, Value,
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
    if is_numeric(data_type)
        && let Some(text) = constant(inner)
        && let Some(exact) = exact(&text, data_type)
    {
        return Some(kept(exact, kind));
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

/// Digits of a numeric, and those behind the point where nothing says how many.
const DIGITS_MAX: usize = 38;
const FRACTION_DIGITS: usize = 10;

fn is_numeric(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Numeric(_) | DataType::Decimal(_) | DataType::Dec(_))
        || name_of(data_type).as_deref() == Some("numeric")
}

/// A number or a text in the statement, with its sign.
fn constant(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => Some(digits.to_string()),
            Value::SingleQuotedString(text) => Some(text.trim().to_owned()),
            _ => None,
        },
        Expr::Nested(inner) => constant(inner),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match &**expr {
            Expr::Value(value) if matches!(value.value, Value::Number(..)) => {
                Some(format!("-{}", constant(expr)?))
            }
            _ => None,
        },
        _ => None,
    }
}

/// A constant as a numeric with all its digits: the engine would make a double of it first. A numeric of a size that is not
/// said has as many digits behind the point as the text has.
fn exact(text: &str, data_type: &DataType) -> Option<Expr> {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    let exponent: i32 = exponent.parse().ok()?;
    if mantissa.len() < 1 + usize::from(mantissa.contains('.'))
        || !is_number(whole)
        || !is_number(fraction)
        || exponent.unsigned_abs() as usize > DIGITS_MAX
    {
        return None;
    }
    let (mut whole, mut fraction) = (whole.to_owned(), fraction.to_owned());
    for _ in 0..exponent {
        whole.push(if fraction.is_empty() { '0' } else { fraction.remove(0) });
    }
    for _ in exponent..0 {
        fraction.insert(0, whole.pop().unwrap_or('0'));
    }
    let whole = whole.trim_start_matches('0');
    if whole.len() + fraction.len() > DIGITS_MAX {
        return None;
    }
    let scale = fraction.len().max(FRACTION_DIGITS.min(DIGITS_MAX - whole.len()));
    let size = ExactNumberInfo::PrecisionAndScale(DIGITS_MAX as u64, i64::try_from(scale).ok()?);
    let is_bare = matches!(
        data_type,
        DataType::Custom(..)
            | DataType::Numeric(ExactNumberInfo::None)
            | DataType::Decimal(ExactNumberInfo::None)
            | DataType::Dec(ExactNumberInfo::None)
    );
    let target = if is_bare { DataType::Numeric(size) } else { data_type.clone() };
    let whole = if whole.is_empty() { "0" } else { whole };
    let point = if fraction.is_empty() { "" } else { "." };
    let text = Value::SingleQuotedString(format!("{sign}{whole}{point}{fraction}"));
    Some(to(Expr::Value(text.into()), target))
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
        "numeric" => DataType::Numeric(ExactNumberInfo::None),
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

/// An interval in the words that the engine knows: its time with units, and so are the forms of ISO 8601 (`P1Y2M3DT4H`) and of
/// the SQL standard (`1-2` of years and months). A comma is a blank, and `ago` turns all signs.
pub fn interval(text: &str) -> String {
    let text = text.trim();
    let text = text.strip_prefix('@').unwrap_or(text).replace(',', " ");
    let words = text.split_whitespace().map(|word| {
        let written = clock(word).or_else(|| years(word)).or_else(|| of_iso(word));
        written.unwrap_or_else(|| word.to_owned())
    });
    let text = words.collect::<Vec<_>>().join(" ");
    let Some(before) = text.strip_suffix(" ago") else { return text };
    let turned = before.split(' ').map(|word| match word.strip_prefix('-') {
        Some(plain) => plain.to_owned(),
        None if word.starts_with(|c: char| c.is_ascii_digit()) => format!("-{word}"),
        None => word.to_owned(),
    });
    turned.collect::<Vec<_>>().join(" ")
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_digit())
}

fn signed(word: &str) -> (&str, &str) {
    match word.strip_prefix('-') {
        Some(plain) => ("-", plain),
        None => ("", word.strip_prefix('+').unwrap_or(word)),
    }
}

/// `02:03:04.5`
fn clock(word: &str) -> Option<String> {
    let (sign, plain) = signed(word);
    let mut parts = plain.split(':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0"));
    let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    if parts.next().is_some() || ![hours, minutes, seconds].into_iter().all(is_number) {
        return None;
    }
    let whole = format!("{sign}{hours} hours {sign}{minutes} minutes {sign}{seconds} seconds");
    match fraction.is_empty() {
        true => Some(whole),
        false if !is_number(fraction) => None,
        // A fraction of a second is whole microseconds.
        false => Some(format!("{whole} {sign}{fraction:0<6.6} microseconds")),
    }
}

/// `1-2`, a year and two months.
fn years(word: &str) -> Option<String> {
    let (sign, plain) = signed(word);
    let (years, months) = plain.split_once('-')?;
    (is_number(years) && is_number(months)).then(|| format!("{sign}{years} years {sign}{months} months"))
}

/// `P1Y2M3DT4H5M6S`
fn of_iso(word: &str) -> Option<String> {
    let (mut rest, mut in_time, mut words) = (word.strip_prefix('P')?, false, Vec::new());
    while !rest.is_empty() {
        if let Some(behind) = rest.strip_prefix('T') {
            (rest, in_time) = (behind, true);
            continue;
        }
        let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let unit = match (rest[end..].chars().next()?, in_time) {
            ('Y', false) => "years",
            ('M', false) => "months",
            ('W', false) => "weeks",
            ('D', false) => "days",
            ('H', true) => "hours",
            ('M', true) => "minutes",
            ('S', true) => "seconds",
            _ => return None,
        };
        rest[..end].parse::<f64>().ok()?;
        words.push(format!("{} {unit}", &rest[..end]));
        rest = &rest[end + 1..];
    }
    (!words.is_empty()).then(|| words.join(" "))
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
        for (text, expected) in [
            ("3 days, 0:00:05.000007", "3 days 0 hours 00 minutes 05 seconds 000007 microseconds"),
            ("-0:00:00.5", "-0 hours -00 minutes -00 seconds -500000 microseconds"),
            ("P1Y2M3DT4H5M6.5S", "1 years 2 months 3 days 4 hours 5 minutes 6.5 seconds"),
            ("P-1D", "-1 days"),
            ("1-2", "1 years 2 months"),
            ("@ 1 minute", "1 minute"),
            ("1 day -2 hours ago", "-1 day 2 hours"),
        ] {
            assert_eq!(interval(text), expected, "{text}");
        }
    }

    #[test]
    fn constants_are_numerics_with_all_their_digits() {
        let made =
            |text: &str| exact(text, &DataType::Numeric(ExactNumberInfo::None)).map(|cast| cast.to_string());
        for (text, number, scale) in [
            ("746942.68", "746942.68", 10),
            ("-0.123456789012345", "-0.123456789012345", 15),
            ("1.5e3", "1500", 10),
            ("15e-12", "0.000000000015", 12),
            ("9999999999999999999999999999.99", "9999999999999999999999999999.99", 10),
            ("12345678901234567890123456789012345", "12345678901234567890123456789012345", 3),
            ("007", "7", 10),
        ] {
            let expected = format!("CAST('{number}' AS NUMERIC(38,{scale}))");
            assert_eq!(made(text).as_deref(), Some(&*expected), "{text}");
        }
        for none in ["", "x", "1e99", "1.2.3", "123456789012345678901234567890123456789"] {
            assert_eq!(made(none), None, "{none}");
        }
        let sized = DataType::Numeric(ExactNumberInfo::PrecisionAndScale(5, 2));
        assert_eq!(exact("1.005", &sized).unwrap().to_string(), "CAST('1.005' AS NUMERIC(5,2))");
    }
}
