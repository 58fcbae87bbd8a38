//! Columns that hold others: a record as it was written beside its fields, a row of JSON beside its
//! parts.
//!
//! Invariant: as soon as a rule is about something that such a column may hold, the column is hidden,
//! unless the rules name the column itself. A pattern such as `*` names nothing.

use super::glob::{Glob, fold};
use super::load::Rulebook;
use super::one_or_more::OneOrMore;
use super::prepared::Prepared;
use super::resource::{Resource, parts};
use super::{ColumnInfo, Holds};
use crate::shape::TableName;

/// What rules say of the columns of a table by their names.
pub(super) struct Named<'a> {
    /// Patterns of labels and of obligations that hide or mask.
    patterns: Vec<&'a OneOrMore<Glob>>,
    /// Columns that policies name.
    by_policies: Vec<String>,
}

impl Named<'_> {
    fn names(&self, column: &str) -> bool {
        let folded = fold(column);
        let is_it = |glob: &Glob| glob.is_plain() && glob.matches_any_case(&folded);
        self.by_policies.iter().any(|named| named == column)
            || self.patterns.iter().any(|patterns| patterns.0.iter().any(is_it))
    }

    /// Whether anything but these columns is meant, there or not: what holds everything may hold fields
    /// that no column shows.
    fn is_about_others_than(&self, raw: &[&str]) -> bool {
        let is_raw =
            |glob: &Glob| glob.is_plain() && raw.iter().any(|column| glob.matches_any_case(&fold(column)));
        self.by_policies.iter().any(|named| !raw.contains(&named.as_str()))
            || self.patterns.iter().any(|patterns| patterns.0.iter().any(|glob| !is_raw(glob)))
    }
}

impl Rulebook {
    pub(super) fn named_in(&self, table: &TableName) -> Named<'_> {
        let folded = fold(&table.to_string());
        let labels = self.obligations.labels.iter().map(|(_, rule)| rule);
        let labels = labels.filter(|rule| !rule.table.0.is_empty() && rule.table.all_or_any(&folded));
        let obligations = self.obligations.list.iter().filter(|obligation| {
            obligation.owed.is_of_columns() && !obligation.shadow && obligation.is_of_table(&folded)
        });
        let patterns = labels.map(|rule| &rule.column).chain(obligations.map(|o| o.columns()));
        let own = |name: &str| match parts(name)?.as_slice() {
            [collection, of, column] if *collection == table.collection && *of == table.table => {
                Some(column.clone())
            }
            _ => None,
        };
        let prefix = Resource::Table(table).names().own().1.to_owned();
        let by_policies = self.policies.columns().filter(|name| name.starts_with(&prefix));
        Named { patterns: patterns.collect(), by_policies: by_policies.filter_map(own).collect() }
    }

    /// Marks the columns that are hidden because of what they hold.
    pub(super) fn hold_back(&self, table: &TableName, columns: &[ColumnInfo], prepared: &mut Prepared) {
        if columns.iter().all(|column| column.holds == Holds::Nothing) {
            return;
        }
        let named = self.named_in(table);
        let holds_all = columns.iter().filter(|column| column.holds == Holds::Everything);
        let raw: Vec<&str> = holds_all.map(|column| column.name.as_str()).collect();
        let is_ruled = |at: usize| {
            let column = &prepared.columns[at];
            let is_owed = column.owed.iter().any(|(index, _)| !self.obligations.list[*index].shadow);
            is_owed || column.has_labels || named.by_policies.contains(&columns[at].name)
        };
        let others_are_ruled = || {
            let mut others = (0..columns.len()).filter(|at| columns[*at].holds != Holds::Everything);
            named.is_about_others_than(&raw) || others.any(is_ruled)
        };
        let of_parts = |parts: &[String]| {
            let places = columns.iter().enumerate().filter(|(_, column)| parts.contains(&column.name));
            places.map(|(at, _)| at).any(is_ruled)
        };
        let tells = columns.iter().map(|column| {
            let tells = match &column.holds {
                Holds::Nothing => false,
                Holds::Columns(parts) => of_parts(parts),
                Holds::Everything => others_are_ruled(),
            };
            tells && !named.names(&column.name)
        });
        let tells: Vec<bool> = tells.collect();
        for (known, tells) in prepared.columns.iter_mut().zip(tells) {
            known.is_held_back = tells;
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::*;
    use crate::rules::tests::{book, caller, shown};
    use crate::rules::{Action, Request};

    const PERMIT: &str = "permit (principal, action, resource in Collection::\"m\");";

    fn decided(policies: &str, rules: &str) -> String {
        let of = |name: &str, holds| ColumnInfo { holds, ..ColumnInfo::new(name, DataType::Utf8) };
        let part = |name: &str| Holds::Columns(vec![name.to_owned()]);
        let columns = [
            of("id", Holds::Nothing),
            of("kind", Holds::Nothing),
            of("who", part("kind")),
            of("_key", Holds::Everything),
            of("_value", Holds::Everything),
        ];
        let caller = caller("alice", &[], "");
        let request = Request::new(&caller, Action::Query, 0);
        let decision = book(policies, rules).decide(&request, &TableName::new("m", "alarms"), &columns);
        let hidden = |text: &String| text.ends_with("=hidden");
        let all = shown(&decision);
        all.iter()
            .filter(|text| hidden(text))
            .map(|text| text.trim_end_matches("=hidden"))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// What a record holds is not had from the record where rules speak of it.
    #[test]
    fn a_raw_column_is_hidden_when_a_rule_is_about_what_it_holds() {
        let label = |column: &str| format!("[[label]]\ntable = \"m.*\"\ncolumn = {column}\nlabels = \"x\"\n");
        let owed = |what: &str| format!("[[obligation]]\nid = \"o\"\n{what}\n");
        for (rules, hidden) in [
            (String::new(), ""),
            (label("\"kind\""), "who _key _value"),
            // Of a field that no column shows.
            (label("\"ssn\""), "_key _value"),
            (label("[\"kind\", \"_VALUE\"]"), "who _key"),
            // A pattern names nothing.
            (label("\"*\""), "who _key _value"),
            (label("[\"*\", \"who\"]"), "_key _value"),
            (label("\"_value\""), ""),
            (owed("table = \"m.alarms\"\ncolumn = \"id\"\nhide = true"), "id _key _value"),
            (owed("table = \"*\"\nmask = { keep_last = 2 }"), "who _key _value"),
            (owed("table = \"m.alarms\"\ncolumn = \"_key\"\nhide = true"), "_key"),
            (owed("table = \"m.alarms\"\ncolumn = \"id\"\nhide = true\nshadow = true"), ""),
            (owed("table = \"m.others\"\ncolumn = \"id\"\nhide = true"), ""),
            (owed("table = \"m.alarms\"\nmax_rows = 5"), ""),
            ("[[label]]\ntable = \"m.alarms\"\nlabels = \"x\"".to_owned(), ""),
        ] {
            assert_eq!(decided(PERMIT, &rules), hidden, "{rules}");
        }
        let forbid = |column: &str| {
            format!("{PERMIT}\nforbid (principal, action, resource == Column::\"m.alarms.{column}\");")
        };
        assert_eq!(decided(&forbid("kind"), ""), "kind who _key _value");
        assert_eq!(decided(&forbid("ssn"), ""), "_key _value");
        assert_eq!(decided(&forbid("_key"), ""), "_key");
        let named = format!(
            "{}\npermit (principal, action, resource == Column::\"m.alarms._value\");",
            forbid("kind")
        );
        assert_eq!(decided(&named, ""), "kind who _key");
    }
}
