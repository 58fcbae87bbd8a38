//! What each principal took today, against the limits of its obligations.
//!
//! A request is charged before it is executed, its rows and entities before they leave. Only
//! requests on tables with a budget count. Days are those of UTC.
//!
//! Invariants: two requests at once cannot both take what is left once; what was charged is never
//! given back; memory is bounded, and where it ends nothing leaves.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use super::Limits;

const MAX_PRINCIPALS: usize = 100_000;
/// Entities of all principals that are told apart. Others count each time that they are seen.
const MAX_KNOWN: usize = 1_000_000;
pub const DAY_MS: i64 = 86_400_000;

/// What was taken today.
#[derive(Debug, Default)]
pub struct Budgets {
    today: Mutex<Today>,
}

#[derive(Debug, Default)]
struct Today {
    /// Days since 1970.
    day: i64,
    spent: HashMap<String, Spent>,
    known: usize,
}

#[derive(Debug, Default)]
struct Spent {
    queries: u64,
    rows: u64,
    entities: u64,
    /// Hashes of entities that are in `entities`.
    known: HashSet<u64>,
}

/// A budget that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    #[error("today's {0} queries are used up; the next day begins at 00:00 UTC")]
    Queries(u64),
    #[error(
        "no more than {0} rows leave in a day, and this answer would pass that; the next day begins at 00:00 UTC"
    )]
    Rows(u64),
    #[error(
        "no more than {0} entities leave in a day, and this answer would pass that; the next day begins at 00:00 UTC"
    )]
    Entities(u64),
    #[error("the budgets of today cannot be kept: there are too many principals")]
    Unknown,
}

/// What a request may still take. None: without a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    pub rows: Option<u64>,
    pub entities: Option<u64>,
}

impl Budgets {
    /// The day of a time.
    pub fn day_of(time_ms: i64) -> i64 {
        time_ms.div_euclid(DAY_MS)
    }

    /// Adds what an audit log says was taken, when the program starts. Lines of other days than the
    /// newest count for nothing.
    pub fn restore(&self, principal: &str, day: i64, queries: u64, rows: u64, entities: u64) {
        let mut today = self.today.lock();
        if day < today.day {
            return;
        }
        today.turn_to(day);
        if let Some(spent) = today.of(principal) {
            spent.queries = spent.queries.saturating_add(queries);
            spent.rows = spent.rows.saturating_add(rows);
            spent.entities = spent.entities.saturating_add(entities);
        }
    }

    /// Charges a query, before it is executed.
    pub fn begin(&self, principal: &str, day: i64, limits: &Limits) -> Result<Left, Exhausted> {
        let mut today = self.today.lock();
        today.turn_to(day);
        let spent = today.of(principal).ok_or(Exhausted::Unknown)?;
        if let Some(limit) = limits.queries_per_day.filter(|limit| spent.queries >= *limit) {
            return Err(Exhausted::Queries(limit));
        }
        spent.queries = spent.queries.saturating_add(1);
        if let Some(limit) = limits.rows_per_day.filter(|limit| spent.rows >= *limit) {
            return Err(Exhausted::Rows(limit));
        }
        // Entities that were seen today may be seen again.
        let left = |limit: Option<u64>, spent: u64| limit.map(|limit| limit.saturating_sub(spent));
        Ok(Left {
            rows: left(limits.rows_per_day, spent.rows),
            entities: left(limits.entities_per_day, spent.entities),
        })
    }

    /// Charges what an answer holds, before it leaves: all of it, or nothing, and then it must not
    /// leave. `entities` are hashes of its entities, with a key that is the same while the program
    /// runs.
    pub fn settle(
        &self,
        principal: &str,
        day: i64,
        limits: &Limits,
        rows: u64,
        entities: &HashSet<u64>,
    ) -> Result<(), Exhausted> {
        let mut today = self.today.lock();
        today.turn_to(day);
        let room = MAX_KNOWN.saturating_sub(today.known);
        let spent = today.of(principal).ok_or(Exhausted::Unknown)?;
        let new: Vec<u64> = entities.difference(&spent.known).copied().collect();
        let all_rows = spent.rows.saturating_add(rows);
        let all_entities = spent.entities.saturating_add(new.len() as u64);
        if let Some(limit) = limits.rows_per_day.filter(|limit| all_rows > *limit) {
            return Err(Exhausted::Rows(limit));
        }
        if let Some(limit) = limits.entities_per_day.filter(|limit| all_entities > *limit) {
            return Err(Exhausted::Entities(limit));
        }
        (spent.rows, spent.entities) = (all_rows, all_entities);
        let kept = new.len().min(room);
        spent.known.extend(&new[..kept]);
        today.known += kept;
        Ok(())
    }

