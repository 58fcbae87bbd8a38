//! Explanations: which rule decided, and why.

use std::fmt::Write as _;

use super::load::Rulebook;
use super::{ColumnInfo, Request, strictness};
use crate::shape::TableName;

/// Explains the decision about a table, or about one column of it, for a terminal.
pub fn explain(
    book: &Rulebook,
    request: &Request<'_>,
    table: &TableName,
    columns: &[ColumnInfo],
    column: Option<&str>,
) -> String {
    let decision = book.decide(request, table, columns);
    let mut text = String::new();
    let caller = request.caller;
    let said = if decision.shape().is_some() { "allow" } else { "deny" };
    let _ = writeln!(text, "{said}: {} by {} on {table}", request.action.name(), caller.principal);
    let _ = writeln!(text, "groups: {}; purpose: {:?}", caller.groups.join(", "), caller.purpose);
    let _ = writeln!(text, "rules: {}", book.hash());
    let shape_columns = decision.shape().map(|shape| shape.columns.as_slice()).unwrap_or_default();
    let wanted = |name: &str| column.is_none_or(|column| column == name);
    for column in shape_columns.iter().filter(|column| wanted(&column.name)) {
        let labels =
            if column.labels.is_empty() { String::new() } else { format!(" [{}]", column.labels.join(", ")) };
        let by =
            if column.rules.is_empty() { String::new() } else { format!(" by {}", column.rules.join(", ")) };
        let _ = writeln!(text, "  {}{labels}: {}{by}", column.name, strictness::describe(&column.shown));
    }
    if let Some(name) = column.filter(|name| !columns.iter().any(|known| known.name == *name)) {
        let _ = writeln!(text, "  {name}: the table has no such column");
    }
    if let Some(shape) = decision.shape() {
        for filter in &shape.row_filters {
            let _ = writeln!(text, "  rows: {filter}");
        }
    }
    for (title, reasons) in [
        ("why", &decision.reasons.for_auditor),
        ("in shadow", &decision.reasons.shadow),
        ("the caller is told", &decision.reasons.for_caller),
    ] {
        if !reasons.is_empty() {
            let _ = writeln!(text, "{title}:");
            reasons.iter().for_each(|reason| _ = writeln!(text, "  {reason}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Action;
    use crate::rules::tests::{POLICIES, RULES, book, caller, columns};

    #[test]
    fn it_says_which_rule_decided() {
        let book = book(POLICIES, RULES);
        let explain = |groups: &[&str], column: Option<&str>| {
            let caller = caller("alice", groups, "treatment");
            let request = Request::new(&caller, Action::Query, 0);
            explain(&book, &request, &TableName::new("hospital", "patients"), &columns(), column)
        };
        let text = explain(&["analysts"], None);
        for expected in [
            "allow: query by alice on hospital.patients",
            "name [pii.name]: masked:fixed by names",
            "hiv [secret]: hidden by no-secrets",
            "columns hiv: forbidden by no-secrets",
            "obligation groups: groups of at least 10 id",
        ] {
            assert!(text.contains(expected), "{text}");
        }
        let text = explain(&["analysts"], Some("ssn"));
        assert!(
            text.contains("ssn [pii.id, pii.ssn]: masked:hash(ssn) by ssn") && !text.contains("  name ["),
            "{text}"
        );
        assert!(explain(&["analysts"], Some("x")).contains("no such column"));
        assert!(explain(&["nurses"], None).contains("rows: FALSE"));
        let text = explain(&[], None);
        assert!(text.contains("deny") && text.contains("no policy permits it"), "{text}");
    }
}
