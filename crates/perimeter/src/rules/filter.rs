//! Row filters: a condition in SQL, in which values of the caller are put in as literals.
//!
//! `:principal`, `:purpose`, `:agent`, `:on_behalf_of` and `:claim.NAME` stand for one value, `IN :groups` and
//! `IN :claim.NAME` for a list. A filter that lacks one of its values is false: it is never left out.
//!
//! Invariant: a value becomes one literal, whatever is in it. The text around it is the operator's,
//! and may hold nothing in which quotes mean something else: no comments, no backslashes, no dollar
//! quotes.

use std::fmt::Write as _;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Value as SqlValue, visit_expressions};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use serde_json::Value;

use super::subject::Subject;

const MAX_BYTES: usize = 16 << 10;
/// No row fulfils it.
const NEVER: &str = "FALSE";

/// A filter that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    parts: Vec<Part>,
    /// The columns that it names, as the query engine looks for them.
    columns: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Sql(String),
    One(Place),
    /// With parentheses.
    List(Place),
}

/// A value of the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Principal,
    Purpose,
    Agent,
    OnBehalfOf,
    Groups,
    Claim(String),
}

/// What is wrong with a filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("has more than {MAX_BYTES} bytes")]
    Long,
    #[error("has {0}, which a filter may not have")]
    Unwanted(&'static str),
    #[error("ends within quotes")]
    Unclosed,
    #[error(
        "has `:{0}`, which is none of :principal, :purpose, :agent, :on_behalf_of, :groups and :claim.NAME"
    )]
    Unknown(String),
    #[error("has `:{0}` within a word; put blanks around it")]
    Adjacent(String),
    #[error("has `:groups` where one value belongs; write `COLUMN IN :groups`")]
    NoList,
    #[error("is no condition in SQL: {0}")]
    Syntax(String),
    #[error("names no column")]
    NoColumn,
    #[error("has `{0}`: columns are named without their table")]
    Qualified(String),
}

impl Filter {
    pub(super) fn parse(text: &str) -> Result<Filter, FilterError> {
        if text.len() > MAX_BYTES {
            return Err(FilterError::Long);
        }
        let parts = Scanner::new(text).parts()?;
        let example = render(&parts, |_| Some(vec!["'x'".to_owned()])).unwrap_or_default();
        let columns = columns_of(&parse_condition(&example)?)?;
        Ok(Filter { parts, columns })
    }

    /// The first column that is not among `known`.
    pub(super) fn missing(&self, known: impl Fn(&str) -> bool) -> Option<&str> {
        self.columns.iter().map(String::as_str).find(|name| !known(name))
    }

    /// The claims that it needs.
    pub(super) fn claims(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::One(Place::Claim(name)) | Part::List(Place::Claim(name)) => Some(name.as_str()),
            Part::Sql(_) | Part::One(_) | Part::List(_) => None,
        })
    }

    /// With the values of a caller.
    pub(super) fn fill(&self, subject: &Subject) -> String {
        let filled = render(&self.parts, |place| literals(place, subject));
        filled.unwrap_or_else(|| NEVER.to_owned())
    }
}

/// None: a value is missing, or cannot be put in.
fn render(parts: &[Part], values: impl Fn(&Place) -> Option<Vec<String>>) -> Option<String> {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Sql(sql) => text.push_str(sql),
            Part::One(place) => match values(place)?.as_slice() {
                [one] => text.push_str(one),
                _ => return None,
            },
            Part::List(place) => match values(place)?.as_slice() {
                // Neither IN nor NOT IN is true of it.
                [] => text.push_str("(NULL)"),
                list => write!(text, "({})", list.join(", ")).ok()?,
            },
        }
    }
    Some(text)
}

