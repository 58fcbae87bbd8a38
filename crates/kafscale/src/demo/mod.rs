//! `kafscale demo`: a broker, a banner that says what is where, and a sample workload.
//!
//! The workload is a client like any other, and runs as a process of its own as well. It knows the broker by its address only.

mod alone;
mod banner;
mod cluster;
mod connection;
mod consumer;
mod group;
mod producer;
mod sample;
mod topics;
mod workload;

pub use alone::run as run_workload_alone;
pub use banner::banner;
pub use workload::run as run_workload;
