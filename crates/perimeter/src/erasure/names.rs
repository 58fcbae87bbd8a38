//! Takes identifiers of subjects out of names and texts before they are kept.

use super::search::Targets;

const IN_THEIR_PLACE: &str = ":subject";
/// Of letters or of digits: a UUID may have so many.
const RUNS_MAX: usize = 40;
/// Of one identifier in a name.
const BYTES_MAX: usize = 200;
/// A shorter one is found where it stands by itself, and not within a word.
const WITHIN_CHARS: usize = 5;

/// See the file's comment. Whether something is an identifier is known by its hashes, and, while a request is opened, by its text.
pub struct Names<'a>(&'a Targets);

impl Names<'_> {
    pub fn new(targets: &Targets) -> Names<'_> {
        Names(targets)
    }

    pub fn are_in(&self, text: &str) -> bool {
        self.clean(text) != text
    }

    pub fn clean(&self, text: &str) -> String {
        let mut cut = text.to_owned();
        let values = self.0.values().flat_map(|target| &target.values);
        for value in values.filter(|value| value.chars().count() >= WITHIN_CHARS) {
            cut = cut.replace(value.as_str(), IN_THEIR_PLACE);
        }
        let runs = runs(&cut);
        let (mut made, mut kept, mut at) = (String::new(), 0, 0);
        while at < runs.len() {
            let (start, _) = runs[at];
            let ends = (at..runs.len().min(at + RUNS_MAX)).rev();
            let one = ends.into_iter().find(|last| self.is_one(&cut[start..runs[*last].1]));
            if let Some(last) = one {
                made += &cut[kept..start];
                made += IN_THEIR_PLACE;
                (kept, at) = (runs[last].1, last);
            }
            at += 1;
        }
        made + &cut[kept..]
    }

    fn is_one(&self, text: &str) -> bool {
        text.len() <= BYTES_MAX
            && super::hashes::forms(text)
                .iter()
                .any(|form| self.0.values().any(|target| target.hashes.contains(&target.hasher.hash(form))))
    }
}

/// Where letters or digits stand together.
fn runs(text: &str) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    let mut before = None;
    for (at, c) in text.char_indices() {
        let kind = c.is_alphanumeric().then(|| c.is_numeric());
        match (kind, runs.last_mut()) {
            (Some(_), Some(run)) if kind == before => run.1 = at + c.len_utf8(),
            (Some(_), _) => runs.push((at, at + c.len_utf8())),
            (None, _) => {}
        }
        before = kind;
    }
    runs
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};
    use std::sync::Arc;

    use super::super::hashes::{SubjectHasher, forms_given};
    use super::super::search::Target;
    use super::*;
    use crate::shape::MaskKey;

    fn targets(values: &[&str], are_known: bool) -> Targets {
        let key = MaskKey { name: "k".to_owned(), secret: Arc::from([1; 32]) };
        let hasher = SubjectHasher::new(&key, "l");
        let forms = values.iter().flat_map(|value| forms_given(value));
        let hashes: HashSet<_> = forms.map(|form| hasher.hash(&form)).collect();
        let values: BTreeSet<String> = values.iter().map(|value| (*value).to_owned()).collect();
        let values = if are_known { values } else { BTreeSet::new() };
        Targets::from([("l".to_owned(), Target { hasher, hashes, known: BTreeSet::new(), values })])
    }

    #[test]
    fn identifiers_are_taken_out_of_names_by_their_hashes_alone() {
        let uuid = "0192f8a0-5b7c-7d3e-8f10-1a2b3c4d5e6f";
        let ids = ["7", "M-777", "ann@x.org", uuid];
        for are_known in [false, true] {
            let targets = targets(&ids, are_known);
            let names = Names::new(&targets);
            for (text, expected) in [
                ("letters/M-777.csv", "letters/:subject.csv"),
                ("letter_M-777_2024", "letter_:subject_2024"),
                ("patient7", "patient:subject"),
                ("p-7-x", "p-:subject-x"),
                ("2027 and 77", "2027 and 77"),
                ("mail of ann@x.org, ANN@X.ORG", "mail of :subject, :subject"),
                ("t_0192F8A0-5B7C-7D3E-8F10-1A2B3C4D5E6F", "t_:subject"),
                ("t0192f8a05b7c7d3e8f101a2b3c4d5e6f", "t:subject"),
                ("M-7771", "M-7771"),
                ("", ""),
                ("\u{1}é—", "\u{1}é—"),
            ] {
                // A value that is known is found within a word, too.
                let within = are_known && text == "M-7771";
                let expected = if within { ":subject1" } else { expected };
                assert_eq!(names.clean(text), expected, "{are_known}");
                assert_eq!(names.are_in(text), text != expected);
            }
        }
    }
}
