//! The file `rules.toml` as it is written: its keys and their forms. What it means is in
//! [`super::obligations`].
//!
//! Invariant: an unknown key is an error with its line.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::error::Place;
use super::glob::Glob;
use super::one_or_more::OneOrMore;
use crate::shape::DatePart;
use crate::validate::ValidateRule;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RulesFile {
    /// Where there are any, no other purpose is taken.
    #[serde(default)]
    pub(super) purposes: OneOrMore<String>,
    #[serde(default)]
    pub(super) keys: BTreeMap<String, KeySource>,
    #[serde(default)]
    pub(super) table: Vec<TableRule>,
    #[serde(default)]
    pub(super) label: Vec<LabelRule>,
    #[serde(default)]
    pub(super) obligation: Vec<ObligationRule>,
    #[serde(default)]
    pub(super) subject: Vec<SubjectRule>,
}

/// Where the key of a mask is: it never stands in the rules.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub struct KeySource {
    pub env: Option<String>,
    pub file: Option<PathBuf>,
    pub command: Option<Vec<String>>,
}

/// What holds of a table as a whole.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TableRule {
    pub(super) name: OneOrMore<Glob>,
    /// Columns to which no rule gives a label are hidden.
    pub(super) closed: bool,
}

/// Gives labels to a collection, a table or columns.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LabelRule {
    #[serde(default)]
    pub(super) collection: OneOrMore<Glob>,
    #[serde(default)]
    pub(super) table: OneOrMore<Glob>,
    #[serde(default)]
    pub(super) column: OneOrMore<Glob>,
    pub(super) labels: OneOrMore<String>,
}

/// A kind of data subjects, and what identifies one (docs/erasure.md).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SubjectRule {
    pub(super) name: String,
    /// Of columns that identify one. The first is that of the identifier that people give.
    pub(super) labels: OneOrMore<String>,
    /// The name of the key that requests are hashed with.
    pub(super) key: String,
    #[serde(default)]
    pub(super) links: OneOrMore<Link>,
    /// Tables that hold nothing of such subjects.
    #[serde(default)]
    pub(super) without: OneOrMore<Glob>,
}

/// A table that has one identifier of a subject beside another.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// `collection.table`
    pub table: String,
    pub from: String,
    pub to: String,
}

/// What is owed when something is read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ObligationRule {
    pub(super) id: Option<String>,
    #[serde(default)]
    pub(super) labels: OneOrMore<Glob>,
    #[serde(default)]
    pub(super) table: OneOrMore<Glob>,
    #[serde(default)]
    pub(super) column: OneOrMore<Glob>,
    #[serde(default)]
    pub(super) when: OneOrMore<Condition>,
    #[serde(default)]
    pub(super) unless: OneOrMore<Condition>,
    /// What a caller is told of it.
    pub(super) tell: Option<String>,
    #[serde(default)]
    pub(super) shadow: bool,
    pub(super) row_filter: Option<String>,
    pub(super) mask: Option<MaskRule>,
    #[serde(default)]
    pub(super) hide: bool,
    pub(super) min_group: Option<MinGroupRule>,
    pub(super) max_rows: Option<u64>,
    pub(super) max_bytes: Option<u64>,
    pub(super) budgets: Option<BudgetRule>,
    pub(super) validate: Option<ValidateRule>,
}

/// Holds where everything that it names holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Condition {
    #[serde(default)]
    pub(super) groups: OneOrMore<Glob>,
    #[serde(default)]
    pub(super) principals: OneOrMore<Glob>,
    #[serde(default)]
    pub(super) purposes: OneOrMore<Glob>,
    #[serde(default)]
    pub(super) agents: OneOrMore<Glob>,
    #[serde(default)]
    pub(super) actions: OneOrMore<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MinGroupRule {
    pub(super) entity: String,
    pub(super) size: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetRule {
    pub(super) queries_per_day: Option<u64>,
    pub(super) entities_per_day: Option<u64>,
    /// The column whose different values are counted: that of `min_group`, unless it stands here.
    pub(super) entity: Option<String>,
    pub(super) rows_per_day: Option<u64>,
}

/// `mask = "null"`, or `mask = { hash = "KEY" }` and so on.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum MaskRule {
    Null,
    Fixed(String),
    /// The name of a key.
    Hash(String),
    Tokenise(String),
    KeepLast(u32),
    Date(DatePart),
    Bucket(f64),
}

const MASKS: &str = "\"null\", { fixed = \"TEXT\" }, { hash = \"KEY\" }, { tokenise = \"KEY\" }, { keep_last = N }, \
                     { date = \"year\" } (or quarter, month, day) or { bucket = WIDTH }";

impl<'de> Deserialize<'de> for MaskRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MaskRule, D::Error> {
        deserializer.deserialize_any(MaskVisitor)
    }
}

struct MaskVisitor;