    /// Queries, rows and entities of a principal, for `my_activity`.
    pub fn spent(&self, principal: &str, day: i64) -> (u64, u64, u64) {
        let today = self.today.lock();
        let spent = today.spent.get(principal).filter(|_| day == today.day);
        spent.map_or((0, 0, 0), |spent| (spent.queries, spent.rows, spent.entities))
    }
}

impl Today {
    /// A clock that was set back opens no day again.
    fn turn_to(&mut self, day: i64) {
        if day > self.day {
            *self = Today { day, ..Today::default() };
        }
    }

    fn of(&mut self, principal: &str) -> Option<&mut Spent> {
        if self.spent.len() >= MAX_PRINCIPALS && !self.spent.contains_key(principal) {
            return None;
        }
        Some(self.spent.entry(principal.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { queries_per_day: Some(3), rows_per_day: Some(10), entities_per_day: Some(4) }
    }

    fn settle(budgets: &Budgets, day: i64, rows: u64, entities: &[u64]) -> Result<(), Exhausted> {
        budgets.settle("alice", day, &limits(), rows, &entities.iter().copied().collect())
    }

    #[test]
    fn each_day_has_its_budget() {
        let budgets = Budgets::default();
        let begin = |day| budgets.begin("alice", day, &limits());
        assert_eq!(begin(1), Ok(Left { rows: Some(10), entities: Some(4) }));
        assert_eq!(settle(&budgets, 1, 6, &[1, 2, 3]), Ok(()));
        assert_eq!(begin(1), Ok(Left { rows: Some(4), entities: Some(1) }));
        // Who was seen before counts no more.
        assert_eq!(settle(&budgets, 1, 1, &[1, 2, 4]), Ok(()));
        assert_eq!(settle(&budgets, 1, 1, &[1, 5]), Err(Exhausted::Entities(4)));
        assert_eq!(settle(&budgets, 1, 4, &[1]), Err(Exhausted::Rows(10)));
        // What was refused is not charged.
        assert_eq!(budgets.spent("alice", 1), (2, 7, 4));
        assert!(begin(1).is_ok());
        assert_eq!(begin(1), Err(Exhausted::Queries(3)));
        assert!(budgets.begin("bob", 1, &limits()).is_ok());
        assert!(begin(2).is_ok());
        // A clock that is set back.
        assert!(begin(1).is_ok());
        assert!(begin(1).is_ok());
        assert_eq!(begin(1), Err(Exhausted::Queries(3)));
    }

    #[test]
    fn a_restart_forgets_nothing() {
        let budgets = Budgets::default();
        for (day, queries) in [(4, 1), (5, 1), (5, 1), (4, 1)] {
            budgets.restore("alice", day, queries, 5, 2);
        }
        assert_eq!(budgets.spent("alice", 5), (2, 10, 4));
        assert_eq!(budgets.begin("alice", 5, &limits()), Err(Exhausted::Rows(10)));
        assert_eq!(budgets.begin("alice", 5, &limits()), Err(Exhausted::Queries(3)));
    }

    #[test]
    fn those_who_come_at_once_share_what_is_left() {
        let budgets = Budgets::default();
        let taken: u64 = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..8)
                .map(|taker| {
                    let budgets = &budgets;
                    scope.spawn(move || {
                        (0..10).filter(|n| settle(budgets, 1, 1, &[taker * 10 + n]).is_ok()).count()
                    })
                })
                .collect();
            takers.into_iter().map(|taker| taker.join().unwrap() as u64).sum()
        });
        assert_eq!(taken, 4);
    }
}
