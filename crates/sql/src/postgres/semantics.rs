//! What PostgreSQL means by expressions that the engine takes for something else, once their types are known.
//!
//! - A cast to integers rounds, and does not cut.
//! - Intervals are as long as they are, a month thirty days: the engine compares months, then days, then the rest.
//! - A dot of a regular expression is for a newline, too ([`patterns`]).
//! - Bytes are compared with what a text says (`'\x00ff'`), not with its letters.
//!
//! Long texts become views, which mean the same and are not copied for each row.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, Decimal128Array, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, IntervalMonthDayNanoType, IntervalUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::functions::math::expr_fn::round;
use datafusion::logical_expr::expr::{Cast, InList, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable as _, Operator, ScalarUDF};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::analyzer::function_rewrite::ApplyFunctionRewrites;

use super::{lists, patterns, scalar, sides};

const NANOSECONDS_OF_DAY: i128 = 24 * 3600 * 1_000_000_000;
const DAYS_OF_MONTH: i128 = 30;
const LONG_TEXT_BYTES: usize = 1 << 10;

/// The rule, which is to come before all others.
pub fn rule() -> Arc<dyn AnalyzerRule + Send + Sync> {
    Arc::new(ApplyFunctionRewrites::new(vec![Arc::new(Meanings)]))
}

#[derive(Debug)]
struct Meanings;

impl FunctionRewrite for Meanings {
    fn name(&self) -> &'static str {
        "postgres_meanings"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        Ok(match expr {
            Expr::Cast(cast) => rounded(cast, schema),
            Expr::BinaryExpr(binary) if is_comparison(binary.op) => compared(binary, schema),
            Expr::BinaryExpr(binary) if patterns::is_match(binary.op) => patterns::matched(binary, schema),
            Expr::BinaryExpr(binary) if matches!(binary.op, Operator::And | Operator::Or) => {
                lists::apart(binary)?
            }
            Expr::ScalarFunction(call) if is_round(&call, schema) => {
                Transformed::yes(half_even().call(call.args))
            }
            Expr::ScalarFunction(call) => patterns::called(call, schema),
            Expr::Between(mut between) => {
                let is_span = is_interval(&between.expr, schema);
                if is_span {
                    for part in [&mut between.expr, &mut between.low, &mut between.high] {
                        **part = span(std::mem::take(part.as_mut()));
                    }
                }
                match is_span {
                    true => Transformed::yes(Expr::Between(between)),
                    false => Transformed::no(Expr::Between(between)),
                }
            }
            Expr::InList(list) => listed(list, schema),
            // For each row of a batch there is a view of it, and not the text again.
            Expr::Literal(ScalarValue::Utf8(Some(text)), metadata) if text.len() > LONG_TEXT_BYTES => {
                Transformed::yes(Expr::Literal(ScalarValue::Utf8View(Some(text)), metadata))
            }
            other => Transformed::no(other),
        })
    }
}

fn rounded(cast: Cast, schema: &DFSchema) -> Transformed<Expr> {
    let is_fraction = |kind: DataType| kind.is_floating() || kind.is_decimal();
    if !cast.field.data_type().is_integer() || !cast.expr.get_type(schema).is_ok_and(is_fraction) {
        return Transformed::no(Expr::Cast(cast));
    }
    let is_numeric =
        cast.expr.get_type(schema).is_ok_and(|kind| kind.is_decimal()) || is_constant(&cast.expr);
    let rounded = if is_numeric { round(vec![*cast.expr]) } else { half_even().call(vec![*cast.expr]) };
    Transformed::yes(Expr::Cast(Cast { expr: Box::new(rounded), ..cast }))
}

/// A fraction in the text, which is a numeric in PostgreSQL.
fn is_constant(expr: &Expr) -> bool {
    match expr {
        Expr::Negative(inner) => is_constant(inner),
        expr => matches!(expr, Expr::Literal(..)),
    }
}

/// `round(double)`
fn is_round(call: &ScalarFunction, schema: &DFSchema) -> bool {
    let is_double = |arg: &Expr| matches!(arg.get_type(schema), Ok(DataType::Float64)) && !is_constant(arg);
    call.name() == "round" && matches!(&call.args[..], [arg] if is_double(arg))
}

/// To the nearest whole number, and of two to the even one, as doubles are rounded. Numerics are rounded away from 0.
pub fn half_even() -> ScalarUDF {
    scalar::row_wise("kafscale_round", 1, DataType::Float64, |args, _| {
        let doubles = cast(&args[0], &DataType::Float64)?;
        let rounded = doubles.as_primitive::<Float64Type>().iter();
        let rounded: Float64Array = rounded.map(|value| value.map(f64::round_ties_even)).collect();
        Ok(Arc::new(rounded) as ArrayRef)
    })
}

