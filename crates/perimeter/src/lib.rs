//! The perimeter: agents work on data collections under rules, and only filtered, audited answers leave.
//!
//! One governed path for every request: [`rules`] decide what a [`caller`] gets of a table (a [`shape`]), [`governed`] puts that
//! into the plan at the scan, below everything that the caller wrote, and the answer says which rules shaped it. [`collection`]
//! is where the data is.
//!
//! Invariant: nothing reads a collection's table but through the shape that the rules gave for its caller.

mod activity;
pub mod answer;
pub mod caller;
pub mod catalog;
mod charged;
pub mod check;
pub mod classify;
pub mod collection;
pub mod config;
pub mod deciding;
pub mod deliver;
pub mod detect;
pub mod engine;
pub mod erasure;
pub mod governed;
pub mod handles;
pub mod labelled;
pub mod perimeter;
mod policy;
pub mod rules;
mod rules_live;
pub mod run;
pub mod secret;
pub mod server;
pub mod shape;
mod tools;
pub mod validate;
