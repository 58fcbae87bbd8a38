//! DECLARE, FETCH, MOVE and CLOSE: cursors, which drivers and `postgres_fdw` read large answers by.
//!
//! Cursors go forward, and back to their beginning: then the query runs again.

use super::tokens::Tokens;
use super::{QueryText, Statement};
use crate::error::SqlError;

/// `DECLARE name [BINARY] [NO SCROLL] CURSOR [WITH HOLD] FOR query`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declare {
    pub name: String,
    pub query: QueryText,
    /// Rows are in binary format, whatever the client asks for with FETCH.
    pub binary: bool,
    /// It outlives its transaction.
    pub hold: bool,
}

/// `FETCH [direction] [FROM | IN] name`, and the same as MOVE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    pub name: String,
    /// Back to the beginning, before anything else.
    pub rewind: bool,
    /// `None`: all that are left.
    pub rows: Option<u64>,
    /// Rows are passed over, and not sent.
    pub only_move: bool,
}

/// The name of a cursor, a word as PostgreSQL reads it.
pub fn name_at(tokens: &Tokens, place: Option<&usize>) -> Result<String, SqlError> {
    use datafusion::sql::sqlparser::tokenizer::Token;
    match place.map(|at| &tokens.all[*at]) {
        Some(Token::Word(word)) if word.quote_style.is_some() => Ok(word.value.replace("\"\"", "\"")),
        Some(Token::Word(word)) => Ok(word.value.to_lowercase()),
        _ => Err(SqlError::Syntax("a name is missing".to_owned())),
    }
}

pub fn declare(tokens: &Tokens) -> Result<Statement, SqlError> {
    let (places, words) = (tokens.significant(), tokens.words());
    let name = name_at(tokens, places.get(1))?;
    let cursor = words.iter().position(|word| word == "CURSOR");
    let behind = words.iter().position(|word| word == "FOR");
    let (Some(cursor), Some(behind)) = (cursor, behind) else {
        return Err(SqlError::Syntax("DECLARE needs CURSOR FOR and a query".to_owned()));
    };
    if behind < cursor || cursor < 2 {
        return Err(SqlError::Syntax("DECLARE needs CURSOR FOR and a query".to_owned()));
    }
    let known = |word: &String| {
        ["BINARY", "ASENSITIVE", "INSENSITIVE", "NO", "SCROLL", "WITH", "WITHOUT", "HOLD"]
            .contains(&word.as_str())
    };
    let options = words[2..cursor].iter().chain(&words[cursor + 1..behind]);
    if let Some(unknown) = options.clone().find(|word| !known(word)) {
        return Err(SqlError::Syntax(format!("syntax error at or near \"{unknown}\"")));
    }
    let query = tokens.behind_words(behind + 1);
    if !matches!(
        query.words().first().map(String::as_str),
        Some("SELECT" | "WITH" | "VALUES" | "TABLE" | "(")
    ) {
        return Err(SqlError::Unsupported("a cursor is for a query".to_owned()));
    }
    let binary = words[2..cursor].iter().any(|word| word == "BINARY");
    let hold = words[cursor + 1..behind].iter().any(|word| word == "WITH");
    let query = QueryText { asked: tokens.text(), ..super::query(&query)? };
    Ok(Statement::Declare(Declare { name, query, binary, hold }))
}

