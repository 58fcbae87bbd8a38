//! SET, RESET and SHOW: settings of a session, as PostgreSQL has them.
//!
//! Those that clients need are taken and remembered, whether or not they mean something here; the others are refused. What they mean is
//! for the session to say.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::Statement;
use super::tokens::Tokens;
use crate::error::SqlError;

/// A setting, by its name in small letters, and its new value; `None` for the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub name: String,
    pub value: Option<String>,
    /// Until the end of the transaction block.
    pub local: bool,
}

/// `SET [SESSION | LOCAL] name {= | TO} value`, and its older forms.
pub fn set(tokens: &Tokens) -> Result<Statement, SqlError> {
    let words = tokens.words();
    let mut at = 1;
    let local = words.get(1).is_some_and(|word| word == "LOCAL");
    if matches!(words.get(at).map(String::as_str), Some("SESSION" | "LOCAL")) {
        at += 1;
    }
    let word = |n: usize| words.get(at + n).map_or("", String::as_str);
    let (name, value_at) = match (word(0), word(1)) {
        // Whatever is asked for: nothing is ever written, and each statement sees one moment.
        ("CHARACTERISTICS" | "TRANSACTION", _) => return Ok(Statement::Nothing("SET")),
        ("TIME", "ZONE") => ("timezone".to_owned(), at + 2),
        ("NAMES", _) => ("client_encoding".to_owned(), at + 1),
        ("", _) => return Err(SqlError::Syntax("SET needs the name of a setting".to_owned())),
        (name, "=" | "TO") => (name.to_lowercase(), at + 2),
        (name, _) => return Err(SqlError::Syntax(format!("SET {name} needs TO and a value"))),
    };
    let value = tokens.behind_words(value_at);
    let is_default = matches!(value.words().as_slice(), [only] if only == "DEFAULT");
    let value = if is_default { None } else { Some(plain_value(&value)?) };
    Ok(Statement::Set(Setting { name, value, local }))
}

pub fn reset(tokens: &Tokens) -> Result<Statement, SqlError> {
    match tokens.words().get(1).map(String::as_str) {
        Some("ALL") => Ok(Statement::ResetAll),
        Some(name) => Ok(Statement::Set(Setting { name: name.to_lowercase(), value: None, local: false })),
        None => Err(SqlError::Syntax("RESET needs the name of a setting".to_owned())),
    }
}

/// The name that SHOW asks for.
pub fn shown(tokens: &Tokens) -> Result<String, SqlError> {
    match tokens.words().get(1..).unwrap_or_default() {
        [time, zone] if time == "TIME" && zone == "ZONE" => Ok("timezone".to_owned()),
        [transaction, rest @ ..] if transaction == "TRANSACTION" && !rest.is_empty() => {
            Ok("transaction_isolation".to_owned())
        }
        [name] => Ok(name.to_lowercase().trim_matches('"').to_owned()),
        _ => Err(SqlError::Syntax("SHOW needs the name of one setting".to_owned())),
    }
}

/// A value, or several with commas between, without quotes.
fn plain_value(tokens: &Tokens) -> Result<String, SqlError> {
    let mut text = String::new();
    for at in tokens.significant() {
        match &tokens.all[at] {
            Token::SingleQuotedString(value) => text.push_str(&value.replace("''", "'")),
            Token::Word(word) => text.push_str(&word.value),
            Token::Comma => text.push_str(", "),
            other => text.push_str(&other.to_string()),
        }
    }
    match text.is_empty() {
        true => Err(SqlError::Syntax("SET needs a value".to_owned())),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_in_all_their_forms() {
        for (text, name, value) in [
            ("SET client_encoding TO 'UTF8'", "client_encoding", Some("UTF8")),
            ("set session DateStyle = ISO, DMY", "datestyle", Some("ISO, DMY")),
            ("SET TIME ZONE 'Europe/Berlin'", "timezone", Some("Europe/Berlin")),
            ("SET NAMES 'utf-8'", "client_encoding", Some("utf-8")),
            ("SET LOCAL timezone = 'UTC'", "timezone", Some("UTC")),
            ("SET extra_float_digits = 3", "extra_float_digits", Some("3")),
            ("SET statement_timeout TO DEFAULT", "statement_timeout", None),
            ("RESET timezone", "timezone", None),
        ] {
            let tokens = Tokens::of(text).unwrap();
            let parsed = if text.starts_with("RESET") { reset(&tokens) } else { set(&tokens) };
            let local = text.contains("LOCAL");
            let expected = Setting { name: name.to_owned(), value: value.map(str::to_owned), local };
            assert_eq!(parsed.unwrap(), Statement::Set(expected), "{text}");
        }
        for text in ["SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SET TRANSACTION READ ONLY"] {
            assert_eq!(set(&Tokens::of(text).unwrap()).unwrap(), Statement::Nothing("SET"), "{text}");
        }
        assert!(set(&Tokens::of("SET a").unwrap()).is_err());
    }

    #[test]
    fn show_takes_one_name() {
        for (text, name) in [
            ("SHOW TRANSACTION ISOLATION LEVEL", "transaction_isolation"),
            ("SHOW TIME ZONE", "timezone"),
            ("SHOW Server_Version", "server_version"),
        ] {
            assert_eq!(shown(&Tokens::of(text).unwrap()).unwrap(), name);
        }
        assert!(shown(&Tokens::of("SHOW a b").unwrap()).is_err());
    }
}
