//! The Kafka TCP edge: framing, one file per API key, the topic registry, metrics.
//!
//! Invariants: this is the only crate that names Kafka's messages and error codes. Everything that a peer can make grow
//! (connections, frames in memory, responses not taken, fetch sessions) has a limit in [`BrokerConfig`].

mod admin;
mod api;
mod broker;
mod config;
mod connection;
mod controller;
mod coordinator;
mod fetch_sessions;
pub mod fuzz;
mod http;
mod metrics;
mod node;
mod producer_ids;
mod server;
mod settings;
mod topics;
mod transport;
mod wire;

pub use broker::{Broker, StartError, hosted_partitions};
pub use config::{Advertised, BrokerConfig};
pub use controller::{Chains, Controller, ControllerStats};
pub use coordinator::CoordinatorConfig;
pub use transport::{Accepted, Transport};
