//! A table as it is named in a query, what it is called there, and the short forms behind it.

use datafusion::sql::sqlparser::keywords::{Keyword, RESERVED_FOR_TABLE_ALIAS};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::tokens::Tokens;
use crate::error::SqlError;

const UNITS_MS: [(&str, u64); 6] =
    [("MS", 1), ("S", 1_000), ("M", 60_000), ("H", 3_600_000), ("D", 86_400_000), ("W", 604_800_000)];

/// Words of ours that cannot name a table without AS or quotes.
const FORMS: [&str; 5] = ["LAST", "TAIL", "SCAN", "WITHIN", "FOLLOW"];

/// What is asked of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Last { ms: u64 },
    Tail { count: u64 },
    AsOf { ranges: String },
}

/// A time as short forms have it, `10m`, and how many tokens that were.
pub fn span_ms(tokens: &Tokens, places: &[usize]) -> Option<(u64, usize)> {
    let [number, unit, ..] = places else { return None };
    let Token::Number(number, _) = &tokens.all[*number] else { return None };
    let unit = tokens.word(*unit);
    let (_, ms) = UNITS_MS.iter().find(|(name, _)| *name == unit)?;
    Some((number.parse::<u64>().ok()?.saturating_mul(*ms), 2))
}

impl Asked {
    /// The form that begins at the first of these places, and its length.
    pub fn read(tokens: &Tokens, places: &[usize]) -> Option<(Asked, usize)> {
        let (first, rest) = places.split_first()?;
        let second = *rest.first()?;
        if tokens.is(*first, "LAST") {
            let (ms, length) = span_ms(tokens, rest)?;
            return Some((Asked::Last { ms }, 1 + length));
        }
        if tokens.is(*first, "TAIL")
            && let Token::Number(count, _) = &tokens.all[second]
        {
            return Some((Asked::Tail { count: count.parse().ok()? }, 2));
        }
        if tokens.is(*first, "AS")
            && tokens.is(second, "OF")
            && let Token::SingleQuotedString(ranges) = &tokens.all[*rest.get(1)?]
        {
            return Some((Asked::AsOf { ranges: ranges.clone() }, 3));
        }
        None
    }
}

/// `name [[AS] alias] [form] [[AS] alias]`, or `(…) [AS] alias`.
#[derive(Debug)]
pub struct TableRef {
    /// As written, part by part. Empty for a subquery.
    pub name: Vec<String>,
    pub alias: String,
    pub asked: Option<Asked>,
    /// How many places it takes.
    pub length: usize,
}

impl TableRef {
    /// What begins at the first of these places. `None`: that is no table with a name to call it
    /// by.
    pub fn read(tokens: &Tokens, places: &[usize]) -> Option<TableRef> {
        let (name, mut at) = match &tokens.all[*places.first()?] {
            Token::LParen => (Vec::new(), behind_parentheses(tokens, places)?),
            _ => name(tokens, places)?,
        };
        let mut alias = take_alias(tokens, places, &mut at);
        let mut asked = None;
        if let Some((found, length)) = places.get(at..).and_then(|rest| Asked::read(tokens, rest)) {
            at += length;
            asked = Some(found);
            alias = alias.or_else(|| take_alias(tokens, places, &mut at));
        }
        let alias = alias.or_else(|| name.last().cloned())?;
        Some(TableRef { name, alias, asked, length: at })
    }

    /// The name with something asked for in it, quoted.
    pub fn with(&self, asked: &str, value: &str) -> String {
        let mut name = self.name.clone();
        let last = name.pop().unwrap_or_default();
        let plain = plain_name(&last);
        name.push(format!("\"{}{asked}{}\"", plain.replace('"', "\"\""), value.replace('"', "")));
        name.join(".")
    }

    /// Why a short form does not stand where it does.
    pub fn missing(tokens: &[Token]) -> SqlError {
        let text = Tokens { all: tokens.to_vec() }.text();
        SqlError::Syntax(format!("LAST, TAIL and AS OF stand behind a table, not behind `{}`", text.trim()))
    }
}

/// Whether something stands where tables do that is neither a subquery nor of the server itself.
pub fn names_topics(tokens: &Tokens) -> bool {
    let places = tokens.significant();
    places.windows(2).any(|pair| {
        let opens = ["FROM", "JOIN", "TABLE", "LATERAL"].iter().any(|word| tokens.is(pair[0], word));
        let is_own =
            |name: &str| name.starts_with("pg_") || ["information_schema", "kafscale"].contains(&name);
        match &tokens.all[pair[1]] {
            word @ Token::Word(_) if opens => !is_own(&plain_name(&word.to_string())),
            _ => false,
        }
    })
}

/// A name without its quotes; in small letters where it has none.
pub fn plain_name(written: &str) -> String {
    match written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => written.to_lowercase(),
    }
}

/// A name with its dots, and how many places it takes.
fn name(tokens: &Tokens, places: &[usize]) -> Option<(Vec<String>, usize)> {
    let word = |at: usize| match places.get(at).map(|place| &tokens.all[*place]) {
        Some(word @ Token::Word(_)) => Some(word.to_string()),
        _ => None,
    };
    let mut parts = vec![word(0)?];
    let mut at = 1;
    while places.get(at).is_some_and(|place| tokens.all[*place] == Token::Period) {
        parts.push(word(at + 1)?);
        at += 2;
    }
    Some((parts, at))
}

/// Behind the parenthesis that closes the first one.
fn behind_parentheses(tokens: &Tokens, places: &[usize]) -> Option<usize> {
    let mut depth = 0;
    for (at, place) in places.iter().enumerate() {
        match tokens.all[*place] {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at + 1);
        }
    }
    None
}

fn take_alias(tokens: &Tokens, places: &[usize], at: &mut usize) -> Option<String> {
    let is_as = places.get(*at).is_some_and(|place| tokens.is(*place, "AS"));
    let behind = *at + usize::from(is_as);
    let place = *places.get(behind)?;
    let Token::Word(word) = &tokens.all[place] else { return None };
    let is_name = match word.quote_style {
        Some(_) => true,
        // `AS OF '…'` is a form, and not a name.
        None if is_as => Asked::read(tokens, &places[*at..]).is_none(),
        None => {
            let is_form = FORMS.contains(&tokens.word(place).as_str());
            !is_form && word.keyword != Keyword::FULL && !RESERVED_FOR_TABLE_ALIAS.contains(&word.keyword)
        }
    };
    is_name.then(|| {
        *at = behind + 1;
        tokens.all[place].to_string()
    })
}
