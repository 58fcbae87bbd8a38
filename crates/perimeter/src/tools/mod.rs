//! The tools, one file each. A new tool is a new file and a line in [`all`].

mod describe_collection;
mod explain_query;
mod get_result;
mod list_collections;
mod my_activity;
mod query;
mod why_denied;

use std::sync::Arc;

use kafscale_agent::{Tool, ToolAnnotations};

use crate::perimeter::Perimeter;

/// Every tool, in the order in which they are listed.
pub fn all(perimeter: &Arc<Perimeter>) -> Vec<Tool> {
    vec![
        list_collections::tool(Arc::clone(perimeter)),
        describe_collection::tool(Arc::clone(perimeter)),
        query::tool(Arc::clone(perimeter)),
        explain_query::tool(Arc::clone(perimeter)),
        get_result::tool(Arc::clone(perimeter)),
        why_denied::tool(Arc::clone(perimeter)),
        my_activity::tool(Arc::clone(perimeter)),
    ]
}

/// Every tool reads, and none writes.
fn reads() -> ToolAnnotations {
    ToolAnnotations::new().read_only(true).open_world(false)
}
