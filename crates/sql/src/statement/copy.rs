//! `COPY (query) TO STDOUT`, which drivers read large answers by. It sends rows and changes nothing; every other COPY is refused.

use datafusion::sql::sqlparser::ast::{
    CopyLegacyOption, CopyOption, CopySource, CopyTarget, Statement as Ast,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::tokens::Tokens;
use super::{QueryText, Statement};
use crate::error::SqlError;

/// A query, and how its rows are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    pub query: QueryText,
    pub format: CopyFormat,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyFormat {
    Binary,
    Text(TextFormat),
    Csv { text: TextFormat, quote: u8, escape: u8, force_quote: Vec<Force> },
}

/// What stands between values, and for those that are not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFormat {
    pub delimiter: u8,
    pub null: String,
    pub header: bool,
}

/// Columns whose values are always quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Force {
    All,
    Column(String),
}

pub fn copy(tokens: &Tokens) -> Result<Statement, SqlError> {
    let (query, rest) = source(tokens)?;
    let options = options(&rest)?;
    Ok(Statement::Copy(Copy { query, format: options.format()? }))
}

/// The query, and what stands behind it.
fn source(tokens: &Tokens) -> Result<(QueryText, Tokens), SqlError> {
    let (places, words) = (tokens.significant(), tokens.words());
    let malformed = || SqlError::Syntax("COPY needs a query or a table, and TO STDOUT".to_owned());
    let part = |from: usize, to: usize| Tokens { all: tokens.all[from..to].to_vec() };
    if words.get(1).is_some_and(|word| word == "(") {
        let close = closing(tokens, &places, 1).ok_or_else(malformed)?;
        let inner = part(places[2], places[close]);
        let first = inner.words().first().cloned().unwrap_or_default();
        if !matches!(first.as_str(), "SELECT" | "WITH" | "VALUES" | "TABLE" | "(") {
            return Err(SqlError::ReadOnly(format!("COPY of {first} is refused")));
        }
        let query = QueryText { asked: tokens.text(), ..super::query(&inner)? };
        return Ok((query, tokens.behind_words(close + 1)));
    }
    let end = words.iter().position(|word| matches!(word.as_str(), "TO" | "FROM")).ok_or_else(malformed)?;
    if end < 2 {
        return Err(malformed());
    }
    let open = words[..end].iter().position(|word| word == "(");
    let table = part(places[1], open.map_or(places[end], |open| places[open]));
    let columns = match open {
        Some(open) => part(places[open + 1], places[end - 1]).text(),
        None => "*".to_owned(),
    };
    let all = Tokens::of(&format!("SELECT {columns} FROM {}", table.text().trim()))?;
    let query = QueryText { asked: tokens.text(), ..super::query(&all)? };
    Ok((query, tokens.behind_words(end)))
}

/// The word that closes the parenthesis that another one opens.
fn closing(tokens: &Tokens, places: &[usize], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (word, at) in places.iter().enumerate().skip(open) {
        match tokens.all[*at] {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(word);
        }
    }
    None
}

#[derive(Default)]
struct Options {
    format: Option<String>,
    delimiter: Option<char>,
    null: Option<String>,
    header: bool,
    quote: Option<char>,
    escape: Option<char>,
    force_quote: Vec<Force>,
}

/// The options, read by the engine's own parser behind a table of our own.
fn options(rest: &Tokens) -> Result<Options, SqlError> {
    let words = rest.words();
    let all_quoted = words.windows(2).any(|pair| pair[0] == "FORCE_QUOTE" && pair[1] == "*");
    let text = rest.text();
    let text = if all_quoted { without_star(&text) } else { text };
    let parsed = Parser::parse_sql(&PostgreSqlDialect {}, &format!("COPY t {text}"));
    let parsed = parsed.map_err(|e| SqlError::Syntax(e.to_string()))?.pop();
    let Some(Ast::Copy { source: CopySource::Table { .. }, to, target, options, legacy_options, .. }) =
        parsed
    else {
        return Err(SqlError::Syntax("COPY needs TO STDOUT".to_owned()));
    };
    if !to || !matches!(target, CopyTarget::Stdout) {
        return Err(SqlError::ReadOnly("COPY but TO STDOUT is refused".to_owned()));
    }
    let mut found = Options::default();
    for option in options {
        found.take(option)?;
    }
    for option in legacy_options {
        found.take_legacy(option)?;
    }
    if all_quoted {
        found.force_quote.push(Force::All);
    }
    Ok(found)
}

