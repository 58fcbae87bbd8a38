//! Reads the Prometheus text format, one sample at a time, from bytes that another program sent.
//!
//! Invariant: a line that cannot be read is counted, never guessed at; nothing here panics or allocates without bound.
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>, version 0.0.4.

use std::borrow::Cow;

/// More labels than any series of ours has.
const MAX_LABELS: usize = 16;

/// A line of the exposition.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    pub name: &'a str,
    pub labels: Vec<(&'a str, Cow<'a, str>)>,
    pub value: f64,
}

impl Sample<'_> {
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| *label == name).map(|(_, value)| value.as_ref())
    }

    /// The value as an exact integer. Above 2^53 a float cannot tell neighbours apart, so that is no exact integer.
    pub fn integer(&self) -> Option<i64> {
        const EXACT: f64 = 9_007_199_254_740_992.0;
        (self.value.fract() == 0.0 && self.value.abs() <= EXACT).then_some(self.value as i64)
    }
}

/// Calls `each` for every sample. Returns how many lines could not be read.
pub fn read<'a>(text: &'a str, mut each: impl FnMut(Sample<'a>)) -> usize {
    let mut unreadable = 0;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match sample(line) {
            Some(sample) => each(sample),
            None => unreadable += 1,
        }
    }
    unreadable
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let name_end = line.find(|c: char| c == '{' || c.is_ascii_whitespace())?;
    let (name, rest) = line.split_at(name_end);
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':')) {
        return None;
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let mut fields = rest.split_ascii_whitespace();
    let value = number(fields.next()?)?;
    // A time stamp may follow, and nothing else.
    let stamp_is_a_number = fields.next().is_none_or(|stamp| stamp.parse::<i64>().is_ok());
    (stamp_is_a_number && fields.next().is_none()).then_some(Sample { name, labels, value })
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        _ => text.parse().ok(),
    }
}

type Labels<'a> = Vec<(&'a str, Cow<'a, str>)>;

/// What stands between the braces, and what follows them.
fn labels(mut rest: &str) -> Option<(Labels<'_>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        if labels.len() == MAX_LABELS {
            return None;
        }
        let (name, after) = rest.split_once('=')?;
        let (value, after) = quoted(after.trim_start().strip_prefix('"')?)?;
        labels.push((name.trim(), value));
        rest = after.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

/// A label's value up to its closing quote, unescaped, and what follows the quote.
fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let end = text.find(['"', '\\'])?;
    if text.as_bytes()[end] == b'"' {
        return Some((Cow::Borrowed(&text[..end]), &text[end + 1..]));
    }
    let mut value = text[..end].to_owned();
    let mut chars = text[end..].char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((Cow::Owned(value), &text[end + at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> (Vec<Sample<'_>>, usize) {
        let mut samples = Vec::new();
        let unreadable = read(text, |sample| samples.push(sample));
        (samples, unreadable)
    }

    #[test]
    fn samples_with_and_without_labels_are_read() {
        let text = "# HELP a x\n# TYPE a counter\na 1\nb{t=\"x\",p=\"3\"} 42 1700000000\nc{} -1.5e3\n\nd{q=\"0.5\",} NaN\n";
        let (samples, unreadable) = all(text);
        assert_eq!(unreadable, 0);
        assert_eq!(samples[1].label("p"), Some("3"));
        assert_eq!(samples[1].integer(), Some(42));
        assert_eq!(samples[2].value, -1500.0);
        assert!(samples[3].value.is_nan() && samples[3].integer().is_none());
    }

    #[test]
    fn escapes_in_values_are_undone() {
        let (samples, _) = all(r#"a{g="x\"y\\z\n}{",h="ü"} 1"#);
        assert_eq!(samples[0].label("g"), Some("x\"y\\z\n}{"));
        assert_eq!(samples[0].label("h"), Some("ü"));
    }

    #[test]
    fn what_is_no_sample_is_counted() {
        for line in
            ["a", "a{", "a{b} 1", "a{b=\"c} 1", "{a=\"b\"} 1", "a x", "a 1 2 3", "<html> 1", "a{b=\"\\"]
        {
            assert_eq!(all(line), (vec![], 1), "{line}");
        }
    }

    #[test]
    fn integers_beyond_what_a_float_holds_are_not_exact() {
        assert_eq!(all("a 9007199254740992").0[0].integer(), Some(9_007_199_254_740_992));
        assert_eq!(all("a 9007199254740994").0[0].integer(), None);
        assert_eq!(all("a 1.5").0[0].integer(), None);
    }
}
