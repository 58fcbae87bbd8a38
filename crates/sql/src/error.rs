//! What goes wrong with a statement, and PostgreSQL's code for it (appendix A of its manual), which is what programs look at.

use std::any::Any;
use std::sync::Arc;

use datafusion::error::DataFusionError;
use kafscale_storage::scan::{ScanError, ScanErrorKind};

use crate::postgres::errors;
use crate::topic::registry::RegistryError;

/// What whoever asked may do, and whoever runs the server.
const NO_MEMORY_HINT: &str = "Ask for less at once: fewer or shorter values, fewer groups, a condition. \
     What does not go to disk has to fit into --memory and 256 MiB.";

/// Why a statement gets no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SqlError {
    /// The engine, or reading a topic.
    #[error("{}", errors::tell(.0).message)]
    Engine(Arc<DataFusionError>),
    #[error("{0}")]
    Scan(Arc<ScanError>),
    #[error("{0}")]
    Syntax(String),
    /// The engine's parser does not understand it, from a character on that is counted from 1.
    #[error("{}", errors::tell(.error).message)]
    SyntaxAt { error: Arc<DataFusionError>, position: usize },
    #[error("relation \"{table}\" does not exist")]
    NoTable { table: String, hint: String },
    /// What PostgreSQL has a code of its own for.
    #[error("{message}")]
    State { code: &'static str, message: String },
    /// Everything that would change something.
    #[error("{0}: this server only reads")]
    ReadOnly(String),
    #[error("{0}")]
    Unsupported(String),
    #[error("{message}")]
    TooMuch { message: String, hint: String },
    /// Of all statements it holds most, and all together hold more than they may.
    #[error(
        "out of memory: this statement holds or asks for {} MiB, and all statements together may hold {} MiB",
        held_bytes >> 20,
        limit_bytes >> 20
    )]
    NoMemory { held_bytes: u64, limit_bytes: u64 },
    #[error("{0}")]
    BadValue(String),
    /// Without a schema, there is no telling what values are.
    #[error("{0}")]
    Registry(Arc<RegistryError>),
    /// The columns of a topic cannot be said.
    #[error("the topic {topic}: {why}")]
    Schema { topic: String, why: String },
    #[error("canceling statement due to statement timeout ({0} ms)")]
    Timeout(u64),
    #[error("canceling statement due to user request")]
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
    /// Of a prepared statement; drivers know this error by its text, and prepare it again.
    #[error("cached plan must not change result type")]
    OtherColumns,
    #[error("the engine failed at this statement: {0}")]
    Panicked(String),
    /// Rows of a worker would be missing.
    #[error("the worker {worker} was lost: {why}")]
    Worker { worker: String, why: String },
    /// What a worker has failed with.
    #[error("{message}")]
    Remote { code: &'static str, message: String, hint: Option<String> },
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

impl SqlError {
    /// What a panic said.
    pub fn panicked(panic: &(dyn Any + Send)) -> SqlError {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        SqlError::Panicked(text.unwrap_or_else(|| "for a reason that it does not tell".to_owned()))
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
            SqlError::Engine(error) => errors::tell(error).code,
            SqlError::Scan(error) => match error.kind() {
                ScanErrorKind::Retry => "40001",
                ScanErrorKind::NotFound => "42P01",
                ScanErrorKind::Gone => "72000",
                ScanErrorKind::Corrupt => "XX001",
                ScanErrorKind::Refused => "58030",
            },
            SqlError::Syntax(_) => "42601",
            SqlError::SyntaxAt { error, .. } => errors::tell(error).code,
            SqlError::NoTable { .. } => "42P01",
            SqlError::State { code, .. } => code,
            SqlError::ReadOnly(_) => "25006",
            SqlError::Unsupported(_) | SqlError::OtherColumns => "0A000",
            SqlError::TooMuch { .. } => "54000",
            SqlError::NoMemory { .. } => "53200",
            SqlError::BadValue(_) => "22023",
            SqlError::Registry(_) => "58000",
            SqlError::Schema { .. } => "55000",
            SqlError::Timeout(_) | SqlError::Cancelled => "57014",
            SqlError::TooComplex(_) => "54001",
            SqlError::Busy(_) => "53400",
            SqlError::Audit(_) => "58030",
            SqlError::Panicked(_) => "XX000",
            SqlError::Worker { .. } => "08006",
            SqlError::Remote { code, .. } => code,
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            SqlError::TooMuch { hint, .. } | SqlError::NoTable { hint, .. } => Some(hint.clone()),
            SqlError::NoMemory { .. } => Some(NO_MEMORY_HINT.to_owned()),
            SqlError::Engine(error) | SqlError::SyntaxAt { error, .. } => errors::tell(error).hint,
            SqlError::Worker { .. } => Some(
                "Ask again: workers that cannot be reached are left out. See the worker's log, and --workers."
                    .to_owned(),
            ),
            SqlError::Remote { hint, .. } => hint.clone(),
            _ => None,
        }
    }

    /// The character of the statement, counted from 1, that is not understood.
    pub fn position(&self) -> Option<usize> {
        if let SqlError::SyntaxAt { position, .. } = self { Some(*position) } else { None }
    }
}
