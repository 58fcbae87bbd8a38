//! Dates behind a word of births. Other dates are no personal data by themselves.

use super::checks::{is_day, number};
use super::scan::{Run, Token};
use super::words::BIRTH;

/// The first letters of months: English, and what German, French, Spanish, Italian, Portuguese and Dutch have beside it.
const MONTHS: [(&str, u32); 30] = [
    ("jan", 1),
    ("feb", 2),
    ("mar", 3),
    ("apr", 4),
    ("may", 5),
    ("jun", 6),
    ("jul", 7),
    ("aug", 8),
    ("sep", 9),
    ("oct", 10),
    ("nov", 11),
    ("dec", 12),
    ("mai", 5),
    ("okt", 10),
    ("dez", 12),
    ("avr", 4),
    ("jui", 6),
    ("ene", 1),
    ("abr", 4),
    ("ago", 8),
    ("dic", 12),
    ("gen", 1),
    ("mag", 5),
    ("giu", 6),
    ("lug", 7),
    ("set", 9),
    ("ott", 10),
    ("fev", 2),
    ("out", 10),
    ("mei", 5),
];

/// Where the date ends that begins with the first word.
pub fn birth(run: &Run<'_>) -> Option<usize> {
    let end = date(run.text, run.tokens)?;
    (run.words.right_before(run.start()) & BIRTH != 0).then_some(end)
}

fn date(text: &[u8], tokens: &[Token]) -> Option<usize> {
    let part = |token: &Token| number(&text[token.start..token.end]) as u32;
    let first = tokens.first()?;
    if first.len() == 8 && !first.has_letters {
        let whole = part(first);
        let is_date = is_year(whole / 10_000) && is_day(whole / 100 % 100, whole % 100)
            || is_year(whole % 10_000) && is_day(whole / 10_000 % 100, whole / 1_000_000);
        return is_date.then_some(first.end);
    }
    let gap = |at: usize| tokens.get(at + 1).map(|next| &text[tokens[at].end..next.start]);
    let is_near = |at: usize| gap(at).is_some_and(|gap| gap.len() <= 8 && !gap.contains(&b'\n'));
    // Words between a day, a month and a year.
    let skips = |at: usize| {
        let word = tokens.get(at).map_or(&b""[..], |token| &text[token.start..token.end]);
        usize::from(matches!(word, b"of" | b"de" | b"d"))
    };
    let mut places = [0; 3];
    for place in 1..3 {
        let before = places[place - 1];
        places[place] = before + 1 + skips(before + 1);
        if !(before..places[place]).all(is_near) {
            return None;
        }
    }
    let [one, two, three] = places.map(|place| tokens.get(place));
    let (one, two, three) = (one?, two?, three?);
    let numbers = (day(text, one), day(text, two), part(three));
    let year = three.len() == 4 && !three.has_letters && is_year(part(three));
    let is_even =
        gap(0) == gap(1) && gap(0).is_some_and(|gap| matches!(gap, b"-" | b"." | b"/" | b" " | b". "));
    let is_date = match (month(text, one), month(text, two)) {
        (None, Some(month)) => year && numbers.0.is_some_and(|day| is_day(month, day)),
        (Some(month), None) => year && numbers.1.is_some_and(|day| is_day(month, day)),
        (None, None) if is_even && one.len() == 4 && !one.has_letters => {
            is_year(part(one))
                && numbers.1.zip(day(text, three)).is_some_and(|(month, day)| is_day(month, day))
        }
        (None, None) if is_even => {
            let short = three.len() == 2 && !three.has_letters;
            let days = numbers.0.zip(numbers.1);
            (year || short) && days.is_some_and(|(a, b)| is_day(a, b) || is_day(b, a))
        }
        _ => false,
    };
    is_date.then_some(three.end)
}

fn is_year(year: u32) -> bool {
    (1850..=2100).contains(&year)
}

/// A day or a month in digits, with an ending such as `th`, or a time behind it.
fn day(text: &[u8], token: &Token) -> Option<u32> {
    let word = &text[token.start..token.end];
    let digits = word.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let is_so = match &word[digits..] {
        b"" | b"st" | b"nd" | b"rd" | b"th" | b"er" => (1..=2).contains(&digits),
        rest => rest[0] == b'T' && digits == 2,
    };
    is_so.then(|| number(&word[..digits]) as u32)
}

fn month(text: &[u8], token: &Token) -> Option<u32> {
    let word = text.get(token.start..token.start + 3).filter(|_| token.len() > 2 && !token.has_digits)?;
    MONTHS.iter().find(|(begins, _)| begins.as_bytes().eq_ignore_ascii_case(word)).map(|(_, month)| *month)
}
