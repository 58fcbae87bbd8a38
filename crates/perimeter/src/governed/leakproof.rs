//! Conditions that may be evaluated on rows which the caller may not see: they cannot fail, and tell nothing but whether they hold.
//! Everything else waits until the rules have taken rows and values away.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, Operator};

/// Whether a condition of the caller may be handed to the source of a table. What it says about masked columns, its caller looks at.
pub fn is_leakproof(condition: &Expr) -> bool {
    let mut fine = true;
    let walked = condition.apply(|part| {
        fine &= part_is_leakproof(part);
        Ok(if fine { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    fine && walked.is_ok()
}

fn part_is_leakproof(part: &Expr) -> bool {
    match part {
        Expr::Column(_)
        | Expr::Literal(..)
        | Expr::Not(_)
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNotFalse(_)
        | Expr::IsNotUnknown(_)
        | Expr::Between(_)
        | Expr::TryCast(_)
        | Expr::InList(_) => true,
        // A pattern is a literal, or it could be one of another row that cannot be read as a pattern.
        Expr::Like(like) => matches!(*like.pattern, Expr::Literal(..)) && like.escape_char.is_none(),
        Expr::BinaryExpr(binary) => is_comparison(binary.op),
        Expr::Cast(cast) => matches!(*cast.expr, Expr::Column(_)) && keeps_values(cast.field.data_type()),
        _ => false,
    }
}

/// AND and OR, too.
pub(super) fn is_comparison(operator: Operator) -> bool {
    matches!(
        operator,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::And
            | Operator::Or
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

/// A cast to these is one of the engine's own, from something narrower.
fn keeps_values(to: &DataType) -> bool {
    matches!(to, DataType::Float64 | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{cast, col, lit, try_cast};

    use super::*;

    #[test]
    fn only_what_cannot_fail_is_leakproof() {
        let fine = [
            col("a").eq(lit(1)),
            col("a").gt(lit(1)).and(col("b").is_null()).or(!col("c").eq(lit("x"))),
            col("a").in_list(vec![lit(1), lit(2)], false),
            col("name").like(lit("A%")),
            col("a").between(lit(1), lit(2)),
            cast(col("a"), DataType::Float64).lt(lit(0.5)),
            try_cast(col("a"), DataType::Int32).eq(lit(1)),
        ];
        for condition in fine {
            assert!(is_leakproof(&condition), "{condition}");
        }
        let refused = [
            (lit(1) / col("a")).gt(lit(0)),
            cast(col("name"), DataType::Int32).eq(lit(1)),
            col("name").like(col("pattern")),
            (col("a") + lit(1)).gt(lit(0)),
            datafusion::functions::string::expr_fn::lower(col("name")).eq(lit("x")),
        ];
        for condition in refused {
            assert!(!is_leakproof(&condition), "{condition}");
        }
    }
}
