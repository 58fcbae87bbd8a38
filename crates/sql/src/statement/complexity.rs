//! How much of a query is too much. Parsing and planning take memory for each token and stack for
//! each level, so that both are bounded before they begin.

use std::collections::HashMap;

use datafusion::sql::sqlparser::tokenizer::Token;

use super::table_ref::plain_name;
use super::tokens::Tokens;
use crate::error::SqlError;

const TOKENS_MAX: usize = 400_000;
/// Parentheses within each other.
const NESTING_MAX: usize = 100;
/// Between two commas: `a + b + c` is as deep as it is long.
const CHAIN_MAX: usize = 10_000;
/// As in PostgreSQL.
const COLUMNS_MAX: usize = 1_664;
/// Or queries of a UNION. The planner looks at all of them for each of them.
const TABLES_MAX: usize = 100;

/// What WITH names may be named, by each other too: the planner writes each of them out.
const EXPANSIONS_MAX: u64 = 1_000;
/// Of one GROUP BY, as in PostgreSQL.
const GROUPING_SETS_MAX: u64 = 4_096;

/// What a comma stands between.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum List {
    Columns,
    Tables,
    #[default]
    Other,
}

/// Between two parentheses.
#[derive(Debug, Default)]
struct Level {
    list: List,
    /// Since the last comma.
    chain: usize,
    columns: usize,
}

/// Refuses what no person writes.
pub fn check(tokens: &Tokens) -> Result<(), SqlError> {
    let refused = |what: String| Err(SqlError::TooComplex(format!("the statement is too complex: {what}")));
    if tokens.all.len() > TOKENS_MAX {
        return refused(format!("{} words and signs, and {TOKENS_MAX} are the most", tokens.all.len()));
    }
    if expansions(tokens) > EXPANSIONS_MAX {
        return refused("the queries of WITH name each other too often".to_owned());
    }
    let sets = grouping_sets(tokens);
    if sets > GROUPING_SETS_MAX {
        return refused(format!("{sets} grouping sets, and {GROUPING_SETS_MAX} are the most"));
    }
    let (mut levels, mut tables) = (vec![Level::default()], 0);
    for (at, token) in tokens.all.iter().enumerate() {
        if matches!(token, Token::Whitespace(_)) {
            continue;
        }
        let nesting = levels.len();
        let level = levels.last_mut().expect("the outermost one stays");
        tables += level.pass(tokens, at);
        if level.chain > CHAIN_MAX {
            return refused(format!(
                "one expression of more than {CHAIN_MAX} words and signs; IN (…) takes more values than that"
            ));
        }
        if level.columns > COLUMNS_MAX || tables > TABLES_MAX {
            return refused(format!("more than {COLUMNS_MAX} columns, or {TABLES_MAX} tables"));
        }
        match token {
            Token::LParen | Token::LBracket if nesting == NESTING_MAX => {
                return refused(format!("more than {NESTING_MAX} parentheses within each other"));
            }
            Token::LParen | Token::LBracket => levels.push(Level::default()),
            Token::RParen | Token::RBracket if nesting > 1 => {
                levels.pop();
            }
            _ => {}
        }
    }
    Ok(())
}

/// How many queries there are once each name of WITH is written out where it is used.
fn expansions(tokens: &Tokens) -> u64 {
    let places = tokens.significant();
    let (mut known, mut open) = (HashMap::<String, u64>::new(), Vec::<(String, usize, u64)>::new());
    let (mut depth, mut total) = (0_usize, 0_u64);
    for (at, place) in places.iter().enumerate() {
        match &tokens.all[*place] {
            Token::LParen => {
                if let Some(name) = defined_before(tokens, &places[..at]) {
                    open.push((name, depth, 1));
                }
                depth += 1;
            }
            Token::RParen => {
                depth = depth.saturating_sub(1);
                if let Some((name, _, count)) = open.pop_if(|(_, opened_at, _)| *opened_at == depth) {
                    known.insert(name, count);
                }
            }
            word @ Token::Word(_) if at > 0 && opens_table(tokens, places[at - 1]) => {
                let count = known.get(&plain_name(&word.to_string())).copied().unwrap_or_default();
                let of = open.last_mut().map_or(&mut total, |(_, _, count)| count);
                *of = of.saturating_add(count);
            }
            _ => {}
        }
    }
    known.values().copied().fold(total, u64::max)
}

/// How many sets CUBE, ROLLUP and GROUPING SETS stand for together, in the GROUP BY that has most.
fn grouping_sets(tokens: &Tokens) -> u64 {
    let places = tokens.significant();
    let (mut most, mut sets) = (1_u64, 1_u64);
    for (at, place) in places.iter().enumerate() {
        let opens = places.get(at + 1).is_some_and(|next| tokens.all[*next] == Token::LParen);
        if tokens.is(*place, "GROUP") {
            sets = 1;
        } else if opens && tokens.is(*place, "CUBE") {
            let items = u32::try_from(items(tokens, &places[at + 1..])).unwrap_or(u32::MAX);
            sets = sets.saturating_mul(2_u64.saturating_pow(items));
        } else if opens && tokens.is(*place, "ROLLUP") {
            sets = sets.saturating_mul(items(tokens, &places[at + 1..]).saturating_add(1));
        } else if opens && tokens.is(*place, "SETS") {
            sets = sets.saturating_mul(items(tokens, &places[at + 1..]));
        }
        most = most.max(sets);
    }
    most
}

