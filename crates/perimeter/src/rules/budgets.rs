//! What each principal took today, against the limits of its obligations.
//!
//! A request is charged before it is executed, its rows and entities before they leave. Refusals are counted. Only
//! requests on tables with a budget count. Days are those of UTC.
//!
//! Invariants: two requests at once cannot both take what is left once; what was charged is given
//! back only where the answer did not leave; memory is bounded, and where it ends nothing leaves; entities that leave are in the
//! ledger before.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Limits;
use super::ledger::{Ledger, LedgerError};
use crate::governed::cover::{EntityKey, KEY_BYTES};

const MAX_PRINCIPALS: usize = 100_000;
/// Of a principal and a day. That an answer is refused, or fails, tells of rows that nobody pays for.
pub const REFUSALS_MAX: u64 = 16;
/// Entities of all principals that are told apart. Beyond these, nothing leaves that is counted.
const MAX_KNOWN: usize = 1_000_000;
pub const DAY_MS: i64 = 86_400_000;

/// What was taken today.
#[derive(Debug)]
pub struct Budgets {
    today: Mutex<Today>,
    /// None: entities are forgotten with the process. It is locked before the day is.
    ledger: Mutex<Option<Ledger>>,
}

impl Default for Budgets {
    fn default() -> Self {
        let (spent, known) = Default::default();
        let today = Today { day: 0, secret: new_secret(), spent, known };
        Budgets { today: Mutex::new(today), ledger: Mutex::default() }
    }
}

struct Today {
    /// Days since 1970.
    day: i64,
    /// What entities are hashed with. It ends with the day.
    secret: [u8; KEY_BYTES],
    spent: HashMap<String, Spent>,
    known: usize,
}

impl std::fmt::Debug for Today {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Today({}, {} principals, {} entities)", self.day, self.spent.len(), self.known)
    }
}

#[derive(Debug, Default)]
struct Spent {
    queries: u64,
    rows: u64,
    refusals: u64,
    /// Entities that an audit log counts, and no ledger knows any more.
    lost: u64,
    /// Hashes of entities.
    known: HashSet<u64>,
}

impl Spent {
    fn entities(&self) -> u64 {
        self.lost.saturating_add(self.known.len() as u64)
    }
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
        "no more than {0} different entities leave in a day, and this answer would pass that: nothing of it was released; \
         ask for fewer, or for those that you had today; the next day begins at 00:00 UTC"
    )]
    Entities(u64),
    #[error(
        "{REFUSALS_MAX} answers were refused today, or failed, that would have been charged in rows or different entities; \
         the next day begins at 00:00 UTC"
    )]
    Refusals,
    #[error("the budgets of today cannot be kept: there are too many principals or entities")]
    Unknown,
    #[error("the budgets of today cannot be kept: tell the operator of this server")]
    Unkept,
}

/// What was charged for one request, as the audit log has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Charged {
    pub day: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub queries: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub rows: u64,
    /// Those that the principal had not had that day.
    #[serde(skip_serializing_if = "is_zero")]
    pub entities: u64,
    /// Answers that did not leave.
    #[serde(skip_serializing_if = "is_zero")]
    pub refusals: u64,
}

/// The key of a line's `details` that holds it.
pub const CHARGED: &str = "charged";

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn new_secret() -> [u8; KEY_BYTES] {
    EntityKey::random().expect("the system has randomness, as TLS needs it")
}

impl Budgets {
    /// The day of a time.
    pub fn day_of(time_ms: i64) -> i64 {
        time_ms.div_euclid(DAY_MS)
    }

    /// What entities are hashed with on a day.
    pub fn entity_key(&self, day: i64) -> EntityKey {
        let mut today = self.today.lock();
        today.turn_to(day);
        EntityKey::of(&today.secret)
    }

