//! `kafscale://groups`: the consumer groups, the one furthest behind first.

use kafscale_agent::Resource;
use serde_json::json;

use super::GROUP;


pub const RESOURCE: Resource = Resource {
    uri: "groups",
    name: "groups",
    title: "Consumer groups",
    description: "Consumer groups with state and lag, highest lag first, as list_groups tells them.",
    named: None,
    tool: "list_groups",
    arguments: |_| json!({"limit": 200}),
    shows: |of, _, _| of == GROUP,
};