/// Of the list that begins with the parenthesis at the first place.
fn items(tokens: &Tokens, places: &[usize]) -> u64 {
    let (mut depth, mut count) = (0_usize, 1);
    for place in places {
        match tokens.all[*place] {
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket => depth = depth.saturating_sub(1),
            Token::Comma if depth == 1 => count += 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    count
}

fn opens_table(tokens: &Tokens, place: usize) -> bool {
    tokens.is(place, "FROM") || tokens.is(place, "JOIN") || tokens.all[place] == Token::Comma
}

/// The name that is defined by the parenthesis behind these places: `name [(…)] AS [NOT] [MATERIALIZED]`.
fn defined_before(tokens: &Tokens, places: &[usize]) -> Option<String> {
    let is_option = |place: &usize| tokens.is(*place, "MATERIALIZED") || tokens.is(*place, "NOT");
    let as_at = places.iter().rposition(|place| !is_option(place))?;
    let mut before = places[..as_at].iter().rev().filter(|_| tokens.is(places[as_at], "AS"));
    let mut place = before.next()?;
    if tokens.all[*place] == Token::RParen {
        before.by_ref().find(|place| tokens.all[**place] == Token::LParen)?;
        place = before.next()?;
    }
    match &tokens.all[*place] {
        word @ Token::Word(_) => Some(plain_name(&word.to_string())),
        _ => None,
    }
}

impl Level {
    /// Takes a token. Gives how many tables it names.
    fn pass(&mut self, tokens: &Tokens, at: usize) -> usize {
        self.chain += 1;
        match &tokens.all[at] {
            Token::Comma => {
                self.chain = 0;
                self.columns += usize::from(self.list == List::Columns);
                return usize::from(self.list == List::Tables);
            }
            Token::Word(word) if word.quote_style.is_none() => match tokens.word(at).as_str() {
                "SELECT" => (self.list, self.columns) = (List::Columns, 0),
                "FROM" => {
                    self.list = List::Tables;
                    return 1;
                }
                "JOIN" | "UNION" | "EXCEPT" | "INTERSECT" => return 1,
                "WHERE" | "GROUP" | "HAVING" | "ORDER" | "LIMIT" | "WINDOW" => self.list = List::Other,
                _ => {}
            },
            _ => {}
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> Option<String> {
        check(&Tokens::of(text).unwrap()).err().map(|e| e.to_string())
    }

    #[test]
    fn lists_are_long_and_expressions_are_not() {
        let numbers = vec!["123456"; 100_000].join(", ");
        assert_eq!(refusal(&format!("SELECT 1 WHERE 1 IN ({numbers})")), None);
        assert_eq!(refusal(&format!("SELECT {}1", "1 + ".repeat(1_000))), None);
        assert_eq!(
            refusal(&format!("SELECT a FROM b WHERE c IN (1{0}) ORDER BY a{0}", ", 1".repeat(500))),
            None
        );
        for text in [
            format!("SELECT {}1", "1+".repeat(20_000)),
            format!("SELECT {}1", "1+f(1,2)+".repeat(20_000)),
            format!("SELECT 1{}", "::int".repeat(20_000)),
            format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000)),
            format!("SELECT {}1{}", "[".repeat(10_000), "]".repeat(10_000)),
            format!("SELECT 1{}", " UNION SELECT 1".repeat(20_000)),
            format!("SELECT {}", "1,".repeat(400_000)),
            format!("SELECT {}1", "1,".repeat(2_000)),
            format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(200)),
            format!("SELECT 1 FROM a{}", ", a".repeat(200)),
            format!("SELECT 1 FROM a{}", " JOIN a ON true".repeat(200)),
        ] {
            assert!(refusal(&text).is_some(), "{}", &text[..40]);
        }
    }

    #[test]
    fn grouping_sets_are_counted_before_they_are_made() {
        let sets =
            |text: &str| grouping_sets(&Tokens::of(&format!("SELECT 1 FROM t GROUP BY {text}")).unwrap());
        assert_eq!(sets("a, b"), 1);
        assert_eq!(sets("CUBE (a, (b, c), f(d, e))"), 8);
        assert_eq!(sets("CUBE (a, b), ROLLUP (a, b), GROUPING SETS ((a, b), (c), ())"), 4 * 3 * 3);
        let cube = |columns: usize| format!("SELECT 1 FROM t GROUP BY CUBE (a{})", ", a".repeat(columns - 1));
        assert_eq!(refusal(&cube(12)), None);
        for text in [cube(13), cube(1_000), format!("{0}, CUBE (a, b)", cube(12)), cube(64)] {
            assert!(refusal(&text).is_some(), "{text}");
        }
        assert_eq!(refusal(&format!("({0}) UNION ({0})", cube(12))), None);
    }

    #[test]
    fn queries_of_with_are_counted_as_often_as_they_are_written_out() {
        let doubling = |levels: usize| {
            let next = |i: usize| format!(", a{}(x) AS (SELECT l.x FROM a{i} l, a{i} r)", i + 1);
            let all: String = (0..levels).map(next).collect();
            format!("WITH a0 AS NOT MATERIALIZED (SELECT 1 AS x){all} SELECT count(*) FROM a{levels}")
        };
        assert_eq!(expansions(&Tokens::of(&doubling(3)).unwrap()), 15);
        assert_eq!(refusal(&doubling(5)), None);
        assert!(refusal(&doubling(40)).is_some());
    }
}
