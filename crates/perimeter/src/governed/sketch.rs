//! A set of rows in a few kilobytes, in which sets can be added to and subtracted from each other, and of the result it can be told
//! whether it is of a handful of entities.
//!
//! A set is a vector with one element for each entity: the sum of the keys of its rows, in the field of the integers modulo 2^61 − 1.
//! Its sketch is an invertible Bloom lookup table (Goodrich and Mitzenmacher, 2011) of that vector. Both are linear, so that
//! the sketch of a difference is the difference of the sketches. Where few elements are not zero, they can be taken out of it,
//! however many rows each of them stands for.

use std::collections::HashMap;

/// Each entity is in one cell of each part.
const PARTS: usize = 3;
/// Cells of a part, at the least.
const CELLS_MIN: usize = 64;
const CELLS_MAX: usize = 1 << 16;
const PRIME: u64 = (1 << 61) - 1;
const CELL_BYTES: usize = 3 * size_of::<u64>();

fn add(one: u64, other: u64) -> u64 {
    let sum = one + other;
    if sum >= PRIME { sum - PRIME } else { sum }
}

pub fn subtract(one: u64, other: u64) -> u64 {
    add(one, PRIME - other)
}

fn multiply(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other) % u128::from(PRIME);
    u64::try_from(product).unwrap_or(0)
}

/// By Fermat: x^(p-2).
fn inverse(of: u64) -> u64 {
    let (mut result, mut base, mut exponent) = (1, of, PRIME - 2);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = multiply(result, base);
        }
        base = multiply(base, base);
        exponent >>= 1;
    }
    result
}

/// Sums of the elements in a cell: of their values, and of these times the entity's key and its check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cell {
    value: u64,
    keys: u64,
    checks: u64,
}

impl Cell {
    fn of(key: u64, value: u64) -> Cell {
        Cell { value, keys: multiply(value, key), checks: multiply(value, check_of(key)) }
    }

    fn is_empty(self) -> bool {
        self == Cell::default()
    }

    fn plus(self, other: Cell) -> Cell {
        Cell {
            value: add(self.value, other.value),
            keys: add(self.keys, other.keys),
            checks: add(self.checks, other.checks),
        }
    }

    fn minus(self, other: Cell) -> Cell {
        Cell {
            value: subtract(self.value, other.value),
            keys: subtract(self.keys, other.keys),
            checks: subtract(self.checks, other.checks),
        }
    }

    /// The key and the value of the one element in it.
    fn alone(self) -> Option<(u64, u64)> {
        if self.value == 0 {
            return None;
        }
        let key = multiply(self.keys, inverse(self.value));
        (self == Cell::of(key, self.value)).then_some((key, self.value))
    }
}

fn mixed(key: u64, salt: u64) -> u64 {
    // The finalizer of SplitMix64.
    let mut x = key.wrapping_add(salt.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn check_of(key: u64) -> u64 {
    mixed(key, 7) % PRIME
}

/// A hash as an element of the field that is not zero.
fn element(hash: u64) -> u64 {
    hash % (PRIME - 1) + 1
}

/// How many entities a set, or a difference of sets, is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    Nobody,
    /// Fewer than were asked for.
    Few,
    Many,
}

/// The rows of each entity of a group.
#[derive(Debug, Default)]
pub struct Rows {
    of: HashMap<u64, u64>,
}

impl Rows {
    /// Both are hashes.
    pub fn add(&mut self, entity: u64, row: u64) {
        let of_entity = self.of.entry(element(entity)).or_default();
        *of_entity = add(*of_entity, element(row));
    }

    pub fn bytes(&self) -> usize {
        size_of_val(self) + self.of.capacity() * (2 * size_of::<u64>() + 1)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.of.iter().flat_map(|(key, value)| [key.to_le_bytes(), value.to_le_bytes()]).flatten().collect()
    }

    /// Adds those that another has given as bytes.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        let (numbers, _) = bytes.as_chunks::<8>();
        let (pairs, _) = numbers.as_chunks::<2>();
        for [key, value] in pairs {
            let of_entity = self.of.entry(u64::from_le_bytes(*key)).or_default();
            *of_entity = add(*of_entity, u64::from_le_bytes(*value));
        }
    }

    pub fn sketch(&self, size: u32) -> Sketch {
        let mut sketch = Sketch::new(size);
        sketch.entities = self.of.len() as u64;
        for (key, value) in &self.of {
            let cell = Cell::of(*key, *value);
            for at in sketch.places(*key) {
                sketch.cells[at] = sketch.cells[at].plus(cell);
            }
        }
        sketch
    }
}

