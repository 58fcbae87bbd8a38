//! Sets of rows that a principal has been shown figures of, so that answers do not tell of the few whom one has and the others have
//! not.
//!
//! What counts is the set of rows, whichever figure it belongs to and however the statement chose it. A set is shown unless it, one
//! that was shown before, and perhaps a third, make a difference that is of a few entities ([`Sketch::without`]).
//!
//! Each principal has a lock of its own, and the comparisons of one answer have an end.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use super::sketch::{Extent, Sketch, subtract};

/// Of a principal; then it is told to wait for the next day.
const SETS_MAX: usize = 4_000;
/// Of what is kept for a principal.
const BYTES_MAX: usize = 64 << 20;
/// Beyond these, those of whom nothing is known of today are forgotten.
const PRINCIPALS_MAX: usize = 1_000;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// Of a principal. That a statement failed may tell of a row, once.
pub const FAILURES_MAX: usize = 20;
/// Bytes of sketches that are looked at for one answer: a second, about.
const WORK_BYTES_MAX: u64 = 4 << 30;
/// What it costs to look for a value among all sets.
const LOOK_BYTES: usize = 64;

/// A set that was asked for.
#[derive(Debug, Clone)]
struct Release {
    at_ms: i64,
    /// The same statement asked again is the same figure, whatever came or went meanwhile.
    origin: u64,
    sketch: Sketch,
    /// False: it was too small. That is an answer too.
    shown: bool,
}

/// Sets of rows of one table.
#[derive(Debug, Default)]
struct Domain {
    releases: Vec<Release>,
    /// Values of cells that are not zero, and the places of the releases that have them.
    by_value: BTreeSet<(u64, u32)>,
}

/// What one principal was shown.
#[derive(Debug, Default)]
struct Shown {
    /// By the table and the column whose values are the entities.
    domains: HashMap<Arc<str>, Domain>,
    sets: usize,
    bytes: usize,
    oldest_ms: i64,
    newest_ms: i64,
    /// When statements over rows that are shown in groups only failed.
    failed_ms: Vec<i64>,
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

/// A set that is about to be shown.
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
    /// By itself, or together with what was shown before, it would tell of few.
    TellsOfFew,
    /// So much was shown today that nothing more can be compared with it.
    Full,
}

/// What was compared for one answer.
#[derive(Debug, Default)]
pub struct Work {
    bytes: u64,
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
    /// Notes that a statement over rows that are shown in groups only failed.
    pub fn fail(&self) {
        let shown = self.all.of(&self.principal, self.now_ms);
        let mut shown = shown.lock();
        shown.newest_ms = shown.newest_ms.max(self.now_ms);
        shown.failed_ms.push(self.now_ms);
    }

    /// Whether so many failed within a day that another one must not.
    pub fn has_failed_often(&self) -> bool {
        let shown = self.all.of(&self.principal, self.now_ms);
        let mut shown = shown.lock();
        shown.failed_ms.retain(|failed_ms| *failed_ms > self.now_ms - DAY_MS);
        shown.failed_ms.len() >= FAILURES_MAX
    }

    /// Notes that the group is shown, unless it must not be.
    pub fn ask(&self, candidate: &Candidate, work: &mut Work) -> Verdict {
        let shown = self.all.of(&self.principal, self.now_ms);
        shown.lock().ask(candidate, self.now_ms, work)
    }
}

