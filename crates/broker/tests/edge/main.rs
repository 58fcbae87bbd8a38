//! The Kafka edge over real sockets, with the embedded stores: what clients rely on, request by request.
//!
//! Requests are encoded and responses decoded by the generated messages, so that what the broker writes by hand is checked against
//! an encoder that is not its own.

#![allow(clippy::unwrap_used)]

mod admin;
mod client;
mod fetch;
mod groups;
mod harness;
mod hostile;
mod metrics;
mod offsets;
mod produce;
mod protocol;
mod scan;
mod tools;
mod versions;
