//! The Kafka TCP edge: framing, one file per API key, the topic registry, metrics.
//!
//! Invariants: this is the only crate that names Kafka's messages and error codes. Everything that a peer can make grow
//! (connections, frames in memory, responses not taken, fetch sessions) has a limit in [`BrokerConfig`].

mod addresses;
mod admin;
mod answer_memory;
mod api;
mod beyond_end;
mod broker;
mod cluster;
mod config;
mod connection;
mod controller;
mod coordinator;
mod fetch_sessions;
pub mod fuzz;
mod http;
mod http_listener;
mod listeners;
pub mod log_limit;
mod membership;
mod metrics;
mod node;
mod producer_ids;
mod server;
mod settings;
mod topics;
mod transport;
mod wire;

pub use broker::{Broker, Foundation, StartError};
pub use config::{Advertised, BrokerConfig, ListenerConfig};
pub use controller::{Chains, Controller, ControllerStats};
pub use coordinator::CoordinatorConfig;
pub use http::MetricsServer;
pub use listeners::{Endpoint, Listeners, MAIN_LISTENER};
pub use membership::{Candidate, JoinError, Membership};
pub use transport::{Accepted, Transport};
