//! How much one row can weigh in a figure of its group.
//!
//! `sum(CASE WHEN id = 5 THEN salary * 1e9 ELSE 0 END)` is a figure of one person, however large the group, and so is
//! `sum(floor(salary / 99999))`. So sums and averages are taken of columns as they are and of what is linear in them: sums with each
//! other and with numbers, products with numbers. Numbers are neither so large nor so small, and no more of them, than that
//! rounding cannot be used to tell values apart. Besides there are indicators, which count rows, whose sets are looked at like
//! all others. A product of columns, one of which is zero for all but one row, would be a figure of that row.

use std::collections::BTreeSet;

use arrow::datatypes::DataType;
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{Expr, Operator};

/// Different columns in one sum.
const COLUMNS_MAX: usize = 3;
/// Numbers that a column is added to or multiplied with.
const NUMBERS_MAX: u8 = 4;
/// Of each of them.
const MAGNITUDES: std::ops::RangeInclusive<f64> = 0.001..=1000.0;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Weight {
    /// The same for all rows.
    Constant,
    /// 0 or NULL, or one other constant.
    Indicator,
    /// Linear in these columns of scans, each of which is in it once, with so many numbers.
    Columns { columns: BTreeSet<ScanColumn>, numbers: u8 },
    /// Anything.
    Unknown,
}

/// A column of a table, in one of its scans.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScanColumn {
    /// With its table.
    pub name: String,
    pub scan: usize,
}

impl Weight {
    pub fn of_column(scan: usize, name: String) -> Weight {
        Weight::Columns { columns: BTreeSet::from([ScanColumn { name, scan }]), numbers: 0 }
    }

    pub fn is_columns(&self) -> bool {
        matches!(self, Weight::Columns { .. })
    }

    pub fn is_plain_column(&self) -> bool {
        matches!(self, Weight::Columns { columns, numbers: 0 } if columns.len() == 1)
    }

    fn plus(self, other: Weight) -> Weight {
        match (self, other) {
            (
                Weight::Columns { columns: one, numbers },
                Weight::Columns { columns: other, numbers: of_other },
            ) if one.is_disjoint(&other)
                && one.len() + other.len() <= COLUMNS_MAX
                && numbers + of_other <= NUMBERS_MAX =>
            {
                Weight::Columns {
                    columns: one.into_iter().chain(other).collect(),
                    numbers: numbers + of_other,
                }
            }
            _ => Weight::Unknown,
        }
    }

    fn with_number(self, is_fit: bool) -> Weight {
        match self {
            Weight::Columns { columns, numbers } if is_fit && numbers < NUMBERS_MAX => {
                Weight::Columns { columns, numbers: numbers + 1 }
            }
            _ => Weight::Unknown,
        }
    }
}

pub fn weight_of(expression: &Expr, known: &[(Column, Weight)]) -> Weight {
    let of = |expression: &Expr| weight_of(expression, known);
    match expression {
        Expr::Alias(alias) => of(&alias.expr),
        Expr::Literal(..) => Weight::Constant,
        Expr::Column(column) => {
            let mut named = known.iter().filter(|(other, _)| is_same(column, other));
            match (named.next(), named.next()) {
                (Some((_, weight)), None) => weight.clone(),
                _ => Weight::Unknown,
            }
        }
        Expr::Negative(inner) => of(inner),
        Expr::Cast(cast) => of_cast(&cast.expr, cast.field.data_type(), known),
        Expr::TryCast(cast) => of_cast(&cast.expr, cast.field.data_type(), known),
        Expr::BinaryExpr(binary) => {
            let (left, right) = (of(&binary.left), of(&binary.right));
            match (binary.op, left, right) {
                (
                    Operator::Plus | Operator::Minus | Operator::Multiply,
                    Weight::Constant,
                    Weight::Constant,
                ) => Weight::Constant,
                // A count of other units.
                (Operator::Multiply, Weight::Indicator, Weight::Constant)
                | (Operator::Multiply, Weight::Constant, Weight::Indicator) => Weight::Indicator,
                (Operator::Plus | Operator::Minus | Operator::Multiply, columns, Weight::Constant) => {
                    columns.with_number(is_fit(&binary.right))
                }
                (Operator::Plus | Operator::Minus | Operator::Multiply, Weight::Constant, columns) => {
                    columns.with_number(is_fit(&binary.left))
                }
                (Operator::Plus | Operator::Minus, one, other) => one.plus(other),
                // Of whole numbers it would be a threshold.
                (Operator::Divide, columns, Weight::Constant) => {
                    columns.with_number(is_fit(&binary.right) && is_float(&binary.right))
                }
                _ => Weight::Unknown,
            }
        }
        Expr::Case(case) => {
            let results = case.when_then_expr.iter().map(|(_, then)| then.as_ref());
            indicator(results.chain(case.else_expr.as_deref()))
        }
        Expr::ScalarFunction(function) if function.args.iter().all(|arg| of(arg) == Weight::Constant) => {
            Weight::Constant
        }
        _ => Weight::Unknown,
    }
}

