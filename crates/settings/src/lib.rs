//! Settings that `kafscale` and `kafscale-analytics` share: where the log and the metadata are kept, sizes and times as people write
//! them, and how a program ends that cannot go on.
//!
//! Left to the programs: their own flags, and reading the command line and the environment.

pub mod backend;
pub mod failure;
pub mod log_line;
pub mod perimeter;
pub mod refusals;
pub mod s3;
pub mod sql;
pub mod units;
