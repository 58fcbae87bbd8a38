//! Carries out what the rules say of a table, in the plan.
//!
//! Columns and rows are shaped at the scan ([`table`], [`masks`]): a predicate, a join, a sort or an error message that the caller
//! causes sees masked values of permitted rows, and nothing else. Where rows leave only in groups, [`groups`] rewrites the
//! plan, and [`guard`] looks at each group before it leaves.

mod exec;
pub mod groups;
pub mod guard;
pub mod leakproof;
pub mod lineage;
pub mod masks;
pub mod releases;
pub mod sketch;
pub mod table;
mod weight;
mod whole;

use datafusion::error::DataFusionError;

/// What a caller asked for that the rules do not let it have, and what it may ask for instead.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub struct Refused {
    pub why: String,
    pub hint: String,
}

impl Refused {
    pub fn new(why: String, hint: String) -> Refused {
        Refused { why, hint }
    }
}

impl From<Refused> for DataFusionError {
    fn from(refused: Refused) -> Self {
        DataFusionError::External(Box::new(refused))
    }
}
