//! What a search for a data subject has found: places, and gaps, which are what was not searched.
//!
//! Invariant: nothing of a [`Found`] that is serialised names a file; [`Found::for_register`] takes identifiers out of the rest.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::names::Names;
use crate::collection::Keeping;
use crate::shape::TableName;

/// Of one search; what is beyond them is a gap.
pub const PLACES_MAX: usize = 400;
const GAPS_MAX: usize = 400;
/// Of a result in the register, in JSON: tables are named twice in a line, and hashes are in it, too.
const REGISTER_BYTES: usize = kafscale_audit::MAX_LINE_BYTES / 3;
const WHY_CHARS: usize = 500;

/// Rows of the subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// `collection.table`
    pub table: TableName,
    pub kind: String,
    #[serde(skip)]
    pub file: Option<String>,
    /// How many files these are.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub files: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub records: Option<Records>,
    /// The columns that name the subject, each with the label of its identifier.
    pub columns: BTreeMap<String, String>,
    pub rows: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub keeping: Option<Keeping>,
    /// When it is expected to be gone without that, as far as its source says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<String>,
}

/// Of a partition: from the first to the last record of the subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    pub partition: i32,
    pub first: i64,
    pub last: i64,
}

impl Place {
    /// Which part of its table it is.
    pub fn part(&self) -> Option<String> {
        let records = self.records.map(|Records { partition, first, last }| {
            format!("partition {partition}, offsets {first} to {last}")
        });
        records.or_else(|| self.file.clone()).or_else(|| self.files.map(|files| format!("{files} files")))
    }
}

/// What was not searched, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// `collection.table`
    pub table: String,
    pub why: String,
    /// Names, for whoever looks.
    #[serde(skip)]
    pub names: Vec<String>,
}

impl Gap {
    pub fn new(table: impl std::fmt::Display, why: impl std::fmt::Display) -> Gap {
        let why = why.to_string().chars().take(WHY_CHARS).collect();
        Gap { table: table.to_string(), why, names: Vec::new() }
    }

    #[must_use]
    pub fn for_register(self, names: &Names<'_>) -> Gap {
        Gap { table: names.clean(&self.table), why: names.clean(&self.why), names: Vec::new() }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub places: Vec<Place>,
    pub gaps: Vec<Gap>,
    /// Tables that were read whole.
    pub searched: u64,
    /// Tables that the rules say have nothing of such subjects.
    pub excepted: u64,
    /// How many identifiers were looked for, by their labels, as far as they were given or linked just now.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub looked_for: BTreeMap<String, u64>,
}

impl Found {
    pub fn is_complete(&self) -> bool {
        self.gaps.is_empty()
    }

    pub fn in_words(&self) -> String {
        let rows: u64 = self.places.iter().map(|place| place.rows).sum();
        let found = match (self.places.len(), self.is_complete()) {
            (0, true) => "nothing found".to_owned(),
            (0, false) => "nothing found in what was searched".to_owned(),
            (places, _) => format!("{rows} rows in {places} places"),
        };
        let gaps = match self.gaps.len() {
            0 => "complete".to_owned(),
            gaps => format!("INCOMPLETE: {gaps} gaps"),
        };
        let looked_for = self.looked_for.iter().map(|(label, count)| format!("{count} of {label}"));
        let looked_for = looked_for.collect::<Vec<_>>().join(", ");
        let looked_for = if looked_for.is_empty() { looked_for } else { format!(", for {looked_for}") };
        format!(
            "{found}; {} tables searched{looked_for}; {} excepted by the rules; {gaps}",
            self.searched, self.excepted
        )
    }

    pub fn gap(&mut self, gap: Gap) {
        match self.gaps.len() {
            _ if self.gaps.contains(&gap) => {}
            known if known < GAPS_MAX => self.gaps.push(gap),
            GAPS_MAX => self.gaps.push(Gap::new("*", format!("there are more than {GAPS_MAX} gaps"))),
            _ => {}
        }
    }

    /// As the register keeps it: without names of files, without identifiers in other names, and no longer than a line may be. What
    /// has no room is a gap.
    #[must_use]
    pub fn for_register(self, names: &Names<'_>) -> Found {
        let gaps: Vec<Gap> = self.gaps.into_iter().map(|gap| gap.for_register(names)).collect();
        let mut places: Vec<Place> = Vec::new();
        for mut place in self.places {
            place.table = TableName::new(&place.table.collection, names.clean(&place.table.table));
            place.columns =
                place.columns.into_iter().map(|(column, label)| (names.clean(&column), label)).collect();
            let is_same = |known: &&mut Place| known.files.is_some() && known.table == place.table;
            match places.last_mut().filter(is_same) {
                Some(known) if place.file.is_some() => {
                    known.rows += place.rows;
                    known.files = known.files.map(|files| files + 1);
                    known.columns.extend(place.columns);
                }
                _ => {
                    place.files = place.file.take().map(|_| 1);
                    places.push(place);
                }
            }
        }
        let mut found = Found { places, gaps, ..self };
        found.fit(REGISTER_BYTES);
        found
    }

    fn fit(&mut self, bytes: usize) {
        let is_too_long = |found: &Found| serde_json::to_vec(found).map_or(0, |json| json.len()) > bytes;
        let mut left_out = BTreeSet::new();
        while is_too_long(self) && !(self.places.is_empty() && self.gaps.is_empty()) {
            let what = if self.places.len() > self.gaps.len() {
                self.places.truncate(self.places.len() / 2);
                "places"
            } else {
                self.gaps.truncate(self.gaps.len() / 2);
                "gaps"
            };
            left_out.insert(what);
        }
        let why = |what: &str| {
            Gap::new("*", format!("there are more {what} than a line of the register has room for"))
        };
        self.gaps.extend(left_out.into_iter().map(why));
    }
}

#[cfg(test)]
mod tests {
    use super::super::search::Targets;
    use super::*;

    #[test]
    fn what_has_no_room_in_the_register_is_a_gap() {
        let long = |n: usize| format!("{n:0>9}{}", "\u{1}".repeat(300));
        let place = |n: usize| Place {
            table: TableName::new("c", long(n)),
            kind: "sqlite".to_owned(),
            file: None,
            files: None,
            records: None,
            columns: BTreeMap::from([(long(n), "l".to_owned())]),
            rows: 1,
            keeping: None,
            until: None,
        };
        let targets = Targets::new();
        for (places, gaps) in [(400, 0), (0, 400), (400, 400), (1, 1)] {
            let mut found = Found { places: (0..places).map(place).collect(), ..Found::default() };
            (0..gaps).for_each(|n| found.gap(Gap::new(long(n), long(n))));
            let kept = found.for_register(&Names::new(&targets));
            assert!(serde_json::to_vec(&kept).unwrap().len() < REGISTER_BYTES + 1_000);
            let is_whole = kept.places.len() == places && kept.gaps.len() == gaps;
            assert!(is_whole == (places == 1) && (is_whole || !kept.is_complete()), "{places} {gaps}");
        }
    }
}
