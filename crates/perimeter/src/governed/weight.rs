//! How much one row can weigh in a figure of its group.
//!
//! `sum(CASE WHEN id = 5 THEN salary * 1e9 ELSE 0 END)` is a figure of one person, however large the group. So sums and averages are
//! taken of columns as they are, of sums and products with constants, and of a few different columns with each other; and of
//! indicators, which count rows, whose groups are looked at like all others. A product of the same column with itself could be zero
//! for all but one value.

use std::collections::BTreeSet;

use datafusion::common::Column;
use datafusion::logical_expr::{Expr, Operator};

/// Different columns in one product or sum.
const COLUMNS_MAX: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Weight {
    /// The same for all rows.
    Constant,
    /// 0 or NULL, or one other constant.
    Indicator,
    /// Of these columns of scans, each of which is in it once.
    Columns(BTreeSet<ScanColumn>),
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
        Weight::Columns(BTreeSet::from([ScanColumn { name, scan }]))
    }

    fn with(self, other: Weight) -> Weight {
        match (self, other) {
            (Weight::Constant, Weight::Constant) => Weight::Constant,
            (Weight::Constant, Weight::Columns(columns)) | (Weight::Columns(columns), Weight::Constant) => {
                Weight::Columns(columns)
            }
            (Weight::Columns(one), Weight::Columns(other))
                if one.is_disjoint(&other) && one.len() + other.len() <= COLUMNS_MAX =>
            {
                Weight::Columns(one.into_iter().chain(other).collect())
            }
            _ => Weight::Unknown,
        }
    }
}

/// Functions of columns that keep apart what is apart, and no more than that.
const EVEN: [&str; 8] =
    ["round", "floor", "ceil", "date_part", "length", "char_length", "character_length", "octet_length"];

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
        Expr::Cast(cast) => of_cast(&cast.expr, known),
        Expr::TryCast(cast) => of_cast(&cast.expr, known),
        Expr::BinaryExpr(binary) => match binary.op {
            Operator::Plus | Operator::Minus | Operator::Multiply => {
                match (of(&binary.left), of(&binary.right)) {
                    // A count of other units.
                    (Weight::Indicator, Weight::Constant) | (Weight::Constant, Weight::Indicator)
                        if binary.op == Operator::Multiply =>
                    {
                        Weight::Indicator
                    }
                    (left, right) => left.with(right),
                }
            }
            Operator::Divide if of(&binary.right) == Weight::Constant => of(&binary.left),
            _ => Weight::Unknown,
        },
        Expr::Case(case) => {
            let results = case.when_then_expr.iter().map(|(_, then)| then.as_ref());
            indicator(results.chain(case.else_expr.as_deref()))
        }
        Expr::ScalarFunction(function) => {
            let args: Vec<Weight> = function.args.iter().map(of).collect();
            if args.iter().all(|weight| *weight == Weight::Constant) {
                return Weight::Constant;
            }
            let is_even = EVEN.contains(&function.name())
                || (function.name() == "coalesce" && matches!(args.as_slice(), [_, Weight::Constant]));
            let mut varying = args.into_iter().filter(|weight| *weight != Weight::Constant);
            match (is_even, varying.next(), varying.next()) {
                (true, Some(weight @ Weight::Columns(_)), None) => weight,
                _ => Weight::Unknown,
            }
        }
        _ => Weight::Unknown,
    }
}

fn is_same(column: &Column, known: &Column) -> bool {
    column.name == known.name && (column.relation.is_none() || column.relation == known.relation)
}

fn of_cast(inner: &Expr, known: &[(Column, Weight)]) -> Weight {
    match inner {
        inner if is_condition(inner) => Weight::Indicator,
        inner => weight_of(inner, known),
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
    use arrow::datatypes::DataType;
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
            -col("a"),
            col("a") * col("b"),
            col("a") / lit(100),
            cast(col("a"), DataType::Float64),
        ];
        for expression in even {
            assert!(matches!(weight(&expression), Weight::Columns(_)), "{expression}");
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
            col("a") * col("b") * col("c") * col("d"),
            col("unknown"),
        ];
        for expression in unknown {
            assert_eq!(weight(&expression), Weight::Unknown, "{expression}");
        }
    }
}
