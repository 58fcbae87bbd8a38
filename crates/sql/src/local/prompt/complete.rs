//! What a word that was begun may become: a keyword, a topic, or a column of a topic that the
//! statement names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::AsArray as _;
use futures_util::StreamExt as _;
use tokio::runtime::Handle;

use crate::engine::Engine;
use crate::error::SqlError;
use crate::statement::{Statement, parse_all};

/// Whoever presses Tab does not wait longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Then names are asked for again.
const FRESH: Duration = Duration::from_secs(30);

const KEYWORDS: [&str; 62] = [
    "ALL",
    "ANALYZE",
    "AND",
    "AS",
    "ASC",
    "AVG(",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST(",
    "COALESCE(",
    "COUNT(",
    "CROSS",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "ELSE",
    "END",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "FALSE",
    "FOLLOW",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "ILIKE",
    "IN",
    "INNER",
    "INTERSECT",
    "INTERVAL",
    "IS",
    "JOIN",
    "LAST",
    "LEFT",
    "LIKE",
    "LIMIT",
    "MAX(",
    "MIN(",
    "NOT",
    "NOW()",
    "NULL",
    "NULLS",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OVER",
    "PARTITION",
    "PARTITIONS",
    "RIGHT",
    "SCAN",
    "SELECT",
    "SHOW",
    "SUM(",
    "TAIL",
    "TOPICS",
    "UNION",
    "WHERE",
    "WITH",
    "WITHIN",
];

/// See the file's comment.
pub struct Completer {
    engine: Arc<Engine>,
    threads: Handle,
    topics: Option<(Instant, Vec<String>)>,
    columns: BTreeMap<String, (Instant, Vec<String>)>,
}

impl Completer {
    pub fn new(engine: Arc<Engine>) -> Completer {
        Completer { engine, threads: Handle::current(), topics: None, columns: BTreeMap::new() }
    }

    /// What the word at the end of `text` may become, in order.
    pub fn candidates(&mut self, text: &str) -> Vec<String> {
        let begun = word_at_end(text);
        let topics = self.topics();
        let named: Vec<String> = topics.iter().filter(|topic| names(text, begun, topic)).cloned().collect();
        let columns: Vec<String> = named.iter().flat_map(|topic| self.columns(topic)).collect();
        matching(begun, topics.iter().chain(&columns).map(String::as_str))
    }

    fn topics(&mut self) -> Vec<String> {
        let known = self.topics.take().filter(|(at, _)| at.elapsed() < FRESH);
        let known = known.or_else(|| Some((Instant::now(), self.ask("SELECT name FROM kafscale.topics")?)));
        self.topics = known;
        self.topics.as_ref().map(|(_, topics)| topics.clone()).unwrap_or_default()
    }

    fn columns(&mut self, topic: &str) -> Vec<String> {
        let known = self.columns.get(topic).filter(|(at, _)| at.elapsed() < FRESH);
        if known.is_none() {
            let quoted = topic.replace('\'', "''");
            let sql =
                format!("SELECT column_name FROM kafscale.columns WHERE topic = '{quoted}' ORDER BY ordinal");
            let columns = self.ask(&sql).unwrap_or_default();
            self.columns.insert(topic.to_owned(), (Instant::now(), columns));
        }
        self.columns.get(topic).map(|(_, columns)| columns.clone()).unwrap_or_default()
    }

    /// The names that a query gives.
    fn ask(&self, sql: &str) -> Option<Vec<String>> {
        let asked = tokio::time::timeout(PATIENCE, names_of(&self.engine, sql));
        self.threads.block_on(asked).ok()?.ok()
    }
}

async fn names_of(engine: &Engine, sql: &str) -> Result<Vec<String>, SqlError> {
    let Some(Statement::Query(query)) = parse_all(sql)?.pop() else { return Ok(Vec::new()) };
    let planner = engine.begin(&query);
    let mut running = planner.plan().await.map(|plan| planner.run(plan, None))?.await?;
    let mut names = Vec::new();
    while let Some(batch) = running.rows.next().await {
        let texts = arrow::compute::cast(batch?.column(0), &arrow::datatypes::DataType::Utf8)
            .map_err(datafusion::error::DataFusionError::from)?;
        names.extend(texts.as_string::<i32>().iter().flatten().map(quoted));
    }
    Ok(names)
}

/// A name as it is written in a query.
fn quoted(name: &str) -> String {
    let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !KEYWORDS.contains(&name.to_uppercase().as_str());
    match is_plain {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

/// The word that stands last, quote included.
pub fn word_at_end(text: &str) -> &str {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '"' | '\\');
    let begins = text.char_indices().rev().take_while(|(_, c)| is_part(*c)).last();
    begins.map_or("", |(at, _)| &text[at..])
}

/// Whether a topic is named before the word that is begun.
fn names(text: &str, begun: &str, topic: &str) -> bool {
    let before = &text[..text.len() - begun.len()];
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    before
        .match_indices(topic)
        .any(|(at, _)| !before[..at].ends_with(is_part) && !before[at + topic.len()..].starts_with(is_part))
}

fn matching<'a>(begun: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let lower = begun.to_lowercase();
    let begins =
        |name: &str| name.to_lowercase().trim_start_matches('"').starts_with(lower.trim_start_matches('"'));
    let mut found: BTreeSet<String> = names.filter(|name| begins(name)).map(str::to_owned).collect();
    if !begun.is_empty() && !begun.starts_with('"') {
        let small = begun.chars().all(|c| !c.is_uppercase());
        let written = |word: &&str| if small { word.to_lowercase() } else { (*word).to_owned() };
        found.extend(KEYWORDS.iter().filter(|word| begins(word)).map(written));
    }
    // Names in quotes are for those who have begun with a quote, unless there are no others.
    let has_plain = !begun.starts_with('"') && found.iter().any(|name| !name.starts_with('"'));
    found.into_iter().filter(|name| !has_plain || !name.starts_with('"')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_becomes_what_begins_with_it() {
        let names = ["orders", "order_lines", "\"Odd\""];
        let found = |begun: &str| matching(begun, names.into_iter());
        assert_eq!(found("orde"), ["order", "order_lines", "orders"]);
        assert_eq!(found("ORD"), ["ORDER", "order_lines", "orders"]);
        assert_eq!(found("\"O"), ["\"Odd\"", "order_lines", "orders"]);
        assert_eq!(found("Odd"), ["\"Odd\""]);
        assert_eq!(found("xyz"), Vec::<String>::new());
        assert_eq!(["a_1", "A", "select", "1a"].map(quoted), ["a_1", "\"A\"", "\"select\"", "\"1a\""]);
        assert_eq!(word_at_end("SELECT a.cus"), "cus");
        assert_eq!(word_at_end("SELECT "), "");
        assert!(names_in("SELECT x FROM orders WHERE "));
        assert!(!names_in("SELECT x FROM reorders WHERE "));
        assert!(KEYWORDS.is_sorted());
    }

    fn names_in(text: &str) -> bool {
        super::names(text, "", "orders")
    }
}