/// See the file's comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sketch {
    /// Of a sum of sketches, those of all of them.
    pub entities: u64,
    cells: Vec<Cell>,
}

impl Sketch {
    /// Of no rows. For groups of `size`: what is of fewer entities is told.
    pub fn new(size: u32) -> Sketch {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let cells = size.saturating_mul(4).clamp(CELLS_MIN, CELLS_MAX);
        Sketch { entities: 0, cells: vec![Cell::default(); PARTS * cells] }
    }

    pub fn add(&mut self, other: &Sketch) {
        self.entities = self.entities.saturating_add(other.entities);
        for (cell, of_other) in self.cells.iter_mut().zip(&other.cells) {
            *cell = cell.plus(*of_other);
        }
    }

    fn of_part(&self) -> usize {
        self.cells.len() / PARTS
    }

    fn places(&self, key: u64) -> [usize; PARTS] {
        let cells = self.of_part();
        std::array::from_fn(|part| {
            let salt = u64::try_from(part).unwrap_or(0) + 1;
            let at = mixed(key, salt) % u64::try_from(cells).unwrap_or(1);
            part * cells + usize::try_from(at).unwrap_or(0)
        })
    }

    /// The sums of values in the cells of the first part: an entity is in one of them.
    pub fn values(&self) -> impl Iterator<Item = u64> {
        self.cells[..self.of_part()].iter().map(|cell| cell.value)
    }

    pub fn is_same_set(&self, other: &Sketch) -> bool {
        self.cells == other.cells
    }

    /// How many entities have rows in it, whatever sketches it is the sum of.
    pub fn extent(&self, size: u32) -> Extent {
        self.without(&[], size)
    }

    /// How many entities have other rows in this set than in the others together.
    pub fn without(&self, others: &[&Sketch], size: u32) -> Extent {
        let most = usize::try_from(size).unwrap_or(usize::MAX);
        if others.iter().any(|other| other.cells.len() != self.cells.len()) {
            return Extent::Many;
        }
        let value =
            |at: usize| others.iter().fold(self.cells[at].value, |sum, o| subtract(sum, o.cells[at].value));
        // Each cell of a part that is not empty is of another entity.
        if (0..self.of_part()).filter(|at| value(*at) != 0).take(most).count() >= most {
            return Extent::Many;
        }
        let mut rest = self.clone();
        for other in others {
            for (cell, of_other) in rest.cells.iter_mut().zip(&other.cells) {
                *cell = cell.minus(*of_other);
            }
        }
        rest.peel(most)
    }

    /// Takes elements out of it, until they are `most`.
    fn peel(&mut self, most: usize) -> Extent {
        let mut found = 0;
        while found < most {
            let Some((key, value)) = self.cells.iter().find_map(|cell| cell.alone()) else { break };
            let cell = Cell::of(key, value);
            for at in self.places(key) {
                self.cells[at] = self.cells[at].minus(cell);
            }
            found += 1;
        }
        let left = self.cells.iter().filter(|cell| !cell.is_empty()).count();
        match (found, left) {
            (0, 0) => Extent::Nobody,
            (found, _) if found >= most => Extent::Many,
            // What is left cannot be taken out; so few cells would not be enough for many.
            (_, left) if left < PARTS * most => Extent::Few,
            _ => Extent::Many,
        }
    }

