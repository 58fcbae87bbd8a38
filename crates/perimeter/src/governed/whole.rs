//! Expressions over rows that are held until they are in a group: none may fail on a row, since that it failed, and where, would tell
//! of the row. What can be is made so that it gives NULL instead, and the rest is refused: first by what the caller wrote ([`whole`]),
//! and once the engine has put in its casts and types are known, step by step ([`WholeCasts`], [`or_null`]).

use arrow::array::StringArray;
use arrow::compute::kernels::comparison::{ilike, like};
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
use regex::RegexBuilder;

use super::Refused;
use super::guard::Guard;
use super::or_null::{NAME, or_null};
use super::weight::number;

/// Functions that give a value for nearly every row, whatever is in it, and NULL for the others ([`or_null`]).
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
/// Functions of which the optimizer makes expressions, and that cannot be called themselves. They do not fail.
const REPLACED: [&str; 3] = ["coalesce", "now", "nvl"];
/// Functions that put texts together: with a subquery for each, thirty of them make a gigabyte of a letter.
const GROWING: [&str; 4] = ["concat", "concat_ws", "replace", "text_concat"];
/// Functions that take literals.
const WITH_LITERALS: [&str; 10] = [
    "abs",
    "date_part",
    "date_trunc",
    "left",
    "right",
    "round",
    "split_part",
    "substr",
    "substring",
    "trunc",
];
/// What functions begin with that the engine puts in where types differ.
const OF_ENGINE: &str = "kafscale_";
/// Of a pattern of LIKE, in characters.
const LIKE_CHARS_MAX: usize = 1_000;
/// Of a regular expression once it is compiled: how long it takes on a text should not be felt.
const PATTERN_BYTES_MAX: usize = 256 << 10;
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
        Expr::Like(ref like) if is_like_pattern(&like.pattern, like.case_insensitive) => {
            Ok(Transformed::no(part))
        }
        Expr::SimilarTo(ref like) if is_pattern(&like.pattern) => Ok(Transformed::no(part)),
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

/// The text of a literal. None: it is no text.
fn literal(expression: &Expr) -> Option<Option<&str>> {
    match expression {
        Expr::Literal(value, _) if value.is_null() => Some(None),
        Expr::Literal(value, _) => value.try_as_str(),
        _ => None,
    }
}

/// Whether it can be looked for in any text: that it cannot would be told where there is a row only.
fn is_pattern(pattern: &Expr) -> bool {
    let compiles = |text: &str| RegexBuilder::new(text).size_limit(PATTERN_BYTES_MAX).build().is_ok();
    literal(pattern).is_some_and(|text| text.is_none_or(compiles))
}

fn is_like_pattern(pattern: &Expr, is_any_case: bool) -> bool {
    let fits = |text: &str| {
        let (texts, pattern) = (StringArray::from(vec![""]), StringArray::new_scalar(text));
        let found = if is_any_case { ilike(&texts, &pattern) } else { like(&texts, &pattern) };
        text.chars().count() <= LIKE_CHARS_MAX && found.is_ok()
    };
    literal(pattern).is_some_and(|text| text.is_none_or(fits))
}

fn could_fail(part: &Expr) -> Refused {
    Refused::new(
        format!("{part} could fail on single rows, which leave only in groups"),
        "make the groups first, use another function, or give it literals for all arguments but its column; join a table instead of a \
         subquery that depends on the row"
            .to_owned(),
    )
}

/// Casts that the engine puts in by itself give NULL too where they would fail, and so does each step that could.
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
        let treated = expression.transform_up(|part| step(part, &schema))?;
        Ok(treated.update_data(|expression| name.restore(expression)))
    })?;
    treated.data.recompute_schema()
}

/// One step of an expression, whose arguments are treated already.
fn step(part: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let part = match part {
        Expr::Cast(cast) => Expr::TryCast(TryCast { expr: cast.expr, field: cast.field }),
        part => part,
    };
    match can_fail(&part, schema)? {
        Fails::Never => Ok(Transformed::yes(part)),
        Fails::Sometimes { is_growing } => Ok(Transformed::yes(or_null(part, schema, is_growing)?)),
        Fails::AsEngine => Err(could_fail(&part).into()),
    }
}

/// Whether a step fails on some row.
enum Fails {
    Never,
    Sometimes {
        /// Its texts may be longer than those that it is given.
        is_growing: bool,
    },
    /// It may, and it cannot be carried out otherwise.
    AsEngine,
}

fn can_fail(part: &Expr, schema: &DFSchema) -> Result<Fails> {
    let sometimes =
        |is_some: bool| if is_some { Fails::Sometimes { is_growing: false } } else { Fails::Never };
    Ok(match part {
        Expr::TryCast(cast) => {
            let (from, to) = (cast.expr.get_type(schema)?, cast.field.data_type());
            sometimes(!(is_simple(&from) && is_simple(to)))
        }
        Expr::Negative(of) => {
            let of = of.get_type(schema)?;
            sometimes(!(of.is_integer() || of.is_floating()))
        }
        Expr::BinaryExpr(binary) => {
            let (left, right) = (binary.left.get_type(schema)?, binary.right.get_type(schema)?);
            let (are_whole, are_floats) =
                (left.is_integer() && right.is_integer(), left.is_floating() && right.is_floating());
            match binary.op {
                // The engine's sums of whole numbers start anew at the other end of what the type can hold.
                Operator::Plus | Operator::Minus | Operator::Multiply => sometimes(!are_whole && !are_floats),
                Operator::Divide | Operator::Modulo => sometimes(!are_floats),
                Operator::StringConcat => Fails::Sometimes { is_growing: true },
                Operator::And | Operator::Or => Fails::Never,
                _ if !are_compared(&left, &right) => Fails::AsEngine,
                _ => Fails::Never,
            }
        }
        Expr::Between(between) => {
            let of = between.expr.get_type(schema)?;
            let ends = [between.low.get_type(schema)?, between.high.get_type(schema)?];
            // Numbers beside a span are cast where there is a row only.
            let is_fine = !is_span(&of) && ends.iter().all(|end| are_compared(&of, end));
            if is_fine { Fails::Never } else { Fails::AsEngine }
        }
        Expr::InList(list) if list.expr.get_type(schema)?.is_nested() => Fails::AsEngine,
        Expr::Case(case) => match &case.expr {
            Some(of) if of.get_type(schema)?.is_nested() => Fails::AsEngine,
            _ => Fails::Never,
        },
        Expr::ScalarFunction(function) => match function.name() {
            "date_part" if !has_parts(function, schema)? => Fails::AsEngine,
            name if REPLACED.contains(&name) || name == NAME => Fails::Never,
            name if GROWING.contains(&name) => Fails::Sometimes { is_growing: true },
            name => {
                let is_of_engine = name.starts_with(OF_ENGINE);
                sometimes(is_of_engine || FUNCTIONS.contains(&name) || WITH_LITERALS.contains(&name))
            }
        },
        _ => Fails::Never,
    })
}

/// A span of time.
fn is_span(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Interval(_) | DataType::Duration(_))
}

/// Whether values of two types are compared without a failure.
fn are_compared(left: &DataType, right: &DataType) -> bool {
    let is_null = left.is_null() || right.is_null();
    !left.is_nested() && !right.is_nested() && (is_null || is_span(left) == is_span(right))
}

/// Types between which a cast that only tries never fails.
fn is_simple(data_type: &DataType) -> bool {
    let is_text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    data_type.is_integer() || data_type.is_floating() || is_text || *data_type == DataType::Boolean
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
            is_pattern(&binary.right)
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