fn compared(binary: BinaryExpr, schema: &DFSchema) -> Transformed<Expr> {
    let BinaryExpr { left, op, right } = binary;
    let made = |left, right| Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right }));
    if is_interval(&left, schema) || is_interval(&right, schema) {
        return made(Box::new(span(*left)), Box::new(span(*right)));
    }
    if is_bytes(&left, schema)
        && let Some(bytes) = bytes_of(&right)
    {
        return made(left, Box::new(bytes));
    }
    if is_bytes(&right, schema)
        && let Some(bytes) = bytes_of(&left)
    {
        return made(Box::new(bytes), right);
    }
    Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right }))
}

fn listed(list: InList, schema: &DFSchema) -> Transformed<Expr> {
    let InList { expr, list, negated } = list;
    if matches!(expr.get_type(schema), Ok(DataType::Boolean)) {
        let list = list.into_iter().map(sides::boolean).collect();
        return Transformed::yes(Expr::InList(InList { expr, list, negated }));
    }
    if !is_bytes(&expr, schema) {
        return Transformed::no(Expr::InList(InList { expr, list, negated }));
    }
    let list = list.into_iter().map(|item| bytes_of(&item).unwrap_or(item)).collect();
    Transformed::yes(Expr::InList(InList { expr, list, negated }))
}

fn is_comparison(operator: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(operator, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

fn is_interval(expr: &Expr, schema: &DFSchema) -> bool {
    matches!(expr.get_type(schema), Ok(DataType::Interval(_) | DataType::Duration(_)))
}

fn is_bytes(expr: &Expr, schema: &DFSchema) -> bool {
    matches!(expr.get_type(schema), Ok(DataType::Binary | DataType::LargeBinary | DataType::BinaryView))
}

/// Bytes that a text stands for.
fn bytes_of(expr: &Expr) -> Option<Expr> {
    let Expr::Literal(value, metadata) = expr else { return None };
    let hex = value.try_as_str()??.strip_prefix("\\x")?;
    let digits = hex.as_bytes().chunks(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    let bytes = (hex.len() % 2 == 0).then(|| bytes.collect::<Option<Vec<u8>>>())??;
    Some(Expr::Literal(ScalarValue::Binary(Some(bytes)), metadata.clone()))
}

fn span(expr: Expr) -> Expr {
    interval_span().call(vec![expr])
}

/// How many nanoseconds an interval has.
pub fn interval_span() -> ScalarUDF {
    scalar::row_wise("kafscale_interval_span", 1, DataType::Decimal128(38, 0), |args, _| {
        // Texts too, and durations.
        let intervals = cast(&args[0], &DataType::Interval(IntervalUnit::MonthDayNano))?;
        let each = intervals.as_primitive::<IntervalMonthDayNanoType>().iter().map(|interval| {
            interval.map(|interval| {
                let days = i128::from(interval.months) * DAYS_OF_MONTH + i128::from(interval.days);
                days * NANOSECONDS_OF_DAY + i128::from(interval.nanoseconds)
            })
        });
        let spans: Decimal128Array = each.collect();
        Ok(Arc::new(spans.with_precision_and_scale(38, 0)?) as ArrayRef)
    })
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema};
    use datafusion::common::tree_node::TreeNode as _;
    use datafusion::logical_expr::{cast as cast_expr, col, lit};

    use super::*;

    #[test]
    fn doubles_are_rounded_to_even_and_numerics_away_from_0() {
        let kinds = [("d", DataType::Float64), ("n", DataType::Decimal128(10, 2))];
        let fields = kinds.map(|(name, kind)| Field::new(name, kind, true));
        let schema = DFSchema::try_from(Schema::new(fields.to_vec())).unwrap();
        let options = ConfigOptions::default();
        for (expr, expected) in [
            (cast_expr(col("d"), DataType::Int32), "CAST(kafscale_round(d) AS Int32)"),
            (cast_expr(col("n"), DataType::Int32), "CAST(round(n) AS Int32)"),
            (round(vec![col("d")]), "kafscale_round(d)"),
            (round(vec![col("n")]), "round(n)"),
            // In a text, it is a numeric.
            (round(vec![lit(2.5)]), "round(Float64(2.5))"),
            (cast_expr(lit(2.5), DataType::Int32), "CAST(round(Float64(2.5)) AS Int32)"),
        ] {
            let made = expr.transform_up(|expr| Meanings.rewrite(expr, &schema, &options)).unwrap().data;
            assert_eq!(made.to_string(), expected);
        }
    }
}
