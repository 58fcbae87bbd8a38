//! The last net: personal data in values that no rule has a label for. What has a check digit is checked, and what many other numbers
//! look like needs a word beside it, so that an order number is not taken for a card.
//!
//! It looks at columns without labels only: a column that the rules show although it has labels is shown. Values within values are
//! looked at too ([`values`]). What is spread over several columns or rows is not found, and names of people are not.

mod births;
mod cards;
mod checks;
mod columns;
mod ibans;
mod identifiers;
mod mail;
mod phones;
mod plain;
mod scan;
mod values;
mod words;

use std::collections::BTreeMap;
use std::sync::Arc;

use cards::is_card_number;
pub use columns::Column;
use plain::plain;
use scan::{Found, found};
pub use values::{Refused, filter};

/// A kind of personal data in texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Email,
    Iban,
    Card,
    Phone,
    SocialSecurityNumber,
    /// Another identifier that a state or a health system gives out, by its name.
    Identifier(&'static str),
    BirthDate,
}

impl Kind {
    /// As it stands in a text in place of the data.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Email => "e-mail address",
            Kind::Iban => "IBAN",
            Kind::Card => "card number",
            Kind::Phone => "phone number",
            Kind::SocialSecurityNumber => identifiers::SOCIAL_SECURITY,
            Kind::Identifier(name) => name,
            Kind::BirthDate => "date of birth",
        }
    }

    /// The kinds that a text is of as a whole. Several, where checks are alike: a column tells which.
    pub fn of_whole(text: &str) -> Vec<Kind> {
        let is_whole = |found: &Found| found.start == 0 && found.end == text.len();
        let by_itself = found(text, &Column::default()).into_iter().filter(is_whole).map(|found| found.kind);
        let mut kinds: Vec<Kind> = by_itself.collect();
        for kind in columns::identifiers(text).into_iter().map(|(_, of)| of.kind()) {
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        kinds
    }
}

/// How many of each kind were taken out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filtered {
    kinds: BTreeMap<Kind, u64>,
    /// The same by the names of patterns of the rules.
    patterns: BTreeMap<Arc<str>, u64>,
    /// Values that could not be looked at, or not without what was found in them.
    withheld: u64,
}

impl Filtered {
    fn add(&mut self, kind: Kind, count: u64) {
        *self.kinds.entry(kind).or_default() += count;
    }

    fn add_pattern(&mut self, name: &Arc<str>, count: u64) {
        *self.patterns.entry(Arc::clone(name)).or_default() += count;
    }

    pub fn in_words(&self) -> Option<String> {
        let mut parts: Vec<String> =
            self.kinds.iter().map(|(kind, count)| format!("{count} × {}", kind.name())).collect();
        parts.extend(self.patterns.iter().map(|(name, count)| format!("{count} × {name}")));
        if self.withheld > 0 {
            parts.push(format!("{} values withheld that cannot be searched", self.withheld));
        }
        (!parts.is_empty()).then(|| format!("taken out of values: {}", parts.join(", ")))
    }
}

/// Whether there is personal data in a text that stands by itself.
pub fn is_personal(text: &str) -> bool {
    filtered(text, &Column::default(), &mut Filtered::default()).is_some()
}

/// The text without personal data, where it has any.
pub fn filtered(text: &str, column: &Column, counts: &mut Filtered) -> Option<String> {
    plain(text)
        .and_then(|plain| filtered_plain(&plain, column, counts))
        .or_else(|| filtered_plain(text, column, counts))
}

