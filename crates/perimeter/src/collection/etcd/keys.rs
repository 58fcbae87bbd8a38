//! Which keys a statement is about, as ranges of bytes. Texts compare as their bytes in UTF-8, as etcd
//! compares keys.

use std::collections::BTreeSet;

use bytes::Bytes;
use datafusion::common::ScalarValue;

use crate::collection::predicate::{Comparison, Leaf, Predicate, Test, text};

/// The place of the column `key`.
pub const KEY: usize = 0;

/// Keys to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// These, where they exist.
    Named(BTreeSet<Bytes>),
    /// From the first one up to the other, which is not meant. Without one: to the end.
    Range(Bytes, Option<Bytes>),
}

impl Keys {
    /// `prefix` is that of the table, which all keys have.
    pub fn of(prefix: &str, predicates: &[Predicate]) -> Keys {
        predicates.iter().filter_map(told).fold(Keys::prefix(prefix.as_bytes()), Keys::and)
    }

    fn prefix(prefix: &[u8]) -> Keys {
        let mut end = prefix.to_vec();
        // A byte 0xff is no part of a text in UTF-8, and cannot grow.
        while end.last() == Some(&u8::MAX) {
            end.pop();
        }
        let end = end.pop().map(|last| {
            end.push(last + 1);
            Bytes::from(end)
        });
        Keys::Range(Bytes::copy_from_slice(prefix), end)
    }

    fn has(&self, key: &Bytes) -> bool {
        match self {
            Keys::Named(names) => names.contains(key),
            Keys::Range(from, until) => key >= from && until.as_ref().is_none_or(|until| key < until),
        }
    }

    fn and(self, other: Keys) -> Keys {
        match (self, other) {
            (Keys::Named(names), other) | (other @ Keys::Range(..), Keys::Named(names)) => {
                Keys::Named(names.into_iter().filter(|name| other.has(name)).collect())
            }
            (Keys::Range(a, a_end), Keys::Range(b, b_end)) => {
                let end = match (a_end, b_end) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                Keys::Range(a.max(b), end)
            }
        }
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
                Some(Keys::Range(..)) | None => None,
            });
            Some(Keys::Named(names.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect()))
        }
        Predicate::All(parts) => parts.iter().filter_map(told).reduce(Keys::and),
    }
}

fn of_test(test: &Test) -> Option<Keys> {
    let bytes = |value: &ScalarValue| Some(Bytes::copy_from_slice(text(value)?.as_bytes()));
    // The first key behind this one.
    let behind = |value: &ScalarValue| Some(Bytes::from([text(value)?.as_bytes(), b"\0"].concat()));
    Some(match test {
        Test::Compare(Comparison::Eq, value) => Keys::Named(BTreeSet::from([bytes(value)?])),
        Test::In { values, negated: false } => Keys::Named(values.iter().map(bytes).collect::<Option<_>>()?),
        Test::Compare(Comparison::Lt, value) => Keys::Range(Bytes::new(), Some(bytes(value)?)),
        Test::Compare(Comparison::LtEq, value) => Keys::Range(Bytes::new(), Some(behind(value)?)),
        Test::Compare(Comparison::Gt, value) => Keys::Range(behind(value)?, None),
        Test::Compare(Comparison::GtEq, value) => Keys::Range(bytes(value)?, None),
        Test::Like { pattern, negated: false } => {
            let prefix = pattern.split(['%', '_', '\\']).next().unwrap_or_default();
            (!prefix.is_empty()).then(|| Keys::prefix(prefix.as_bytes()))?
        }
        Test::Compare(Comparison::NotEq, _) | Test::In { .. } | Test::Null { .. } | Test::Like { .. } => {
            return None;
        }
    })
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

    fn is(comparison: Comparison, key: &str) -> Predicate {
        leaf(Test::Compare(comparison, ScalarValue::from(key)))
    }

    fn like(pattern: &str) -> Predicate {
        leaf(Test::Like { pattern: pattern.to_owned(), negated: false })
    }

    fn range(from: &str, until: Option<&str>) -> Keys {
        Keys::Range(
            Bytes::copy_from_slice(from.as_bytes()),
            until.map(|until| Bytes::copy_from_slice(until.as_bytes())),
        )
    }

    fn named(names: &[&str]) -> Keys {
        Keys::Named(names.iter().map(|name| Bytes::copy_from_slice(name.as_bytes())).collect())
    }

    #[test]
    fn conditions_narrow_the_keys_within_the_table() {
        use Comparison::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
        for (predicates, expected) in [
            (vec![], range("/f/", Some("/f0"))),
            (vec![is(Eq, "/f/a")], named(&["/f/a"])),
            (vec![is(Eq, "/g/a")], named(&[])),
            (vec![is(Eq, "/f/a"), is(Eq, "/f/b")], named(&[])),
            (vec![is(GtEq, "/f/b"), is(Lt, "/f/d")], range("/f/b", Some("/f/d"))),
            (vec![is(Gt, "/f/b"), is(LtEq, "/f/d")], range("/f/b\0", Some("/f/d\0"))),
            (vec![is(GtEq, "/a"), is(Lt, "/z")], range("/f/", Some("/f0"))),
            (vec![is(Lt, "/a")], range("/f/", Some("/a"))),
            (vec![is(NotEq, "/f/a")], range("/f/", Some("/f0"))),
            (vec![like("/f/a%b")], range("/f/a", Some("/f/b"))),
            (vec![like("%a")], range("/f/", Some("/f0"))),
            (vec![Predicate::Any(vec![is(Eq, "/f/a"), is(Eq, "/f/b")])], named(&["/f/a", "/f/b"])),
            (vec![Predicate::Any(vec![is(Eq, "/f/a"), like("/f/b%")])], range("/f/", Some("/f0"))),
            (vec![Predicate::All(vec![is(Eq, "/f/a"), like("/f/%")])], named(&["/f/a"])),
        ] {
            assert_eq!(Keys::of("/f/", &predicates), expected, "{predicates:?}");
        }
        assert_eq!(Keys::of("", &[]), range("", None));
        assert_eq!(
            Keys::prefix(b"a\xff"),
            Keys::Range(Bytes::from_static(b"a\xff"), Some(Bytes::from_static(b"b")))
        );
    }
}
