//! `kafscale://topics/{topic}`: the partitions of one topic.

use serde_json::json;

use super::{Named, Resource};
use crate::answer::names;
use crate::changes::Change;

pub const RESOURCE: Resource = Resource {
    uri: "topics/{topic}",
    name: "topic",
    title: "A topic",
    description: "Partitions of a topic with leaders, offsets and sizes, as describe_topics tells them. The name is \
         percent-encoded.",
    named: Some(Named::Topic),
    tool: "describe_topics",
    arguments: |name| json!({"names": [name]}),
    shows: |change, name| match change {
        Change::Topic(topic) => names::means(name, topic),
        Change::Leaders => true,
        Change::Group(_) | Change::Brokers | Change::Everything => false,
    },
};
