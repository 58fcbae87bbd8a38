//! The write-ahead chain: what makes an append durable.
//!
//! On a local disk the chain is a row of preallocated files to which objects are appended, each durable when the write
//! returns ([`direct`]). In an object store each object of the chain is one of the store's ([`chain_id`] has their names). The format
//! of the objects is the same.

pub mod chain;
pub mod chain_id;
pub mod cut_off;
pub mod direct;
pub mod file;
pub mod files;
pub mod given_up;
pub mod object;
pub mod recovery;
pub mod recovery_point;
pub mod salvage;
pub mod scan;

#[cfg(test)]
mod tests;
