//! The short forms that KAFSQL has beside SQL, written out: `FROM t LAST 1h`, `FROM t TAIL 100`,
//! `FROM t AS OF '…'`, `WITHIN 10m` behind a join ([`super::within`]), and `SCAN FULL` and `FOLLOW`
//! at the end of a query.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::table_ref::{Asked, TableRef, plain_name};
use super::tokens::Tokens;
use super::{Follow, QueryText, within};
use crate::catalog::asked;
use crate::error::SqlError;
use crate::query::parse_ranges;

/// Each is looked for in the whole query.
const FORMS_MAX: usize = 100;
/// The order of records across partitions.
const NEWEST_FIRST: &str = "_ts DESC NULLS LAST, _partition DESC, _offset DESC";

/// The same query in the engine's words.
pub fn write_out(tokens: &Tokens) -> Result<QueryText, SqlError> {
    let mut tokens = tokens.clone();
    let follow = take_follow(&mut tokens)?;
    let scan_full = take_scan_full(&mut tokens);
    let follow = follow.map_or_else(|| take_follow(&mut tokens), |found| Ok(Some(found)))?;
    let notes = within::write_out(&mut tokens)?;
    let mut query = QueryText { scan_full, notes, ..QueryText::default() };
    let Some(follow) = follow else {
        query.sql = written(tokens, true)?.sql;
        return Ok(query);
    };
    // The same query with its last records, in their order, and without them.
    let before = written(tokens.clone(), true)?;
    query.sql = written(tokens, false)?.sql;
    let in_order = |alias: String| {
        format!("{}\n ORDER BY {alias}._ts NULLS FIRST, {alias}._partition, {alias}._offset", before.sql)
    };
    let first = before.tail.map(in_order);
    if follow.from.is_some() && first.is_some() {
        return Err(SqlError::Syntax("FOLLOW FROM and TAIL both say where rows begin; leave one out".into()));
    }
    query.notes.push("FOLLOW: new rows, until it is cancelled".to_owned());
    query.follow = Some(Follow { first, ..follow });
    Ok(query)
}

struct Written {
    sql: String,
    /// What the table is called whose last records are asked for.
    tail: Option<String>,
}

/// With the forms behind tables written out; without `tails`, as if TAIL was not asked for.
fn written(mut tokens: Tokens, tails: bool) -> Result<Written, SqlError> {
    let mut tail = None;
    for _ in 0..FORMS_MAX {
        let Some((begin, end, table, is_topic)) = find(&tokens)? else {
            return Ok(Written { sql: tokens.text(), tail });
        };
        if matches!(table.asked, Some(Asked::Tail { .. })) {
            tail = Some(table.alias.clone());
        }
        let text = table_text(&table, is_topic, tails);
        tokens.all.splice(begin..end, Tokens::of(&text)?.all);
    }
    Err(SqlError::TooComplex(format!("more than {FORMS_MAX} of LAST, TAIL and AS OF")))
}

fn table_text(table: &TableRef, is_topic: bool, tails: bool) -> String {
    let (name, alias) = (table.name.join("."), &table.alias);
    match &table.asked {
        Some(Asked::Last { ms }) => {
            format!("(SELECT * FROM {name} WHERE _ts >= now() - INTERVAL '{ms} milliseconds') AS {alias}")
        }
        Some(Asked::Tail { count }) if tails => {
            let from = if is_topic { table.with(asked::TAIL, &count.to_string()) } else { name };
            format!("(SELECT * FROM {from} ORDER BY {NEWEST_FIRST} LIMIT {count}) AS {alias}")
        }
        Some(Asked::AsOf { ranges }) => format!("{} AS {alias}", table.with(asked::AS_OF, ranges)),
        Some(Asked::Tail { .. }) | None => format!("{name} AS {alias}"),
    }
}

/// `SCAN FULL` at the end.
fn take_scan_full(tokens: &mut Tokens) -> bool {
    let places = tokens.significant();
    let [.., before, scan, full] = places[..] else { return false };
    if !tokens.is(scan, "SCAN") || !tokens.is(full, "FULL") || wants_name(tokens, before) {
        return false;
    }
    tokens.all.truncate(scan);
    true
}

