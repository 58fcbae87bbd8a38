//! PostgreSQL's own words in a query, in words that the engine knows: `pg_catalog.` before functions and types, `OPERATOR(…)`, `COLLATE`,
//! casts to `regclass` and its like.
//!
//! Many tables of its catalogs never have rows here ([`super::empty`]). A subquery over one of them is NULL, and a whole query
//! has no rows, so that nothing else of it need be understood: clients ask for constraints, triggers or policies with all that
//! PostgreSQL's SQL has.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, GroupByExpr, Ident, LimitClause, ObjectName, ObjectNamePart, Query, Select,
    SelectItem, SetExpr, Statement, TableAlias, TableAliasColumnDef, TableFactor, Value, VisitMut as _,
    VisitorMut, visit_expressions_mut,
};
use datafusion::sql::sqlparser::parser::Parser;

use super::empty::is_empty;
use super::timezone::TIMEZONE;
use super::{
    balanced, casts, functions, introspection, keywords, names, nested, quantified, similar, single,
    subqueries, tables, to_char, using, windows,
};
use crate::catalog::PUBLIC;
use crate::dialect::PostgresDialect;
use crate::error::SqlError;

pub const CATALOG: &str = "pg_catalog";

/// Changes a query in place.
pub fn rewrite(statement: &mut Statement) -> Result<(), SqlError> {
    if let Statement::Query(query) = statement
        && is_empty(query)
    {
        **query = without_rows(query);
        return Ok(());
    }
    if !nested::flatten(statement) {
        let why = "calls of coalesce are nested too deeply in other expressions";
        return Err(SqlError::TooComplex(why.to_owned()));
    }
    if let Statement::Query(query) = statement
        && let Some(types) = introspection::types_for(query)
    {
        **query = types;
    }
    let mut before = Before::default();
    if let ControlFlow::Break(refused) = statement.visit(&mut before) {
        return Err(refused);
    }
    let _ = statement.visit(&mut Words { named: before.named });
    if let Statement::Query(query) = statement
        && let SetExpr::Select(select) = &mut *query.body
    {
        small_numbers(select);
    }
    balanced::balance(statement);
    Ok(())
}

/// What is done before anything else: the names of `WITH` are found, FETCH FIRST becomes LIMIT, and
/// comparisons with the rows of subqueries are written out.
#[derive(Default)]
struct Before {
    named: HashSet<String>,
}

