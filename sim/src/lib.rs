//! A whole cluster in one process, on simulated time, with faults, from a seed; and a checker of what its clients saw.
//!
//! [`world`] runs one [`machine`] after the other. A [`node`] is the real broker over a simulated [`store`], [`meta`]data store and
//! [`net`]work, whose [`faults`] the [`nemesis`] brings about. [`client`]s speak the Kafka protocol and write a [`history`], which
//! the [`checker`] reads. A [`scenario`] draws all of it from a seed.
//!
//! Invariant: a seed gives the same bytes of history, always (docs/adr/0009). Threads, the clocks of the operating system and its
//! randomness decide nothing.

pub mod checker;
pub mod client;
pub mod damage;
pub mod faults;
pub mod held_up;
pub mod history;
pub mod machine;
pub mod meta;
pub mod misplaced;
pub mod nemesis;
pub mod net;
pub mod node;
pub mod process;
pub mod rng;
pub mod scenario;
pub mod store;
pub mod trespass;
pub mod world;
