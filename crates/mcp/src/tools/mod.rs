//! The tools, one file each. A tool is a name, a description, typed arguments, a typed answer and one function; its schemas
//! follow from the types. A new tool is a new file and a line in [`tools!`] below.
//!
//! Invariant: every tool reads and none writes, so that every one says so (`readOnlyHint`).

mod arguments;
mod schema;

use std::pin::Pin;
use std::sync::{Arc, LazyLock};

use rmcp::model::{JsonObject, Tool as Definition, ToolAnnotations};
use rmcp::schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::answer::ToolError;
use crate::view::ClusterView;

/// What a file of this folder defines.
trait Tool {
    const NAME: &'static str;
    const TITLE: &'static str;
    /// For the agent: what it answers, and what to know about the arguments.
    const DESCRIPTION: &'static str;
    type Args: DeserializeOwned + JsonSchema + Send + 'static;
    type Answer: Serialize + JsonSchema;

    fn answer(
        view: &ClusterView,
        args: Self::Args,
    ) -> impl Future<Output = Result<Self::Answer, ToolError>> + Send;
}

/// An answer in both of its forms, which say the same.
#[derive(Debug)]
pub struct Answered {
    pub structured: Value,
    /// JSON too, in the order in which the tool declares its fields.
    pub text: String,
}

type Answering = Pin<Box<dyn Future<Output = Result<Answered, ToolError>> + Send>>;

/// A tool, its types erased.
#[derive(Debug)]
pub struct Entry {
    pub name: &'static str,
    define: fn() -> Definition,
    call: fn(Arc<ClusterView>, JsonObject) -> Answering,
}

impl Entry {
    const fn of<T: Tool>() -> Self {
        Self { name: T::NAME, define: define::<T>, call: call::<T> }
    }

    /// As tools/list tells it.
    pub fn definition(&self) -> &'static Definition {
        let mut definitions = DEFINITIONS.iter();
        definitions.find(|definition| definition.name == self.name).expect("every tool is in the list")
    }

    /// Answers one call.
    pub fn call(&self, view: Arc<ClusterView>, arguments: JsonObject) -> Answering {
        (self.call)(view, arguments)
    }
}

fn define<T: Tool>() -> Definition {
    let annotations = ToolAnnotations::new().read_only(true).open_world(false);
    Definition::new(T::NAME, T::DESCRIPTION, Arc::new(schema::of_arguments::<T::Args>()))
        .with_title(T::TITLE)
        .with_raw_output_schema(Arc::new(schema::of_answer::<T::Answer>()))
        .with_annotations(annotations)
}

fn call<T: Tool>(view: Arc<ClusterView>, arguments: JsonObject) -> Answering {
    Box::pin(async move {
        let schema = &find(T::NAME).expect("every tool is in the list").definition().input_schema;
        let args = arguments::read::<T::Args>(arguments, schema)?;
        let answer = T::answer(&view, args).await?;
        let written = serde_json::to_value(&answer).and_then(|structured| {
            let text = serde_json::to_string(&answer)?;
            Ok(Answered { structured, text })
        });
        written.map_err(|e| ToolError::Unavailable(format!("the answer could not be written: {e}")))
    })
}

macro_rules! tools {
    ($($module:ident::$tool:ident,)*) => {
        $(mod $module;)*
        /// Every tool, in the order in which they are listed.
        pub static TOOLS: &[Entry] = &[$(Entry::of::<$module::$tool>()),*];
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

/// Made once: every call needs the schema of its arguments.
static DEFINITIONS: LazyLock<Vec<Definition>> =
    LazyLock::new(|| TOOLS.iter().map(|tool| (tool.define)()).collect());

/// The tool of a name.
pub fn find(name: &str) -> Option<&'static Entry> {
    TOOLS.iter().find(|tool| tool.name == name)
}
