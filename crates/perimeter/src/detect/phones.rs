//! Telephone numbers: with the code of a country (E.123, E.164), as North America writes them, as others write them with a 0 for
//! the trunk, and any digits behind a word that says so.

use super::checks::{is_day, number};
use super::scan::{Run, Token};
use super::words::{CALL, PHONE};

/// Where it begins and ends.
pub fn phone(run: &Run<'_>) -> Option<(usize, usize)> {
    let digits = run.digits();
    if digits == 0 {
        return None;
    }
    let mut start = run.start();
    let mut before = run.text[..start].iter().rev().copied().peekable();
    let in_brackets = before.next_if_eq(&b'(').is_some();
    start -= usize::from(in_brackets);
    let has_plus = before.next_if_eq(&b'+').is_some();
    start -= usize::from(has_plus);
    if has_plus && !in_brackets && before.next_if_eq(&b'(').is_some() {
        start -= 1;
    }
    let found = if has_plus && !is_place(run, digits) { international(run, digits, 0) } else { None };
    found
        .or_else(|| zeros(run, digits))
        .or_else(|| american(run, digits))
        .or_else(|| trunk(run, digits))
        .or_else(|| named(run, digits))
        .map(|count| (start, with_extension(run, count)))
}

/// The end, behind digits of an extension after an `x`.
fn with_extension(run: &Run<'_>, count: usize) -> usize {
    let end = run.end(count);
    match run.text.get(end) {
        Some(b'x') => end + 1 + run.text[end + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count(),
        _ => end,
    }
}

/// Degrees, minutes and seconds, by ISO 6709.
fn is_place(run: &Run<'_>, digits: usize) -> bool {
    let lengths = (run.tokens[0].len(), run.tokens.get(1).map_or(0, Token::len));
    digits > 1 && matches!(lengths, (4, 5) | (6, 7)) && matches!(run.separator(0), b"-" | b"+")
}

/// Digits of a country's code, and of all behind it.
fn is_international(digits: &[u8]) -> bool {
    let begins = |length: usize| digits.get(..length).map_or(0, number);
    match digits.len() {
        11 if digits[0] == b'1' => digits[1] > b'1' && digits[4] > b'0',
        8..=15 => {
            matches!(begins(2), 20 | 27 | 30..=34 | 36 | 39..=41 | 43..=49 | 51..=58 | 60..=66 | 81 | 82 | 84 | 86 | 90..=95 | 98)
                || (digits[0] == b'7' && digits.len() == 11)
                || matches!(begins(3), 211..=269 | 290..=299 | 350..=389 | 420..=423 | 500..=509 | 590..=599 | 670..=692 | 800 | 808 | 850..=888 | 960..=998)
        }
        _ => false,
    }
}

fn international(run: &Run<'_>, digits: usize, zeros: usize) -> Option<usize> {
    (1..=digits).rev().find(|count| {
        // A 0 in brackets is the trunk's.
        let compact = run.compact(*count);
        let has_trunk = (1..*count).any(|at| run.raw(at + 1).ends_with(b"(0"));
        is_international(&compact[zeros..])
            || (has_trunk && is_international(&compact[zeros..compact.len() - 1]))
    })
}

/// 00 instead of +. Numbers without separators are filled with zeros, too.
fn zeros(run: &Run<'_>, digits: usize) -> Option<usize> {
    let is_so = digits > 1
        && run.compact(1).starts_with(b"00")
        && (matches!(run.tokens[0].len(), 2 | 4 | 5) || run.raw(1) == b"001");
    if is_so {
        international(run, digits, 2).filter(|count| *count > 1 && run.is_isolated(*count))
    } else {
        None
    }
}

fn american(run: &Run<'_>, digits: usize) -> Option<usize> {
    let skipped = usize::from(digits > 3 && run.raw(1) == b"1");
    let count = 3 + skipped;
    if digits < count || !run.tokens[skipped..count].iter().map(Token::len).eq([3, 3, 4]) {
        return None;
    }
    let compact = &run.compact(count)[skipped..];
    let (first, second) = (run.separator(skipped), run.separator(skipped + 1));
    let is_separated = matches!(
        (first, second),
        (b") " | b")" | b")-" | b") - ", b"-" | b" " | b".")
            | (b"-", b"-" | b".")
            | (b".", b".")
            | (b" ", b" " | b"-")
            | (b"/", b"-")
    );
    let is_so = compact[0] > b'1'
        && compact[3] > b'1'
        && &compact[1..3] != b"11"
        && is_separated
        && run.is_isolated(count);
    is_so.then_some(count)
}

/// A 0, and groups that are separated evenly.
fn trunk(run: &Run<'_>, digits: usize) -> Option<usize> {
    let compact = run.compact(digits);
    let first = run.tokens[0].len();
    let others = &run.tokens[1..digits];
    let by_brackets = digits > 1 && run.separator(0).starts_with(b")");
    let is_even = match digits {
        ..2 => false,
        2 => run.separator(0).len() == 1 || by_brackets,
        _ if by_brackets => (2..digits - 1).all(|at| run.separator(at) == run.separator(1)),
        _ => {
            run.even(digits).is_some_and(|by| by.len() == 1)
                || (matches!(run.separator(0), b"/" | b"-")
                    && (1..digits - 1).all(|at| run.separator(at) == b" "))
        }
    };
    let has_sign = run.start() > 0 && matches!(run.text[run.start() - 1], b'-' | b'+');
    let is_address = digits == 4 && run.even(4) == Some(b".") && first == 3;
    let is_so = compact[0] == b'0'
        && compact[1..].first().is_some_and(|second| *second != b'0')
        && (9..=12).contains(&compact.len())
        && (2..=5).contains(&first)
        && digits <= 5
        && others.iter().all(|token| (2..=8).contains(&token.len()))
        && is_even
        && !is_address
        && !has_sign
        && run.is_isolated(digits);
    is_so.then_some(digits)
}

/// Any digits behind a word.
fn named(run: &Run<'_>, digits: usize) -> Option<usize> {
    let fits = |count: &usize| (7..=15).contains(&run.compact(*count).len());
    let count = (1..=digits).rev().find(fits)?;
    let before = run.words.right_before(run.start());
    let is_named = before & (PHONE | CALL) != 0 || run.words.of_column() & PHONE != 0;
    (is_named && !run.is_fraction(count) && !is_other(run, count) && !is_time(run, count)).then_some(count)
}

fn is_other(run: &Run<'_>, count: usize) -> bool {
    let compact = run.compact(count);
    let lengths: Vec<usize> = run.tokens[..count].iter().map(|token| token.len()).collect();
    let part = |from: usize, to: usize| number(&compact[from..to]) as u32;
    match lengths.as_slice() {
        [4, 2, 2, ..] | [8, ..] => matches!(part(0, 2), 19 | 20) && is_day(part(4, 6), part(6, 8)),
        // A number with a decimal point.
        [1 | 2, rest] => *rest > 4 && run.separator(0) == b".",
        [2, 2, 4, ..] => is_day(part(0, 2), part(2, 4)) || is_day(part(2, 4), part(0, 2)),
        _ => false,
    }
}

fn is_time(run: &Run<'_>, count: usize) -> bool {
    let mut behind = run.text[run.end(count)..].iter();
    behind.next() == Some(&b':') && behind.next().is_some_and(u8::is_ascii_digit)
}
