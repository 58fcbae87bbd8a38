//! What processes say to each other about a task, as JSON in [`super::frames`].

use std::collections::BTreeMap;

use kafscale_core::sql_schema::SqlType;
use kafscale_storage::scan::Range;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::SqlError;

/// One of the equal parts of a stage of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskId {
    pub query: Uuid,
    pub stage: usize,
    pub task: usize,
}

/// Stands before a plan.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    pub id: TaskId,
    /// Of the stage.
    pub tasks: usize,
    pub topics: Vec<TopicAsOf>,
}

/// A topic as the process that planned the query sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicAsOf {
    pub name: String,
    pub id: Uuid,
    pub ranges: Vec<Range>,
    /// By its name.
    pub format: String,
    pub columns: Vec<Column>,
    pub sampled: Option<usize>,
    /// What tells schemas of Avro or Protobuf apart.
    pub schema: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    pub name: String,
    #[serde(with = "ColumnType")]
    pub sql_type: SqlType,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "SqlType")]
enum ColumnType {
    Boolean,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric(u8, u8),
    Text,
    Bytea,
    Timestamp,
    LocalTimestamp,
    Date,
    Time,
    Json,
}

/// Asks for one partition of what a task gives.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Execute {
    pub id: TaskId,
    pub partition: usize,
    pub head: Head,
}

/// The step above a task's plan, which its readers decide on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Head {
    Nothing,
    Broadcast {
        output_partitions: usize,
    },
    /// A `Partitioning` of the engine's Protobuf format.
    Repartition {
        partitioning: Vec<u8>,
    },
}

/// Behind the last row of a partition.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    pub rows: u64,
}

/// What a task has read.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    pub topics: BTreeMap<String, Read>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Read {
    pub rows: u64,
    pub bytes: u64,
    pub misfits: u64,
    pub objects: u64,
    pub reasons: BTreeMap<String, u64>,
}

/// An error, as clients are told of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failed {
    pub code: String,
    pub message: String,
    pub hint: Option<String>,
}

/// The codes that a task may fail with.
const CODES: [&str; 40] = [
    "08006", "0A000", "21000", "22000", "22001", "22003", "22004", "22007", "22008", "22009", "2200G",
    "22011", "22012", "22013", "22021", "22023", "22025", "22026", "2202E", "22030", "22032", "22P02",
    "22P03", "2201B", "2201E", "2201F", "40001", "42704", "42883", "42P01", "53100", "53200", "53400",
    "54000", "54001", "55000", "57014", "58000", "58030", "72000",
];
const UNKNOWN_CODE: &str = "XX000";
const CORRUPT_CODE: &str = "XX001";

impl Failed {
    pub fn of(error: &SqlError) -> Failed {
        Failed { code: error.code().to_owned(), message: error.to_string(), hint: error.hint() }
    }

    pub fn error(self) -> SqlError {
        let known = CODES.into_iter().chain([CORRUPT_CODE]).find(|code| *code == self.code);
        let Failed { message, hint, .. } = self;
        SqlError::Remote { code: known.unwrap_or(UNKNOWN_CODE), message, hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_codes_and_hints() {
        let hint = "Ask for less.".to_owned();
        let error = SqlError::TooMuch { message: "too much".to_owned(), hint: hint.clone() };
        let again = Failed::of(&error).error();
        assert_eq!(
            (again.code(), again.to_string(), again.hint()),
            ("54000", "too much".to_owned(), Some(hint))
        );
        let strange = Failed { code: "'; --".to_owned(), message: "no".to_owned(), hint: None };
        assert_eq!(strange.error().code(), "XX000");
    }

    #[test]
    fn columns_of_all_types_are_read_as_they_are_written() {
        use SqlType::*;
        let types = [
            Boolean,
            Int4,
            Int8,
            Float4,
            Float8,
            Numeric(28, 3),
            Text,
            Bytea,
            Timestamp,
            LocalTimestamp,
            Date,
            Time,
            Json,
        ];
        for sql_type in types {
            let column = Column { name: "a \"b\"".to_owned(), sql_type };
            let written = serde_json::to_vec(&column).unwrap();
            assert_eq!(serde_json::from_slice::<Column>(&written).unwrap(), column);
        }
    }
}
