//! Words near a number, which say what it is: those of the text, and the name of its column.
//!
//! All words are looked for at once, the first time that a number of a text needs one.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::LazyLock;

use super::identifiers;

/// Bytes before a number, and behind it, in which a word is looked for.
const BEFORE: usize = 48;
const BEHIND: usize = 20;
/// Words that are looked at for one number.
const NEAR_MAX: usize = 64;

const CARDS: [&str; 18] = [
    "card",
    "credit",
    "debit",
    "visa",
    "mastercard",
    "amex",
    "american express",
    "maestro",
    "discover",
    "diners",
    "cc",
    "kreditkarte",
    "karte",
    "carte",
    "tarjeta",
    "carta",
    "kort",
    "cartão",
];
const PHONES: [&str; 24] = [
    "phone",
    "tel",
    "telephone",
    "telefon",
    "téléphone",
    "teléfono",
    "telefono",
    "telefone",
    "telefoon",
    "puhelin",
    "fax",
    "mobile",
    "cellphone",
    "cellular",
    "móvil",
    "movil",
    "celular",
    "celulare",
    "hotline",
    "☎",
    "📞",
    "電話",
    "电话",
    "전화",
];
/// Those of a text alone: a column of calls or cells has numbers of its own.
const CALLS: [&str; 12] = [
    "call", "calls", "called", "calling", "dial", "ring", "mobil", "mob", "cell", "handy", "sms", "whatsapp",
];
const BIRTHS: [&str; 38] = [
    "born",
    "birth",
    "birthday",
    "birthdate",
    "dob",
    "d.o.b",
    "geboren",
    "geb",
    "geburt",
    "geburtstag",
    "né",
    "née",
    "né(e)",
    "naissance",
    "nacido",
    "nacida",
    "nacimiento",
    "nac",
    "nato",
    "nata",
    "nascita",
    "geboorte",
    "född",
    "født",
    "fødsel",
    "syntyn",
    "urodz",
    "nascimento",
    "nascid",
    "doğum",
    "narozen",
    "születés",
    "γέννησ",
    "рожд",
    "родил",
    "生年月日",
    "出生",
    "생년월일",
];

/// Words that say that a number is one of some identifier.
const ANYTHING: [&str; 24] = [
    "national id",
    "national number",
    "national insurance",
    "personal id",
    "personal number",
    "personal code",
    "identity number",
    "identity card",
    "identity document",
    "identification number",
    "id card",
    "citizen",
    "tax id",
    "tax number",
    "tax file",
    "taxpayer",
    "tin",
    "social security",
    "social insurance",
    "personal identification",
    "identifiant national",
    "identidad",
    "identità",
    "身份证",
];

/// A set of what words speak of: identifiers by their places in [`identifiers::ALL`], and these.
pub type Topics = u64;
pub const ANY: Topics = 1 << 63;
pub const CARD: Topics = 1 << 62;
pub const PHONE: Topics = 1 << 61;
pub const BIRTH: Topics = 1 << 60;
pub const CALL: Topics = 1 << 59;

