//! Rules beside the tables that there are: what matches nothing.

use std::collections::{BTreeSet, HashSet};

use kafscale_sql::postgres::errors::nearest;

use super::ColumnInfo;
use super::error::{Place, Warning};
use super::glob::{Glob, fold};
use super::load::Rulebook;
use super::one_or_more::OneOrMore;
use super::resource::{Resource, parts};
use crate::shape::TableName;

/// What there is.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// All tables of the collections that are open, with their columns.
    pub tables: Vec<(TableName, Vec<ColumnInfo>)>,
    pub open: BTreeSet<String>,
    /// Collections that are declared, and of which nothing is known now.
    pub away: BTreeSet<String>,
}

impl Inventory {
    /// Whether the pattern of a table may be of a collection that is away.
    fn may_be_away(&self, glob: &Glob) -> bool {
        self.away.iter().any(|name| glob.can_begin(&fold(&format!("{name}."))))
    }

    fn like(&self, glob: &Glob) -> String {
        let names: Vec<String> = self.tables.iter().map(|(table, _)| table.to_string()).collect();
        meant(glob.text(), names.iter().map(String::as_str))
    }
}

/// The nearest name, as the end of a sentence.
fn meant<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    nearest(name, known).map(|known| format!("; did you mean `{known}`?")).unwrap_or_default()
}

impl Rulebook {
    /// The claims that rules name.
    pub(super) fn claims(&self) -> BTreeSet<&str> {
        let filters =
            self.obligations.list.iter().filter_map(|obligation| obligation.owed.row_filter.as_ref());
        let mut claims: BTreeSet<&str> = filters.flat_map(|filter| filter.claims()).collect();
        claims.extend(self.policies.tags());
        claims
    }

    /// Labels, obligations and names in policies that no table has. Of collections that are away nothing
    /// is said.
    pub fn check(&self, inventory: &Inventory) -> Vec<Warning> {
        let mut warnings = Vec::new();
        self.check_labels(inventory, &mut warnings);
        self.check_obligations(inventory, &mut warnings);
        self.check_names(inventory, &mut warnings);
        warnings
    }

    /// Columns that are hidden from everybody, because they hold what rules are about.
    pub fn held_back(&self, inventory: &Inventory) -> Vec<(TableName, Vec<String>)> {
        let of_table = |(table, columns): &(TableName, Vec<ColumnInfo>)| {
            let prepared = self.prepared(table, columns);
            let all = columns.iter().zip(&prepared.columns);
            let held = all.filter(|(_, known)| known.is_held_back).map(|(column, _)| column.name.clone());
            (table.clone(), held.collect::<Vec<_>>())
        };
        inventory.tables.iter().map(of_table).filter(|(_, held)| !held.is_empty()).collect()
    }

    fn check_labels(&self, inventory: &Inventory, warnings: &mut Vec<Warning>) {
        for (place, rule) in &self.obligations.labels {
            let what = format!("the labels {}", rule.labels.0.join(", "));
            let all = || inventory.open.iter().chain(&inventory.away);
            for glob in &rule.collection.0 {
                if !all().any(|name| glob.matches_any_case(&fold(name))) {
                    let like = meant(glob.text(), all().map(String::as_str));
                    let why =
                        format!("{what} are of the collection `{}`, which is not there{like}", glob.text());
                    warnings.push(Warning { place: place.clone(), why });
                }
            }
            check_patterns(inventory, place, &what, (&rule.table, &rule.column), warnings);
        }
    }

    fn check_obligations(&self, inventory: &Inventory, warnings: &mut Vec<Warning>) {
        let tables = &inventory.tables;
        let prepared: Vec<_> = tables.iter().map(|(table, columns)| self.prepared(table, columns)).collect();
        let of_columns = prepared.iter().flat_map(|table| &table.columns).flat_map(|column| &column.owed);
        let of_tables = prepared.iter().flat_map(|table| table.of_table.iter().copied());
        let used: HashSet<usize> = of_columns.map(|(index, _)| *index).chain(of_tables).collect();
        for (index, obligation) in self.obligations.list.iter().enumerate() {
            let (what, before) = (format!("the obligation `{}`", obligation.id), warnings.len());
            let names = (obligation.tables(), obligation.columns());
            check_patterns(inventory, &obligation.place, &what, names, warnings);
            let has_names = before == warnings.len();
            let mut warn = |why: String| warnings.push(Warning { place: obligation.place.clone(), why });
            let globs = &obligation.tables().0;
            let may_be_away = match globs.is_empty() {
                true => !inventory.away.is_empty(),
                false => globs.iter().any(|glob| inventory.may_be_away(glob)),
            };
            if has_names && !used.contains(&index) && !may_be_away {
                warn(format!("{what} is of nothing that is there"));
            }
            for ((table, _), prepared) in tables.iter().zip(&prepared) {
                if let Some((_, why)) = prepared.impossible.iter().find(|(other, _)| *other == index) {
                    warn(format!("{what} denies {table}: {why}"));
                }
            }
        }
    }

