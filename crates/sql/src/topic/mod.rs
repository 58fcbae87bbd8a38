//! A topic as a table: its columns ([`layout`], [`infer`]), which part of it a query needs ([`bounds`]), and reading that part
//! ([`exec`], [`decode`]).
//!
//! A value goes through a [`reader`], whatever its format, as [`cell`]s into the builders of columns ([`values`]). [`avro`] and
//! [`protobuf`] need schemas, from files or a [`registry`] ([`schemas`]).

pub mod avro;
pub mod bounds;
pub mod cell;
pub mod decode;
pub mod exec;
pub mod infer;
pub mod json;
pub mod layout;
pub mod protobuf;
pub mod reader;
pub mod registry;
pub mod schemas;
pub mod table;
pub mod values;
