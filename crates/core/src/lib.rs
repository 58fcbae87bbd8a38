//! Everything that decides: formats, log, producer, group and configuration rules.
//!
//! Invariant: no async, no IO, no clock and no randomness in this crate. Time is an argument.

pub mod backoff;
pub mod batch;
pub mod broker_config;
pub mod clock;
pub mod compaction;
pub mod compress;
pub mod connections;
pub mod crc;
pub mod epochs;
pub mod group;
pub mod ids;
pub mod names;
pub mod placement;
pub mod producer;
pub mod record_view;
pub mod records;
pub mod shell;
pub mod sql_schema;
pub mod times;
pub mod topic_config;
pub mod utc;
