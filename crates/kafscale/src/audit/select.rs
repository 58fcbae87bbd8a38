//! Which calls a report is about.

use kafscale_core::utc;

use super::ReportArgs;
use super::access::{Access, Mention};

#[derive(Debug)]
pub struct Selection<'a> {
    args: &'a ReportArgs,
}

impl<'a> Selection<'a> {
    pub fn new(args: &'a ReportArgs) -> Self {
        Self { args }
    }

    /// None: the report is not about it.
    pub fn choose(&self, mut access: Access) -> Option<Access> {
        let args = self.args;
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        if !is(&args.principal, &access.principal) || !is(&args.tool, &access.tool) {
            return None;
        }
        if let Some(collection) = &args.collection
            && !access.tables.iter().any(|table| is_in(table, collection))
        {
            return None;
        }
        // A time that cannot be read is not a reason to leave a line out.
        let at = utc::parse(&access.time);
        if at.is_some_and(|at| {
            args.since.is_some_and(|since| at < since) || args.until.is_some_and(|until| at >= until)
        }) {
            return None;
        }
        if let Some(subject) = &args.subject {
            access.subject = Some(mention(&access, subject)?);
        }
        Some(access)
    }

    /// Whether it is listed, and not only counted.
    pub fn lists(&self, access: &Access) -> bool {
        self.args.possible || access.subject != Some(Mention::Possible)
    }

    /// In words, one for each condition.
    pub fn in_words(&self) -> Vec<String> {
        let args = self.args;
        let named =
            |what: &str, value: &Option<String>| value.as_ref().map(|value| format!("{what} {value}"));
        let time = |what: &str, at: Option<i64>| at.map(|at| format!("{what} {}", utc::seconds(at)));
        let all = [
            named("principal", &args.principal),
            named("subject", &args.subject),
            named("collection", &args.collection),
            named("tool", &args.tool),
            time("since", args.since),
            time("until", args.until),
        ];
        all.into_iter().flatten().collect()
    }
}

/// `clinic` is of all its tables, and `clinic.patients` of the call that describes all of `clinic`.
fn is_in(table: &str, wanted: &str) -> bool {
    let below = |whole: &str, part: &str| part.strip_prefix(whole).is_some_and(|rest| rest.starts_with('.'));
    table == wanted || below(wanted, table) || below(table, wanted)
}

fn mention(access: &Access, subject: &str) -> Option<Mention> {
    let statement = access.statement.iter().chain(&access.row_filters);
    if statement.into_iter().any(|text| names(text, subject)) {
        return Some(Mention::Named);
    }
    let may = access.came.saw() && !access.tables.is_empty() && access.rows_left != Some(0);
    (may || !access.arguments_are_there).then_some(Mention::Possible)
}

/// Whether a text has this value as a word of its own: 47 is not in 4711.
fn names(text: &str, value: &str) -> bool {
    // As JSON has it, which arguments are.
    let quoted = serde_json::Value::from(value).to_string();
    let value = quoted.trim_matches('"');
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    !value.is_empty()
        && text.match_indices(value).any(|(at, found)| {
            let before = text[..at].chars().next_back();
            let behind = text[at + found.len()..].chars().next();
            !before.is_some_and(part_of_word) && !behind.is_some_and(part_of_word)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_a_word_of_its_own() {
        for (text, value, is_named) in [
            (r#"{"sql":"SELECT * FROM t WHERE id = 4711"}"#, "4711", true),
            (r#"{"sql":"SELECT * FROM t WHERE id = 4711"}"#, "471", false),
            (r#"{"sql":"SELECT * FROM t WHERE id = 4711"}"#, "711", false),
            (r#"{"sql":"WHERE name = 'Ana \"the\" Ås'"}"#, "Ana \"the\" Ås", true),
            (r#"{"sql":"WHERE name = 'Ana'"}"#, "an", false),
            ("patient = 'p-7'", "p-7", true),
            ("patient = 'p-77'", "p-7", false),
            ("anything", "", false),
        ] {
            assert_eq!(names(text, value), is_named, "{text} {value}");
        }
    }

    #[test]
    fn a_collection_has_its_tables() {
        for (table, wanted, holds) in [
            ("clinic.patients", "clinic", true),
            ("clinic.patients", "clinic.patients", true),
            ("clinic", "clinic.patients", true),
            ("clinical.patients", "clinic", false),
            ("clinic.patients", "clinic.visits", false),
        ] {
            assert_eq!(is_in(table, wanted), holds, "{table} {wanted}");
        }
    }
}