fn is_same(column: &Column, known: &Column) -> bool {
    column.name == known.name && (column.relation.is_none() || column.relation == known.relation)
}

/// A cast of a condition counts rows. One of a column must not round.
fn of_cast(inner: &Expr, to: &DataType, known: &[(Column, Weight)]) -> Weight {
    match inner {
        inner if is_condition(inner) => Weight::Indicator,
        inner => match weight_of(inner, known) {
            weight if *to == DataType::Float64 || weight == Weight::Constant => weight,
            _ => Weight::Unknown,
        },
    }
}

/// A literal's.
pub fn number(expression: &Expr) -> Option<f64> {
    match expression {
        Expr::Literal(value, _) if !value.is_null() => value.to_string().parse().ok(),
        Expr::Negative(inner) => number(inner),
        _ => None,
    }
}

fn is_fit(expression: &Expr) -> bool {
    number(expression).is_some_and(|number| MAGNITUDES.contains(&number.abs()))
}

fn is_float(expression: &Expr) -> bool {
    match expression {
        Expr::Literal(ScalarValue::Float64(_), _) => true,
        Expr::Negative(inner) => is_float(inner),
        _ => false,
    }
}

fn is_condition(expression: &Expr) -> bool {
    match expression {
        Expr::Alias(alias) => is_condition(&alias.expr),
        Expr::BinaryExpr(binary) => {
            binary.op.supports_propagation() || matches!(binary.op, Operator::And | Operator::Or)
        }
        Expr::Not(_)
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNotFalse(_)
        | Expr::Like(_)
        | Expr::InList(_)
        | Expr::Between(_) => true,
        _ => false,
    }
}

/// Whether results are 0 or NULL, but for one constant.
fn indicator<'a>(results: impl Iterator<Item = &'a Expr>) -> Weight {
    let mut one = None;
    for result in results {
        let Expr::Literal(value, _) = result.clone().unalias_nested().data else { return Weight::Unknown };
        let is_zero =
            value.is_null() || matches!(value.to_string().parse::<f64>(), Ok(number) if number == 0.0);
        if is_zero {
            continue;
        }
        if *one.get_or_insert_with(|| value.clone()) != value {
            return Weight::Unknown;
        }
    }
    Weight::Indicator
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{cast, col, lit, when};

    use super::*;

    fn weight(expression: &Expr) -> Weight {
        let known: Vec<(Column, Weight)> = ["a", "b", "c", "d"]
            .map(|name| (Column::from_name(name), Weight::of_column(0, name.to_owned())))
            .to_vec();
        weight_of(expression, &known)
    }

    #[test]
    fn one_row_cannot_be_made_to_outweigh_the_others() {
        let even = [
            col("a"),
            col("a") * lit(3) + lit(1),
            lit(1000) - col("a"),
            -col("a"),
            col("a") + col("b") * lit(0.5),
            col("a") / lit(100.0),
            cast(col("a"), DataType::Float64),
        ];
        for expression in even {
            assert!(weight(&expression).is_columns(), "{expression}");
        }
        let indicators = [
            when(col("a").eq(lit(5)), lit(1)).otherwise(lit(0)).expect("a case"),
            when(col("a").eq(lit(5)), lit(1)).end().expect("a case"),
            cast(col("a").gt(lit(5)), DataType::Int32),
        ];
        for expression in indicators {
            assert_eq!(weight(&expression), Weight::Indicator, "{expression}");
        }
        let unknown = [
            when(col("a").eq(lit(5)), col("b")).otherwise(lit(0)).expect("a case"),
            when(col("a").eq(lit(5)), lit(1_000_000)).otherwise(lit(1)).expect("a case"),
            col("b") * cast(col("a").eq(lit(5)), DataType::Int32),
            col("b") + cast(col("a").eq(lit(5)), DataType::Int32),
            (col("a") - lit(1)) * (col("a") - lit(2)),
            col("a") / (col("b") - lit(5)),
            col("a") * col("b"),
            col("a") + col("b") + col("c") + col("d"),
            col("a") + col("a"),
            col("a") / lit(100),
            col("a") * lit(0),
            col("a") * lit(1e-9),
            col("a") + lit(1e17),
            col("a") * lit(0.001) * lit(0.001) * lit(0.001) * lit(0.001) * lit(0.001),
            cast(col("a"), DataType::Int64),
            cast(col("a") / lit(100.0), DataType::Decimal128(38, 10)),
            datafusion::functions::math::expr_fn::floor(col("a")),
            datafusion::functions::math::expr_fn::round(vec![col("a"), lit(-5)]),
            col("unknown"),
        ];
        for expression in unknown {
            assert_eq!(weight(&expression), Weight::Unknown, "{expression}");
        }
    }
}
