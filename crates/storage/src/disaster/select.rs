//! Which of the segments and chains' batches that a bucket holds make up a partition's log.
//!
//! Segments hold acknowledged records only, at the offsets that they have for ever: any that reach on from where the ones before end
//! will do. Some are left over from a rewrite or a compaction, though, and what a later compaction took out must not come back. So
//! among those that cover the same offsets the one that was written last is taken, and a whole row of them rather than
//! parts of two.
//!
//! Offsets that nothing covers, and that are below everything that is there, are of records that retention has dropped: the log begins
//! above them. Where segments are below them, a segment is lost: retention drops from the oldest on. Where a part of a write-ahead log
//! is lost, they are of records that were in it. Then the log has a gap there, and what is below the gap is kept.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use kafscale_core::ids::{LeaderEpoch, Offset};

use super::logs::Above;
use crate::log::superseded::{Written, take_out};

/// A segment that may be part of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub base_offset: Offset,
    pub last_offset: Offset,
    /// Grows with the time when it was written, within an incarnation and from one to the next.
    pub number: u64,
}

/// A batch in a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InChain {
    pub leader_epoch: LeaderEpoch,
    pub base_offset: Offset,
    pub last_offset: Offset,
    /// Something is lost in front of it, or behind it.
    pub after_loss: bool,
    pub before_loss: bool,
}

/// A partition's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selected {
    pub log_start: Offset,
    /// Where the segments end.
    pub segments_end: Offset,
    /// Where the batches of the chains end.
    pub log_end: Offset,
    /// Places in the list of candidates, in the order of the log.
    pub segments: Vec<usize>,
    /// Offsets that nothing covers, and that the log begins above, although something was found below: from, and up to but not including.
    pub hole: Option<(Offset, Offset)>,
    /// Offsets that only segments that are gone had, like that.
    pub gaps: Vec<(Offset, Offset)>,
    /// Offsets that were lost with a part of a log, like that.
    pub lost: Vec<(Offset, Offset)>,
    /// The last records may have been lost so.
    pub may_lack: bool,
    /// Batches that came back after they were given up, and whose offsets newer ones have.
    pub superseded: Vec<(Offset, Offset)>,
}

impl Selected {
    /// A log without records.
    pub fn empty(at: Offset) -> Selected {
        Selected { log_start: at, segments_end: at, log_end: at, ..Selected::default() }
    }

    /// The log reached up to `end`, and what was there is gone.
    pub fn lack_end(&mut self, end: Offset) {
        if self.segments.is_empty() {
            let hole = (self.log_end > self.log_start).then_some((self.log_end, end));
            *self = Selected { hole, ..Selected::empty(end) };
            return;
        }
        self.gaps.push((self.segments_end, end));
        self.lost.clear();
        (self.segments_end, self.log_end) = (end, end);
    }
}

/// A row of segments that follow each other; the least is the best.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    lowest: Offset,
    overlaps: usize,
    newest: Reverse<u64>,
    /// Its last segment.
    last: Option<usize>,
}

