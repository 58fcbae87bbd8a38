//! Prompts: a task that a person gives to an agent by its name.
//!
//! Invariant: what a person gives as an argument stands in the text as a JSON string, spelled out where it hides or breaks
//! lines, so that a name cannot be taken for a part of the task.

use rmcp::model::{JsonObject, Prompt as Definition, PromptArgument};
use serde_json::Value;

use crate::answer::suggest::did_you_mean;
use crate::answer::{ToolError, names};
use crate::resources::Named;

/// A task.
#[derive(Debug)]
pub struct Prompt {
    pub name: &'static str,
    pub title: &'static str,
    pub description: &'static str,
    pub arguments: &'static [Argument],
    /// The task, given the value of each argument as a JSON string.
    pub text: fn(&[String]) -> String,
}

/// What a task is about. Every argument is required.
#[derive(Debug)]
pub struct Argument {
    pub name: &'static str,
    pub description: &'static str,
    pub named: Named,
}

/// The prompt of a name.
pub(crate) fn find(prompts: &'static [&'static Prompt], name: &str) -> Result<&'static Prompt, ToolError> {
    prompts.iter().find(|prompt| prompt.name == name).copied().ok_or_else(|| {
        let hint = did_you_mean(name, prompts.iter().map(|prompt| prompt.name));
        ToolError::invalid(format!("unknown prompt {:?}{hint}", names::text(name, 100)))
    })
}

/// What an argument of a prompt is a name of.
pub(crate) fn argument(prompts: &'static [&'static Prompt], prompt: &str, argument: &str) -> Option<Named> {
    let prompt = prompts.iter().find(|p| p.name == prompt)?;
    prompt.arguments.iter().find(|a| a.name == argument).map(|a| a.named)
}

impl Prompt {
    pub(crate) fn definition(&self) -> Definition {
        let arguments = self.arguments.iter().map(|argument| {
            PromptArgument::new(argument.name).with_description(argument.description).with_required(true)
        });
        let arguments: Vec<PromptArgument> = arguments.collect();
        let arguments = (!arguments.is_empty()).then_some(arguments);
        Definition::new(self.name, Some(self.description), arguments).with_title(self.title)
    }

    /// The task for an agent.
    pub fn task(&self, arguments: &JsonObject) -> Result<String, ToolError> {
        if let Some(unknown) = arguments.keys().find(|name| self.arguments.iter().all(|a| a.name != *name)) {
            let hint = did_you_mean(unknown, self.arguments.iter().map(|a| a.name));
            let unknown = names::text(unknown, 100);
            return Err(ToolError::invalid(format!("unknown argument {unknown:?}{hint} of {}", self.name)));
        }
        let values = self.arguments.iter().map(|argument| match arguments.get(argument.name) {
            Some(Value::String(value)) if !value.is_empty() => Ok(quoted(value)),
            _ => Err(ToolError::invalid(format!("{} is missing: {}", argument.name, argument.description))),
        });
        Ok((self.text)(&values.collect::<Result<Vec<_>, _>>()?))
    }
}

fn quoted(name: &str) -> String {
    Value::from(names::shown(name)).to_string()
}
