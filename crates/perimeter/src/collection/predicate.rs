//! Conditions on the columns of a table, in the few forms that a source may be asked to apply, and
//! what is gained by that.
//!
//! Invariant: a predicate means what the expression of the engine means. Whatever has no such form
//! is left to the engine.

use arrow::datatypes::{DataType, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Like, Operator, TableProviderFilterPushDown};

/// Values that a list may have, to be sent to a source.
const LIST_MAX: usize = 1_000;

#[derive(Debug, Clone, PartialEq)]
pub enum Predicate {
    Leaf(Leaf),
    All(Vec<Predicate>),
    Any(Vec<Predicate>),
}

/// A test of one column, by its place in the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Leaf {
    pub column: usize,
    pub test: Test,
}

/// Values are of the column's type, and never NULL. A test of NULL is never true, but for
/// [`Test::Null`].
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    Compare(Comparison, ScalarValue),
    In {
        values: Vec<ScalarValue>,
        negated: bool,
    },
    Null {
        negated: bool,
    },
    /// With `%` and `_`, and a backslash before one of them.
    Like {
        pattern: String,
        negated: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Eq,
    NotEq,
    Lt,
    LtEq,
    Gt,
    GtEq,
}

/// What a source makes of a predicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pushed {
    /// It is not told.
    No,
    /// It leaves out some of the rows that do not fulfil it.
    Partly,
    /// It gives exactly the rows that fulfil it.
    Wholly,
}

impl From<Pushed> for TableProviderFilterPushDown {
    fn from(pushed: Pushed) -> Self {
        match pushed {
            Pushed::No => TableProviderFilterPushDown::Unsupported,
            Pushed::Partly => TableProviderFilterPushDown::Inexact,
            Pushed::Wholly => TableProviderFilterPushDown::Exact,
        }
    }
}

impl Comparison {
    pub fn sql(self) -> &'static str {
        match self {
            Comparison::Eq => "=",
            Comparison::NotEq => "<>",
            Comparison::Lt => "<",
            Comparison::LtEq => "<=",
            Comparison::Gt => ">",
            Comparison::GtEq => ">=",
        }
    }

    pub fn is_equality(self) -> bool {
        matches!(self, Comparison::Eq | Comparison::NotEq)
    }

    fn of(op: Operator) -> Option<Comparison> {
        Some(match op {
            Operator::Eq => Comparison::Eq,
            Operator::NotEq => Comparison::NotEq,
            Operator::Lt => Comparison::Lt,
            Operator::LtEq => Comparison::LtEq,
            Operator::Gt => Comparison::Gt,
            Operator::GtEq => Comparison::GtEq,
            _ => return None,
        })
    }

    /// With its sides exchanged.
    fn turned(self) -> Comparison {
        match self {
            Comparison::Lt => Comparison::Gt,
            Comparison::LtEq => Comparison::GtEq,
            Comparison::Gt => Comparison::Lt,
            Comparison::GtEq => Comparison::LtEq,
            Comparison::Eq | Comparison::NotEq => self,
        }
    }
}

impl Predicate {
    pub fn of(expr: &Expr, schema: &Schema) -> Option<Predicate> {
        match expr {
            Expr::BinaryExpr(binary) => Self::of_binary(binary, schema),
            Expr::Column(_) => Self::of_truth(expr, schema, true),
            Expr::Not(inner) => Self::of_truth(inner, schema, false),
            Expr::IsNull(inner) => Some(leaf(column(inner, schema)?, Test::Null { negated: false })),
            Expr::IsNotNull(inner) => Some(leaf(column(inner, schema)?, Test::Null { negated: true })),
            Expr::InList(list) => Self::of_list(list, schema),
            Expr::Between(between) => Self::of_between(between, schema),
            Expr::Like(like) => Self::of_like(like, schema),
            _ => None,
        }
    }

    /// What the source makes of all of it, by what it makes of each leaf.
    pub fn pushed(&self, of_leaf: &impl Fn(&Leaf) -> Pushed) -> Pushed {
        match self {
            Predicate::Leaf(leaf) => of_leaf(leaf),
            Predicate::All(parts) | Predicate::Any(parts) => {
                parts.iter().map(|part| part.pushed(of_leaf)).min().unwrap_or(Pushed::No)
            }
        }
    }

    fn of_binary(binary: &BinaryExpr, schema: &Schema) -> Option<Predicate> {
        let both = || Some(vec![Self::of(&binary.left, schema)?, Self::of(&binary.right, schema)?]);
        match binary.op {
            Operator::And => Some(Predicate::All(both()?)),
            Operator::Or => Some(Predicate::Any(both()?)),
            op => {
                let op = Comparison::of(op)?;
                let (column_expr, value, op) = match (&*binary.left, &*binary.right) {
                    (left @ Expr::Column(_), Expr::Literal(value, _)) => (left, value, op),
                    (Expr::Literal(value, _), right @ Expr::Column(_)) => (right, value, op.turned()),
                    _ => return None,
                };
                Self::comparison(column(column_expr, schema)?, op, value, schema)
            }
        }
    }

    fn comparison(column: usize, op: Comparison, value: &ScalarValue, schema: &Schema) -> Option<Predicate> {
        is_value_of(value, schema.field(column).data_type())
            .then(|| leaf(column, Test::Compare(op, value.clone())))
    }

