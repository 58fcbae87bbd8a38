//! The short forms that KAFSQL has beside SQL, written out: `FROM t LAST 1h`, `FROM t TAIL 100`, `FROM t AS OF '…'` and `SCAN FULL` at
//! the end of a query.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::QueryText;
use super::tokens::Tokens;
use crate::catalog::asked;
use crate::error::SqlError;

const UNITS_MS: [(&str, u64); 6] =
    [("MS", 1), ("S", 1_000), ("M", 60_000), ("H", 3_600_000), ("D", 86_400_000), ("W", 604_800_000)];

/// The same query in the engine's words.
pub fn write_out(tokens: &Tokens) -> Result<QueryText, SqlError> {
    let mut tokens = tokens.clone();
    let scan_full = take_scan_full(&mut tokens);
    while let Some(found) = find(&tokens) {
        let written = found.write_out(&tokens)?;
        tokens.all.splice(found.table..found.end, written);
    }
    Ok(QueryText { sql: tokens.text(), scan_full })
}

fn take_scan_full(tokens: &mut Tokens) -> bool {
    let places = tokens.significant();
    let [.., scan, full] = places[..] else { return false };
    if tokens.word(scan) != "SCAN" || tokens.word(full) != "FULL" {
        return false;
    }
    tokens.all.truncate(scan);
    true
}

/// A short form behind a table.
struct Found {
    /// Where the table's name begins.
    table: usize,
    /// Where the short form begins and ends.
    form: usize,
    end: usize,
    asked: Asked,
}

enum Asked {
    Last { ms: u64 },
    Tail { count: u64 },
    AsOf { ranges: String },
}

fn find(tokens: &Tokens) -> Option<Found> {
    let places = tokens.significant();
    for (i, at) in places.iter().enumerate() {
        let behind = |n: usize| places.get(i + n).copied();
        let (Some(first), second) = (behind(1), behind(2)) else { break };
        let (asked, words) = match (tokens.word(*at).as_str(), &tokens.all[first], second) {
            ("LAST", Token::Number(number, _), Some(unit)) => {
                let unit = tokens.word(unit);
                let Some((_, ms)) = UNITS_MS.iter().find(|(name, _)| *name == unit) else { continue };
                let Ok(number) = number.parse::<u64>() else { continue };
                (Asked::Last { ms: number.saturating_mul(*ms) }, 3)
            }
            ("TAIL", Token::Number(number, _), _) => {
                let Ok(count) = number.parse() else { continue };
                (Asked::Tail { count }, 2)
            }
            ("AS", Token::Word(of), Some(ranges)) if of.value.eq_ignore_ascii_case("of") => {
                let Token::SingleQuotedString(ranges) = &tokens.all[ranges] else { continue };
                (Asked::AsOf { ranges: ranges.clone() }, 3)
            }
            _ => continue,
        };
        let table = table_before(tokens, &places[..i])?;
        return Some(Found { table, form: *at, end: places[i + words - 1] + 1, asked });
    }
    None
}

/// Where the table begins that stands last: behind the last FROM, JOIN or comma.
fn table_before(tokens: &Tokens, places: &[usize]) -> Option<usize> {
    let opens = |at: &usize| matches!(tokens.word(*at).as_str(), "FROM" | "JOIN" | "," | "LATERAL" | "TABLE");
    let before = places.iter().rposition(opens)?;
    places.get(before + 1).copied()
}

impl Found {
    fn write_out(&self, tokens: &Tokens) -> Result<Vec<Token>, SqlError> {
        let table = Table::parse(&tokens.all[self.table..self.form])?;
        let Table { name, alias } = &table;
        let written = match &self.asked {
            Asked::Last { ms } => format!(
                "(SELECT * FROM {} WHERE _ts >= now() - INTERVAL '{ms} milliseconds') AS {alias}",
                name.join(".")
            ),
            Asked::Tail { count } => format!(
                "(SELECT * FROM {} ORDER BY _ts DESC NULLS LAST, _partition DESC, _offset DESC LIMIT {count}) AS {alias}",
                table.with(asked::TAIL, &count.to_string())
            ),
            Asked::AsOf { ranges } => format!("{} AS {alias}", table.with(asked::AS_OF, ranges)),
        };
        Ok(Tokens::of(&written)?.all)
    }
}