    pub fn bytes(&self) -> usize {
        size_of::<u64>() + self.cells.len() * CELL_BYTES
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let cells = self.cells.iter().flat_map(|cell| [cell.value, cell.keys, cell.checks]);
        std::iter::once(self.entities).chain(cells).flat_map(u64::to_le_bytes).collect()
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Sketch> {
        let (entities, bytes) = bytes.split_first_chunk::<8>()?;
        let (numbers, rest) = bytes.as_chunks::<8>();
        let (cells, more) = numbers.as_chunks::<3>();
        if !rest.is_empty() || !more.is_empty() || cells.len() % PARTS != 0 {
            return None;
        }
        let cell = |[value, keys, checks]: &[[u8; 8]; 3]| Cell {
            value: u64::from_le_bytes(*value),
            keys: u64::from_le_bytes(*keys),
            checks: u64::from_le_bytes(*checks),
        };
        Some(Sketch { entities: u64::from_le_bytes(*entities), cells: cells.iter().map(cell).collect() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sketch(rows: impl IntoIterator<Item = (u64, u64)>, size: u32) -> Sketch {
        let mut of = Rows::default();
        for (entity, row) in rows {
            of.add(mixed(entity, 11), mixed(row, 12));
        }
        of.sketch(size)
    }

    #[test]
    fn bytes_give_the_same_sketch() {
        let sketch = sketch((0..1000).map(|n| (n / 3, n)), 10);
        assert_eq!(Sketch::from_bytes(&sketch.to_bytes()), Some(sketch));
    }

    #[test]
    fn rows_are_told_from_each_other_and_not_only_entities() {
        let all = || (0..400_u64).map(|n| (n % 40, n));
        let whole = sketch(all(), 10);
        assert_eq!(whole.without(&[&sketch(all(), 10)], 10), Extent::Nobody);
        // One row of somebody who has others; one of them twice; another row of the same.
        assert_eq!(whole.without(&[&sketch(all().filter(|(_, row)| *row != 7), 10)], 10), Extent::Few);
        assert_eq!(whole.without(&[&sketch(all().chain([(7, 7)]), 10)], 10), Extent::Few);
        let other = all().map(|(entity, row)| (entity, if row == 7 { 1007 } else { row }));
        assert_eq!(whole.without(&[&sketch(other, 10)], 10), Extent::Few);
        // Halves of the rows of the same people, which are the whole together.
        let half = |odd: u64| sketch(all().filter(|(_, row)| row / 40 % 2 == odd), 10);
        let (odd, even) = (half(1), half(0));
        assert_eq!(whole.without(&[&odd], 10), Extent::Many);
        assert_eq!(odd.without(&[&even], 10), Extent::Many);
        assert_eq!(whole.without(&[&odd, &even], 10), Extent::Nobody);
        let mut sum = odd.clone();
        sum.add(&even);
        assert!(sum.is_same_set(&whole));
    }

    proptest! {
        #[test]
        fn differences_of_few_entities_are_told_however_many_rows_they_have(
            common in 0_u64..5000,
            only_here in 0_u64..30,
            only_there in 0_u64..30,
            rows_of_each in 1_u64..40,
            size in 2_u32..25,
            seed in any::<u64>(),
        ) {
            let rows = |from: u64, count: u64| (from..from + count).flat_map(move |entity| {
                (0..rows_of_each).map(move |row| (mixed(entity, seed), mixed(entity, seed) ^ mixed(row, 3)))
            });
            let common_rows = (0..common).map(|entity| (mixed(entity, seed), entity));
            let here = sketch(common_rows.clone().chain(rows(10_000, only_here)), size);
            let there = sketch(common_rows.chain(rows(20_000, only_there)), size);
            let difference = only_here + only_there;
            let expected = match difference {
                0 => Extent::Nobody,
                few if few < u64::from(size) => Extent::Few,
                _ => Extent::Many,
            };
            prop_assert_eq!(here.without(&[&there], size), expected);
            prop_assert_eq!(there.without(&[&here], size), expected);
        }
    }
}
