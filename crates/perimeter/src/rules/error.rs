//! Why rules cannot be used, and what is odd about rules that can.

use std::fmt;
use std::path::PathBuf;

use super::filter::FilterError;

/// The cause, for the operator.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Where something stands in the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub path: PathBuf,
    /// Counted from 1. None: it is of the whole file, or could not be found out.
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        self.line.map_or(Ok(()), |line| write!(f, ", line {line}"))
    }
}

/// Rules that cannot be used. Nothing of them is used then.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{} holds no file that ends with .cedar", path.display())]
    NoPolicies { path: PathBuf },
    #[error("the policies have more than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("{place}: {why}")]
    Policy { place: Place, why: String },
    #[error("{place}: {why}")]
    Toml { place: Place, why: String, source: Box<basic_toml::Error> },
    #[error("{place}: {why}")]
    Rule { place: Place, why: String },
    #[error("{place}: the filter of the obligation `{id}` {source}")]
    Filter { place: Place, id: String, source: FilterError },
    #[error("{place}: the key `{name}` cannot be read: {source}")]
    Key { place: Place, name: String, source: Source },
    /// Rules that can be used, and lack what holds now.
    #[error(
        "the rules in the files would lose {what}; where this is meant, send SIGHUP or start the program again"
    )]
    Loses { what: String },
    /// A fault of this program.
    #[error("the schema of policies cannot be used: {source}")]
    Schema { source: Source },
}

/// Rules that can be used, and perhaps do not do what was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub place: Place,
    pub why: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.why)
    }
}
