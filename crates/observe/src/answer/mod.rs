//! What the answers of several tools have in common: figures with their source, and numbers as a person says them.

pub mod figure;
pub mod human;

pub use kafscale_agent::answer::{ToolError, budget, cursor, names, suggest};

use crate::view::Unavailable;

impl From<Unavailable> for ToolError {
    fn from(why: Unavailable) -> Self {
        Self::Unavailable(format!(
            "{why}. Nothing is known about this now; try again in a few seconds, and see cluster_status."
        ))
    }
}
