//! Functions of PostgreSQL that clients call. Most say the same whatever they are asked: there is one database, one owner, and nothing of
//! what they are about.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array as _, ArrayRef, AsArray as _, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::timezone::AtTimeZone;
use super::types;
use crate::catalog::{DATABASE, PUBLIC};
use crate::server::SERVER_VERSION;

/// Who everything belongs to.
pub const OWNER: &str = "kafscale";

/// What is visible: everything.
const VISIBLE: [&str; 10] = [
    "table",
    "type",
    "function",
    "operator",
    "opclass",
    "opfamily",
    "collation",
    "conversion",
    "statistics_obj",
    "ts_config",
];
/// What there are privileges for.
const PRIVILEGES: [&str; 12] = [
    "schema",
    "table",
    "column",
    "database",
    "function",
    "any_column",
    "sequence",
    "server",
    "tablespace",
    "type",
    "foreign_data_wrapper",
    "language",
];
/// Functions about what there is none of.
const ABSENT: [&str; 22] = [
    "col_description",
    "inet_client_addr",
    "inet_server_addr",
    "obj_description",
    "pg_advisory_unlock_all",
    "pg_get_constraintdef",
    "pg_get_expr",
    "pg_get_function_arguments",
    "pg_get_function_result",
    "pg_get_functiondef",
    "pg_get_indexdef",
    "pg_get_partkeydef",
    "pg_get_serial_sequence",
    "pg_get_statisticsobjdef_columns",
    "pg_get_triggerdef",
    "pg_get_ruledef",
    "pg_get_viewdef",
    "pg_tablespace_location",
    "pg_get_function_identity_arguments",
    "pg_get_function_sqlbody",
    "pg_relation_filenode",
    "shobj_description",
];

/// Functions that say the same whatever they are asked, with what they say.
fn constants() -> Vec<(String, ScalarValue)> {
    let text = |text: &str| ScalarValue::Utf8(Some(text.to_owned()));
    let (no_text, yes, no) =
        (ScalarValue::Utf8(None), ScalarValue::Boolean(Some(true)), ScalarValue::Boolean(Some(false)));
    let version = format!("PostgreSQL {SERVER_VERSION} (KafScale {})", env!("CARGO_PKG_VERSION"));
    let schemas = ScalarValue::List(ScalarValue::new_list_nullable(
        &[text("pg_catalog"), text(PUBLIC)],
        &DataType::Utf8,
    ));
    let constants: Vec<(&str, ScalarValue)> = [
        ("version", text(&version)),
        ("current_database", text(DATABASE)),
        ("current_catalog", text(DATABASE)),
        ("current_schema", text(PUBLIC)),
        ("current_schemas", schemas),
        ("current_user", text(OWNER)),
        ("current_role", text(OWNER)),
        ("session_user", text(OWNER)),
        ("user", text(OWNER)),
        ("pg_get_userbyid", text(OWNER)),
        ("pg_encoding_to_char", text("UTF8")),
        ("pg_is_in_recovery", no.clone()),
        ("pg_relation_is_publishable", no),
        ("pg_backend_pid", ScalarValue::Int32(Some(1))),
        ("pg_my_temp_schema", ScalarValue::Int64(Some(0))),
        ("pg_postmaster_start_time", no_text.clone()),
        ("pg_export_snapshot", text("0")),
        ("pg_function_is_visible", yes.clone()),
        ("inet_server_port", ScalarValue::Int32(None)),
        ("pg_stat_get_numscans", ScalarValue::Int64(Some(0))),
        ("txid_current", ScalarValue::Int64(Some(1))),
    ]
    .into();
    let visible = VISIBLE.map(|what| format!("pg_{what}_is_visible"));
    let privileges = PRIVILEGES.map(|what| format!("has_{what}_privilege"));
    let sizes = ["pg_total_relation_size", "pg_table_size", "pg_relation_size", "pg_database_size"];
    let mut found: Vec<(String, ScalarValue)> =
        constants.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    found.extend(visible.into_iter().chain(privileges).map(|name| (name, yes.clone())));
    found.extend(ABSENT.map(|name| (name.to_owned(), no_text.clone())));
    let oids = ["to_regclass", "to_regnamespace", "to_regproc", "to_regtype"];
    found.extend(sizes.into_iter().chain(oids).map(|name| (name.to_owned(), ScalarValue::Int64(None))));
    found
}