fn filtered_plain(text: &str, column: &Column, counts: &mut Filtered) -> Option<String> {
    let all = found(text, column);
    let mut made = String::with_capacity(if all.is_empty() { 0 } else { text.len() });
    let mut from = 0;
    for Found { start, end, kind } in &all {
        made.push_str(&text[from..*start]);
        made.push('[');
        made.push_str(kind.name());
        made.push(']');
        from = *end;
        counts.add(*kind, 1);
    }
    made.push_str(&text[from..]);
    (!all.is_empty()).then_some(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> String {
        filtered(text, &Column::default(), &mut Filtered::default()).unwrap_or_else(|| text.to_owned())
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

    #[test]
    fn written_forms_of_identifiers_are_found() {
        let texts = [
            ("Steuer-ID: 36 574 261 809.", "Steuer-ID: [DE tax identification number]."),
            ("NHS no 943 476 5919", "NHS no [UK NHS number]"),
            ("the NINO is ab 12 34 56 c", "the NINO is [UK National Insurance number]"),
            ("{\"peselNumber\":\"44051401359\"}", "{\"peselNumber\":\"[PL PESEL]\"}"),
            ("2 95 10 99 126 111 93", "[FR social security number]"),
            ("身份证号44011320141005001X", "身份证号[CN resident identity number]"),
            ("BSN=111222333;", "BSN=[NL BSN];"),
            ("１２３.４５６.７８９-０９", "[BR CPF]"),
            ("आधार २३४१ २३४१ २३४६", "आधार [IN Aadhaar number]"),
            ("cpf 390.533.447‑05", "cpf [BR CPF]"),
            ("123456782 (SIN)", "[CA social insurance number] (SIN)"),
            ("RSS MRA 80A01 H501U", "[IT codice fiscale]"),
            ("passport C01X00T47 and 123456789", "passport [passport number] and [passport number]"),
        ];
        for (text, expected) in texts {
            assert_eq!(check(text), expected);
        }
    }

    #[test]
    fn written_forms_of_accounts_cards_and_phones_are_found() {
        let texts = [
            ("de89370400440532013000", "[IBAN]"),
            ("ES91-2100-0418-4502-0005-1332", "[IBAN]"),
            ("IBAN: NO 93 8601 1117 947 BIC", "IBAN: [IBAN] BIC"),
            ("3782 822463 10005", "[card number]"),
            ("id_4111111111111111", "id_[card number]"),
            ("maestro 6759 6498 2643 8453", "maestro [card number]"),
            ("+44 (0)20 7946 0958", "[phone number]"),
            ("0049 30 901820", "[phone number]"),
            ("01 23 45 67 89", "[phone number]"),
            ("(02) 9876 5432", "[phone number]"),
            ("1-212-555-0143 x22", "[phone number] x22"),
            ("212.555.0143x22", "[phone number]"),
            (r"Phone:\n203-717-2777", r"Phone:\n[phone number]"),
            ("Tel. 901820 44", "Tel. [phone number]"),
            ("mail ada%40example.org&x=1", "mail [e-mail address]&x=1"),
            ("'jörg.o'neil@exämple.de'", "'[e-mail address]'"),
            ("ada@example.com-2024 a@b.c1", "[e-mail address]-2024 a@b.c1"),
            ("born on 17 May 1980 in Leeds", "born on [date of birth] in Leeds"),
            ("geb. 17.05.1980", "geb. [date of birth]"),
            ("DOB: May 17th, 1980", "DOB: [date of birth]"),
            ("birth_date=1980-05-17T00:00:00Z", "birth_date=[date of birth]:00:00Z"),
        ];
        for (text, expected) in texts {
            assert_eq!(check(text), expected);
        }
    }

    #[test]
    fn ordinary_numbers_stay() {
        let texts = [
            "0.4539578763621486 and .4539578763621486",
            "4539 1234 5678 9012 3456 7890 1234",
            "order 9434765870 was shipped, tracking 111222333444",
            "order 123456782, total 1.234.567.890,00",
            "4006381333931",
            "00123456789",
            "20240115-1234",
            "-0351-03225 America/Noronha",
            "4511222233334444555",
            "the visit of 17 May 1980, born in Leeds",
            "550e8400-e29b-41d4-a716-446655440000",
            "ISBN 0-306-40615-2",
            "2026-05-17 10:00:00.123456789",
            "010.020.030.040",
            "$212 555 0143",
            "call it 2024-05-17",
            "git@host x@1.2.3",
        ];
        for text in texts {
            assert_eq!(check(text), text);
        }
    }

    #[test]
    fn a_text_of_a_megabyte_takes_little_time() {
        let hostile = [
            "1 2 3 4 5 6 7 8 9 0 ",
            "a@",
            "%40",
            "call 123 456 7890123 ",
            "1",
            "4111 1111 1111 1112 ",
            "ａ１",
            "né 1.1.",
        ];
        for part in hostile {
            let text = part.repeat(1_000_000 / part.len());
            let begun = std::time::Instant::now();
            check(&text);
            // Something of a square would take hours.
            let limit = if cfg!(debug_assertions) { 120 } else { 20 };
            assert!(begun.elapsed().as_secs() < limit, "{part}: {:?}", begun.elapsed());
        }
    }
}
