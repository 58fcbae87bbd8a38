//! Which keys a statement is about.

use std::collections::BTreeSet;

use datafusion::common::ScalarValue;

use crate::collection::predicate::{Comparison, Leaf, Predicate, Test, text};

/// The place of the column `key`.
pub const KEY: usize = 0;

/// Keys to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// These, where they exist.
    Named(BTreeSet<String>),
    /// All that begin so.
    Prefix(String),
}

impl Keys {
    /// `prefix` is that of the table, which all keys have.
    pub fn of(prefix: &str, predicates: &[Predicate]) -> Keys {
        let mut keys = Keys::Prefix(prefix.to_owned());
        for predicate in predicates {
            if let Some(found) = told(predicate) {
                keys = keys.and(found);
            }
        }
        match keys {
            Keys::Named(names) => {
                Keys::Named(names.into_iter().filter(|name| name.starts_with(prefix)).collect())
            }
            other => other,
        }
    }

    fn and(self, other: Keys) -> Keys {
        match (self, other) {
            (Keys::Named(a), Keys::Named(b)) => Keys::Named(a.intersection(&b).cloned().collect()),
            (Keys::Named(names), Keys::Prefix(prefix)) | (Keys::Prefix(prefix), Keys::Named(names)) => {
                Keys::Named(names.into_iter().filter(|name| name.starts_with(&prefix)).collect())
            }
            (Keys::Prefix(a), Keys::Prefix(b)) if a.starts_with(&b) => Keys::Prefix(a),
            (Keys::Prefix(a), Keys::Prefix(b)) if b.starts_with(&a) => Keys::Prefix(b),
            // Nothing begins with both.
            (Keys::Prefix(_), Keys::Prefix(_)) => Keys::Named(BTreeSet::new()),
        }
    }

    /// As `MATCH` takes it.
    pub fn pattern(prefix: &str) -> String {
        let mut pattern = String::with_capacity(prefix.len() + 1);
        for c in prefix.chars() {
            if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern.push('*');
        pattern
    }
}

/// The keys that can fulfil a condition. None: any can.
fn told(predicate: &Predicate) -> Option<Keys> {
    match predicate {
        Predicate::Leaf(Leaf { column: KEY, test }) => of_test(test),
        Predicate::Leaf(_) => None,
        // The engine writes a short list as these.
        Predicate::Any(parts) => {
            let names = parts.iter().map(|part| match told(part) {
                Some(Keys::Named(names)) => Some(names),
                Some(Keys::Prefix(_)) | None => None,
            });
            Some(Keys::Named(names.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect()))
        }
        Predicate::All(parts) => parts.iter().filter_map(told).reduce(Keys::and),
    }
}

fn of_test(test: &Test) -> Option<Keys> {
    let named = |values: &[ScalarValue]| {
        let names =
            values.iter().map(|value| text(value).map(str::to_owned)).collect::<Option<BTreeSet<_>>>()?;
        Some(Keys::Named(names))
    };
    match test {
        Test::Compare(Comparison::Eq, value) => named(std::slice::from_ref(value)),
        Test::In { values, negated: false } => named(values),
        Test::Like { pattern, negated: false } => {
            let prefix = pattern.split(['%', '_', '\\']).next().unwrap_or_default();
            (!prefix.is_empty()).then(|| Keys::Prefix(prefix.to_owned()))
        }
        Test::Compare(..) | Test::In { .. } | Test::Null { .. } | Test::Like { .. } => None,
    }
}

/// Whether a condition on keys narrows what is looked at.
pub fn narrows(leaf: &Leaf) -> bool {
    told(&Predicate::Leaf(leaf.clone())).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(test: Test) -> Predicate {
        Predicate::Leaf(Leaf { column: KEY, test })
    }

    fn eq(key: &str) -> Predicate {
        leaf(Test::Compare(Comparison::Eq, ScalarValue::from(key)))
    }

    fn like(pattern: &str) -> Predicate {
        leaf(Test::Like { pattern: pattern.to_owned(), negated: false })
    }

    fn named(names: &[&str]) -> Keys {
        Keys::Named(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn conditions_narrow_the_keys_within_the_table() {
        let of = |predicates: &[Predicate]| Keys::of("s:", predicates);
        assert_eq!(of(&[]), Keys::Prefix("s:".into()));
        assert_eq!(of(&[eq("s:1")]), named(&["s:1"]));
        assert_eq!(of(&[eq("other")]), named(&[]), "a key of another table");
        assert_eq!(of(&[eq("s:1"), eq("s:2")]), named(&[]));
        assert_eq!(of(&[like("s:a%b")]), Keys::Prefix("s:a".into()));
        assert_eq!(of(&[like("s%")]), Keys::Prefix("s:".into()), "never less than the table's own");
        assert_eq!(of(&[like("x%")]), named(&[]));
        assert_eq!(of(&[Predicate::Any(vec![eq("s:1"), eq("s:2")])]), named(&["s:1", "s:2"]));
        assert_eq!(of(&[Predicate::Any(vec![eq("s:1"), like("s:a%")])]), Keys::Prefix("s:".into()));
        assert_eq!(of(&[Predicate::All(vec![eq("s:1"), like("s:%")])]), named(&["s:1"]));
    }

    #[test]
    fn a_prefix_is_no_pattern_of_a_caller() {
        assert_eq!(Keys::pattern("s:*[a]?\\"), "s:\\*\\[a\\]\\?\\\\*");
    }
}