    fn check_names(&self, inventory: &Inventory, warnings: &mut Vec<Warning>) {
        let mut known: HashSet<(&'static str, String)> = HashSet::new();
        let mut add = |resource: Resource<'_>| {
            let names = resource.names();
            let (kind, name) = names.own();
            known.insert((kind, name.to_owned()));
        };
        inventory.open.iter().chain(&inventory.away).for_each(|name| add(Resource::Collection(name)));
        for (table, columns) in &inventory.tables {
            add(Resource::Table(table));
            columns.iter().for_each(|column| add(Resource::Column(table, Some(&column.name))));
        }
        for (rule, kind, name) in self.policies.literals() {
            let is_of_table = ["Collection", "Table", "Column"].contains(&kind.as_str());
            let is_away = || {
                parts(&name).is_some_and(|parts| kind != "Collection" && inventory.away.contains(&parts[0]))
            };
            if is_of_table && !known.iter().any(|(of, known)| *of == kind && *known == name) && !is_away() {
                let alike = known.iter().filter(|(of, _)| *of == kind).map(|(_, known)| known.as_str());
                let like = meant(&name, alike);
                let why = format!("the policy `{rule}` names {kind}::{name:?}, which is not there{like}");
                warnings.extend(self.policies.place(rule).map(|place| Warning { place: place.clone(), why }));
            }
        }
    }
}

/// Names of tables, and of columns in those, that nothing has. A pattern of columns may match none.
fn check_patterns(
    inventory: &Inventory,
    place: &Place,
    what: &str,
    (tables, columns): (&OneOrMore<Glob>, &OneOrMore<Glob>),
    warnings: &mut Vec<Warning>,
) {
    let mut warn = |why: String| warnings.push(Warning { place: place.clone(), why });
    if tables.0.iter().any(|glob| inventory.may_be_away(glob))
        || (tables.0.is_empty() && !inventory.away.is_empty())
    {
        return;
    }
    let names = |globs: &OneOrMore<Glob>, name: &str| globs.all_or_any(&fold(name));
    for glob in &tables.0 {
        let is_there = |(table, _): &(TableName, _)| glob.matches_any_case(&fold(&table.to_string()));
        if !inventory.tables.iter().any(is_there) {
            let like = inventory.like(glob);
            warn(format!("{what}: there is no table `{}`{like}", glob.text()));
        }
    }
    let meant_tables = inventory.tables.iter().filter(|(table, _)| names(tables, &table.to_string()));
    let of_them: Vec<&str> =
        meant_tables.flat_map(|(_, columns)| columns).map(|column| column.name.as_str()).collect();
    if of_them.is_empty() {
        return;
    }
    let found = |glob: &Glob| of_them.iter().any(|name| glob.matches_any_case(&fold(name)));
    let none = !columns.0.iter().any(found);
    for glob in columns.0.iter().filter(|glob| (glob.is_plain() || none) && !found(glob)) {
        let like = meant(glob.text(), of_them.iter().copied());
        warn(format!("{what}: there is no column `{}`{like}", glob.text()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tests::{book, columns};

    fn told(policies: &str, rules: &str, away: &[&str]) -> Vec<String> {
        let inventory = Inventory {
            tables: vec![(TableName::new("a", "t"), columns())],
            open: BTreeSet::from(["a".to_owned()]),
            away: away.iter().map(|name| (*name).to_owned()).collect(),
        };
        book(policies, rules).check(&inventory).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_matches_nothing_is_told() {
        let policies = "permit (principal, action, resource in Table::\"a.T\");\n\
                        forbid (principal, action, resource == Column::\"a.t.nam\");\n\
                        forbid (principal, action, resource in Collection::\"b\");\n\
                        forbid (principal, action, resource in Table::\"away.t\");";
        let rules = "[[label]]\ntable = \"a.t\"\ncolumn = [\"Name\", \"*_name\"]\nlabels = \"x\"\n\
                     [[label]]\ntable = \"a.t\"\ncolumn = [\"ssn\", \"snn\"]\nlabels = \"y\"\n\
                     [[obligation]]\nid = \"used\"\nlabels = \"x\"\nhide = true\n\
                     [[obligation]]\nid = \"misspelt\"\ntable = \"a.tt\"\nmin_group = { entity = \"id\", size = 5 }\n\
                     [[obligation]]\nid = \"filter\"\ntable = \"a.*\"\nrow_filter = \"clinic = 1\"\n\
                     [[obligation]]\nid = \"unused\"\nlabels = \"z\"\nhide = true\n";
        assert_eq!(
            told(policies, rules, &[]),
            [
                "rules.toml, line 5: the labels y: there is no column `snn`; did you mean `ssn`?",
                "rules.toml, line 13: the obligation `misspelt`: there is no table `a.tt`; did you mean `a.t`?",
                "rules.toml, line 17: the obligation `filter` denies a.t: its filter needs the column `clinic`, which the table does not have",
                "rules.toml, line 21: the obligation `unused` is of nothing that is there",
                "policies.cedar, line 1: the policy `policies:1` names Table::\"a.T\", which is not there; did you mean `a.t`?",
                "policies.cedar, line 2: the policy `policies:2` names Column::\"a.t.nam\", which is not there; did you mean `a.t.name`?",
                "policies.cedar, line 3: the policy `policies:3` names Collection::\"b\", which is not there; did you mean `a`?",
                "policies.cedar, line 4: the policy `policies:4` names Table::\"away.t\", which is not there; did you mean `a.t`?",
            ]
        );
    }

    #[test]
    fn of_a_collection_that_is_away_nothing_is_told() {
        let policies = "forbid (principal, action, resource in Table::\"away.t\");";
        let rules = "[[label]]\ntable = \"away.*\"\ncolumn = \"x\"\nlabels = \"x\"\n\
                     [[obligation]]\nlabels = \"x\"\nhide = true\n\
                     [[obligation]]\nid = \"o\"\ntable = \"a.nothing\"\nhide = true\n";
        assert_eq!(
            told(policies, rules, &["away"]),
            ["rules.toml, line 8: the obligation `o`: there is no table `a.nothing`"]
        );
    }
}
