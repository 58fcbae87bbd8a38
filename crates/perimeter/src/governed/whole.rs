//! Expressions over rows that are held until they are in a group: none may fail on a row, since that it failed, and where, would tell
//! of the row. What can be is made so that it gives NULL instead, and the rest is refused.

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::functions::core::expr_fn::nullif;
use datafusion::logical_expr::expr::{ScalarFunction, TryCast};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable as _, Extension, LogicalPlan, Operator, lit, when,
};
use datafusion::optimizer::AnalyzerRule;

use super::Refused;
use super::guard::Guard;
use super::weight::number;

/// Functions that give a value for every row, whatever is in it.
const FUNCTIONS: [&str; 32] = [
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
    "ends_with",
    "floor",
    "greatest",
    "initcap",
    "least",
    "length",
    "lower",
    "ltrim",
    "now",
    "nullif",
    "nvl",
    "octet_length",
    "replace",
    "reverse",
    "rtrim",
    "signum",
    "sin",
    "starts_with",
    "strpos",
    "text_concat",
    "trim",
    "upper",
];

/// Parts of a date or a time that all of them have.
const DATE_PARTS: [&str; 9] = ["year", "quarter", "month", "week", "day", "dow", "doy", "isodow", "isoyear"];
const TIME_PARTS: [&str; 4] = ["hour", "minute", "second", "millisecond"];
const LENGTH_MAX: f64 = 1e6;
const DIGITS_MAX: f64 = 15.0;

/// Whether a function gives a value for every row with these arguments: those beside the first are literals, and fit.
fn is_total_with(function: &ScalarFunction) -> bool {
    let number = |at: usize| function.args.get(at).and_then(number).filter(|number| number.fract() == 0.0);
    let text = |at: usize| match function.args.get(at) {
        Some(Expr::Literal(value, _)) => value.try_as_str().flatten().map(str::to_lowercase),
        _ => None,
    };
    let within = |at: usize, range: std::ops::RangeInclusive<f64>| {
        function.args.len() <= at || number(at).is_some_and(|number| range.contains(&number))
    };
    match (function.name(), function.args.len()) {
        ("substr" | "substring", 2 | 3) => within(1, -LENGTH_MAX..=LENGTH_MAX) && within(2, 0.0..=LENGTH_MAX),
        ("left" | "right", 2) => within(1, -LENGTH_MAX..=LENGTH_MAX),
        ("split_part", 3) => text(1).is_some() && within(2, 1.0..=LENGTH_MAX),
        ("round" | "trunc", 1 | 2) => within(1, -DIGITS_MAX..=DIGITS_MAX),
        ("date_part", 2) => {
            text(0).is_some_and(|part| DATE_PARTS.iter().chain(&TIME_PARTS).any(|known| part == *known))
        }
        (name, _) => FUNCTIONS.contains(&name),
    }
}

/// `abs` fails on the smallest whole number, and `date_trunc` on times at the ends of what a type can hold: both are of none.
fn made_total(function: &ScalarFunction) -> Result<Option<Expr>> {
    match (function.name(), function.args.as_slice()) {
        ("abs", [of]) => {
            let minus = Expr::Negative(Box::new(of.clone()));
            Ok(Some(when(of.clone().lt(lit(0)), minus).otherwise(of.clone())?))
        }
        ("date_trunc", [Expr::Literal(part, _), of]) => {
            let part = part.try_as_str().flatten().map(str::to_lowercase).unwrap_or_default();
            let is_known = DATE_PARTS[..5].contains(&part.as_str()) || TIME_PARTS.contains(&part.as_str());
            // Days since 1970: from 1700 to 2200.
            let day = |days: i32| lit(ScalarValue::Date32(Some(days)));
            let fits = of.clone().between(day(-98_615), day(84_005));
            let call = Expr::ScalarFunction(function.clone());
            Ok(if is_known { Some(when(fits, call).end()?) } else { None })
        }
        _ => Ok(None),
    }
}

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
        Expr::ScalarFunction(ref function) if is_total_with(function) => Ok(Transformed::no(part)),
        Expr::ScalarFunction(ref function) => match made_total(function)? {
            Some(total) => Ok(Transformed::yes(total)),
            None => Err(could_fail(&part).into()),
        },
        // What is in it is not looked at here.
        Expr::Exists(ref exists) if exists.subquery.outer_ref_columns.is_empty() => Ok(Transformed::no(part)),
        Expr::InSubquery(ref within) if within.subquery.outer_ref_columns.is_empty() => {
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
        | Expr::InList(_) => Ok(Transformed::no(part)),
        other => Err(could_fail(&other).into()),
    }
}

