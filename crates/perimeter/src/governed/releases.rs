//! Groups that a principal has been shown the figures of, so that two answers do not tell of the few whom one has and the other
//! has not.
//!
//! Each principal has a lock of its own. A group is compared with those alone that share one of the smallest keys with it
//! ([`Sketch::clues`]), and the comparisons of one answer have an end.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::sketch::Sketch;

/// Of a principal; then it is told to wait for the next day.
const GROUPS_MAX: usize = 4_000;
/// Of what is kept for a principal.
const BYTES_MAX: usize = 64 << 20;
/// Beyond these, those of whom nothing is known of today are forgotten.
const PRINCIPALS_MAX: usize = 1_000;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// Bytes of sketches that are looked at for one answer: a second, about.
const WORK_BYTES_MAX: u64 = 4 << 30;

/// What was shown of one group.
#[derive(Debug, Clone)]
struct Release {
    at_ms: i64,
    /// The same statement asked again is the same figure, whatever came or went meanwhile.
    origin: u64,
    size: u32,
    sketch: Sketch,
}

/// What was shown of the entities of one column, of one kind of figure.
#[derive(Debug, Default)]
struct Domain {
    releases: Vec<Release>,
    /// Places of releases by each of their clues.
    by_clue: HashMap<u64, Vec<u32>>,
}

/// What one principal was shown.
#[derive(Debug, Default)]
struct Shown {
    /// By the table and the column whose values are the entities, and the kind of figure.
    domains: HashMap<Arc<str>, Domain>,
    groups: usize,
    bytes: usize,
    oldest_ms: i64,
    newest_ms: i64,
}

/// What all principals were shown.
#[derive(Debug, Default)]
pub struct Releases {
    of: Mutex<HashMap<String, Arc<Mutex<Shown>>>>,
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

/// What was compared for one answer.
#[derive(Debug, Default)]
pub struct Work {
    bytes: u64,
    /// Sketches that were compared cell by cell.
    compared: u64,
}

impl Work {
    /// False: it is too much.
    fn spend(&mut self, bytes: usize) -> bool {
        self.bytes += bytes as u64;
        self.bytes <= WORK_BYTES_MAX
    }
}

impl Releases {
    fn of(&self, principal: &str, now_ms: i64) -> Arc<Mutex<Shown>> {
        let mut all = self.of.lock();
        if let Some(known) = all.get(principal) {
            return Arc::clone(known);
        }
        if all.len() >= PRINCIPALS_MAX {
            // One that is just in use is of today.
            all.retain(|_, shown| shown.try_lock().is_none_or(|shown| shown.newest_ms > now_ms - DAY_MS));
        }
        Arc::clone(all.entry(principal.to_owned()).or_default())
    }
}

impl Released {
    /// Notes that the group is shown, unless it must not be.
    pub fn ask(&self, candidate: &Candidate, work: &mut Work) -> Verdict {
        let shown = self.all.of(&self.principal, self.now_ms);
        shown.lock().ask(candidate, self.now_ms, work)
    }
}

impl Shown {
    fn ask(&mut self, candidate: &Candidate, now_ms: i64, work: &mut Work) -> Verdict {
        let is_full = self.groups >= GROUPS_MAX || self.bytes + candidate.sketch.bytes() > BYTES_MAX;
        let since_ms = now_ms - DAY_MS;
        if self.newest_ms <= since_ms || (is_full && self.oldest_ms <= since_ms) {
            self.forget(since_ms);
        }
        let domain = self.domains.entry(Arc::clone(&candidate.domain)).or_default();
        match domain.ask(candidate, since_ms, work) {
            Asked::Known => return Verdict::Shown,
            Asked::DiffersLittle => return Verdict::DiffersLittle,
            Asked::TooMuchWork => return Verdict::Full,
            Asked::New => {}
        }
        let bytes = candidate.sketch.bytes();
        if self.groups >= GROUPS_MAX || self.bytes + bytes > BYTES_MAX {
            return Verdict::Full;
        }
        if self.groups == 0 {
            self.oldest_ms = now_ms;
        }
        (self.groups, self.bytes, self.newest_ms) = (self.groups + 1, self.bytes + bytes, now_ms);
        domain.add(Release {
            at_ms: now_ms,
            origin: candidate.origin,
            size: candidate.size,
            sketch: candidate.sketch.clone(),
        });
        Verdict::Shown
    }

