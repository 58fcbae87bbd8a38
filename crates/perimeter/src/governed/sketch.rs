//! A set of entities in a few kilobytes, from two of which it can be told whether they differ by a handful: an invertible Bloom
//! lookup table (Goodrich and Mitzenmacher, 2011), as set reconciliation uses it.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Each entity is in one cell of each part.
const PARTS: usize = 3;
const CELL_BYTES: usize = 4 + 8 + 4;
/// Cells of a part, at the least.
const CELLS_MIN: usize = 64;
/// Of the smallest keys, as many as this times the size of a group are kept.
const LEAST_PER_SIZE: usize = 4;
const LEAST_MAX: usize = 1 << 14;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cell {
    count: i32,
    keys: u64,
    checks: u32,
}

impl Cell {
    fn is_empty(self) -> bool {
        self == Cell::default()
    }

    fn change(&mut self, key: u64, by: i32) {
        self.count = self.count.wrapping_add(by);
        self.keys ^= key;
        self.checks ^= check_of(key);
    }
}

/// How many keys could be taken out of a table.
enum Peeled {
    All(u32),
    /// At least as many as were asked for.
    More,
    /// Too many are in the same cells.
    Stuck,
}

/// The entities of a group: how many they are, the smallest of their keys, and the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sketch {
    pub entities: u64,
    /// In ascending order.
    least: Vec<u64>,
    cells: Vec<Cell>,
}