    fn of_truth(expr: &Expr, schema: &Schema, truth: bool) -> Option<Predicate> {
        let column = column(expr, schema)?;
        Self::comparison(column, Comparison::Eq, &ScalarValue::Boolean(Some(truth)), schema)
    }

    fn of_list(list: &InList, schema: &Schema) -> Option<Predicate> {
        let column = column(&list.expr, schema)?;
        let data_type = schema.field(column).data_type();
        if list.list.is_empty() || list.list.len() > LIST_MAX {
            return None;
        }
        let value = |expr: &Expr| match expr {
            Expr::Literal(value, _) if is_value_of(value, data_type) => Some(value.clone()),
            _ => None,
        };
        let values = list.list.iter().map(value).collect::<Option<Vec<_>>>()?;
        Some(leaf(column, Test::In { values, negated: list.negated }))
    }

    fn of_between(between: &Between, schema: &Schema) -> Option<Predicate> {
        let column = column(&between.expr, schema)?;
        let (Expr::Literal(low, _), Expr::Literal(high, _)) = (&*between.low, &*between.high) else {
            return None;
        };
        let side = |op, value| Self::comparison(column, op, value, schema);
        Some(match between.negated {
            false => Predicate::All(vec![side(Comparison::GtEq, low)?, side(Comparison::LtEq, high)?]),
            true => Predicate::Any(vec![side(Comparison::Lt, low)?, side(Comparison::Gt, high)?]),
        })
    }

    fn of_like(like: &Like, schema: &Schema) -> Option<Predicate> {
        let Expr::Literal(pattern, _) = &*like.pattern else { return None };
        let pattern = text(pattern)?;
        let column = column(&like.expr, schema)?;
        let plain = like.escape_char.is_none() && !like.case_insensitive;
        let is_text = is_text(schema.field(column).data_type());
        (plain && is_text)
            .then(|| leaf(column, Test::Like { pattern: pattern.to_owned(), negated: like.negated }))
    }
}

fn leaf(column: usize, test: Test) -> Predicate {
    Predicate::Leaf(Leaf { column, test })
}

fn column(expr: &Expr, schema: &Schema) -> Option<usize> {
    match expr {
        Expr::Column(column) => schema.index_of(&column.name).ok(),
        _ => None,
    }
}

/// The text of a literal, however the engine keeps it.
pub fn text(value: &ScalarValue) -> Option<&str> {
    match value {
        ScalarValue::Utf8(Some(text))
        | ScalarValue::Utf8View(Some(text))
        | ScalarValue::LargeUtf8(Some(text)) => Some(text),
        _ => None,
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8)
}

fn is_value_of(value: &ScalarValue, data_type: &DataType) -> bool {
    match is_text(data_type) {
        true => text(value).is_some(),
        false => !value.is_null() && value.data_type() == *data_type,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;
    use datafusion::logical_expr::{col, lit};

    use super::*;

    fn schema() -> Schema {
        let field = |name, data_type| Field::new(name, data_type, true);
        Schema::new(vec![
            field("id", DataType::Int64),
            field("name", DataType::Utf8),
            field("live", DataType::Boolean),
        ])
    }

    fn of(expr: &Expr) -> Option<Predicate> {
        Predicate::of(expr, &schema())
    }

    #[test]
    fn a_literal_may_stand_on_either_side() {
        let expected = leaf(0, Test::Compare(Comparison::Lt, ScalarValue::Int64(Some(7))));
        assert_eq!(of(&col("id").lt(lit(7_i64))), Some(expected.clone()));
        assert_eq!(of(&lit(7_i64).gt(col("id"))), Some(expected));
    }

    #[test]
    fn a_boolean_column_is_a_condition() {
        assert_eq!(
            of(&Expr::Not(Box::new(col("live")))),
            Some(leaf(2, Test::Compare(Comparison::Eq, ScalarValue::Boolean(Some(false)))))
        );
        assert_eq!(of(&col("name")), None, "a text is not");
    }

    #[test]
    fn what_could_mean_something_else_is_left_to_the_engine() {
        let left = [
            col("id").eq(lit(7_i32)),
            col("id").eq(lit(ScalarValue::Int64(None))),
            col("id").eq(col("id")),
            col("nosuch").eq(lit(7_i64)),
            col("id").in_list(vec![lit(1_i64), lit(ScalarValue::Int64(None))], true),
            col("id").in_list((0..2_000_i64).map(lit).collect(), false),
            col("name").ilike(lit("a%")),
            col("id").lt(lit(7_i64)).and(col("id").eq(col("id"))),
        ];
        for expr in left {
            assert_eq!(of(&expr), None, "{expr}");
        }
    }

    #[test]
    fn the_whole_is_pushed_as_far_as_its_weakest_part() {
        let both = of(&col("id").gt(lit(1_i64)).or(col("name").eq(lit("a")))).expect("it has a form");
        let of_leaf = |leaf: &Leaf| if leaf.column == 0 { Pushed::Wholly } else { Pushed::Partly };
        assert_eq!(both.pushed(&of_leaf), Pushed::Partly);
    }
}
