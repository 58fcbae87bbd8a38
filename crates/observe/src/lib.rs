//! Observation: what an AI agent may know about a cluster, as tools, resources and prompts of an MCP server.
//!
//! It reads the metadata store and scrapes the brokers' metrics. A call comes from `kafscale-agent` to a file in `tools`, which asks the
//! `view`; resources are answers of tools. What a caller sees of the cluster is said by the `policy`.
//!
//! Invariant: this crate cannot reach record data: it does not link the code that reads or writes any.
//! Invariant: no tool writes.

mod answer;
mod changes;
mod cluster;
mod config;
mod policy;
mod prompts;
mod resources;
mod server;
mod tools;
mod view;

pub use config::{ConfigError, ObserveConfig, ObserveSettings};
pub use kafscale_agent::identity::names;
pub use kafscale_agent::{EdgeError, Prepared, Server, audit};
pub use server::{look, prepare, start};