impl<'de> Visitor<'de> for MaskVisitor {
    type Value = MaskRule;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASKS)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MaskRule, E> {
        match text {
            "null" => Ok(MaskRule::Null),
            _ => Err(E::custom(format!("a mask is one of: {MASKS}"))),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MaskRule, A::Error> {
        let wanted = || A::Error::custom(format!("a mask is one of: {MASKS}"));
        let kind: String = map.next_key()?.ok_or_else(wanted)?;
        let mask = match kind.as_str() {
            "fixed" => MaskRule::Fixed(map.next_value()?),
            "hash" => MaskRule::Hash(map.next_value()?),
            "tokenise" => MaskRule::Tokenise(map.next_value()?),
            "keep_last" => MaskRule::KeepLast(map.next_value()?),
            "date" => {
                let part: String = map.next_value()?;
                let known = [DatePart::Year, DatePart::Quarter, DatePart::Month, DatePart::Day];
                let names = ["year", "quarter", "month", "day"];
                let found = names.iter().position(|name| *name == part).ok_or_else(wanted)?;
                MaskRule::Date(known[found])
            }
            "bucket" => MaskRule::Bucket(map.next_value()?),
            _ => return Err(wanted()),
        };
        match map.next_key::<String>()? {
            None => Ok(mask),
            Some(_) => Err(wanted()),
        }
    }
}

/// Where TOML is wrong, and how. The parser knows no line of a key that it does not expect.
pub(super) fn explain_toml(path: &Path, text: &str, error: &basic_toml::Error) -> (Place, String) {
    let why = error.to_string();
    let why = why.rfind(" at line ").map_or(why.as_str(), |end| &why[..end]).to_owned();
    let is_of_key = |line: &str, key: &str| {
        let rest = line.trim_start().trim_start_matches('[').trim_start().strip_prefix(key);
        rest.is_some_and(|rest| rest.trim_start().starts_with(['=', ']', '.']))
    };
    let with_key = |key: &str| {
        let lines = text.lines().enumerate().filter(|(_, line)| is_of_key(line, key));
        lines.map(|(index, _)| index + 1).collect::<Vec<_>>()
    };
    let unknown = why.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
    let of_key = why.rsplit_once("for key `").map(|(_, key)| key.trim_end_matches('`'));
    let of_key = of_key.map(|key| key.rsplit('.').next().unwrap_or(key));
    let line = match (unknown.map(with_key).as_deref(), of_key.map(with_key).as_deref()) {
        (Some(lines), _) => lines.first().copied(),
        (None, Some([line])) => Some(*line),
        // The first line is what the parser says of a value that it has lost sight of.
        _ => error.line_col().map(|(line, _)| line + 1).filter(|line| of_key.is_none() || *line > 1),
    };
    (Place { path: path.to_owned(), line }, why)
}

/// The line, counted from 1, on which each `[[NAME]]` begins. None: it is written in another way.
pub(super) fn lines_of(text: &str, name: &str, count: usize) -> Vec<Option<usize>> {
    let mut found = Vec::new();
    let mut within: Option<&str> = None;
    for (index, line) in text.lines().enumerate() {
        if within.is_none() && is_header(line, name) {
            found.push(Some(index + 1));
        }
        let mut rest = line;
        // A text over several lines may hold what looks like a header.
        while let Some((at, quotes)) = match within {
            Some(quotes) => rest.find(quotes).map(|at| (at, quotes)),
            None => ["\"\"\"", "'''"].iter().filter_map(|q| Some((rest.find(q)?, *q))).min(),
        } {
            within = if within.is_some() { None } else { Some(quotes) };
            rest = &rest[at + quotes.len()..];
        }
    }
    if found.len() == count { found } else { vec![None; count] }
}

fn is_header(line: &str, name: &str) -> bool {
    let inner = line.trim_start().strip_prefix("[[").and_then(|rest| rest.split_once("]]"));
    inner.is_some_and(|(inner, _)| inner.trim() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn obligation(text: &str) -> Result<ObligationRule, String> {
        let text = format!("[[obligation]]\n{text}");
        let file = basic_toml::from_str::<RulesFile>(&text);
        file.map(|mut file| file.obligation.remove(0)).map_err(|error| {
            let (place, why) = explain_toml(Path::new("rules.toml"), &text, &error);
            format!("{place}: {why}")
        })
    }

    #[test]
    fn masks_and_conditions_are_read() {
        for (text, expected) in [
            ("\"null\"", MaskRule::Null),
            ("{ fixed = \"***\" }", MaskRule::Fixed("***".to_owned())),
            ("{ hash = \"k\" }", MaskRule::Hash("k".to_owned())),
            ("{ tokenise = \"k\" }", MaskRule::Tokenise("k".to_owned())),
            ("{ keep_last = 4 }", MaskRule::KeepLast(4)),
            ("{ date = \"month\" }", MaskRule::Date(DatePart::Month)),
            ("{ bucket = 10 }", MaskRule::Bucket(10.0)),
        ] {
            assert_eq!(obligation(&format!("mask = {text}")).unwrap().mask, Some(expected), "{text}");
        }
        let rule = obligation("unless = [{ groups = [\"a\", \"b\"] }, { agents = \"c\" }]").unwrap();
        assert_eq!((rule.unless.0.len(), rule.unless.0[0].groups.0.len()), (2, 2));
        assert_eq!(obligation("unless = { principals = \"alice\" }").unwrap().unless.0.len(), 1);
    }

    #[test]
    fn what_is_unknown_is_an_error_with_its_line() {
        for (text, expected) in [
            ("masks = \"null\"", "masks"),
            ("mask = \"nul\"", "a mask is one of"),
            ("mask = { keep_last = 4, hash = \"k\" }", "a mask is one of"),
            ("mask = { date = \"week\" }", "a mask is one of"),
            ("mask = { keep_last = -1 }", "-1"),
            ("unless = { group = \"a\" }", "group"),
            ("labels = []", "an empty list"),
            ("labels = [\"\"]", "must not be empty"),
            ("budgets = { queries = 1 }", "queries"),
        ] {
            let error = obligation(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            // A key within braces is on no line of its own.
            assert!(error.starts_with("rules.toml, line 2: ") || text.contains('{'), "{text}: {error}");
        }
    }

    #[test]
    fn headers_are_found_by_line() {
        let text =
            "[[label]]\n[[obligation]]\nrow_filter = '''\n[[obligation]]\n'''\n [[ obligation ]] # two\n";
        assert_eq!(lines_of(text, "obligation", 2), [Some(2), Some(6)]);
        assert_eq!(lines_of(text, "label", 2), [None, None]);
    }
}