/// `FOLLOW` or `FOLLOW FROM '…'` at the end: where rows begin.
fn take_follow(tokens: &mut Tokens) -> Result<Option<Follow>, SqlError> {
    let places = tokens.significant();
    let is_form = |before: usize, at: usize| tokens.is(at, "FOLLOW") && !wants_name(tokens, before);
    if let [.., before, follow, from, ranges] = places[..]
        && is_form(before, follow)
        && tokens.is(from, "FROM")
        && let Token::SingleQuotedString(ranges) = &tokens.all[ranges]
    {
        let parsed = parse_ranges(ranges).ok_or_else(|| {
            SqlError::BadValue(format!(
                "FOLLOW FROM '{ranges}': give the ranges that a query has reported, such as '0:0-10,1:5-7'"
            ))
        })?;
        tokens.all.truncate(follow);
        return Ok(Some(Follow { from: Some(parsed), first: None }));
    }
    if let [.., before, follow] = places[..]
        && is_form(before, follow)
    {
        tokens.all.truncate(follow);
        return Ok(Some(Follow::default()));
    }
    Ok(None)
}

/// Whether what follows is a name, whatever it says.
fn wants_name(tokens: &Tokens, before: usize) -> bool {
    ["FROM", "JOIN", "AS", "SELECT", "BY", "TABLE"].iter().any(|word| tokens.is(before, word))
        || matches!(tokens.all[before], Token::Comma | Token::Period)
}

type Found = (usize, usize, TableRef, bool);

/// The first table with a form behind it: where it begins and ends, and whether it is a topic.
fn find(tokens: &Tokens) -> Result<Option<Found>, SqlError> {
    let places = tokens.significant();
    for at in 0..places.len() {
        // Nothing is called by these words where a table could be.
        let is_form = ["LAST", "TAIL", "AS"].iter().any(|word| tokens.is(places[at], word));
        if !is_form || Asked::read(tokens, &places[at..]).is_none() {
            continue;
        }
        let opens = |place: &usize| {
            ["FROM", "JOIN", "LATERAL", "ONLY"].iter().any(|word| tokens.is(*place, word))
                || tokens.all[*place] == Token::Comma
        };
        let Some(before) = places[..at].iter().rposition(opens) else { continue };
        let from = before + 1;
        let table = TableRef::read(tokens, &places[from..]).filter(|table| from + table.length > at);
        let Some(table) = table.filter(|table| !table.name.is_empty() && table.asked.is_some()) else {
            return Err(TableRef::missing(&tokens.all[places[from]..places[at]]));
        };
        let end = places[from + table.length - 1] + 1;
        let is_topic = !is_of_with(tokens, &places, from, &table.name);
        return Ok(Some((places[from], end, table, is_topic)));
    }
    Ok(None)
}