    /// Forgets what is older.
    fn forget(&mut self, since_ms: i64) {
        let before = std::mem::take(self);
        for (name, domain) in before.domains {
            let mut kept = Domain::default();
            for release in domain.releases.into_iter().filter(|release| release.at_ms > since_ms) {
                let is_oldest = self.groups == 0 || release.at_ms < self.oldest_ms;
                self.oldest_ms = if is_oldest { release.at_ms } else { self.oldest_ms };
                self.newest_ms = self.newest_ms.max(release.at_ms);
                self.groups += 1;
                self.bytes += release.sketch.bytes();
                kept.add(release);
            }
            if !kept.releases.is_empty() {
                self.domains.insert(name, kept);
            }
        }
    }
}

enum Asked {
    New,
    Known,
    DiffersLittle,
    TooMuchWork,
}

impl Domain {
    fn add(&mut self, release: Release) {
        let place = u32::try_from(self.releases.len()).unwrap_or(u32::MAX);
        for clue in release.sketch.clues(release.size) {
            self.by_clue.entry(*clue).or_default().push(place);
        }
        self.releases.push(release);
    }

    fn ask(&self, candidate: &Candidate, since_ms: i64, work: &mut Work) -> Asked {
        let Candidate { origin, size, sketch, .. } = candidate;
        let mut near = Vec::new();
        for places in sketch.clues(*size).iter().filter_map(|clue| self.by_clue.get(clue)) {
            if !work.spend(places.len() * size_of::<u32>()) {
                return Asked::TooMuchWork;
            }
            near.extend_from_slice(places);
        }
        near.sort_unstable();
        near.dedup();
        let mut is_known = false;
        for place in near {
            let Some(release) = self.releases.get(place as usize).filter(|r| r.at_ms > since_ms) else {
                continue;
            };
            if !work.spend(*size as usize * size_of::<u64>()) {
                return Asked::TooMuchWork;
            }
            if !release.sketch.may_differ_little(sketch, *size) {
                continue;
            }
            if release.origin == *origin {
                is_known |= release.sketch == *sketch;
                continue;
            }
            work.compared += 1;
            if !work.spend(sketch.bytes()) {
                return Asked::TooMuchWork;
            }
            if release.sketch.differs_little(sketch, *size) {
                return Asked::DiffersLittle;
            }
        }
        if is_known { Asked::Known } else { Asked::New }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the guard makes keys: spread over all numbers.
    fn key(n: u64) -> u64 {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let mut hasher = DefaultHasher::new();
        n.hash(&mut hasher);
        hasher.finish()
    }

    fn candidate(origin: u64, keys: impl IntoIterator<Item = u64>) -> Candidate {
        let sketch = Sketch::of(keys.into_iter().map(key), 10);
        Candidate { domain: "t.id".into(), origin, size: 10, sketch }
    }

    fn of_ada() -> Released {
        Released { all: Arc::default(), principal: "ada".to_owned(), now_ms: DAY_MS }
    }

    fn ask(released: &Released, candidate: &Candidate) -> Verdict {
        released.ask(candidate, &mut Work::default())
    }

    #[test]
    fn a_group_that_differs_little_from_one_shown_is_kept_back() {
        let released = of_ada();
        assert_eq!(ask(&released, &candidate(1, 0..100)), Verdict::Shown);
        assert_eq!(ask(&released, &candidate(2, 0..101)), Verdict::DiffersLittle);
        // The same people by another question.
        assert_eq!(ask(&released, &candidate(3, 0..100)), Verdict::Shown);
        // The same question, after somebody came.
        assert_eq!(ask(&released, &candidate(1, 0..100)), Verdict::Shown);
        assert_eq!(ask(&released, &candidate(4, 0..110)), Verdict::Shown);
        let other = Released { principal: "bob".to_owned(), ..released.clone() };
        assert_eq!(ask(&other, &candidate(2, 0..101)), Verdict::Shown);
        let next_day = Released { now_ms: 2 * DAY_MS + 1, ..released };
        assert_eq!(ask(&next_day, &candidate(2, 0..101)), Verdict::Shown);
    }

    #[test]
    fn groups_of_equal_size_are_not_all_compared() {
        // Nobody in common; and half of 200 people each, by chance.
        let apart = |n: u64| (n * 20..n * 20 + 20).collect::<Vec<_>>();
        let half = |n: u64| (0..200).filter(|person| key(n * 1000 + person) % 2 == 0).collect::<Vec<_>>();
        for (people, most) in [(&apart as &dyn Fn(u64) -> Vec<u64>, 0), (&half, 100)] {
            let (released, mut work) = (of_ada(), Work::default());
            let groups: Vec<Candidate> = (0..1_000).map(|n| candidate(n, people(n))).collect();
            for group in &groups {
                assert_eq!(released.ask(group, &mut work), Verdict::Shown);
            }
            assert!(work.compared <= most, "{} of 499,500 pairs", work.compared);
            assert!(work.bytes < WORK_BYTES_MAX / 4, "{} bytes", work.bytes);
        }
    }

    #[test]
    fn what_is_kept_and_what_one_answer_compares_has_an_end() {
        let released = of_ada();
        let verdicts = (0..4_001).map(|n| ask(&released, &candidate(n, n * 20..n * 20 + 20)));
        assert_eq!(verdicts.filter(|verdict| *verdict == Verdict::Full).count(), 1);
        // The next day there is room again.
        let next_day = Released { now_ms: 2 * DAY_MS + 1, ..released.clone() };
        assert_eq!(ask(&next_day, &candidate(5_000, 0..30)), Verdict::Shown);
        let mut spent = Work { bytes: WORK_BYTES_MAX, compared: 0 };
        let next_day = Released { principal: "eve".to_owned(), ..next_day };
        assert_eq!(ask(&next_day, &candidate(1, 0..30)), Verdict::Shown);
        assert_eq!(next_day.ask(&candidate(2, 0..30), &mut spent), Verdict::Full);
    }

    #[test]
    fn principals_do_not_wait_for_each_other_and_are_forgotten() {
        let ada = of_ada();
        assert_eq!(ask(&ada, &candidate(1, 0..100)), Verdict::Shown);
        let held = ada.all.of("ada", DAY_MS);
        let _locked = held.lock();
        let bob = Released { principal: "bob".to_owned(), ..ada.clone() };
        assert_eq!(ask(&bob, &candidate(1, 0..100)), Verdict::Shown);
        for n in 0..3_000 {
            let other =
                Released { principal: format!("p{n}"), now_ms: DAY_MS * (3 + n), all: Arc::clone(&ada.all) };
            assert_eq!(ask(&other, &candidate(1, 0..100)), Verdict::Shown);
        }
        assert!(ada.all.of.lock().len() <= PRINCIPALS_MAX + 1);
    }

    proptest! {
        /// The index finds what a comparison with all would find.
        #[test]
        fn what_differs_little_is_found(
            sets in proptest::collection::vec((0_u64..60, 10_u64..40, 0_u64..4), 2..12),
        ) {
            let released = of_ada();
            let mut shown: Vec<Candidate> = Vec::new();
            for (n, (start, length, gap)) in sets.into_iter().enumerate() {
                let people = (start..start + length).filter(|person| gap == 0 || person % (gap + 7) != 0);
                let group = candidate(n as u64, people);
                let is_little = shown.iter().any(|other| other.sketch.differs_little(&group.sketch, 10));
                let verdict = ask(&released, &group);
                prop_assert_eq!(verdict == Verdict::DiffersLittle, is_little);
                if verdict == Verdict::Shown {
                    shown.push(group);
                }
            }
        }
    }
}
