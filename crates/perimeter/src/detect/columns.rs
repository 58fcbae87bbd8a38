//! What a column tells of its values: its name, and what all of them have in common. A number that passes a check by chance one time
//! in ten is an identifier where every value of its column passes.

use std::collections::{BTreeMap, BTreeSet};

use super::identifiers::{self, Identifier};
use super::words::{ANY, Topics, topics};

/// Different values that are looked at, and the fewest.
pub const SAMPLE: usize = 64;
const LEAST: usize = 10;
/// Of them, in percent, that have to pass.
const MOST_PERCENT: usize = 95;
/// Of the longest value with its separators.
const LENGTH: usize = 26;

/// A column of texts, or of none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Column {
    /// What the words of its name speak of.
    pub topics: Topics,
    /// Identifiers that need no word.
    pub assumed: Topics,
}

impl Column {
    pub fn of<'a>(name: &str, values: impl Iterator<Item = &'a str>) -> Column {
        let mut seen = BTreeSet::new();
        let mut counts: BTreeMap<Topics, usize> = BTreeMap::new();
        // Columns of a few values, such as a status, are not read to their end.
        for value in values.take(SAMPLE * 4) {
            let value = value.trim();
            if value.is_empty() || seen.len() == SAMPLE || !seen.insert(value) {
                continue;
            }
            for (topic, _) in identifiers(value).into_iter().filter(|(_, of)| of.is_told_by_columns()) {
                *counts.entry(topic).or_default() += 1;
            }
        }
        let is_of_most = |count: usize| seen.len() >= LEAST && count * 100 >= seen.len() * MOST_PERCENT;
        let assumed = counts.into_iter().filter(|(_, count)| is_of_most(*count));
        Column { topics: topics(name), assumed: assumed.fold(0, |all, (topic, _)| all | topic) }
    }

    /// The identifier that a whole value is.
    pub fn identifier(&self, value: &str) -> Option<&'static Identifier> {
        if self.assumed | self.topics == 0 {
            return None;
        }
        let is_it = |topic: Topics| self.assumed & topic != 0 || self.topics & (topic | ANY) != 0;
        identifiers(value).into_iter().find(|(topic, _)| is_it(*topic)).map(|(_, of)| of)
    }
}

/// Identifiers whose check a whole text passes, and their topics.
pub fn identifiers(text: &str) -> Vec<(Topics, &'static Identifier)> {
    if text.len() > LENGTH || !text.bytes().any(|byte| byte.is_ascii_digit()) {
        return Vec::new();
    }
    let letters = text.bytes().filter(|byte| !b" -./".contains(byte));
    let compact: Vec<u8> = letters.map(|byte| byte.to_ascii_uppercase()).collect();
    identifiers::passed(&compact, |_, _| true).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Filtered, filtered};
    use super::*;

    /// Numbers that pass the check of the BSN, or the first of them.
    fn numbers(count: usize) -> Vec<String> {
        let numbers = (100_000_000..200_000_000).map(|number| number.to_string());
        let is_bsn = |number: &String| identifiers(number).iter().any(|(_, of)| of.name == "NL BSN");
        numbers.step_by(7).filter(is_bsn).take(count).collect()
    }

    fn taken_out(name: &str, values: &[String]) -> usize {
        let column = Column::of(name, values.iter().map(String::as_str));
        values.iter().filter(|value| filtered(value, &column, &mut Filtered::default()).is_some()).count()
    }

    #[test]
    fn a_column_is_of_identifiers_by_its_name_or_its_values() {
        assert_eq!(taken_out("klant_bsn", &numbers(3)), 3);
        assert_eq!(taken_out("bsnNummer", &numbers(3)), 3);
        assert_eq!(taken_out("x", &numbers(30)), 30);
        // One in eleven of all numbers passes.
        assert_eq!(taken_out("x", &numbers(3)), 0);
        let orders: Vec<String> = (100_000_000..100_000_300).map(|number| number.to_string()).collect();
        assert_eq!(taken_out("order", &orders), 0);
        assert_eq!(taken_out("x", &vec![numbers(1)[0].clone(); 100]), 0);
    }
}