/// The parser knows no `FORCE_QUOTE *`.
fn without_star(text: &str) -> String {
    let at = text.to_uppercase().find("FORCE_QUOTE").unwrap_or(text.len());
    let end = text[at..].find('*').map_or(text.len(), |star| at + star + 1);
    let (before, after) = (text[..at].trim_end(), text[end..].trim_start());
    match (before.strip_suffix(','), after.strip_prefix(',')) {
        (Some(before), _) => format!("{before} {after}"),
        (None, Some(after)) => format!("{before} {after}"),
        (None, None) => format!("{before} FORMAT csv {after}"),
    }
}

impl Options {
    fn take(&mut self, option: CopyOption) -> Result<(), SqlError> {
        match option {
            CopyOption::Format(format) => self.format = Some(format.value.to_lowercase()),
            CopyOption::Delimiter(c) => self.delimiter = Some(c),
            CopyOption::Null(null) => self.null = Some(null),
            CopyOption::Header(header) => self.header = header,
            CopyOption::Quote(c) => self.quote = Some(c),
            CopyOption::Escape(c) => self.escape = Some(c),
            CopyOption::ForceQuote(columns) => {
                self.force_quote.extend(columns.into_iter().map(|column| Force::Column(column.value)));
            }
            CopyOption::Encoding(encoding) if is_utf8(&encoding) => {}
            CopyOption::Freeze(_) | CopyOption::ForceNotNull(_) | CopyOption::ForceNull(_) => {}
            CopyOption::Encoding(_) => {
                return Err(SqlError::Unsupported("only UTF8 is spoken here".to_owned()));
            }
        }
        Ok(())
    }

    fn take_legacy(&mut self, option: CopyLegacyOption) -> Result<(), SqlError> {
        use datafusion::sql::sqlparser::ast::CopyLegacyCsvOption as Csv;
        match option {
            CopyLegacyOption::Binary => self.format = Some("binary".to_owned()),
            CopyLegacyOption::Delimiter(c) => self.delimiter = Some(c),
            CopyLegacyOption::Null(null) => self.null = Some(null),
            CopyLegacyOption::Header => self.header = true,
            CopyLegacyOption::Csv(options) => {
                self.format = Some("csv".to_owned());
                for option in options {
                    match option {
                        Csv::Header => self.header = true,
                        Csv::Quote(c) => self.quote = Some(c),
                        Csv::Escape(c) => self.escape = Some(c),
                        Csv::ForceQuote(columns) => {
                            let columns = columns.into_iter().map(|column| Force::Column(column.value));
                            self.force_quote.extend(columns);
                        }
                        Csv::ForceNotNull(_) => {}
                    }
                }
            }
            other => return Err(SqlError::Unsupported(format!("COPY with {other} is not supported"))),
        }
        Ok(())
    }

