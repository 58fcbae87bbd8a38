//! Rules beside the tables that there are: what matches nothing.

use std::collections::{BTreeSet, HashSet};

use super::ColumnInfo;
use super::error::Warning;
use super::glob::fold;
use super::load::Rulebook;
use super::resource::{Resource, parts};
use crate::shape::TableName;

impl Rulebook {
    /// The claims that rules name.
    pub(super) fn claims(&self) -> BTreeSet<&str> {
        let filters =
            self.obligations.list.iter().filter_map(|obligation| obligation.owed.row_filter.as_ref());
        let mut claims: BTreeSet<&str> = filters.flat_map(|filter| filter.claims()).collect();
        claims.extend(self.policies.tags());
        claims
    }

    /// Labels, obligations and names in policies that no table of the open collections has.
    /// `tables` are all tables of these, with their columns.
    pub fn check(&self, tables: &[(TableName, Vec<ColumnInfo>)]) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let prepared: Vec<_> = tables.iter().map(|(table, columns)| self.prepared(table, columns)).collect();
        self.check_labels(tables, &mut warnings);
        let used: HashSet<usize> = prepared
            .iter()
            .flat_map(|table| {
                let of_columns =
                    table.columns.iter().flat_map(|column| column.owed.iter().map(|(index, _)| *index));
                of_columns.chain(table.of_table.iter().copied())
            })
            .collect();
        for (index, obligation) in self.obligations.list.iter().enumerate() {
            let mut warn = |why: String| warnings.push(Warning { place: obligation.place.clone(), why });
            if !used.contains(&index) {
                warn(format!("the obligation `{}` is of nothing that is there", obligation.id));
            }
            for ((table, _), prepared) in tables.iter().zip(&prepared) {
                if let Some((_, why)) = prepared.impossible.iter().find(|(other, _)| *other == index) {
                    warn(format!("the obligation `{}` denies {table}: {why}", obligation.id));
                }
            }
        }
        self.check_names(tables, &mut warnings);
        warnings
    }

    fn check_labels(&self, tables: &[(TableName, Vec<ColumnInfo>)], warnings: &mut Vec<Warning>) {
        for (place, rule) in &self.obligations.labels {
            let found = tables.iter().any(|(table, columns)| {
                let of_collection =
                    !rule.collection.0.is_empty() && rule.collection.all_or_any(&fold(&table.collection));
                let of_table = !rule.table.0.is_empty() && rule.table.all_or_any(&fold(&table.to_string()));
                let of_column = || columns.iter().any(|column| rule.column.all_or_any(&fold(&column.name)));
                of_collection || (of_table && of_column())
            });
            if !found {
                let why = format!("the labels {} are of nothing that is there", rule.labels.0.join(", "));
                warnings.push(Warning { place: place.clone(), why });
            }
        }
    }

    /// Only of collections that are open: others may be away.
    fn check_names(&self, tables: &[(TableName, Vec<ColumnInfo>)], warnings: &mut Vec<Warning>) {
        let collections: HashSet<&str> = tables.iter().map(|(table, _)| table.collection.as_str()).collect();
        let mut known = HashSet::new();
        for (table, columns) in tables {
            known.insert(Resource::Table(table).names().own().1.to_owned());
            let columns = columns.iter().map(|column| Resource::Column(table, Some(&column.name)).names());
            known.extend(columns.map(|names| names.own().1.to_owned()));
        }
        for (rule, kind, name) in self.policies.literals() {
            let is_open = || parts(&name).is_some_and(|parts| collections.contains(parts[0].as_str()));
            if ["Table", "Column"].contains(&kind.as_str()) && !known.contains(&name) && is_open() {
                let why = format!("the policy `{rule}` names {kind}::{name:?}, which is not there");
                warnings.extend(self.policies.place(rule).map(|place| Warning { place: place.clone(), why }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tests::{book, columns};

    #[test]
    fn what_matches_nothing_is_told() {
        let policies = "permit (principal, action, resource in Table::\"a.T\");\n\
                        forbid (principal, action, resource == Column::\"a.t.name\");\n\
                        forbid (principal, action, resource in Table::\"away.t\");";
        let rules = "[[label]]\ntable = \"a.t\"\ncolumn = \"Name\"\nlabels = \"x\"\n\
                     [[label]]\ntable = \"a.t\"\ncolumn = \"nam\"\nlabels = \"y\"\n\
                     [[obligation]]\nid = \"used\"\nlabels = \"x\"\nhide = true\n\
                     [[obligation]]\nid = \"unused\"\nlabels = \"y\"\nhide = true\n\
                     [[obligation]]\nid = \"filter\"\ntable = \"a.*\"\nrow_filter = \"clinic = 1\"";
        let told = book(policies, rules).check(&[(TableName::new("a", "t"), columns())]);
        let told: Vec<String> = told.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "rules.toml, line 5: the labels y are of nothing that is there",
                "rules.toml, line 13: the obligation `unused` is of nothing that is there",
                "rules.toml, line 17: the obligation `filter` denies a.t: its filter needs the column `clinic`, which the table does not have",
                "policies.cedar, line 1: the policy `policies:1` names Table::\"a.T\", which is not there",
            ]
        );
    }
}