    /// Goes on with a day when the program starts: with what its audit log says was charged, by
    /// principal, and with the entities of its ledger.
    pub fn restore(
        &self,
        day: i64,
        charged: HashMap<String, Charged>,
        mut ledger: Ledger,
    ) -> Result<(), LedgerError> {
        let kept = ledger.load(day)?;
        *self.ledger.lock() = Some(ledger);
        let mut today = self.today.lock();
        today.turn_to(day);
        if let Some(kept) = kept {
            today.secret = kept.secret;
            for (principal, hashes) in kept.entities {
                today.known += hashes.len();
                today.spent.entry(principal).or_default().known.extend(hashes);
            }
        }
        for (principal, charged) in charged {
            let spent = today.spent.entry(principal).or_default();
            spent.queries = spent.queries.saturating_add(charged.queries);
            spent.rows = spent.rows.saturating_add(charged.rows);
            spent.refusals = spent.refusals.saturating_add(charged.refusals);
            // Of a ledger that is gone nobody knows who they were: they count, and those who come again count anew.
            spent.lost = charged.entities.saturating_sub(spent.known.len() as u64);
        }
        Ok(())
    }

    /// Charges a query, before it is executed: it is charged, or refused.
    pub fn begin(&self, principal: &str, day: i64, limits: &Limits) -> Result<Charged, Exhausted> {
        let mut today = self.today.lock();
        today.turn_to(day);
        let day = today.day;
        let spent = today.of(principal).ok_or(Exhausted::Unknown)?;
        if let Some(limit) = limits.queries_per_day.filter(|limit| spent.queries >= *limit) {
            return Err(Exhausted::Queries(limit));
        }
        if let Some(limit) = limits.rows_per_day.filter(|limit| spent.rows >= *limit) {
            return Err(Exhausted::Rows(limit));
        }
        if spent.refusals >= REFUSALS_MAX && limits.is_of_answers() {
            return Err(Exhausted::Refusals);
        }
        // Entities that were seen today may be seen again.
        spent.queries = spent.queries.saturating_add(1);
        Ok(Charged { day, queries: 1, ..Charged::default() })
    }

    /// Notes that an answer was refused, or failed, which tells something of its rows.
    pub fn refuse(&self, principal: &str, day: i64) -> Charged {
        let mut today = self.today.lock();
        today.turn_to(day);
        let day = today.day;
        // A principal that there is no place for has no answers either.
        if let Some(spent) = today.of(principal) {
            spent.refusals = spent.refusals.saturating_add(1);
        }
        Charged { day, refusals: 1, ..Charged::default() }
    }

    /// Charges what an answer holds, before it leaves: all of it, or nothing, and then it must not
    /// leave. `entities` are hashes of its entities, with the key of [`Budgets::entity_key`]. It waits
    /// for the disk where there are any, and nothing else waits for it meanwhile but others with some.
    pub fn settle(
        &self,
        principal: &str,
        day: i64,
        limits: &Limits,
        rows: u64,
        entities: &HashSet<u64>,
    ) -> Result<Charged, Exhausted> {
        let mut ledger = (!entities.is_empty()).then(|| self.ledger.lock());
        let (charged, new, secret) = self.today.lock().reserve(principal, day, limits, rows, entities)?;
        if let Some(ledger) = ledger.as_mut().and_then(|ledger| ledger.as_mut()).filter(|_| !new.is_empty()) {
            ledger.append(charged.day, &secret, principal, &new).map_err(|error| {
                tracing::error!(%error, "entities that an answer covers cannot be kept, and it is refused");
                self.today.lock().release(principal, charged, &new);
                Exhausted::Unkept
            })?;
        }
        Ok(charged)
    }

    /// Queries, rows and entities of a principal, of a day.
    pub fn spent(&self, principal: &str, day: i64) -> (u64, u64, u64) {
        let today = self.today.lock();
        let spent = today.spent.get(principal).filter(|_| day == today.day);
        spent.map_or((0, 0, 0), |spent| (spent.queries, spent.rows, spent.entities()))
    }
}

