//! The reasons of a decision in words, for the caller and for the auditor.
//!
//! Invariant: a caller reads the same of a table that is denied and of one that does not exist, and
//! nothing of a hidden column but that there may be some. The ids of rules are for the auditor:
//! they may say what is hidden.

use super::Reasons;
use super::decide::Findings;
use super::obligations::Obligation;
use super::policies::{Permission, Verdict};
use super::strictness;
use crate::shape::{Shown, TableName, TableShape};

/// Columns that a sentence names.
const MAX_NAMED: usize = 20;

/// What a caller is told of a table that it may not read, or that is not there.
pub fn not_there(table: &TableName, action: &str) -> String {
    format!(
        "There is no table {table}, or no rule lets you {action} it: ask its owner for a rule for your groups and purpose."
    )
}

pub(super) fn of_denial(findings: &Findings<'_>) -> Vec<String> {
    let mut told = vec![not_there(findings.table, findings.subject.action.name())];
    told.extend(findings.of_table.tell.iter().cloned());
    if findings.of_table.decision != Permission::Forbidden {
        told.extend(findings.of_classes.iter().flat_map(|verdict| verdict.tell.iter().cloned()));
    }
    told
}

/// What policies said.
pub(super) fn of_verdicts(findings: &Findings<'_>, reasons: &mut Reasons) {
    if findings.subject.groups_left_out > 0 {
        let count = findings.subject.groups_left_out;
        reasons
            .for_auditor
            .push(format!("{count} groups have names that no rule can have, and count for nothing"));
    }
    of_verdict(findings.table.to_string(), &findings.of_table, reasons);
    if findings.of_table.decision == Permission::Forbidden {
        return;
    }
    for (index, verdict) in findings.of_classes.iter().enumerate() {
        let of_class = findings.columns.iter().zip(&findings.prepared.columns);
        let names: Vec<&str> = of_class
            .filter(|(_, known)| known.class == index)
            .map(|(column, _)| column.name.as_str())
            .collect();
        of_verdict(format!("columns {}", list(&names)), verdict, reasons);
    }
}

fn of_verdict(what: String, verdict: &Verdict, reasons: &mut Reasons) {
    let policies = verdict.policies.iter().map(ToString::to_string).collect::<Vec<_>>();
    let said = match verdict.decision {
        Permission::Permitted => format!("permitted by {}", policies.join(", ")),
        Permission::Forbidden => format!("forbidden by {}", policies.join(", ")),
        Permission::NotPermitted => "no policy permits it".to_owned(),
    };
    reasons.for_auditor.push(format!("{what}: {said}"));
    reasons.for_auditor.extend(verdict.errors.iter().cloned());
    reasons.rules.extend(policies);
    reasons.shadow.extend(verdict.shadow.iter().map(|id| format!("{id}: {what} forbidden")));
}

/// What an obligation owes, for the auditor.
pub(super) fn of_owed(obligation: &Obligation) -> String {
    let owed = &obligation.owed;
    let mut parts = Vec::new();
    parts.extend(owed.row_filter.as_ref().map(|_| "rows are filtered".to_owned()));
    parts.extend(owed.min_group.as_ref().map(|(entity, size)| format!("groups of at least {size} {entity}")));
    parts.extend(owed.max_rows.map(|rows| format!("at most {rows} rows")));
    parts.extend(owed.max_bytes.map(|bytes| format!("at most {bytes} bytes")));
    parts.extend(owed.budgets.as_ref().map(|_| "budgets of the day".to_owned()));
    parts.extend(owed.patterns.iter().map(|pattern| pattern.in_words()));
    format!("obligation {}: {}", obligation.id, parts.join(", "))
}

/// For the auditor.
pub(super) fn of_held_back(column: &str) -> String {
    format!("{column}: hidden, as it holds what rules are about; a rule that names it decides otherwise")
}

/// What came out.
pub(super) fn of_shape(findings: &Findings<'_>, shape: &TableShape, reasons: &mut Reasons) {
    let masked: Vec<&str> = names(shape, |shown| matches!(shown, Shown::Masked(_)));
    let hidden: Vec<&str> = names(shape, |shown| *shown == Shown::Hidden);
    let mut told = Vec::new();
    if !masked.is_empty() {
        told.push(format!("{}: {} masked: {}.", findings.table, columns(masked.len()), list(&masked)));
    }
    if !hidden.is_empty() {
        told.push(format!("{}: some columns are held back.", findings.table));
        reasons.for_auditor.push(format!("hidden: {}", list(&hidden)));
    }
    if !shape.row_filters.is_empty() {
        told.push(format!("{}: only the rows that you may see.", findings.table));
    }
    if let Some(group) = &shape.min_group {
        told.push(format!("{}: only groups of at least {} are shown.", findings.table, group.size));
    }
    if let Some(rows) = shape.max_rows {
        told.push(format!("{}: at most {rows} rows.", findings.table));
    }
    if let Some(bytes) = shape.max_bytes {
        told.push(format!("{}: at most {bytes} bytes.", findings.table));
    }
    for pattern in &shape.patterns {
        told.push(format!("{}: {}.", findings.table, pattern.in_words()));
    }
    told.append(&mut reasons.for_caller);
    let held = findings.obligations.iter().zip(&findings.holds).filter(|(_, holds)| **holds);
    for (obligation, _) in held {
        let made = shape.columns.iter().any(|column| {
            column.shown != Shown::Hidden
                && column.shown != Shown::AsIs
                && column.rules.contains(&obligation.id)
        });
        if made && !obligation.shadow {
            told.extend(obligation.tell.iter().cloned());
        }
    }
    reasons.for_caller = told;
    for column in shape.columns.iter().filter(|column| matches!(column.shown, Shown::Masked(_))) {
        let (made, rules) = (strictness::describe(&column.shown), column.rules.join(", "));
        reasons.for_auditor.push(format!("{}: {made} by {rules}", column.name));
        reasons.rules.extend(column.rules.iter().cloned());
    }
}

/// Each once, in an order that does not depend on that of the rules.
pub(super) fn finish(reasons: &mut Reasons) {
    for list in [&mut reasons.rules, &mut reasons.shadow] {
        list.sort();
        list.dedup();
    }
    let mut seen = std::collections::HashSet::new();
    reasons.for_caller.retain(|text| seen.insert(text.clone()));
}

fn names(shape: &TableShape, is: impl Fn(&Shown) -> bool) -> Vec<&str> {
    shape.columns.iter().filter(|column| is(&column.shown)).map(|column| column.name.as_str()).collect()
}

fn columns(count: usize) -> String {
    if count == 1 { "1 column".to_owned() } else { format!("{count} columns") }
}

/// Names with commas between, not all of many.
fn list(names: &[&str]) -> String {
    match names.len() > MAX_NAMED {
        true => format!("{} and {} more", names[..MAX_NAMED].join(", "), names.len() - MAX_NAMED),
        false => names.join(", "),
    }
}
