//! The sums of a report: by principal, purpose and tables.

use std::collections::BTreeMap;

use serde::Serialize;

use super::access::{Access, Came, Mention};

/// Callers choose their purposes; what is beyond this is one sum.
const GROUPS_MAX: usize = 2_000;
const REST: &str = "all others";

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Group {
    pub principal: String,
    pub purpose: String,
    pub tables: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub answered: u64,
    pub rows_left: u64,
    pub refused: u64,
    pub failed: u64,
    pub unanswered: u64,
}

impl Counts {
    fn add(&mut self, access: &Access) {
        match access.came {
            Came::Answered | Came::AnsweredInPart => {
                self.answered += 1;
                self.rows_left += access.rows_left.unwrap_or_default();
            }
            Came::Refused => self.refused += 1,
            Came::Failed => self.failed += 1,
            Came::Unanswered => self.unanswered += 1,
        }
    }
}

#[derive(Debug, Default)]
pub struct Sums {
    pub groups: BTreeMap<Group, Counts>,
    pub all: Counts,
    /// Answers that do not name the subject and may hold it.
    pub possible: u64,
    /// Refusals of which the log says only how many there were.
    pub refusals_left_out: u64,
    /// What the log says of itself: that it is a new chain.
    pub notes: Vec<String>,
}

impl Sums {
    pub fn add(&mut self, access: &Access) {
        self.possible += u64::from(access.subject == Some(Mention::Possible));
        self.all.add(access);
        let group = Group {
            principal: access.principal.clone(),
            purpose: access.purpose.clone(),
            tables: access.tables_in_words(),
        };
        let is_known = self.groups.contains_key(&group) || self.groups.len() < GROUPS_MAX;
        let rest = || Group { principal: REST.to_owned(), purpose: String::new(), tables: String::new() };
        self.groups.entry(if is_known { group } else { rest() }).or_default().add(access);
    }
}