impl VisitorMut for Before {
    type Break = SqlError;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        match quantified::comparison(expr) {
            Ok(Some(made)) => *expr = made,
            Ok(None) => {}
            Err(refused) => return ControlFlow::Break(refused),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<SqlError> {
        let made = windows::write_out(select).and_then(|()| using::write_out(select, None));
        made.map_or_else(ControlFlow::Break, ControlFlow::Continue)
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        if let (Some(order), SetExpr::Select(select)) = (&mut query.order_by, &mut *query.body) {
            let made = windows::write_out(select)
                .and_then(|()| windows::write_out_order(order, select))
                .and_then(|()| using::write_out(select, Some(order)));
            if let Err(refused) = made {
                return ControlFlow::Break(refused);
            }
        }
        let names = query.with.iter().flat_map(|with| &with.cte_tables);
        self.named.extend(names.map(|table| names::folded(&table.alias.name)));
        let Some(fetch) = query.fetch.take_if(|fetch| !fetch.with_ties && !fetch.percent) else {
            return ControlFlow::Continue(());
        };
        let one = || Expr::Value(Value::Number("1".into(), false).into());
        let count = Some(fetch.quantity.clone().unwrap_or_else(one));
        match &mut query.limit_clause {
            None => {
                let (offset, limit_by) = (None, Vec::new());
                query.limit_clause = Some(LimitClause::LimitOffset { limit: count, offset, limit_by });
            }
            Some(LimitClause::LimitOffset { limit: limit @ None, .. }) => *limit = count,
            Some(_) => query.fetch = Some(fetch),
        }
        ControlFlow::Continue(())
    }
}

struct Words {
    /// By `WITH`, anywhere in the statement.
    named: HashSet<String>,
}

impl Words {
    /// As PostgreSQL's search path has it: whatever topics are called, `pg_class` is that of the catalog.
    fn find_in_catalog(&self, factor: &mut TableFactor) {
        let TableFactor::Table { name, args: None, alias, .. } = factor else { return };
        let [ObjectNamePart::Identifier(only)] = &name.0[..] else { return };
        let (only, plain) = (only.clone(), names::folded(only));
        if self.named.contains(&plain) || !tables::is_of_catalog(&plain) {
            return;
        }
        let catalog = ObjectNamePart::Identifier(Ident::new(CATALOG));
        alias.get_or_insert_with(|| TableAlias {
            explicit: true,
            name: only.clone(),
            columns: Vec::new(),
            at: None,
        });
        name.0 = vec![catalog, ObjectNamePart::Identifier(only)];
    }
}

impl VisitorMut for Words {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let null = || Expr::Value(Value::Null.into());
        match expr {
            Expr::Identifier(name) if is_word(name, "current_schema") => {
                *expr = Expr::Function(function_named("current_schema"));
            }
            Expr::Subquery(query) if is_empty(query) => *expr = null(),
            Expr::Subquery(query) => single::aggregate(query),
            Expr::Exists { subquery, negated } if is_empty(subquery) => {
                *expr = Expr::Value(Value::Boolean(*negated).into());
            }
            Expr::InSubquery { expr: inner, subquery, negated } if subqueries::of_search_path(subquery) => {
                let list = vec![Expr::Value(Value::SingleQuotedString(PUBLIC.to_owned()).into())];
                *expr = Expr::InList { expr: inner.clone(), list, negated: *negated };
            }
            Expr::AtTimeZone { .. } | Expr::SimilarTo { .. } => {
                if let Some(meant) = at_time_zone(expr).or_else(|| similar_to(expr)) {
                    *expr = meant;
                }
            }
            Expr::Collate { expr: inner, .. } => *expr = (**inner).clone(),
            Expr::BinaryOp { left, op, right } => {
                if is_function_column(left) {
                    by_name(right);
                } else if is_function_column(right) {
                    by_name(left);
                }
                if let BinaryOperator::PGCustomBinaryOperator(name) = op
                    && let Some(known) = name.last().and_then(|name| operator(name))
                {
                    *op = known;
                }
            }
            // ARRAY(SELECT …)
            Expr::Function(Function { args: FunctionArguments::Subquery(query), .. }) => {
                let list = if is_empty(query) { Some(null()) } else { list_of(query) };
                if let Some(list) = list {
                    *expr = list;
                }
            }
            Expr::Function(function) => {
                strip_catalog(&mut function.name);
                synonym(&mut function.name);
                to_time(function);
                since_today(function);
                padded(function);
                if let Some(may) = privilege(function) {
                    *expr = Expr::Value(Value::Boolean(may).into());
                } else if constant(function) {
                    function.args = function_named("").args;
                } else if let Some(items) = unnested(function) {
                    *expr = items;
                }
            }
            Expr::Cast { expr: inner, data_type, kind, .. } => {
                if let Some(cast) = casts::cast(inner, data_type, kind) {
                    *expr = cast;
                }
            }
            Expr::Interval(interval) => {
                if let Some(text) = casts::literal(&interval.value) {
                    let text = Value::SingleQuotedString(casts::interval(&text));
                    *interval.value = Expr::Value(text.into());
                }
            }
            Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } => {
                if let Some(array) = casts::literal(right).and_then(|text| casts::array_of(&text)) {
                    **right = array;
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) = item
                && matches!(expr, Expr::Identifier(name) if is_word(name, "current_schema"))
            {
                *expr = Expr::Function(function_named("current_schema"));
            }
        }
        names::name_columns(select);
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
                let _ = visit_expressions_mut(expr, |expr| {
                    if let Some(counted) = subqueries::exists(expr).or_else(|| subqueries::is_in(expr)) {
                        *expr = counted;
                    }
                    ControlFlow::<()>::Continue(())
                });
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        self.find_in_catalog(factor);
        // A function as a table.
        if let TableFactor::Table { name, args: Some(_), alias, .. } = factor {
            strip_catalog(name);
            if only_name_of(name).is_some_and(|name| name == "pg_get_keywords") {
                if let Some(words) = keywords::table(alias.as_ref()) {
                    *factor = words;
                }
                return ControlFlow::Continue(());
            }
            // Its only column is called as the function is.
            let called = match alias {
                Some(alias) => Some(alias.name.clone()),
                None => name.0.last().and_then(|part| part.as_ident()).cloned(),
            };
            let has_one = name.0.last().and_then(|part| part.as_ident()).is_some_and(|name| {
                matches!(name.value.to_lowercase().as_str(), "generate_series" | "range")
            });
            if let (true, Some(name)) = (has_one, called) {
                let column = TableAliasColumnDef { name: name.clone(), data_type: None };
                match alias {
                    Some(alias) if alias.columns.is_empty() => alias.columns.push(column),
                    Some(_) => {}
                    None => {
                        *alias = Some(TableAlias { explicit: true, name, columns: vec![column], at: None })
                    }
                }
            } else if !has_one && let Some(list) = list_as_table(factor) {
                *factor = list;
            }
        }
        ControlFlow::Continue(())
    }
}