/// A table as it is named in a query, and what it is called there.
struct Table {
    name: Vec<String>,
    alias: String,
}

impl Table {
    fn parse(tokens: &[Token]) -> Result<Table, SqlError> {
        let tokens = Tokens { all: tokens.to_vec() };
        let malformed = || {
            SqlError::Syntax(format!(
                "LAST, TAIL and AS OF stand behind a table, not behind `{}`",
                tokens.text().trim()
            ))
        };
        let places = tokens.significant();
        let is_name = |at: usize| matches!(tokens.all[at], Token::Word(_));
        let mut places = places.into_iter().peekable();
        let mut name = Vec::new();
        loop {
            let at = places.next().filter(|at| is_name(*at)).ok_or_else(malformed)?;
            name.push(tokens.all[at].to_string());
            match places.peek() {
                Some(at) if tokens.all[*at] == Token::Period => places.next(),
                _ => break,
            };
        }
        if places.peek().is_some_and(|at| tokens.word(*at) == "AS") {
            places.next();
        }
        let alias = match places.next() {
            Some(at) if is_name(at) => tokens.all[at].to_string(),
            Some(_) => return Err(malformed()),
            None => name[name.len() - 1].clone(),
        };
        if places.next().is_some() {
            return Err(malformed());
        }
        Ok(Table { name, alias })
    }

    /// The name with something asked for in it, quoted.
    fn with(&self, asked: &str, value: &str) -> String {
        let mut name = self.name.clone();
        let last = name.pop().unwrap_or_default();
        let plain = match last.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(quoted) => quoted.to_owned(),
            None => last.to_lowercase(),
        };
        name.push(format!("\"{plain}{asked}{}\"", value.replace('"', "")));
        name.join(".")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> (String, bool) {
        let query = write_out(&Tokens::of(text).unwrap()).unwrap();
        (query.sql, query.scan_full)
    }

    #[test]
    fn short_forms_are_written_out() {
        let last = |table: &str, alias: &str, ms: u64| {
            format!("(SELECT * FROM {table} WHERE _ts >= now() - INTERVAL '{ms} milliseconds') AS {alias}")
        };
        for (text, expected) in [
            ("SELECT 1", "SELECT 1".to_owned()),
            (
                "SELECT * FROM orders LAST 1h WHERE a > 1",
                format!("SELECT * FROM {} WHERE a > 1", last("orders", "orders", 3_600_000)),
            ),
            (
                "SELECT * FROM a x LAST 5m, public.b AS y last 10s",
                format!("SELECT * FROM {}, {}", last("a", "x", 300_000), last("public.b", "y", 10_000)),
            ),
            (
                "SELECT * FROM Orders TAIL 10",
                "SELECT * FROM (SELECT * FROM \"orders@tail:10\" ORDER BY _ts DESC NULLS LAST, _partition DESC, _offset DESC LIMIT 10) AS Orders"
                    .to_owned(),
            ),
            (
                "SELECT * FROM a JOIN \"B c\" AS OF '0:1-2' ON true",
                "SELECT * FROM a JOIN \"B c@as-of:0:1-2\" AS \"B c\" ON true".to_owned(),
            ),
            ("SELECT x AS of FROM t ORDER BY x NULLS LAST", "SELECT x AS of FROM t ORDER BY x NULLS LAST".to_owned()),
        ] {
            assert_eq!(written(text), (expected, false), "{text}");
        }
    }

    #[test]
    fn scan_full_is_taken_off_the_end() {
        assert_eq!(written("SELECT * FROM a scan  full"), ("SELECT * FROM a ".to_owned(), true));
        assert_eq!(written("SELECT scan FROM full"), ("SELECT scan FROM full".to_owned(), false));
    }

    #[test]
    fn a_short_form_needs_a_table() {
        let tokens = Tokens::of("SELECT * FROM (SELECT 1) LAST 1h").unwrap();
        assert!(write_out(&tokens).unwrap_err().to_string().contains("stand behind a table"));
    }
}
