//! The server over real sockets.

mod client;
mod cluster;
mod docs;
mod edge;
mod faults;
mod layering;
mod questions;
mod scale;
mod schema;
mod surface;
