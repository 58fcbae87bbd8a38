//! `FROM a JOIN b ON a.k = b.k WITHIN 10m`: a join of records that were written about the same
//! time, written out as a condition on `_ts`.

use std::collections::BTreeSet;

use datafusion::sql::sqlparser::tokenizer::Token;

use super::table_ref::{TableRef, plain_name, span_ms};
use super::tokens::Tokens;
use crate::error::SqlError;

const JOINS_MAX: usize = 100;

/// Writes out each WITHIN. Gives what EXPLAIN says of them.
pub fn write_out(tokens: &mut Tokens) -> Result<Vec<String>, SqlError> {
    let mut notes = Vec::new();
    while let Some(found) = find(tokens)? {
        if notes.len() == JOINS_MAX {
            return Err(SqlError::TooComplex(format!("more than {JOINS_MAX} joins with WITHIN")));
        }
        notes.push(found.apply(tokens)?);
    }
    Ok(notes)
}

/// A join with a WITHIN behind its condition.
struct Found {
    ms: u64,
    /// As written, say `10m`.
    span: String,
    left: String,
    right: String,
    /// The tokens of the condition, and those of WITHIN.
    condition: std::ops::Range<usize>,
    within: std::ops::Range<usize>,
}

fn find(tokens: &Tokens) -> Result<Option<Found>, SqlError> {
    let places = tokens.significant();
    for (at, place) in places.iter().enumerate() {
        if !tokens.is(*place, "WITHIN") {
            continue;
        }
        let Some((ms, length)) = span_ms(tokens, &places[at + 1..]) else { continue };
        let on = back_to(tokens, &places[..at], &["ON"], &["JOIN", "USING", "WHERE", "FROM", "SELECT"]);
        let on = on.ok_or_else(|| {
            misplaced("WITHIN stands behind the condition of a join: a JOIN b ON a.k = b.k WITHIN 10m")
        })?;
        let join = back_to(tokens, &places[..on], &["JOIN"], &["WHERE", "FROM", "SELECT", "ON"]);
        let join = join.ok_or_else(|| misplaced("WITHIN needs a JOIN before its ON"))?;
        let right = TableRef::read(tokens, &places[join + 1..on])
            .ok_or_else(|| misplaced("WITHIN: the joined table has no name"))?;
        let condition = &places[on + 1..at];
        let (Some(first), Some(last)) = (condition.first(), condition.last()) else {
            return Err(misplaced("WITHIN: the join has no condition"));
        };
        let left = left_of(tokens, &places[..join], condition, &right.alias)?;
        let end = places[at + length] + 1;
        return Ok(Some(Found {
            ms,
            span: Tokens { all: tokens.all[places[at + 1]..end].to_vec() }.words().concat().to_lowercase(),
            left,
            right: right.alias,
            condition: *first..*last + 1,
            within: *place..end,
        }));
    }
    Ok(None)
}

fn misplaced(why: &str) -> SqlError {
    SqlError::Syntax(why.to_owned())
}

/// The last place with one of these words on the same level of parentheses, and none of the others
/// behind it.
fn back_to(tokens: &Tokens, places: &[usize], words: &[&str], barriers: &[&str]) -> Option<usize> {
    let mut depth = 0;
    for (at, place) in places.iter().enumerate().rev() {
        match tokens.all[*place] {
            Token::RParen => depth += 1,
            Token::LParen if depth == 0 => return None,
            Token::LParen => depth -= 1,
            _ if depth > 0 => {}
            _ if words.iter().any(|word| tokens.is(*place, word)) => return Some(at),
            _ if barriers.iter().any(|word| tokens.is(*place, word)) => return None,
            _ => {}
        }
    }
    None
}

/// What the other table is called: the one that the condition names, or the only one there is
/// before the join.
fn left_of(tokens: &Tokens, before: &[usize], condition: &[usize], right: &str) -> Result<String, SqlError> {
    let mut named = BTreeSet::new();
    for (i, at) in condition.iter().enumerate() {
        let is_dot = |place: Option<&usize>| place.is_some_and(|place| tokens.all[*place] == Token::Period);
        let begins = i == 0 || !is_dot(condition.get(i - 1));
        if let word @ Token::Word(_) = &tokens.all[*at]
            && begins
            && is_dot(condition.get(i + 1))
            && plain_name(&word.to_string()) != plain_name(right)
        {
            named.insert(word.to_string());
        }
    }
    if named.len() == 1 {
        return Ok(named.pop_first().expect("there is one"));
    }
    let ambiguous = || misplaced("WITHIN: the condition has to name the two tables, as in a.k = b.k");
    if named.len() > 1 {
        return Err(ambiguous());
    }
    let from = back_to(tokens, before, &["FROM"], &["JOIN", "ON"]).ok_or_else(ambiguous)?;
    let table = TableRef::read(tokens, &before[from + 1..]).ok_or_else(ambiguous)?;
    // Behind it may stand LEFT, INNER or the like, and nothing else.
    let rest = &before[from + 1 + table.length..];
    let is_one = rest
        .iter()
        .all(|place| ["LEFT", "RIGHT", "FULL", "INNER", "OUTER"].iter().any(|word| tokens.is(*place, word)));
    if is_one { Ok(table.alias) } else { Err(ambiguous()) }
}