/// What is below `log_start` was deleted before. Batches may be in any order.
/// `starts` are the first offsets of leader epochs that are known from elsewhere.
pub fn select(
    log_start: Offset,
    starts: &[(LeaderEpoch, Offset)],
    candidates: &[Candidate],
    above: Above,
) -> Selected {
    let (segments, gaps) = rows(log_start, candidates);
    let base = segments.first().map(|at| candidates[*at].base_offset);
    let segments_end = segments.last().map_or(log_start, |at| candidates[*at].last_offset.plus(1));
    let mut selected = Selected {
        log_start: base.map_or(log_start, |base| base.max(log_start)),
        segments_end,
        log_end: segments_end,
        may_lack: above.may_lack,
        segments,
        gaps,
        ..Selected::default()
    };
    let mut in_chains = above.batches;
    let superseded = take_out(&mut in_chains, starts, |batch| Written {
        leader_epoch: batch.leader_epoch,
        base_offset: batch.base_offset,
    });
    selected.superseded =
        superseded.iter().map(|batch| (batch.base_offset, batch.last_offset.plus(1))).collect();
    for batch in in_chains {
        selected.may_lack = batch.before_loss;
        if batch.last_offset < selected.log_end {
            continue;
        }
        if batch.base_offset > selected.log_end && batch.after_loss {
            selected.lost.push((selected.log_end, batch.base_offset));
            if selected.log_end == selected.log_start {
                (selected.log_start, selected.segments_end) = (batch.base_offset, batch.base_offset);
            }
        } else if batch.base_offset > selected.log_end && !selected.segments.is_empty() {
            // What of chains was between is covered by the segment that is gone: it would not have been freed otherwise.
            selected.gaps.push((selected.segments_end, batch.base_offset));
            selected.lost.clear();
            selected.segments_end = batch.base_offset;
        } else if batch.base_offset > selected.log_end {
            selected.lost.clear();
            if selected.log_end > selected.log_start {
                selected.hole = Some((selected.log_end, batch.base_offset));
            }
            selected.log_start = batch.base_offset;
            selected.segments_end = batch.base_offset;
        }
        selected.log_end = batch.last_offset.plus(1);
    }
    selected
}

/// Rows of segments from the highest on down, in the order of the log, and what is missing between them.
fn rows(log_start: Offset, candidates: &[Candidate]) -> (Vec<usize>, Vec<(Offset, Offset)>) {
    let (mut rows, mut gaps, mut limit) = (Vec::new(), Vec::new(), Offset(i64::MAX));
    loop {
        let below: Vec<usize> =
            (0..candidates.len()).filter(|at| candidates[*at].last_offset < limit).collect();
        let usable: Vec<Candidate> = below.iter().map(|at| candidates[*at]).collect();
        let row: Vec<usize> = row(log_start, &usable).into_iter().map(|at| below[at]).collect();
        let (Some(first), Some(last)) = (row.first(), row.last()) else { break };
        if !rows.is_empty() {
            gaps.push((candidates[*last].last_offset.plus(1), limit));
        }
        limit = candidates[*first].base_offset;
        rows.push(row);
    }
    rows.reverse();
    gaps.reverse();
    (rows.concat(), gaps)
}

