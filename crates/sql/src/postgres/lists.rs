//! Lists of values for the same expression: `a IN (1, 2) AND a IN (3, 4)`.
//!
//! The engine makes one list of two, and FALSE where nothing is left. That is right for rows that are chosen, and wrong
//! where NULL tells from false, as under NOT: where `a` is NULL, or a list has a NULL, both are unknown. So all but the first
//! are asked of `coalesce(a, NULL)`, which is the same value and another expression.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Statement, UnaryOperator, VisitMut, VisitorMut};

use super::rewrite::expression;

/// Keeps lists apart that the engine must not put together.
pub fn keep_apart(statement: &mut Statement) {
    let _ = statement.visit(&mut Lists::default());
}

#[derive(Default)]
struct Lists {
    /// Whether the expressions around the one that is visited only join conditions.
    joins: Vec<bool>,
}

impl VisitorMut for Lists {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let is_within = self.joins.last().copied().unwrap_or(false);
        let joins = matches!(expr, Expr::Nested(_) | Expr::UnaryOp { op: UnaryOperator::Not, .. })
            || operator(expr).is_some();
        self.joins.push(joins);
        if joins && !is_within {
            of_all(expr);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _: &mut Expr) -> ControlFlow<()> {
        self.joins.pop();
        ControlFlow::Continue(())
    }
}

/// AND or OR.
fn operator(expr: &Expr) -> Option<BinaryOperator> {
    match expr {
        Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } => Some(op.clone()),
        _ => None,
    }
}

/// An expression without parentheses and NOT, and whether it is negated.
fn plain(mut expr: &mut Expr) -> (&mut Expr, bool) {
    let mut negated = false;
    loop {
        expr = match expr {
            Expr::Nested(inner) => inner,
            Expr::UnaryOp { op: UnaryOperator::Not, expr: inner } => {
                negated = !negated;
                inner
            }
            other => return (other, negated),
        };
    }
}

fn of_all(expr: &mut Expr) {
    let mut chains = vec![plain(expr).0];
    while let Some(chain) = chains.pop() {
        let Some(op) = operator(chain) else { continue };
        let mut members = Vec::new();
        let mut rest = vec![chain];
        while let Some(part) = rest.pop() {
            if !matches!(part, Expr::Nested(_)) && operator(part).as_ref() != Some(&op) {
                members.push(part);
                continue;
            }
            match part {
                Expr::Nested(inner) => rest.push(inner),
                Expr::BinaryOp { left, right, .. } => rest.extend([&mut **right, left]),
                _ => {}
            }
        }
        of_chain(&op, &mut members);
        chains.extend(
            members.into_iter().map(|member| plain(member).0).filter(|member| operator(member).is_some()),
        );
    }
}

fn of_chain(op: &BinaryOperator, members: &mut [&mut Expr]) {
    // By what is looked for: the members, and whether they say that it is not in their lists.
    let mut found: HashMap<String, Vec<(usize, bool)>> = HashMap::new();
    for (at, member) in members.iter_mut().enumerate() {
        let (member, negated) = plain(member);
        if let Some((of, not_in)) = list_of(member) {
            found.entry(of).or_default().push((at, not_in != negated));
        }
    }
    for lists in found.into_values().filter(|lists| lists.len() > 1) {
        // One list of all values is right then.
        let united = match op {
            BinaryOperator::Or => lists.iter().all(|(_, negated)| !negated),
            _ => lists.iter().all(|(_, negated)| *negated),
        };
        if !united {
            lists.into_iter().skip(1).for_each(|(at, _)| ask_of_another(plain(members[at]).0));
        }
    }
}

/// What is looked for, and whether the list must not have it. Equalities joined by OR are a list.
fn list_of(expr: &Expr) -> Option<(String, bool)> {
    match expr {
        Expr::InList { expr, negated, .. } => Some((expr.to_string(), *negated)),
        Expr::BinaryOp { op: BinaryOperator::Or, .. } => {
            let mut of = None;
            let mut rest = vec![expr];
            while let Some(part) = rest.pop() {
                let looked_for = match part {
                    Expr::Nested(inner) => {
                        rest.push(inner);
                        continue;
                    }
                    Expr::BinaryOp { left, op: BinaryOperator::Or, right } => {
                        rest.extend([&**left, right]);
                        continue;
                    }
                    Expr::BinaryOp { left, op: BinaryOperator::Eq, .. } => left.to_string(),
                    Expr::InList { expr, negated: false, .. } => expr.to_string(),
                    _ => return None,
                };
                if of.get_or_insert_with(|| looked_for.clone()) != &looked_for {
                    return None;
                }
            }
            of.map(|of| (of, false))
        }
        _ => None,
    }
}

fn ask_of_another(expr: &mut Expr) {
    let mut rest = vec![expr];
    while let Some(part) = rest.pop() {
        match part {
            Expr::Nested(inner) => rest.push(inner),
            Expr::BinaryOp { left, op: BinaryOperator::Or, right } => rest.extend([&mut **left, right]),
            Expr::BinaryOp { left: looked_for, op: BinaryOperator::Eq, .. }
            | Expr::InList { expr: looked_for, .. } => {
                **looked_for = expression(&format!("coalesce({looked_for}, NULL)"));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn kept_apart(condition: &str) -> String {
        let sql = format!("SELECT 1 FROM t WHERE {condition}");
        let mut statement = Parser::parse_sql(&PostgreSqlDialect {}, &sql).unwrap().remove(0);
        keep_apart(&mut statement);
        statement.to_string().replace("SELECT 1 FROM t WHERE ", "")
    }

    #[test]
    fn lists_that_would_be_intersected_are_of_different_expressions() {
        for (condition, apart) in [
            ("NOT (a IN (1, 2) AND a IN (3))", "NOT (a IN (1, 2) AND coalesce(a, NULL) IN (3))"),
            (
                "(a IN (1) AND b > 1 AND a NOT IN (2)) IS NULL",
                "(a IN (1) AND b > 1 AND coalesce(a, NULL) NOT IN (2)) IS NULL",
            ),
            ("a NOT IN (1) OR a NOT IN (2)", "a NOT IN (1) OR coalesce(a, NULL) NOT IN (2)"),
            ("a IN (1) OR NOT a IN (2)", "a IN (1) OR NOT coalesce(a, NULL) IN (2)"),
            (
                "(a = 1 OR a = 2) AND (a = 3 OR a = 4)",
                "(a = 1 OR a = 2) AND (coalesce(a, NULL) = 3 OR coalesce(a, NULL) = 4)",
            ),
            ("b OR (a IN (1) AND (c AND a IN (2)))", "b OR (a IN (1) AND (c AND coalesce(a, NULL) IN (2)))"),
        ] {
            assert_eq!(kept_apart(condition), apart);
        }
        for condition in [
            "a IN (1) OR a IN (2) OR a = 3",
            "a NOT IN (1) AND a NOT IN (2)",
            "a IN (1) AND b IN (2)",
            "a = 1 AND a = 2",
            "_partition = 1 OR _partition = 2",
        ] {
            assert_eq!(kept_apart(condition), condition);
        }
    }
}
