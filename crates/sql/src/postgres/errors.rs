//! Errors of the engine in PostgreSQL's words: its codes (appendix A of its manual), its messages where clients look at them, hints.

use datafusion::arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;

use super::names;

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The five characters of SQLSTATE.
    pub code: &'static str,
    pub message: String,
    pub hint: Option<String>,
}

fn told(code: &'static str, message: impl Into<String>) -> Told {
    Told { code, message: message.into(), hint: None }
}

pub fn tell(error: &DataFusionError) -> Told {
    let root = error.find_root();
    let text = plain(root);
    match root {
        DataFusionError::SQL(error, _) => syntax(error),
        DataFusionError::SchemaError(inner, _) => schema(inner, text),
        DataFusionError::Plan(_) => plan(text),
        DataFusionError::NotImplemented(_) => told("0A000", text),
        DataFusionError::ResourcesExhausted(_) => told("53200", text),
        DataFusionError::ArrowError(inner, _) => arrow(inner, text),
        DataFusionError::Execution(_) => value(text),
        _ => told("XX000", text),
    }
}

/// The table that a query names and that is not there.
pub fn missing_table(error: &DataFusionError) -> Option<String> {
    let DataFusionError::Plan(why) = error.find_root() else { return None };
    let name = between(why, "table '", "' not found")?;
    Some(name.strip_prefix("kafscale.").unwrap_or(name).to_owned())
}

fn between<'a>(text: &'a str, before: &str, behind: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(behind).map(|(found, _)| found)
}

/// Where a statement is no SQL: its line and column, counted from 1.
pub fn place(error: &DataFusionError) -> Option<(usize, usize)> {
    let DataFusionError::SQL(error, _) = error.find_root() else { return None };
    place_in(&error.to_string())
}

pub fn place_in(text: &str) -> Option<(usize, usize)> {
    let (_, rest) = text.rsplit_once("at Line: ")?;
    let (line, column) = rest.split_once(", Column: ")?;
    let digits = column.find(|c: char| !c.is_ascii_digit()).unwrap_or(column.len());
    Some((line.parse().ok()?, column[..digits].parse().ok()?))
}

fn syntax(error: &ParserError) -> Told {
    let text = match error {
        ParserError::RecursionLimitExceeded => return told("54001", "the statement is nested too deeply"),
        ParserError::ParserError(text) | ParserError::TokenizerError(text) => text,
    };
    let text = text.rsplit_once(" at Line: ").map_or(text.as_str(), |(text, _)| text);
    match text.rsplit_once(", found: ") {
        Some((expected, found)) => {
            let message = match found {
                "EOF" => "syntax error at end of input".to_owned(),
                found => format!("syntax error at or near \"{found}\""),
            };
            let hint = Some(expected.replacen("Expected: ", "Expected here: ", 1));
            Told { code: "42601", message, hint }
        }
        None => told("42601", text),
    }
}

fn schema(error: &SchemaError, text: String) -> Told {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let name = match &field.relation {
                Some(relation) => format!("{}.{}", relation.table(), field.name),
                None => format!("\"{}\"", field.name),
            };
            let names = valid_fields.iter().map(|field| names::shown(&field.name));
            let hint = nearest(&field.name, names)
                .map(|near| format!("Perhaps you meant to reference the column \"{near}\"."));
            Told { code: "42703", message: format!("column {name} does not exist"), hint }
        }
        SchemaError::AmbiguousReference { field } => {
            told("42702", format!("column reference \"{}\" is ambiguous", names::shown(&field.name)))
        }
        // Columns of one selection have names of their own: two tables have the same.
        SchemaError::DuplicateQualifiedField { .. } => told("42712", text),
        SchemaError::DuplicateUnqualifiedField { .. } => told("42701", text),
    }
}

fn plan(text: String) -> Told {
    if let Some(name) = between(&text, "Invalid function '", "'") {
        let hint = between(&text, "Did you mean '", "'").map(|near| format!("Did you mean {near}?"));
        return Told { code: "42883", message: format!("function {name} does not exist"), hint };
    }
    let codes = [
        ("must be in GROUP BY", "42803"),
        ("must appear in the GROUP BY", "42803"),
        ("Cannot coerce", "42883"),
        ("Cannot infer common argument type", "42883"),
        ("Failed to coerce arguments", "42883"),
        ("does not support zero arguments", "42883"),
        ("No function matches", "42883"),
        ("expects", "42883"),
        ("LIMIT must", "2201W"),
        ("ambiguous", "42702"),
        ("specified more than once", "42712"),
        ("placeholder", "42P02"),
        ("column", "42703"),
    ];
    if text.contains("table '") && text.contains("not found") {
        let name = between(&text, "table '", "'").unwrap_or_default();
        let name = name.strip_prefix("kafscale.").unwrap_or(name);
        let name = name.strip_prefix("public.").unwrap_or(name);
        return told("42P01", format!("relation \"{name}\" does not exist"));
    }
    let code = codes.iter().find(|(words, _)| text.contains(words)).map_or("42000", |(_, code)| code);
    told(code, text)
}

fn arrow(error: &ArrowError, text: String) -> Told {
    match error {
        ArrowError::DivideByZero => told("22012", "division by zero"),
        ArrowError::ArithmeticOverflow(_) => told("22003", text),
        ArrowError::ComputeError(why) => computed(why, text),
        ArrowError::CastError(_) | ArrowError::ParseError(_) => value(text),
        ArrowError::MemoryError(_) => told("53200", text),
        _ => told("22000", text),
    }
}

