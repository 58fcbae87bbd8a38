//! Patterns of names in rules: `*` stands for any text, dots included, and `?` for one character.
//!
//! Invariant: only text of the operator is a pattern. Names of callers and of sources are matched
//! against it as they are, in time that is bounded by the product of the two lengths.

use serde::{Deserialize, Deserializer};

use super::one_or_more::OneOrMore;

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob {
    text: String,
    folded: Vec<char>,
}

impl Glob {
    pub(super) fn new(text: &str) -> Glob {
        Glob { text: text.to_owned(), folded: fold(text) }
    }

    /// Whether it is one name.
    pub(super) fn is_plain(&self) -> bool {
        !self.text.contains(['*', '?'])
    }

    /// As it was written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// For names of tables, columns and labels: a source that writes `SSN` for `ssn` escapes no
    /// rule.
    pub(super) fn matches_any_case(&self, folded_name: &[char]) -> bool {
        matches(&self.folded, folded_name)
    }

    /// Whether some name that begins so matches.
    pub(super) fn can_begin(&self, folded_name: &[char]) -> bool {
        for (index, c) in folded_name.iter().enumerate() {
            match self.folded.get(index) {
                Some('*') => return true,
                Some(own) if own == c || *own == '?' => {}
                _ => return false,
            }
        }
        true
    }

    /// For names of callers, which differ by their case.
    pub(super) fn matches_exactly(&self, name: &str) -> bool {
        let pattern: Vec<char> = self.text.chars().collect();
        let name: Vec<char> = name.chars().collect();
        matches(&pattern, &name)
    }
}

impl<'de> Deserialize<'de> for Glob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Glob, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.trim() {
            "" => Err(serde::de::Error::custom("a pattern must not be empty")),
            trimmed if trimmed.len() != text.len() => {
                Err(serde::de::Error::custom("a pattern has no blanks at its ends"))
            }
            _ => Ok(Glob::new(&text)),
        }
    }
}

/// In the form that [`Glob::matches_any_case`] takes.
pub(super) fn fold(name: &str) -> Vec<char> {
    name.chars().flat_map(char::to_lowercase).collect()
}

impl OneOrMore<Glob> {
    /// An empty list matches everything.
    pub(super) fn all_or_any(&self, folded_name: &[char]) -> bool {
        self.0.is_empty() || self.0.iter().any(|glob| glob.matches_any_case(folded_name))
    }
}

/// Goes back to the last asterisk only: no pattern takes exponential time.
fn matches(pattern: &[char], name: &[char]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < name.len() {
        match pattern.get(from) {
            Some('*') => {
                star = Some((from, at));
                from += 1;
            }
            Some(&c) if c == '?' || c == name[at] => (at, from) = (at + 1, from + 1),
            _ => match star {
                Some((back, seen)) => {
                    star = Some((back, seen + 1));
                    (at, from) = (seen + 1, back + 1);
                }
                None => return false,
            },
        }
    }
    pattern[from..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asterisks_and_question_marks() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*", "hospital.patients", true),
            ("pii.*", "pii.name", true),
            ("pii.*", "pii", false),
            ("*name*", "last_name_2", true),
            ("*name*", "LAST_NAME", true),
            ("?sn", "ssn", true),
            ("?sn", "sn", false),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("ÄRZTE*", "ärzte-2", true),
        ] {
            assert_eq!(Glob::new(pattern).matches_any_case(&fold(name)), expected, "{pattern} {name}");
        }
        assert!(!Glob::new("Doctors").matches_exactly("doctors"));
        // What a caller is called is no pattern.
        assert!(!Glob::new("doctors").matches_exactly("*"));
    }

    #[test]
    fn a_pattern_can_begin_with_a_name_or_cannot() {
        for (pattern, name, expected) in [
            ("hospital.*", "hospital.", true),
            ("*", "hospital.", true),
            ("*.patients", "hospital.", true),
            ("h*", "hospital.", true),
            ("?ospital.x", "hospital.", true),
            ("bank.*", "hospital.", false),
            ("hospital", "hospital.", false),
            ("hospital2.x", "hospital.", false),
        ] {
            assert_eq!(Glob::new(pattern).can_begin(&fold(name)), expected, "{pattern}");
        }
    }

    #[test]
    fn many_asterisks_take_no_exponential_time() {
        let pattern = "*a".repeat(200) + "b";
        assert!(!Glob::new(&pattern).matches_exactly(&"a".repeat(2_000)));
    }
}
