//! The write-ahead chain: what makes an append durable.
//!
//! On a local disk the chain is a row of preallocated files to which objects are appended, each made durable by
//! one fdatasync. The object format is the one that an object store gets, so that both are read by the same code.

pub mod chain;
pub mod file;
pub mod files;
pub mod object;
pub mod recovery;

#[cfg(test)]
mod tests;