impl Shown {
    fn ask(&mut self, candidate: &Candidate, now_ms: i64, work: &mut Work) -> Verdict {
        let is_full = self.is_full(candidate);
        let since_ms = now_ms - DAY_MS;
        if self.newest_ms <= since_ms || (is_full && self.oldest_ms <= since_ms) {
            self.forget(since_ms);
        }
        let is_small = candidate.sketch.entities < u64::from(candidate.size);
        // Far from the least size, that a set is too small tells nothing that is worth a place.
        if is_small && candidate.sketch.entities * 2 < u64::from(candidate.size) {
            return Verdict::TellsOfFew;
        }
        let domain = self.domains.entry(Arc::clone(&candidate.domain)).or_default();
        let (asked, verdict) = match is_small {
            true => (domain.asked_small(candidate, since_ms), Verdict::TellsOfFew),
            false => (domain.ask(candidate, since_ms, work), Verdict::Shown),
        };
        match asked {
            Asked::Known => return verdict,
            Asked::TellsOfFew => return Verdict::TellsOfFew,
            Asked::TooMuchWork => return Verdict::Full,
            Asked::New => {}
        }
        if self.is_full(candidate) {
            return Verdict::Full;
        }
        if self.sets == 0 {
            self.oldest_ms = now_ms;
        }
        let bytes = candidate.sketch.bytes();
        (self.sets, self.bytes, self.newest_ms) = (self.sets + 1, self.bytes + bytes, now_ms);
        let domain = self.domains.entry(Arc::clone(&candidate.domain)).or_default();
        domain.add(Release {
            at_ms: now_ms,
            origin: candidate.origin,
            sketch: candidate.sketch.clone(),
            shown: !is_small,
        });
        verdict
    }

    fn is_full(&self, candidate: &Candidate) -> bool {
        self.sets >= SETS_MAX || self.bytes + candidate.sketch.bytes() > BYTES_MAX
    }