impl Found {
    fn apply(self, tokens: &mut Tokens) -> Result<String, SqlError> {
        let Found { ms, span, left, right, condition, within } = self;
        let plain = Tokens { all: tokens.all[condition.clone()].to_vec() }.text();
        let interval = format!("INTERVAL '{ms} milliseconds'");
        let written = format!(
            "({plain}\n) AND {left}._ts BETWEEN {right}._ts - {interval} AND {right}._ts + {interval}"
        );
        tokens.all.splice(condition.start..within.end, Tokens::of(&written)?.all);
        Ok(format!("WITHIN {span}: |{left}._ts - {right}._ts| <= {span}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Result<(String, Vec<String>), SqlError> {
        let mut tokens = Tokens::of(text)?;
        let notes = write_out(&mut tokens)?;
        Ok((tokens.text(), notes))
    }

    fn between(left: &str, right: &str, ms: u64) -> String {
        let interval = format!("INTERVAL '{ms} milliseconds'");
        format!("AND {left}._ts BETWEEN {right}._ts - {interval} AND {right}._ts + {interval}")
    }

    #[test]
    fn within_is_a_condition_on_both_times() {
        for (text, expected) in [
            (
                "SELECT * FROM a JOIN b ON a.k = b.k WITHIN 10m WHERE a.x > 1",
                format!(
                    "SELECT * FROM a JOIN b ON (a.k = b.k\n) {} WHERE a.x > 1",
                    between("a", "b", 600_000)
                ),
            ),
            (
                "SELECT * FROM orders o LEFT JOIN public.pays AS p ON o.k = p.k OR p.any within 5s",
                format!(
                    "SELECT * FROM orders o LEFT JOIN public.pays AS p ON (o.k = p.k OR p.any\n) {}",
                    between("o", "p", 5_000)
                ),
            ),
            (
                "SELECT * FROM a JOIN b ON a.k = b.k WITHIN 1s JOIN c ON c.k = b.k WITHIN 2s",
                format!(
                    "SELECT * FROM a JOIN b ON (a.k = b.k\n) {} JOIN c ON (c.k = b.k\n) {}",
                    between("a", "b", 1_000),
                    between("b", "c", 2_000)
                ),
            ),
            (
                "SELECT * FROM a LAST 1h JOIN (SELECT * FROM b) x ON k = y /* WITHIN 3s */ WITHIN 1s",
                format!(
                    "SELECT * FROM a LAST 1h JOIN (SELECT * FROM b) x ON (k = y\n) {}",
                    between("a", "x", 1_000)
                ),
            ),
            (
                "SELECT * FROM \"on\" JOIN \"within\" ON \"on\".k = \"within\".k WITHIN 1s",
                format!(
                    "SELECT * FROM \"on\" JOIN \"within\" ON (\"on\".k = \"within\".k\n) {}",
                    between("\"on\"", "\"within\"", 1_000)
                ),
            ),
        ] {
            assert_eq!(written(text).unwrap().0, expected, "{text}");
        }
        let notes = written("SELECT * FROM a JOIN b ON a.k = b.k WITHIN 10m").unwrap().1;
        assert_eq!(notes, ["WITHIN 10m: |a._ts - b._ts| <= 10m"]);
    }

    #[test]
    fn within_needs_a_join_of_two_tables() {
        for text in [
            "SELECT * FROM a WITHIN 10m",
            "SELECT * FROM a JOIN b USING (k) WITHIN 10m",
            "SELECT * FROM a JOIN b ON a.k = b.k WHERE x WITHIN 10m",
            "SELECT * FROM a, c JOIN b ON k = l WITHIN 10m",
            "SELECT * FROM a JOIN c ON true JOIN b ON a.k + c.k = b.k WITHIN 10m",
        ] {
            assert!(written(text).is_err(), "{text}");
        }
    }
}
