//! `current_setting` and `set_config`, of the session that a statement is of.

use std::any::Any;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use parking_lot::Mutex;

use crate::error::SqlError;
use crate::server::session::Session;
use crate::statement::Setting;

/// The session of a statement, where the functions that it calls find it.
#[derive(Debug, Clone)]
pub struct OfSession(pub Arc<Mutex<Session>>);

impl ConfigExtension for OfSession {
    const PREFIX: &'static str = "kafscale_session";
}

impl ExtensionOptions for OfSession {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    /// Of the same session.
    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, _: &str) -> Result<()> {
        Err(DataFusionError::Configuration(format!("{key} is no setting of the engine")))
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        Vec::new()
    }
}

pub fn all() -> Vec<Arc<ScalarUDF>> {
    let function = |does| {
        // It is worked out when the statement runs, and not when it is planned.
        let signature = Signature::variadic_any(Volatility::Volatile);
        Arc::new(ScalarUDF::from(Function { does, signature }))
    };
    [Does::Show, Does::Set].map(function).to_vec()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Does {
    /// `current_setting(name [, missing_ok])`
    Show,
    /// `set_config(name, value, is_local)`
    Set,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Function {
    does: Does,
    signature: Signature,
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        match self.does {
            Does::Show => "current_setting",
            Does::Set => "set_config",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        match (self.does, args.len()) {
            (Does::Show, 1 | 2) | (Does::Set, 3) => Ok(DataType::Utf8),
            _ => {
                let message = format!("function {} does not exist with these arguments", self.name());
                Err(SqlError::State { code: "42883", message }.into())
            }
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let own = args.config_options.extensions.get::<OfSession>();
        // Where there is none, settings have their defaults, and cannot be set.
        let session = own.map_or_else(Default::default, |own| Arc::clone(&own.0));
        let rows = args.number_rows;
        // Arguments that are all constants are one value, and still there for each row.
        let arrays = args.args.iter().map(|arg| arg.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let column = |at: usize, data_type| arrays.get(at).map(|array| cast(array, data_type)).transpose();
        let flag_at = if self.does == Does::Show { 1 } else { 2 };
        let (names, values) = (column(0, &DataType::Utf8)?, column(flag_at - 1, &DataType::Utf8)?);
        let flags = column(flag_at, &DataType::Boolean)?;
        let is_set =
            |row| flags.as_ref().is_some_and(|flags| flags.is_valid(row) && flags.as_boolean().value(row));
        let text = |array: &Option<ArrayRef>, row| {
            let array = array.as_ref()?.as_string::<i32>();
            array.is_valid(row).then(|| array.value(row).to_owned())
        };
        let one = |row: usize| {
            let Some(name) = text(&names, row).map(|name| name.to_lowercase()) else { return Ok(None) };
            match self.does {
                Does::Show => show(&session, &name, is_set(row)),
                Does::Set if own.is_none() => {
                    let why = "there is no session whose settings could be set".to_owned();
                    Err(SqlError::Unsupported(why))
                }
                Does::Set => set(&session, Setting { name, value: text(&values, row), local: is_set(row) }),
            }
        };
        let texts = (0..rows).map(one).collect::<std::result::Result<StringArray, SqlError>>()?;
        Ok(ColumnarValue::Array(Arc::new(texts)))
    }
}

fn show(
    session: &Mutex<Session>,
    name: &str,
    missing_ok: bool,
) -> std::result::Result<Option<String>, SqlError> {
    match session.lock().show(name) {
        None if !missing_ok => {
            let message = format!("unrecognized configuration parameter \"{name}\"");
            Err(SqlError::State { code: "42704", message })
        }
        shown => Ok(shown),
    }
}

fn set(session: &Mutex<Session>, setting: Setting) -> std::result::Result<Option<String>, SqlError> {
    let mut session = session.lock();
    session.set(&setting)?;
    // What is gone at once is told nevertheless, as PostgreSQL does.
    let is_gone = setting.local && !session.is_in_block();
    Ok(setting.value.filter(|_| is_gone).or_else(|| session.show(&setting.name)))
}
