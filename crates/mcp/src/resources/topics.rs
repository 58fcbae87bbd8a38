//! `kafscale://topics`: which topics there are.

use serde_json::json;

use super::Resource;
use crate::changes::Change;

pub const RESOURCE: Resource = Resource {
    uri: "topics",
    name: "topics",
    title: "Topics",
    description: "Topics with partition counts and produce rates, as list_topics tells them.",
    named: None,
    tool: "list_topics",
    arguments: |_| json!({"limit": 500}),
    shows: |change, _| matches!(change, Change::Topic(_)),
};