    /// Forgets what is older.
    fn forget(&mut self, since_ms: i64) {
        let before = std::mem::take(self);
        self.failed_ms = before.failed_ms;
        for (name, domain) in before.domains {
            let mut kept = Domain::default();
            for release in domain.releases.into_iter().filter(|release| release.at_ms > since_ms) {
                let is_oldest = self.sets == 0 || release.at_ms < self.oldest_ms;
                self.oldest_ms = if is_oldest { release.at_ms } else { self.oldest_ms };
                self.newest_ms = self.newest_ms.max(release.at_ms);
                self.sets += 1;
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
    TellsOfFew,
    TooMuchWork,
}

impl Domain {
    fn add(&mut self, release: Release) {
        let place = u32::try_from(self.releases.len()).unwrap_or(u32::MAX);
        if release.shown {
            let values = release.sketch.values().filter(|value| *value != 0);
            self.by_value.extend(values.map(|value| (value, place)));
        }
        self.releases.push(release);
    }

    fn asked_small(&self, candidate: &Candidate, since_ms: i64) -> Asked {
        let is_same = |release: &Release| {
            release.at_ms > since_ms && !release.shown && release.sketch.is_same_set(&candidate.sketch)
        };
        if self.releases.iter().any(is_same) { Asked::Known } else { Asked::New }
    }

    fn ask(&self, candidate: &Candidate, since_ms: i64, work: &mut Work) -> Asked {
        let Candidate { origin, size, sketch, .. } = candidate;
        let mut is_known = false;
        for release in self.releases.iter().filter(|release| release.at_ms > since_ms) {
            if !work.spend(*size as usize * size_of::<u64>()) {
                return Asked::TooMuchWork;
            }
            match release.sketch.without(&[sketch], *size) {
                Extent::Nobody => is_known |= release.shown,
                Extent::Few if !(release.shown && release.origin == *origin) => return Asked::TellsOfFew,
                Extent::Few | Extent::Many => {}
            }
        }
        if is_known {
            return Asked::Known;
        }
        for place in 0..self.releases.len() {
            match self.third(place, candidate, since_ms, work) {
                Asked::New => {}
                asked => return asked,
            }
        }
        Asked::New
    }

    fn fresh(&self, place: usize, origin: u64, since_ms: i64) -> Option<&Release> {
        let release = self.releases.get(place)?;
        (release.shown && release.at_ms > since_ms && release.origin != origin).then_some(release)
    }

    /// Whether the candidate, this one and a third make a small difference: one of them is nearly the other two together.
    ///
    /// The third is, in all cells but those of the few, the difference of the candidate and this one. As each entity is in one cell
    /// of the first part, it is so in one of as many cells as a group has entities. Where the difference has fewer cells, of a
    /// group of about the least size, it is so in most cases only.
    fn third(&self, place: usize, candidate: &Candidate, since_ms: i64, work: &mut Work) -> Asked {
        let Candidate { origin, size, sketch, .. } = candidate;
        let Some(second) = self.fresh(place, *origin, since_ms) else { return Asked::New };
        let differences = sketch.values().zip(second.sketch.values()).filter(|(one, other)| one != other);
        for (one, other) in differences.take(usize::try_from(*size).unwrap_or(usize::MAX)) {
            // The candidate is the larger one, or this one is.
            for (is_candidate, value) in [(true, subtract(one, other)), (false, subtract(other, one))] {
                if !work.spend(LOOK_BYTES) {
                    return Asked::TooMuchWork;
                }
                for (_, third) in self.by_value.range((value, 0)..=(value, u32::MAX)) {
                    let third = usize::try_from(*third).unwrap_or(usize::MAX);
                    let Some(third) = self.fresh(third, *origin, since_ms) else { continue };
                    if !work.spend(*size as usize * 3 * size_of::<u64>()) {
                        return Asked::TooMuchWork;
                    }
                    let extent = match is_candidate {
                        true => sketch.without(&[&second.sketch, &third.sketch], *size),
                        false => second.sketch.without(&[sketch, &third.sketch], *size),
                    };
                    if extent == Extent::Few {
                        return Asked::TellsOfFew;
                    }
                }
            }
        }
        Asked::New
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sketch::Rows;
    use super::*;

    /// As the guard makes keys: spread over all numbers.
    fn key(n: u64) -> u64 {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let mut hasher = DefaultHasher::new();
        n.hash(&mut hasher);
        hasher.finish()
    }

    fn of_rows(origin: u64, rows: impl IntoIterator<Item = (u64, u64)>) -> Candidate {
        let mut of = Rows::default();
        for (entity, row) in rows {
            of.add(key(entity), key(row + (1 << 40)));
        }
        Candidate { domain: "t.id".into(), origin, size: 10, sketch: of.sketch(10) }
    }

    /// One row of each.
    fn candidate(origin: u64, people: impl IntoIterator<Item = u64>) -> Candidate {
        of_rows(origin, people.into_iter().map(|person| (person, person)))
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
        assert_eq!(ask(&released, &candidate(2, 0..101)), Verdict::TellsOfFew);
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
    fn rows_count_and_not_only_those_whose_they_are() {
        // Forty people with ten rows each.
        let rows = |of: &dyn Fn(u64) -> bool| {
            (0..400).filter(|row| of(*row)).map(|row| (row % 40, row)).collect::<Vec<_>>()
        };
        let released = of_ada();
        assert_eq!(ask(&released, &of_rows(1, rows(&|_| true))), Verdict::Shown);
        // Without one row of somebody; with one twice.
        assert_eq!(ask(&released, &of_rows(2, rows(&|row| row != 7))), Verdict::TellsOfFew);
        assert_eq!(
            ask(&released, &of_rows(3, [rows(&|_| true), vec![(7, 7)]].concat())),
            Verdict::TellsOfFew
        );
        // Halves of the rows, of the same people.
        assert_eq!(ask(&released, &of_rows(4, rows(&|row| row / 40 % 2 == 0))), Verdict::Shown);
        assert_eq!(ask(&released, &of_rows(5, rows(&|row| row / 40 % 2 == 1))), Verdict::Shown);
    }

    #[test]
    fn three_answers_do_not_tell_of_a_few() {
        let orders: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        for order in orders {
            let sets = [
                candidate(1, 0..400),
                candidate(2, (0..400).filter(|n| n % 2 == 0)),
                candidate(3, (0..400).filter(|n| n % 2 == 1 && *n != 7)),
            ];
            let released = of_ada();
            let verdicts = order.map(|at| ask(&released, &sets[at]));
            assert_eq!(verdicts, [Verdict::Shown, Verdict::Shown, Verdict::TellsOfFew], "{order:?}");
        }
        let released = of_ada();
        let odd = candidate(3, (0..400).filter(|n| n % 2 == 1));
        for set in [candidate(1, 0..400), candidate(2, (0..400).filter(|n| n % 2 == 0)), odd] {
            assert_eq!(ask(&released, &set), Verdict::Shown);
        }
    }

    #[test]
    fn that_a_set_is_too_small_is_an_answer_too() {
        let released = of_ada();
        assert_eq!(ask(&released, &candidate(1, 0..9)), Verdict::TellsOfFew);
        assert_eq!(ask(&released, &candidate(2, 0..10)), Verdict::TellsOfFew);
        assert_eq!(ask(&released, &candidate(3, 0..30)), Verdict::Shown);
    }

    #[test]
    fn hundreds_of_sets_are_compared_soon() {
        // Nobody in common; and half of 200 people each, by chance.
        let apart = |n: u64| (n * 20..n * 20 + 20).collect::<Vec<_>>();
        let half =
            |n: u64| (0..200).filter(|person| key(n * 1000 + person).is_multiple_of(2)).collect::<Vec<_>>();
        for people in [&apart as &dyn Fn(u64) -> Vec<u64>, &half] {
            let (released, mut work) = (of_ada(), Work::default());
            for n in 0..300 {
                assert_eq!(released.ask(&candidate(n, people(n)), &mut work), Verdict::Shown);
            }
            assert!(work.bytes < WORK_BYTES_MAX, "{} bytes", work.bytes);
        }
    }

    #[test]
    fn what_is_kept_and_what_one_answer_compares_has_an_end() {
        let released = of_ada();
        {
            let shown = released.all.of("ada", DAY_MS);
            let mut shown = shown.lock();
            (shown.sets, shown.oldest_ms, shown.newest_ms) = (SETS_MAX - 1, DAY_MS, DAY_MS);
        }
        assert_eq!(ask(&released, &candidate(1, 0..20)), Verdict::Shown);
        assert_eq!(ask(&released, &candidate(2, 20..40)), Verdict::Full);
        // The next day there is room again.
        let next_day = Released { now_ms: 2 * DAY_MS + 1, ..released.clone() };
        assert_eq!(ask(&next_day, &candidate(5_000, 0..30)), Verdict::Shown);
        let mut spent = Work { bytes: WORK_BYTES_MAX };
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
        /// What is looked for finds what a comparison with all would find.
        #[test]
        fn what_differs_little_is_found(
            sets in proptest::collection::vec((0_u64..60, 20_u64..60, 0_u64..4), 2..8),
        ) {
            let released = of_ada();
            let mut shown: Vec<Sketch> = Vec::new();
            for (n, (start, length, gap)) in sets.into_iter().enumerate() {
                let people = (start..start + length).filter(|person| gap == 0 || person % (gap + 7) != 0);
                let group = candidate(n as u64, people);
                let is_known = shown.iter().any(|other| other.is_same_set(&group.sketch));
                let is_few = |large: &Sketch, others: &[&Sketch]| large.without(others, 10) == Extent::Few;
                let pair = shown.iter().any(|other| is_few(&group.sketch, &[other]));
                let verdict = ask(&released, &group);
                if pair {
                    prop_assert_eq!(verdict, Verdict::TellsOfFew);
                }
                let three = shown.iter().enumerate().any(|(at, one)| shown.iter().skip(at + 1).any(|other| {
                    is_few(&group.sketch, &[one, other]) || is_few(one, &[&group.sketch, other]) || is_few(other, &[&group.sketch, one])
                }));
                if verdict == Verdict::TellsOfFew && !is_known {
                    prop_assert!(pair || three);
                }
                if verdict == Verdict::Shown && !is_known {
                    shown.push(group.sketch);
                }
            }
        }
    }
}
