//! The dialect that texts are read in: PostgreSQL's, but that an argument of a function is read once.
//!
//! The parser's own takes any expression for the name of an argument, and reads an argument again when it was none. So each call
//! within another doubled its work: twenty of them took seconds, in a text of 100 bytes.
//!
//! Also, `a IS DISTINCT FROM b AND c` is read as PostgreSQL reads it: the parser's own takes `b AND c` for the right side.

use std::any::TypeId;

use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};

/// See the file's comment.
#[derive(Debug)]
pub struct PostgresDialect;

const INNER: PostgreSqlDialect = PostgreSqlDialect {};

macro_rules! as_postgresql {
    ($($name:ident),* $(,)?) => {
        $(fn $name(&self) -> bool {
            INNER.$name()
        })*
    };
}

impl Dialect for PostgresDialect {
    as_postgresql! {
        supports_unicode_string_literal, supports_filter_during_aggregation, supports_group_by_expr,
        allow_extract_custom, allow_extract_single_quotes, supports_create_index_with_clause,
        supports_explain_with_utility_options, supports_listen_notify, supports_factorial_operator,
        supports_bitwise_shift_operators, supports_comment_on, supports_load_extension,
        supports_named_fn_args_with_colon_operator, supports_empty_projections,
        supports_nested_comments, supports_string_escape_constant,
        supports_numeric_literal_underscores, supports_array_typedef_with_brackets,
        supports_geometric_types, supports_set_names, supports_alter_column_type_using,
        supports_notnull_operator, supports_interval_options, supports_insert_table_alias,
        supports_create_table_like_parenthesized, supports_select_wildcard_with_alias,
        supports_comma_separated_trim, supports_xml_expressions, supports_comment_optimizer_hint
    }

    fn dialect(&self) -> TypeId {
        INNER.dialect()
    }

    fn supports_named_fn_args_with_expr_name(&self) -> bool {
        false
    }

    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        INNER.identifier_quote_style(identifier)
    }

    fn is_delimited_identifier_start(&self, letter: char) -> bool {
        INNER.is_delimited_identifier_start(letter)
    }

    fn is_identifier_start(&self, letter: char) -> bool {
        INNER.is_identifier_start(letter)
    }

    fn is_identifier_part(&self, letter: char) -> bool {
        INNER.is_identifier_part(letter)
    }

    fn is_reserved_for_identifier(&self, keyword: Keyword) -> bool {
        INNER.is_reserved_for_identifier(keyword)
    }

    fn is_custom_operator_part(&self, letter: char) -> bool {
        INNER.is_custom_operator_part(letter)
    }

    fn parse_infix(&self, parser: &mut Parser, expr: &Expr, _: u8) -> Option<Result<Expr, ParserError>> {
        use Keyword::{DISTINCT, FROM, IS, NOT};
        let is_not = parser.parse_keywords(&[IS, NOT, DISTINCT, FROM]);
        if !is_not && !parser.parse_keywords(&[IS, DISTINCT, FROM]) {
            return None;
        }
        let made = if is_not { Expr::IsNotDistinctFrom } else { Expr::IsDistinctFrom };
        let right = parser.parse_subexpr(self.prec_value(Precedence::Is));
        Some(right.map(|right| made(Box::new(expr.clone()), Box::new(right))))
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        INNER.get_next_precedence(parser)
    }

    fn prec_value(&self, precedence: Precedence) -> u8 {
        INNER.prec_value(precedence)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::time::{Duration, Instant};

    use datafusion::sql::sqlparser::ast::visit_expressions_mut;

    use super::*;

    #[test]
    fn calls_within_each_other_are_read_once() {
        let began = Instant::now();
        for (open, close) in [("abs(", ")"), ("f(a, ", ", 1)"), ("coalesce(1 + ", ", 1)"), ("(", ")")] {
            let text = format!("SELECT {}1{}", open.repeat(30), close.repeat(30));
            let parsed = Parser::new(&PostgresDialect).with_recursion_limit(1_000).try_with_sql(&text);
            let parsed = parsed.and_then(|mut parser| parser.parse_statements());
            assert!(parsed.is_ok(), "{parsed:?}");
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[test]
    fn distinct_from_ends_before_and_and_or() {
        for (text, expected) in [
            ("a IS NOT DISTINCT FROM true AND b > 1", "(a IS NOT DISTINCT FROM true) AND (b > 1)"),
            ("x AND a IS DISTINCT FROM b OR c", "(x AND (a IS DISTINCT FROM b)) OR c"),
            ("NOT a IS DISTINCT FROM b + 1 AND c", "(NOT (a IS DISTINCT FROM (b + 1))) AND c"),
            ("a IS DISTINCT FROM b = c", "a IS DISTINCT FROM (b = c)"),
            ("a IS NOT NULL AND b IS NULL", "(a IS NOT NULL) AND (b IS NULL)"),
        ] {
            let read = |text: &str| {
                let mut statements = Parser::parse_sql(&PostgresDialect, &format!("SELECT {text}")).unwrap();
                let mut statement = statements.remove(0);
                let _ = visit_expressions_mut(&mut statement, |expr| {
                    while let Expr::Nested(inner) = expr {
                        *expr = (**inner).clone();
                    }
                    ControlFlow::<()>::Continue(())
                });
                statement
            };
            assert_eq!(read(text), read(expected), "{text}");
        }
    }

    #[test]
    fn what_the_parser_asks_for_by_the_dialects_name_is_there() {
        let text = "SELECT f(1, b), E'\\n', $1::int[], x ~ 'a', y OPERATOR(pg_catalog.=) 1, a[1:2]";
        let read = |dialect: &dyn Dialect| Parser::parse_sql(dialect, text).unwrap();
        assert_eq!(read(&PostgresDialect), read(&INNER));
    }
}