fn is_word(name: &Ident, word: &str) -> bool {
    name.quote_style.is_none() && name.value.eq_ignore_ascii_case(word)
}

/// An expression of a text of our own.
pub fn expression(sql: &str) -> Expr {
    let select = select_of(&format!("SELECT {sql}"));
    match select.and_then(|select| select.projection.into_iter().next()) {
        Some(SelectItem::UnnamedExpr(expr)) => expr,
        _ => Expr::Value(Value::Null.into()),
    }
}

fn operator(name: &str) -> Option<BinaryOperator> {
    Some(match name {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "=" => BinaryOperator::Eq,
        "<>" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        "<=" => BinaryOperator::LtEq,
        ">" => BinaryOperator::Gt,
        ">=" => BinaryOperator::GtEq,
        "+" => BinaryOperator::Plus,
        "-" => BinaryOperator::Minus,
        "||" => BinaryOperator::StringConcat,
        _ => return None,
    })
}

/// The one SELECT of a text of our own, whose parts take the place of others.
pub fn select_of(sql: &str) -> Option<Box<Select>> {
    let parsed = Parser::parse_sql(&PostgresDialect, sql).ok()?.pop()?;
    let Statement::Query(query) = parsed else { return None };
    let SetExpr::Select(select) = *query.body else { return None };
    Some(select)
}

/// `ARRAY(SELECT x … ORDER BY y)`, which the engine does not know, as `(SELECT array_agg(x ORDER BY y) …)`.
fn list_of(query: &Query) -> Option<Expr> {
    let SetExpr::Select(select) = &*query.body else { return None };
    let is_plain = matches!(&select.group_by, GroupByExpr::Expressions(groups, _) if groups.is_empty())
        && select.having.is_none()
        && select.distinct.is_none()
        && query.limit_clause.is_none()
        && query.with.is_none()
        && !single::is_aggregate(select);
    let [SelectItem::UnnamedExpr(item) | SelectItem::ExprWithAlias { expr: item, .. }] =
        &select.projection[..]
    else {
        return None;
    };
    if !is_plain {
        return None;
    }
    let order = match query.order_by.as_ref().map(ToString::to_string) {
        // The only column by its number.
        Some(order) => order.replace("ORDER BY 1", &format!("ORDER BY {item}")),
        None => String::new(),
    };
    let mut aggregate = select_of(&format!("SELECT array_agg({item} {order})"))?;
    let mut made = query.clone();
    made.order_by = None;
    let SetExpr::Select(select) = &mut *made.body else { return None };
    select.projection = std::mem::take(&mut aggregate.projection);
    Some(Expr::Subquery(Box::new(made)))
}

/// Another function as a table: a row with what it gives.
fn list_as_table(factor: &TableFactor) -> Option<TableFactor> {
    let TableFactor::Table { name, args: Some(args), alias, .. } = factor else { return None };
    let name = only_name_of(name)?;
    let called = alias.as_ref().map_or_else(|| Ident::new(name.clone()), |alias| alias.name.clone());
    let values: Vec<String> = args.args.iter().map(ToString::to_string).collect();
    let sql = format!("SELECT 1 FROM (SELECT {name}({}) AS {called}) AS {called}", values.join(", "));
    let mut made = select_of(&sql)?.from.pop()?.relation;
    if let (TableFactor::Derived { alias: made, .. }, Some(alias)) = (&mut made, alias) {
        *made = Some(alias.clone());
    }
    Some(made)
}

pub fn only_name_of(name: &ObjectName) -> Option<String> {
    match &name.0[..] {
        [ObjectNamePart::Identifier(only)] => Some(only.value.to_lowercase()),
        _ => None,
    }
}