static CONSTANTS: LazyLock<HashSet<String>> =
    LazyLock::new(|| constants().into_iter().map(|(name, _)| name).collect());

pub fn is_constant(name: &str) -> bool {
    CONSTANTS.contains(name)
}

pub fn all() -> Vec<Arc<ScalarUDF>> {
    let constant =
        |(name, value): (String, ScalarValue)| Arc::new(ScalarUDF::from(Constant::new(name, value)));
    let mut functions: Vec<Arc<ScalarUDF>> = constants().into_iter().map(constant).collect();
    functions.extend(super::scalar::all());
    functions.extend(super::json_build::all());
    functions.push(Arc::new(super::semantics::interval_span()));
    functions.push(Arc::new(super::parts::function()));
    functions.push(Arc::new(super::semantics::half_even()));
    functions.extend(super::texts::all());
    functions.push(Arc::new(super::lists::same()));
    functions.extend([super::sides::times(), super::sides::over()].map(Arc::new));
    functions.push(Arc::new(ScalarUDF::from(AtTimeZone::new())));
    functions.extend(super::session::all());
    functions.extend(super::regclass::all());
    for name in [FORMAT_TYPE, TYPE_NAME, QUOTE_IDENT] {
        functions.push(Arc::new(ScalarUDF::from(Text::new(name))));
    }
    functions
}

/// Says the same whatever it is asked.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Constant {
    name: String,
    value: ScalarValue,
    signature: Signature,
}

impl Constant {
    fn new(name: String, value: ScalarValue) -> Constant {
        let any = datafusion::logical_expr::TypeSignature::VariadicAny;
        let none = datafusion::logical_expr::TypeSignature::Nullary;
        Constant { name, value, signature: Signature::one_of(vec![none, any], Volatility::Stable) }
    }
}

impl ScalarUDFImpl for Constant {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.value.data_type())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(self.value.clone()))
    }
}

/// `format_type(oid, modifier)`
const FORMAT_TYPE: &str = "format_type";
/// What a cast of an oid to `regtype` is written as: [`super::rewrite`].
pub const TYPE_NAME: &str = "kafscale_type_name";
const QUOTE_IDENT: &str = "quote_ident";

/// Makes text of its first argument.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Text {
    name: &'static str,
    signature: Signature,
}

impl Text {
    fn new(name: &'static str) -> Text {
        Text { name, signature: Signature::variadic_any(Volatility::Stable) }
    }

    fn of(&self, array: &ArrayRef) -> Result<StringArray> {
        Ok(match self.name {
            FORMAT_TYPE | TYPE_NAME => {
                let oids = cast(array, &DataType::Int64)?;
                let name = |oid: i64| types::format(oid).unwrap_or_else(|| "???".to_owned());
                oids.as_primitive::<Int64Type>().iter().map(|oid| oid.map(name)).collect()
            }
            _ => {
                let names = cast(array, &DataType::Utf8)?;
                names.as_string::<i32>().iter().map(|name| name.map(quoted)).collect()
            }
        })
    }
}

/// A name as it can stand in a statement.
pub fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let is_plain = name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit());
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

impl ScalarUDFImpl for Text {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_scalar { 1 } else { args.number_rows };
        let first = args.args.into_iter().next().unwrap_or(ColumnarValue::Scalar(ScalarValue::Null));
        let texts = self.of(&first.into_array(rows)?)?;
        if is_scalar {
            let text = (!texts.is_null(0)).then(|| texts.value(0).to_owned());
            return Ok(ColumnarValue::Scalar(ScalarValue::Utf8(text)));
        }
        Ok(ColumnarValue::Array(Arc::new(texts)))
    }
}