pub fn fetch(tokens: &Tokens) -> Result<Statement, SqlError> {
    let (places, words) = (tokens.significant(), tokens.words());
    let only_move = words[0] == "MOVE";
    let from = words.iter().skip(1).position(|word| matches!(word.as_str(), "FROM" | "IN")).map(|at| at + 1);
    // Without FROM, the name is the last word.
    let (name_place, end) = match from {
        Some(from) => (from + 1, from),
        None => (words.len().saturating_sub(1).max(1), words.len().saturating_sub(1).max(1)),
    };
    if name_place + 1 != words.len() {
        return Err(SqlError::Syntax(format!("syntax error in {}", words[0])));
    }
    let name = name_at(tokens, places.get(name_place))?;
    let direction: Vec<&str> = words[1..end].iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().ok();
    let (rewind, rows) = match direction[..] {
        [] | ["NEXT"] | ["FORWARD"] => (false, Some(1)),
        ["ALL"] | ["FORWARD", "ALL"] => (false, None),
        ["FIRST"] => (true, Some(1)),
        ["ABSOLUTE", "0"] | ["BACKWARD", "ALL"] => (true, Some(0)),
        ["ABSOLUTE", "1"] => (true, Some(1)),
        [count] | ["FORWARD", count] | ["RELATIVE", count] if number(count).is_some() => {
            let count = number(count);
            // One row behind so many others.
            let is_relative = direction[0] == "RELATIVE" && count > Some(1) && !only_move;
            if is_relative {
                return Err(backward());
            }
            (false, count)
        }
        _ => return Err(backward()),
    };
    if rewind && rows == Some(0) && !only_move {
        return Err(backward());
    }
    Ok(Statement::Fetch(Fetch { name, rewind, rows, only_move }))
}

fn backward() -> SqlError {
    SqlError::Unsupported(
        "cursors only go forward here, or back to their beginning (MOVE BACKWARD ALL)".to_owned(),
    )
}

pub fn close(tokens: &Tokens) -> Result<Statement, SqlError> {
    let (places, words) = (tokens.significant(), tokens.words());
    match words.get(1).map(String::as_str) {
        Some("ALL") => Ok(Statement::Close(None)),
        _ => Ok(Statement::Close(Some(name_at(tokens, places.get(1))?))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse_all;
    use super::*;

    fn one(text: &str) -> Statement {
        parse_all(text).unwrap().remove(0)
    }

    #[test]
    fn cursors_are_declared_in_the_words_of_drivers() {
        for (text, name, binary, hold) in [
            ("DECLARE c1 CURSOR FOR SELECT 1", "c1", false, false),
            ("declare \"My c\" BINARY NO SCROLL CURSOR WITHOUT HOLD FOR SELECT 1", "My c", true, false),
            ("DECLARE C INSENSITIVE CURSOR WITH HOLD FOR SELECT 1", "c", false, true),
        ] {
            let query = QueryText { sql: "SELECT 1".into(), asked: text.into(), ..QueryText::default() };
            let expected = Statement::Declare(Declare { name: name.into(), query, binary, hold });
            assert_eq!(one(text), expected, "{text}");
        }
        for text in [
            "DECLARE c FOR SELECT 1",
            "DECLARE c CURSOR FOR DELETE FROM t",
            "DECLARE c LOUD CURSOR FOR SELECT 1",
        ] {
            assert!(parse_all(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fetch_goes_forward_or_back_to_the_beginning() {
        for (text, rewind, rows, only_move) in [
            ("FETCH c", false, Some(1), false),
            ("FETCH 100 FROM c", false, Some(100), false),
            ("FETCH FORWARD 5 IN c", false, Some(5), false),
            ("FETCH ALL c", false, None, false),
            ("FETCH FORWARD ALL FROM \"c\"", false, None, false),
            ("FETCH FIRST FROM c", true, Some(1), false),
            ("MOVE BACKWARD ALL IN c", true, Some(0), true),
            ("MOVE 3 FROM c", false, Some(3), true),
        ] {
            let expected = Fetch { name: "c".into(), rewind, rows, only_move };
            assert_eq!(one(text), Statement::Fetch(expected), "{text}");
        }
        for text in ["FETCH PRIOR FROM c", "FETCH BACKWARD 2 FROM c", "FETCH LAST FROM c", "FETCH 1 FROM c d"]
        {
            assert!(parse_all(text).is_err(), "{text}");
        }
        assert_eq!(one("CLOSE ALL"), Statement::Close(None));
        assert_eq!(one("CLOSE C1"), Statement::Close(Some("c1".into())));
    }
}
