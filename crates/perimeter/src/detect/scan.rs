//! Finds personal data in a text, in one pass over its words.
//!
//! Invariant: the work at a word is bounded, so that the time for a text is proportional to its length whatever it has.

use super::births::birth;
use super::cards::card;
use super::identifiers::{self, Identifier};
use super::mail::addresses;
use super::phones::phone;
use super::words::{ANY, Topics, Words};
use super::{Column, Kind, ibans::iban};

/// Words and digits that one number may be written with.
const TOKENS_MAX: usize = 20;
/// Letters and digits of the longest, an IBAN.
const COMPACT_MAX: usize = 34;
/// Letters before the first digit.
const LETTERS_MAX: usize = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub start: usize,
    pub end: usize,
    pub kind: Kind,
}

/// A word of ASCII letters and digits.
#[derive(Debug, Clone, Copy)]
pub struct Token {
    pub start: usize,
    pub end: usize,
    pub has_digits: bool,
    pub has_letters: bool,
}

impl Token {
    pub fn len(&self) -> usize {
        self.end - self.start
    }
}

/// Words one after the other, from one on, as one number.
#[derive(Debug)]
pub struct Run<'a> {
    pub text: &'a [u8],
    pub tokens: &'a [Token],
    pub words: &'a Words<'a>,
    compact: [u8; COMPACT_MAX],
    /// Of the first word, the first two, and so on: the length of the compact text.
    lengths: [usize; TOKENS_MAX],
    pub count: usize,
}

impl<'a> Run<'a> {
    fn of(text: &'a [u8], tokens: &'a [Token], words: &'a Words<'a>) -> Run<'a> {
        let mut run =
            Run { text, tokens, words, compact: [0; COMPACT_MAX], lengths: [0; TOKENS_MAX], count: 0 };
        let mut length = 0;
        for (at, token) in tokens.iter().take(TOKENS_MAX).enumerate() {
            if length + token.len() > COMPACT_MAX
                || (at > 0 && !is_joint(&text[tokens[at - 1].end..token.start]))
            {
                break;
            }
            let letters = text[token.start..token.end].iter().map(u8::to_ascii_uppercase);
            run.compact[length..].iter_mut().zip(letters).for_each(|(to, letter)| *to = letter);
            length += token.len();
            run.lengths[at] = length;
            run.count = at + 1;
        }
        run
    }

    /// The first words without what separates them, in upper case.
    pub fn compact(&self, count: usize) -> &[u8] {
        &self.compact[..self.lengths[count - 1]]
    }

    pub fn start(&self) -> usize {
        self.tokens[0].start
    }

    pub fn end(&self, count: usize) -> usize {
        self.tokens[count - 1].end
    }

    /// The first words, as they are.
    pub fn raw(&self, count: usize) -> &[u8] {
        &self.text[self.start()..self.end(count)]
    }

    pub fn separator(&self, behind: usize) -> &[u8] {
        &self.text[self.tokens[behind].end..self.tokens[behind + 1].start]
    }

    /// What words near the first words speak of.
    pub fn near(&self, count: usize) -> Topics {
        self.words.near(self.start(), self.end(count))
    }

    /// How many of the first words are of digits alone.
    pub fn digits(&self) -> usize {
        self.tokens[..self.count].iter().take_while(|token| !token.has_letters).count()
    }

    /// What separates the first words, where it is the same everywhere.
    pub fn even(&self, count: usize) -> Option<&[u8]> {
        let first = if count > 1 { self.separator(0) } else { b"" };
        (1..count.saturating_sub(1)).all(|at| self.separator(at) == first).then_some(first)
    }

    /// Whether the first words are a part of a number with a decimal point.
    pub fn is_fraction(&self, count: usize) -> bool {
        let before = self.text[..self.start()].iter().rev();
        let mut behind = self.text[self.end(count)..].iter();
        let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
        let mut before = before.copied();
        let follows_point =
            before.next() == Some(b'.') && before.next().is_none_or(|byte| !byte.is_ascii_alphabetic());
        follows_point || (behind.next() == Some(&b'.') && is_digit(behind.next()))
    }

    /// Whether other numbers are beside the first words, so that they may be a part of a longer one, or of a row of a table.
    pub fn is_isolated(&self, count: usize) -> bool {
        let mut before = self.text[..self.start()].iter().rev().skip_while(|byte| **byte == b'(');
        let mut behind = self.text[self.end(count)..].iter();
        let joins = |next: Option<&u8>, other: Option<&u8>| match next {
            Some(b' ' | b'-' | b'.' | b'/' | b',' | b':' | b'_') => other.is_some_and(u8::is_ascii_digit),
            _ => false,
        };
        let (first, second) = (before.next(), before.next());
        // Sums of money, and versions.
        let is_other = first.is_some_and(|byte| b"$#%*\\".contains(byte));
        // A word and a colon may stand before it.
        let is_named = first == Some(&b':') && second.is_some_and(u8::is_ascii_alphabetic);
        let follows =
            matches!(first, Some(b'-' | b'.' | b'/' | b'_')) && second.is_some_and(u8::is_ascii_alphabetic);
        !is_other && (is_named || !(follows || joins(first, second))) && !joins(behind.next(), behind.next())
    }
}