fn literals(place: &Place, subject: &Subject) -> Option<Vec<String>> {
    let one = |text: &str| Some(vec![quoted(text)?]);
    match place {
        Place::Principal => one(&subject.principal),
        Place::Purpose if subject.purpose.is_empty() => None,
        Place::Purpose => one(&subject.purpose),
        Place::Agent => one(subject.agent.as_deref()?),
        Place::OnBehalfOf => one(subject.on_behalf_of.as_deref()?),
        Place::Groups => subject.groups.iter().map(|group| quoted(group)).collect(),
        Place::Claim(name) => match subject.claims.get(name)? {
            Value::Array(list) => list.iter().map(literal).collect(),
            value => Some(vec![literal(value)?]),
        },
    }
}

fn literal(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => quoted(text),
        Value::Bool(true) => Some("TRUE".to_owned()),
        Value::Bool(false) => Some("FALSE".to_owned()),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            // In parentheses, so that no minus before it makes a comment.
            (Some(whole), _) => Some(format!("({whole})")),
            (None, Some(real)) if real.is_finite() => Some(format!("({real:?})")),
            _ => None,
        },
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A literal of SQL. None: no value of a row has such characters, and programs disagree on them.
fn quoted(text: &str) -> Option<String> {
    let is_fit = !text.chars().any(char::is_control);
    is_fit.then(|| format!("'{}'", text.replace('\'', "''")))
}

fn parse_condition(text: &str) -> Result<Expr, FilterError> {
    let syntax = |e: &dyn std::fmt::Display| FilterError::Syntax(e.to_string());
    let mut parser = Parser::new(&PostgreSqlDialect {}).try_with_sql(text).map_err(|e| syntax(&e))?;
    let condition = parser.parse_expr().map_err(|e| syntax(&e))?;
    match parser.peek_token().token {
        Token::EOF => Ok(condition),
        other => Err(syntax(&format!("`{other}` stands behind its end"))),
    }
}

/// The columns that a condition names.
fn columns_of(condition: &Expr) -> Result<Vec<String>, FilterError> {
    let mut columns = Vec::new();
    let visited = visit_expressions(condition, |expr| {
        let unwanted = match expr {
            Expr::Identifier(name) => {
                columns.push(match name.quote_style {
                    Some(_) => name.value.clone(),
                    // As the engine does: not `to_lowercase`.
                    None => name.value.to_ascii_lowercase(),
                });
                return ControlFlow::Continue(());
            }
            Expr::CompoundIdentifier(_) => {
                return ControlFlow::Break(FilterError::Qualified(expr.to_string()));
            }
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => "a query within it",
            Expr::Function(function) if function.over.is_some() => "a window function",
            Expr::Value(value) if matches!(value.value, SqlValue::Placeholder(_)) => "a parameter",
            _ => return ControlFlow::Continue(()),
        };
        ControlFlow::Break(FilterError::Unwanted(unwanted))
    });
    if let ControlFlow::Break(error) = visited {
        return Err(error);
    }
    columns.sort();
    columns.dedup();
    if columns.is_empty() { Err(FilterError::NoColumn) } else { Ok(columns) }
}

