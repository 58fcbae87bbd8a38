//! `kafscale://topics/{topic}`: the partitions of one topic.

use kafscale_agent::Resource;
use serde_json::json;

use super::TOPIC;
use crate::answer::names;
use crate::changes::LEADERS;


pub const RESOURCE: Resource = Resource {
    uri: "topics/{topic}",
    name: "topic",
    title: "A topic",
    description: "Partitions of a topic with leaders, offsets and sizes, as describe_topics tells them. The name is \
         percent-encoded.",
    named: Some(TOPIC),
    tool: "describe_topics",
    arguments: |name| json!({"names": [name]}),
    shows: |of, changed, name| {
        let is_it = changed.is_empty() || names::means(name, changed);
        (of == LEADERS || of == TOPIC) && is_it
    },
};
