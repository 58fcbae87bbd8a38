//! Numbers of cards: ISO/IEC 7812, by the beginnings and lengths of the networks. One in ten of other numbers ends in the right
//! digit: without a word of cards beside it, a number has to be one of a network, in groups as cards have them.

use super::checks::{luhn, number};
use super::scan::Run;
use super::words::CARD;

const LENGTHS: std::ops::RangeInclusive<usize> = 12..=19;

/// How many words the number of a card has that begins with the first.
pub fn card(run: &Run<'_>) -> Option<usize> {
    let digits = run.digits();
    (1..=digits).rev().find(|count| {
        let compact = run.compact(*count);
        LENGTHS.contains(&compact.len())
            && luhn(compact)
            && (b'1'..=b'8').contains(&compact[0])
            && !run.is_fraction(*count)
            && ((is_of_network(compact) && is_grouped(run, *count))
                || (is_long(compact) && run.near(*count) & CARD != 0))
    })
}

fn is_long(compact: &[u8]) -> bool {
    compact.len() > 12 || compact.starts_with(b"5") || compact.starts_with(b"6")
}

/// As it is printed on a card, or without separators.
fn is_grouped(run: &Run<'_>, count: usize) -> bool {
    let Some(by) = run.even(count).filter(|by| by.len() < 2) else { return false };
    let mut lengths = [0; 20];
    lengths.iter_mut().zip(&run.tokens[..count]).for_each(|(to, token)| *to = token.len());
    let is_usual = match &lengths[..count] {
        [_] | [4, 6, 4 | 5] | [4, 4, 4, 1..=7] | [4, 4, 4, 4, 1..=3] | [6, 10 | 13] => true,
        single => single.iter().all(|length| *length == 1),
    };
    // Numbers in a row of a table are not one.
    let is_of_row = by == b" " && !run.is_isolated(count) && {
        let mut before = run.text[..run.start()].iter().rev();
        let follows = run.tokens.get(count).is_some_and(|next| {
            next.len() == 4 && !next.has_letters && &run.text[run.end(count)..next.start] == b" "
        });
        follows || (before.next() == Some(&b' ') && before.next().is_some_and(u8::is_ascii_digit))
    };
    is_usual && !is_of_row
}

/// The networks whose numbers are found by themselves. Visa's of 13 and 19 digits are not: barcodes and hashes are as long.
pub fn is_of_network(digits: &[u8]) -> bool {
    let begins = |length: usize| number(&digits[..length]) as u32;
    let is_discover = || begins(2) == 65 || begins(4) == 6011 || matches!(begins(3), 644..=649);
    let is_maestro =
        || matches!(begins(4), 5018..=5020 | 5038 | 5612 | 5893 | 6304 | 6759 | 6761..=6763 | 6767);
    match digits.len() {
        14 => matches!(begins(2), 36 | 38 | 39) || matches!(begins(3), 300..=305 | 309),
        15 => matches!(begins(2), 34 | 37) || matches!(begins(4), 1800 | 2131),
        16 => {
            begins(1) == 4
                || matches!(begins(2), 51..=55 | 62)
                || matches!(begins(4), 2200..=2204 | 2221..=2720 | 3528..=3589)
                || is_discover()
                || is_maestro()
        }
        17 | 18 => begins(2) == 62 || is_maestro(),
        19 => begins(2) == 62 || is_maestro(),
        _ => false,
    }
}

/// Whether a whole number is one of a card.
pub fn is_card_number(digits: &str) -> bool {
    digits.bytes().all(|byte| byte.is_ascii_digit())
        && is_of_network(digits.as_bytes())
        && luhn(digits.as_bytes())
}
