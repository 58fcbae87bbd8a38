//! What rules say of the texts of an answer (`validate`): patterns that are taken out of it, and
//! patterns with which it does not leave at all.
//!
//! Patterns are looked for in each value of the answer, in columns with labels too, and in other
//! forms of the same letters. Invariant: a pattern takes time in proportion to the text, whatever it
//! is (the crate `regex` has no backtracking), and memory of at most [`COMPILED_BYTES_MAX`].

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use serde::Deserialize;

/// Of one obligation.
const PATTERNS_MAX: usize = 32;
const PATTERN_CHARS_MAX: usize = 1_000;
const COMPILED_BYTES_MAX: usize = 1 << 20;
const NAME_CHARS_MAX: usize = 40;

/// Of `rules.toml`: a name, which callers are told, and a regular expression.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidateRule {
    #[serde(default)]
    pub withhold: BTreeMap<String, String>,
    #[serde(default)]
    pub refuse: BTreeMap<String, String>,
}

/// What is done where a pattern is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Done {
    /// The whole answer does not leave.
    Refuse,
    /// The name stands in place of the text.
    Withhold,
}

/// A pattern of the rules.
#[derive(Debug, Clone)]
pub struct Pattern {
    pub done: Done,
    pub name: Arc<str>,
    regex: Regex,
}

/// The name, or the text of the pattern, is not one.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    #[error("`validate` has neither `withhold` nor `refuse`")]
    Nothing,
    #[error("`validate` has more than {PATTERNS_MAX} patterns")]
    Many,
    #[error(
        "the name of a pattern has 1 to {NAME_CHARS_MAX} letters, digits, blanks, `-` and `_`: {0:?} has not"
    )]
    Name(String),
    #[error("the pattern `{0}` has more than {PATTERN_CHARS_MAX} characters")]
    Long(String),
    #[error("the pattern `{0}` fits a text without a character: everything would be found")]
    FitsNothing(String),
    #[error("the pattern `{name}`: {source}")]
    Regex { name: String, source: Box<regex::Error> },
}

impl Pattern {
    fn new(done: Done, name: String, text: &str) -> Result<Pattern, PatternError> {
        let is_of_name = |letter: char| letter.is_alphanumeric() || " -_".contains(letter);
        let length = name.chars().count();
        if length == 0 || length > NAME_CHARS_MAX || name.trim() != name || !name.chars().all(is_of_name) {
            return Err(PatternError::Name(name));
        }
        if text.chars().count() > PATTERN_CHARS_MAX {
            return Err(PatternError::Long(name));
        }
        let built = RegexBuilder::new(text).size_limit(COMPILED_BYTES_MAX).build();
        let regex = match built {
            Ok(regex) => regex,
            Err(source) => return Err(PatternError::Regex { name, source: Box::new(source) }),
        };
        if regex.is_match("") {
            return Err(PatternError::FitsNothing(name));
        }
        Ok(Pattern { done, name: name.into(), regex })
    }

    /// All patterns of an obligation.
    pub fn of_rule(rule: ValidateRule) -> Result<Vec<Arc<Pattern>>, PatternError> {
        match rule.withhold.len() + rule.refuse.len() {
            0 => return Err(PatternError::Nothing),
            1..=PATTERNS_MAX => {}
            _ => return Err(PatternError::Many),
        }
        let withhold = rule.withhold.into_iter().map(|(name, text)| (Done::Withhold, name, text));
        let refuse = rule.refuse.into_iter().map(|(name, text)| (Done::Refuse, name, text));
        withhold
            .chain(refuse)
            .map(|(done, name, text)| Ok(Arc::new(Pattern::new(done, name, &text)?)))
            .collect()
    }

    pub fn is_in(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The text with the name in place of what fits, and how often that was. None: it does not fit.
    pub fn withheld(&self, text: &str) -> Option<(String, u64)> {
        let mut made = String::new();
        let (mut from, mut count) = (0, 0);
        for found in self.regex.find_iter(text).filter(|found| !found.is_empty()) {
            made.push_str(&text[from..found.start()]);
            made.push('[');
            made.push_str(&self.name);
            made.push(']');
            from = found.end();
            count += 1;
        }
        made.push_str(&text[from..]);
        (count > 0).then_some((made, count))
    }

    /// As rules and audit lines tell of it, without the pattern.
    pub fn in_words(&self) -> String {
        match self.done {
            Done::Refuse => format!("answers with {} refused", self.name),
            Done::Withhold => format!("{} withheld", self.name),
        }
    }

    fn key(&self) -> (Done, &str, &str) {
        (self.done, &self.name, self.regex.as_str())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.key() == other.key()
    }
}

/// Each pattern once, those that refuse first, in an order that does not depend on that of the rules.
pub fn together(patterns: impl IntoIterator<Item = Arc<Pattern>>) -> Vec<Arc<Pattern>> {
    let mut all: Vec<Arc<Pattern>> = patterns.into_iter().collect();
    all.sort_by(|one, other| one.key().cmp(&other.key()));
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(withhold: &[(&str, &str)], refuse: &[(&str, &str)]) -> ValidateRule {
        let map = |of: &[(&str, &str)]| {
            of.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        ValidateRule { withhold: map(withhold), refuse: map(refuse) }
    }

    #[test]
    fn what_fits_is_replaced_by_the_name() {
        let patterns = Pattern::of_rule(rule(&[("case number", r"CASE-\d+")], &[])).unwrap();
        let withheld = |text| patterns[0].withheld(text);
        assert_eq!(
            withheld("see CASE-12, CASE-7."),
            Some(("see [case number], [case number].".to_owned(), 2))
        );
        assert_eq!(withheld("see case 12"), None);
    }

    #[test]
    fn patterns_that_are_none_are_refused() {
        let long = "a".repeat(PATTERN_CHARS_MAX + 1);
        for (name, text, expected) in [
            ("a", "(", "the pattern `a`: "),
            ("a", "x*", "without a character"),
            ("a", "(?:.{1000}){1000}", "the pattern `a`: "),
            ("a", long.as_str(), "more than 1000 characters"),
            ("", "x", "the name of a pattern"),
            ("a]", "x", "the name of a pattern"),
        ] {
            let error = Pattern::of_rule(rule(&[(name, text)], &[])).unwrap_err().to_string();
            assert!(error.contains(expected), "{name} {text}: {error}");
        }
        assert!(matches!(Pattern::of_rule(rule(&[], &[])), Err(PatternError::Nothing)));
    }

    #[test]
    fn the_order_of_patterns_is_that_of_what_they_do() {
        let all = |list: &[&ValidateRule]| {
            let patterns = list.iter().flat_map(|rule| Pattern::of_rule((*rule).clone()).unwrap());
            together(patterns).iter().map(|pattern| pattern.in_words()).collect::<Vec<_>>()
        };
        let (one, other) = (rule(&[("b", "b"), ("a", "a")], &[]), rule(&[("a", "a")], &[("z", "z")]));
        assert_eq!(all(&[&one, &other]), all(&[&other, &one]));
        assert_eq!(all(&[&one, &other]), ["answers with z refused", "a withheld", "b withheld"]);
    }
}