/// `SELECT 1` gives an integer, as in PostgreSQL, where the engine would give a bigint. What numbers are added up from stays as it is.
fn small_numbers(select: &mut Select) {
    fn small(expr: &mut Expr) {
        match expr {
            Expr::Value(value) => {
                if let Value::Number(digits, _) = &value.value
                    && digits.parse::<i32>().is_ok()
                {
                    *expr = to(expr.clone(), DataType::Int(None));
                }
            }
            Expr::Array(array) => array.elem.iter_mut().for_each(small),
            _ => {}
        }
    }
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
            small(expr);
        }
    }
}

/// Columns of `pg_type` that name functions. In PostgreSQL they are oids, and some clients ask whether they are 0.
fn is_function_column(expr: &Expr) -> bool {
    let name = match expr {
        Expr::Identifier(name) => name,
        Expr::CompoundIdentifier(parts) => match parts.last() {
            Some(name) => name,
            None => return false,
        },
        _ => return false,
    };
    ["typinput", "typoutput", "typreceive", "typsend"].contains(&name.value.to_lowercase().as_str())
}

/// What such a column is compared with: a number, or the oid of a row of `pg_proc`.
fn by_name(expr: &mut Expr) {
    match expr {
        Expr::Value(value) => {
            if let Value::Number(digits, _) = &value.value {
                *expr = Expr::Value(Value::SingleQuotedString(digits.to_string()).into());
            }
        }
        Expr::CompoundIdentifier(parts) => {
            if let Some(last) = parts.last_mut()
                && is_word(last, "oid")
            {
                *last = Ident::new("proname");
            }
        }
        _ => {}
    }
}

/// Functions that the engine has by another name.
const SYNONYMS: [(&str, &str); 14] = [
    ("array_remove", "array_remove_all"),
    ("array_replace", "array_replace_all"),
    ("ceiling", "ceil"),
    ("clock_timestamp", "now"),
    ("gen_random_uuid", "uuid"),
    ("jsonb_agg", "json_agg"),
    ("jsonb_array_length", "json_array_length"),
    ("jsonb_object_agg", "json_object_agg"),
    ("jsonb_typeof", "json_typeof"),
    ("localtimestamp", "now"),
    ("regexp_matches", "regexp_match"),
    ("sign", "signum"),
    ("statement_timestamp", "now"),
    ("transaction_timestamp", "now"),
];

fn synonym(name: &mut ObjectName) {
    let [ObjectNamePart::Identifier(only)] = &mut name.0[..] else { return };
    let known = SYNONYMS.iter().find(|(name, _)| only.value.eq_ignore_ascii_case(name));
    if let Some((_, known)) = known {
        only.value = (*known).to_owned();
    }
}

fn only_name(function: &Function) -> Option<String> {
    only_name_of(&function.name)
}

/// Whether a function says the same whatever it is asked: then what it is asked need not be understood.
fn constant(function: &Function) -> bool {
    only_name(function).is_some_and(|name| functions::is_constant(&name))
}

/// `has_table_privilege(…, 'SELECT')` and its like: everybody may read, and nobody anything else.
fn privilege(function: &Function) -> Option<bool> {
    let name = only_name(function)?;
    let FunctionArguments::List(list) = &function.args else { return None };
    if !name.starts_with("has_") || !name.ends_with("_privilege") {
        return None;
    }
    let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value)))) = list.args.last() else {
        return Some(true);
    };
    let asked = value.value.clone().into_string().unwrap_or_default().to_uppercase();
    // One of several is enough.
    let reads = |asked: &str| matches!(asked.trim(), "SELECT" | "USAGE" | "CONNECT" | "EXECUTE");
    Some(asked.split(',').any(reads))
}

/// PostgreSQL fills base64 up with `=`.
fn padded(function: &mut Function) {
    let is_encode = only_name(function).is_some_and(|name| name == "encode");
    if let FunctionArguments::List(list) = &mut function.args
        && is_encode
        && let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(format)))) = list.args.get_mut(1)
        && let Value::SingleQuotedString(format) = &mut format.value
        && format == "base64"
    {
        "base64pad".clone_into(format);
    }
}

/// `age(moment)` is of today.
fn since_today(function: &mut Function) {
    let is_age = only_name(function).is_some_and(|name| name == "age");
    if let FunctionArguments::List(list) = &mut function.args
        && is_age
        && list.args.len() == 1
    {
        let today = call("date_trunc", Expr::Value(Value::SingleQuotedString("day".to_owned()).into()));
        let Expr::Function(mut today) = today else { return };
        if let FunctionArguments::List(of) = &mut today.args {
            let now = Expr::Function(function_named("now"));
            of.args.push(FunctionArg::Unnamed(FunctionArgExpr::Expr(now)));
        }
        list.args.insert(0, FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Function(today))));
    }
}

