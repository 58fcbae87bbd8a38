//! Batches that came back after their records had been given up.
//!
//! An owner goes on where everything that was there before it ends. So a batch of an earlier leader epoch that begins at or above the
//! first offset of a later one was not there when that owner began: its object was lost, the offsets were given to new records, which
//! were acknowledged, and the object was put back afterwards. The new records count.

use kafscale_core::ids::{LeaderEpoch, Offset};

/// What tells a batch's place in the history of its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub leader_epoch: LeaderEpoch,
    pub base_offset: Offset,
}

/// Takes superseded batches out, and gives them. `starts` are the first offsets of leader epochs that are known from elsewhere. Batches are
/// left in the order of their epochs and, within those, of their offsets.
pub fn take_out<T>(
    batches: &mut Vec<T>,
    starts: &[(LeaderEpoch, Offset)],
    written: impl Fn(&T) -> Written,
) -> Vec<T> {
    batches.sort_by_key(|batch| {
        let Written { leader_epoch, base_offset } = written(batch);
        (leader_epoch, base_offset)
    });
    let Some(last) = batches.last().map(|batch| written(batch).leader_epoch) else { return Vec::new() };
    let known_behind = |epoch: LeaderEpoch| {
        let later = starts.iter().filter(|(later, _)| *later > epoch);
        later.map(|(_, start)| *start).min().unwrap_or(Offset(i64::MAX))
    };
    // Where the epochs behind the one that is looked at begin, and where that one does.
    let (mut behind, mut of_epoch, mut epoch) = (known_behind(last), Offset(i64::MAX), last);
    let (mut kept, mut superseded) = (Vec::with_capacity(batches.len()), Vec::new());
    for batch in std::mem::take(batches).into_iter().rev() {
        let Written { leader_epoch, base_offset } = written(&batch);
        if leader_epoch != epoch {
            behind = behind.min(of_epoch).min(known_behind(leader_epoch));
            epoch = leader_epoch;
        }
        if base_offset >= behind {
            superseded.push(batch);
            continue;
        }
        of_epoch = of_epoch.min(base_offset);
        kept.push(batch);
    }
    kept.reverse();
    superseded.reverse();
    *batches = kept;
    superseded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(what: &str, starts: &[(i32, i64)], batches: &[(i32, i64, i64)], superseded: &[(i32, i64, i64)]) {
        let starts: Vec<_> = starts.iter().map(|(e, o)| (LeaderEpoch(*e), Offset(*o))).collect();
        let mut left = batches.to_vec();
        let found = take_out(&mut left, &starts, |(epoch, base, _)| Written {
            leader_epoch: LeaderEpoch(*epoch),
            base_offset: Offset(*base),
        });
        assert_eq!(found, superseded, "{what}");
        let mut expect: Vec<_> = batches.iter().copied().filter(|b| !superseded.contains(b)).collect();
        expect.sort_by_key(|(epoch, base, _)| (*epoch, *base));
        assert_eq!(left, expect, "{what}");
    }

    #[test]
    fn what_a_later_epoch_wrote_anew_counts() {
        check("nothing", &[], &[], &[]);
        check("a log", &[(1, 0), (2, 20)], &[(2, 20, 29), (1, 0, 9), (1, 10, 19)], &[]);
        check("twice", &[], &[(1, 0, 9), (1, 0, 9), (2, 10, 19)], &[]);
        check("put back", &[], &[(1, 0, 39), (1, 40, 49), (3, 40, 44), (3, 45, 69)], &[(1, 40, 49)]);
        check(
            "above the new end",
            &[],
            &[(1, 40, 49), (1, 50, 59), (2, 40, 44)],
            &[(1, 40, 49), (1, 50, 59)],
        );
        check("in segments since", &[(1, 0), (2, 40)], &[(1, 30, 39), (1, 40, 49)], &[(1, 40, 49)]);
        check("of two", &[], &[(1, 0, 9), (2, 20, 29), (3, 10, 16)], &[(2, 20, 29)]);
        check(
            "given up twice",
            &[],
            &[(1, 0, 9), (1, 10, 19), (2, 10, 14), (3, 10, 11)],
            &[(1, 10, 19), (2, 10, 14)],
        );
    }
}
