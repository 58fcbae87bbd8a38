//! Whose a held row is, and what it says, are asked apart.
//!
//! `patient_id IN (1, …, 9) OR (patient_id = 7 AND cost > X)` makes a set that is large enough exactly where one row of one person
//! is as the caller asks, so that already whether there is an answer tells of it. A condition of a held row is on its entity or on
//! its other columns; both are joined by AND alone, which makes no set larger.

use datafusion::common::Column;
use datafusion::error::Result;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::split_conjunction;

use super::Refused;

/// What a column of a held row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// It is of a table whose rows are not held.
    Nothing,
    /// Its entity, or something that was found by it.
    Whose,
    /// All other columns of it.
    What,
}

impl Says {
    /// None: both.
    pub fn with(self, other: Says) -> Option<Says> {
        match (self, other) {
            (one, other) if one == other => Some(one),
            (Says::Nothing, one) | (one, Says::Nothing) => Some(one),
            _ => None,
        }
    }
}

/// What an expression is about, which must not be both.
pub fn says(expression: &Expr, known: &[(Column, Says)]) -> Result<Says> {
    let mut all = Says::Nothing;
    for column in expression.column_refs() {
        let mut named = known.iter().filter(|(other, _)| {
            column.name == other.name && (column.relation.is_none() || column.relation == other.relation)
        });
        let of = named.next().map_or(Says::Nothing, |(_, says)| *says);
        all = all.with(of).ok_or_else(|| mixed(&expression.to_string()))?;
    }
    Ok(all)
}

/// Each part of a conjunction for itself.
pub fn conjuncts_are_apart(condition: &Expr, known: &[(Column, Says)]) -> Result<()> {
    split_conjunction(condition).into_iter().try_for_each(|part| says(part, known).map(drop))
}

pub fn mixed(what: &str) -> Refused {
    Refused::new(
        format!("{what} asks in one whose a row is and what is in it, which could single out one row"),
        "write conditions on the entity of the groups for themselves, joined to others by AND".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;

    #[test]
    fn whose_and_what_are_joined_by_and_alone() {
        let known =
            [("id", Says::Whose), ("cost", Says::What), ("month", Says::What), ("beds", Says::Nothing)]
                .map(|(name, says)| (Column::from_name(name), says));
        let fine = [
            col("id").eq(lit(7)).and(col("cost").gt(lit(5))),
            col("id").eq(lit(7)).or(col("id").eq(lit(8))),
            col("cost").gt(lit(5)).or(col("month").eq(lit(3))).and(col("id").gt(lit(5))),
            col("beds").gt(lit(5)).or(col("month").eq(lit(3))),
        ];
        for condition in fine {
            assert!(conjuncts_are_apart(&condition, &known).is_ok(), "{condition}");
        }
        let refused = [
            col("id").lt(lit(10)).or(col("id").eq(lit(7)).and(col("cost").gt(lit(5)))),
            !(col("id").eq(lit(7)).and(col("cost").gt(lit(5)))),
            (col("id") * lit(1_000_000) + col("cost")).gt(lit(5)),
            col("id").eq(col("month")),
        ];
        for condition in refused {
            assert!(conjuncts_are_apart(&condition, &known).is_err(), "{condition}");
        }
    }
}
