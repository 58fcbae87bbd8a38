//! Groups that a principal has been shown the figures of, so that two answers do not tell of the few whom one has and the other
//! has not.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::sketch::Sketch;

/// Of a principal; then it is told to wait for the next day.
const GROUPS_MAX: usize = 4_000;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// What was shown of one group.
#[derive(Debug, Clone)]
struct Release {
    at_ms: i64,
    /// The table and the column whose values are the entities.
    domain: Arc<str>,
    /// The same statement asked again is the same figure, whatever came or went meanwhile.
    origin: u64,
    sketch: Sketch,
}

/// What all principals were shown.
#[derive(Debug, Default)]
pub struct Releases {
    of: Mutex<HashMap<String, Vec<Release>>>,
}

/// Releases of one principal, for one statement.
#[derive(Debug, Clone)]
pub struct Released {
    pub all: Arc<Releases>,
    pub principal: String,
    pub now_ms: i64,
}

/// A group that is about to be shown.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub domain: Arc<str>,
    /// Of the statement, the group's values and the figure.
    pub origin: u64,
    pub size: u32,
    pub sketch: Sketch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Shown,
    /// Together with what was shown before it would tell of few.
    DiffersLittle,
    /// So much was shown today that nothing more can be compared with it.
    Full,
}

impl Released {
    /// Notes that the group is shown, unless it must not be.
    pub fn ask(&self, candidate: &Candidate) -> Verdict {
        let mut all = self.all.of.lock();
        let shown = all.entry(self.principal.clone()).or_default();
        shown.retain(|release| release.at_ms > self.now_ms - DAY_MS);
        let same_domain = || shown.iter().filter(|release| release.domain == candidate.domain);
        let is_little = same_domain()
            .filter(|release| release.origin != candidate.origin)
            .any(|release| release.sketch.differs_little(&candidate.sketch, candidate.size));
        if is_little {
            return Verdict::DiffersLittle;
        }
        let is_known = same_domain().any(|r| r.origin == candidate.origin && r.sketch == candidate.sketch);
        if is_known {
            return Verdict::Shown;
        }
        if shown.len() >= GROUPS_MAX {
            return Verdict::Full;
        }
        shown.push(Release {
            at_ms: self.now_ms,
            domain: Arc::clone(&candidate.domain),
            origin: candidate.origin,
            sketch: candidate.sketch.clone(),
        });
        Verdict::Shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(origin: u64, keys: std::ops::Range<u64>) -> Candidate {
        Candidate { domain: "t.id".into(), origin, size: 10, sketch: Sketch::of(keys, 10) }
    }

    #[test]
    fn a_group_that_differs_little_from_one_shown_is_kept_back() {
        let released = Released { all: Arc::default(), principal: "ada".to_owned(), now_ms: DAY_MS };
        assert_eq!(released.ask(&candidate(1, 0..100)), Verdict::Shown);
        assert_eq!(released.ask(&candidate(2, 0..101)), Verdict::DiffersLittle);
        // The same people by another question.
        assert_eq!(released.ask(&candidate(3, 0..100)), Verdict::Shown);
        // The same question, after somebody came.
        assert_eq!(released.ask(&candidate(1, 0..100)), Verdict::Shown);
        assert_eq!(released.ask(&candidate(4, 0..110)), Verdict::Shown);
        let other = Released { principal: "bob".to_owned(), ..released.clone() };
        assert_eq!(other.ask(&candidate(2, 0..101)), Verdict::Shown);
        let next_day = Released { now_ms: 2 * DAY_MS + 1, ..released };
        assert_eq!(next_day.ask(&candidate(2, 0..101)), Verdict::Shown);
    }
}
