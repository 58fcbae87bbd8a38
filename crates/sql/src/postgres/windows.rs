//! Windows that build on others, `OVER (w ORDER BY x)` and `WINDOW v AS (w ORDER BY x)`: the engine does not look at the name, so
//! that what the other one says is copied.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, NamedWindowDefinition, NamedWindowExpr, OrderBy, Query, Select, VisitMut, VisitorMut, WindowSpec,
    WindowType,
};

use super::names::folded;
use crate::error::SqlError;

/// By their names.
type Known = Vec<(String, WindowSpec)>;

/// Copies what the windows of a selection take from each other.
pub fn write_out(select: &mut Select) -> Result<(), SqlError> {
    let mut known = Known::new();
    for NamedWindowDefinition(name, window) in &mut select.named_window {
        let spec = match window {
            NamedWindowExpr::WindowSpec(spec) => {
                whole(spec, &known)?;
                spec.clone()
            }
            NamedWindowExpr::NamedWindow(other) => found(&folded(other), &known)?.clone(),
        };
        known.push((folded(name), spec));
    }
    in_calls(select, &known)
}

/// The same for what its rows are sorted by.
pub fn write_out_order(order: &mut OrderBy, select: &Select) -> Result<(), SqlError> {
    let spec = |NamedWindowDefinition(name, window): &NamedWindowDefinition| match window {
        NamedWindowExpr::WindowSpec(spec) => Some((folded(name), spec.clone())),
        NamedWindowExpr::NamedWindow(_) => None,
    };
    in_calls(order, &select.named_window.iter().filter_map(spec).collect())
}

fn in_calls(of: &mut impl VisitMut, known: &Known) -> Result<(), SqlError> {
    match of.visit(&mut Calls { known, depth: 0 }) {
        ControlFlow::Break(refused) => Err(refused),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Calls, but not those of subqueries, which have windows of their own.
struct Calls<'a> {
    known: &'a Known,
    depth: usize,
}

impl VisitorMut for Calls<'_> {
    type Break = SqlError;

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<SqlError> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<SqlError> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        if let Expr::Function(call) = expr
            && let Some(WindowType::WindowSpec(spec)) = &mut call.over
            && self.depth == 0
            && let Err(refused) = whole(spec, self.known)
        {
            return ControlFlow::Break(refused);
        }
        ControlFlow::Continue(())
    }
}

fn found<'a>(name: &str, known: &'a Known) -> Result<&'a WindowSpec, SqlError> {
    let missing = || SqlError::State { code: "42704", message: format!("window \"{name}\" does not exist") };
    known.iter().find(|(other, _)| other == name).map(|(_, spec)| spec).ok_or_else(missing)
}

fn whole(spec: &mut WindowSpec, known: &Known) -> Result<(), SqlError> {
    let Some(name) = spec.window_name.as_ref().map(folded) else { return Ok(()) };
    let of = found(&name, known)?;
    let refused = |message: String| Err(SqlError::State { code: "42P20", message });
    if of.window_frame.is_some() {
        return refused(format!("cannot copy window \"{name}\" because it has a frame clause"));
    }
    if !spec.partition_by.is_empty() {
        return refused(format!("cannot override PARTITION BY clause of window \"{name}\""));
    }
    if !spec.order_by.is_empty() && !of.order_by.is_empty() {
        return refused(format!("cannot override ORDER BY clause of window \"{name}\""));
    }
    spec.window_name = None;
    spec.partition_by.clone_from(&of.partition_by);
    if spec.order_by.is_empty() {
        spec.order_by.clone_from(&of.order_by);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::parser::Parser;

    use super::super::rewrite::rewrite;
    use crate::dialect::PostgresDialect;
    use crate::error::SqlError;

    fn rewritten(sql: &str) -> Result<String, SqlError> {
        let mut statement = Parser::parse_sql(&PostgresDialect, sql).unwrap().remove(0);
        rewrite(&mut statement).map(|()| statement.to_string())
    }

    #[test]
    fn windows_have_what_they_build_on() {
        let made = rewritten(
            "SELECT sum(n) OVER (w ORDER BY id) AS a, sum(n) OVER v AS b FROM t \
             WINDOW w AS (PARTITION BY k), v AS (w ORDER BY id DESC) ORDER BY max(n) OVER (W ROWS 1 PRECEDING)",
        );
        let made = made.unwrap();
        for part in [
            "sum(n) OVER (PARTITION BY k ORDER BY id) AS a",
            "sum(n) OVER v AS b",
            "v AS (PARTITION BY k ORDER BY id DESC)",
            "max(n) OVER (PARTITION BY k ROWS 1 PRECEDING)",
        ] {
            assert!(made.contains(part), "{made}");
        }
        let of_its_own = "SELECT (SELECT sum(n) OVER (w ORDER BY x) FROM u WINDOW w AS (PARTITION BY y) LIMIT 1) AS a, \
             sum(n) OVER (w ORDER BY x) AS b FROM t WINDOW w AS (PARTITION BY k)";
        let made = rewritten(of_its_own).unwrap();
        assert!(
            made.contains("(PARTITION BY y ORDER BY x)") && made.contains("(PARTITION BY k ORDER BY x) AS b"),
            "{made}"
        );
    }

    #[test]
    fn what_cannot_be_copied_is_refused() {
        for (over, code) in [
            ("v ORDER BY id", "42704"),
            ("w PARTITION BY id", "42P20"),
            ("x ORDER BY id", "42P20"),
            ("y ORDER BY id", "42P20"),
        ] {
            let sql = format!(
                "SELECT sum(n) OVER ({over}) FROM t WINDOW w AS (PARTITION BY k), x AS (ORDER BY k), \
                 y AS (ROWS 1 PRECEDING)"
            );
            assert_eq!(rewritten(&sql).unwrap_err().code(), code, "{over}");
        }
    }
}
