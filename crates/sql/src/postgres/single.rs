//! Subqueries that stand for one value. The engine plans those that depend on the rows around them only where they are aggregates, so they
//! become one: the only value that there is. Two are an error, as in PostgreSQL.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray as _};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::functions_aggregate::all_default_aggregate_functions;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use datafusion::sql::sqlparser::ast::{
    Expr, Function, GroupByExpr, Query, Select, SelectItem, SetExpr, Visit as _, Visitor,
};
use std::ops::ControlFlow;

use super::rewrite::call;
use crate::error::SqlError;

const NAME: &str = "kafscale_only";

static AGGREGATES: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let names = |function: Arc<AggregateUDF>| {
        let mut names = function.aliases().to_vec();
        names.push(function.name().to_owned());
        names
    };
    all_default_aggregate_functions().into_iter().flat_map(names).chain(super::aggregates::names()).collect()
});

/// Looks for a call of an aggregate, but not within subqueries: those are their own.
#[derive(Default)]
struct Calls {
    depth: usize,
    found: bool,
}

impl Visitor for Calls {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(Function { name, over: None, .. }) = expr
            && self.depth == 0
        {
            let last = name.0.last().and_then(|part| part.as_ident());
            self.found |= last.is_some_and(|name| AGGREGATES.contains(&name.value.to_lowercase()));
        }
        ControlFlow::Continue(())
    }
}

/// Whether a selection gives one row for all that it reads.
pub fn is_aggregate(select: &Select) -> bool {
    let in_item = |item: &SelectItem| {
        let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else {
            return false;
        };
        let mut calls = Calls::default();
        let _ = expr.visit(&mut calls);
        calls.found
    };
    select.projection.iter().any(in_item)
}

/// Makes an aggregate of a subquery that stands for one value, if it is none.
pub fn aggregate(query: &mut Query) {
    let has_more = query.with.is_some() || query.limit_clause.is_some() || query.fetch.is_some();
    let SetExpr::Select(select) = &mut *query.body else { return };
    let is_grouped = !matches!(&select.group_by, GroupByExpr::Expressions(groups, _) if groups.is_empty())
        || select.having.is_some()
        || select.distinct.is_some()
        || select.qualify.is_some();
    if has_more || is_grouped || select.from.is_empty() || is_aggregate(select) {
        return;
    }
    let [SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }] = &mut select.projection[..]
    else {
        return;
    };
    if expr.to_string().to_uppercase().contains(" OVER ") {
        return;
    }
    *expr = call(NAME, expr.clone());
    query.order_by = None;
}

pub fn function() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::from(Only { signature: Signature::any(1, Volatility::Immutable) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Only {
    signature: Signature,
}

impl AggregateUDFImpl for Only {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types[0].clone())
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Value { rows: 0, value: ScalarValue::try_from(args.return_type())? }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let value = Field::new("value", args.return_type().clone(), true);
        Ok(vec![Arc::new(Field::new("rows", DataType::Int64, false)), Arc::new(value)])
    }
}

#[derive(Debug)]
struct Value {
    rows: i64,
    value: ScalarValue,
}

impl Value {
    fn take(&mut self, rows: i64, value: impl FnOnce() -> Result<ScalarValue>) -> Result<()> {
        if rows == 0 {
            return Ok(());
        }
        self.rows += rows;
        if self.rows > 1 {
            let message = "more than one row returned by a subquery used as an expression".to_owned();
            return Err(SqlError::State { code: "21000", message }.into());
        }
        self.value = value()?;
        Ok(())
    }
}

impl Accumulator for Value {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let rows = i64::try_from(values[0].len()).unwrap_or(i64::MAX);
        self.take(rows, || ScalarValue::try_from_array(&values[0], 0))
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let rows = states[0].as_primitive::<arrow::datatypes::Int64Type>();
        for (at, count) in rows.values().iter().enumerate() {
            self.take(*count, || ScalarValue::try_from_array(&states[1], at))?;
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.value.clone())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Int64(Some(self.rows)), self.value.clone()])
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.value.size()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::Statement;
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    #[test]
    fn what_is_no_aggregate_becomes_one() {
        for (sql, expected) in [
            ("SELECT a FROM t WHERE t.x = o.x ORDER BY a", "SELECT kafscale_only(a) FROM t WHERE t.x = o.x"),
            ("SELECT max(a) FROM t", "SELECT max(a) FROM t"),
            ("SELECT 1 + count(*) FROM t", "SELECT 1 + count(*) FROM t"),
            ("SELECT a FROM t LIMIT 1", "SELECT a FROM t LIMIT 1"),
            ("SELECT a FROM t GROUP BY a", "SELECT a FROM t GROUP BY a"),
            ("SELECT DISTINCT a FROM t", "SELECT DISTINCT a FROM t"),
            ("SELECT 1", "SELECT 1"),
        ] {
            let statement = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0);
            let Statement::Query(mut query) = statement else { panic!("{sql}") };
            aggregate(&mut query);
            assert_eq!(query.to_string(), expected);
        }
    }
}
