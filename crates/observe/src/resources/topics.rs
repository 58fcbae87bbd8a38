//! `kafscale://topics`: which topics there are.

use kafscale_agent::Resource;
use serde_json::json;

use super::TOPIC;


pub const RESOURCE: Resource = Resource {
    uri: "topics",
    name: "topics",
    title: "Topics",
    description: "Topics with partition counts and produce rates, as list_topics tells them.",
    named: None,
    tool: "list_topics",
    arguments: |_| json!({"limit": 500}),
    shows: |of, _, _| of == TOPIC,
};
