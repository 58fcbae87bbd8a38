//! The tools, one file each. A tool is a name, a description, typed arguments, a typed answer and one function; its schemas
//! follow from the types. A new tool is a new file and a line in [`tools!`] below.
//!
//! Invariant: every tool reads and none writes, so that every one says so (`readOnlyHint`).

use std::sync::Arc;

use kafscale_agent::schemars::JsonSchema;
use kafscale_agent::{About, ToolAnnotations};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::answer::ToolError;
use crate::cluster::Cluster;
use crate::view::sight::View;

/// What a file of this folder defines.
trait Tool {
    const NAME: &'static str;
    const TITLE: &'static str;
    /// For the agent: what it answers, and what to know about the arguments.
    const DESCRIPTION: &'static str;
    type Args: DeserializeOwned + JsonSchema + Send + 'static;
    type Answer: Serialize + JsonSchema;

    fn answer(view: &View, args: Self::Args) -> impl Future<Output = Result<Self::Answer, ToolError>> + Send;
}

/// A tool over a cluster, of which each caller sees what the policy says.
fn over<T: Tool>(cluster: &Arc<Cluster>) -> kafscale_agent::Tool {
    let annotations = ToolAnnotations::new().read_only(true).open_world(false);
    let about = About { name: T::NAME, title: T::TITLE, description: T::DESCRIPTION, annotations };
    let cluster = Arc::clone(cluster);
    kafscale_agent::Tool::new(about, move |call, arguments: T::Args| {
        let view = cluster.seen_by(&call);
        async move { T::answer(&view, arguments).await }
    })
}

macro_rules! tools {
    ($($module:ident::$tool:ident,)*) => {
        $(mod $module;)*
        /// Every tool, in the order in which they are listed.
        pub fn all(cluster: &Arc<Cluster>) -> Vec<kafscale_agent::Tool> {
            vec![$(over::<$module::$tool>(cluster)),*]
        }
    };
}

tools! {
    cluster_status::ClusterStatus,
    cluster_metrics::ClusterMetrics,
    list_topics::ListTopics,
    describe_topics::DescribeTopics,
    list_groups::ListGroups,
    describe_group::DescribeGroup,
    fetch_offsets::FetchOffsets,
    describe_configs::DescribeConfigs,
    recent_changes::RecentChanges,
}
