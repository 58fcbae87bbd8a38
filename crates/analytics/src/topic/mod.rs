//! A topic as a table: its columns ([`layout`], [`infer`]), which part of it a query needs ([`bounds`]), and reading that part
//! ([`exec`], [`decode`]).

pub mod bounds;
pub mod decode;
pub mod exec;
pub mod infer;
pub mod json;
pub mod layout;
pub mod table;
pub mod values;