/// What may stand between the parts of one number.
fn is_joint(separator: &[u8]) -> bool {
    separator == b"+"
        || (1..=3).contains(&separator.len()) && separator.iter().all(|byte| b" -./()".contains(byte))
}

fn tokens(text: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(skipped) = text[at..].iter().position(u8::is_ascii_alphanumeric) {
        let start = at + skipped;
        // The letter of `\n` in JSON is of no word.
        let is_escape = start > 0 && text[start - 1] == b'\\' && matches!(text[start], b'n' | b't' | b'r');
        let start = start + usize::from(is_escape);
        let length = text[start..].iter().position(|byte| !byte.is_ascii_alphanumeric());
        let end = length.map_or(text.len(), |length| start + length);
        let end = start + before_extension(&text[start..end]);
        let has_digits = text[start..end].iter().any(u8::is_ascii_digit);
        let has_letters = text[start..end].iter().any(u8::is_ascii_alphabetic);
        if start < end {
            tokens.push(Token { start, end, has_digits, has_letters });
        }
        at = end;
    }
    tokens
}

/// The length of a number before the `x` of its extension, or of the whole word.
fn before_extension(word: &[u8]) -> usize {
    let digits = word.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let has_extension = digits > 3 && matches!(word.get(digits), Some(b'x')) && word.len() > digits + 1;
    if has_extension && word[digits + 1..].iter().all(u8::is_ascii_digit) { digits } else { word.len() }
}

/// Whether a number may begin with this word.
fn may_begin(tokens: &[Token]) -> bool {
    let next_has_digits = || tokens.iter().skip(1).take(2).any(|token| token.has_digits);
    tokens[0].has_digits || (tokens[0].len() <= LETTERS_MAX && next_has_digits())
}

/// All that is found in a text, in the order of the text.
pub fn found(text: &str, column: &Column) -> Vec<Found> {
    let bytes = text.as_bytes();
    let mut all = addresses(bytes);
    if bytes.iter().filter(|byte| byte.is_ascii_digit()).count() < 4 {
        return all;
    }
    let tokens = tokens(bytes);
    let words = Words::of(text, column.topics);
    let mails = all.len();
    let (mut at, mut mail, mut until) = (0, 0, 0);
    while at < tokens.len() {
        while mail < mails && all[mail].end <= tokens[at].start {
            mail += 1;
        }
        let in_mail = mail < mails && all[mail].start < tokens[at].end;
        if !in_mail && tokens[at].start >= until && may_begin(&tokens[at..]) {
            let run = Run::of(bytes, &tokens[at..], &words);
            if let Some(one) = number(&run, column) {
                until = one.end;
                all.push(one);
            }
        }
        at += 1;
    }
    all.sort_by_key(|found| found.start);
    // An address that begins within a number is left as it is: the number is taken out.
    let mut end = 0;
    all.retain(|found| {
        let is_apart = found.start >= end;
        end = if is_apart { found.end } else { end };
        is_apart
    });
    all
}

fn number(run: &Run<'_>, column: &Column) -> Option<Found> {
    let found = |count: usize, kind: Kind| Found { start: run.start(), end: run.end(count), kind };
    iban(run)
        .map(|count| found(count, Kind::Iban))
        .or_else(|| card(run).map(|count| found(count, Kind::Card)))
        .or_else(|| identifier(run, column).map(|(count, kind)| found(count, kind)))
        .or_else(|| phone(run).map(|(start, end)| Found { start, end, kind: Kind::Phone }))
        .or_else(|| birth(run).map(|end| Found { start: run.start(), end, kind: Kind::BirthDate }))
}

fn identifier(run: &Run<'_>, column: &Column) -> Option<(usize, Kind)> {
    for count in (1..=run.count).rev() {
        let compact = run.compact(count);
        if !(identifiers::LENGTH_MIN..=identifiers::LENGTH_MAX).contains(&compact.len()) {
            continue;
        }
        let may_stand = count == 1 || run.is_isolated(count);
        let topics = column.assumed | run.near(count);
        let has_any = topics & ANY != 0;
        let is_wanted = |topic: Topics, of: &Identifier| {
            has_any || topics & topic != 0 || (may_stand && of.is_by_itself(run.raw(count)))
        };
        let mut passed = identifiers::passed(compact, is_wanted).filter(|_| !run.is_fraction(count));
        let Some(first) = passed.next() else { continue };
        // Checks are alike: the one that a word speaks of comes first.
        let named = [first].into_iter().chain(passed).find(|(topic, _)| topics & topic != 0);
        return Some((count, named.unwrap_or(first).1.kind()));
    }
    None
}
