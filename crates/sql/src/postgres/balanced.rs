//! Long chains of AND and OR, as trees that are hardly deeper than short ones: the planner walks an expression from each of
//! its steps to all below it, so that a chain of a thousand, as deep as it is long, took it ten seconds.
//!
//! The order of conditions stays as it is written, and with it which of them are looked at.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Statement, Value, VisitMut as _, VisitorMut};

/// What is less deep than this is left as it is. A chain that was balanced is, however long it was.
const DEEP: usize = 16;

/// Operators in a row, as in `a + b + c`. The time to plan them grows faster than their number.
pub const DEEPEST: usize = 2_500;

/// See the file's comment.
pub fn balance(statement: &mut Statement) {
    let _ = statement.visit(&mut Chains);
}

/// Whether an expression is a chain of more operators than can be planned in reasonable time. Of `||` any number can: they
/// become one call.
pub fn is_too_deep(statement: &mut Statement) -> bool {
    statement.visit(&mut Depths).is_break()
}

struct Depths;

impl VisitorMut for Depths {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let (mut expr, mut depth) = (&*expr, 0);
        while let Expr::BinaryOp { left, op, .. } = expr
            && *op != BinaryOperator::StringConcat
        {
            depth += 1;
            if depth > DEEPEST {
                return ControlFlow::Break(());
            }
            expr = left;
        }
        ControlFlow::Continue(())
    }
}

struct Chains;

impl VisitorMut for Chains {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Some(op) = chained(expr)
            && depth(expr, &op) > DEEP
        {
            let conditions = conditions(std::mem::replace(expr, nothing()), &op);
            *expr = tree(&mut conditions.into_iter().map(Some).collect::<Vec<_>>(), &op);
        }
        ControlFlow::Continue(())
    }
}

fn nothing() -> Expr {
    Expr::Value(Value::Null.into())
}

fn chained(expr: &Expr) -> Option<BinaryOperator> {
    match expr {
        Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } => Some(op.clone()),
        _ => None,
    }
}

/// How often the same operator stands on the left of itself.
fn depth(mut expr: &Expr, of: &BinaryOperator) -> usize {
    let mut depth = 0;
    while let Expr::BinaryOp { left, op, .. } = expr
        && op == of
    {
        depth += 1;
        expr = left;
    }
    depth
}

/// What the chain consists of, in its order.
fn conditions(chain: Expr, of: &BinaryOperator) -> Vec<Expr> {
    let (mut left, mut found) = (vec![chain], Vec::new());
    while let Some(expr) = left.pop() {
        match expr {
            Expr::BinaryOp { left: one, op, right } if op == *of => left.extend([*right, *one]),
            other => found.push(other),
        }
    }
    found
}

fn tree(conditions: &mut [Option<Expr>], of: &BinaryOperator) -> Expr {
    match conditions {
        [] => nothing(),
        [one] => one.take().unwrap_or_else(nothing),
        several => {
            let (left, right) = several.split_at_mut(several.len() / 2);
            let (left, right) = (Box::new(tree(left, of)), Box::new(tree(right, of)));
            Expr::BinaryOp { left, op: of.clone(), right }
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn balanced(sql: &str) -> Statement {
        let mut statement = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0);
        balance(&mut statement);
        statement
    }

    #[test]
    fn long_chains_are_shallow_and_in_order() {
        for op in ["AND", "OR"] {
            let all: Vec<String> = (0..1_000).map(|i| format!("a = {i}")).collect();
            let sql = format!("SELECT 1 FROM t WHERE {}", all.join(&format!(" {op} ")));
            let text = balanced(&sql).to_string();
            assert_eq!(text, sql, "the order of conditions");
            let Statement::Query(query) = balanced(&sql) else { panic!("{sql}") };
            let expr = query.body.as_select().unwrap().selection.clone().unwrap();
            assert!(depth(&expr, &chained(&expr).unwrap()) <= 10);
        }
    }

    #[test]
    fn a_chain_that_cannot_be_balanced_is_bounded() {
        let long = |count: usize, op: &str| format!("SELECT {}1", format!("a {op} ").repeat(count));
        for (sql, expected) in [
            (long(DEEPEST, "+"), false),
            (long(DEEPEST + 1, "+"), true),
            (long(1_000, "||"), false),
            (long(2_000, "AND"), false),
            (format!("SELECT f(({}))", &long(DEEPEST + 1, "*")[7..]), true),
        ] {
            assert_eq!(is_too_deep(&mut balanced(&sql)), expected, "{}", &sql[..20]);
        }
    }

    #[test]
    fn other_operators_and_short_chains_stay() {
        let sums = format!("SELECT {}1", "1 + ".repeat(100));
        let mixed = "SELECT a AND b OR c AND (d OR e) OR NOT f";
        for sql in [sums.as_str(), mixed] {
            let statement = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0);
            assert_eq!(balanced(sql), statement);
        }
    }
}
