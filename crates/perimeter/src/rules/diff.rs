//! Replays: what other rules would have decided about the requests in an audit log.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, Read as _};
use std::str::FromStr as _;

use arrow::datatypes::DataType;
use serde_json::Value;

use super::load::Rulebook;
use super::record::{DecisionRecord, TableRecord};
use super::{ColumnInfo, Request};

/// With its line break.
const MAX_LINE_BYTES: u64 = kafscale_audit::MAX_LINE_BYTES as u64 + 1;
/// Differences that are told apart; more are counted.
const MAX_TOLD: usize = 10_000;

/// What would change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiffReport {
    /// For a terminal.
    pub text: String,
    /// Decisions about tables that were replayed.
    pub replayed: u64,
    /// Those that would be others.
    pub changed: u64,
    /// Lines that hold no decision, or one that cannot be replayed.
    pub left_out: u64,
}

/// Who, what, and what would change.
type Change = (String, &'static str, String, String);

/// Decides about each request in an audit log by both rules. The chain is not checked: `audit
/// verify` does that.
pub fn diff(old: &Rulebook, new: &Rulebook, mut audit: impl BufRead) -> io::Result<DiffReport> {
    let mut report = DiffReport::default();
    let mut changes: BTreeMap<Change, u64> = BTreeMap::new();
    let (mut untold, mut line) = (0_u64, Vec::new());
    loop {
        line.clear();
        if audit.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let record =
            serde_json::from_slice::<Value>(&line).ok().and_then(|line| DecisionRecord::of_line(&line));
        let Some(record) = record else {
            report.left_out += 1;
            continue;
        };
        for table in &record.tables {
            let Some((one, other)) = replay(old, new, &record, table) else {
                report.left_out += 1;
                continue;
            };
            report.replayed += 1;
            let differences = one.differences(&other);
            report.changed += u64::from(!differences.is_empty());
            for difference in differences {
                let principal = record.caller.principal.clone();
                let change = (principal, record.action.name(), table.table.to_string(), difference);
                match changes.len() < MAX_TOLD || changes.contains_key(&change) {
                    true => *changes.entry(change).or_default() += 1,
                    false => untold += 1,
                }
            }
        }
    }
    report.text = words(&changes, untold, &report);
    Ok(report)
}

/// By the old rules, and by the new. None: the record is not complete.
fn replay(
    old: &Rulebook,
    new: &Rulebook,
    record: &DecisionRecord,
    table: &TableRecord,
) -> Option<(TableRecord, TableRecord)> {
    if table.columns_left_out > 0 {
        return None;
    }
    let columns = table.columns.iter().map(|column| {
        let data_type = DataType::from_str(&column.data_type).ok()?;
        let (labels, holds) = (column.labels.clone(), column.holds.clone());
        Some(ColumnInfo { labels, holds, ..ColumnInfo::new(&column.name, data_type) })
    });
    let columns = columns.collect::<Option<Vec<_>>>()?;
    let request = Request {
        tool: &record.tool,
        consent: &record.consent,
        ..Request::new(&record.caller, record.action, record.time_ms)
    };
    let by = |book: &Rulebook| {
        TableRecord::new(&table.table, &columns, &book.decide(&request, &table.table, &columns))
    };
    Some((by(old), by(new)))
}

fn words(changes: &BTreeMap<Change, u64>, untold: u64, report: &DiffReport) -> String {
    let mut text = String::new();
    let mut last = None;
    for ((principal, action, table, difference), count) in changes {
        let head = (principal, action, table);
        if last != Some(head) {
            let _ = writeln!(text, "{principal}, {action} of {table}");
            last = Some(head);
        }
        let _ = writeln!(text, "  {difference} ({count}x)");
    }
    if untold > 0 {
        let _ = writeln!(text, "and {untold} differences more");
    }
    let DiffReport { replayed, changed, left_out, .. } = report;
    let _ =
        writeln!(text, "{replayed} decisions replayed, {changed} would be others; {left_out} lines left out");
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::Action;
    use crate::rules::tests::{POLICIES, RULES, book, caller, columns};
    use crate::shape::TableName;

    #[test]
    fn it_shows_what_would_change() {
        let old = book(POLICIES, RULES);
        let mut audit = String::new();
        let mut say = |principal: &str, groups: &[&str], action: Action| {
            let mut caller = caller(principal, groups, "treatment");
            caller.claims = [("ward", "W3"), ("email", "x@example.org")]
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect();
            let request = Request::new(&caller, action, 1_000);
            let table = TableName::new("hospital", "patients");
            let mut record = DecisionRecord::new(&old, &request);
            record.add(&table, &columns(), &old.decide(&request, &table, &columns()));
            // Claims that no rule names stay out of the log.
            assert_eq!(record.caller.claims.keys().collect::<Vec<_>>(), ["ward"]);
            let line = json!({ "v": 1, "method": "tools/call", "details": { "perimeter": record } });
            audit.push_str(&format!("{line}\n"));
        };
        say("alice", &["analysts"], Action::Query);
        say("alice", &["analysts"], Action::Query);
        say("bob", &["nurses"], Action::Query);
        say("eve", &[], Action::Query);
        audit.push_str("{\"v\":1}\nno json\n");
        let same = diff(&old, &old, audit.as_bytes()).unwrap();
        assert_eq!((same.replayed, same.changed, same.left_out), (4, 0, 2));

        let policies = POLICIES.replace("context.purpose == \"treatment\"", "context.purpose == \"care\"");
        let rules = RULES
            .replace("\"***\"", "\"-\"")
            .replace("size = 10", "size = 20")
            .replace("mask = { hash = \"ssn\" }", "hide = true");
        let new = book(&policies, &rules);
        let report = diff(&old, &new, audit.as_bytes()).unwrap();
        assert_eq!((report.replayed, report.changed), (4, 3));
        for expected in [
            "alice, query of hospital.patients\n  min_group: 10 id -> 20 id (2x)\n  ssn: masked:hash(ssn) -> hidden (2x)",
            "bob, query of hospital.patients\n  decision: allow -> deny (1x)",
            "4 decisions replayed, 3 would be others; 2 lines left out",
        ] {
            assert!(report.text.contains(expected), "{}", report.text);
        }
        assert!(!report.text.contains("eve"));
    }
}
