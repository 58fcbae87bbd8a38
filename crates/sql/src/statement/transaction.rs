//! COMMIT, ROLLBACK, SAVEPOINT and RELEASE, in all their forms; DEALLOCATE and DISCARD.

use super::Statement;
use super::cursor::name_at;
use super::tokens::Tokens;
use crate::error::SqlError;

fn unexpected(word: &str) -> SqlError {
    SqlError::Syntax(format!("syntax error at or near \"{word}\""))
}

/// The name is the last word.
fn last_name(tokens: &Tokens, at: usize) -> Result<String, SqlError> {
    let places = tokens.significant();
    match places.get(at + 1) {
        Some(more) => Err(unexpected(&tokens.word(*more))),
        None => name_at(tokens, places.get(at)),
    }
}

pub fn parse(tokens: &Tokens) -> Result<Statement, SqlError> {
    let words = tokens.words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let [first, rest @ ..] = &words[..] else { return Err(unexpected("")) };
    let mut rest = rest;
    match *first {
        "SAVEPOINT" => return Ok(Statement::Savepoint(last_name(tokens, 1)?)),
        "RELEASE" => {
            let at = if rest.len() > 1 && rest[0] == "SAVEPOINT" { 2 } else { 1 };
            return Ok(Statement::Release(last_name(tokens, at)?));
        }
        _ => {}
    }
    if let ["WORK" | "TRANSACTION", behind @ ..] = rest {
        rest = behind;
    }
    let commits = matches!(*first, "COMMIT" | "END");
    if let (false, ["TO", behind @ ..]) = (commits, rest) {
        let has_word = behind.len() > 1 && behind[0] == "SAVEPOINT";
        let at = words.len() - behind.len() + usize::from(has_word);
        return Ok(Statement::RollbackTo(last_name(tokens, at)?));
    }
    let chain = match rest {
        [] | ["AND", "NO", "CHAIN"] => false,
        ["AND", "CHAIN"] => true,
        ["PREPARED", ..] => return Err(SqlError::Unsupported(format!("{first} PREPARED is not supported"))),
        [word, ..] => return Err(unexpected(word)),
    };
    Ok(if commits { Statement::Commit { chain } } else { Statement::Rollback { chain } })
}

/// `DEALLOCATE [PREPARE] {name | ALL}`, and what is discarded.
pub fn forget(tokens: &Tokens) -> Result<Statement, SqlError> {
    let words = tokens.words();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["DISCARD", "ALL"] => Ok(Statement::DiscardAll),
        ["DISCARD", "PLANS" | "SEQUENCES" | "TEMP" | "TEMPORARY"] => Ok(Statement::Nothing("DISCARD")),
        ["DEALLOCATE", "ALL"] | ["DEALLOCATE", "PREPARE", "ALL"] => Ok(Statement::Deallocate(None)),
        ["DEALLOCATE", "PREPARE", _] => Ok(Statement::Deallocate(Some(last_name(tokens, 2)?))),
        ["DEALLOCATE", _] => Ok(Statement::Deallocate(Some(last_name(tokens, 1)?))),
        _ => Err(SqlError::Syntax("syntax error at end of input".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse_all;
    use super::*;

    #[test]
    fn the_forms_of_postgresql_are_read() {
        let name = |text: &str| text.to_owned();
        for (text, expected) in [
            ("COMMIT", Statement::Commit { chain: false }),
            ("end work and chain", Statement::Commit { chain: true }),
            ("COMMIT AND NO CHAIN", Statement::Commit { chain: false }),
            ("ABORT TRANSACTION", Statement::Rollback { chain: false }),
            ("ROLLBACK AND CHAIN", Statement::Rollback { chain: true }),
            ("ROLLBACK TO a", Statement::RollbackTo(name("a"))),
            ("rollback work to savepoint \"B c\"", Statement::RollbackTo(name("B c"))),
            ("ROLLBACK TO savepoint", Statement::RollbackTo(name("savepoint"))),
            ("SAVEPOINT Sp", Statement::Savepoint(name("sp"))),
            ("RELEASE SAVEPOINT x", Statement::Release(name("x"))),
            ("RELEASE x", Statement::Release(name("x"))),
            ("DEALLOCATE ALL", Statement::Deallocate(None)),
            ("DEALLOCATE PREPARE \"_pg3_0\"", Statement::Deallocate(Some(name("_pg3_0")))),
            ("DISCARD ALL", Statement::DiscardAll),
        ] {
            assert_eq!(parse_all(text).unwrap(), [expected], "{text}");
        }
        for text in
            ["COMMIT x", "SAVEPOINT", "ROLLBACK TO", "ROLLBACK TO a b", "COMMIT TO a", "DISCARD", "RELEASE"]
        {
            assert_eq!(parse_all(text).unwrap_err().code(), "42601", "{text}");
        }
    }
}
