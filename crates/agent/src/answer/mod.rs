//! What the answers of all tools have in common: names shown safely, pages that fit the budget, cursors, and errors that say what to do
//! next.

pub mod budget;
pub mod cursor;
pub mod suggest;

pub use kafscale_identity::names;

use std::fmt;

/// The outcome of a call that its tool denies.
pub(crate) const DENIED: &str = "denied";

/// Why a call has no answer; the text is for the agent and says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolError {
    /// The arguments are wrong.
    Invalid(String),
    /// The arguments are right, but what they ask for cannot be known now.
    Unavailable(String),
    /// The caller may not have it. The audit log says so too.
    Denied(String),
}

impl ToolError {
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    /// For the audit log.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid",
            Self::Unavailable(_) => "unavailable",
            Self::Denied(_) => DENIED,
        }
    }

    pub(crate) fn text(self) -> String {
        match self {
            Self::Invalid(text) | Self::Unavailable(text) | Self::Denied(text) => text,
        }
    }
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(text) | Self::Unavailable(text) | Self::Denied(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for ToolError {}
