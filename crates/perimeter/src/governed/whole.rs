//! Expressions over rows that are held until they are in a group: none may fail on a row, since that it failed, and where, would tell
//! of the row. What can be is made so that it gives NULL instead, and the rest is refused.

use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::error::Result;
use datafusion::functions::core::expr_fn::nullif;
use datafusion::logical_expr::expr::TryCast;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, lit};

use super::Refused;

/// Functions that give a value for every row, whatever is in it.
const FUNCTIONS: [&str; 44] = [
    "abs",
    "ascii",
    "bit_length",
    "btrim",
    "ceil",
    "char_length",
    "character_length",
    "coalesce",
    "concat",
    "concat_ws",
    "cos",
    "date_bin",
    "date_part",
    "date_trunc",
    "ends_with",
    "floor",
    "greatest",
    "initcap",
    "least",
    "left",
    "length",
    "lower",
    "ltrim",
    "now",
    "nullif",
    "nvl",
    "octet_length",
    "replace",
    "reverse",
    "right",
    "round",
    "rtrim",
    "signum",
    "sin",
    "split_part",
    "starts_with",
    "strpos",
    "substr",
    "substring",
    "text_concat",
    "to_char",
    "trunc",
    "upper",
    "trim",
];

/// The same expression, which gives NULL where it would fail.
pub fn whole(expression: Expr) -> Result<Expr> {
    Ok(expression.transform_up(part)?.data)
}

fn part(part: Expr) -> Result<Transformed<Expr>> {
    match part {
        Expr::Cast(cast) => {
            Ok(Transformed::yes(Expr::TryCast(TryCast { expr: cast.expr, field: cast.field })))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Divide | Operator::Modulo), right }) => {
            let right = match *right {
                Expr::Literal(ref value, _) if !is_zero(value) => *right,
                right => nullif(right, lit(0)),
            };
            Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right: Box::new(right) })))
        }
        Expr::BinaryExpr(ref binary) if is_total(binary) => Ok(Transformed::no(part)),
        Expr::Like(ref like) | Expr::SimilarTo(ref like) if matches!(*like.pattern, Expr::Literal(..)) => {
            Ok(Transformed::no(part))
        }
        Expr::ScalarFunction(ref function) if FUNCTIONS.contains(&function.name()) => {
            Ok(Transformed::no(part))
        }
        Expr::Alias(_)
        | Expr::Column(_)
        | Expr::Literal(..)
        | Expr::Not(_)
        | Expr::IsNotNull(_)
        | Expr::IsNull(_)
        | Expr::IsTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNotFalse(_)
        | Expr::IsNotUnknown(_)
        | Expr::Negative(_)
        | Expr::Between(_)
        | Expr::Case(_)
        | Expr::TryCast(_)
        | Expr::InList(_)
        | Expr::Exists(_)
        | Expr::InSubquery(_)
        | Expr::OuterReferenceColumn(..) => Ok(Transformed::no(part)),
        other => Err(Refused::new(
            format!("{other} could fail on single rows, which leave only in groups"),
            "make the groups first, or use another function".to_owned(),
        )
        .into()),
    }
}

fn is_zero(value: &datafusion::common::ScalarValue) -> bool {
    value.is_null() || value.to_string().parse::<f64>().is_ok_and(|number| number == 0.0)
}

fn is_total(binary: &BinaryExpr) -> bool {
    match binary.op {
        Operator::Eq
        | Operator::NotEq
        | Operator::Lt
        | Operator::LtEq
        | Operator::Gt
        | Operator::GtEq
        | Operator::Plus
        | Operator::Minus
        | Operator::Multiply
        | Operator::And
        | Operator::Or
        | Operator::IsDistinctFrom
        | Operator::IsNotDistinctFrom
        | Operator::StringConcat => true,
        Operator::RegexMatch | Operator::RegexIMatch | Operator::RegexNotMatch | Operator::RegexNotIMatch => {
            matches!(*binary.right, Expr::Literal(..))
        }
        _ => false,
    }
}