/// Whether a name was given before by `WITH name [(…)] AS (…)`.
fn is_of_with(tokens: &Tokens, places: &[usize], before: usize, name: &[String]) -> bool {
    let [name] = name else { return false };
    let name = plain_name(name);
    (0..before).any(|at| {
        let is_name = matches!(&tokens.all[places[at]], Token::Word(_))
            && plain_name(&tokens.all[places[at]].to_string()) == name;
        let opens = at.checked_sub(1).map(|at| places[at]).is_some_and(|place| {
            tokens.is(place, "WITH") || tokens.is(place, "RECURSIVE") || tokens.all[place] == Token::Comma
        });
        let behind = |n: usize| places.get(at + n).copied();
        let is_defined = behind(1).is_some_and(|place| tokens.is(place, "AS"))
            && [2, 3, 4].iter().filter_map(|n| behind(*n)).any(|place| tokens.all[place] == Token::LParen);
        is_name && opens && is_defined
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> QueryText {
        write_out(&Tokens::of(text).unwrap()).unwrap()
    }

    fn written(text: &str) -> (String, bool) {
        let query = query(text);
        (query.sql, query.scan_full)
    }

    fn last(table: &str, alias: &str, ms: u64) -> String {
        format!("(SELECT * FROM {table} WHERE _ts >= now() - INTERVAL '{ms} milliseconds') AS {alias}")
    }

    fn tail(table: &str, alias: &str, count: u64) -> String {
        format!("(SELECT * FROM {table} ORDER BY {NEWEST_FIRST} LIMIT {count}) AS {alias}")
    }

    #[test]
    fn short_forms_are_written_out() {
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
                "SELECT * FROM a LAST 5m x JOIN b LAST 1s AS y ON true",
                format!("SELECT * FROM {} JOIN {} ON true", last("a", "x", 300_000), last("b", "y", 1_000)),
            ),
            (
                "SELECT * FROM Orders TAIL 10",
                format!("SELECT * FROM {}", tail("\"orders@tail:10\"", "Orders", 10)),
            ),
            (
                "SELECT * FROM a JOIN \"B c\" AS OF '0:1-2' ON true",
                "SELECT * FROM a JOIN \"B c@as-of:0:1-2\" AS \"B c\" ON true".to_owned(),
            ),
        ] {
            assert_eq!(written(text), (expected, false), "{text}");
        }
    }

    #[test]
    fn short_forms_stand_wherever_tables_do() {
        for (text, expected) in [
            (
                "SELECT * FROM (SELECT * FROM a LAST 1s) x WHERE b IN (SELECT c FROM d TAIL 3)",
                format!(
                    "SELECT * FROM (SELECT * FROM {}) x WHERE b IN (SELECT c FROM {})",
                    last("a", "a", 1_000),
                    tail("\"d@tail:3\"", "d", 3)
                ),
            ),
            (
                "WITH r AS (SELECT * FROM a LAST 1s) SELECT * FROM r TAIL 2",
                format!(
                    "WITH r AS (SELECT * FROM {}) SELECT * FROM {}",
                    last("a", "a", 1_000),
                    tail("r", "r", 2)
                ),
            ),
            (
                "SELECT * FROM a -- the LAST 5m\n LAST 1s /* TAIL 3 */ WHERE x = 'LAST 1h'",
                format!("SELECT * FROM {} /* TAIL 3 */ WHERE x = 'LAST 1h'", last("a", "a", 1_000)),
            ),
            (
                "SELECT * FROM \"last\" TAIL 1",
                format!("SELECT * FROM {}", tail("\"last@tail:1\"", "\"last\"", 1)),
            ),
            ("SELECT * FROM a \"tail\" LAST 1s", format!("SELECT * FROM {}", last("a", "\"tail\"", 1_000))),
        ] {
            assert_eq!(written(text), (expected, false), "{text}");
        }
        for same in [
            "SELECT x AS of FROM t ORDER BY x NULLS LAST",
            "SELECT x AS last, y AS tail FROM t AS last WHERE last.x = 1",
            "SELECT \"LAST\" FROM \"TAIL\" ORDER BY 1 NULLS LAST LIMIT 1",
            "SELECT 'FROM a LAST 1h', $$ b TAIL 3 $$ FROM t",
            "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY x) FROM t",
            "SELECT * FROM follow",
            "SELECT a AS follow",
            "SELECT a.follow FROM scan AS full",
        ] {
            assert_eq!(written(same), (same.to_owned(), false), "{same}");
            assert_eq!(query(same).follow, None, "{same}");
        }
    }

    #[test]
    fn scan_full_is_taken_off_the_end() {
        assert_eq!(written("SELECT * FROM a scan  full"), ("SELECT * FROM a ".to_owned(), true));
        assert_eq!(written("SELECT scan FROM full"), ("SELECT scan FROM full".to_owned(), false));
    }

    #[test]
    fn follow_says_where_rows_begin() {
        let plain = query("SELECT * FROM a WHERE b > 1 FOLLOW");
        assert_eq!(
            (plain.sql.as_str(), plain.follow),
            ("SELECT * FROM a WHERE b > 1 ", Some(Follow::default()))
        );
        let behind = query("SELECT * FROM a follow from '0:0-5'");
        assert_eq!(behind.sql, "SELECT * FROM a ");
        assert_eq!(behind.follow.unwrap().from, parse_ranges("0:0-5"));
        let tail = query("SELECT b FROM a x TAIL 3 WHERE b > 1 FOLLOW");
        assert_eq!(tail.sql, "SELECT b FROM a AS x WHERE b > 1 ");
        let first = tail.follow.unwrap().first.unwrap();
        assert!(first.contains("\"a@tail:3\"") && first.contains("ORDER BY x._ts NULLS FIRST"), "{first}");
        assert!(query("SELECT * FROM a FOLLOW SCAN FULL").follow.is_some());
        for text in ["SELECT * FROM a TAIL 1 FOLLOW FROM '0:0-1'", "SELECT * FROM a FOLLOW FROM 'x'"] {
            assert!(write_out(&Tokens::of(text).unwrap()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_short_form_needs_a_table() {
        for text in ["SELECT * FROM (SELECT 1) LAST 1h", "SELECT * FROM (SELECT 1) x LAST 1h"] {
            let tokens = Tokens::of(text).unwrap();
            assert!(write_out(&tokens).unwrap_err().to_string().contains("stand behind a table"), "{text}");
        }
        let many = format!("SELECT * FROM a LAST 1h{}", ", a LAST 1h".repeat(200));
        assert_eq!(write_out(&Tokens::of(&many).unwrap()).unwrap_err().code(), "54001");
    }
}
