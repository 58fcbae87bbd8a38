//! What goes wrong with a statement, and PostgreSQL's code for it (appendix A of its manual), which is what programs look at.

use std::sync::Arc;

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use kafscale_storage::scan::{ScanError, ScanErrorKind};

use crate::topic::registry::RegistryError;

/// Why a statement gets no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SqlError {
    /// The engine, or reading a topic.
    #[error("{}", plain(.0))]
    Engine(Arc<DataFusionError>),
    #[error("{0}")]
    Scan(Arc<ScanError>),
    #[error("{0}")]
    Syntax(String),
    /// Everything that would change something.
    #[error("{0}: this server only reads")]
    ReadOnly(String),
    #[error("{0}")]
    Unsupported(String),
    #[error("{message}")]
    TooMuch { message: String, hint: String },
    #[error("{0}")]
    BadValue(String),
    /// Without a schema, there is no telling what values are.
    #[error("{0}")]
    Registry(Arc<RegistryError>),
    /// The columns of a topic cannot be said.
    #[error("the topic {topic}: {why}")]
    Schema { topic: String, why: String },
    #[error("the statement took longer than its limit of {0} ms")]
    Timeout(u64),
    #[error("the statement was cancelled")]
    Cancelled,
    /// A statement that would take more memory or time to understand than any that a person writes.
    #[error("{0}")]
    TooComplex(String),
    /// As many as may run do.
    #[error("{0}")]
    Busy(String),
    /// What is not noted is not answered.
    #[error("refused: the audit log cannot be written; tell the operator of this server")]
    Audit(Arc<kafscale_audit::AuditError>),
    #[error("the engine failed at this statement: {0}")]
    Panicked(String),
}

impl From<DataFusionError> for SqlError {
    fn from(error: DataFusionError) -> SqlError {
        // What this program has put into the engine comes out again.
        match error.find_root() {
            DataFusionError::External(inner) => match inner.downcast_ref::<SqlError>() {
                Some(own) => own.clone(),
                None => SqlError::Engine(Arc::new(error)),
            },
            _ => SqlError::Engine(Arc::new(error)),
        }
    }
}

impl From<ScanError> for SqlError {
    fn from(error: ScanError) -> SqlError {
        SqlError::Scan(Arc::new(error))
    }
}

impl From<kafscale_meta::Error> for SqlError {
    fn from(error: kafscale_meta::Error) -> SqlError {
        ScanError::from(error).into()
    }
}

impl From<SqlError> for DataFusionError {
    fn from(error: SqlError) -> DataFusionError {
        match error {
            SqlError::Engine(inner) => DataFusionError::Shared(inner),
            other => DataFusionError::External(Box::new(other)),
        }
    }
}

impl SqlError {
    /// The five characters of SQLSTATE.
    pub fn code(&self) -> &'static str {
        match self {
            SqlError::Engine(error) => code_of(error),
            SqlError::Scan(error) => match error.kind() {
                ScanErrorKind::Retry => "40001",
                ScanErrorKind::NotFound => "42P01",
                ScanErrorKind::Gone => "72000",
                ScanErrorKind::Corrupt => "XX001",
                ScanErrorKind::Refused => "58030",
            },
            SqlError::Syntax(_) => "42601",
            SqlError::ReadOnly(_) => "25006",
            SqlError::Unsupported(_) => "0A000",
            SqlError::TooMuch { .. } => "54000",
            SqlError::BadValue(_) => "22023",
            SqlError::Registry(_) => "58000",
            SqlError::Schema { .. } => "55000",
            SqlError::Timeout(_) | SqlError::Cancelled => "57014",
            SqlError::TooComplex(_) => "54001",
            SqlError::Busy(_) => "53400",
            SqlError::Audit(_) => "58030",
            SqlError::Panicked(_) => "XX000",
        }
    }

    pub fn hint(&self) -> Option<&str> {
        match self {
            SqlError::TooMuch { hint, .. } => Some(hint),
            _ => None,
        }
    }
}

fn code_of(error: &DataFusionError) -> &'static str {
    match error.find_root() {
        DataFusionError::SQL(..) => "42601",
        DataFusionError::SchemaError(inner, _) => match &**inner {
            SchemaError::FieldNotFound { .. } => "42703",
            SchemaError::AmbiguousReference { .. } => "42702",
            _ => "42P10",
        },
        DataFusionError::Plan(why) if why.contains("table '") && why.contains("not found") => "42P01",
        DataFusionError::Plan(why) if why.contains("Invalid function") => "42883",
        DataFusionError::Plan(_) => "42000",
        DataFusionError::NotImplemented(_) => "0A000",
        DataFusionError::ResourcesExhausted(_) => "53200",
        DataFusionError::ArrowError(..) | DataFusionError::Execution(_) => "22000",
        _ => "XX000",
    }
}

/// The message without the engine's words for where it arose.
fn plain(error: &DataFusionError) -> String {
    let text = error.find_root().strip_backtrace();
    let prefixes = [
        "Error during planning: ",
        "Schema error: ",
        "SQL error: ",
        "This feature is not implemented: ",
        "Execution error: ",
        "Arrow error: ",
        "Resources exhausted: ",
        "External error: ",
    ];
    let mut text = text.as_str();
    while let Some(rest) = prefixes.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        text = rest;
    }
    text.to_owned()
}