fn could_fail(part: &Expr) -> Refused {
    Refused::new(
        format!("{part} could fail on single rows, which leave only in groups"),
        "make the groups first, use another function, or give it literals for all arguments but its column; join a table instead of a \
         subquery that depends on the row"
            .to_owned(),
    )
}

/// Casts that the engine puts in by itself give NULL too where they would fail.
#[derive(Debug)]
pub struct WholeCasts;

impl AnalyzerRule for WholeCasts {
    fn name(&self) -> &str {
        "whole_casts"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let of_guard = |node: LogicalPlan| -> Result<Transformed<LogicalPlan>> {
            match node {
                LogicalPlan::Extension(Extension { ref node }) if node.as_any().is::<Guard>() => {
                    let mut inputs = Vec::new();
                    for input in node.inputs() {
                        let input =
                            input.clone().transform_up(|node| Ok(Transformed::yes(without_casts(node)?)));
                        inputs.push(input?.data);
                    }
                    let node = node.with_exprs_and_inputs(node.expressions(), inputs)?;
                    Ok(Transformed::yes(LogicalPlan::Extension(Extension { node })))
                }
                node => Ok(Transformed::no(node)),
            }
        };
        Ok(plan.transform_up_with_subqueries(of_guard)?.data)
    }
}

fn without_casts(node: LogicalPlan) -> Result<LogicalPlan> {
    let names = NamePreserver::new(&node);
    let schema = merge_schema(&node.inputs());
    let treated = node.map_expressions(|expression| {
        let name = names.save(&expression);
        let treated = expression.transform_up(|part| match part {
            Expr::Cast(cast) => {
                Ok(Transformed::yes(Expr::TryCast(TryCast { expr: cast.expr, field: cast.field })))
            }
            Expr::ScalarFunction(ref function)
                if function.name() == "date_part" && !has_parts(function, &schema)? =>
            {
                Err(could_fail(&part).into())
            }
            part => Ok(Transformed::no(part)),
        })?;
        Ok(treated.update_data(|expression| name.restore(expression)))
    })?;
    treated.data.recompute_schema()
}

fn is_zero(value: &ScalarValue) -> bool {
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

/// Whether the type of what `date_part` is asked of has such parts.
fn has_parts(function: &ScalarFunction, schema: &DFSchema) -> Result<bool> {
    let [Expr::Literal(part, _), of] = function.args.as_slice() else { return Ok(false) };
    let of_date =
        part.try_as_str().flatten().is_some_and(|part| DATE_PARTS.contains(&part.to_lowercase().as_str()));
    Ok(match of.get_type(schema)? {
        DataType::Timestamp(..) => true,
        DataType::Date32 | DataType::Date64 => of_date,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use datafusion::functions::expr_fn::{abs, date_trunc, left, split_part, substr, to_char};
    use datafusion::prelude::{col, when};

    use super::*;

    #[test]
    fn other_arguments_of_functions_are_literals_that_fit() {
        let chosen = |one: i64, other: i64| {
            when(col("id").eq(lit(7)), lit(one)).otherwise(lit(other)).expect("a case")
        };
        let fine = [
            substr(col("name"), lit(2)),
            left(col("name"), lit(3)),
            split_part(col("name"), lit("a"), lit(1)),
            date_trunc(lit("month"), col("born")),
            abs(col("id")),
            abs(chosen(i64::MIN, 1)),
        ];
        for expression in fine {
            assert!(whole(expression.clone()).is_ok(), "{expression}");
        }
        let refused = [
            substr(col("name"), chosen(-1, 1)),
            datafusion::functions::unicode::expr_fn::substring(col("name"), lit(1), chosen(-1, 1)),
            datafusion::functions::unicode::expr_fn::substring(col("name"), lit(1), lit(-1)),
            left(col("name"), chosen(i64::MIN, 1)),
            split_part(col("name"), lit("a"), chosen(0, 1)),
            split_part(col("name"), lit("a"), lit(0)),
            split_part(col("name"), col("name"), lit(1)),
            date_trunc(col("name"), col("born")),
            date_trunc(lit("bogus"), col("born")),
            to_char(col("born"), col("name")),
            to_char(col("born"), lit("%Q%!")),
        ];
        for expression in refused {
            assert!(whole(expression.clone()).is_err(), "{expression}");
        }
    }
}
