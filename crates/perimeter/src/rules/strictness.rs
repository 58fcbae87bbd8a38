//! The order of strictness of what is shown of a column, which [`crate::shape`] states: of two
//! rules, the stricter one holds.
//!
//! Invariant: the order is total, so that rules give the same shape in whatever order they are
//! combined.

use std::cmp::Ordering;

use crate::shape::{Mask, Shown};

/// Less is stricter.
pub(super) fn compare(one: &Shown, other: &Shown) -> Ordering {
    match (one, other) {
        (Shown::Masked(one), Shown::Masked(other)) => compare_masks(one, other),
        _ => place(one).cmp(&place(other)),
    }
}

fn place(shown: &Shown) -> u8 {
    match shown {
        Shown::Hidden => 0,
        Shown::Masked(_) => 1,
        Shown::AsIs => 2,
    }
}

/// Of the same mask, the one that keeps less is stricter. Where neither keeps less, names decide.
fn compare_masks(one: &Mask, other: &Mask) -> Ordering {
    match (one, other) {
        (Mask::Fixed(one), Mask::Fixed(other)) => one.cmp(other),
        (Mask::Hash(one), Mask::Hash(other)) | (Mask::Tokenise(one), Mask::Tokenise(other)) => {
            one.name.cmp(&other.name)
        }
        (Mask::KeepLast(one), Mask::KeepLast(other)) => one.cmp(other),
        (Mask::Date(one), Mask::Date(other)) => one.cmp(other),
        (Mask::Bucket(one), Mask::Bucket(other)) => other.total_cmp(one),
        _ => place_of_mask(one).cmp(&place_of_mask(other)),
    }
}

fn place_of_mask(mask: &Mask) -> u8 {
    match mask {
        Mask::Null => 0,
        Mask::Fixed(_) => 1,
        Mask::Hash(_) => 2,
        Mask::Tokenise(_) => 3,
        Mask::KeepLast(_) => 4,
        Mask::Date(_) => 5,
        Mask::Bucket(_) => 6,
    }
}

/// In words, without its key.
pub(super) fn describe(shown: &Shown) -> String {
    let mask = match shown {
        Shown::Hidden => return "hidden".to_owned(),
        Shown::AsIs => return "shown".to_owned(),
        Shown::Masked(mask) => mask,
    };
    match mask {
        Mask::Null => "masked:null".to_owned(),
        Mask::Fixed(_) => "masked:fixed".to_owned(),
        Mask::Hash(key) => format!("masked:hash({})", key.name),
        Mask::Tokenise(key) => format!("masked:tokenise({})", key.name),
        Mask::KeepLast(count) => format!("masked:keep_last({count})"),
        Mask::Date(part) => format!("masked:date({part:?})").to_lowercase(),
        Mask::Bucket(width) => format!("masked:bucket({width})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{DatePart, MaskKey};

    #[test]
    fn the_order_is_that_of_the_shape() {
        let key = |name: &str| MaskKey { name: name.to_owned(), secret: [0; 32].into() };
        let ordered = [
            Shown::Hidden,
            Shown::Masked(Mask::Null),
            Shown::Masked(Mask::Fixed("x".to_owned())),
            Shown::Masked(Mask::Hash(key("a"))),
            Shown::Masked(Mask::Hash(key("b"))),
            Shown::Masked(Mask::Tokenise(key("a"))),
            Shown::Masked(Mask::KeepLast(2)),
            Shown::Masked(Mask::KeepLast(4)),
            Shown::Masked(Mask::Date(DatePart::Year)),
            Shown::Masked(Mask::Date(DatePart::Day)),
            Shown::Masked(Mask::Bucket(100.0)),
            Shown::Masked(Mask::Bucket(10.0)),
            Shown::AsIs,
        ];
        for (at, one) in ordered.iter().enumerate() {
            for (other_at, other) in ordered.iter().enumerate() {
                assert_eq!(compare(one, other), at.cmp(&other_at), "{one:?} {other:?}");
            }
        }
    }
}
