//! A tool: a name, a description, typed arguments, a typed answer and one function; its schemas follow from the types.

mod arguments;
mod schema;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use rmcp::model::{JsonObject, Tool as Definition, ToolAnnotations};
use rmcp::schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::answer::ToolError;
use crate::call::Call;

/// What clients are told of a tool.
#[derive(Clone, Debug)]
pub struct About {
    pub name: &'static str,
    pub title: &'static str,
    /// For the agent: what it answers, and what to know about the arguments.
    pub description: &'static str,
    pub annotations: ToolAnnotations,
}

/// An answer in both of its forms, which say the same.
#[derive(Debug)]
pub struct Answered {
    pub structured: Value,
    /// JSON too, in the order in which the tool declares its fields.
    pub text: String,
}

/// A call that is being answered.
pub type Answering = Pin<Box<dyn Future<Output = Result<Answered, ToolError>> + Send>>;

/// A tool, its types erased.
pub struct Tool {
    definition: Definition,
    answer: Box<dyn Fn(Call, JsonObject) -> Answering + Send + Sync>,
}

impl fmt::Debug for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tool").field(&self.name()).finish()
    }
}

impl Tool {
    /// A tool that `answer` answers. It sees arguments that fit the schema of their type.
    pub fn new<A, R, F>(about: About, answer: impl Fn(Call, A) -> F + Send + Sync + 'static) -> Self
    where
        A: DeserializeOwned + JsonSchema + Send + 'static,
        R: Serialize + JsonSchema,
        F: Future<Output = Result<R, ToolError>> + Send + 'static,
    {
        let schema = Arc::new(schema::of_arguments::<A>());
        let definition = Definition::new(about.name, about.description, Arc::clone(&schema))
            .with_title(about.title)
            .with_raw_output_schema(Arc::new(schema::of_answer::<R>()))
            .with_annotations(about.annotations);
        let answer = move |call: Call, arguments: JsonObject| -> Answering {
            match arguments::read::<A>(arguments, &schema) {
                Ok(arguments) => {
                    let answering = answer(call, arguments);
                    Box::pin(async move { written(&answering.await?) })
                }
                Err(wrong) => Box::pin(std::future::ready(Err(wrong))),
            }
        };
        Self { definition, answer: Box::new(answer) }
    }

    pub fn name(&self) -> &str {
        &self.definition.name
    }

    /// As tools/list tells it.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Answers one call.
    pub fn call(&self, call: Call, arguments: JsonObject) -> Answering {
        (self.answer)(call, arguments)
    }

    /// Whether all of the arguments are such as the tool has: a client may have sent anything.
    pub(crate) fn knows_all(&self, arguments: &JsonObject) -> bool {
        let known = self.definition.input_schema.get("properties").and_then(Value::as_object);
        known.is_some_and(|known| arguments.keys().all(|name| known.contains_key(name)))
    }
}

fn written(answer: &impl Serialize) -> Result<Answered, ToolError> {
    let written = serde_json::to_value(answer)
        .and_then(|structured| Ok(Answered { structured, text: serde_json::to_string(answer)? }));
    written.map_err(|e| ToolError::Unavailable(format!("the answer could not be written: {e}")))
}