/// `to_timestamp(text, pattern)` and `to_date`: the engine takes patterns of chrono.
fn to_time(function: &mut Function) {
    if !only_name(function).is_some_and(|name| matches!(name.as_str(), "to_timestamp" | "to_date")) {
        return;
    }
    let FunctionArguments::List(list) = &mut function.args else { return };
    let [_, FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value)))] = &mut list.args[..] else {
        return;
    };
    if let Value::SingleQuotedString(pattern) = &mut value.value
        && !pattern.contains('%')
    {
        *pattern = to_char::chrono_pattern(pattern);
    }
}

/// Functions that give a row for each item of JSON: the items as a list, unnested.
fn unnested(function: &Function) -> Option<Expr> {
    let list = match only_name(function)?.as_str() {
        "json_array_elements" | "jsonb_array_elements" => "kafscale_json_items",
        "json_array_elements_text" | "jsonb_array_elements_text" => "kafscale_json_item_texts",
        "json_object_keys" | "jsonb_object_keys" => "kafscale_json_keys",
        "regexp_split_to_table" => "regexp_split_to_array",
        "string_to_table" => "string_to_array",
        _ => return None,
    };
    let mut list_of = function.clone();
    list_of.name = ObjectName(vec![ObjectNamePart::Identifier(Ident::new(list))]);
    Some(call("unnest", Expr::Function(list_of)))
}

/// `pg_catalog.name` is `name`.
fn strip_catalog(name: &mut ObjectName) {
    let [ObjectNamePart::Identifier(schema), last] = &name.0[..] else { return };
    if schema.value.eq_ignore_ascii_case(CATALOG) {
        name.0 = vec![last.clone()];
    }
}

pub fn to(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

pub fn call(name: &str, argument: Expr) -> Expr {
    call_of(name, vec![argument])
}

pub fn call_of(name: &str, arguments: Vec<Expr>) -> Expr {
    let mut function = function_named(name);
    if let FunctionArguments::List(list) = &mut function.args {
        let arguments = arguments.into_iter().map(FunctionArgExpr::Expr).map(FunctionArg::Unnamed);
        list.args.extend(arguments);
    }
    Expr::Function(function)
}

/// `x AT TIME ZONE zone`.
fn at_time_zone(expr: &Expr) -> Option<Expr> {
    let Expr::AtTimeZone { timestamp, time_zone } = expr else { return None };
    Some(call_of(TIMEZONE, vec![(**time_zone).clone(), (**timestamp).clone()]))
}

/// `x SIMILAR TO 'pattern'`, as a regular expression.
fn similar_to(expr: &Expr) -> Option<Expr> {
    let Expr::SimilarTo { negated, expr, pattern, escape_char } = expr else { return None };
    let escape = match escape_char {
        Some(escape) => escape.value.clone().into_string()?.chars().next(),
        None => Some('\\'),
    };
    let regex = Value::SingleQuotedString(similar::regex_of(&casts::literal(pattern)?, escape));
    let op = if *negated { BinaryOperator::PGRegexNotMatch } else { BinaryOperator::PGRegexMatch };
    Some(Expr::BinaryOp { left: expr.clone(), op, right: Box::new(Expr::Value(regex.into())) })
}

/// A call without arguments.
fn function_named(name: &str) -> Function {
    Function {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::new(name))]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: Vec::new(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    }
}

