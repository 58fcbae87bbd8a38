//! Everything that decides: formats, log, producer, group and configuration rules.
//!
//! Invariant: no async, no IO, no clock and no randomness in this crate. Time is an argument.

pub mod batch;
pub mod clock;
pub mod compaction;
pub mod crc;
pub mod epochs;
pub mod group;
pub mod ids;
pub mod names;
pub mod placement;
pub mod producer;
pub mod records;
pub mod topic_config;
pub mod utc;
