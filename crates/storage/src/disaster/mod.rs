//! What a store holds for the case that the metadata is lost, and the way back from there.
//!
//! A [`snapshot`] of the metadata is written to the store regularly. [`restore`] begins with the last one, and finds what is newer
//! in the segments and the chains: no acknowledged record is lost. Committed offsets are those of the snapshot.
//! [`topic`] brings one topic back as it was at some time, under a new name, while the cluster runs.

pub mod chains;
mod coverage;
pub mod error;
mod hold;
pub mod local;
mod logs;
mod manifests;
mod missing;
mod plan;
pub mod restore;
mod select;
pub mod snapshot;
pub mod survey;
pub mod topic;
