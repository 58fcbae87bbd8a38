//! `kafscale://cluster`: how the cluster is.

use kafscale_agent::Resource;
use serde_json::json;


pub const RESOURCE: Resource = Resource {
    uri: "cluster",
    name: "cluster",
    title: "Cluster status",
    description: "Health, brokers, counts and warnings, as cluster_status tells them.",
    named: None,
    tool: "cluster_status",
    arguments: |_| json!({}),
    shows: |_, _, _| true,
};
