//! Several brokers as one cluster, over real sockets, with one metadata store and one object store in memory: who serves what, what clients are told of it,
//! and what happens when brokers come and go.

#![allow(clippy::unwrap_used)]

#[path = "../edge/client.rs"]
#[allow(dead_code)]
mod client;
mod failover;
mod following;
mod groups;
mod harness;
mod listeners;
mod routing;
