//! What clients of PostgreSQL expect beside SQL: its catalogs ([`tables`]), its functions ([`functions`]), and words of its own that the
//! engine does not know ([`rewrite`]).

pub mod aggregates;
pub mod balanced;
mod casts;
pub mod checked;
mod empty;
pub mod errors;
pub mod functions;
pub mod information_schema;
mod introspection;
pub mod json;
mod json_build;
pub mod json_edit;
mod keywords;
mod literals;
pub mod multisets;
pub mod names;
mod nested;
mod parts;
mod patterns;
mod quantified;
mod regclass;
pub mod rewrite;
pub(crate) mod scalar;
pub mod semantics;
pub mod session;
mod sides;
mod similar;
mod single;
mod subqueries;
pub mod sum;
pub mod tables;
pub mod texts;
mod timezone;
mod to_char;
pub mod types;
mod windows;
