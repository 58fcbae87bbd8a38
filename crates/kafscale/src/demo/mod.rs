//! `kafscale demo`: a broker, a banner that says what is where, and a sample workload.
//!
//! The workload is a client like any other. It knows the broker by its address only.

mod banner;
mod connection;
mod consumer;
mod group;
mod producer;
mod sample;
mod topics;
mod workload;

pub use banner::banner;
pub use workload::run as run_workload;
