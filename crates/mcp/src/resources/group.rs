//! `kafscale://groups/{group}`: one consumer group with its lag.

use serde_json::json;

use super::{Named, Resource};
use crate::answer::names;
use crate::changes::Change;

pub const RESOURCE: Resource = Resource {
    uri: "groups/{group}",
    name: "group",
    title: "A consumer group",
    description: "Members and lag of a consumer group, as describe_group tells them. The name is percent-encoded.",
    named: Some(Named::Group),
    tool: "describe_group",
    arguments: |name| json!({"group_id": name}),
    shows: |change, name| matches!(change, Change::Group(group) if names::means(name, group)),
};
