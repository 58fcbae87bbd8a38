//! SQL over topics, read from the store without a broker: what `kafscale sql` starts in the program `kafscale-analytics`.
//!
//! A statement goes through [`statement`] (what is asked for, the short forms written out), [`engine`] (the plan, checked by
//! [`allowed`], and its execution, with [`workers`] if there are any) and out through [`local`] or the PostgreSQL protocol. [`topic`] is the table of a topic.
//!
//! Invariant: nothing is created, written or deleted, but for spilled data in a temporary directory and the audit log.

pub mod allowed;
pub mod audit;
pub mod catalog;
mod charged;
mod dialect;
pub mod engine;
pub mod error;
pub mod follow;
pub mod growth;
mod guarded;
pub mod local;
pub mod metered;
mod once;
mod planning;
pub mod postgres;
pub mod query;
pub mod run;
pub mod running;
pub mod server;
mod share;
mod sorting;
mod spilled;
pub mod statement;
pub mod stoppable;
pub mod threads;
mod through;
pub mod topic;
pub mod workers;
