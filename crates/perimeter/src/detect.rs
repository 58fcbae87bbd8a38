//! The last net: personal data in values that no rule has a label for. What has a check digit is checked, so that an order number is
//! not taken for a card.
//!
//! It looks at columns without labels only: a column that the rules show although it has labels is shown. Values within values are
//! looked at too ([`values`]). What is spread over several columns or rows is not found.

mod values;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use unicode_normalization::UnicodeNormalization as _;

pub use values::filter;

/// A kind of personal data in texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Email,
    Iban,
    Card,
    Phone,
    SocialSecurityNumber,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Email, Kind::Iban, Kind::Card, Kind::SocialSecurityNumber, Kind::Phone];

    /// As it stands in a text in place of the data.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Email => "e-mail address",
            Kind::Iban => "IBAN",
            Kind::Card => "card number",
            Kind::Phone => "phone number",
            Kind::SocialSecurityNumber => "social security number",
        }
    }

    /// The kind that a text is of as a whole.
    pub fn of_whole(text: &str) -> Option<Kind> {
        let is_whole = |kind: &Kind| {
            kind.pattern().find(text).is_some_and(|found| found.len() == text.len()) && kind.is_valid(text)
        };
        Kind::ALL.into_iter().find(is_whole)
    }

    fn pattern(self) -> &'static Regex {
        static PATTERNS: LazyLock<[Regex; 5]> = LazyLock::new(|| {
            let compiled = |pattern| Regex::new(pattern).expect("it is a pattern");
            [
                compiled(r"(?i)[a-z0-9._%+-]{1,64}@[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){0,5}\.[a-z]{2,24}"),
                compiled(r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}\b"),
                compiled(r"\b[0-9](?:[ -]?[0-9]){12,18}\b"),
                compiled(
                    r"(?:\+|\b00)[1-9][0-9]{0,2}[ ./-]?(?:\(0\))?[0-9](?:[ ./-]?[0-9]){6,12}\b|\(?\b[2-9][0-9]{2}\)?[ .-][2-9][0-9]{2}[ .-][0-9]{4}\b",
                ),
                compiled(r"\b[0-9]{3}-[0-9]{2}-[0-9]{4}\b"),
            ]
        });
        &PATTERNS[match self {
            Kind::Email => 0,
            Kind::Iban => 1,
            Kind::Card => 2,
            Kind::Phone => 3,
            Kind::SocialSecurityNumber => 4,
        }]
    }

    /// Whether what looks like it is it.
    fn is_valid(self, text: &str) -> bool {
        match self {
            Kind::Email | Kind::Phone => true,
            Kind::Iban => is_iban(text),
            Kind::Card => is_card(text),
            Kind::SocialSecurityNumber => {
                let (area, rest) = text.split_at(3);
                !matches!(area, "000" | "666")
                    && !area.starts_with('9')
                    && &rest[1..3] != "00"
                    && !text.ends_with("0000")
            }
        }
    }
}

/// ISO 13616: the remainder by 97 is 1.
fn is_iban(text: &str) -> bool {
    let compact: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    if compact.len() < 15 {
        return false;
    }
    let (head, tail) = compact.split_at(4);
    let mut rest = 0_u32;
    for c in tail.iter().chain(head) {
        let Some(value) = c.to_digit(36) else { return false };
        rest = if value < 10 { (rest * 10 + value) % 97 } else { (rest * 100 + value) % 97 };
    }
    rest == 1
}

/// ISO/IEC 7812: digits of a known network, whose sum by Luhn ends in 0.
fn is_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let network =
        digits.first().is_some_and(|first| matches!(first, 2..=6)) && (13..=19).contains(&digits.len());
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| match (at % 2, digit * 2) {
            (0, _) => *digit,
            (_, doubled) if doubled > 9 => doubled - 9,
            (_, doubled) => doubled,
        })
        .sum();
    network && sum.is_multiple_of(10)
}

/// Whether a whole number is one of a card. Other numbers of so many digits end in the right digit one time in ten, so that lengths
/// are those that each network has.
fn is_card_number(digits: &str) -> bool {
    let begins =
        |length: usize| digits.get(..length).and_then(|digits| digits.parse::<u32>().ok()).unwrap_or(0);
    let is_of_network = match digits.len() {
        13 => begins(1) == 4,
        14 => matches!(begins(2), 36 | 38) || matches!(begins(3), 300..=305),
        15 => matches!(begins(2), 34 | 37),
        16 => {
            matches!(begins(1), 4)
                || matches!(begins(2), 51..=55 | 62 | 65)
                || matches!(begins(4), 2221..=2720 | 3528..=3589 | 6011 | 6440..=6499)
        }
        19 => begins(1) == 4 || begins(2) == 62,
        _ => false,
    };
    is_of_network && is_card(digits)
}