    fn format(self) -> Result<CopyFormat, SqlError> {
        let byte = |c: Option<char>, default: u8, what: &str| match c {
            None => Ok(default),
            Some(c) => u8::try_from(c)
                .ok()
                .filter(|byte| byte.is_ascii() && !matches!(byte, b'\r' | b'\n'))
                .ok_or_else(|| {
                    SqlError::BadValue(format!("COPY {what} must be a single one-byte character"))
                }),
        };
        let is_csv = self.format.as_deref() == Some("csv");
        let delimiter = byte(self.delimiter, if is_csv { b',' } else { b'\t' }, "delimiter")?;
        let null = self.null.unwrap_or_else(|| if is_csv { String::new() } else { "\\N".to_owned() });
        let text = TextFormat { delimiter, null, header: self.header };
        match self.format.as_deref() {
            None | Some("text") => Ok(CopyFormat::Text(text)),
            Some("binary") if self.header => {
                Err(SqlError::Unsupported("cannot specify HEADER in BINARY mode".to_owned()))
            }
            Some("binary") => Ok(CopyFormat::Binary),
            Some("csv") => {
                let quote = byte(self.quote, b'"', "quote")?;
                let escape = byte(self.escape, quote, "escape")?;
                if quote == delimiter {
                    let why = "COPY delimiter and quote must be different";
                    return Err(SqlError::BadValue(why.to_owned()));
                }
                Ok(CopyFormat::Csv { text, quote, escape, force_quote: self.force_quote })
            }
            Some(other) => Err(SqlError::BadValue(format!("COPY format \"{other}\" not recognized"))),
        }
    }
}

fn is_utf8(encoding: &str) -> bool {
    encoding.to_uppercase().replace(['-', '_'], "") == "UTF8"
}

#[cfg(test)]
mod tests {
    use super::super::parse_all;
    use super::*;

    fn one(text: &str) -> Copy {
        match parse_all(text).unwrap().remove(0) {
            Statement::Copy(copy) => copy,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn copy_takes_the_options_of_all_times() {
        let text = TextFormat { delimiter: b'\t', null: "\\N".into(), header: false };
        let csv = |header: bool, force_quote: Vec<Force>| CopyFormat::Csv {
            text: TextFormat { delimiter: b',', null: String::new(), header },
            quote: b'"',
            escape: b'"',
            force_quote,
        };
        for (sql, query, format) in [
            ("COPY (SELECT (1)) TO STDOUT", "SELECT (1)", CopyFormat::Text(text.clone())),
            ("copy orders to stdout", "SELECT * FROM orders", CopyFormat::Text(text)),
            (
                "COPY public.\"A b\" (id, \"c d\") TO STDOUT",
                "SELECT id, \"c d\" FROM public.\"A b\"",
                CopyFormat::Text(TextFormat { delimiter: b'\t', null: "\\N".into(), header: false }),
            ),
            ("COPY (SELECT 1) TO STDOUT (FORMAT binary)", "SELECT 1", CopyFormat::Binary),
            ("COPY (SELECT 1) TO STDOUT WITH (FORMAT \"binary\")", "SELECT 1", CopyFormat::Binary),
            ("COPY (SELECT 1) TO STDOUT CSV HEADER", "SELECT 1", csv(true, vec![])),
            (
                "COPY (SELECT 1) TO STDOUT WITH (FORMAT csv, HEADER true, ENCODING 'UTF8')",
                "SELECT 1",
                csv(true, vec![]),
            ),
            (
                "COPY (SELECT 1) TO STDOUT (FORMAT csv, FORCE_QUOTE *)",
                "SELECT 1",
                csv(false, vec![Force::All]),
            ),
            (
                "COPY (SELECT 1) TO STDOUT (FORCE_QUOTE (a), FORMAT csv)",
                "SELECT 1",
                csv(false, vec![Force::Column("a".into())]),
            ),
        ] {
            let copy = one(sql);
            assert_eq!((copy.query.sql.as_str(), copy.format), (query, format), "{sql}");
        }
    }

    #[test]
    fn every_other_copy_is_refused() {
        for sql in [
            "COPY orders TO '/tmp/x'",
            "COPY (SELECT 1) TO PROGRAM 'cat'",
            "COPY orders FROM STDIN",
            "COPY orders FROM '/etc/passwd'",
            "COPY (DELETE FROM orders RETURNING *) TO STDOUT",
        ] {
            assert_eq!(parse_all(sql).unwrap_err().code(), "25006", "{sql}");
        }
        for sql in [
            "COPY",
            "COPY (SELECT 1",
            "COPY (SELECT 1) TO STDOUT (FORMAT xml)",
            "COPY t TO STDOUT (DELIMITER 'ab')",
        ] {
            assert!(parse_all(sql).is_err(), "{sql}");
        }
    }
}
