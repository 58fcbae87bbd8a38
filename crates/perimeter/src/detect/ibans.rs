//! IBANs: ISO 13616, by the lengths of its registry.

use super::checks::mod_97;
use super::scan::Run;

/// Countries by the length of their IBANs.
const COUNTRIES: [(usize, &str); 18] = [
    (15, "NO"),
    (16, "BE"),
    (18, "DK FI FK FO GL NL SD"),
    (19, "MK SI"),
    (20, "AT BA EE KZ LT LU MN XK"),
    (21, "CH HR LI LV"),
    (22, "BG BH CR DE GB GE IE ME RS VA"),
    (23, "AE GI IL IQ OM SO TL"),
    (24, "AD CZ ES MD PK RO SA SE SK TN VG"),
    (25, "LY PT ST"),
    (26, "IS TR"),
    (27, "BI DJ FR GR IT MC MR SM"),
    (28, "AL AZ BY CY DO GT HN HU LB NI PL SV"),
    (29, "BR EG PS QA UA"),
    (30, "JO KW MU YE"),
    (31, "MT SC"),
    (32, "LC"),
    (33, "RU"),
];
/// Of one that is not in the registry, such as those of tests.
const LENGTHS: std::ops::RangeInclusive<usize> = 15..=34;
/// Digits of the least.
const DIGITS_MIN: usize = 8;

/// How many words an IBAN has that begins with the first.
pub fn iban(run: &Run<'_>) -> Option<usize> {
    if !run.text[run.start()].is_ascii_alphabetic() {
        return None;
    }
    let is_other =
        || LENGTHS.contains(&run.raw(1).len()) && run.raw(1) == run.compact(1) && is_checked(run.compact(1));
    let registered =
        (1..=run.count).find(|count| is_registered(run.compact(*count)) && is_checked(run.compact(*count)));
    registered.or_else(|| is_other().then_some(1))
}

/// Of upper case letters and digits.
fn is_registered(compact: &[u8]) -> bool {
    let place = COUNTRIES.iter().position(|(length, _)| *length == compact.len());
    place
        .is_some_and(|place| COUNTRIES[place].1.split(' ').any(|country| country.as_bytes() == &compact[..2]))
}

fn is_checked(compact: &[u8]) -> bool {
    compact[..2].iter().all(u8::is_ascii_uppercase)
        && compact[2..4].iter().all(u8::is_ascii_digit)
        && compact.iter().filter(|byte| byte.is_ascii_digit()).count() >= DIGITS_MIN
        && mod_97(compact)
}