/// How many of each kind were taken out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filtered {
    kinds: BTreeMap<Kind, u64>,
    /// Values that could not be looked at, or not without what was found in them.
    withheld: u64,
}

impl Filtered {
    fn add(&mut self, kind: Kind, count: u64) {
        *self.kinds.entry(kind).or_default() += count;
    }

    pub fn in_words(&self) -> Option<String> {
        let mut parts: Vec<String> =
            self.kinds.iter().map(|(kind, count)| format!("{count} × {}", kind.name())).collect();
        if self.withheld > 0 {
            parts.push(format!("{} values withheld that cannot be searched", self.withheld));
        }
        (!parts.is_empty()).then(|| format!("taken out of values: {}", parts.join(", ")))
    }
}

/// The text without personal data.
pub fn filtered(text: &str, counts: &mut Filtered) -> Option<String> {
    if !text.is_ascii() {
        // Other forms of the same letters and digits, and letters between them that nobody sees.
        let plain: String = text.nfkc().filter(|letter| !is_unseen(*letter)).collect();
        if plain != text
            && let Some(filtered) = filtered_plain(&plain, counts)
        {
            return Some(filtered);
        }
    }
    filtered_plain(text, counts)
}

fn is_unseen(letter: char) -> bool {
    matches!(letter, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
}

fn filtered_plain(text: &str, counts: &mut Filtered) -> Option<String> {
    // Every kind needs one of these.
    if !text.bytes().any(|byte| byte.is_ascii_digit() || byte == b'@') {
        return None;
    }
    let mut changed: Option<String> = None;
    for kind in Kind::ALL {
        let current = changed.as_deref().unwrap_or(text);
        let mut found = 0;
        let replaced = kind.pattern().replace_all(current, |captures: &Captures<'_>| {
            let text = &captures[0];
            if kind.is_valid(text) {
                found += 1;
                format!("[{}]", kind.name())
            } else {
                text.to_owned()
            }
        });
        if found > 0 {
            changed = Some(replaced.into_owned());
            counts.add(kind, found);
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> String {
        filtered(text, &mut Filtered::default()).unwrap_or_else(|| text.to_owned())
    }

    #[test]
    fn personal_data_is_taken_out_of_texts() {
        assert_eq!(check("write to Ada.Lovelace+x@example.co.uk today"), "write to [e-mail address] today");
        assert_eq!(check("IBAN DE89 3704 0044 0532 0130 00, please"), "IBAN [IBAN], please");
        assert_eq!(check("card 4111 1111 1111 1111 exp 12/29"), "card [card number] exp 12/29");
        assert_eq!(check("ssn 123-45-6789."), "ssn [social security number].");
        assert_eq!(check("call +49 30 901820 or (212) 555-0143"), "call [phone number] or [phone number]");
    }

    #[test]
    fn other_forms_of_letters_are_the_same_letters() {
        for text in [
            "ada\u{200b}@example.org",
            "ａｄａ＠ｅｘａｍｐｌｅ．ｏｒｇ",
            "a\u{ad}da@exam\u{2060}ple.org",
            "ada@example\u{e0041}.org",
        ] {
            assert!(check(text).contains("[e-mail address]") && !check(text).contains("ada"), "{text}");
        }
        assert_eq!(check("４１１１ １１１１ １１１１ １１１１"), "[card number]");
        // Nothing is changed where nothing is found.
        assert_eq!(check("ﬁne 👩\u{200d}⚕\u{fe0f} １２３"), "ﬁne 👩\u{200d}⚕\u{fe0f} １２３");
    }

    #[test]
    fn other_numbers_stay() {
        let texts = [
            "order 4471",
            "4111 1111 1111 1112",
            "DE00370400440532013000",
            "2026-05-17T10:00:00Z",
            "000-12-3456",
            "10.0.0.1",
            "sha 9f86d081884c7d659a2feaa0c55ad015",
            "dose 2.5 mg at 08:00",
            "1234567890123456",
            "ward 12, bed 3",
            "v1.2.3-45",
        ];
        for text in texts {
            assert_eq!(check(text), text);
        }
    }
}
