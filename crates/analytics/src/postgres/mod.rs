//! What clients of PostgreSQL expect beside SQL: its catalogs ([`tables`]), its functions ([`functions`]), and words of its own that the
//! engine does not know ([`rewrite`]).

pub mod functions;
pub mod information_schema;
pub mod json;
pub mod rewrite;
pub mod tables;
pub mod types;
