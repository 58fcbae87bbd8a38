//! Casts of names to `regclass`: the oid of a table, or its name again, and an error where there is
//! no such table. Tables of `pg_catalog` come before topics of the same name.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::ast::Expr;

use super::functions::quoted;
use super::rewrite::expression;
use super::scalar::parse_ident;
use super::tables;
use crate::error::SqlError;

/// `(oid or NULL, the name as it was written)`
const OID: &str = "kafscale_regclass";
/// The same, and what the table is called.
const NAME: &str = "kafscale_regclass_name";

/// An expression for `'name'::regclass`, or for `'name'::regclass::text`.
pub fn of_name(name: &str, as_text: bool) -> Expr {
    let function = if as_text { NAME } else { OID };
    let (written, oid) = (name.replace('\'', "''"), oid_of(name));
    expression(&format!("{function}({oid}, '{written}')"))
}

/// The same for a parameter, which names a topic.
pub fn of_parameter(parameter: &str) -> Expr {
    let plain = format!("replace(regexp_replace(CAST({parameter} AS text), '^.*[.]', ''), '\"', '')");
    let oid = format!("(SELECT min(oid) FROM pg_catalog.pg_class WHERE relname = {plain})");
    expression(&format!("{OID}({oid}, CAST({parameter} AS text))"))
}

fn oid_of(name: &str) -> String {
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
        return name.to_owned();
    }
    let quoted = |text: &str| text.replace('\'', "''");
    let query = |name: &str, more: String| {
        format!("(SELECT min(oid) FROM pg_catalog.pg_class WHERE relname = '{}'{more})", quoted(name))
    };
    let parts = parse_ident(name).unwrap_or_default();
    let known = |name: &str| tables::catalog_oid(name).map(|oid| oid.to_string());
    match parts.as_slice() {
        [only] => known(only).unwrap_or_else(|| query(only, String::new())),
        [schema, only] => match tables::namespace_oid(schema) {
            Some(tables::CATALOG_OID) => known(only).unwrap_or_else(|| "NULL".to_owned()),
            Some(oid) => query(only, format!(" AND relnamespace = {oid}")),
            // A topic with a dot in its name, without quotes.
            None => query(name, String::new()),
        },
        _ => query(name, String::new()),
    }
}

pub fn all() -> Vec<Arc<ScalarUDF>> {
    let function = |gives_name| {
        let signature = Signature::any(2, Volatility::Stable);
        Arc::new(ScalarUDF::from(Function { gives_name, signature }))
    };
    [false, true].map(function).to_vec()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Function {
    gives_name: bool,
    signature: Signature,
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        if self.gives_name { NAME } else { OID }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(if self.gives_name { DataType::Utf8 } else { DataType::Int64 })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_scalar { 1 } else { args.number_rows };
        let column = |at: usize| args.args[at].clone().into_array(rows);
        let (oids, names) = (cast(&column(0)?, &DataType::Int64)?, cast(&column(1)?, &DataType::Utf8)?);
        let (oids, names) = (oids.as_primitive::<Int64Type>(), names.as_string::<i32>());
        let found = |row: usize| {
            if names.is_null(row) {
                return Ok(None);
            }
            let written = names.value(row);
            // Names that come as parameters are those of topics until here.
            let oid = of_catalog(written).or_else(|| oids.is_valid(row).then(|| oids.value(row)));
            let message = || format!("relation \"{written}\" does not exist");
            let oid = oid.ok_or_else(|| SqlError::State { code: "42P01", message: message() })?;
            Ok(Some((oid, written)))
        };
        let found = (0..rows).map(found).collect::<std::result::Result<Vec<_>, SqlError>>()?;
        let values: ArrayRef = match self.gives_name {
            false => Arc::new(found.iter().map(|found| found.map(|(oid, _)| oid)).collect::<Int64Array>()),
            true => {
                let name = |(_, name): (i64, &str)| called(name);
                Arc::new(found.iter().map(|found| found.map(name)).collect::<StringArray>())
            }
        };
        match is_scalar {
            true => Ok(ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&values, 0)?)),
            false => Ok(ColumnarValue::Array(values)),
        }
    }
}

/// The oid of one of the catalog's own tables.
fn of_catalog(written: &str) -> Option<i64> {
    let oid = match parse_ident(written).unwrap_or_default().as_slice() {
        [only] => tables::catalog_oid(only),
        [schema, only] if tables::namespace_oid(schema) == Some(tables::CATALOG_OID) => {
            tables::catalog_oid(only)
        }
        _ => None,
    };
    oid.map(i64::from)
}

/// Without the schema that it is found in anyway.
fn called(written: &str) -> String {
    let parts = parse_ident(written).unwrap_or_default();
    let parts: Vec<String> = match parts.as_slice() {
        [schema, only] if tables::is_on_path(schema, only) => vec![quoted(only)],
        [] => vec![written.to_owned()],
        parts => parts.iter().map(|part| quoted(part)).collect(),
    };
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_catalog_come_first() {
        assert_eq!(of_catalog("pg_catalog.pg_constraint"), Some(2606));
        assert_eq!((of_catalog("pg_class"), of_catalog("public.pg_class")), (Some(1259), None));
        assert_eq!(oid_of("pg_class"), "1259");
        assert_eq!(oid_of("pg_catalog.\"pg_type\""), "1247");
        assert_eq!(oid_of("1259"), "1259");
        assert_eq!(oid_of("pg_catalog.orders"), "NULL");
        for (name, condition) in [
            ("Orders", "relname = 'orders')"),
            ("\"O'r.d\"", "relname = 'O''r.d')"),
            ("public.pg_class", "relname = 'pg_class' AND relnamespace = 2200)"),
            ("my.topic", "relname = 'my.topic')"),
        ] {
            assert!(oid_of(name).ends_with(condition), "{name}: {}", oid_of(name));
        }
        for (written, name) in [
            ("public.orders", "orders"),
            ("public.pg_class", "public.pg_class"),
            ("Orders", "orders"),
            ("\"O\"", "\"O\""),
            ("kafscale.topics", "kafscale.topics"),
        ] {
            assert_eq!(called(written), name);
        }
    }
}
