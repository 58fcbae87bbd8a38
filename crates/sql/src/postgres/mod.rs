//! What clients of PostgreSQL expect beside SQL: its catalogs ([`tables`]), its functions ([`functions`]), and words of its own that the
//! engine does not know ([`rewrite`]).

pub mod aggregates;
mod casts;
mod empty;
pub mod errors;
pub mod functions;
pub mod information_schema;
pub mod json;
mod json_build;
pub mod names;
mod nested;
pub mod rewrite;
pub(crate) mod scalar;
pub mod semantics;
mod similar;
mod single;
mod subqueries;
pub mod tables;
mod timezone;
mod to_char;
pub mod types;