impl Today {
    /// A clock that was set back opens no day again.
    fn turn_to(&mut self, day: i64) {
        if day > self.day {
            let (spent, known) = Default::default();
            *self = Today { day, secret: new_secret(), spent, known };
        }
    }

    /// None: there are too many others.
    fn of(&mut self, principal: &str) -> Option<&mut Spent> {
        if self.spent.len() >= MAX_PRINCIPALS && !self.spent.contains_key(principal) {
            return None;
        }
        Some(self.spent.entry(principal.to_owned()).or_default())
    }

    /// Charges an answer in memory. Gives the entities that are new, and what they are hashed with.
    fn reserve(
        &mut self,
        principal: &str,
        day: i64,
        limits: &Limits,
        rows: u64,
        entities: &HashSet<u64>,
    ) -> Result<(Charged, Vec<u64>, [u8; KEY_BYTES]), Exhausted> {
        self.turn_to(day);
        let known = self.known;
        let spent = self.of(principal).ok_or(Exhausted::Unknown)?;
        let new: Vec<u64> = entities.difference(&spent.known).copied().collect();
        let all_rows = spent.rows.saturating_add(rows);
        if let Some(limit) = limits.rows_per_day.filter(|limit| all_rows > *limit) {
            return Err(Exhausted::Rows(limit));
        }
        let all_entities = spent.entities().saturating_add(new.len() as u64);
        if let Some(limit) = limits.entities_per_day.filter(|limit| all_entities > *limit) {
            return Err(Exhausted::Entities(limit));
        }
        if known + new.len() > MAX_KNOWN {
            return Err(Exhausted::Unknown);
        }
        spent.rows = all_rows;
        spent.known.extend(&new);
        self.known += new.len();
        let charged = Charged { day: self.day, rows, entities: new.len() as u64, ..Charged::default() };
        Ok((charged, new, self.secret))
    }

