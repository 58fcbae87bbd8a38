//! Fractions in texts of statements (`0.1`), which are numerics in PostgreSQL and doubles to the engine.
//!
//! One beside a whole number, a numeric or another fraction is made a numeric, so that `0.1 + 0.2` is
//! `0.3` and `price * 0.19` loses no cent. Beside a double it stays one, and a numeric beside a double
//! is made a double, as in PostgreSQL: the engine would compare both as numerics with fifteen digits
//! before the point and as many behind it, which larger doubles do not fit.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, ExprSchemable as _, Operator, cast};

/// Of a numeric.
const DIGITS_MAX: usize = 38;

/// What one side of an operator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// A fraction in the text, with so many digits behind the point.
    Fraction(usize),
    Numeric(usize),
    Integer,
    Double,
    Other,
}

impl Side {
    fn of(expr: &Expr, schema: &DFSchema) -> Side {
        if let Some(ScalarValue::Decimal128(_, _, digits)) = numeric(expr) {
            return Side::Fraction(usize::try_from(digits).unwrap_or_default());
        }
        match expr.get_type(schema) {
            Ok(DataType::Decimal128(_, digits)) => Side::Numeric(usize::try_from(digits).unwrap_or_default()),
            Ok(kind) if kind.is_integer() => Side::Integer,
            Ok(DataType::Float32 | DataType::Float64) => Side::Double,
            _ => Side::Other,
        }
    }

    fn digits(self) -> usize {
        match self {
            Side::Fraction(digits) | Side::Numeric(digits) => digits,
            Side::Integer | Side::Double | Side::Other => 0,
        }
    }
}

/// The numeric that a fraction of the text is, in the fewest digits that give the same double.
fn numeric(expr: &Expr) -> Option<ScalarValue> {
    let Expr::Literal(ScalarValue::Float64(Some(value)), _) = expr else { return None };
    let text = value.is_finite().then(|| value.to_string())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let digits = format!("{whole}{fraction}");
    let count = digits.trim_start_matches(['-', '0']).len().max(fraction.len()).max(1);
    let unscaled = (count <= DIGITS_MAX).then(|| digits.parse::<i128>().ok())??;
    let (precision, scale) = (u8::try_from(count).ok()?, i8::try_from(fraction.len()).ok()?);
    Some(ScalarValue::Decimal128(Some(unscaled), precision, scale))
}

fn as_numeric(expr: &mut Expr) -> bool {
    let Some(value) = numeric(expr) else { return false };
    *expr = Expr::Literal(value, None);
    true
}

fn as_double(expr: &mut Expr, schema: &DFSchema) -> bool {
    let is_numeric = matches!(Side::of(expr, schema), Side::Numeric(_));
    if is_numeric {
        *expr = cast(std::mem::take(expr), DataType::Float64);
    }
    is_numeric
}

/// The same expression with fractions as PostgreSQL takes them.
pub fn exact(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let (expr, is_changed) = match expr {
        Expr::BinaryExpr(mut binary) => {
            let is_changed = operator(&mut binary, schema);
            (Expr::BinaryExpr(binary), is_changed)
        }
        Expr::Between(mut between) => {
            let Between { expr, low, high, .. } = &mut between;
            let is_changed = beside(expr, [&mut **low, &mut **high].into_iter(), schema);
            (Expr::Between(between), is_changed)
        }
        Expr::InList(mut list) => {
            let InList { expr, list: items, .. } = &mut list;
            let is_changed = beside(expr, items.iter_mut(), schema);
            (Expr::InList(list), is_changed)
        }
        other => (other, false),
    };
    if is_changed { Transformed::yes(expr) } else { Transformed::no(expr) }
}

