//! What a program offers to agents.

use std::time::Duration;

use crate::prompts::Prompt;
use crate::resources::Resources;
use crate::tools::Tool;

/// How long calls may take, and how many are worked on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// No answer takes longer, whatever hangs.
    pub call_timeout: Duration,
    /// Calls that are worked on at once; more wait.
    pub calls_at_once: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { call_timeout: Duration::from_secs(6), calls_at_once: 32 }
    }
}

/// See the file's comment.
#[derive(Debug)]
pub struct Service {
    /// What the server calls itself.
    pub name: &'static str,
    pub title: &'static str,
    pub version: &'static str,
    /// For the agent, before its first call: what the server is for, and which tool answers what.
    pub instructions: &'static str,
    /// In the order in which they are listed.
    pub tools: Vec<Tool>,
    pub resources: Option<Resources>,
    pub prompts: &'static [&'static Prompt],
    pub limits: Limits,
}

impl Service {
    /// The tool of a name.
    pub fn tool(&self, name: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.name() == name)
    }
}
