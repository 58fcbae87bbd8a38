//! Embedded metadata for readers on the same machine.
//!
//! The process that has an embedded store open holds its file, and serves it to readers over a Unix socket ([`socket`]), in the read part
//! of etcd's own protocol ([`server`]): Range and Watch. So readers are clients of etcd, whichever store there is. Where no process
//! serves the socket, a reader takes a copy of the file ([`reader`]).
//!
//! Invariant: nothing can be changed over the socket, and a reader changes nothing on the disk.

mod ranges;
mod reader;
mod server;
pub(crate) mod socket;
mod watches;

#[cfg(test)]
mod tests;

pub use reader::LocalReader;
pub use server::MetaSocket;
