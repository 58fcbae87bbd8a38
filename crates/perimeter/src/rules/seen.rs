//! Whether a caller may know that there is a collection or a table, before its columns are known.
//!
//! Invariant: a forbid of the whole hides it. Without one, it is seen by whom a policy lets
//! describe it, or something that rules can find in it: what policies name, and columns with the
//! labels that `rules.toml` gives.

use super::glob::fold;
use super::load::Rulebook;
use super::policies::{Asker, Labels, Permission};
use super::resource::{Resource, parts};
use super::subject::Subject;
use super::{Action, Request};
use crate::shape::TableName;

/// A column that may be in a table.
struct Candidate {
    table: TableName,
    /// None: any that no policy names.
    column: Option<String>,
    /// Beside those of its table.
    labels: Vec<String>,
}

impl Rulebook {
    /// Whether a caller sees that there is a collection.
    pub fn sees_collection(&self, request: &Request<'_>, collection: &str) -> bool {
        let Some(subject) = onlooker(request) else { return false };
        let asker = self.policies.asker(&subject);
        if !asker.may_be_permitted() {
            return false;
        }
        let own = self.labels_of_collection(collection);
        let labels = Labels { collection: &own, table: &own, column: &own };
        match asker.decide(Resource::Collection(collection), &labels).decision {
            Permission::Permitted => return true,
            Permission::Forbidden => return false,
            Permission::NotPermitted => {}
        }
        let mut candidates = self.named(|table| table.collection == collection);
        let beginning = fold(&format!("{collection}."));
        let any = TableName::new(collection, "*");
        candidates.extend(self.labelled(&any, |glob| glob.can_begin(&beginning)));
        candidates.iter().any(|candidate| self.sees(&asker, candidate))
    }

    /// Whether a caller sees that there is a table.
    pub fn sees_table(&self, request: &Request<'_>, table: &TableName) -> bool {
        let Some(subject) = onlooker(request) else { return false };
        let asker = self.policies.asker(&subject);
        if !asker.may_be_permitted() {
            return false;
        }
        let known = self.prepared(table, &[]);
        let labels = Labels { collection: &known.collection_labels, table: &known.table_labels, column: &[] };
        match asker.decide(Resource::Table(table), &labels).decision {
            Permission::Permitted => return true,
            Permission::Forbidden => return false,
            Permission::NotPermitted => {}
        }
        let mut candidates = self.named(|named| named == table);
        let folded = fold(&table.to_string());
        candidates.extend(self.labelled(table, |glob| glob.matches_any_case(&folded)));
        candidates.iter().any(|candidate| self.sees(&asker, candidate))
    }

    /// What policies name.
    fn named(&self, is_meant: impl Fn(&TableName) -> bool) -> Vec<Candidate> {
        let named = self.policies.literals().filter_map(|(_, kind, name)| {
            let (table, column) = match (kind.as_str(), parts(&name)?.as_slice()) {
                ("Table", [collection, table]) => (TableName::new(collection, table), None),
                ("Column", [collection, table, column]) => {
                    (TableName::new(collection, table), Some(column.clone()))
                }
                _ => return None,
            };
            is_meant(&table).then_some(Candidate { table, column, labels: Vec::new() })
        });
        named.collect()
    }

    /// Columns with no label, and with those of each rule.
    fn labelled(&self, table: &TableName, is_meant: impl Fn(&super::glob::Glob) -> bool) -> Vec<Candidate> {
        let candidate = |labels| Candidate { table: table.clone(), column: None, labels };
        let rules = self.obligations.labels.iter().map(|(_, rule)| rule);
        let labelled = rules.filter(|rule| rule.table.0.iter().any(&is_meant));
        let labelled = labelled.map(|rule| candidate(rule.labels.0.clone()));
        std::iter::once(candidate(Vec::new())).chain(labelled).collect()
    }

    fn sees(&self, asker: &Asker<'_>, candidate: &Candidate) -> bool {
        let Candidate { table, column, labels } = candidate;
        let known = self.prepared(table, &[]);
        let mut column_labels = [known.table_labels.as_slice(), labels].concat();
        column_labels.sort();
        column_labels.dedup();
        let of_table =
            Labels { collection: &known.collection_labels, table: &known.table_labels, column: &[] };
        let of_column = Labels { column: &column_labels, ..of_table };
        let decide = |resource, labels: &Labels<'_>| asker.decide(resource, labels).decision;
        match decide(Resource::Table(table), &of_table) {
            Permission::Forbidden => false,
            Permission::Permitted => true,
            Permission::NotPermitted => {
                decide(Resource::Column(table, column.as_deref()), &of_column) == Permission::Permitted
            }
        }
    }
}

fn onlooker(request: &Request<'_>) -> Option<Subject> {
    Subject::of(&Request { action: Action::Describe, ..*request }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tests::{book, caller};

    const POLICIES: &str = r#"
        permit (principal in Group::"all", action == Action::"describe", resource in Collection::"a");
        permit (principal in Group::"table", action == Action::"describe", resource in Table::"a.t");
        permit (principal in Group::"column", action == Action::"describe", resource == Column::"a.t.c");
        permit (principal in Group::"label", action == Action::"describe", resource)
            when { resource.labels.contains("open") };
        permit (principal in Group::"query", action == Action::"query", resource in Collection::"a");
        forbid (principal in Group::"out", action, resource in Collection::"a");
        forbid (principal in Group::"half", action, resource in Table::"a.t");
    "#;
    const RULES: &str = "[[label]]\ntable = \"a.t\"\ncolumn = \"x\"\nlabels = \"open\"";

    #[test]
    fn what_is_in_it_makes_it_seen() {
        let book = book(POLICIES, RULES);
        for (groups, a, b, t, u) in [
            (&["all"][..], true, false, true, true),
            (&["table"], true, false, true, false),
            (&["column"], true, false, true, false),
            (&["label"], true, false, true, false),
            (&["query"], false, false, false, false),
            (&["all", "out"], false, false, false, false),
            (&["column", "out"], false, false, false, false),
            (&["all", "half"], true, false, false, true),
            (&["column", "half"], false, false, false, false),
            (&[], false, false, false, false),
        ] {
            let caller = caller("alice", groups, "");
            let request = Request::new(&caller, Action::Query, 0);
            let seen = [
                book.sees_collection(&request, "a"),
                book.sees_collection(&request, "b"),
                book.sees_table(&request, &TableName::new("a", "t")),
                book.sees_table(&request, &TableName::new("a", "u")),
            ];
            assert_eq!(seen, [a, b, t, u], "{groups:?}");
        }
    }

    #[test]
    fn a_name_that_no_rule_can_have_sees_nothing() {
        let book = book("permit (principal, action, resource);", "");
        let caller = caller("al\u{200b}ice", &[], "");
        let request = Request::new(&caller, Action::Query, 0);
        assert!(
            !book.sees_collection(&request, "a") && !book.sees_table(&request, &TableName::new("a", "t"))
        );
    }
}