    /// Takes back what was charged for an answer that does not leave.
    fn release(&mut self, principal: &str, charged: Charged, new: &[u64]) {
        if let Some(spent) = self.spent.get_mut(principal).filter(|_| self.day == charged.day) {
            spent.rows = spent.rows.saturating_sub(charged.rows);
            new.iter().for_each(|hash| {
                spent.known.remove(hash);
            });
            self.known = self.known.saturating_sub(new.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { queries_per_day: Some(3), rows_per_day: Some(10), entities_per_day: Some(4) }
    }

    fn settle(budgets: &Budgets, day: i64, rows: u64, entities: &[u64]) -> Result<Charged, Exhausted> {
        budgets.settle("alice", day, &limits(), rows, &entities.iter().copied().collect())
    }

    #[test]
    fn each_day_has_its_budget() {
        let budgets = Budgets::default();
        let begin = |day| budgets.begin("alice", day, &limits());
        assert_eq!(begin(1), Ok(Charged { day: 1, queries: 1, ..Charged::default() }));
        let charged = Charged { day: 1, rows: 6, entities: 3, ..Charged::default() };
        assert_eq!(settle(&budgets, 1, 6, &[1, 2, 3]), Ok(charged));
        // Who was seen before counts no more.
        assert_eq!(settle(&budgets, 1, 1, &[1, 2, 4]).map(|charged| charged.entities), Ok(1));
        assert_eq!(settle(&budgets, 1, 1, &[1, 5]), Err(Exhausted::Entities(4)));
        assert_eq!(settle(&budgets, 1, 4, &[1]), Err(Exhausted::Rows(10)));
        // What was refused is not charged in them.
        assert_eq!(budgets.spent("alice", 1), (1, 7, 4));
        assert!(begin(1).is_ok() && begin(1).is_ok());
        assert_eq!(begin(1), Err(Exhausted::Queries(3)));
        assert!(budgets.begin("bob", 1, &limits()).is_ok());
        assert!(begin(2).is_ok());
        // A clock that is set back.
        assert!(begin(1).is_ok());
        assert!(begin(1).is_ok());
        assert_eq!(begin(1), Err(Exhausted::Queries(3)));
    }

    #[test]
    fn refusals_of_a_day_have_an_end() {
        let budgets = Budgets::default();
        for _ in 0..REFUSALS_MAX {
            assert!(budgets.begin("alice", 1, &of_answers()).is_ok());
            assert_eq!(budgets.refuse("alice", 1).refusals, 1);
        }
        assert_eq!(budgets.begin("alice", 1, &of_answers()), Err(Exhausted::Refusals));
        assert!(
            budgets.begin("bob", 1, &of_answers()).is_ok()
                && budgets.begin("alice", 2, &of_answers()).is_ok()
        );
        // Where queries alone are counted, an answer is not refused for what it has.
        let of_queries = Limits { queries_per_day: Some(99), ..Limits::default() };
        assert!(budgets.begin("alice", 1, &of_queries).is_ok());
        // A restart forgets none.
        let again = Budgets::default();
        let charged = Charged { day: 1, refusals: REFUSALS_MAX, ..Charged::default() };
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(dir.path().join("entities"));
        again.restore(1, HashMap::from([("alice".to_owned(), charged)]), ledger).unwrap();
        assert_eq!(again.begin("alice", 1, &of_answers()), Err(Exhausted::Refusals));
    }

    fn of_answers() -> Limits {
        Limits { queries_per_day: None, ..limits() }
    }

    #[test]
    fn a_restart_forgets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = || Ledger::new(dir.path().join("entities"));
        let budgets = Budgets::default();
        budgets.restore(5, HashMap::new(), ledger()).unwrap();
        let key = budgets.entity_key(5);
        settle(&budgets, 5, 3, &[1, 2]).unwrap();
        settle(&budgets, 5, 2, &[2, 3]).unwrap();
        drop(budgets);
        let of_log = Charged { day: 5, queries: 2, rows: 5, entities: 3, refusals: 0 };
        let again = Budgets::default();
        again.restore(5, HashMap::from([("alice".to_owned(), of_log)]), ledger()).unwrap();
        assert_eq!(again.spent("alice", 5), (2, 5, 3));
        assert!(key.is(&again.entity_key(5)), "the same entities have other hashes");
        assert_eq!(settle(&again, 5, 1, &[1, 2, 3]).map(|charged| charged.entities), Ok(0));
        assert_eq!(settle(&again, 5, 1, &[4, 5]), Err(Exhausted::Entities(4)));
        // Without the ledger they count, although nobody knows who they were.
        std::fs::remove_file(dir.path().join("entities")).unwrap();
        let without = Budgets::default();
        without.restore(5, HashMap::from([("alice".to_owned(), of_log)]), ledger()).unwrap();
        assert_eq!(settle(&without, 5, 1, &[1, 2]), Err(Exhausted::Entities(4)));
        assert_eq!(settle(&without, 5, 1, &[1]).map(|charged| charged.entities), Ok(1));
        // The next day has another key, and nobody in it.
        let next = Budgets::default();
        next.restore(6, HashMap::new(), ledger()).unwrap();
        assert_eq!(next.spent("alice", 6), (0, 0, 0));
        assert!(!key.is(&next.entity_key(6)));
    }

    #[test]
    fn what_cannot_be_kept_does_not_leave() {
        let dir = tempfile::tempdir().unwrap();
        let budgets = Budgets::default();
        budgets.restore(5, HashMap::new(), Ledger::new(dir.path().join("gone/entities"))).unwrap();
        assert_eq!(settle(&budgets, 5, 1, &[1]), Err(Exhausted::Unkept));
        assert_eq!(budgets.spent("alice", 5), (0, 0, 0));
        assert!(settle(&budgets, 5, 1, &[]).is_ok());
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
