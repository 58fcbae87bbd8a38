//! Two lists for one value, `x IN (1, 2) AND x IN (3)`: the engine makes one of them, and forgets that where the value or an item is
//! NULL, the answer is too. So it is kept from seeing that the value is the same.

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};

use arrow::datatypes::{DataType, FieldRef};

/// `AND` and `OR` whose sides are lists for one value.
pub fn apart(mut binary: BinaryExpr) -> Result<Transformed<Expr>> {
    let value = match (valued(&binary.left), valued(&binary.right)) {
        (Some(one), Some(other)) if one == other => one.clone(),
        _ => return Ok(Transformed::no(Expr::BinaryExpr(binary))),
    };
    let sides = [&*binary.left, &*binary.right];
    // One list of both is right: of what either has, or neither.
    let united = match binary.op {
        Operator::Or => sides.iter().all(|side| !is_negated(side)),
        _ => sides.iter().all(|side| is_negated(side)),
    };
    // And single values are no lists.
    if united || sides.iter().all(|side| is_single(side)) {
        return Ok(Transformed::no(Expr::BinaryExpr(binary)));
    }
    let hidden = |expr: Expr| match expr == value {
        true => Ok(Transformed::new(same().call(vec![expr]), true, TreeNodeRecursion::Jump)),
        false => Ok(Transformed::no(expr)),
    };
    *binary.right = binary.right.transform_down(hidden)?.data;
    Ok(Transformed::yes(Expr::BinaryExpr(binary)))
}

fn is_negated(expr: &Expr) -> bool {
    matches!(expr, Expr::InList(list) if list.negated)
}

fn is_single(expr: &Expr) -> bool {
    matches!(expr, Expr::BinaryExpr(binary) if binary.op == Operator::Eq)
}

/// The value that there is a list for. Equalities joined by `OR` are one, too.
fn valued(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::InList(list) => Some(&list.expr),
        Expr::BinaryExpr(binary) => match binary.op {
            Operator::Eq if matches!(*binary.right, Expr::Literal(..)) => Some(&binary.left),
            Operator::Eq if matches!(*binary.left, Expr::Literal(..)) => Some(&binary.right),
            Operator::Or => {
                let (one, other) = (valued(&binary.left)?, valued(&binary.right)?);
                (one == other).then_some(one)
            }
            _ => None,
        },
        _ => None,
    }
}

/// Gives what it is given.
pub fn same() -> ScalarUDF {
    ScalarUDF::from(Same { signature: Signature::any(1, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Same {
    signature: Signature,
}

impl ScalarUDFImpl for Same {
    fn name(&self) -> &'static str {
        "kafscale_same"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types[0].clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(args.arg_fields[0].clone())
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(args.args.swap_remove(0))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{col, lit};

    use super::*;

    #[test]
    fn lists_for_one_value_are_kept_apart() {
        let list = |of: &[i64]| col("x").in_list(of.iter().map(|item| lit(*item)).collect(), false);
        let either = col("x").eq(lit(3_i64)).or(col("x").eq(lit(4_i64)));
        let hidden = "kafscale_same(x)";
        for (expr, expected) in [
            (
                list(&[1, 2]).and(list(&[3])),
                format!("x IN ([Int64(1), Int64(2)]) AND {hidden} IN ([Int64(3)])"),
            ),
            (
                list(&[1]).and(either),
                format!("x IN ([Int64(1)]) AND ({hidden} = Int64(3) OR {hidden} = Int64(4))"),
            ),
            (
                list(&[1]).or(col("y").in_list(vec![lit(1_i64)], true)),
                "x IN ([Int64(1)]) OR y NOT IN ([Int64(1)])".to_owned(),
            ),
            (col("x").eq(lit(1_i64)).or(col("x").eq(lit(2_i64))), "x = Int64(1) OR x = Int64(2)".to_owned()),
            (list(&[1]).or(list(&[2])), "x IN ([Int64(1)]) OR x IN ([Int64(2)])".to_owned()),
        ] {
            let Expr::BinaryExpr(binary) = expr else { panic!("it is an operator") };
            assert_eq!(apart(binary).unwrap().data.to_string(), expected);
        }
    }

    #[tokio::test]
    async fn an_unknown_value_is_in_no_two_lists() {
        use datafusion::execution::session_state::SessionStateBuilder;
        let mut state = SessionStateBuilder::new().with_default_features().build();
        let mut rules = state.analyzer().rules.clone();
        rules.insert(0, super::super::semantics::rule());
        state = SessionStateBuilder::new_from_existing(state).with_analyzer_rules(rules).build();
        let context = datafusion::prelude::SessionContext::new_with_state(state);
        for (condition, expected) in [
            ("NOT (x IN (1, 2) AND x IN (3, 4))", 3),
            ("(x IN (1, 2) AND x IN (3, 4)) IS NULL", 1),
            ("NOT (x IN (1, NULL) AND x IN (8, 9))", 3),
            ("NOT ((x = 1 OR x = 2) AND (x = 3 OR x = 4))", 3),
            ("x IN (1, 2) AND x NOT IN (2, 3)", 1),
            ("(cast(x AS varchar) ~ '.*') IS NULL", 1),
        ] {
            let sql = format!("SELECT x FROM (VALUES (1), (2), (3), (NULL)) AS t (x) WHERE {condition}");
            assert_eq!(context.sql(&sql).await.unwrap().count().await.unwrap(), expected, "{condition}");
        }
    }
}