/// Functions of the engine have words of their own for a result beyond its type, such as "Int64Array overflow on
/// abs(-9223372036854775808)" and "Signed integer overflow in LCM(…)".
fn computed(why: &str, text: String) -> Told {
    if why.contains("Overflowing on ") {
        return told("22008", "date out of range");
    }
    match (why.contains(" overflow on "), named(why)) {
        (true, Some(name)) => told("22003", format!("{name} out of range")),
        _ if why.contains(" overflow in ") => told("22003", "bigint out of range"),
        _ => told("22000", text),
    }
}

/// What PostgreSQL calls the type that a text of the engine names.
fn named(text: &str) -> Option<&'static str> {
    let types = [
        ("Int8", "smallint"),
        ("Int16", "smallint"),
        ("Int32", "integer"),
        ("Int64", "bigint"),
        ("UInt64", "bigint"),
        ("Float32", "real"),
        ("Float64", "double precision"),
        ("Boolean", "boolean"),
        ("Date32", "date"),
        ("Decimal", "numeric"),
        ("Time64", "time"),
        ("Interval", "interval"),
        ("Timestamp", "timestamp"),
    ];
    types.iter().find(|(known, _)| text.contains(known)).map(|(_, name)| *name)
}

/// A value that is none of its type.
fn value(text: String) -> Told {
    if let Some(bad) = between(&text, "Cannot cast string '", "' to value of ") {
        let (_, of) = text.split_once("' to value of ").unwrap_or_default();
        let name = named(of).unwrap_or("this");
        let digits = bad.trim().trim_start_matches(['+', '-']);
        let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if is_whole && matches!(name, "smallint" | "integer" | "bigint") {
            return told("22003", format!("value \"{bad}\" is out of range for type {name}"));
        }
        return told("22P02", format!("invalid input syntax for type {name}: \"{bad}\""));
    }
    let is_number = ["Can't cast value ", "value of "].iter().any(|words| text.starts_with(words));
    let of = text.rsplit_once("Int").map(|(_, bits)| format!("Int{bits}")).filter(|_| is_number);
    if let Some(name @ ("smallint" | "integer" | "bigint")) = of.as_deref().and_then(named) {
        return told("22003", format!("{name} out of range"));
    }
    if text.contains("as months in a signed 32-bit integer") {
        return told("22008", "interval out of range");
    }
    if let Some(bad) = between(&text, "Error parsing timestamp from '", "'") {
        return told("22007", format!("invalid input syntax for type timestamp: \"{bad}\""));
    }
    if text.contains("Can't cast value") || text.contains("verflow") || text.contains("out of range") {
        return told("22003", text);
    }
    let is_text = ["Cannot parse", "arse", "Invalid input syntax", "Cannot cast"];
    let code = if is_text.iter().any(|words| text.contains(words)) { "22P02" } else { "22000" };
    told(code, text)
}

/// The message without the engine's words for where it arose.
fn plain(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    let prefixes = [
        "Error during planning: ",
        "Schema error: ",
        "SQL error: ",
        "This feature is not implemented: ",
        "Execution error: ",
        "Arrow error: ",
        "Cast error: ",
        "Parser error: ",
        "Resources exhausted: ",
        "External error: ",
    ];
    let mut text = text.as_str();
    while let Some(rest) = prefixes.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        text = rest;
    }
    text.to_owned()
}

/// The name that is most like another, if one is like it.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = name.chars().count() / 3 + 1;
    let near = names.map(|known| (distance(&name.to_lowercase(), &known.to_lowercase()), known));
    near.filter(|(distance, _)| *distance <= most).min().map(|(_, known)| known)
}

/// Of Levenshtein: how many letters have to be put in, taken out or changed.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_near_when_few_letters_differ() {
        let names = ["orders", "payments", "order-lines", "x"];
        for (name, near) in [
            ("order", Some("orders")),
            ("ORDERS", Some("orders")),
            ("paymnets", Some("payments")),
            ("quite else", None),
        ] {
            assert_eq!(nearest(name, names.into_iter()), near, "{name}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn what_the_engine_says_is_said_in_words_of_postgresql() {
        let plan = |text: &str| DataFusionError::Plan(text.to_owned());
        let cast =
            |text: &str| DataFusionError::ArrowError(Box::new(ArrowError::CastError(text.to_owned())), None);
        let parse =
            |text: &str| DataFusionError::SQL(Box::new(ParserError::ParserError(text.to_owned())), None);
        for (error, code, message) in [
            (plan("table 'kafscale.public.nosuch' not found"), "42P01", "relation \"nosuch\" does not exist"),
            (plan("Invalid function 'f'.\nDid you mean 'g'?"), "42883", "function f does not exist"),
            (
                cast("Cannot cast string 'x' to value of Int64 type"),
                "22P02",
                "invalid input syntax for type bigint: \"x\"",
            ),
            (
                cast("Cannot cast string '-99999999999' to value of Int32 type"),
                "22003",
                "value \"-99999999999\" is out of range for type integer",
            ),
            (cast("Can't cast value 3000000000 to type Int32"), "22003", "integer out of range"),
            (cast("value of 10000000000 is out of range Int16"), "22003", "smallint out of range"),
            (
                parse("Expected: end of statement, found: FORM at Line: 1, Column: 10"),
                "42601",
                "syntax error at or near \"FORM\"",
            ),
            (parse("Expected: an expression, found: EOF"), "42601", "syntax error at end of input"),
        ] {
            let told = tell(&error);
            assert_eq!((told.code, told.message.as_str()), (code, message));
        }
        assert_eq!(place_in("Expected: x, found: y at Line: 2, Column: 10"), Some((2, 10)));
    }
}