fn mixed(key: u64, salt: u64) -> u64 {
    // The finalizer of SplitMix64.
    let mut x = key.wrapping_add(salt.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn check_of(key: u64) -> u32 {
    let bytes = mixed(key, 7).to_le_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

impl Sketch {
    /// For groups of `size`: differences below it are told.
    pub fn of(keys: impl Iterator<Item = u64>, size: u32) -> Sketch {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let cells = CELLS_MIN.max(size.saturating_mul(4).min(1 << 16));
        let mut sketch =
            Sketch { entities: 0, least: Vec::new(), cells: vec![Cell::default(); PARTS * cells] };
        let mut least = BinaryHeap::new();
        let kept = size.saturating_mul(LEAST_PER_SIZE).min(LEAST_MAX);
        for key in keys {
            sketch.entities += 1;
            for at in sketch.places(key) {
                sketch.cells[at].change(key, 1);
            }
            least.push(key);
            if least.len() > kept {
                least.pop();
            }
        }
        sketch.least = least.into_sorted_vec();
        sketch
    }

    /// Keys one of which is among those of every set that differs from this one by fewer than `size`: the `size` smallest. Of the
    /// `size` smallest of both sets together, fewer than `size` are in one set alone, and one that is in both is among the smallest
    /// of each.
    pub fn clues(&self, size: u32) -> &[u64] {
        &self.least[..self.least.len().min(usize::try_from(size).unwrap_or(usize::MAX))]
    }

    /// Whether the smallest keys of both allow that the two sets differ by fewer than `size`. False is certain.
    pub fn may_differ_little(&self, other: &Sketch, size: u32) -> bool {
        if self.entities.abs_diff(other.entities) >= u64::from(size) {
            return false;
        }
        let (mut mine, mut theirs) = (self.least.as_slice(), other.least.as_slice());
        let mut alone = 0;
        // Where the keys of one end, its set may go on, and nothing is known.
        while let ([first, rest @ ..], [of_other, rest_of_other @ ..]) = (mine, theirs) {
            match first.cmp(of_other) {
                Ordering::Equal => (mine, theirs) = (rest, rest_of_other),
                Ordering::Less => (mine, alone) = (rest, alone + 1),
                Ordering::Greater => (theirs, alone) = (rest_of_other, alone + 1),
            }
            if alone >= size {
                return false;
            }
        }
        true
    }

    fn places(&self, key: u64) -> [usize; PARTS] {
        let cells = self.cells.len() / PARTS;
        std::array::from_fn(|part| {
            let salt = u64::try_from(part).unwrap_or(0) + 1;
            let at = mixed(key, salt) % u64::try_from(cells).unwrap_or(1);
            part * cells + usize::try_from(at).unwrap_or(0)
        })
    }

    /// Whether the two sets differ, by fewer than `size` entities.
    pub fn differs_little(&self, other: &Sketch, size: u32) -> bool {
        if self.cells.len() != other.cells.len() || self.entities.abs_diff(other.entities) >= u64::from(size)
        {
            return false;
        }
        let mut rest = self.clone();
        for (cell, of_other) in rest.cells.iter_mut().zip(&other.cells) {
            cell.count = cell.count.wrapping_sub(of_other.count);
            cell.keys ^= of_other.keys;
            cell.checks ^= of_other.checks;
        }
        let changed = rest.cells.iter().filter(|cell| !cell.is_empty()).count();
        if changed == 0 {
            return false;
        }
        match rest.peel(size) {
            Peeled::All(difference) => difference < size,
            Peeled::More => false,
            // So few cells would not be enough for a large difference.
            Peeled::Stuck => u64::try_from(changed).unwrap_or(u64::MAX) < PARTS as u64 * u64::from(size),
        }
    }

    /// Takes keys out of it, up to `most`.
    fn peel(&mut self, most: u32) -> Peeled {
        let mut found = 0;
        loop {
            let pure =
                self.cells.iter().find(|cell| cell.count.abs() == 1 && cell.checks == check_of(cell.keys));
            let Some(Cell { count, keys, .. }) = pure.copied() else { break };
            for at in self.places(keys) {
                self.cells[at].change(keys, -count);
            }
            found += 1;
            if found >= most {
                return Peeled::More;
            }
        }
        match self.cells.iter().all(|cell| cell.is_empty()) {
            true => Peeled::All(found),
            false => Peeled::Stuck,
        }
    }

    pub fn bytes(&self) -> usize {
        16 + self.least.len() * 8 + self.cells.len() * CELL_BYTES
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes());
        bytes.extend(self.entities.to_le_bytes());
        bytes.extend((self.least.len() as u64).to_le_bytes());
        for key in &self.least {
            bytes.extend(key.to_le_bytes());
        }
        for cell in &self.cells {
            bytes.extend(cell.count.to_le_bytes());
            bytes.extend(cell.keys.to_le_bytes());
            bytes.extend(cell.checks.to_le_bytes());
        }
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Sketch> {
        let (entities, bytes) = bytes.split_first_chunk::<8>()?;
        let (least, bytes) = bytes.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_le_bytes(*least)).ok()?.checked_mul(8)?;
        let (least, cells) = bytes.split_at_checked(length)?;
        let least = least.chunks_exact(8).map(|key| key.try_into().map(u64::from_le_bytes));
        let least = least.collect::<Result<Vec<_>, _>>().ok()?;
        let cell = |bytes: &[u8]| {
            let (count, bytes) = bytes.split_first_chunk::<4>()?;
            let (keys, bytes) = bytes.split_first_chunk::<8>()?;
            let (checks, _) = bytes.split_first_chunk::<4>()?;
            Some(Cell {
                count: i32::from_le_bytes(*count),
                keys: u64::from_le_bytes(*keys),
                checks: u32::from_le_bytes(*checks),
            })
        };
        let cells = cells.chunks_exact(CELL_BYTES).map(cell).collect::<Option<Vec<_>>>()?;
        Some(Sketch { entities: u64::from_le_bytes(*entities), least, cells })
    }

    /// How many entities are in a sketch of these bytes.
    pub fn entities_in(bytes: &[u8]) -> Option<u64> {
        bytes.first_chunk::<8>().map(|entities| u64::from_le_bytes(*entities))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_give_the_same_sketch() {
        let sketch = Sketch::of(0..1000, 10);
        assert_eq!(Sketch::from_bytes(&sketch.to_bytes()), Some(sketch));
    }

    proptest! {
        #[test]
        fn small_differences_are_told_and_large_ones_are_none(
            common in 0_u64..5000,
            only_here in 0_u64..30,
            only_there in 0_u64..30,
            size in 2_u32..25,
            seed in any::<u64>(),
        ) {
            let key = |n: u64| mixed(n, seed);
            let here = Sketch::of((0..common + only_here).map(key), size);
            let there = Sketch::of((0..common).chain(10_000..10_000 + only_there).map(key), size);
            let difference = only_here + only_there;
            let expected = difference > 0 && difference < u64::from(size);
            prop_assert_eq!(here.differs_little(&there, size), expected);
            if difference < u64::from(size) {
                prop_assert!(here.may_differ_little(&there, size));
                if common > 0 {
                    prop_assert!(here.clues(size).iter().any(|key| there.clues(size).contains(key)));
                }
            }
            prop_assert_eq!(there.differs_little(&here, size), expected);
        }
    }
}
