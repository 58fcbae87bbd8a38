//! The MCP edge: a Model Context Protocol server to which a program hands what it offers, a [`Service`] of tools, resources and
//! prompts.
//!
//! Follow a call from `http` (connection, limits) through the `gate` (who it is, how often) and the `exchange` (what real clients do
//! differently) to the `handler` (dispatch, time limit, audit), which runs a [`Tool`].
//!
//! Invariant: nothing here knows what the tools are about. A tool is told who calls ([`Call`]), and what it answers is given only when
//! its line is in the audit log.

pub mod answer;
mod call;
mod changes;
mod config;
mod exchange;
#[cfg(feature = "conformance")]
mod fixtures;
mod gate;
mod handler;
mod health;
mod http;
mod media;
mod origins;
mod places;
mod prompts;
mod rate_limit;
mod refusal;
mod resources;
mod server;
mod service;
mod sessions;
mod shares;
mod subscriptions;
mod tools;
mod uri;

pub use call::{AuditLine, Call};
pub use changes::{Change, Changes};
pub use config::{ConfigError, EdgeConfig, EdgeSettings};
pub use kafscale_audit as audit;
pub use kafscale_identity as identity;
pub use places::{Place, Places};
pub use prompts::{Argument, Prompt};
pub use resources::{Completed, Named, Resource, Resources};
pub use rmcp::model::{JsonObject, ToolAnnotations};
pub use rmcp::schemars;
pub use server::{EdgeError, Prepared, Server};
pub use service::{Limits, Service};
pub use tools::{About, Answered, Answering, Tool};
