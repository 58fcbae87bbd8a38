//! `INTERSECT ALL` and `EXCEPT ALL`, which count: of a row that is there m times on the left and n times on
//! the right, the first gives the smaller number of them, and the second m - n.
//!
//! The engine plans both as a join that only asks whether a row is on the right at all. Here equal rows of
//! each side are numbered, and the numbers are compared as well.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, JoinType, NullEquality, Result};
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{Distinct, Expr, Join, LogicalPlan, LogicalPlanBuilder, WindowUDF};
use datafusion::optimizer::AnalyzerRule;

use crate::metered;

/// The rule, which is to come before others: they do not make joins like these.
pub fn rule() -> Arc<dyn AnalyzerRule + Send + Sync> {
    let numbering = metered::windows(&[row_number_udwf()]).remove(0);
    Arc::new(Counted { numbering })
}

#[derive(Debug)]
struct Counted {
    numbering: Arc<WindowUDF>,
}

impl AnalyzerRule for Counted {
    fn name(&self) -> &'static str {
        "postgres_multisets"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let counted = |step: LogicalPlan| match step {
            LogicalPlan::Join(join) if is_of_multisets(&join) => Ok(Transformed::yes(self.counted(join)?)),
            step => Ok(Transformed::no(step)),
        };
        Ok(plan.transform_up_with_subqueries(counted)?.data)
    }
}

/// Of a text, no other join takes NULLs for the same. Where the left side has each row once, there is nothing to count.
fn is_of_multisets(join: &Join) -> bool {
    matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti)
        && join.null_equality == NullEquality::NullEqualsNull
        && !matches!(&*join.left, LogicalPlan::Distinct(Distinct::All(_)))
}

impl Counted {
    fn counted(&self, join: Join) -> Result<LogicalPlan> {
        const LEFT: &str = "_nth_on_the_left";
        const RIGHT: &str = "_nth_on_the_right";
        let columns = join.left.schema().columns().into_iter().map(Expr::Column);
        let mut on = join.on;
        on.push((Expr::Column(Column::from_name(LEFT)), Expr::Column(Column::from_name(RIGHT))));
        let numbered = Join::try_new(
            Arc::new(self.numbered(&join.left, LEFT)?),
            Arc::new(self.numbered(&join.right, RIGHT)?),
            on,
            join.filter,
            join.join_type,
            join.join_constraint,
            join.null_equality,
            join.null_aware,
        )?;
        LogicalPlanBuilder::from(LogicalPlan::Join(numbered)).project(columns)?.build()
    }

    /// The rows with their number among those that are equal.
    fn numbered(&self, side: &LogicalPlan, name: &str) -> Result<LogicalPlan> {
        let columns: Vec<Expr> = side.schema().columns().into_iter().map(Expr::Column).collect();
        let mut call = WindowFunction::new(Arc::clone(&self.numbering), Vec::new());
        call.params.partition_by.clone_from(&columns);
        let call = Expr::WindowFunction(Box::new(call));
        let number = Expr::Column(Column::from_name(call.schema_name().to_string())).alias(name);
        LogicalPlanBuilder::from(side.clone())
            .window(vec![call])?
            .project(columns.into_iter().chain([number]))?
            .build()
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::execution::session_state::SessionStateBuilder;
    use datafusion::prelude::SessionContext;

    use super::*;

    async fn rows(sql: &str) -> Vec<String> {
        let mut state = SessionStateBuilder::new().with_default_features().build();
        let mut rules = state.analyzer().rules.clone();
        rules.insert(0, rule());
        state = SessionStateBuilder::new_from_existing(state).with_analyzer_rules(rules).build();
        let batches = SessionContext::new_with_state(state).sql(sql).await.unwrap().collect().await.unwrap();
        let shown = pretty_format_batches(&batches).unwrap().to_string();
        let lines = shown.lines().skip(3).filter(|line| line.starts_with('|'));
        let mut lines: Vec<String> = lines.map(|line| line.replace(['|', ' '], "")).collect();
        lines.sort();
        lines
    }

    #[tokio::test]
    async fn rows_that_are_equal_are_counted() {
        let (left, right) =
            ("VALUES (1), (1), (2), (NULL), (NULL), (NULL)", "VALUES (1), (3), (NULL), (NULL)");
        let sides = |op: &str| format!("SELECT * FROM ({left}) AS t {op} SELECT * FROM ({right}) AS u");
        for (op, expected) in [
            ("INTERSECT ALL", vec!["", "", "1"]),
            ("EXCEPT ALL", vec!["", "1", "2"]),
            ("INTERSECT", vec!["", "1"]),
            ("EXCEPT", vec!["2"]),
        ] {
            assert_eq!(rows(&sides(op)).await, expected, "{op}");
        }
        let of_itself =
            "WITH t AS (SELECT column1 AS a, column2 AS b FROM (VALUES (1, 'x'), (1, 'x'), (2, 'y')) AS v) ";
        let twice = format!("{of_itself} SELECT * FROM t EXCEPT ALL SELECT * FROM t WHERE a = 2");
        assert_eq!(rows(&twice).await, ["1x", "1x"]);
        let three = format!("{of_itself} SELECT a FROM t EXCEPT ALL SELECT 1 EXCEPT ALL SELECT 1");
        assert_eq!(rows(&three).await, ["2"]);
        let inside = format!(
            "{of_itself} SELECT (SELECT count(*) FROM (SELECT a FROM t EXCEPT ALL SELECT 1) AS x) AS n"
        );
        assert_eq!(rows(&inside).await, ["2"]);
    }
}
