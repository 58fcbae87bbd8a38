//! Carries out what the rules say of a table, in the plan.
//!
//! Columns and rows are shaped at the scan ([`table`], [`masks`]): a predicate, a join, a sort or an error message that the caller
//! causes sees masked values of permitted rows, and nothing else. Where rows leave only in groups, [`groups`] rewrites the
//! plan, and [`guard`] looks at each group before it leaves, and at what was shown before ([`releases`], [`sketch`]).

mod apart;
pub mod cover;
pub mod entities;
mod exec;
pub mod groups;
pub mod guard;
mod joins;
pub mod leakproof;
pub mod lineage;
pub mod masks;
mod or_null;
pub mod releases;
pub mod sketch;
pub mod table;
mod unique;
mod weight;
pub mod whole;

use std::sync::Arc;

use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Distinct, DistinctOn, Expr, LogicalPlan, SortExpr};
use kafscale_sql::error::SqlError;

use crate::collection::CollectionError;
use crate::shape::TableName;

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

/// What went wrong below what the caller wrote. The cause is for the operator alone: it may name columns and constants of the rules, or
/// have values of rows in it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failed {
    #[error(
        "a row filter of the rules cannot be evaluated on {0}: nothing of it is shown until its operator has mended the rules"
    )]
    Filter(TableName),
    #[error(
        "the rules of {0} name an entity that it does not have: nothing of it is shown until its operator has mended them"
    )]
    NoEntity(TableName),
    #[error("reading {0} failed; its operator finds the cause in the log")]
    Source(TableName),
}

impl From<Failed> for DataFusionError {
    fn from(failed: Failed) -> Self {
        DataFusionError::External(Box::new(failed))
    }
}

/// The same step of a plan with other expressions and inputs: as the engine does it, and one that it cannot do.
fn made_anew(plan: &LogicalPlan, expressions: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<LogicalPlan> {
    // A plan without either is itself: some cannot be made anew.
    if inputs.is_empty() && expressions.is_empty() {
        return Ok(plan.clone());
    }
    if let LogicalPlan::Distinct(Distinct::On(distinct)) = plan
        && let (Some(sort), [input]) = (&distinct.sort_expr, inputs.as_slice())
    {
        let mut expressions = expressions.into_iter();
        let on = expressions.by_ref().take(distinct.on_expr.len()).collect();
        let select = expressions.by_ref().take(distinct.select_expr.len()).collect();
        let sort = sort.iter().zip(expressions).map(|(sort, expr)| SortExpr { expr, ..sort.clone() });
        let distinct = DistinctOn::try_new(on, select, Some(sort.collect()), Arc::new(input.clone()))?;
        return Ok(LogicalPlan::Distinct(Distinct::On(distinct)));
    }
    plan.with_new_exprs(expressions, inputs)
}

fn filter_failed(table: &TableName, cause: &DataFusionError) -> DataFusionError {
    tracing::error!(%table, %cause, "a row filter of the rules cannot be evaluated");
    Failed::Filter(table.clone()).into()
}

/// An error of a source as the caller may know it. What a collection says for itself is fit for it.
fn source_failed(table: &TableName, error: DataFusionError) -> DataFusionError {
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => error,
        DataFusionError::External(inner) if inner.is::<CollectionError>() || inner.is::<SqlError>() => error,
        _ => {
            tracing::warn!(%table, "a source failed in the engine; the text may have values of rows, and is left out");
            Failed::Source(table.clone()).into()
        }
    }
}