/// A query with the same columns, all of text, and no rows.
fn without_rows(query: &Query) -> Query {
    let null = |name: String| SelectItem::ExprWithAlias {
        expr: to(Expr::Value(Value::Null.into()), DataType::Text),
        alias: Ident::with_quote('"', name),
    };
    let parsed = Parser::parse_sql(&PostgresDialect, "SELECT 1 WHERE false");
    let Some(Statement::Query(mut empty)) = parsed.ok().and_then(|mut statements| statements.pop()) else {
        return query.clone();
    };
    if let SetExpr::Select(select) = &mut *empty.body {
        select.projection = names::of_query(query).into_iter().map(null).collect();
        names::name_columns(select);
    }
    *empty
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn rewritten(sql: &str) -> String {
        let mut statement = Parser::parse_sql(&PostgresDialect, sql).unwrap().remove(0);
        rewrite(&mut statement).unwrap();
        statement.to_string()
    }

    #[test]
    fn functions_of_types_are_joined_by_their_names() {
        let sql = "SELECT 1 FROM pg_type t LEFT JOIN pg_proc p ON p.oid = t.typreceive WHERE t.typinput <> 0";
        let meant = rewritten(sql);
        assert!(meant.contains("p.proname = t.typreceive") && meant.contains("t.typinput <> '0'"), "{meant}");
    }

    #[test]
    fn words_of_postgresql_are_replaced() {
        for (sql, expected) in [
            (
                "SELECT pg_catalog.version() WHERE a OPERATOR(pg_catalog.~) '^x$' COLLATE pg_catalog.default",
                "SELECT version() AS \"version\" WHERE a ~ '^x$'",
            ),
            (
                "SELECT ARRAY(SELECT a || 'x' FROM t ORDER BY 1)",
                "SELECT (SELECT array_agg(a || 'x' ORDER BY a || 'x') AS \"array_agg\" FROM t) AS \"array\"",
            ),
            ("SELECT x::pg_catalog.text FROM t", "SELECT x::TEXT AS \"x\" FROM t"),
            (
                "SELECT (SELECT adbin FROM pg_catalog.pg_attrdef d WHERE d.adnum = a.attnum) FROM pg_attribute a",
                "SELECT NULL AS \"adbin\" FROM pg_catalog.pg_attribute a",
            ),
            ("SELECT a FROM pg_class", "SELECT a FROM pg_catalog.pg_class AS pg_class"),
            ("SELECT a FROM public.pg_class, \"PG_class\"", "SELECT a FROM public.pg_class, \"PG_class\""),
            (
                "WITH pg_class AS (SELECT 1 AS a) SELECT a FROM pg_class",
                "WITH pg_class AS (SELECT 1 AS a) SELECT a FROM pg_class",
            ),
            (
                "SELECT a FROM t ORDER BY a OFFSET 2 ROWS FETCH FIRST 3 ROWS ONLY",
                "SELECT a FROM t ORDER BY a LIMIT 3 OFFSET 2 ROWS",
            ),
            (
                "SELECT array_replace(a, 1, 2) FROM t",
                "SELECT array_replace_all(a, 1, 2) AS \"array_replace\" FROM t",
            ),
            ("SELECT current_schema", "SELECT current_schema() AS \"current_schema\""),
            ("SELECT a FROM t WHERE NOT EXISTS (SELECT 1 FROM pg_depend)", "SELECT a FROM t WHERE true"),
        ] {
            assert_eq!(rewritten(sql), expected, "{sql}");
        }
    }

    #[test]
    fn queries_about_what_is_never_there_have_no_rows() {
        for (sql, empty) in [
            ("SELECT oid, 'd' = any(stxkind) AS d FROM pg_catalog.pg_statistic_ext", true),
            ("SELECT 1 FROM pg_class c JOIN pg_inherits i ON c.oid = i.inhrelid", true),
            ("SELECT 1 FROM (SELECT conname FROM pg_constraint) x, pg_class", true),
            ("SELECT 1 FROM pg_policy UNION ALL SELECT 1 FROM pg_trigger", true),
            ("SELECT count(*) FROM pg_policy", false),
            ("WITH a AS (SELECT conname FROM pg_constraint), b AS (SELECT * FROM a) SELECT * FROM b", true),
            ("WITH a AS (SELECT 1 FROM pg_constraint) SELECT 1 FROM pg_class UNION SELECT * FROM a", false),
            ("SELECT x FROM pg_class c, unnest(c.reloptions) x", true),
            ("SELECT polrelid, count(*) FROM pg_policy GROUP BY polrelid", true),
            ("SELECT 1 FROM pg_class c LEFT JOIN pg_description d ON true", false),
            ("SELECT 1 FROM pg_policy UNION ALL SELECT 1 FROM pg_class", false),
        ] {
            assert_eq!(rewritten(sql).ends_with("WHERE false"), empty, "{sql}: {}", rewritten(sql));
        }
        let named = rewritten("SELECT p.polname, pg_get_expr(a, b), 1 AS \"One\" FROM pg_policy p");
        for name in ["\"polname\"", "\"pg_get_expr\"", "\"One\""] {
            assert!(named.contains(name), "{named}");
        }
    }
}
