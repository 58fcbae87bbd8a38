//! Functions that the engine writes out as CASE, with their arguments twice: nested in each other, each doubles the work of planning.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, ObjectName, Statement, Visit,
    VisitMut as _, Visitor, VisitorMut,
};

use super::rewrite::only_name_of;

const DOUBLING: [&str; 4] = ["coalesce", "nvl", "nvl2", "ifnull"];
/// Within each other.
const DEPTH_MAX: usize = 10;

/// Makes one call of `coalesce(coalesce(a, b), c)`. False: calls are nested too deeply all the same.
pub fn flatten(statement: &mut Statement) -> bool {
    let _ = statement.visit(&mut Flat);
    Visit::visit(&*statement, &mut Depth(0)).is_continue()
}

struct Flat;

impl VisitorMut for Flat {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        while let Some(arguments) = coalesced(expr)
            && let Some(place) = arguments.iter().position(|argument| inner(argument).is_some())
        {
            let Some(inside) = inner(&arguments[place]).cloned() else { break };
            arguments.splice(place..=place, inside);
        }
        ControlFlow::Continue(())
    }
}

/// The arguments of a call of `coalesce`.
fn coalesced(expr: &mut Expr) -> Option<&mut Vec<FunctionArg>> {
    match expr {
        Expr::Function(Function { name, args: FunctionArguments::List(list), .. }) if is_coalesce(name) => {
            Some(&mut list.args)
        }
        _ => None,
    }
}

/// The arguments of an argument that is such a call.
fn inner(argument: &FunctionArg) -> Option<&Vec<FunctionArg>> {
    let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = argument else { return None };
    let mut expr = expr;
    while let Expr::Nested(nested) = expr {
        expr = nested;
    }
    match expr {
        Expr::Function(Function { name, args: FunctionArguments::List(list), .. }) if is_coalesce(name) => {
            Some(&list.args)
        }
        _ => None,
    }
}

fn is_coalesce(name: &ObjectName) -> bool {
    only_name_of(name).is_some_and(|name| name == "coalesce")
}

struct Depth(usize);

impl Visitor for Depth {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.0 += usize::from(doubles(expr));
        if self.0 > DEPTH_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.0 -= usize::from(doubles(expr));
        ControlFlow::Continue(())
    }
}

fn doubles(expr: &Expr) -> bool {
    let Expr::Function(function) = expr else { return false };
    only_name_of(&function.name).is_some_and(|name| DOUBLING.contains(&&*name))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn flat(sql: &str) -> (String, bool) {
        let mut statement = Parser::parse_sql(&crate::dialect::PostgresDialect, sql).unwrap().remove(0);
        let is_fine = flatten(&mut statement);
        (statement.to_string(), is_fine)
    }

    #[test]
    fn calls_within_each_other_are_one_or_few() {
        let (text, is_fine) = flat("SELECT COALESCE((coalesce(a, coalesce(b, 1))), c, coalesce(d))");
        assert_eq!((text.as_str(), is_fine), ("SELECT COALESCE(a, b, 1, c, d)", true));
        let deep = |depth: usize| format!("SELECT {}n{}", "coalesce(".repeat(depth), ", 1)".repeat(depth));
        assert!(flat(&deep(45)).1);
        let between =
            |depth: usize| format!("SELECT {}n{}", "coalesce(1 + ".repeat(depth), ", 1)".repeat(depth));
        assert_eq!((flat(&between(10)).1, flat(&between(11)).1), (true, false));
    }
}
