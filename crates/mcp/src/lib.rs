//! The agent edge: a Model Context Protocol server that answers questions about a cluster.
//!
//! It reads the metadata store and scrapes the brokers' metrics. Follow a call from `http` (connection, authentication,
//! limits) through `handler` (dispatch, audit) to a file in `tools`, which asks the `view`; resources are answers of tools.
//!
//! Invariant: this crate cannot reach record data: it does not link the code that reads or writes any.
//! Invariant: no tool writes.

mod answer;
mod auth;
mod changes;
mod config;
mod exchange;
#[cfg(feature = "conformance")]
mod fixtures;
mod follow;
mod gate;
mod handler;
mod http;
mod http_get;
mod media;
mod origins;
mod prompts;
mod rate_limit;
mod resources;
mod server;
mod sessions;
mod shares;
mod subscriptions;
mod tls;
mod tools;
mod view;

pub use config::{ConfigError, McpConfig, McpSettings};
pub use kafscale_audit as audit;
pub use server::{McpError, McpServer, Prepared, serve_stdio};
