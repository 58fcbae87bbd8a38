//! Types of parameters that their client does not state and the engine does not find: `$1::bigint`, and `x = ANY($1)`.

use std::ops::ControlFlow;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, ExprSchemable as _, LogicalPlan};
use datafusion::sql::sqlparser::ast::{
    self, LimitClause, Value, VisitMut as _, VisitorMut, visit_expressions,
};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use pgwire::api::Type;

use super::arrays::list_of;
use crate::dialect::PostgresDialect;
use crate::postgres::{names, types};

/// More than a statement of the protocol can have.
const MOST_PARAMETERS: usize = 65_535;

fn place(name: &str) -> Option<usize> {
    let number: usize = name.strip_prefix('$')?.parse().ok()?;
    (1..=MOST_PARAMETERS).contains(&number).then(|| number - 1)
}

/// How many parameters a text has. What of it cannot have rows is not planned, and its parameters are not found there.
pub fn count(sql: &str) -> usize {
    let tokens = Tokenizer::new(&PostgresDialect, sql).tokenize().unwrap_or_default();
    let numbers = tokens.iter().filter_map(|token| match token {
        Token::Placeholder(name) => place(name),
        _ => None,
    });
    numbers.max().map_or(0, |at| at + 1)
}

/// Unless the client has said something else.
pub fn note(declared: &mut Vec<Option<Type>>, at: usize, found: Type) {
    if declared.len() <= at {
        declared.resize(at + 1, None);
    }
    declared[at].get_or_insert(found);
}

/// What parameters are cast to, by their places, counted from 0. Those of LIMIT and OFFSET are counts of rows.
pub fn from_casts(sql: &str) -> Vec<(usize, Type)> {
    let mut found = Vec::new();
    let Ok(mut statements) = Parser::parse_sql(&PostgresDialect, sql) else { return found };
    let _ = statements.visit(&mut RowCounts(&mut found));
    for statement in &statements {
        let _ = visit_expressions(statement, |expr| {
            if let ast::Expr::Cast { expr, data_type, .. } = expr
                && let ast::Expr::Value(value) = &**expr
                && let Value::Placeholder(name) = &value.value
                && let (Some(at), Some(known)) = (place(name), type_of(data_type))
            {
                found.push((at, known));
            }
            ControlFlow::<()>::Continue(())
        });
    }
    found
}

struct RowCounts<'a>(&'a mut Vec<(usize, Type)>);

impl VisitorMut for RowCounts<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut ast::Query) -> ControlFlow<()> {
        let counts = match &query.limit_clause {
            Some(LimitClause::LimitOffset { limit, offset, .. }) => {
                [limit.as_ref(), offset.as_ref().map(|offset| &offset.value)]
            }
            Some(LimitClause::OffsetCommaLimit { offset, limit }) => [Some(limit), Some(offset)],
            None => [None, None],
        };
        for expr in counts.into_iter().flatten() {
            if let ast::Expr::Value(value) = expr
                && let Value::Placeholder(name) = &value.value
                && let Some(at) = place(name)
            {
                self.0.push((at, Type::INT8));
            }
        }
        ControlFlow::Continue(())
    }
}

fn type_of(data_type: &ast::DataType) -> Option<Type> {
    let name = names::type_name(data_type);
    let (name, is_list) = name.strip_suffix("[]").map_or((name.as_str(), false), |name| (name, true));
    let name = match name {
        "int" | "integer" => "int4",
        "bigint" => "int8",
        "double precision" => "float8",
        "boolean" => "bool",
        other => other,
    };
    let known = types::by_name(name)?;
    let oid = if is_list { known.array_oid } else { known.oid };
    Type::from_oid(u32::try_from(oid).ok()?)
}

/// Parameters that are lists of something, with the types of the lists.
pub fn from_lists(plan: &LogicalPlan) -> Vec<(usize, DataType)> {
    let mut found = Vec::new();
    let _ = plan.apply_with_subqueries(|node| {
        let schemas: Vec<_> = node.inputs().into_iter().map(LogicalPlan::schema).collect();
        let _ = node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::ScalarFunction(call) = part
                    && call.name() == "array_has"
                    && let [Expr::Placeholder(list), item] = &call.args[..]
                    && list.field.is_none()
                    && let Some(at) = place(&list.id)
                    && let Some(kind) = schemas.iter().find_map(|schema| item.get_type(schema.as_ref()).ok())
                {
                    found.push((at, list_of(kind)));
                }
                Ok(TreeNodeRecursion::Continue)
            })
        });
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn casts_say_what_a_parameter_is() {
        let found = from_casts("SELECT $1::bigint, CAST($3 AS text[]), $2::timestamptz FROM t WHERE a = $4");
        let expected = [(0, Type::INT8), (2, Type::TEXT_ARRAY), (1, Type::TIMESTAMPTZ)];
        assert_eq!(found, expected);
        let found = from_casts("SELECT * FROM (SELECT 1 LIMIT $2) x LIMIT $1 OFFSET $3");
        assert_eq!(found, [(0, Type::INT8), (2, Type::INT8), (1, Type::INT8)]);
        assert_eq!(from_casts("SELECT $0::int, $99999999::int, $x::int"), []);
        let mut declared = vec![Some(Type::INT4)];
        note(&mut declared, 0, Type::INT8);
        note(&mut declared, 2, Type::TEXT);
        assert_eq!(declared, [Some(Type::INT4), None, Some(Type::TEXT)]);
    }
}