/// The row of segments that ends highest and, among those, reaches down furthest.
fn row(log_start: Offset, candidates: &[Candidate]) -> Vec<usize> {
    let Some(end) = candidates.iter().map(|c| c.last_offset.plus(1)).max().filter(|end| *end > log_start)
    else {
        return Vec::new();
    };
    // For each place where a segment begins, and for the end: the best row that ends there.
    let mut best: BTreeMap<Offset, Row> = BTreeMap::new();
    let places: BTreeSet<Offset> = candidates.iter().map(|c| c.base_offset).chain([end]).collect();
    for place in places {
        let reaches =
            |c: &Candidate| c.base_offset < place && c.last_offset.plus(1) >= place && place > log_start;
        let row_of = |at: usize| {
            let c = &candidates[at];
            let below = &best[&c.base_offset];
            let overlaps = below.overlaps + usize::from(c.last_offset.plus(1) > place);
            Row { lowest: below.lowest.max(log_start), overlaps, newest: Reverse(c.number), last: Some(at) }
        };
        let rows = (0..candidates.len()).filter(|at| reaches(&candidates[*at])).map(row_of);
        let none = Row { lowest: place, overlaps: 0, newest: Reverse(0), last: None };
        let row = rows.min().unwrap_or(none);
        best.insert(place, row);
    }
    let (mut row, mut place) = (Vec::new(), end);
    while let Some(at) = best[&place].last {
        row.push(at);
        place = candidates[at].base_offset;
    }
    row.reverse();
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        what: &str,
        log_start: i64,
        segments: &[(i64, i64, u64)],
        chains: &[(i32, i64, i64)],
        expect: (i64, i64, &[usize]),
    ) {
        let candidate = |(base, last, number): &(i64, i64, u64)| Candidate {
            base_offset: Offset(*base),
            last_offset: Offset(*last),
            number: *number,
        };
        let batch = |(epoch, base, last): &(i32, i64, i64)| InChain {
            leader_epoch: LeaderEpoch(*epoch),
            base_offset: Offset(*base),
            last_offset: Offset(*last),
            after_loss: false,
            before_loss: false,
        };
        let candidates: Vec<_> = segments.iter().map(candidate).collect();
        let above = Above { batches: chains.iter().map(batch).collect(), may_lack: false };
        let found = select(Offset(log_start), &[], &candidates, above);
        assert_eq!((found.log_start.0, found.log_end.0, &found.segments[..]), expect, "{what}: {found:?}");
    }

    #[test]
    fn segments_that_follow_each_other_are_the_log() {
        check("nothing", 0, &[], &[], (0, 0, &[]));
        check("all was deleted", 70, &[], &[], (70, 70, &[]));
        check("in any order", 0, &[(50, 99, 2), (0, 49, 1)], &[], (0, 100, &[1, 0]));
        check(
            "an attempt that was not published",
            0,
            &[(0, 49, 1), (50, 79, 2), (50, 99, 3)],
            &[],
            (0, 100, &[0, 2]),
        );
        check("merged", 0, &[(0, 9, 1), (10, 19, 2), (0, 19, 3), (20, 29, 4)], &[], (0, 30, &[2, 3]));
        check("merged in part", 0, &[(10, 19, 2), (0, 19, 3)], &[], (0, 20, &[1]));
        check("below the start", 20, &[(0, 9, 1), (10, 29, 2), (30, 39, 3)], &[], (20, 40, &[1, 2]));
        check("wholly below the start", 20, &[(0, 9, 1)], &[], (20, 20, &[]));
    }

    #[test]
    fn what_came_back_replaces_nothing_newer() {
        check("in chains", 0, &[], &[(1, 0, 9), (1, 10, 19), (4, 10, 14), (4, 15, 29)], (0, 30, &[]));
        let batch = |epoch, base, last| InChain {
            leader_epoch: LeaderEpoch(epoch),
            base_offset: Offset(base),
            last_offset: Offset(last),
            after_loss: false,
            before_loss: false,
        };
        let batches = vec![batch(1, 0, 9), batch(1, 10, 39), batch(4, 10, 14)];
        let found = select(Offset(0), &[], &[], Above { batches, may_lack: false });
        assert_eq!((found.log_end, found.superseded), (Offset(15), vec![(Offset(10), Offset(40))]));
        let segment = Candidate { base_offset: Offset(0), last_offset: Offset(19), number: 1 };
        let above = Above { batches: vec![batch(1, 10, 39)], may_lack: false };
        let found = select(Offset(0), &[(LeaderEpoch(4), Offset(10))], &[segment], above);
        assert_eq!(found.log_end, Offset(20));
    }

    #[test]
    fn what_a_compaction_took_out_does_not_come_back() {
        check("compacted", 0, &[(0, 49, 1), (50, 99, 2), (0, 70, 3), (71, 99, 4)], &[], (0, 100, &[2, 3]));
        check("cut off before the end", 0, &[(0, 49, 1), (50, 99, 2), (0, 70, 3)], &[], (0, 100, &[0, 1]));
        check("inputs deleted in part", 0, &[(50, 99, 2), (0, 70, 3), (71, 99, 4)], &[], (0, 100, &[1, 2]));
        check("overlapping the newest", 0, &[(10, 19, 5), (0, 19, 3)], &[], (0, 20, &[1]));
        check("by another incarnation", 0, &[(0, 99, 9 << 32), (0, 99, 8 << 32 | 7)], &[], (0, 100, &[0]));
    }

    #[test]
    fn batches_of_chains_continue_the_segments() {
        check("above", 0, &[(0, 49, 1)], &[(1, 40, 49), (1, 50, 59), (1, 60, 69)], (0, 70, &[0]));
        check("covered", 0, &[(0, 49, 1)], &[(1, 0, 9), (1, 10, 19)], (0, 50, &[0]));
        check("of several", 0, &[], &[(2, 10, 19), (1, 0, 9), (3, 20, 29)], (0, 30, &[]));
        check("both have the middle", 0, &[], &[(2, 10, 19), (1, 0, 9), (2, 10, 19)], (0, 20, &[]));
    }

    /// Segments 0 to 49 and a batch at `base` behind a loss, which may be one of the segments' records.
    #[test]
    fn what_is_missing_behind_a_loss_was_lost() {
        for (base, covered, with_segments, expect) in [
            (50, false, true, (0, 60, vec![])),
            (60, false, true, (0, 70, vec![(50, 60)])),
            (60, true, true, (0, 70, vec![(50, 60)])),
            (60, false, false, (60, 70, vec![(0, 60)])),
        ] {
            let batch = |base, after_loss, before_loss| InChain {
                leader_epoch: LeaderEpoch(1),
                base_offset: Offset(base),
                last_offset: Offset(base + 9),
                after_loss,
                before_loss,
            };
            let segment = Candidate { base_offset: Offset(0), last_offset: Offset(49), number: 1 };
            let candidates = if with_segments { vec![segment] } else { Vec::new() };
            let mut batches = vec![batch(base, true, false)];
            batches.extend(covered.then(|| batch(30, false, true)));
            let found = select(Offset(0), &[], &candidates, Above { batches, may_lack: true });
            let lost: Vec<_> = found.lost.iter().map(|(from, to)| (from.0, to.0)).collect();
            assert_eq!((found.log_start.0, found.log_end.0, lost), expect, "{base}: {found:?}");
            assert_eq!((found.segments.len(), found.hole), (candidates.len(), None));
            assert!(!found.may_lack, "the log goes on behind the loss");
            let last = vec![batch(30, false, true)];
            assert!(select(Offset(0), &[], &candidates, Above { batches: last, may_lack: true }).may_lack);
        }
    }

    #[test]
    fn what_is_missing_below_everything_was_dropped_by_retention() {
        check("below the segments", 0, &[(60, 99, 2)], &[], (60, 100, &[0]));
        check("all of them", 0, &[], &[(1, 60, 69)], (60, 70, &[]));
        check("between chains", 0, &[], &[(1, 0, 9), (2, 60, 69)], (60, 70, &[]));
        check("the start is known", 65, &[], &[(1, 0, 9), (2, 60, 69), (2, 70, 79)], (65, 80, &[]));
        check("below the known start", 55, &[(0, 49, 1), (60, 99, 2)], &[], (60, 100, &[1]));
    }

    #[test]
    fn what_is_below_a_segment_that_is_gone_is_kept() {
        check("between segments", 0, &[(0, 49, 1), (60, 99, 2)], &[], (0, 100, &[0, 1]));
        check("two", 0, &[(60, 69, 4), (0, 49, 1), (80, 99, 2)], &[], (0, 100, &[1, 0, 2]));
        check("below the chains", 0, &[(0, 49, 1)], &[(1, 60, 69), (1, 70, 79)], (0, 80, &[0]));
        check("with left-overs of a chain", 0, &[(0, 49, 1)], &[(1, 40, 54), (1, 60, 69)], (0, 70, &[0]));
        let segments = [(0, 49), (60, 79), (90, 99)].map(|(base, last)| Candidate {
            base_offset: Offset(base),
            last_offset: Offset(last),
            number: 1,
        });
        let gaps = select(Offset(20), &[], &segments, Above::default()).gaps;
        assert_eq!(gaps, [(50, 60), (80, 90)].map(|(from, to)| (Offset(from), Offset(to))));
    }
}