/// Finds the places of values in the operator's text.
struct Scanner<'a> {
    rest: &'a str,
    sql: String,
    parts: Vec<Part>,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Self {
        Scanner { rest: text.trim(), sql: String::new(), parts: Vec::new() }
    }

    fn parts(mut self) -> Result<Vec<Part>, FilterError> {
        while let Some(c) = self.rest.chars().next() {
            match c {
                '\'' | '"' => self.quotes(c)?,
                '\\' => return Err(FilterError::Unwanted("a backslash")),
                '$' => return Err(FilterError::Unwanted("a dollar sign")),
                ';' => return Err(FilterError::Unwanted("a semicolon")),
                '-' if self.rest.starts_with("--") => return Err(FilterError::Unwanted("a comment")),
                '/' if self.rest.starts_with("/*") => return Err(FilterError::Unwanted("a comment")),
                ':' if self.rest.starts_with("::") => self.take(2),
                ':' => self.place()?,
                c if c.is_control() && !c.is_whitespace() => {
                    return Err(FilterError::Unwanted("a control character"));
                }
                c => self.take(c.len_utf8()),
            }
        }
        self.parts.push(Part::Sql(self.sql));
        Ok(self.parts)
    }

    fn take(&mut self, bytes: usize) {
        let (taken, rest) = self.rest.split_at(bytes);
        self.sql.push_str(taken);
        self.rest = rest;
    }

    /// A text or a name, in which a doubled quote stands for one.
    fn quotes(&mut self, quote: char) -> Result<(), FilterError> {
        // `E'…'` and the like have rules of their own.
        if self.sql.ends_with(|c: char| c.is_alphanumeric() || c == '&' || c == '_') {
            return Err(FilterError::Unwanted("a letter before a quote"));
        }
        self.take(1);
        while let Some(c) = self.rest.chars().next() {
            match c {
                '\\' => return Err(FilterError::Unwanted("a backslash")),
                c if c == quote && self.rest[1..].starts_with(quote) => self.take(2),
                c if c == quote => {
                    self.take(1);
                    return Ok(());
                }
                c => self.take(c.len_utf8()),
            }
        }
        Err(FilterError::Unclosed)
    }

    fn place(&mut self) -> Result<(), FilterError> {
        let text = &self.rest[1..];
        let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let word = &text[..text.find(|c| !is_of_word(c)).unwrap_or(text.len())];
        let (place, bytes) = match word {
            "principal" => (Place::Principal, word.len()),
            "purpose" => (Place::Purpose, word.len()),
            "agent" => (Place::Agent, word.len()),
            "on_behalf_of" => (Place::OnBehalfOf, word.len()),
            "groups" => (Place::Groups, word.len()),
            "claim" => {
                let name = claim_name(&text[word.len()..]);
                let (name, bytes) = name.ok_or_else(|| FilterError::Unknown(word.to_owned()))?;
                (Place::Claim(name), word.len() + bytes)
            }
            _ => return Err(FilterError::Unknown(word.chars().take(50).collect())),
        };
        let behind = &text[bytes..];
        let is_apart = |c: char| c.is_whitespace() || "(),=<>!+*/|-".contains(c);
        if !self.sql.chars().next_back().is_none_or(is_apart)
            || !behind.chars().next().is_none_or(|c| is_apart(c) || behind.starts_with("::"))
        {
            return Err(FilterError::Adjacent(word.to_owned()));
        }
        let mut sql = std::mem::take(&mut self.sql);
        self.rest = behind;
        let is_list = if follows_in(&sql) {
            true
        } else if let Some(before) = sql.trim_end().strip_suffix('(').filter(|before| follows_in(before))
            && let Some(after) = behind.trim_start().strip_prefix(')')
        {
            // `IN (:groups)` is the same list.
            (sql, self.rest) = (before.to_owned(), after);
            true
        } else {
            false
        };
        if place == Place::Groups && !is_list {
            return Err(FilterError::NoList);
        }
        self.parts.push(Part::Sql(sql));
        self.parts.push(if is_list { Part::List(place) } else { Part::One(place) });
        Ok(())
    }
}

fn follows_in(sql: &str) -> bool {
    let word = sql.trim_end().rsplit(|c: char| !(c.is_alphanumeric() || c == '_')).next();
    word.is_some_and(|word| word.eq_ignore_ascii_case("in"))
}

/// `.NAME` or `."NAME"`, and how long it is.
fn claim_name(text: &str) -> Option<(String, usize)> {
    let name = text.strip_prefix('.')?;
    if let Some(quoted) = name.strip_prefix('"') {
        let end = quoted.find('"').filter(|end| *end > 0)?;
        return Some((quoted[..end].to_owned(), end + 3));
    }
    let end = name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(name.len());
    (end > 0).then(|| (name[..end].to_owned(), end + 1))
}

#[cfg(test)]
mod tests;
