//! E-mail addresses, also with `%40` for the `@` as addresses of the web have it.

use super::Kind;
use super::scan::Found;

const LOCAL_MAX: usize = 64;
const DOMAIN_MAX: usize = 255;

/// In the order of the text, none within another.
pub fn addresses(text: &[u8]) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    let mut from = 0;
    while let Some(skipped) = text[from..].iter().position(|byte| matches!(byte, b'@' | b'%')) {
        let at = from + skipped;
        let sign = if text[at] == b'@' { 1 } else { 3 };
        from = at + 1;
        if sign == 3 && !text[at..].starts_with(b"%40") {
            continue;
        }
        let least = found.last().map_or(0, |found| found.end);
        if let Some(start) = local(text, at, least)
            && let Some(end) = domain(text, at + sign)
        {
            found.push(Found { start, end, kind: Kind::Email });
            from = end;
        }
    }
    found
}

/// Latin, Greek and Cyrillic letters have two bytes, of which the first is one of these.
fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || (0xc3..=0xd4).contains(&byte) || (0x80..=0xbf).contains(&byte)
}

fn local(text: &[u8], at: usize, least: usize) -> Option<usize> {
    let is_part = |byte: &u8| is_letter(*byte) || b"._%+-'&~".contains(byte);
    let length = text[least..at].iter().rev().take(LOCAL_MAX).take_while(|byte| is_part(byte)).count();
    let mut start = at - length;
    // What stands before an address: quotes and dots, and the rest of a letter.
    while start < at && (b".'-&~%".contains(&text[start]) || (0x80..=0xbf).contains(&text[start])) {
        start += 1;
    }
    (start < at).then_some(start)
}

fn domain(text: &[u8], start: usize) -> Option<usize> {
    let is_part = |byte: &u8| is_letter(*byte) || matches!(byte, b'-' | b'.');
    let length = text[start..].iter().take(DOMAIN_MAX).take_while(|byte| is_part(byte)).count();
    let (mut end, mut at) = (None, start);
    // The longest that ends with a name of letters: what is behind it is not of the address.
    for (place, label) in text[start..start + length].split(|byte| *byte == b'.').enumerate() {
        if !(1..=63).contains(&label.len()) {
            break;
        }
        let letters = label.iter().take_while(|byte| is_letter(**byte) && !byte.is_ascii_digit()).count();
        let letters = if label.starts_with(b"xn--") { label.len() } else { letters };
        // Letters of two bytes that were cut.
        let letters = letters - usize::from(letters > 0 && (0xc3..=0xd4).contains(&label[letters - 1]));
        if place > 0 && letters > 1 {
            end = Some(at + letters);
        }
        at += label.len() + 1;
    }
    end
}
