//! What rules said before an exchange and would say no more.
//!
//! A file that somebody has cut, or emptied by mistake, is a file of rules like any other. Rules that
//! the program finds by itself may say more than before, and something else, but a rule that is gone
//! holds on until somebody says that this is meant.
//!
//! Only whole rules are compared, and not how strict each is: what was not written by accident is the
//! operator's affair.

use std::collections::{BTreeMap, BTreeSet};

use super::load::Rulebook;
use super::obligations::{Obligations, Owed};

impl Rulebook {
    /// What `new` lacks of these rules, in words. Empty: nothing.
    pub(super) fn lost_in(&self, new: &Rulebook) -> Vec<String> {
        let mut lost = Vec::new();
        let (old, new_ones) = (self.policies.forbids(), new.policies.forbids());
        lost.extend(old.lost_in(&new_ones, "policy"));
        let (old, new) = (&self.obligations, &new.obligations);
        lost.extend(obligations(old).lost_in(&obligations(new), "obligation"));
        lost.extend(owed(old, new));
        let counts = label_counts(new);
        let fewer = |(label, count): (&str, usize)| {
            let is_less = counts.get(label).copied().unwrap_or(0) < count;
            is_less.then(|| format!("columns of the label `{label}`"))
        };
        lost.extend(label_counts(old).into_iter().filter_map(fewer));
        if closed(new) < closed(old) {
            lost.push("tables that are closed".to_owned());
        }
        if new.purposes.is_empty() && !old.purposes.is_empty() {
            lost.push("the list of purposes".to_owned());
        }
        lost
    }
}

/// Rules of a kind: those with names, and how many have none.
#[derive(Debug, Default)]
pub(super) struct Ids {
    pub(super) named: BTreeSet<String>,
    pub(super) unnamed: usize,
}

impl Ids {
    pub(super) fn add(&mut self, id: Option<&str>) {
        match id {
            Some(id) => _ = self.named.insert(id.to_owned()),
            None => self.unnamed += 1,
        }
    }

    fn lost_in(&self, new: &Ids, what: &str) -> Vec<String> {
        let gone = self.named.difference(&new.named);
        let mut lost: Vec<String> = gone.map(|id| format!("the {what} `{id}`")).collect();
        // One that has got a name since is not lost.
        let given = new.named.difference(&self.named).count();
        if new.unnamed + given < self.unnamed {
            lost.push(format!("a rule without a name: {what}"));
        }
        lost
    }
}

fn obligations(of: &Obligations) -> Ids {
    let mut ids = Ids::default();
    of.list.iter().for_each(|obligation| ids.add(obligation.is_named.then_some(obligation.id.as_str())));
    ids
}

/// Of obligations that are still there, what they do not owe any more.
fn owed(old: &Obligations, new: &Obligations) -> Vec<String> {
    let kinds = |owed: &Owed| {
        [
            ("a mask", owed.is_of_columns()),
            ("row_filter", owed.row_filter.is_some()),
            ("min_group", owed.min_group.is_some()),
            ("max_rows", owed.max_rows.is_some()),
            ("max_bytes", owed.max_bytes.is_some()),
            ("budgets", owed.budgets.is_some()),
            ("validate", !owed.patterns.is_empty()),
        ]
    };
    let mut lost = Vec::new();
    for known in old.list.iter().filter(|obligation| obligation.is_named) {
        let Some(still) = new.list.iter().find(|obligation| obligation.id == known.id) else { continue };
        let both = kinds(&known.owed).into_iter().zip(kinds(&still.owed));
        let gone = both.filter(|((_, before), (_, after))| *before && !after);
        lost.extend(gone.map(|((kind, _), _)| format!("{kind} of the obligation `{}`", known.id)));
    }
    lost
}

/// How many patterns of columns have each label.
fn label_counts(of: &Obligations) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for (_, rule) in &of.labels {
        let tables = rule.collection.0.len() + rule.table.0.len();
        for label in &rule.labels.0 {
            *counts.entry(label.as_str()).or_default() += tables * rule.column.0.len().max(1);
        }
    }
    counts
}

fn closed(of: &Obligations) -> usize {
    of.tables.iter().filter(|rule| rule.closed).map(|rule| rule.name.0.len()).sum()
}

#[cfg(test)]
mod tests {
    use crate::rules::tests::{POLICIES, RULES, book};

    #[test]
    fn rules_that_are_cut_anywhere_lose_something() {
        let whole = book(POLICIES, RULES);
        let mut cuts = 0;
        for (end, _) in RULES.match_indices('\n') {
            let Ok(cut) = crate::rules::tests::try_book(POLICIES, &RULES[..end]) else { continue };
            // What is behind the last rule is nothing.
            let is_whole = RULES[end..].trim().is_empty();
            assert_eq!(whole.lost_in(&cut).is_empty(), is_whole, "{}", &RULES[..end]);
            cuts += 1;
        }
        assert!(cuts > 5, "{cuts}");
        assert!(!whole.lost_in(&book(POLICIES, "")).is_empty());
        let forbid = POLICIES.find("@id(\"no-secrets\")").unwrap();
        let lost = whole.lost_in(&book(&POLICIES[..forbid], RULES));
        assert_eq!(lost, ["the policy `no-secrets`"]);
    }

    #[test]
    fn what_is_edited_is_not_lost() {
        let whole = book(POLICIES, RULES);
        for (from, to) in [
            ("size = 10", "size = 5"),
            ("mask = { fixed = \"***\" }", "hide = true"),
            ("column = \"hiv\"", "column = \"aids\""),
            (
                "[[obligation]]\nid = \"ssn\"",
                "[[obligation]]\ntable = \"*\"\nmax_rows = 9\n[[obligation]]\nid = \"ssn\"",
            ),
        ] {
            let lost = whole.lost_in(&book(POLICIES, &RULES.replace(from, to)));
            assert!(RULES.contains(from) && lost.is_empty(), "{from}: {lost:?}");
        }
        for (from, to, told) in [
            ("max_rows = 1000\n", "", "max_rows of the obligation `groups`"),
            ("column = [\"name\", \"*_name\"]", "column = \"name\"", "columns of the label `pii.name`"),
            ("id = \"births\"", "id = \"birth\"", "the obligation `births`"),
        ] {
            assert_eq!(whole.lost_in(&book(POLICIES, &RULES.replace(from, to))), [told]);
        }
        let unnamed = |count: usize| book("", &"[[obligation]]\ntable = \"*\"\nmax_rows = 9\n".repeat(count));
        assert_eq!(unnamed(2).lost_in(&unnamed(1)), ["a rule without a name: obligation"]);
        assert!(unnamed(1).lost_in(&unnamed(2)).is_empty());
        let purposes = book("", "purposes = [\"a\"]\n[[table]]\nname = \"x.*\"\nclosed = true");
        assert_eq!(purposes.lost_in(&book("", "")), ["tables that are closed", "the list of purposes"]);
    }
}
