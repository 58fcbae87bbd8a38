//! The server over real sockets.

#![expect(clippy::unwrap_used, reason = "a test ends where its world is not as expected")]

mod client;
mod cluster;
mod confined;
mod docs;
mod edge;
mod faults;
mod hostile;
mod issuer;
mod layering;
mod oidc;
mod oncall;
mod questions;
mod refusals;
mod resources;
mod scale;
mod schema;
mod store;
mod surface;
mod tls;
