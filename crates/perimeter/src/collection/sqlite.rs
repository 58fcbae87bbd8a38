//! Tables and views of a SQLite database.

use std::path::PathBuf;

use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqliteConfig {
    /// The file of the database.
    pub path: PathBuf,
    /// Nobody writes to the file while the perimeter runs: it is read without locks, from a disk that takes none too.
    #[serde(default)]
    pub immutable: bool,
}
