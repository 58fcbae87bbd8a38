//! `kafscale://groups/{group}`: one consumer group with its lag.

use kafscale_agent::Resource;
use serde_json::json;

use super::GROUP;
use crate::answer::names;


pub const RESOURCE: Resource = Resource {
    uri: "groups/{group}",
    name: "group",
    title: "A consumer group",
    description: "Members and lag of a consumer group, as describe_group tells them. The name is percent-encoded.",
    named: Some(GROUP),
    tool: "describe_group",
    arguments: |name| json!({"group_id": name}),
    shows: |of, changed, name| of == GROUP && names::means(name, changed),
};