/// A word and what it speaks of.
type Word = (&'static str, Topics);

/// Words by their first letter. Most letters are ASCII's, and need no table of hashes.
struct Index {
    ascii: Vec<Vec<Word>>,
    others: HashMap<char, Vec<Word>>,
}

impl Index {
    fn beginning_with(&self, letter: char) -> &[Word] {
        match letter.is_ascii() {
            true => &self.ascii[letter.to_ascii_lowercase() as usize],
            false => letter
                .to_lowercase()
                .next()
                .and_then(|lower| self.others.get(&lower))
                .map_or(&[], Vec::as_slice),
        }
    }
}

static WORDS: LazyLock<Index> = LazyLock::new(|| {
    let mut words = Index { ascii: vec![Vec::new(); 128], others: HashMap::new() };
    let mut put = |list: &[&'static str], topic: Topics| {
        for word in list {
            let first = word.chars().next().unwrap_or(' ');
            match first.is_ascii() {
                true => words.ascii[first as usize].push((word, topic)),
                false => words.others.entry(first).or_default().push((word, topic)),
            }
        }
    };
    put(&ANYTHING, ANY);
    put(&CARDS, CARD);
    put(&PHONES, PHONE);
    put(&BIRTHS, BIRTH);
    put(&CALLS, CALL);
    for (place, identifier) in identifiers::ALL.iter().enumerate() {
        put(identifier.words, 1 << place);
    }
    words
});

/// A word of a text, and where it is.
#[derive(Debug)]
struct Hit {
    start: usize,
    end: usize,
    topics: Topics,
}

fn hits(text: &str) -> Vec<Hit> {
    let mut hits = Vec::new();
    let mut before = ' ';
    for (start, letter) in text.char_indices() {
        if letter.is_alphabetic() && is_begin(before, letter) || is_of_itself(letter) {
            let found = |(word, topics): &(&str, Topics)| {
                length(&text[start..], word).map(|length| Hit { start, end: start + length, topics: *topics })
            };
            hits.extend(WORDS.beginning_with(letter).iter().filter_map(found));
        }
        before = letter;
    }
    hits
}

/// Whether a word begins with a letter: `aName` and `a_name` have two. Chinese has nothing between words.
fn is_begin(before: char, letter: char) -> bool {
    is_of_itself(letter) || !before.is_alphanumeric() || (before.is_lowercase() && letter.is_uppercase())
}

fn is_of_itself(letter: char) -> bool {
    letter as u32 >= 0x2600
}

/// The length of a word at the beginning of a text. One of up to four letters is a whole word, and others begin one.
fn length(text: &str, word: &str) -> Option<usize> {
    let mut letters = text.char_indices().peekable();
    let mut last = ' ';
    for wanted in word.chars() {
        let is_end_of_name = wanted == ' '
            && last.is_lowercase()
            && letters.peek().is_some_and(|(_, next)| next.is_uppercase());
        if is_end_of_name {
            continue;
        }
        let (_, letter) = letters.next()?;
        let is_same = letter == wanted
            || letter.to_lowercase().eq([wanted])
            || (wanted == ' ' && matches!(letter, '_' | '-'));
        if !is_same {
            return None;
        }
        last = letter;
    }
    let next = letters.peek();
    let is_open = next.is_some_and(|(_, next)| next.is_alphabetic() && !is_begin(last, *next));
    let is_whole = word.chars().nth(4).is_none() && !is_of_itself(last);
    (!is_open || !is_whole).then(|| next.map_or(text.len(), |(at, _)| *at))
}

/// What the words of a text speak of.
pub fn topics(text: &str) -> Topics {
    hits(text).iter().fold(0, |topics, hit| topics | hit.topics)
}

/// The words of a text, and those of its column.
#[derive(Debug)]
pub struct Words<'a> {
    text: &'a str,
    column: Topics,
    hits: OnceCell<Vec<Hit>>,
}

impl<'a> Words<'a> {
    pub fn of(text: &'a str, column: Topics) -> Words<'a> {
        Words { text, column, hits: OnceCell::new() }
    }

    /// Before and behind a number, or of the column.
    pub fn near(&self, start: usize, end: usize) -> Topics {
        let hits = self.hits.get_or_init(|| hits(self.text));
        let first = hits.partition_point(|hit| hit.start + BEFORE < start);
        let near = hits[first..].iter().take_while(|hit| hit.start < end + BEHIND);
        let apart = near.filter(|hit| hit.end <= start || hit.start >= end);
        apart.take(NEAR_MAX).fold(self.column, |topics, hit| topics | hit.topics)
    }

    /// Before a number, with no other number between.
    pub fn right_before(&self, start: usize) -> Topics {
        let hits = self.hits.get_or_init(|| hits(self.text));
        let behind = hits.partition_point(|hit| hit.start < start);
        let near = hits[..behind].iter().rev().take_while(|hit| hit.start + BEFORE >= start);
        let text = self.text.as_bytes();
        let is_right = |hit: &&Hit| hit.end <= start && !text[hit.end..start].iter().any(u8::is_ascii_digit);
        near.take(NEAR_MAX).filter(is_right).fold(0, |topics, hit| topics | hit.topics)
    }

    pub fn of_column(&self) -> Topics {
        self.column
    }
}
