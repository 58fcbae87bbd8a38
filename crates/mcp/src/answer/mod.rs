//! What the answers of all tools have in common: names shown safely, pages that fit the budget, cursors, figures with
//! their source, and errors that say what to do next.

pub mod budget;
pub mod cursor;
pub mod figure;
pub mod human;
pub mod names;
pub mod suggest;

use std::fmt;

use crate::view::Unavailable;

/// Why a call has no answer; the text is for the agent and says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolError {
    /// The arguments are wrong.
    Invalid(String),
    /// The arguments are right, but what they ask for cannot be known now.
    Unavailable(String),
}

impl ToolError {
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(text) | Self::Unavailable(text) => f.write_str(text),
        }
    }
}

impl From<Unavailable> for ToolError {
    fn from(why: Unavailable) -> Self {
        Self::Unavailable(format!(
            "{why}. Nothing is known about this now; try again in a few seconds, and see cluster_status."
        ))
    }
}