fn operator(binary: &mut BinaryExpr, schema: &DFSchema) -> bool {
    use Operator::{
        Divide, Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, Minus, Modulo, Multiply, NotEq,
        Plus,
    };
    let is_arithmetic = matches!(binary.op, Plus | Minus | Multiply | Divide | Modulo);
    let is_comparison =
        matches!(binary.op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom);
    if !is_arithmetic && !is_comparison {
        return false;
    }
    let (left, right) = (Side::of(&binary.left, schema), Side::of(&binary.right, schema));
    let fits = binary.op != Multiply || left.digits() + right.digits() <= DIGITS_MAX;
    match (left, right) {
        (Side::Fraction(_), Side::Fraction(_) | Side::Numeric(_)) | (Side::Numeric(_), Side::Fraction(_)) => {
            fits && (as_numeric(&mut binary.left) | as_numeric(&mut binary.right))
        }
        // A column of whole numbers is compared as it is.
        (Side::Fraction(_), Side::Integer) | (Side::Integer, Side::Fraction(_)) => {
            is_arithmetic && (as_numeric(&mut binary.left) | as_numeric(&mut binary.right))
        }
        (Side::Numeric(_), Side::Double) => as_double(&mut binary.left, schema),
        (Side::Double, Side::Numeric(_)) => as_double(&mut binary.right, schema),
        _ => false,
    }
}

/// What a value is compared with, of its own type.
fn beside<'e>(value: &Expr, others: impl Iterator<Item = &'e mut Expr>, schema: &DFSchema) -> bool {
    let make: fn(&mut Expr, &DFSchema) -> bool = match Side::of(value, schema) {
        Side::Numeric(_) => |expr, _| as_numeric(expr),
        Side::Double => as_double,
        Side::Fraction(_) | Side::Integer | Side::Other => return false,
    };
    others.fold(false, |is_changed, other| make(other, schema) | is_changed)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema};
    use datafusion::common::tree_node::TreeNode as _;
    use datafusion::logical_expr::{col, lit};

    use super::*;

    fn made(expr: Expr) -> String {
        let types = [("n", DataType::Decimal128(10, 2)), ("d", DataType::Float64), ("i", DataType::Int64)];
        let fields = types.map(|(name, kind)| Field::new(name, kind, true));
        let schema = DFSchema::try_from(Schema::new(fields.to_vec())).expect("a schema");
        expr.transform_up(|expr| Ok(exact(expr, &schema))).expect("it is an expression").data.to_string()
    }

    #[test]
    fn fractions_are_numerics_beside_what_is_exact() {
        let tenth = "Decimal128(0.1,1,1)";
        for (expr, expected) in [
            (lit(0.1) + lit(0.2), format!("{tenth} + Decimal128(0.2,1,1)")),
            (lit(0.1) + lit(0.2) + col("i"), format!("{tenth} + Decimal128(0.2,1,1) + i")),
            (col("n") * lit(0.1), format!("n * {tenth}")),
            (col("n").gt(lit(-0.05)), "n > Decimal128(-0.05,2,2)".to_owned()),
            (col("i") * lit(12.5), "i * Decimal128(12.5,3,1)".to_owned()),
            (col("i") / lit(4.0), "i / Decimal128(4,1,0)".to_owned()),
            (col("n").in_list(vec![lit(0.1), lit(2_i64)], false), format!("n IN ([{tenth}, Int64(2)])")),
        ] {
            assert_eq!(made(expr), expected);
        }
    }

    #[test]
    fn doubles_stay_and_make_doubles_of_numerics() {
        for (expr, expected) in [
            (col("d") * lit(0.1), "d * Float64(0.1)"),
            (col("d").gt(col("n")), "d > CAST(n AS Float64)"),
            (col("n") + col("d"), "CAST(n AS Float64) + d"),
            (col("i").gt(lit(0.5)), "i > Float64(0.5)"),
            (col("n") * lit(1e300), "CAST(n AS Float64) * Float64(1000"),
            (
                col("d").between(lit(0.1) - lit(0.01), lit(0.5)),
                "d BETWEEN CAST(Decimal128(0.1,1,1) - Decimal128(0.01,2,2) AS Float64) AND Float64(0.5)",
            ),
        ] {
            let made = made(expr);
            assert!(made.starts_with(expected), "{made}");
        }
    }
}
